"""A checkpoint from somebody else: nothing that it names is imported or called, unless the user allows it.

The modules that it names leave a mark when they are imported.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import pytest
import torch

from equipoise.commands import child
from equipoise.trainer import evaluate, export, play, run
from equipoise.trainer.build import build
from equipoise.trainer.configuration.checking import check
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.imports import may_import
from equipoise.trainer.restore import restore
from equipoise.trainer.system import checkpoint

MARK = "marked_module"
SOURCE = """
from pathlib import Path
Path(__file__).with_name("imported").touch()

class Thing:
    def __init__(self, **keywords):
        Path(__file__).with_name("called").touch()

    step = actor = forward = losses = __init__
"""
TARGET = {"_target_": f"{MARK}.Thing"}
TINY = (
    "env=catch_point",
    "env.num_envs=4",
    "batch=debugging",
    "trainer.batch.rollout_steps=4",
    "trainer.total_env_steps=16",
    "trainer.eval_every=0",
    "trainer.final_eval_episodes=1",
    "device=cpu",
)


class Marked(NamedTuple):
    folder: Path

    def untouched(self) -> bool:
        here = [self.folder / name for name in ("imported", "called")]
        return MARK not in sys.modules and not any(path.exists() for path in here)


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Marked]:
    """A module beside the checkpoint, in the current folder, which is on the path."""
    (tmp_path / f"{MARK}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield Marked(tmp_path)
    sys.modules.pop(MARK, None)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The state of a short run."""
    folder = tmp_path_factory.mktemp("honest")
    build(compose(TINY), folder).train()
    return checkpoint.load(folder / "checkpoints" / "last.pt")


def changed(state: Mapping[str, Any], key: str, value: Any) -> Path:
    """A checkpoint in the current folder, its configuration changed in one place; the checksum is right."""
    config = dict(state["config"])
    *sections, last = key.split(".")
    place = config
    for name in sections:
        place[name] = dict(place.get(name, {}))
        place = place[name]
    place[last] = value
    path = Path("run", "checkpoints", "last.pt")
    checkpoint.save(path, {**state, "config": config})
    return path


COMMANDS: dict[str, Callable[[], int]] = {
    "evaluate": evaluate.main,
    "play": play.main,
    "export": export.main,
    "resume": run.main,
}


