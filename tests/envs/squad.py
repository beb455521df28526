"""A squad of units that come and go, each with an order and a number of its own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Squad(gymnasium.Env[Any, Any]):
    """Each unit has a kind, 0 or 1, and a goal. Its order is to be 1 + kind, its number its goal.

    Where nobody is the order must be 0, under which numbers do not matter. One point for each unit and step
    whose order is right, less the distance of its number from its goal; the mean over those that exist.
    """

    def __init__(self, count: int = 8, edges: bool = False) -> None:
        self.count, self.edges = count, edges
        parts = {
            "units": spaces.Box(-1, 1, (count, 3)),
            "units_mask": spaces.MultiBinary(count),
            "wind": spaces.Box(-1, 1, (1,)),
        }
        if edges:
            parts["near"] = spaces.Box(0, 1, (count, count))
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.Dict(
            order=spaces.MultiDiscrete([3] * count), where=spaces.Box(-1, 1, (count, 1))
        )
        self.relevance = [[[], [unit], [unit]] for unit in range(count)]

    def look(self) -> Any:
        draw = self.np_random
        self.exists = draw.permutation(self.count) < draw.integers(1, self.count + 1)
        self.kind, self.goal = draw.integers(2, size=self.count), draw.uniform(-1, 1, self.count)
        units = np.stack([self.kind, 1 - self.kind, self.goal], 1).astype(np.float32)
        units[~self.exists] = draw.uniform(-1, 1, ((~self.exists).sum(), 3))  # whatever was there before
        observation = {
            "units": units,
            "units_mask": self.exists.astype(np.int8),
            "wind": draw.uniform(-1, 1, 1).astype(np.float32),
        }
        if self.edges:
            observation["near"] = draw.random((self.count, self.count), np.float32)
        mask = np.ones((self.count, 3), np.int8)
        mask[self.exists, 0] = 0
        mask[~self.exists, 1:] = 0
        return observation, {"action_mask": mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.look()

    def step(self, action: Any) -> Any:
        there, self.t = self.exists, self.t + 1
        right = action["order"][there] == 1 + self.kind[there]
        missed = np.abs(action["where"][there, 0] - self.goal[there])
        observation, info = self.look()
        return observation, float((right - missed).mean()), False, self.t == 16, info
