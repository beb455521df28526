"""From the network's heads and a minibatch to the losses: surrogates, loss stages, reduction.

This is all the mathematics of an update between the network and its gradient, in one function without side
effects, so that `trainer.compile` can turn it into a few kernels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainer import config
from trainer.compiling import Compiling, several_processes
from trainer.data import Metric, Metrics, Minibatch, Term
from trainer.policy.actor_critic import ActorCritic, Heads
from trainer.stages.pipeline import Pipeline
from trainer.stages.protocol import SIDES, LossState, reduce_terms
from trainer.surrogates import surrogates


class Losses(NamedTuple):
    """Scalars with their gradient, before the sides are weighted."""

    discrete: Tensor
    continuous: Tensor
    rest: Tensor
    kl: Tensor
    """The mean joint KL divergence from the policy that acted."""
    metrics: Metrics
    plain: bool
    """The sides are the core's own surrogates: one depends on the logits alone, the other on mean and std."""


class Objective:
    """The losses of a minibatch under `settings`, with the loss stages of `pipeline`."""

    def __init__(self, policy: ActorCritic, pipeline: Pipeline, settings: config.Trainer) -> None:
        self._policy, self._pipeline, self._settings = policy, pipeline, settings

    def state(
        self, heads: Heads, batch: Minibatch, progress: Tensor, side_scale: tuple[Tensor, Tensor]
    ) -> tuple[LossState, Tensor, bool]:
        """After all loss stages; the KL divergence; whether the sides are still the core's own."""
        settings = self._settings
        logits, mean, log_std, values = heads
        distribution = self._policy.as_distribution(logits, mean, log_std, batch.action_mask)
        sides = surrogates(batch, distribution, settings.clip_epsilon, settings.ratio, settings.reduction)
        own = {"discrete": sides.discrete, "continuous": sides.continuous}
        state = LossState(
            batch=batch,
            distribution=distribution,
            values=values,
            terms={**own, "value": Term((values - batch.returns).square())},
            progress=progress,
            side_scale=side_scale,
            metrics=sides.metrics,
        )
        state = self._pipeline.losses(state)
        return state, sides.kl, all(state.terms[side] is term for side, term in own.items())

    def reduce(self, state: LossState, kl: Tensor, plain: bool) -> Losses:
        losses = reduce_terms(state.terms)
        metrics = {f"loss/{name}": Metric(loss.detach()) for name, loss in losses.items()}
        losses["value"] = self._settings.value_coefficient * losses["value"]
        # A ratio of 0 hides an infinite log-probability from the surrogates; here it makes the loss a NaN.
        hidden = 0.0 * (state.batch.discrete_log_prob.sum() + state.batch.continuous_log_prob.sum())
        rest = torch.stack([loss for name, loss in losses.items() if name not in SIDES]).sum() + hidden
        discrete, continuous = (losses[side] for side in SIDES)
        return Losses(discrete, continuous, rest, kl, {**state.metrics, **metrics}, plain)

    def __call__(
        self, heads: Heads, batch: Minibatch, progress: Tensor, side_scale: tuple[Tensor, Tensor]
    ) -> Losses:
        return self.reduce(*self.state(heads, batch, progress, side_scale))


class CompiledObjective:
    """`Objective` through torch.compile; from the first failure on None, and `compiling` says why.

    The first call also differentiates, because that part is only compiled when it is first wanted.
    """

    def __init__(self, objective: Objective) -> None:
        # Each loss has a backward of its own, so what the forward saved must survive the first one.
        torch._functorch.config.donated_buffer = False
        self._compiled = torch.compile(objective.__call__, fullgraph=True, dynamic=False)
        self._tried = False
        self.compiling = Compiling("default", "the losses", several_processes())

    def __call__(
        self, leaves: Heads, batch: Minibatch, progress: Tensor, side_scale: tuple[Tensor, Tensor]
    ) -> Losses | None:
        if self.compiling.notice is not None:
            return None
        began = time.perf_counter()
        try:
            losses: Losses = self._compiled(leaves, batch, progress, side_scale)
            if not self._tried:
                _differentiate(losses, leaves)
        except Exception as error:  # of whatever is missing: a compiler, a header, an operation
            self.compiling.fail(error)
            return None
        if not self._tried:
            self._tried = True
            self.compiling.took(time.perf_counter() - began)
        return losses


def reach_of(losses: Losses) -> dict[str, Sequence[int]]:
    """Loss -> the places in `Heads` that it depends on."""
    everything = range(len(Heads._fields))
    sides = ((0,), (1, 2)) if losses.plain else (everything, everything)
    return {**dict(zip(SIDES, sides, strict=True)), "rest": everything}


def _differentiate(losses: Losses, leaves: Sequence[Tensor]) -> None:
    total = losses.discrete + losses.continuous + losses.rest
    reached = [leaf for leaf in leaves if leaf.requires_grad]
    torch.autograd.grad(total, reached, retain_graph=True, allow_unused=True)
