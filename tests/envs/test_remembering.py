"""The tasks for memories: what they show, what they pay, and that nothing shown tells what must be remembered."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import equipoise.testing
from equipoise.envs.remembering import Aliased, Columns, TMaze


def test_columns_shows_some_entries_alone() -> None:
    env = Columns(gymnasium.make("CartPole-v1"), [0, 2])
    whole = gymnasium.make("CartPole-v1")
    seen, _ = env.reset(seed=1)
    assert np.array_equal(seen, whole.reset(seed=1)[0][[0, 2]])
    assert np.array_equal(env.step(1)[0], whole.step(1)[0][[0, 2]])
    assert env.observation_space.contains(seen)


@pytest.mark.parametrize("keep", [[], [4], [-1]])
def test_columns_that_are_not_there_are_refused(keep: list[int]) -> None:
    with pytest.raises(ValueError, match=r"allowed are columns 0 to 3"):
        Columns(gymnasium.make("CartPole-v1"), keep)


def test_columns_needs_a_vector() -> None:
    with pytest.raises(ValueError, match=r"needs a vector as observation; Discrete"):
        Columns(Aliased(), [0])


def test_beside_the_goal_both_sides_look_alike() -> None:
    env = Aliased()
    looks = {}
    for seed in range(8):
        first, _ = env.reset(seed=seed)
        second, reward, done, _, _ = env.step(1 if first == 0 else 0)
        looks[first] = second
        assert (reward, done) == (-0.1, False)
        assert env.step(1 if first == 0 else 0)[1:3] == (1.0, True)
    assert looks == {0: 1, 3: 1}


def test_only_the_first_place_of_the_maze_shows_where_to_turn() -> None:
    env, ends = TMaze(4), {}
    for seed in range(8):
        first, _ = env.reset(seed=seed)
        assert env.step(1)[1] == -0.25  # a turn too early
        seen = [env.step(0)[0] for _ in range(4)]
        assert [row.tolist() for row in seen] == [[0, 0]] * 3 + [[0, 1]]
        ends[float(first[0])] = [row.tolist() for row in seen]
        turn = 2 if first[0] > 0 else 1
        assert env.step(turn)[1:3] == (1.0, True)
    assert ends.keys() == {-1.0, 1.0}


@pytest.mark.parametrize("env", [Aliased, TMaze])
def test_they_keep_to_the_contract(env: type[gymnasium.Env]) -> None:  # type: ignore[type-arg]
    equipoise.testing.check_env(env)
