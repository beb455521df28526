"""Rewards that are vectors become components, by themselves or by what the user types."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from equipoise.envs.gymnasium_adapter.adapter import GymnasiumEnv
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.environments import environment_maker

BOTH = pytest.mark.parametrize("vectorization", ["sync", "async"])
VECTOR = spaces.Box(-10.0, 10.0, (2,), np.float32)


class Treasure(gymnasium.Env[Any, Any]):
    """Treasure and time, as MO-Gymnasium's environments return them."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, reward: Any, space: Any = None) -> None:
        self.reward = reward
        if space is not None:
            self.reward_space = space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        info = {"vector_reward": self.reward, "near": 3.0}
        return np.zeros(1, np.float32), self.reward, self.t == 2, False, info


class Scalarised(gymnasium.Wrapper[Any, Any, Any, Any]):
    """As MO-Gymnasium's `LinearReward`: `reward_space` stays that of what it wraps."""

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, np.float64(np.dot(reward, [0.5, 1.0])), *rest


def treasure(reward: Any, space: Any = None, wrap: Any = None, **how: Any) -> GymnasiumEnv:
    def make() -> Any:
        env = Treasure(reward, space)
        return wrap(env) if wrap else env

    env = GymnasiumEnv(make=make, num_envs=2, **how)
    env.reset(0)
    return env


def rewards(env: GymnasiumEnv, steps: int = 1) -> Any:
    for _ in range(steps):
        step = env.step(torch.zeros(2, dtype=torch.int64))
    return step.rewards.tolist()


@BOTH
def test_what_reward_space_declares_becomes_components(vectorization: Any) -> None:
    env = treasure(np.array([2.0, -1.0], np.float32), VECTOR, vectorization=vectorization)
    assert (env.reward_names, env.reward_weights) == (("reward_0", "reward_1"), (1.0, 1.0))
    assert rewards(env, 2) == [[2.0, -1.0]] * 2  # of a step that ends an episode, too
    env.close()


@pytest.mark.parametrize("reward", [[2.0, -1.0], (2, -1), np.array([[2.0], [-1.0]])])
def test_weights_in_a_list_say_how_many_there_are(reward: Any) -> None:
    env = treasure(reward, reward_weights=[1, 0.5])
    assert (env.reward_names, env.reward_weights) == (("reward_0", "reward_1"), (1.0, 0.5))
    assert rewards(env) == [[2.0, -1.0]] * 2


def test_weights_by_name() -> None:
    env = treasure([2.0, -1.0], VECTOR, reward_weights={"reward_1": 0.25})
    assert env.reward_weights == (1.0, 0.25)
    with pytest.raises(
        ValueError, match=r"'time' is no part of the reward; there are \['reward_0', 'reward_1'\]"
    ):
        treasure([2.0, -1.0], VECTOR, reward_weights={"time": 1})


def test_a_dict_of_rewards_gives_its_names() -> None:
    one = spaces.Box(-1.0, 1.0, ())
    env = treasure({"time": -1.0, "gold": 2}, spaces.Dict(gold=one, time=one), reward_weights={"time": 0.5})
    assert (env.reward_names, env.reward_weights) == (("gold", "time"), (1.0, 0.5))
    assert rewards(env) == [[2.0, -1.0]] * 2


def test_an_array_in_info_can_be_named() -> None:
    env = treasure([2.0, -1.0], VECTOR, Scalarised, reward_components={"vector_reward": [1, 2], "near": 3})
    assert env.reward_names == ("vector_reward_0", "vector_reward_1", "near")
    assert env.reward_weights == (1.0, 2.0, 3.0)
    assert rewards(env) == [[2.0, -1.0, 3.0]] * 2


@BOTH
@pytest.mark.parametrize("reward", [[2.0, -1.0], np.array([2.0, -1.0], np.float32)])
def test_a_vector_that_nobody_announced_becomes_components_by_number(reward: Any, vectorization: Any) -> None:
    env = treasure(reward, vectorization=vectorization)
    assert (env.reward_names, env.reward_weights) == (("reward_0", "reward_1"), (1.0, 1.0))
    assert rewards(env, 2) == [[2.0, -1.0]] * 2
    (told,) = env.take_remarks()
    assert "components reward_0, reward_1, which count alike (env.reward_weights=[1,1]" in told
    env.close()
    env = treasure(reward, vectorization=vectorization, reward_weights={"reward_1": 0.5})
    assert (env.reward_weights, env.take_remarks()) == ((1.0, 0.5), [])
    env.close()


