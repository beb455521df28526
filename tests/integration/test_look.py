"""`equipoise look`: what there is to know of an environment before one trains in it."""

from __future__ import annotations

import re
import sys
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from equipoise.trainer import look


class Depot(gymnasium.Env[Any, Any]):
    """Loads one of three lorries; the third takes no amount. Says nothing that could be saved of its state."""

    observation_space = spaces.Dict(
        dock=spaces.Discrete(3, start=1), stock=spaces.Box(0.0, 9.0, (2,), np.float32)
    )
    action_space = spaces.Dict(amount=spaces.Box(0.0, 1.0, (1,), np.float32), lorry=spaces.Discrete(3))
    relevance: ClassVar = [[[0], [0], []]]

    def __init__(self, fault: str = "") -> None:
        self.fault, self.steps = fault, 0
        self.handle = open(__file__)  # noqa: SIM115 : a state that nobody can save

    def observe(self) -> tuple[Any, Any]:
        return self.observation_space.sample(), {"action_mask": {"lorry": np.array([1, 0, 1])}}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe()

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.fault == "raise":
            raise RuntimeError("out of diesel")
        assert action["lorry"] != 1
        observation, info = self.observe()
        return observation, -2.0, self.steps == 4, False, {**info, "late": -1.5, "fuel": 0.5}

    def close(self) -> None:
        self.handle.close()


def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["look", "env.num_envs=2", "device=cpu", *arguments])
    status = look.main()
    return status, *capsys.readouterr()


def test_it_says_how_an_environment_is_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = [f"env.make={__name__}:Depot", "env.reward_components={late: 2.0, fuel: 1.0}"]
    status, out, _ = shown(monkeypatch, capsys, *make)
    assert status == 0
    lines = out.splitlines()
    assert lines[1:6] == [
        "observations: 5 numbers: observation['dock'] = 0-2 (one-hot); observation['stock'] = 3-4",
        "actions: action['amount'] = parameter 0; action['lorry'] = head 0",
        "relevant by choice of head 0: 0 -> 0; 1 -> 0; 2 -> none",
        "masks: 67% of the choices are valid on average",
        "random actions: return -10 ± 0 in 2 episodes of 4 steps",  # 4 steps of 2 * -1.5 + 0.5
    ]
    assert lines[6] == "reward of a step: late -1.5 to -1.5, mean size 1.5; fuel 0.5 to 0.5, mean size 0.5"
    assert re.fullmatch(r"speed: [\d,]+ steps a second in 2 environments", lines[7])
    assert lines[8].startswith("resume: episodes would begin anew: ")
    assert "handle" in lines[8]


def test_an_environment_that_comes_along_and_one_by_its_id(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, own, _ = shown(monkeypatch, capsys, "env=goal")
    assert own.startswith("goal: 2 environments\nobservations: ")
    assert own.splitlines()[-1] == "resume: exact"
    _, pole, _ = shown(monkeypatch, capsys, "env.id=CartPole-v1")
    assert pole.startswith(
        "CartPole-v1: 2 environments\nobservations: 4 numbers: 4\nactions: action = head 0\n"
    )
    assert shown(monkeypatch, capsys, "--help")[1].startswith("Take random actions")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["env.id=CartPole-v"], "is no environment that Gymnasium knows"),
        (["env.id=CartPole-v1", "env.kwarg=3"], "env.kwargs"),
        (
            [f"env.make={__name__}:Depot", "env.kwargs.fault=raise"],
            "step 1: step raised RuntimeError: out of diesel",
        ),
    ],
)
def test_what_is_wrong_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    status, _, message = shown(monkeypatch, capsys, *arguments)
    assert (status, complaint in message) == (2, True), message
