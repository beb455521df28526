"""Exact resume is claimed only where it is: what an environment keeps is saved, or a notice says that it is not."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformReward

from equipoise.envs.gymnasium_adapter import GymnasiumEnv


class Keeps(gymnasium.Env[Any, Any]):
    """Its observations count by whatever `make` gives it to count with."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, make: Callable[[], Any], use: Callable[[Any], float]) -> None:
        self.kept, self.use = make(), use

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return np.array([self.use(self.kept)], np.float64), 0.0, False, False, {}


class Machine(gymnasium.Env[Any, Any]):
    """Its state is which of its methods comes next."""

    observation_space = spaces.Box(0.0, 9.0, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.next = self.first
        return np.zeros(1, np.float32), {}

    def first(self) -> float:
        self.next = self.second
        return 1.0

    def second(self) -> float:
        self.next = self.first
        return 2.0

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return np.array([self.next()], np.float32), 0.0, False, False, {}


class Slotted(Machine):
    """A slot beside the attributes."""

    __slots__ = ("_Slotted__count", "empty")

    def __init__(self) -> None:
        self.__count = 0

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self.__count += 1
        return np.array([self.__count], np.float32), 0.0, False, False, {}


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def tick(self) -> int:
        self.count += 1
        return self.count


def counting() -> Callable[[], int]:
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return count

    return tick


def deeper() -> Callable[[], int]:
    inner = counting()
    return lambda: inner()


def attributed() -> Callable[[], int]:
    def tick() -> int:
        tick.count += 1  # type: ignore[attr-defined]
        return int(tick.count)  # type: ignore[attr-defined]

    tick.count = 0  # type: ignore[attr-defined]
    return tick


def collecting() -> Callable[[], int]:
    seen: list[int] = []
    return lambda: seen.append(1) or len(seen)  # type: ignore[func-returns-value]


def with_default() -> Callable[[], int]:
    def tick(seen: list[int] = []) -> int:  # noqa: B006
        seen.append(1)
        return len(seen)

    return tick


class Tagged(np.ndarray[Any, Any]):
    count = 0


def go_on(make: Callable[[], Any]) -> tuple[GymnasiumEnv, dict[str, Any], torch.Tensor, torch.Tensor]:
    """The environment that went on, its state, what followed, and what followed where it was resumed."""

    def steps(env: GymnasiumEnv) -> torch.Tensor:
        return torch.stack([env.step(torch.zeros(2)).observation for _ in range(3)])

    env, other = GymnasiumEnv(make=make, num_envs=2), GymnasiumEnv(make=make, num_envs=2)
    env.reset(0)
    env.step(torch.zeros(2))
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other.load_state_dict(state)
    return other, state, steps(env), steps(other)


def call(kept: Any) -> float:
    return float(kept())


def drawn(kept: Any) -> float:
    return float(kept.spawn(1)[0].random())


def summed(kept: Any) -> float:
    kept += 0.1
    return float(kept.sum())


@pytest.mark.parametrize(
    ("make", "use"),
    [
        (lambda: np.random.default_rng(3), drawn),
        (lambda: np.asfortranarray(np.random.default_rng(0).normal(size=(97, 89)) * 1e9), summed),
        (lambda: torch.ones(3, dtype=torch.float16), summed),
        (lambda: (3.0, lambda: 7.0)[0], float),
        (lambda: len, lambda kept: float(kept("four"))),
    ],
    ids=["spawn", "order in memory", "half", "float", "builtin"],
)
def test_what_is_saved_goes_on_bit_for_bit(make: Any, use: Any) -> None:
    other, state, expected, found = go_on(lambda: Keeps(make, use))
    assert state["exact"]
    assert other.notice is None
    assert torch.equal(expected, found)


@pytest.mark.parametrize("make", [Machine, Slotted])
def test_slots_and_methods_as_states_are_saved(make: Any) -> None:
    other, _, expected, found = go_on(make)
    assert other.notice is None
    assert torch.equal(expected, found)
    assert expected[:, 0, 0].tolist() == ([2.0, 1.0, 2.0] if make is Machine else [2.0, 3.0, 4.0])


@pytest.mark.parametrize(
    ("make", "use", "reason"),
    [
        (lambda: Counter().tick, call, "Keeps.kept is a method of a .*Counter, whose state it may change"),
        (lambda: ([1.0] * 9).pop, call, "Keeps.kept is a method of a builtins.list"),
        (lambda: np.random.default_rng(0).random, call, "is a method of a numpy.random._generator.Generator"),
        (counting, call, "Keeps.kept is a function that keeps a state in 'count'"),
        (deeper, call, "'inner' of a function is a function that keeps a state in 'count'"),
        (attributed, call, "Keeps.kept is a function that keeps a state in 'count'"),
        (collecting, call, "Keeps.kept was .*collecting.*, which is not there when the environment is made"),
        (
            with_default,
            call,
            "Keeps.kept was .*with_default.*, which is not there when the environment is made",
        ),
        (lambda: np.zeros(2).view(Tagged), summed, "Keeps.kept is a .*Tagged"),
        (lambda: np.zeros(2, [("x", float)]), lambda kept: 0.0, "Keeps.kept is a numpy.ndarray"),
        (lambda: torch.zeros(2, requires_grad=True), lambda kept: 0.0, "Keeps.kept is a torch.Tensor"),
        (lambda: torch.zeros(2, dtype=torch.bfloat16), summed, "Keeps.kept is a torch.Tensor"),
        (lambda: Counter, lambda kept: 0.0, None),
    ],
)
def test_what_cannot_be_saved_is_said_and_episodes_begin_anew(
    make: Any, use: Any, reason: str | None
) -> None:
    other, _, _, _ = go_on(lambda: Keeps(make, use))
    if reason is None:
        assert other.notice is None
    else:
        assert other.notice is not None
        assert "cannot be resumed exactly, episodes begin anew" in other.notice
        assert re.search(reason, other.notice)


def test_a_stateful_function_in_a_wrapper_of_gymnasium_s_own_is_noticed_and_a_plain_one_is_not() -> None:
    def wrapped(function: Any) -> Callable[[], Any]:
        return lambda: TransformReward(Machine(), function)

    tick = counting()
    other, _, _, _ = go_on(wrapped(lambda reward: reward + tick()))
    assert other.notice is not None
    assert (
        "TransformReward.func, 'tick' of a function is a function that keeps a state in 'count'"
        in other.notice
    )
    factor, table = 0.5, np.ones(3)
    other, _, expected, found = go_on(wrapped(lambda reward: factor * reward * table[0]))
    assert other.notice is None
    assert torch.equal(expected, found)
