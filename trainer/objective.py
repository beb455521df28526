"""From the network's heads and a minibatch to the losses: surrogates, loss stages, reduction.

This is all the mathematics of an update between the network and its gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.trainer.configuration import schema
from equipoise.trainer.data import Metric, Metrics, Minibatch, Term
from equipoise.trainer.losses import Surrogates, surrogates
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.policy.protocol import Heads, Policy
from equipoise.trainer.stages.pipeline import Pipeline
from equipoise.trainer.stages.protocol import SIDES, LossState, reduce_terms


class Losses(NamedTuple):
    """Scalars with their gradient, before the sides are weighted."""

    discrete: Tensor
    continuous: Tensor
    rest: Tensor
    metrics: Metrics


def surrogates_of(
    batch: Minibatch, distribution: HybridDistribution, settings: schema.TrainerConfig
) -> Surrogates:
    """`surrogates` under the settings of a run."""
    return surrogates(
        batch,
        distribution,
        settings.clip_epsilon,
        settings.ratio,
        settings.reduction,
        settings.pathwise_clip,
        together=settings.continuous_gradient == "auto",  # as PPO's clip holds whole actions
    )


class Objective:
    """The losses of a minibatch under `settings`, with the loss stages of `pipeline`."""

    def __init__(self, policy: Policy, pipeline: Pipeline, settings: schema.TrainerConfig) -> None:
        self._policy, self._pipeline, self._settings = policy, pipeline, settings

    def state(
        self, heads: Heads, batch: Minibatch, progress: Tensor, side_scale: tuple[Tensor, Tensor]
    ) -> tuple[LossState, Tensor]:
        """After all loss stages, and the KL divergence."""
        settings = self._settings
        logits, mean, log_std, values = heads
        distribution = self._policy.as_distribution(logits, mean, log_std, batch.action_mask)
        sides = surrogates_of(batch, distribution, settings)
        state = LossState(
            batch=batch,
            distribution=distribution,
            values=values,
            terms={
                "discrete": sides.discrete,
                "continuous": sides.continuous,
                "value": Term((values - batch.returns).square()),
            },
            progress=progress,
            side_scale=side_scale,
            metrics=sides.metrics,
            policy_at=self._policy_at,
        )
        return self._pipeline.losses(state), sides.kl

    def _policy_at(self, observations: Tensor, mask: Tensor, choices: Tensor) -> HybridDistribution:
        return self._policy.distribution(self._policy.normalize(observations), mask, choices)

    def reduce(self, state: LossState) -> Losses:
        losses = reduce_terms(state.terms)
        metrics = {f"loss/{name}": Metric(loss.detach()) for name, loss in losses.items()}
        losses["value"] = self._settings.value_coefficient * losses["value"]
        # A ratio of 0 hides an infinite log-probability from the surrogates; here it makes the loss a NaN.
        hidden = 0.0 * (state.batch.discrete_log_prob.sum() + state.batch.continuous_log_prob.sum())
        rest = torch.stack([loss for name, loss in losses.items() if name not in SIDES]).sum() + hidden
        discrete, continuous = (losses[side] for side in SIDES)
        return Losses(discrete, continuous, rest, {**state.metrics, **metrics})
