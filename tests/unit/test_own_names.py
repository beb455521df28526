"""Names that classes had before the package had one name of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from equipoise.envs.goal.environment import Goal
from equipoise.trainer.configuration.checking import check
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.constructors import find_class
from equipoise.trainer.configuration.own_names import canonical, with_own_names

STAGE = "trainer.stages.gradient_scaling.GradientScaling"


def test_an_old_name_is_ours_wherever_the_command_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert canonical(STAGE) == f"equipoise.{STAGE}"  # from the clone, where Python finds a package `trainer`
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path, "trainer").is_dir() is False])
    assert canonical(STAGE) == f"equipoise.{STAGE}"
    assert canonical("envs.goal.Goal") == "equipoise.envs.goal.Goal"
    assert find_class(canonical("envs.goal.Goal")) is Goal
    for other in (f"equipoise.{STAGE}", "envs.nowhere.Env", "torch.optim.Adam", "Env", "trainer"):
        assert canonical(other) == other


def test_a_module_of_the_users_wins_where_it_is_his(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched = tmp_path / "touched"
    for file in ("envs/__init__.py", "envs/mine.py", "envs/moving.py", "trainer.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(f"open({str(touched)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    assert canonical("envs.mine.Mine") == "envs.mine.Mine"
    assert canonical("envs.moving.Moving") == "envs.moving.Moving"
    assert canonical("envs.goal.Goal") == "equipoise.envs.goal.Goal"
    assert canonical(STAGE) == f"equipoise.{STAGE}"
    assert canonical("trainer.Own") == "trainer.Own"
    assert not touched.exists()  # found, and not imported


def test_a_configuration_with_old_names_is_that_with_new_ones() -> None:
    new = compose(["env=goal"]).plain()
    old = {**new, "env": {**new["env"], "_target_": new["env"]["_target_"].removeprefix("equipoise.")}}
    assert check(old) == check(old, allow=()) == check(new)
    nested = {"a": [{"_target_": "envs.goal.Goal"}], "b": "envs.goal.Goal"}
    assert with_own_names(nested) == {"a": [{"_target_": "equipoise.envs.goal.Goal"}], "b": "envs.goal.Goal"}
