"""`policy.distribution=gaussian`: a Gaussian whose samples beyond the bounds become the bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equipoise.trainer.policy.continuous.family import Family

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class Gaussian(Family):
    """N(mean, σ) in the space where [-1, 1] is the range.

    The sample is stored as it was drawn and its own log-probability used: clamping happens on the way to the
    environment. All of it is exact; the deterministic action is the mean.
    """

    def sample(self, mean: Tensor, log_std: Tensor, normal: Tensor) -> Tensor:
        return torch.addcmul(mean, log_std.exp(), normal)

    def mode(self, mean: Tensor, log_std: Tensor) -> Tensor:
        return mean

    def in_range(self, sample: Tensor) -> Tensor:
        return sample.clamp(-1.0, 1.0)

    def from_range(self, action: Tensor) -> Tensor:
        return action

    def log_prob(self, sample: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        standardised = (sample - mean) * (-log_std).exp()
        return -0.5 * standardised.square() - (log_std + HALF_LOG_2PI)

    def entropy(self, mean: Tensor, log_std: Tensor) -> Tensor:
        """`log σ + ½ log 2πe`."""
        return (log_std + (0.5 + HALF_LOG_2PI)).expand_as(mean)

    def kl(self, mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
        """`(r² − 1)/2 − log r + (Δmean/σ')²/2` with `r = σ/σ'`."""
        change = log_std - other_log_std
        moved = (mean - other_mean) * (-other_log_std).exp()
        return 0.5 * ((2.0 * change).expm1() + moved.square()) - change

    def interval(self, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        return mean - log_std.exp(), mean + log_std.exp()
