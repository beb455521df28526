"""Environments of the kinds that users of other libraries have reported trouble with, each a few lines long."""

from __future__ import annotations

import random
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

BOX = spaces.Box(-1.0, 1.0, (1,), np.float32)


class OneStep(gymnasium.Env[Any, Any]):
    """Episodes of one step, paid by `reward_of(action)`."""

    observation_space: Any = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space: Any = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.state.copy(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return self.state.copy(), float(self.reward_of(action)), True, False, {}

    def reward_of(self, action: Any) -> float:
        return 0.0


class SamplesGoal(gymnasium.Env[Any, Any]):
    """Draws start and goal from its own observation space, as many robot tasks do."""

    action_space = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (2,), np.float32)))
    observation_space: Any = spaces.Dict(
        goal=spaces.Box(0.0, 1.0, (2,), np.float32), place=spaces.Box(0.0, 1.0, (2,), np.float32)
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.now = self.observation_space.sample()
        return dict(self.now), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        kind, move = action
        self.now["place"] = np.clip(self.now["place"] + 0.1 * move * kind, 0, 1).astype(np.float32)
        distance = float(np.abs(self.now["place"] - self.now["goal"]).sum())
        return dict(self.now), -distance, False, False, {"is_success": distance < 0.05}


class SamplesThrice(OneStep):
    """Draws from `np_random` and from two spaces of one kind: none of the three may equal another."""

    observation_space = spaces.Box(0.0, 1.0, (3,), np.float64)

    def __init__(self) -> None:
        self.goals, self.starts = spaces.Box(0.0, 1.0, (), np.float64), spaces.Box(0.0, 1.0, (), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        gymnasium.Env.reset(self, seed=seed)
        drawn = self.np_random.random(), self.goals.sample(), self.starts.sample()
        self.state = np.array([float(number) for number in drawn])
        return self.state.copy(), {}


class NamesStream(OneStep):
    """Draws from the stream of a space of its class, under a name of its own."""

    def __init__(self) -> None:
        self.rng = self.observation_space.np_random

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        gymnasium.Env.reset(self, seed=seed)
        self.state = self.rng.random(2, np.float32)
        return self.state.copy(), {}


class GlobalRandom(gymnasium.Env[Any, Any]):
    """Draws what it is, and every observation, from the generators of the whole process."""

    observation_space = spaces.Box(-np.inf, np.inf, (8,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.drawn_first = self._draw()

    def _draw(self) -> list[float]:
        return [np.random.normal(), random.random(), random.gauss(), torch.rand(1).item()]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return np.array(self.drawn_first + self._draw()), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return np.array(self.drawn_first + self._draw()), 0.0, False, False, {}


MODULES = np.random.default_rng(0)


class SharedRandom(OneStep):
    """Draws from generators of its module and its class, which all copies have in common."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    old, pythons, torchs = np.random.RandomState(0), random.Random(0), torch.Generator()

    def _draw(self) -> Any:
        numbers = [MODULES.random(), self.old.normal(), self.pythons.gauss()]
        return np.array([*numbers, torch.rand(1, generator=self.torchs).item()])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        gymnasium.Env.reset(self, seed=seed)
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return self._draw(), 0.0, False, False, {}


class Inner(OneStep):
    action_space = spaces.Tuple((spaces.Discrete(2), BOX))
    relevance = [[[], [0]]]


class Doubling(gymnasium.ActionWrapper[Any, Any, Any]):
    """Turns (kind, one number) into (kind, two numbers), of which the first counts."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (2,), np.float32)))

    def action(self, action: Any) -> Any:
        return action[0], action[1][:1]


class DoublingWithTable(Doubling):
    relevance = [[[0, 1], []]]


for _one in (SamplesGoal, SamplesThrice, NamesStream, GlobalRandom, SharedRandom, Inner):
    gymnasium.register(f"reported/{_one.__name__}-v0", entry_point=_one, max_episode_steps=20)
gymnasium.register("reported/Wrapped-v0", entry_point=lambda: DoublingWithTable(Inner()))
gymnasium.register("reported/WrappedSilently-v0", entry_point=lambda: Doubling(Inner()))
