"""Actions arrive as the environment expects them, whatever its action space is."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import equipoise
from equipoise.envs.action_bounds import bounded
from equipoise.envs.gymnasium_adapter.adapter import GymnasiumEnv
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.random_numbers import StreamPerEnv
from equipoise.envs.references import random_action
from equipoise.trainer.spaces import UnsupportedSpaceError

BOTH = pytest.mark.parametrize("vectorization", ["sync", "async"])
UNIT = spaces.Box(-1.0, 1.0, (1,), np.float32)


class Takes(gymnasium.Env[Any, Any]):
    """Asserts that actions are of its space; the reward tells them apart."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, space: spaces.Space[Any], mask: Any = None) -> None:
        self.action_space, self.mask = space, mask

    def info(self) -> dict[str, Any]:
        return {} if self.mask is None else {"action_mask": self.mask}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), self.info()

    def step(self, action: Any) -> Any:
        assert action in self.action_space, action
        self.t += 1
        reward = float(zlib.crc32(repr(action).encode()) % 1000)
        return np.zeros(1, np.float32), reward, self.t == 4, False, self.info()


EVERY = spaces.Dict(
    bits=spaces.MultiBinary((2, 2)),
    levels=spaces.Box(-2, 2, (2,), np.int8),
    orders=spaces.Box(0, 1000, (3,), np.int16),
    fixed=spaces.Box(np.array([0.1, -1.0]), np.array([0.1, 1.0]), dtype=np.float64),
    number=spaces.Box(0.0, 1.0, (), np.float32),
    nothing=spaces.Tuple(()),
    one=spaces.OneOf(
        (
            spaces.Box(-0.1, 0.1, (2,), np.float64),
            spaces.Tuple((spaces.Discrete(3, start=-1), spaces.Box(0, 500, (1,), np.uint16))),
            spaces.Tuple(()),
        )
    ),
)
FORMS = [EVERY, EVERY["one"], spaces.Tuple((EVERY["one"], EVERY["one"], UNIT))]


@BOTH
@pytest.mark.parametrize("space", FORMS)
@pytest.mark.filterwarnings("ignore:.*Casting input x")
def test_actions_are_members_of_their_space(space: Any, vectorization: Any) -> None:
    env = GymnasiumEnv(make=lambda: Takes(space), num_envs=3, vectorization=vectorization)
    env.reset(0)
    stream = StreamPerEnv(3, torch.device("cpu"), 0)
    seen = {float(env.step(random_action(env, None, stream)).rewards[0, 0]) for _ in range(8)}
    assert len(seen) > 1
    env.close()


@pytest.mark.filterwarnings("ignore:.*Casting input x")
@pytest.mark.parametrize("space", FORMS)
def test_what_is_trained_acts_and_is_exported_in_the_space(space: Any, tmp_path: Path) -> None:
    run = equipoise.train(
        lambda: Takes(space), folder=tmp_path / "run", progress=False, total_env_steps=32, num_envs=2,
        rollout_steps=8, update_epochs=1, num_minibatches=1, eval_every=0, final_eval_episodes=1,
        device="cpu", hidden_sizes=[4],
    )  # fmt: skip
    policy = equipoise.load(run.folder)
    assert policy.action_space == space
    for deterministic in (True, False):
        assert policy.act(np.zeros(1, np.float32), deterministic=deterministic) in space
    batch = policy.act(np.zeros((3, 1), np.float32), deterministic=False)
    if space is EVERY:
        return  # Gymnasium's own vector environments know no empty Tuple
    vector = gymnasium.vector.SyncVectorEnv([lambda: Takes(space)] * 3)
    vector.reset()
    vector.step(batch)  # asserts


def test_masks_of_options_are_obeyed() -> None:
    space = spaces.OneOf((UNIT, spaces.Discrete(3)))
    env = GymnasiumEnv(make=lambda: Takes(space, (np.array([0, 1]), (None, np.array([0, 1, 1])))), num_envs=1)
    _, mask = env.reset(0)
    assert mask is not None
    assert mask[0, 0].tolist() == [False, False, True, True]


def test_copies_must_have_one_action_space() -> None:
    sizes = iter((2, 2, 3))
    env = GymnasiumEnv(make=lambda: Takes(spaces.Discrete(next(sizes))), num_envs=2)
    with pytest.raises(
        EnvError, match=r"environment 1, step 0: its action space is Discrete\(3\), not Discrete\(2\)"
    ):
        env.reset(0)


# ---------------------------------------------------------------- bounds that are given


