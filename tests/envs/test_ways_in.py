"""Environments that need more than an id: wrappers, and arguments that differ from copy to copy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.envs.gymnasium_adapter.each_kwargs import EachKwargs
from equipoise.envs.vectorised import VectorisedEnv
from equipoise.trainer.configuration.compose import compose

BOTH = pytest.mark.parametrize("vectorization", ["sync", "async"])


class Numbered(gymnasium.Env[Any, Any]):
    """Shows the numbers it was made with."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, port: Any = 0, level: float = 0.0, settings: Any = None) -> None:
        assert not isinstance(port, str)
        name = (settings or {}).get("name", "run-0")
        self.numbers = np.array([port, level, int(name.removeprefix("run-"))], np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return self.numbers, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return self.numbers, 0.0, False, False, {}


class Shifted(gymnasium.ObservationWrapper[Any, Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any], by: float = 1.0) -> None:
        super().__init__(env)
        self.by = by

    def observation(self, observation: Any) -> Any:
        return observation + self.by


class Doubled(gymnasium.ObservationWrapper[Any, Any, Any]):
    def observation(self, observation: Any) -> Any:
        return 2.0 * observation


def numbers(num_envs: int, **keywords: Any) -> torch.Tensor:
    env = GymnasiumEnv(make=f"{__name__}:Numbered", num_envs=num_envs, **keywords)
    observation = env.reset(0)[0]
    env.close()
    return observation


@BOTH
def test_arguments_differ_from_copy_to_copy(vectorization: Any) -> None:
    found = numbers(
        3,
        vectorization=vectorization,
        kwargs={"port": "{index+5000}", "settings": {"name": "run-{index}"}},
        kwargs_each={"level": [7.0, 8.0]},
    )
    assert found.tolist() == [[5000.0, 7.0, 0.0], [5001.0, 8.0, 1.0], [5002.0, 7.0, 2.0]]


def half(number: float) -> float:
    return number / 2


class Given(Numbered):
    """Shows what an array and a function give."""

    def __init__(self, table: Any, function: Any, port: int = 0) -> None:
        assert isinstance(table[0], np.ndarray)
        super().__init__(port, function(table[0].sum()))


@BOTH
def test_arguments_may_be_objects_that_a_configuration_names(vectorization: Any) -> None:
    kwargs = {
        "table": [{"_target_": "numpy.array", "object": [2, "{index}"], "dtype": "int64"}],
        "function": {"_target_": f"{__name__}.half", "_partial_": True},
        "port": {"_target_": "builtins.int", "_args_": ["7"]},
    }
    env = GymnasiumEnv(make=f"{__name__}:Given", num_envs=2, vectorization=vectorization, kwargs=kwargs)
    assert env.reset(0)[0].tolist() == [[7.0, 1.0, 0.0], [7.0, 1.5, 0.0]]
    env.close()


class Windowed(Numbered):
    """Opens a window unless it is told otherwise."""

    metadata = {"render_modes": ["human"]}

    def __init__(self, render_mode: str | None = "human") -> None:
        self.render_mode = render_mode
        super().__init__(level=float(render_mode == "human"))


@pytest.mark.parametrize(
    "named", [{"id": "Windowed-v0"}, {"id": f"{__name__}:Windowed-v0"}, {"make": Windowed}]
)
def test_a_run_opens_no_window_unless_it_is_asked_for_one(named: Any) -> None:
    gymnasium.register("Windowed-v0", Windowed)
    for kwargs, windows in (({}, 0.0), ({"render_mode": "human"}, 1.0)):
        env = GymnasiumEnv(**named, num_envs=1, kwargs=kwargs)
        assert env.reset(0)[0][0, 1] == windows
        env.close()
    gymnasium.registry.pop("Windowed-v0")


def test_where_an_array_was_wanted_a_list_is_told_how_to_be_one() -> None:
    def make(low: Any) -> Numbered:
        return Numbered(level=low.max())

    env = GymnasiumEnv(make=make, kwargs={"low": {"_target_": "numpy.array", "object": [1.0, 2.0]}})
    assert env.reset(0)[0][0, 1] == 2.0
    env.close()
    with pytest.raises(
        ValueError, match=r"'max'; env.kwargs.<name>={_target_: numpy.array, object: "
    ) as error:
        GymnasiumEnv(make=make, kwargs={"low": [1.0] * 1000})
    assert len(str(error.value)) < 600, "the reason is not to be looked for behind the arguments"


@pytest.mark.parametrize("name", ["equipoise.envs.gymnasium_adapter.making.found_at", "equipoise.train"])
def test_no_argument_is_made_by_this_package_which_imports_by_name(name: str) -> None:
    kwargs = {"port": {"_target_": name, "place": "os:getpid"}}
    with pytest.raises(ValueError, match=f"{name} is of this package, which makes no arguments"):
        GymnasiumEnv(make=Numbered, num_envs=1, kwargs=kwargs)


def test_no_two_environments_that_live_at_once_have_one_number() -> None:
    kwargs = {"port": "{index}"}
    training = GymnasiumEnv(make=Numbered, num_envs=3, kwargs=kwargs)
    assert numbers(2, kwargs=kwargs)[:, 0].tolist() == [3.0, 4.0]
    assert numbers(2, kwargs=kwargs)[:, 0].tolist() == [3.0, 4.0]  # those were given back
    training.close()
    assert numbers(2, kwargs=kwargs)[:, 0].tolist() == [0.0, 1.0]


def test_numbers_of_what_could_not_be_made_are_free_though_its_error_is_kept() -> None:
    with pytest.raises(ValueError, match="action_bounds is 3") as error:
        GymnasiumEnv(make=Numbered, num_envs=2, kwargs={"port": "{index}"}, action_bounds=3)  # type: ignore[arg-type]
    assert numbers(2, kwargs={"port": "{index}"})[:, 0].tolist() == [0.0, 1.0]
    assert error.value is not None


def test_the_processes_of_a_run_share_the_numbers_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert numbers(3, kwargs={"port": "{index}"})[:, 0].tolist() == [1.0, 3.0, 5.0]


@BOTH
def test_wrappers_are_applied_in_order(vectorization: Any) -> None:
    shifted = {"_target_": f"{__name__}.Shifted", "by": 3.0}
    kwargs = {"level": 1.0}
    found = [
        numbers(1, vectorization=vectorization, kwargs=kwargs, wrappers=wrappers)[0, 1].item()
        for wrappers in ([shifted, f"{__name__}.Doubled"], [f"{__name__}.Doubled", shifted])
    ]
    assert found == [8.0, 5.0]


def test_wrappers_of_gymnasium_s_own_are_known_by_name() -> None:
    env = GymnasiumEnv(
        "CartPole-v1", 1, wrappers=["TimeAwareObservation", "gymnasium.wrappers.FlattenObservation"]
    )
    assert env.observation_space.shape == (5,)
    limited = GymnasiumEnv(
        make=Numbered, num_envs=1, wrappers=[{"_target_": "TimeLimit", "max_episode_steps": 2}]
    )
    limited.reset(0)
    assert [limited.step(torch.zeros(1)).truncated.item() for _ in range(2)] == [False, True]


def doubled(reward: float) -> float:
    return 2 * reward


def test_what_a_wrapper_is_given_may_be_an_object_as_well() -> None:
    function = {"_target_": f"{__name__}.doubled", "_partial_": True}
    wrapper = {"_target_": "TransformReward", "func": function}
    env = GymnasiumEnv("CartPole-v1", num_envs=1, wrappers=[wrapper])
    env.reset(0)
    assert env.step(torch.tensor([0])).rewards.item() == 2.0
    ours = {"_target_": "equipoise.envs.gymnasium_adapter.making.found_at", "call": "os:system"}
    with pytest.raises(ValueError, match="is of this package"):
        GymnasiumEnv("CartPole-v1", num_envs=1, wrappers=[{**wrapper, "func": ours}])


def test_a_list_that_was_typed_is_the_tuple_that_a_wrapper_of_gymnasium_wants() -> None:
    wrappers = [{"_target_": "gymnasium.wrappers.ReshapeObservation", "shape": [2, 2]}]
    env = GymnasiumEnv("CartPole-v1", num_envs=1, wrappers=wrappers)
    assert env.native_observation_space.shape == (2, 2)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"wrappers": ["TimeAwareObs"]}, "wrappers: TimeAwareObs could not be put around 'CartPole-v1'"),
        ({"wrappers": ["FlatenObservation"]}, "has no FlatenObservation; did you mean FlattenObservation"),
        ({"wrappers": ["no_module.Wrapper"]}, "no_module.Wrapper could not be .* ModuleNotFoundError"),
        ({"wrappers": ["builtins.repr"]}, "gives a str, which is no gymnasium.Env"),
        ({"wrappers": [{"by": 1}]}, "wrappers: {'by': 1} names no class"),
        ({"wrappers": {"a.B": 1}}, "allowed is a list of names"),
        ({"wrappers": "a.B"}, "allowed is a list of names"),
        ({"kwargs_each": {"level": 3}}, "kwargs_each.level is 3; allowed is a list"),
        ({"kwargs": {"a": 1}, "kwargs_each": {"a": [1]}}, "a is in kwargs and in kwargs_each"),
    ],
)
def test_what_is_wrong_is_named(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        GymnasiumEnv("CartPole-v1", 1, **keywords)


def test_what_a_checkpoint_s_wrappers_name_is_listed_before_anything_is_imported() -> None:
    """Gymnasium's own and ours need no leave, but for the one that writes files where it is told to."""
    wrappers = ["TimeLimit", "gymnasium.wrappers.FlattenObservation", "mine.Wrapper", {"_target_": "yours.W"}]
    wrappers += [
        {"_target_": "equipoise.envs.remembering.Columns", "keep": [0]},
        {"_target_": "TransformReward", "func": {"_target_": "theirs.twice", "_partial_": True}},
        "equipoise.envs.sequences.x",
    ]
    section = {
        "id": "CartPole-v1",
        "wrappers": [*wrappers, "RecordVideo", "gymnasium.wrappers.utils.os.system"],
        "kwargs": {"deep": [{"_target_": "theirs.make", "of": {"_target_": "a.b:c.d"}}]},
        "kwargs_each": {"level": [{"_target_": "whole"}]},
    }
    assert GymnasiumEnv.imports(section) == [
        "gymnasium.envs.classic_control.cartpole",
        "theirs:make",
        "a.b:c.d",
        "whole",
        "mine:Wrapper",
        "yours:W",
        "theirs:twice",
        "equipoise.envs.sequences:x",
        "gymnasium.wrappers:RecordVideo",
        "gymnasium.wrappers.utils.os:system",
    ]


def test_what_steps_many_at_once_is_sent_to_the_environments_that_take_it() -> None:
    with pytest.raises(ValueError, match="gives a SyncVectorEnv, .*; env=vector or env=on_device takes what"):
        GymnasiumEnv(make=lambda: gymnasium.make_vec("CartPole-v1", 2, "sync"), num_envs=1)


def test_an_environment_of_the_old_gym_is_told_where_its_way_in_is_written() -> None:
    class Old:
        def reset(self) -> list[float]:
            return [0.0]

        def step(self, action: int) -> tuple[list[float], float, bool, dict[str, Any]]:
            return [0.0], 0.0, False, {}

    with pytest.raises(
        ValueError, match=r"gives a Old, .*; one of the old gym needs a few lines around it \("
    ):
        GymnasiumEnv(make=Old, num_envs=1)


@pytest.mark.parametrize(
    "typed", ["port={index+5000}", "port='{index+5000}'", "settings.name=run-{index + 7}", "port={indx}"]
)
def test_a_number_for_each_copy_needs_no_quotes_that_a_shell_would_take_away(typed: str) -> None:
    env = compose(["env=gymnasium", "env.id=CartPole-v1", f"env.kwargs.{typed}"]).env
    key, value = typed.replace("'", "").split("=")
    kwargs = env.keywords["kwargs"]
    assert (kwargs["settings"]["name"] if key == "settings.name" else kwargs[key]) == value


def test_dictionaries_and_interpolations_are_no_texts() -> None:
    typed = ["env.kwargs={port: 3, name: '{index}'}", "env.kwargs.seed=${seed}"]
    env = compose(["env=gymnasium", "env.id=CartPole-v1", "seed=7", *typed]).env
    assert env.keywords["kwargs"] == {"port": 3, "name": "{index}", "seed": 7}


@pytest.mark.parametrize(
    "text", ["{indx}", "run-{Index}", "{index-1}", "{index:03}", "{seed}", "{i}", {"deep": ["{idx}"]}]
)
def test_what_is_meant_as_index_and_is_not_written_so_is_named(text: Any) -> None:
    with pytest.raises(ValueError, match=r"kwargs.port holds \{.*\}, which stands for nothing; .*\{index\}"):
        GymnasiumEnv("CartPole-v1", kwargs={"port": text})


def test_other_braces_are_texts() -> None:
    texts = ["{name}", "{0}", "{}", "{'index': 1}", '{"seed": 3}', "{episode}"]
    assert EachKwargs({"given": texts}).of(0) == {"given": texts}


@pytest.mark.parametrize(
    ("make", "said"),
    [("weird.factory", "weird:factory for example"), ("factory", "not written as module:callable")],
)
def test_a_factory_that_is_not_written_as_module_and_callable_is_named(make: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GymnasiumEnv(make=make)


class Track(Numbered):
    def __init__(self, map_name: str, *, laps: int, size: int = 3) -> None:
        super().__init__()


class Inner(Numbered):
    def __init__(self) -> None:
        def helper(board: int) -> None: ...

        helper()  # type: ignore[call-arg]
        super().__init__()


@pytest.mark.parametrize("named", [{"make": f"{__name__}:Track"}, {"id": "Track-v0"}])
def test_arguments_that_have_to_be_given_are_written_down_as_they_are_typed(named: dict[str, str]) -> None:
    gymnasium.register("Track-v0", Track)
    try:
        with pytest.raises(ValueError, match=r"'map_name'.*; env.kwargs.map_name=... gives what it needs"):
            GymnasiumEnv(num_envs=1, **named)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"'laps'.*; env.kwargs.laps=... gives what it needs"):
            GymnasiumEnv(num_envs=1, **named, kwargs={"map_name": "oval"})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="unexpected keyword argument 'wide'") as caught:
            GymnasiumEnv(num_envs=1, **named, kwargs={"map_name": "oval", "laps": 2, "wide": 1})  # type: ignore[arg-type]
        assert "gives what it needs" not in str(caught.value)
        with pytest.raises(ValueError, match="'board'$"):
            GymnasiumEnv(num_envs=1, make=Inner)
        with pytest.raises(ValueError, match=r"env.kwargs.map_name=... gives what it needs"):
            VectorisedEnv("Track-v0", num_envs=2)
    finally:
        del gymnasium.registry["Track-v0"]


