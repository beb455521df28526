"""A batched hybrid environment small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from equipoise.envs.protocol import Timestep


class ToyEnv:
    """Episodes of environment `i` last `3 + i` steps; even ones terminate, odd ones are truncated.

    The observation is (clock, target): the clock counts the steps of the episode, the target is +1 where
    clock + i is even, else −1. Every step pays `i + 1` as `wage`; as `skill` it pays 1 if the choice is 1
    for a target of +1 and 0 for −1, less the squared distance of the parameter of the choice taken from
    half the target. With `masked` the first choice of an episode can only be 0.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Tuple(
        (spaces.Discrete(2), spaces.Tuple((spaces.Box(-1, 1, (1,)), spaces.Box(-2, 2, (1,)))))
    )
    reward_names = ("wage", "skill")
    relevance = None

    def __init__(
        self,
        num_envs: int,
        device: torch.device,
        reward_weights: Sequence[float] = (0.0, 1.0),
        masked: bool = False,
    ) -> None:
        self.num_envs, self.device, self.masked = num_envs, device, masked
        self.reward_weights = tuple(reward_weights)
        self._index = torch.arange(num_envs, device=device)
        self._clock = torch.zeros(num_envs, device=device)

    def _observe(self) -> Tensor:
        return torch.stack([self._clock, 1.0 - 2.0 * ((self._clock + self._index) % 2)], dim=-1)

    def _mask(self) -> Tensor | None:
        if not self.masked:
            return None
        return torch.stack([torch.ones_like(self._clock), self._clock], dim=-1).unsqueeze(1) > 0

    def reset(self, seed: int | None = None) -> tuple[Tensor, Tensor | None]:
        self._clock = torch.zeros_like(self._clock)
        return self._observe(), self._mask()

    def step(self, action: Any) -> Timestep:
        choice, (first, second) = action
        target = self._observe()[:, 1]
        parameter = torch.where(choice == 1, second[:, 0], first[:, 0])
        skill = (choice == (target > 0).long()).float() - (parameter - 0.5 * target).square()
        self._clock = self._clock + 1.0
        final, ended = self._observe(), self._clock == 3 + self._index
        terminated, truncated = ended & (self._index % 2 == 0), ended & (self._index % 2 == 1)
        clock, self._clock = self._clock, self._clock.masked_fill(ended, 0.0)
        return Timestep(
            self._observe(),
            torch.stack([self._index + 1.0, skill], dim=-1),
            terminated,
            truncated,
            final,
            self._mask(),
            {"success": terminated.float().where(ended, torch.nan), "clock": clock},
        )

    def state_dict(self) -> dict[str, Any]:
        return {"clock": self._clock.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._clock = state["clock"].clone()

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.full((8, 8, 3), int(self._clock[index]), dtype=np.uint8)

    def close(self) -> None: ...