def lows_and_highs(space: Any) -> list[list[Any]]:
    return [space.low.tolist(), space.high.tolist()]


def test_what_is_unbounded_gets_bounds_and_nearer_ones_stay() -> None:
    inf = np.inf
    box = spaces.Box(np.array([-inf, 0.05, -2.0]), np.array([inf, inf, 2.0]), dtype=np.float32)
    assert lows_and_highs(bounded(box, [-1, 1])) == [[-1.0, np.float32(0.05), -2.0], [1.0, 1.0, 2.0]]
    assert lows_and_highs(bounded(box, {"action": [-1, 1]})) == [
        [-1.0, np.float32(0.05), -1.0],
        [1.0, 1.0, 1.0],
    ]
    wide = spaces.Dict(a=spaces.Tuple((UNIT, spaces.Box(-3.4e38, 3.4e38, (1,)))), k=spaces.Discrete(2))
    both = bounded(wide, [-5, 7])
    assert lows_and_highs(both["a"][0]) == [[-1.0], [1.0]]
    assert lows_and_highs(both["a"][1]) == [[-5.0], [7.0]]
    assert bounded(wide, {"a.1": [-5, 7]}) == both
    whole = spaces.Box(-(2**31), 2**31 - 1, (1,), np.int32)
    assert lows_and_highs(bounded(whole, [-0.5, 9.5])) == [[0], [9]]


@pytest.mark.parametrize(
    ("space", "bounds", "said"),
    [
        (UNIT, [-1, 1], r"no box of the action is unbounded; its boxes are \['action'\]"),
        (UNIT, {"aim": [-1, 1]}, r"'aim' is no box of the action; its boxes are \['action'\]"),
        (UNIT, {"action": [2, 3]}, r"\[2.0, 3.0\] holds no action of action, which is Box"),
        (UNIT, [1, -1], r"action_bounds is \[1, -1\]; give \[low, high\]"),
        (UNIT, {"action": [0, np.inf]}, "action_bounds of 'action' is"),
        (UNIT, [1], r"action_bounds is \[1\]; give"),
    ],
)
def test_bounds_that_do_not_fit_are_named(space: Any, bounds: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bounded(space, bounds)


def test_an_unbounded_action_is_refused_with_what_makes_it_run() -> None:
    space = spaces.Dict(push=spaces.Box(-np.inf, np.inf, (1,)), kind=spaces.Discrete(2))
    with pytest.raises(
        UnsupportedSpaceError, match=r"action\['push'\]: .*unbounded; .*env.action_bounds=\[-1,1\]"
    ):
        GymnasiumEnv(make=lambda: Takes(space), num_envs=1)
    env = GymnasiumEnv(make=lambda: Takes(space), num_envs=1, action_bounds=[-1, 1])
    env.reset(0)
    assert env.action_space["push"] == UNIT
    env.step({"push": torch.tensor([[0.5]]), "kind": torch.tensor([0])})


# ---------------------------------------------------------------- numbers where arrays belong


class WantsNumbers(Takes):
    def step(self, action: Any) -> Any:
        if isinstance(action["push"], np.ndarray):
            raise TypeError("received an array where a scalar value is required")
        assert isinstance(action["push"], float)
        return np.zeros(1, np.float32), action["push"] + action["pair"][1], False, False, {}


@BOTH
def test_an_environment_that_takes_no_arrays_of_one_gets_numbers(vectorization: Any) -> None:
    space = spaces.Dict(push=UNIT, pair=spaces.Box(0.0, 1.0, (2,)), kind=spaces.Discrete(2))
    env = GymnasiumEnv(make=lambda: WantsNumbers(space), num_envs=2, vectorization=vectorization)
    env.reset(0)
    action = {
        "push": torch.tensor([[0.5], [-0.5]]),
        "pair": torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
        "kind": torch.tensor([0, 1]),
    }
    for _ in range(2):
        assert env.step(action).rewards.tolist() == [[1.5], [-0.5]]
    (told,) = env.take_remarks()
    assert "gets a number" in told
    env.close()


class FailsAnyway(Takes):
    def step(self, action: Any) -> Any:
        raise TypeError(f"no {type(action).__name__}")


def test_a_failure_of_another_cause_stays_as_it_was() -> None:
    env = GymnasiumEnv(make=lambda: FailsAnyway(UNIT), num_envs=1)
    env.reset(0)
    with pytest.raises(EnvError, match="step raised TypeError: no ndarray"):
        env.step(torch.zeros(1, 1))