class Pictured(Numbered):
    def __init__(self, render_mode: str) -> None:
        super().__init__()
        self.render_mode = render_mode


def test_pictures_are_asked_for_though_another_render_mode_was_typed() -> None:
    env = GymnasiumEnv(make=Pictured, kwargs={"render_mode": "text"}, render_mode="rgb_array")
    assert env.render_mode == "rgb_array"
    env.close()


class Forgetful(Numbered):
    """Draws what it was asked for, and does not keep what that was."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode: str) -> None:
        super().__init__()

    def render(self) -> Any:
        return np.zeros((2, 3, 3), np.uint8)


def test_an_environment_that_lists_a_render_mode_and_forgets_it_is_filmed() -> None:
    env = GymnasiumEnv(make=Forgetful, render_mode="rgb_array")
    env.reset(0)
    assert env.render().shape == (2, 3, 3)
    env.close()


REGISTERING = """
import gymnasium
from gymnasium.envs.registration import register

def register_envs(prefix=""):
    gymnasium.register(f"{prefix}Late-v0", "tests.envs.test_ways_in:Numbered")

def register_everything():
    raise AssertionError("not meant by its name")
"""


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package whose environments are registered by a function, as `package.register_envs()`."""
    (tmp_path / "late_package.py").write_text(REGISTERING)
    monkeypatch.syspath_prepend(tmp_path)
    yield "late_package"
    sys.modules.pop("late_package", None)
    gymnasium.registry.pop("Late-v0", None)


