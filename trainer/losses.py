"""The clipped surrogates of PPO, one for each action type."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from equipoise.trainer.data import Metric, Metrics, Minibatch, Term
from equipoise.trainer.pathwise_loss import mixed
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.stages.protocol import mean_metric

RatioOf = Literal["per_decision", "per_type"]
Divisor = Literal["common", "active"]


class Surrogates(NamedTuple):
    discrete: Term
    continuous: Term
    metrics: Metrics
    kl: Tensor
    """Device scalar: the mean joint KL divergence from the policy that acted."""


def surrogates(
    batch: Minibatch,
    distribution: HybridDistribution,
    clip_epsilon: float,
    ratio: RatioOf,
    reduction: Divisor,
    pathwise_clip: float = 0.5,
    together: bool = False,
) -> Surrogates:
    """Two clipped surrogates, each with its own ratio (H-PPO: Fan et al., "Hybrid actor-critic reinforcement
    learning in parameterized action space", 2019, section 4; clipping: Schulman et al., "Proximal policy
    optimization algorithms", 2017, equation 7).

    Args:
        ratio: `per_decision`, each head and the parameters of each decision have a ratio of their own;
            `per_type`, one ratio for all heads together and one for all parameters together, which
            bounds how far a whole action moves but is soon clipped where there are many decisions.
        reduction: `common` divides both sides by the number of decisions of any type, so that equal weights
            give the gradient of the joint log-probability; `active` averages each side over its own.
        pathwise_clip, together: trust region of `trainer.pathwise_loss`, where the samples have derivatives.
    """
    relevant = distribution.relevant(batch.actions.discrete)
    discrete_active = distribution.discrete_active()
    continuous_active = distribution.space.sum_by_decision(relevant.to(batch.advantages.dtype)) > 0
    discrete_change = distribution.discrete_log_prob(batch.actions.discrete) - batch.discrete_log_prob
    continuous_log_prob = distribution.continuous_log_prob(batch.actions.continuous, relevant)
    continuous_change = continuous_log_prob - batch.continuous_log_prob
    kl, metrics = _divergences(distribution.space, discrete_change.sum(-1), continuous_change.sum(-1))
    # Parameters that belong to no head are a decision without choices: give it an idle head.
    idle_heads = continuous_active.shape[-1] - discrete_active.shape[-1]
    discrete_active, discrete_change = (
        pad(discrete_active, (0, idle_heads)),
        pad(discrete_change, (0, idle_heads)),
    )
    if ratio == "per_type":
        discrete_active, discrete_change = _joined(discrete_active, discrete_change)
        continuous_active, continuous_change = _joined(continuous_active, continuous_change)
    anything = discrete_active | continuous_active
    terms = []
    for side, change, active in (
        ("discrete", discrete_change, discrete_active),
        ("continuous", continuous_change, continuous_active),
    ):
        surrogate, clipped = _clipped_surrogate(change, batch.advantages.unsqueeze(-1), clip_epsilon)
        terms.append(Term(surrogate * active, anything) if reduction == "common" else Term(surrogate, active))
        metrics[f"loss/clip_fraction_{side}"] = mean_metric(Term(clipped, active))
    discrete, continuous = terms
    if batch.pathwise is not None:
        continuous, found = mixed(batch, batch.pathwise, distribution, continuous, pathwise_clip, together)
        metrics |= found
    return Surrogates(discrete, continuous, metrics, kl)


@torch.no_grad()
def _divergences(
    space: HybridSpace, discrete: Tensor, continuous: Tensor
) -> tuple[Tensor, dict[str, Metric]]:
    """The joint KL divergence from the policy that acted, and that of each action type as a metric.

    Uses the k3 estimator (Schulman, "Approximating KL divergence", 2020: unbiased, never negative, of little
    variance), from the log ratios `[B]`. The choices' divergence and the parameters', given the choices,
    add up to the joint one.
    """
    changes = torch.stack([discrete + continuous, discrete, continuous])
    joint, of_discrete, of_continuous = (changes.expm1() - changes).mean(1).unbind()
    metrics = {"loss/kl": Metric(joint)}
    if space.num_heads:
        metrics["loss/kl_discrete"] = Metric(of_discrete)
    if space.num_continuous:
        metrics["loss/kl_continuous"] = Metric(of_continuous)
    return joint, metrics


def _joined(active: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    return active.any(-1, keepdim=True), change.sum(-1, keepdim=True)


def _clipped_surrogate(change: Tensor, advantages: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """`−min(r·A, clip(r)·A)` and where `r` lies outside the clip range; `change` is log r."""
    ratio = change.exp()
    clipped = ratio.clamp(1.0 - epsilon, 1.0 + epsilon)
    return -torch.minimum(ratio * advantages, clipped * advantages), (ratio != clipped).to(ratio.dtype)
