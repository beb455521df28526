"""Random numbers for batched environments: one independent stream per environment.

A `torch.Generator` draws for the whole batch at once, so that an environment's luck would depend on how
many neighbours it has. Here number `j` of environment `i` is a hash of (key_i, j), computed for all
environments in one go on any device: the SplitMix64 generator (Steele, Lea, Flood: "Fast splittable
pseudorandom number generators", OOPSLA 2014, metric 15), whose state is a counter times a constant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The 64 bits of `value` as torch's int64 has them (int64 products wrap, as the hash needs)."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(bits: Tensor, count: int) -> Tensor:
    return (bits >> count) & ((1 << (64 - count)) - 1)  # int64 shifts copy the sign bit: mask it off


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * _signed(_MIX_1)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(_MIX_2)
    return bits ^ _shift_right(bits, 31)


class StreamPerEnv:
    """Reproducible random numbers `[N, ...]`; row `i` depends only on (seed, first + i) and its draws."""

    def __init__(self, num_envs: int, device: torch.device, seed: int = 0) -> None:
        self.num_envs = num_envs
        self.device = device
        self.seed(seed)

    def seed(self, seed: int, first: int = 0) -> None:
        """Begin anew. `first`: index of row 0 among the environments of all processes."""
        root = _mix(torch.tensor(_signed(seed * _GOLDEN_GAMMA + 1), device=self.device))
        rows = torch.arange(first + 1, first + self.num_envs + 1, device=self.device)
        self._keys = _mix(root + rows * _signed(_GOLDEN_GAMMA))
        # On the device: a CUDA graph would have to be made anew for each number of Python's.
        self._drawn = torch.zeros((), dtype=torch.int64, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        """`[N, *shape]` float32, uniform in [0, 1)."""
        count = math.prod(shape)
        counters = self._drawn + torch.arange(1, count + 1, device=self.device)
        self._drawn = self._drawn + count
        bits = _mix(self._keys[:, None] + counters * _signed(_GOLDEN_GAMMA))
        return (_shift_right(bits, 40).to(torch.float32) * 2.0**-24).view(self.num_envs, *shape)

    def normal(self, *shape: int) -> Tensor:
        """`[N, *shape]` float32, standard normal (Box and Muller, 1958)."""
        u = self.uniform(2, *shape)
        radius = (-2.0 * (1.0 - u[:, 0]).log()).sqrt()
        return radius * (2.0 * math.pi * u[:, 1]).cos()

    def state_dict(self) -> dict[str, Tensor | int]:
        return {"keys": self._keys.clone(), "drawn": int(self._drawn)}

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        keys, drawn = state["keys"], state["drawn"]
        if not isinstance(keys, Tensor) or keys.shape != (self.num_envs,):
            raise ValueError(f"random streams: expected keys for {self.num_envs} environments")
        self._keys = keys.to(self.device)
        self._drawn = torch.full_like(self._drawn, int(drawn))