@BOTH
def test_what_a_package_registers_by_a_function_is_found_by_its_id(late: str, vectorization: Any) -> None:
    env = GymnasiumEnv(f"{late}:Late-v0", num_envs=2, vectorization=vectorization, kwargs={"level": 3.0})
    assert env.reset(0)[0][:, 1].tolist() == [3.0, 3.0]
    env.close()


def test_so_it_is_where_gymnasium_makes_many_at_once(late: str) -> None:
    env = VectorisedEnv(f"{late}:Late-v0", num_envs=2, kwargs={"level": 3.0})
    assert env.reset(0)[0][:, 1].tolist() == [3.0, 3.0]
    env.close()


@pytest.fixture
def nested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package whose module `envs`, which nothing else imports, has an environment and registers it."""
    inside = tmp_path / "empty_package" / "envs"
    inside.mkdir(parents=True)
    (inside.parent / "__init__.py").touch()
    (inside / "__init__.py").write_text(
        "import gymnasium\nfrom tests.envs.test_ways_in import Numbered as Inner\n"
        "gymnasium.register('Inside-v0', Inner)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "empty_package"
    gymnasium.registry.pop("Inside-v0", None)
    for name in ("empty_package", "empty_package.envs"):
        sys.modules.pop(name, None)


def test_what_a_package_registers_in_its_module_envs_is_found_too(nested: str) -> None:
    env = GymnasiumEnv(f"{nested}:Inside-v0", num_envs=1, kwargs={"level": 3.0})
    assert env.reset(0)[0][:, 1].tolist() == [3.0]
    env.close()
    with pytest.raises(ValueError, match="no environment that Gymnasium knows; the closest known: Inside"):
        GymnasiumEnv(f"{nested}:Insider-v0")


@BOTH
def test_so_is_a_class_that_only_this_module_has(nested: str, vectorization: Any) -> None:
    given = {"level": 3.0}
    env = GymnasiumEnv(make=f"{nested}:Inner", num_envs=2, vectorization=vectorization, kwargs=given)
    assert env.reset(0)[0][:, 1].tolist() == [3.0, 3.0]
    env.close()
    with pytest.raises(ValueError, match="module 'empty_package' has no attribute 'Outer'"):
        GymnasiumEnv(make=f"{nested}:Outer")


def test_an_id_that_is_not_among_them_is_named_with_the_closest(late: str) -> None:
    with pytest.raises(ValueError, match="no environment that Gymnasium knows; the closest known: Late-v0"):
        GymnasiumEnv(f"{late}:Later-v0")
