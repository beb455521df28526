"""`trainer.continuous_gradient=auto`: how much to believe the derivative through the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equipoise.trainer.configuration.schema import TrainerConfig
from equipoise.trainer.data import Metric, Minibatch
from equipoise.trainer.gradient_noise import distribution_of, halves, side_losses, signal_share, take
from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.system import distributed

_NAMES = "score", "pathwise"
PATIENCE, EVERY = 5, 5
"""See `Rest`."""
_MEMORY = 0.9
"""What is left of a measurement when the next one is made."""
_LEAST_SIGNAL = 1e-3
"""Of s. An estimate below it, or below 0, is chance."""


@dataclass
class Rest:
    """When a derivative that `auto` gives no share is not asked for: it costs what it costs all the same.

    After `PATIENCE` rollouts in a row without a share, be it that nothing is known of them, one in `EVERY` is
    differentiated, to see if that is still so; from the first that has a share on all are again.
    """

    in_vain: int = 0
    """Differentiated rollouts in a row whose derivatives had no share."""
    skipped: int = 0
    """Rollouts since the last one that was differentiated."""

    @property
    def now(self) -> bool:
        """Whether the next rollout is not differentiated."""
        return self.in_vain >= PATIENCE and self.skipped < EVERY - 1

    def after(self, differentiated: bool, had_a_share: bool) -> None:
        self.skipped = 0 if differentiated else self.skipped + 1
        if differentiated:
            self.in_vain = 0 if had_a_share else self.in_vain + 1


class EstimatorMix:
    """The share of the pathwise estimate p in the continuous side's gradient, the rest being the score s.

    s has no bias; p has little noise, and is blind to jumps. Made as long as s, p gets the share with which
    both together point most nearly where E s does, noise counted as straying: that of the regression of E s
    on both. Each rollout is measured before it is learned from, on two halves which share no environment,
    with gradients s₁, s₂, p₁, p₂ of length 1 on average:

        λ = κ(1 − σ) / (κ(1 − σ) + σ(1 + π) − 2κ²),   σ = s₁·s₂,   π = p₁·p₂,   κ = s₁·p₂

    in means over about twenty rollouts: how much of s and of p is signal, and of both the same signal.

    p is believed until the rollouts speak against it. s has so much noise that they seldom speak for it: κ
    counts as large as its standard error allows, up to √(σπ), where both signals have one direction (Cauchy
    and Schwarz). Of the first rollout, of which nobody knows a standard error, only its sign counts. But p
    must be signal, as it is not where jumps are what pays: a π less than two standard errors above 0 is 0.

    The length of p says nothing, as the optimizer undoes it: the least squared *error* would take a p of no
    use, if it is but short enough, before a noisy s. It is made as long as s in the mean over the rollouts,
    and so stays short in one in which it has little to say.
    """

    def __init__(self, policy: Policy, flat: FlatParameters, settings: TrainerConfig) -> None:
        self._policy, self._flat, self._settings = policy, flat, settings
        self._sums = torch.zeros(8, dtype=torch.float64, device=flat.vector.device)
        """Of the weights, ‖s‖², ‖p‖², σ, π, κ, π² and κ²."""

    def mix(self, samples: Minibatch, log: MetricLog) -> Minibatch:
        """`samples`, of which no update has learned yet, with their share, and derivatives as long as s."""
        assert samples.pathwise is not None
        steps = self._settings.batch.rollout_steps
        (s1, p1), (s2, p2) = (self._gradients(take(samples, rows)) for rows in halves(samples, steps))
        score, path = ((one.square().sum() + other.square().sum()) / 2 for one, other in ((s1, s2), (p1, p2)))
        both = (torch.dot(s1, p2) + torch.dot(s2, p1)) / 2 / (score * path).sqrt()
        signals = signal_share(s1, s2), signal_share(p1, p2)
        silent = path == 0  # p has nothing to say, which is known, and no signal
        shares = torch.stack([*signals, both, signals[1].square(), both.square()])
        shares[1:] = shares[1:].masked_fill(silent, 0.0)
        found = torch.cat([torch.stack([torch.ones_like(path), score, path]), shares]).to(self._sums)
        # Without two halves, of no score at all, or of numbers that are not finite, nothing is known.
        known = found.isfinite().all()
        self._sums = torch.where(known, _MEMORY * self._sums + found.nan_to_num(), self._sums)
        share = torch.where(known & ~silent, best_share(self._sums), 0.0).to(samples.advantages)
        _, mean_score, mean_path = self._sums[:3]
        length = torch.where(mean_path > 0, (mean_score / mean_path).sqrt(), 0.0).to(samples.advantages)
        log.add({f"pathwise/signal_share_{name}": Metric(x) for name, x in zip(_NAMES, signals, strict=True)})
        log.add({"pathwise/agreement": Metric(both)})
        gradient = torch.where(known, length * samples.pathwise.gradient, 0.0)
        pathwise = samples.pathwise._replace(gradient=gradient)
        return _with(samples._replace(pathwise=pathwise), share)

    @torch.enable_grad()
    def _gradients(self, half: Minibatch) -> tuple[Tensor, Tensor]:
        """`[n]` of the continuous side's loss, all score and all pathwise, over all processes."""
        distribution = distribution_of(self._policy, half)
        found = []
        for share in (0.0, 1.0):
            batch = _with(half, half.advantages.new_tensor(share))
            loss = side_losses(batch, distribution, self._settings)["continuous"]
            found.append(self._flat.gradient(loss, retain_graph=True))
        score, path = distributed.all_reduce_means(found)
        return score, path

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if len(state["sums"]) == len(self._sums):  # those of an older rule tell this one nothing
            self._sums = state["sums"].to(self._sums)


def best_share(sums: Tensor) -> Tensor:
    """λ, of sums as `EstimatorMix` keeps them."""
    weights, score = sums[0], sums[3] / sums[0]
    means, squares = (sums[4:] / weights).chunk(2)
    # Of as many equal weights: (Σw)² / Σw², w = 1, 0.9, 0.81, …
    count = weights * (1 + _MEMORY) / (2 - weights * (1 - _MEMORY))
    errors = ((squares - means.square()).clamp(min=0.0) / (count - 1)).sqrt()
    several = count > 1.5
    path, both = means.unbind()
    path = torch.where(several & (path < 2 * errors[0]), 0.0, path)
    both = both + torch.where(several, errors[1], torch.where(both > 0, torch.inf, 0.0))
    score, path = score.clamp(_LEAST_SIGNAL, 1.0), path.clamp(0.0, 1.0)
    both = torch.minimum(both, (score * path).sqrt())
    a, b = both * (1 - score), score * (1 + path) - 2 * both.square()
    return torch.where(a > 0, a / (a + b), 0.0)


def _with(samples: Minibatch, share: Tensor) -> Minibatch:
    assert samples.pathwise is not None
    everywhere = share.expand_as(samples.pathwise.share)
    return samples._replace(pathwise=samples.pathwise._replace(share=everywhere))
