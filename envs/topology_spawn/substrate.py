"""The substrates of TopologySpawn: intensities I(x, y) > 0 that rise to the right.

    linear        b + m·x
    exponential   b + m/k·(exp(k·x) − 1)                                  slope m at the left edge
    random        b' + m·x + Σ_j a_j·sin(2π/λ_j·(cos φ_j·x + sin φ_j·y) + ψ_j)

The waves are so small that the slope to the right stays above (1 − roughness)·m.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from equipoise.envs.topology_spawn.rules import Range, TopologyRules

_WAVES = 3


class Substrate(Protocol):
    draws: int
    """How many uniform random numbers one episode takes."""

    def parameters(self, u: Tensor) -> Tensor:
        """`[N, draws]` uniform in [0, 1) -> `[N, S]`."""
        ...

    def intensity(self, parameters: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """`[N, S]`, `[N, L]`, `[N, L]` -> `[N, L]`."""
        ...

    def gradient(self, parameters: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives of `intensity` by x and by y, each `[N, L]`."""
        ...


def make_substrate(rules: TopologyRules) -> Substrate:
    kinds: dict[str, Callable[[TopologyRules], Substrate]] = {
        "linear": LinearSubstrate,
        "exponential": ExponentialSubstrate,
        "random": RandomSubstrate,
    }
    return kinds[rules.substrate](rules)


class LinearSubstrate:
    draws = 1

    def __init__(self, rules: TopologyRules) -> None:
        self._rules = rules

    def parameters(self, u: Tensor) -> Tensor:
        return _between(self._rules.slope, u)

    def intensity(self, parameters: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self._rules.base_intensity + parameters * x

    def gradient(self, parameters: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return parameters.expand_as(x), torch.zeros_like(x)


class ExponentialSubstrate:
    draws = 2

    def __init__(self, rules: TopologyRules) -> None:
        self._rules = rules

    def parameters(self, u: Tensor) -> Tensor:
        slope, steepening = _between(self._rules.slope, u[:, :1]), _between(self._rules.steepening, u[:, 1:])
        # A steepening of exactly 1 would be 0/0: this is the straight line to within 0.2 %.
        rate = (steepening.log() / self._rules.width).clamp(min=1e-4)
        return torch.cat((slope, rate), 1)

    def intensity(self, parameters: Tensor, x: Tensor, y: Tensor) -> Tensor:
        slope, rate = parameters[:, :1], parameters[:, 1:]
        return self._rules.base_intensity + slope / rate * torch.expm1(rate * x)

    def gradient(self, parameters: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        slope, rate = parameters[:, :1], parameters[:, 1:]
        return slope * torch.exp(rate * x), torch.zeros_like(x)


class RandomSubstrate:
    draws = 1 + 3 * _WAVES

    def __init__(self, rules: TopologyRules) -> None:
        self._rules = rules

    def parameters(self, u: Tensor) -> Tensor:
        """`[N, 1 + 4·waves]`: slope, then amplitude, wave number in x, in y, and phase of each wave."""
        slope = _between(self._rules.slope, u[:, :1])
        wavelength, heading, phase = u[:, 1:].chunk(3, 1)
        number = 2 * math.pi / _between(self._rules.wavelength, wavelength)
        heading = 2 * math.pi * heading
        amplitude = self._rules.roughness / _WAVES * slope / number
        return torch.cat(
            (slope, amplitude, number * heading.cos(), number * heading.sin(), 2 * math.pi * phase), 1
        )

    def intensity(self, parameters: Tensor, x: Tensor, y: Tensor) -> Tensor:
        slope, amplitude, _, _, phase = self._waves(parameters, x, y)
        # Lifted by all amplitudes together, so that no trough reaches 0.
        lift = self._rules.base_intensity + amplitude.sum(2)
        return lift + slope * x + (amplitude * phase.sin()).sum(2)

    def gradient(self, parameters: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        slope, amplitude, kx, ky, phase = self._waves(parameters, x, y)
        swing = amplitude * phase.cos()
        return slope + (swing * kx).sum(2), (swing * ky).sum(2)

    def _waves(self, parameters: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Slope `[N, 1]`; amplitudes, wave numbers `[N, 1, waves]` and phases `[N, L, waves]`."""
        amplitude, kx, ky, phase = parameters[:, None, 1:].chunk(4, 2)
        return parameters[:, :1], amplitude, kx, ky, kx * x[:, :, None] + ky * y[:, :, None] + phase


def _between(bounds: Range, u: Tensor) -> Tensor:
    low, high = bounds
    return low + (high - low) * u
