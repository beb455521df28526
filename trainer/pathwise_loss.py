"""The loss of the continuous side by derivatives through the simulator, beside or instead of PPO's."""

from __future__ import annotations

import torch

from equipoise.trainer.data import Metric, Metrics, Minibatch, Pathwise, Term
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.stages.protocol import mean_metric

SHARE = "pathwise/share"
"""The metric that says how much of the continuous side's gradient the derivatives are."""


def mixed(
    batch: Minibatch,
    pathwise: Pathwise,
    distribution: HybridDistribution,
    score: Term,
    clip: float,
    together: bool,
) -> tuple[Term, Metrics]:
    """`share` of the pathwise surrogate and the rest of `score`, the clipped surrogate of PPO.

    With g = d(return)/d(sample) and δ how far the sample of the same noise has moved since,

        −min(g·δ, g·clip(δ, ±clip·σ_old)),   δ = mean + σ·noise − sample

    which at δ = 0 has the gradient of the return itself, by mean and σ, and like PPO's none where the sample
    has gone further than the trust region in the direction that pays. With `together` all parameters of an
    action share this region, so that it moves by clip·σ in all, however many there are.

    A mean that has reached a bound of the space is not pushed further out; such samples leave σ alone, too.
    Those that the noise leaves inside would go on pushing until all of them are clamped alike, and neither
    estimate could find the way back: there is no derivative beyond the bound, and no difference between
    samples that are all the bound. (A squashed mean never reaches one.)
    """
    mean = distribution.mean.detach()
    outward = (distribution.family.in_range(mean).abs() >= 1.0) & (mean * pathwise.gradient > 0)
    pathwise = pathwise._replace(gradient=pathwise.gradient.masked_fill(outward, 0.0))
    relevant = distribution.relevant(batch.actions.discrete)
    moved = distribution.mean + distribution.log_std.exp() * pathwise.noise - batch.actions.continuous
    many = relevant.sum(-1, keepdim=True).clamp(min=1) if together else torch.ones_like(pathwise.share)
    bound = clip * pathwise.std / many.sqrt()
    held = moved.maximum(-bound).minimum(bound)
    gain = torch.minimum(pathwise.gradient * moved, pathwise.gradient * held)
    each = distribution.space.sum_by_decision(gain * relevant)
    if each.shape != score.values.shape:  # one ratio for all parameters together
        each = each.sum(-1, keepdim=True)
    values = (1.0 - pathwise.share) * score.values - pathwise.share * each
    size = (pathwise.gradient * pathwise.std).abs()
    metrics = {
        "pathwise/clip_fraction": mean_metric(Term((held != moved).to(size.dtype), relevant)),
        "pathwise/gain_of_one_std": mean_metric(Term(size, relevant)),
        SHARE: Metric(pathwise.share.mean()),
    }
    return score._replace(values=values), metrics
