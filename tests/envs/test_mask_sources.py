"""Masks are found wherever environments put them, and the user is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import equipoise
from equipoise.envs.gymnasium_adapter.adapter import GymnasiumEnv
from equipoise.envs.gymnasium_adapter.guard import EnvError

PLACE = spaces.Box(-1.0, 1.0, (1,), np.float32)
BOTH = pytest.mark.parametrize("vectorization", ["sync", "async"])


class Doors(gymnasium.Env[Any, Any]):
    """Three doors of which one is open, a different one in each step; a closed one hurts."""

    action_space: spaces.Space[Any] = spaces.Discrete(3)
    observation_space: spaces.Space[Any] = spaces.Dict(place=PLACE)

    def __init__(self, **info: str) -> None:
        self.said = info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), self.info()

    @property
    def open(self) -> np.ndarray[Any, Any]:
        return np.eye(3, dtype=np.int8)[self.t % 3]

    def observe(self) -> Any:
        return {"place": [0.0]}

    def info(self) -> dict[str, Any]:
        return {key: self.open if value == "open" else value for key, value in self.said.items()}

    def step(self, action: Any) -> Any:
        assert self.open[action], action
        self.t += 1
        return self.observe(), 1.0, self.t == 5, False, self.info()


class ByMethod(Doors):
    def action_masks(self) -> Any:
        return self.open.astype(bool)


class ByObservation(Doors):
    observation_space = spaces.Dict(action_mask=spaces.Box(0, 1, (3,), np.int8), place=PLACE)

    def observe(self) -> Any:
        return {"action_mask": self.open, "place": [0.0]}


class Masker(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Opens another door than the environment that it wraps says."""

    def action_masks(self) -> Any:
        return [0, 1, 0]


def first_masks(make: Any, n: int = 1, **how: Any) -> tuple[list[Any], list[str]]:
    env = GymnasiumEnv(make=make, num_envs=n, **how)
    _, mask = env.reset(0)
    masks = [mask]
    for _ in range(6):
        chosen = torch.zeros(n, dtype=torch.int64) if mask is None else mask[:, 0].int().argmax(1)
        mask = env.step(chosen).action_mask
        masks.append(mask)
    env.close()
    return [None if m is None else m[:, 0].int().tolist() for m in masks], env.take_remarks()


IN_TURN = [np.eye(3, dtype=int)[t].tolist() for t in (0, 1, 2, 0, 1, 0, 1)]  # an episode has five steps


@BOTH
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Doors(action_mask="open"), []),
        (ByMethod, ["action masks are read from action_masks()"]),
        (
            ByObservation,
            [
                "action masks are read from observation['action_mask'], which is an input of the policy, too; "
                "one that forbids all forbids nothing"
            ],
        ),
        (
            lambda: ByMethod(action_mask="open"),
            ["action_masks() is not used as a mask: info['action_mask'] is there, too"],
        ),
    ],
)
def test_masks_are_read_from_where_they_are(make: Any, said: list[str], vectorization: Any) -> None:
    masks, remarks = first_masks(make, 2, vectorization=vectorization)
    assert masks == [[row, row] for row in IN_TURN]
    assert remarks == said


def test_the_mask_of_the_outermost_wrapper_counts() -> None:
    env = GymnasiumEnv(make=lambda: Masker(ByMethod()), num_envs=1)
    assert env.reset(0)[1].int().tolist() == [[[0, 1, 0]]]  # type: ignore[union-attr]


def test_a_mask_that_is_left_out_of_the_observation_is_still_one() -> None:
    masks, _ = first_masks(ByObservation, ignore=["action_mask"])
    assert masks == [[row] for row in IN_TURN]


class WrongShape(Doors):
    observation_space = spaces.Dict(action_mask=spaces.Box(0, 1, (4,), np.int8), place=PLACE)

    def observe(self) -> Any:
        return {"action_mask": [1, 1, 1, 1], "place": [0.0]}

    def step(self, action: Any) -> Any:
        return self.observe(), 0.0, False, False, self.info()


class Choiceless(WrongShape):
    action_space = spaces.Box(0.0, 1.0, (1,), np.float32)


class Legal(WrongShape):
    observation_space = spaces.Dict(place=PLACE)

    def observe(self) -> Any:
        return {"place": [0.0]}

    def legal_actions(self) -> list[int]:
        return [0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (WrongShape, r"observation\['action_mask'\] is not used as a mask, only as an input: it must mask"),
        (
            lambda: Legal(avail_actions=[1, 0, 0]),
            r"info\['avail_actions'\] may be a mask of actions and is not",
        ),
        (Legal, r"legal_actions\(\) may be a mask of actions and is not used: what is read is info"),
    ],
)
def test_a_mask_that_is_there_and_unused_is_named(make: Any, said: str) -> None:
    masks, remarks = first_masks(make)
    assert masks == [None] * 7
    with pytest.raises(ValueError, match=said):
        raise ValueError(remarks[0])


def test_a_mask_of_nothing_is_named() -> None:
    env = GymnasiumEnv(make=Choiceless, num_envs=1)
    assert env.reset(0)[1] is None
    assert env.take_remarks() == [
        "observation['action_mask'] is not used: the actions hold no choice to be masked"
    ]


class Stuck(ByObservation):
    """In its third state no door is open, as in a knapsack that nothing fits in any more."""

    def observe(self) -> Any:
        return super().observe() | ({"action_mask": np.zeros(3, np.int8)} if self.t == 2 else {})

    def step(self, action: Any) -> Any:
        return super().step(2 if self.t == 2 else action)


@BOTH
def test_a_state_in_which_nothing_is_valid_forbids_nothing(vectorization: Any) -> None:
    masks, _ = first_masks(Stuck, vectorization=vectorization)
    assert masks == [[[1, 1, 1] if t == 2 else row] for t, row in enumerate(IN_TURN)]


class Failing(Doors):
    def action_masks(self) -> Any:
        return [0, 0, 0] if self.t == 1 else [1, 0, 0] if self.t == 0 else 1 / 0


@pytest.mark.parametrize(
    ("steps", "said"),
    [(1, r"step 1: action_masks\(\) leaves head 0 no valid choice"), (2, r"action_masks\(\) raised Zero")],
)
def test_a_method_that_fails_is_named(steps: int, said: str) -> None:
    class Quiet(Failing):
        def step(self, action: Any) -> Any:
            self.t += steps
            return self.observe(), 0.0, False, False, {}

    env = GymnasiumEnv(make=Quiet, num_envs=1)
    env.reset(0)
    with pytest.raises(EnvError, match=said):
        env.step(torch.tensor([0]))


def test_a_policy_reads_the_mask_out_of_the_observation(tmp_path: Path) -> None:
    run = equipoise.train(
        ByObservation,
        folder=tmp_path / "run",
        progress=False,
        total_env_steps=16,
        num_envs=2,
        rollout_steps=8,
        update_epochs=1,
        num_minibatches=1,
        eval_every=0,
        final_eval_episodes=1,
        device="cpu",
        hidden_sizes=[4],
    )
    policy = equipoise.load(run.folder)
    rows = [{"action_mask": row, "place": [0.0]} for row in np.eye(3, dtype=np.int8)]
    assert [policy.act(row, deterministic=False) for row in rows] == [0, 1, 2]
    assert policy.act(rows).tolist() == [0, 1, 2]
    batch = {"action_mask": np.eye(3, dtype=np.int8), "place": np.zeros((3, 1), np.float32)}
    assert policy.act(batch).tolist() == [0, 1, 2]
