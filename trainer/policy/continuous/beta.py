"""`policy.distribution=beta`: a Beta distribution over the range between the bounds."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from equipoise.trainer.policy.continuous.family import Family

_LOG_2 = math.log(2.0)
_NEAR = 0.999
_TRIES = 6
"""Proposals for each gamma variate. Each is refused with a chance of at most 0.05: all, once in 6e7."""


class Beta(Family):
    """Beta(α, β) over [-1, 1], with one mode (Chou et al., "Improving stochastic policy gradients in
    continuous control … using the Beta distribution", 2017), by its mode and its concentration κ:

        mode = tanh(mean),   κ = σ⁻²,   α = 1 + κ·(1 + mode)/2,   β = 1 + κ·(1 − mode)/2

    so that `mean` and σ say what they say of a Gaussian: at mode 0 the variance is 1/(3 + σ⁻²), where 1/3 is
    that of the uniform distribution, which is the widest. The sample is the logit of the place in the range:
    nothing is lost near a bound. Log-probability, entropy and KL are exact, and computed in float64, as large
    numbers cancel. The deterministic action is the mode.
    """

    noise: ClassVar[tuple[int, ...]] = (2, _TRIES, 2)
    deterministic: ClassVar[str] = "modes"

    def sample(self, mean: Tensor, log_std: Tensor, normal: Tensor) -> Tensor:
        """The logarithm of the ratio of two gamma variates."""
        shape = _shape(mean, log_std)
        upper, lower = normal.double().unbind(-3)
        return (_log_gamma(shape.alpha, upper) - _log_gamma(shape.beta, lower)).to(mean.dtype)

    def mode(self, mean: Tensor, log_std: Tensor) -> Tensor:
        return 2.0 * mean

    def in_range(self, sample: Tensor) -> Tensor:
        return torch.tanh(0.5 * sample)

    def from_range(self, action: Tensor) -> Tensor:
        return 2.0 * action.clamp(-_NEAR, _NEAR).atanh()

    def log_prob(self, sample: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        shape, logit = _shape(mean, log_std), sample.double()
        above, below = (shape.alpha - 1.0) * logsigmoid(logit), (shape.beta - 1.0) * logsigmoid(-logit)
        return (above + below - _log_beta(shape) - _LOG_2).to(mean.dtype)

    def entropy(self, mean: Tensor, log_std: Tensor) -> Tensor:
        shape = _shape(mean, log_std)
        alpha, beta = shape
        cross = (alpha - 1.0) * alpha.digamma() + (beta - 1.0) * beta.digamma()
        both = alpha + beta
        return (_log_beta(shape) - cross + (both - 2.0) * both.digamma() + _LOG_2).to(mean.dtype)

    def kl(self, mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
        mine, other = _shape(mean, log_std), _shape(other_mean, other_log_std)
        more, less = mine.alpha - other.alpha, mine.beta - other.beta
        moved = more * mine.alpha.digamma() + less * mine.beta.digamma()
        moved = moved - (more + less) * (mine.alpha + mine.beta).digamma()
        return (_log_beta(other) - _log_beta(mine) + moved).to(mean.dtype)

    def interval(self, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        alpha, beta = _shape(mean, log_std)
        both = alpha + beta
        middle, std = (alpha - beta) / both, 2.0 / both * (alpha * beta / (both + 1.0)).sqrt()
        return (middle - std).to(mean.dtype), (middle + std).to(mean.dtype)


class _Shape(NamedTuple):
    """`[B, P]` float64, each at least 1."""

    alpha: Tensor
    beta: Tensor


def _shape(mean: Tensor, log_std: Tensor) -> _Shape:
    concentration = (-2.0 * log_std.double()).exp()
    place = 2.0 * mean.double()
    return _Shape(1.0 + concentration * place.sigmoid(), 1.0 + concentration * (-place).sigmoid())


def _log_beta(shape: _Shape) -> Tensor:
    return shape.alpha.lgamma() + shape.beta.lgamma() - (shape.alpha + shape.beta).lgamma()


def _log_gamma(shape: Tensor, normal: Tensor) -> Tensor:
    """The logarithm of gamma variates, of `shape` ≥ 1, from noise `[..., tries, 2]`.

    The first proposal that is accepted (Marsaglia and Tsang, "A simple method for generating gamma
    variables", 2000); as their number is fixed, a sample needs no loop and no generator of its own. The
    uniform variate is the distribution function of the second half of the noise.
    """
    scale = (shape - 1.0 / 3.0).unsqueeze(-1)
    drawn, other = normal.unbind(-1)
    # A cube that is not positive is refused; the last one of them all must still have a logarithm.
    cube = (1.0 + drawn / (9.0 * scale).sqrt()).clamp(min=1e-9) ** 3
    limit = 0.5 * drawn.square() + scale * (1.0 - cube + cube.log())
    accepted = (torch.special.log_ndtr(other) < limit) & (cube > 1e-26)
    order = torch.arange(_TRIES, 0, -1, device=normal.device)
    first = (accepted * order).argmax(-1, keepdim=True)
    return (scale * cube.gather(-1, first)).log().squeeze(-1)
