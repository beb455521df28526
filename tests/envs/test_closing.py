"""Environments whose `close` ends what the whole process shares."""

from __future__ import annotations

import sys
import weakref
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from equipoise.envs.gymnasium_adapter import GymnasiumEnv, closing


class Pygame(ModuleType):
    on = False

    def __init__(self) -> None:
        super().__init__("pygame")
        self.display = ModuleType("pygame.display")
        self.display.quit = self.quit  # type: ignore[attr-defined]

    def init(self) -> None:
        self.on = True

    def quit(self) -> None:
        self.on = False


class Drawn(gymnasium.Env[Any, Any]):
    """Draws with the one pygame of the process; equals every other."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        sys.modules["pygame"].init()

    def __eq__(self, other: object) -> bool:
        return True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        assert sys.modules["pygame"].on, "display Surface quit"  # type: ignore[attr-defined]
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def close(self) -> None:
        sys.modules["pygame"].display.quit()
        sys.modules["pygame"].quit()


def test_pygame_ends_with_the_last_environment_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = Pygame()
    monkeypatch.setitem(sys.modules, "pygame", pygame)
    monkeypatch.setattr(closing, "_open", weakref.WeakValueDictionary())  # other tests leave some open
    training = GymnasiumEnv(make=Drawn, num_envs=2)
    look = GymnasiumEnv(make=Drawn, num_envs=1)
    for env in (look, training):
        env.reset(0)
        env.step(torch.zeros(env.num_envs, dtype=torch.int64))
        env.close()
        assert pygame.on == (env is look)
    assert pygame.quit.__func__ is Pygame.quit  # type: ignore[attr-defined]