@pytest.mark.parametrize(
    ("components", "weights"), [(["vector_reward", "near"], (1.0, 1.0)), ({"vector_reward": 2}, (2.0, 2.0))]
)
def test_an_array_in_info_becomes_components_by_number(components: Any, weights: Any) -> None:
    env = treasure([2.0, -1.0], VECTOR, reward_components=components)
    assert env.reward_names[:2] == ("vector_reward_0", "vector_reward_1")
    assert env.reward_weights[:2] == weights
    assert [row[:2] for row in rewards(env)] == [[2.0, -1.0]] * 2


def test_a_vector_is_found_where_only_some_actions_are_valid() -> None:
    class Masked(Treasure):
        def reset(self, **given: Any) -> Any:
            return super().reset(**given)[0], {"action_mask": np.array([0, 1], np.int8)}

        def step(self, action: Any) -> Any:
            assert action == 1
            observation, *rest, info = super().step(action)
            return observation, *rest, {**info, "action_mask": np.array([0, 1], np.int8)}

    env = GymnasiumEnv(make=lambda: Masked([2.0, -1.0, 3.0]), num_envs=2)
    assert env.reward_names == ("reward_0", "reward_1", "reward_2")


def test_looking_for_vectors_leaves_what_follows_as_it_was() -> None:
    """An environment that fails in its first step, or that draws from the generators of the process."""

    class Fails(Treasure):
        def step(self, action: Any) -> Any:
            raise OSError("gone")

    env = GymnasiumEnv(make=lambda: Fails(1.0), num_envs=2)
    env.reset(0)
    with pytest.raises(EnvError, match="environment 0, step 1: step raised OSError: gone"):
        rewards(env)

    class Draws(Treasure):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, float(np.random.uniform()), *rest

    def drawn(**how: Any) -> Any:
        np.random.seed(3)
        env = GymnasiumEnv(make=lambda: Draws(1.0), num_envs=2, **how)
        env.reset(0)
        return rewards(env), np.random.uniform()

    assert drawn() == drawn(reward_weights=[1])  # where nothing is looked for


class Tallied(Treasure):
    steps = 0

    def step(self, action: Any) -> Any:
        type(self).steps += 1
        return super().step(action)


def test_what_training_has_found_out_evaluation_does_not_look_for_again() -> None:
    section = compose(["env=gymnasium", f"env.make={__name__}:Tallied", "env.kwargs.reward=[1.0, 2.0]"]).env
    make = environment_maker(section, torch.device("cpu"))
    Tallied.steps = 0
    training = make(2)
    assert Tallied.steps == 1
    evaluation = make(1)
    assert Tallied.steps == 1
    assert evaluation.reward_names == training.reward_names == ("reward_0", "reward_1")
    evaluation.reset(0)
    assert evaluation.step(torch.zeros(1, dtype=torch.int64)).rewards.tolist() == [[1.0, 2.0]]


def test_a_vector_whose_length_changes_is_named() -> None:
    class Grows(Treasure):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, [1.0] * (1 + self.t), *rest

    env = GymnasiumEnv(make=lambda: Grows(1.0), num_envs=2)
    env.reset(0)
    said = r"step 2: reward is a list of shape \(3,\), expected 2 real numbers; env.reward_weights=\[1,1,1\] takes"
    with pytest.raises(EnvError, match=said):
        rewards(env, 2)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (np.ones((2, 2)), r"shape \(2, 2\), expected one real number$"),
        (
            {"a": 1.0},
            r"reward is a dict, expected one real number; a reward_space \(a Dict\) names its parts",
        ),
        ([], r"shape \(0,\), expected one real number$"),
    ],
)
def test_rewards_that_are_no_vectors_are_named(reward: Any, said: str) -> None:
    env = treasure(reward)
    with pytest.raises(EnvError, match=said):
        rewards(env)


def test_a_wrapper_that_adds_them_up_gives_one_reward() -> None:
    env = treasure([2.0, -1.0], VECTOR, Scalarised)
    assert env.reward_names == ("reward",)
    assert rewards(env) == [[0.0]] * 2


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"reward_weights": [1, -1]}, "weight of 'reward_1' is -1; it must be at least 0"),
        ({"reward_weights": [0, 0]}, "names no component with a weight above 0"),
        ({"reward_weights": []}, "names no component"),
        ({"reward_weights": [1], "reward_components": ["a"]}, "reward_components has its own"),
    ],
)
def test_weights_that_do_not_fit_are_named(how: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        treasure([2.0, -1.0], **how)
