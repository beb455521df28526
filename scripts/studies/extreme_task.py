"""A task whose episodes can have any length and whose rewards any size, and whose best return is known."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

STEP = 0.2
"""The farthest that one action moves."""
MOVES = 0.05
"""Probability with which the target is elsewhere in the next step."""


class Chase(gymnasium.Env[Any, Any]):
    """Be where the target is: a direction (left, stay, right) and how far. Pays 1 − distance, times `factor`.

    Args:
        length: steps of an episode, which is cut off then.
        factor: of the reward.
    """

    def __init__(self, length: int = 100, factor: float = 1.0) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Dict(
            direction=spaces.Discrete(3), distance=spaces.Box(0.0, 1.0, (1,), np.float32)
        )
        self.length, self.factor = length, factor

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.place, self.target = self.np_random.uniform(-1, 1, 2)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        moved = STEP * (int(action["direction"]) - 1) * float(action["distance"][0])
        self.place = float(np.clip(self.place + moved, -1, 1))
        reward = self.factor * (1.0 - abs(self.place - self.target))
        if self.np_random.random() < MOVES:
            self.target = self.np_random.uniform(-1, 1)
        self.steps += 1
        return self._observe(), reward, False, self.steps >= self.length, {}

    def _observe(self) -> Any:
        return np.array([self.place, self.target], np.float32)


@cache
def references(length: int) -> tuple[float, float]:
    """Mean reward of a step at `factor=1`: of random actions, and of the best, which go straight to the
    target: nothing that one does now makes a later step worse."""
    env = Chase(length)
    env.action_space.seed(0)
    totals, episodes = [0.0, 0.0], min(200, max(2, 40_000 // length))
    for which in range(2):
        for episode in range(episodes):
            env.reset(seed=episode)
            ended = False
            while not ended:
                error = env.target - env.place
                straight = {
                    "direction": 1 + int(np.sign(error)),
                    "distance": np.array([min(1.0, abs(error) / STEP)]),
                }
                _, reward, _, ended, _ = env.step(straight if which else env.action_space.sample())
                totals[which] += reward
    random, best = (total / (episodes * length) for total in totals)
    return random, best
