"""Gymnasium environments for the adapter's tests, most of them faulty in one way."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Counter(gymnasium.Env[Any, Any]):
    """Observes the steps so far as `[t, -t]`, always in the same array, and ends after `length` of them."""

    def __init__(self, length: int = 3, fault: str = "", at: int = 2) -> None:
        self.observation_space = spaces.Box(-100.0, 100.0, (2,), np.float32)
        self.action_space = spaces.Discrete(3, start=5)
        self.length, self.fault, self.at = length, fault, at
        self.t = 0
        self.buffer = np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        if self.fault == "raise on reset":
            raise OSError("no map found")
        self.t = 0
        self.buffer[:] = 0.0
        return self.buffer, self.info()

    def info(self) -> dict[str, Any]:
        return {"note": object()}  # neither plain nor picklable by value: must not travel

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self.t += 1
        self.buffer[:] = self.t, -self.t
        result = [self.buffer, float(action), False, self.t >= self.length, self.info()]
        return tuple(FAULTS[self.fault](result) if self.fault and self.t == self.at else result)


def _replace(position: int, value: Any) -> Any:
    return lambda result: [*result[:position], value, *result[position + 1 :]]


def _raise(result: Any) -> Any:
    raise RuntimeError("the simulator lost contact")


FAULTS: dict[str, Any] = {
    "raise": _raise,
    "exit": lambda result: sys.exit(3),
    "four values": lambda result: result[:4],
    "shape": _replace(0, np.zeros(3, np.float32)),
    "ragged": _replace(0, [[0.0], [0.0, 1.0]]),
    "dtype": _replace(0, np.array(["a", "b"])),
    "complex": _replace(0, np.zeros(2, np.complex64)),
    "outside": _replace(0, np.array([0.0, 101.0], np.float32)),
    "observation nan": _replace(0, np.array([0.0, np.nan], np.float32)),
    "observation inf": _replace(0, np.array([np.inf, 0.0], np.float32)),
    "observation -inf": _replace(0, np.array([-np.inf, 0.0], np.float32)),
    "reward nan": _replace(1, float("nan")),
    "reward inf": _replace(1, float("inf")),
    "reward -inf": _replace(1, -float("inf")),
    "reward too large": _replace(1, 1e39),
    "reward shape": _replace(1, np.zeros(2)),
    "reward text": _replace(1, "1.0"),
    "flag": _replace(2, 2),
    "flag of a fraction": _replace(2, 1.0),
    "flag text": _replace(2, "False"),
    "flags as integers": lambda result: [*result[:2], 1, np.int64(0), result[4]],
    "hang": lambda result: time.sleep(1000),
    "die": lambda result: os._exit(7),
    "": None,
}


class OnlyOne(Counter):
    """Faulty only where the seed made it so: environment 1 of the batch seeded with 0."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        if seed is not None and seed != self.culprit:
            self.fault = ""
        return super().reset(seed=seed, options=options)

    def __init__(self, culprit: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.culprit = culprit


class Scores(Counter):
    """Reward components, a mask and success in `info`; the environment with the seed `long` never ends."""

    def __init__(self, forget: str = "", long: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.forget, self.long = forget, long

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        if seed == self.long:
            self.length = 90
        return super().reset(seed=seed, options=options)

    def info(self) -> dict[str, Any]:
        mask = np.array([1, self.t % 2, 0], np.int8)
        # An int at first: batching by Gymnasium alone would cut all later values down to integers.
        near = 0 if self.t == 0 else self.t + 0.5
        info = {"near": near, "far": -self.t, "action_mask": mask, "is_success": self.t >= self.length}
        return {key: value for key, value in info.items() if not (self.t == self.at and key == self.forget)}


class Structured(gymnasium.Env[Any, Any]):
    """Nested observations and actions; the reward tells what action arrived."""

    observation_space = spaces.Dict(
        {
            "grid": spaces.Box(0, 255, (2, 3), np.uint8),
            "mode": spaces.Discrete(3, start=1),
            "pair": spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3]))),
        }
    )
    action_space = spaces.Dict(
        {
            "aim": spaces.Tuple((spaces.Discrete(4, start=-1), spaces.Box(-2.0, 2.0, (2,), np.float64))),
            "gears": spaces.MultiDiscrete([3, 2]),
        }
    )
    relevance = (((), (0,), (1,), (0, 1)), ((),) * 3, ((),) * 2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {"action_mask": ([1, 0, 1, 1], [True] * 3, np.ones(2))}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        assert self.action_space.contains(action), action
        (kind, point), gears = action["aim"], action["gears"]
        reward = 1000 * int(kind) + 100 * gears[0] + 10 * gears[1] + point[0]
        return self.observation_space.sample(), reward, False, False, {"action_mask": [1] * 9}


class Sampler(gymnasium.Env[Any, Any]):
    """Observes samples of its spaces: of the class, of the object, of a part of one."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.goals = spaces.Dict({"pair": spaces.Tuple((spaces.Discrete(1000), spaces.Box(-1.0, 1.0, (1,))))})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return self.observe(), {}

    def observe(self) -> Any:
        sample = self.observation_space.sample()
        index, place = self.goals["pair"].sample()
        return np.array([sample[0], index / 1000, place[0]], np.float32)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return self.observe(), 0.0, False, False, {}


class SharedStream(Sampler):
    """Draws from a space's random stream under another name, which copies would part."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = self.observation_space.np_random


class Opaque(Counter):
    """Keeps its state where plain values do not reach."""

    def __init__(self) -> None:
        super().__init__(length=1000)
        self.engine = object()


class OwnState(Opaque):
    """The same, but it gives its state itself."""

    def state_dict(self) -> dict[str, Any]:
        return {"t": self.t, "buffer": self.buffer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.t, self.buffer = state["t"], state["buffer"]


class Strict(Counter):
    """Takes only actions of its space, whose bounds are no float32 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-0.1, 0.1, (2,), np.float64)  # float32(0.1) is above 0.1

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        assert self.action_space.contains(action), action
        return super().step(action[0])


class Says(Counter):
    """Says what it is told to in `info`; its own reward is the action, 5 to 7."""

    def __init__(
        self,
        info: dict[str, Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        relevance: Any = None,
    ) -> None:
        super().__init__(length=1)
        self.said = info or {}
        self.relevance = relevance
        self.action_space = action_space or self.action_space

    def info(self) -> dict[str, Any]:
        return self.said

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return super().step(5 if isinstance(action, dict) else action)


class Painter(Counter):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.full((4, 6, 3), self.t, np.uint8)


for _one in (
    Counter,
    OnlyOne,
    Scores,
    Structured,
    Sampler,
    SharedStream,
    Opaque,
    OwnState,
    Strict,
    Says,
    Painter,
):
    gymnasium.register(f"test/{_one.__name__}-v0", entry_point=_one)
