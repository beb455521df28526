"""What the adapter takes from environments of others, and what it refuses."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from misbehaving import Structured

from equipoise.envs.gymnasium_adapter.adapter import GymnasiumEnv
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.trainer.configuration.compose import compose

BOX = spaces.Box(-1.0, 1.0, (1,), np.float32)


class Replay(gymnasium.Env[Any, Any]):
    """Gives these observations one after the other, the last for ever, and these rewards."""

    action_space = spaces.Discrete(2)

    def __init__(
        self, space: spaces.Space[Any], *observations: Any, reward: Any = 0.0, ends: int = 0
    ) -> None:
        self.observation_space, self.given, self.reward, self.ends = space, observations, reward, ends

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.t = 0
        return self.given[0], {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self.t += 1
        given = self.given[min(self.t, len(self.given) - 1)]
        return given, self.reward, self.t == self.ends, False, {}


def replay(space: spaces.Space[Any], *given: Any, n: int = 1, **how: Any) -> GymnasiumEnv:
    replayed = {key: how.pop(key) for key in ("reward", "ends") if key in how}
    return GymnasiumEnv(make=lambda: Replay(space, *given, **replayed), num_envs=n, **how)


def step(env: GymnasiumEnv) -> Any:
    return env.step(torch.zeros(env.num_envs, dtype=torch.int64))


# ---------------------------------------------------------------- outside of their space


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_what_lies_outside_is_used_counted_and_told_once(vectorization: Any) -> None:
    space = spaces.Dict(a=BOX, b=spaces.Box(0.0, 2.0, (2,), np.float64))
    fine, outside = {"a": [0.5], "b": [0.0, 1.0]}, {"a": [0.5], "b": [0.0, 2.5]}
    env = replay(space, fine, outside, fine, outside, n=2, vectorization=vectorization)
    assert env.reset(0)[0].tolist() == [[0.5, 0.0, 1.0]] * 2
    assert env.take_remarks() == []
    first = step(env)
    assert first.observation.tolist() == [[0.5, 0.0, 2.5]] * 2
    (told,) = env.take_remarks()
    assert "observation['b'][1] is 2.5, outside its space's [0.0, 2.0] by 0.5" in told
    assert "env.check_bounds=strict" in told
    assert first.metrics["outside_bounds"].tolist() == [1.0, 1.0]
    assert step(env).metrics["outside_bounds"].tolist() == [0.0, 0.0]
    assert step(env).metrics["outside_bounds"].tolist() == [1.0, 1.0]
    assert env.take_remarks() == []
    env.close()


def test_a_final_observation_outside_counts_for_its_own_environment() -> None:
    env = replay(BOX, [0.0], [0.0], [3.0], ends=2)
    env.reset(0)
    assert "outside_bounds" not in step(env).metrics
    last = step(env)
    assert (last.observation.item(), last.final_observation.item()) == (0.0, 3.0)
    assert last.metrics["outside_bounds"].tolist() == [1.0]


@pytest.mark.parametrize("check", ["strict", True])
def test_strict_ends_the_run_and_says_what_would_not(check: Any) -> None:
    env = replay(BOX, [0.0], [-1.25], check_bounds=check)
    env.reset(0)
    with pytest.raises(EnvError, match=r"step 1: observation\[0\] is -1.25, outside .* by 0.25.*=tell"):
        step(env)


@pytest.mark.parametrize("check", ["off", False])
def test_off_uses_it_without_a_word(check: Any) -> None:
    env = replay(spaces.Tuple((BOX, spaces.Discrete(2))), ([5.0], 7), check_bounds=check)
    assert env.reset(0)[0].tolist() == [[5.0, 0.0, 1.0]]
    assert step(env).metrics == {}
    assert env.take_remarks() == []


@pytest.mark.parametrize("check", ["tell", "off"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_an_error(value: float, check: Any) -> None:
    env = replay(BOX, [0.0], np.array([value]), check_bounds=check)
    env.reset(0)
    with pytest.raises(EnvError, match=r"step 1: observation\[0\] is .*must be finite"):
        step(env)


@pytest.mark.parametrize(
    ("space", "given", "expected", "told"),
    [
        (spaces.Discrete(3), 3, [0, 0, 1], "observation is 3, outside its space Discrete(3)"),
        (
            spaces.Discrete(3, start=5),
            4,
            [1, 0, 0],
            "observation is 4, outside its space Discrete(3, start=5)",
        ),
        (spaces.MultiDiscrete([2, 2]), [1, 2], [0, 1, 0, 1], "observation[1] is 2, outside"),
        (spaces.MultiBinary(2), [2, 0], [1, 0], "observation[0] is 2, outside its space MultiBinary(2)"),
    ],
)
def test_an_integer_past_its_range_counts_as_the_nearest(
    space: Any, given: Any, expected: list[int], told: str
) -> None:
    env = replay(space, given)
    assert env.reset(0)[0].tolist() == [expected]
    assert env.take_remarks()[0].startswith(told)
    with pytest.raises(EnvError, match="outside its space .*check_bounds=tell"):
        replay(space, given, check_bounds="strict").reset(0)


# ---------------------------------------------------------------- forms


@pytest.mark.parametrize(
    ("space", "given", "expected"),
    [
        (BOX, 0.5, [0.5]),
        (BOX, np.float64(0.5), [0.5]),
        (BOX, np.array(0.5), [0.5]),
        (BOX, 1, [1.0]),
        (spaces.Box(0, 9, (), np.float32), np.array([[4.0]]), [4.0]),
        (spaces.Box(0, 9, (), np.float32), [4], [4.0]),
        (spaces.Box(0, 9, (2,), np.float32), [1, 2.5], [1.0, 2.5]),
        (spaces.Box(0, 9, (2, 2), np.float32), [(1, 2), (3, 4)], [1.0, 2.0, 3.0, 4.0]),
        (spaces.Box(0, 9, (2,), np.float32), torch.tensor([1.0, 2.0]), [1.0, 2.0]),
        (spaces.Box(0, 9, (2,), np.uint8), np.array([1, 2], np.int64), [1.0, 2.0]),
        (spaces.Box(0, 9, (2,), np.uint8), np.array([True, False]), [1.0, 0.0]),
        (spaces.Discrete(3), 2.0, [0, 0, 1]),
        (spaces.Discrete(3), np.array([2]), [0, 0, 1]),
        (spaces.MultiBinary(2), [True, False], [1.0, 0.0]),
        (spaces.Tuple((BOX, BOX)), [0.5, (0.25,)], [0.5, 0.25]),
    ],
)
def test_numbers_and_lists_are_taken_for_arrays(space: Any, given: Any, expected: list[float]) -> None:
    row, outside = ObservationLayout(space).row(given)
    assert row.dtype == np.float32
    assert row.tolist() == expected
    assert outside is None


@pytest.mark.parametrize("reward", [2.5, [2.5], np.array([2.5]), np.array([[2.5]]), np.float16(2.5)])
def test_a_reward_of_one_number_is_taken_in_any_form(reward: Any) -> None:
    env = replay(BOX, 0.0, reward=reward)
    env.reset(0)
    assert step(env).rewards.tolist() == [[2.5]]


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"grid": 0}, r"observation\['grid'\] has shape \(\), expected \(2, 3\) of uint8"),
        ({"grid": [[1, 2, 3]]}, r"observation\['grid'\] has shape \(1, 3\), expected \(2, 3\) of uint8"),
        ({"grid": [[1, 2, 3], [1]]}, r"observation\['grid'\] has the value .*, expected \(2, 3\) of uint8"),
        ({"mode": 1.5}, r"observation\['mode'\] is 1.5, expected integers of Discrete\(3, start=1\)"),
        ({"mode": np.inf}, r"observation\['mode'\] is inf, expected integers"),
        ({"mode": None}, r"observation\['mode'\] has the value None, expected \(\), integers of Discrete"),
        ({"mode": [1, 2]}, r"observation\['mode'\] has shape \(2,\), expected \(\), integers of Discrete"),
        ({"pair": (np.zeros(2, int),)}, r"observation\['pair'\] is 1 parts; its space has 2 parts"),
        ({"pair": {"a": 1}}, r"observation\['pair'\] is a dict; its space has 2 parts"),
    ],
)
def test_a_misfit_inside_a_nested_observation_is_named(observation: Any, message: str) -> None:
    space = Structured.observation_space
    with pytest.raises(ValueError, match=message):
        ObservationLayout(space).row({**space.sample(), **observation})
    with pytest.raises(ValueError, match="observation is a int; its space has"):
        ObservationLayout(space).row(1)


# ---------------------------------------------------------------- parts that are left out


class Shrinking(gymnasium.Env[Any, Any]):
    """Its digits get fewer in an episode, as a number has fewer once it has been divided."""

    observation_space = spaces.Dict(digits=spaces.MultiBinary(2), free=spaces.MultiBinary(20), turn=BOX)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        return self._shown(2), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return self._shown(1), 0.0, False, False, {}

    def _shown(self, digits: int) -> dict[str, Any]:
        shown = {"digits": np.ones(digits, np.int8), "free": np.ones(10 * digits, np.int8)}
        return {**shown, "turn": np.zeros(1, np.float32)}


def test_what_leaves_its_declared_shape_can_be_left_out_as_the_message_says() -> None:
    env = GymnasiumEnv(make=Shrinking)
    env.reset(0)
    with pytest.raises(EnvError, match=r"shape \(1,\), .*; env.ignore=\[digits,free\] leaves them out$"):
        step(env)
    env = GymnasiumEnv(make=Shrinking, ignore=["digits", "free"])
    env.reset(0)
    assert step(env).observation.tolist() == [[0.0]]


def test_no_part_is_to_be_left_out_where_none_would_be_left() -> None:
    layout = ObservationLayout(spaces.Dict(place=BOX))
    assert layout.way_out({"place": np.zeros(3)}) == ""
    assert layout.way_out(7) == ""


MISSION = spaces.Dict(
    mission=spaces.Text(9),
    place=BOX,
    sensors=spaces.Tuple((spaces.Discrete(2), spaces.Graph(BOX, None))),
)


def test_the_refusal_names_every_part_that_cannot_be_read_and_the_way_out() -> None:
    with pytest.raises(ValueError, match="accepted") as refusal:
        replay(MISSION, {})
    message = str(refusal.value)
    assert "observation['mission'] is a Text space" in message
    assert "observation['sensors'][1] is a Graph space" in message
    assert "accepted are Box, Discrete" in message
    (typed,) = message.partition("env.ignore=[")[2].split("]")[:1]
    ObservationLayout(MISSION, typed.split(","))  # what it proposes is enough
    with pytest.raises(ValueError, match=r"Text space .*; wrap the environment"):
        ObservationLayout(spaces.Text(3))  # nothing would be left


@pytest.mark.parametrize(
    "observation",
    [
        {"mission": "go", "place": [0.5], "sensors": (1, object())},
        {"place": [0.5], "sensors": (1, None)},
    ],
)
def test_parts_that_are_left_out_may_be_anything_or_absent(observation: Any) -> None:
    env = replay(MISSION, observation, ignore=["mission", "sensors.1"])
    assert env.reset(0)[0].tolist() == [[0.5, 0.0, 1.0]]
    assert env.observation_space.shape == (3,)
    assert ObservationLayout(MISSION, ["mission", "sensors"]).row(observation)[0].tolist() == [0.5]


def test_the_parts_of_a_tuple_are_named_by_numbers_which_a_command_line_reads_as_such() -> None:
    space = spaces.Tuple((spaces.Tuple((BOX, spaces.Text(3))), spaces.Text(3)))
    with pytest.raises(ValueError, match=r"env.ignore=\[0.1,1\] leaves them out"):
        ObservationLayout(space)
    env = ["env=gymnasium", "env.id=CartPole-v1", "env.ignore=[0.1,1]"]
    ignore = compose(env).env.keywords["ignore"]
    assert ObservationLayout(space, ignore).row((([0.5], "a"), "b"))[0].tolist() == [0.5]


def test_a_name_that_is_no_part_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"ignore: 'misson' is no part .*'mission', 'place', 'sensors.0'"):
        ObservationLayout(MISSION, ["misson"])


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_parts_that_the_space_does_not_have_are_left_out_and_told_once(vectorization: Any) -> None:
    space = spaces.Dict(a=BOX, b=spaces.Dict(c=BOX))
    given = {"a": [0.5], "debug": "x", "b": {"c": [0.25], "raw": None}}
    env = replay(space, given, n=2, ends=1, vectorization=vectorization)
    assert env.reset(0)[0].tolist() == [[0.5, 0.25]] * 2
    assert step(env).observation.tolist() == [[0.5, 0.25]] * 2
    said = "observation['debug'], observation['b']['raw'] is not in the observation space and not used"
    assert env.take_remarks() == [said]
    env.close()
    env = replay(space, {"a": [0.5], "b": {"c": [0.25]}}, given, vectorization=vectorization)
    env.reset(0)
    assert env.take_remarks() == []
    step(env)
    assert env.take_remarks() == [said], "also where they come later"
    env.close()
    with pytest.raises(EnvError, match=r"observation\['debug'\].* env.check_bounds=tell would leave it out"):
        replay(space, given, check_bounds="strict").reset(0)
    with pytest.raises(EnvError, match=r"observation\['b'\] is a dict of \['raw'\]; its space has \['c'\]"):
        replay(space, {"a": [0.5], "b": {"raw": 1}}).reset(0)


def test_a_number_in_the_place_of_a_space_s_seed_method_does_no_harm() -> None:
    class Numbered(Replay):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.action_space.seed = seed  # type: ignore[method-assign, assignment]
            return super().reset(seed=seed)

    env = GymnasiumEnv(make=lambda: Numbered(BOX, 0.5))
    for seed in (0, 1):
        assert env.reset(seed)[0].tolist() == [[0.5]]
