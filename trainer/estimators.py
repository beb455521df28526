"""`trainer.continuous_gradient=auto`: how much to believe the derivative through the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from equipoise.trainer.configuration.schema import TrainerConfig
from equipoise.trainer.data import Metric, Minibatch
from equipoise.trainer.gradient_noise import halves, side_losses, signal_share, take
from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.system import distributed

_MEMORY = 0.8
"""What is left of a measurement when the next one is made."""


class EstimatorMix:
    """The share of the pathwise estimate p in the continuous side's gradient, the rest being the score s.

    s has no bias; p has little noise, and is blind to jumps. The mean squared error of `λp + (1−λ)s` is least
    at

        λ = V_s / (V_s + V_p + ‖E p − E s‖²)

    with their variances V (so a mixture by inverse variance, Parmas et al., "PIPPS", 2018, that also knows
    bias). All three are measured on two halves of a rollout which share no environment: the gradients of each
    half, s₁, s₂, p₁, p₂, give V = ‖x₁ − x₂‖²/4 for the whole rollout, and (p₁ − s₁)·(p₂ − s₂) for the bias,
    itself without one. What earlier measurements said fades by 0.8 with each new one.
    """

    def __init__(self, policy: Policy, flat: FlatParameters, settings: TrainerConfig) -> None:
        self._policy, self._flat, self._settings = policy, flat, settings
        self._found = torch.zeros(3, dtype=torch.float64, device=flat.vector.device)
        """V_s, V_p and ‖E p − E s‖²."""

    def measure(self, samples: Minibatch, log: MetricLog) -> None:
        """Look at both estimates in the samples of a rollout of which no update has learned yet."""
        scores, paths = [], []
        for rows in halves(samples, self._settings.batch.rollout_steps):
            half = take(samples, rows)
            scores.append(self._gradient(half, 0.0))
            paths.append(self._gradient(half, 1.0))
        (s1, s2), (p1, p2) = scores, paths
        noise = [(one - other).square().sum() / 4 for one, other in ((s1, s2), (p1, p2))]
        found = torch.stack([*noise, torch.dot(p1 - s1, p2 - s2)]).to(torch.float64)
        # Without two halves, or of numbers that are not finite, nothing is known.
        known = found.isfinite().all()
        self._found = torch.where(known, _MEMORY * self._found + found.nan_to_num(), self._found)
        for name, pair in (("score", scores), ("pathwise", paths)):
            log.add({f"pathwise/signal_share_{name}": Metric(signal_share(*pair))})

    def mix(self, samples: Minibatch) -> Minibatch:
        """`samples` with today's share."""
        assert samples.pathwise is not None
        score, path, bias = self._found.unbind()
        total = score + path + bias.clamp(min=0.0)
        share = torch.where(total > 0, score / total, 0.0).to(samples.advantages.dtype)
        return _with(samples, share)

    def _gradient(self, half: Minibatch, share: float) -> Tensor:
        """`[n]` of the continuous side's loss, over all processes."""
        batch = _with(half, half.advantages.new_tensor(share))
        loss = side_losses(self._policy, batch, self._settings)["continuous"]
        return distributed.all_reduce_mean(self._flat.gradient(loss, retain_graph=False))

    def state_dict(self) -> dict[str, Any]:
        return {"found": self._found.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._found = state["found"].to(self._found)


def _with(samples: Minibatch, share: Tensor) -> Minibatch:
    assert samples.pathwise is not None
    everywhere = share.expand_as(samples.pathwise.share)
    return samples._replace(pathwise=samples.pathwise._replace(share=everywhere))