def command(name: str, path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    key = "resume" if name == "resume" else "checkpoint"
    episodes = ["episodes=1"] if name in ("evaluate", "play") else []
    monkeypatch.setattr(sys, "argv", [name, f"{key}={path}", *episodes, *more])
    return COMMANDS[name]()


GYMNASIUM = {"_target_": "equipoise.envs.gymnasium_adapter.GymnasiumEnv", "num_envs": 4}
ACTING = {
    "env": ("env._target_", TARGET["_target_"]),
    "env.id": ("env", {**GYMNASIUM, "id": f"{MARK}:Thing-v0"}),
    "plugin": ("env", {**GYMNASIUM, "id": "Marked/Thing-v0"}),
    "latest": ("env", {**GYMNASIUM, "id": "Marked/Thing"}),
    "plugin by another's name": ("env", {**GYMNASIUM, "id": "gymnasium.envs:Marked/Thing-v0"}),
    "callable": ("env", {**GYMNASIUM, "make": f"{MARK}:Thing"}),
    "wrapper": ("env", {**GYMNASIUM, "id": "CartPole-v1", "wrappers": [f"{MARK}.Thing"]}),
    "wrapper with keywords": ("env", {**GYMNASIUM, "id": "CartPole-v1", "wrappers": [TARGET]}),
    "argument": ("env", {**GYMNASIUM, "id": "CartPole-v1", "kwargs": {"deep": [TARGET]}}),
    "argument of a copy": ("env", {**GYMNASIUM, "id": "CartPole-v1", "kwargs_each": {"deep": [TARGET]}}),
    "policy": ("policy._target_", TARGET["_target_"]),
    "encoder": ("policy.encoder", TARGET),
    "critic_encoder": ("policy.critic_encoder", TARGET),
    "inside": ("policy.encoder.parts", {"camera": [TARGET]}),
    "keyword": ("env.something", {"deep": TARGET}),
}  # fmt: skip
LEARNING = {
    "optimizer": ("optimizer._target_", TARGET["_target_"]),
    "stage": ("trainer.value_clipping._target_", TARGET["_target_"]),
    "callback": ("callbacks", [TARGET]),
    "logger": ("loggers", ["jsonl", TARGET]),
}
UNUSED = {"other stage": ("trainer.another", TARGET)}


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that some installed package has registered."""
    spec = gymnasium.envs.registration.EnvSpec("Marked/Thing-v0", entry_point=f"{MARK}:Thing")
    monkeypatch.setitem(gymnasium.registry, "Marked/Thing-v0", spec)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("where", [*ACTING, *LEARNING])
def test_a_command_refuses_it_in_one_sentence_or_does_not_look(
    name: str,
    where: str,
    marked: Marked,
    honest: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = command(name, changed(honest, *{**ACTING, **LEARNING}[where]), monkeypatch)
    assert marked.untouched()
    error = capsys.readouterr().err
    if where in LEARNING and name != "resume":
        assert (status, error) == (0, "")
    else:
        assert status == 2
        assert len(error.splitlines()) == 1
        assert f"add allow=[{MARK}]" in error


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_run_does_not_use_is_never_imported(
    name: str, marked: Marked, honest: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in UNUSED.values():
        assert command(name, changed(honest, key, value), monkeypatch) == 0
    assert marked.untouched()


def test_from_python(marked: Marked, honest: Mapping[str, Any]) -> None:
    for where in ACTING:
        with pytest.raises(ConfigError, match=rf"allow=\[{MARK}\]"):
            restore(changed(honest, *ACTING[where]), "cpu")
    for where in (*LEARNING, *UNUSED):
        restore(changed(honest, *{**LEARNING, **UNUSED}[where]), "cpu")
    assert marked.untouched()


def test_all_that_has_to_be_allowed_is_named_at_once(marked: Marked, honest: Mapping[str, Any]) -> None:
    path = changed(honest, *ACTING["env"])
    state = checkpoint.load(path)
    state["config"]["policy"]["encoder"] = {"_target_": "other.place.Net"}
    checkpoint.save(path, state)
    with pytest.raises(ConfigError, match=rf"allow=\[{MARK},other\]"):
        restore(path, "cpu")
    assert marked.untouched()
    with pytest.raises(ConfigError, match=rf"allow=\[{MARK},other\]"):
        restore(path, "cpu", allow=[MARK])


@pytest.mark.parametrize("allow", [f"allow=[{MARK}]", f"allow={MARK}", f"allow=[json, '{MARK}']"])
def test_what_is_allowed_is_imported_and_checked_as_usual(
    allow: str,
    marked: Marked,
    honest: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("evaluate", changed(honest, *ACTING["encoder"]), monkeypatch, allow) == 2
    assert (marked.folder / "called").exists()
    assert "must be a torch.nn.Module" in capsys.readouterr().err


def test_what_this_package_imports_for_itself_is_not_its_own(
    honest: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`functools.partial` would call anything."""
    monkeypatch.chdir(tmp_path)
    for target in ("equipoise.trainer.rollout.partial", "equipoise.trainer.build.Path"):
        borrowed = {"_target_": target}
        with pytest.raises(ConfigError, match="names code that is not Equipoise's"):
            restore(changed(honest, "policy.encoder", borrowed), "cpu")


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (None, "no policy is in it"),
        ({}, "no policy is in it"),
        ({"value_head.bias": 3}, "no policy is in it"),
        ({"value_head.bias": torch.zeros(1)}, "Missing key"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_a_sentence(
    weights: Any, reason: str, honest: Mapping[str, Any], tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "last.pt", {**honest, "policy": weights})
    with pytest.raises(ConfigError, match=f"do not fit its configuration: .*{reason}") as error:
        restore(tmp_path / "last.pt", "cpu")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "make",
    [
        "equipoise.trainer.configuration.constructors:find_class",
        "gymnasium.envs.registration:load_env_creator",
    ],
)
def test_a_function_that_imports_by_name_is_not_lent(
    make: str, honest: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kwargs = {"target": f"{MARK}.Thing", "name": f"{MARK}:Thing"}
    with pytest.raises(ConfigError, match="names code that is not Equipoise's"):
        restore(changed(honest, "env", {**GYMNASIUM, "make": make, "kwargs": kwargs}), "cpu")


@pytest.mark.parametrize(
    ("name", "allow", "may"),
    [
        ("equipoise.envs.moving.Moving", (), True),
        ("equipoise.trainer.policy.encoders.MLP", (), True),
        ("equipoise.scripts.peers.rllib", (), False),
        ("equipoise_extra.Thing", (), False),
        ("equipoise.envsx.Thing", (), False),
        ("mine.envs.Tank", ("mine",), True),
        ("mine.envs.Tank", ("mine.envs",), True),
        ("mine.envs.Tank", ("mine.env",), False),
        ("mine_too.Tank", ("mine",), False),
        ("torch.optim.Adam", (), False),
    ],
)
def test_whose_code_a_name_is(name: str, allow: tuple[str, ...], may: bool) -> None:
    assert may_import(name, allow) is may


@pytest.mark.parametrize("where", ["env", "callable", "policy", "stage"])
def test_a_run_that_starts_from_its_weights_looks_at_nothing_else(
    where: str, marked: Marked, honest: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(honest, *{**ACTING, **LEARNING}[where])
    monkeypatch.setattr(sys, "argv", ["train", *TINY, f"init_from={path}", "hydra.run.dir=new"])
    assert run.main() == 0
    assert Path("new", "summary.json").exists()
    assert marked.untouched()


def test_gymnasiums_own_environments_and_optimizers_need_no_leave() -> None:
    config = compose(["env=gymnasium", "env.id=CartPole-v1", "optimizer._target_=torch.optim.RMSprop"])
    assert check(config.plain(), allow=()) == config


def test_the_command_imports_nothing_from_the_folder_that_it_is_started_in(
    marked: Marked, honest: Mapping[str, Any]
) -> None:
    """A file with the name of an installed package is not taken for it."""
    (marked.folder / "rich.py").write_text(SOURCE)
    path = changed(honest, *LEARNING["stage"])
    _, environment = child("evaluate")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "equipoise", "evaluate", f"checkpoint={path}", "episodes=1"],
        env=environment,
        cwd=marked.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert marked.untouched()
