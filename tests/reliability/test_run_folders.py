"""Whose a run folder is: nothing of the user's is removed, overwritten or cut off, and one run writes at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import hydra.core.utils
import pytest

from equipoise.trainer import build as building
from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.system import checkpoint
from tests.integration.test_training import assert_same
from tests.reliability.processes import (
    Run,
    assert_curves_are_whole,
    lines,
    run,
    state,
    summary,
    toy,
)

SIGNALLING = "tests.reliability.disturbed.SignallingEnv"


class Frozen(datetime):
    @classmethod
    def now(cls, tz: object = None) -> Frozen:  # type: ignore[override]
        return cls(2026, 1, 2, 12, 0, 0)


def at_noon() -> None:
    hydra.core.utils.datetime = Frozen  # type: ignore[attr-defined]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stopped_before_its_first_checkpoint(tmp_path: Path, run_dir: Path, *overrides: str) -> None:
    """Killed in its first iteration."""
    marker = tmp_path / "marker"
    marker.touch()
    kill = ("env.signal=SIGKILL", "env.at=3", f"env.marker={marker}")
    assert run(tmp_path, *toy(run_dir, *kill, *overrides, env=SIGNALLING)).code == -signal.SIGKILL
    assert (run_dir / "config.yaml").exists()
    assert not list(run_dir.rglob("*.pt"))


def test_a_run_that_never_began_removes_the_folders_that_were_made_for_it_and_no_others(
    tmp_path: Path,
) -> None:
    prepared = tmp_path / "prepared" / "empty"
    prepared.mkdir(parents=True)
    for run_dir in (prepared, prepared / "deep" / "run"):
        refused = run(tmp_path, *toy(run_dir, "seed=x"))
        assert refused.code == 2
        assert list(prepared.iterdir()) == []
    failing = toy(
        prepared / "deep" / "run", "env.fault=constructor", env="tests.reliability.disturbed.FaultyEnv"
    )
    assert run(tmp_path, *failing).code == 1
    assert list(prepared.iterdir()) == []


def test_a_folder_with_files_of_the_users_is_not_touched(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.yaml").write_text("project: mine\n")
    (mine / "metrics.jsonl").write_text("mine\n")
    before = snapshot(mine)
    for more in ([], ["resume=auto"]):
        refused = run(tmp_path, *toy(mine, *more))
        assert refused.code == 2
        assert "holds a config.yaml or checkpoints that is no run's" in refused.output
    refused = run(tmp_path, f"resume={mine}")
    assert refused.code == 2
    assert "is no run folder" in refused.output
    assert snapshot(mine) == before


def test_a_copied_checkpoint_goes_on_in_a_folder_of_its_own(tmp_path: Path) -> None:
    run_dir, mine = tmp_path / "run", tmp_path / "mine"
    assert run(tmp_path, *toy(run_dir)).code == 0
    mine.mkdir()
    shutil.copy(run_dir / "checkpoints" / "last.pt", mine / "policy.pt")
    for name in ("config.yaml", "metrics.jsonl", "summary.json", "failure.txt"):
        (mine / name).write_text("mine\n")
    before = snapshot(tmp_path / "mine") | snapshot(run_dir)
    more = "trainer.total_env_steps=512"
    ended = run(tmp_path, f"resume={mine / 'policy.pt'}", more)
    assert ended.code == 0, ended.output
    (own,) = tmp_path.glob("runs/*/*")
    assert f"goes on in runs/{own.parent.name}/{own.name}" in ended.output
    chosen = run(tmp_path, f"resume={mine / 'policy.pt'}", more, f"hydra.run.dir={tmp_path / 'chosen'}")
    assert chosen.code == 0, chosen.output
    for folder in (own, tmp_path / "chosen"):
        assert [row["iteration"] for row in lines(folder)] == [7, 8]
        assert summary(folder)["env_steps"] == 512
    assert snapshot(tmp_path / "mine") | snapshot(run_dir) == before


def test_going_on_from_an_older_checkpoint_keeps_the_later_history(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert run(tmp_path, *toy(run_dir, "trainer.keep_every=2")).code == 0
    rows, last, best = lines(run_dir), state(run_dir), (run_dir / "checkpoints" / "best.pt").read_bytes()
    older = run_dir / "checkpoints" / "iteration_00000002.pt"
    resumed = run(tmp_path, f"resume={older}", "optimizer.learning_rate=0.01", "trainer.total_env_steps=256")
    assert resumed.code == 0, resumed.output
    kept = run_dir / "until-00000006"
    assert f"kept in {kept}, a run folder of its own" in resumed.output
    assert lines(kept) == rows
    assert_same(state(kept), last)
    assert (kept / "checkpoints" / "best.pt").read_bytes() == best
    assert_curves_are_whole(kept)
    assert lines(run_dir)[:2] == rows[:2]
    assert lines(run_dir)[2]["loss/value"] != rows[2]["loss/value"]
    assert [row["iteration"] for row in lines(run_dir)] == [1, 2, 3, 4]
    assert not (run_dir / "checkpoints" / "iteration_00000006.pt").exists()
    again = run(tmp_path, f"resume={kept}")  # it is a run
    assert again.code == 0, again.output
    assert_same(state(kept), last)


def test_a_run_that_is_killed_and_goes_on_keeps_nothing_aside(tmp_path: Path) -> None:
    run_dir, marker = tmp_path / "run", tmp_path / "marker"
    marker.touch()
    seldom = ("trainer.checkpoint_every=2", f"env.marker={marker}", "env.signal=SIGKILL", "env.at=28")
    assert run(tmp_path, *toy(run_dir, *seldom, env=SIGNALLING)).code == -signal.SIGKILL
    assert [row["iteration"] for row in lines(run_dir)] == [1, 2, 3]
    resumed = run(tmp_path, f"resume={run_dir}")
    assert resumed.code == 0, resumed.output
    assert not list(run_dir.glob("until-*"))
    assert_curves_are_whole(run_dir)


def wait_until(condition: Callable[[], bool], process: Run) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.process.is_alive(), process.output
        assert time.monotonic() < deadline, process.output
        time.sleep(0.01)


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    endless = toy(run_dir, "trainer.total_env_steps=1_000_000", "trainer.eval_every=0")
    first = Run(tmp_path, *endless)
    wait_until((run_dir / "checkpoints" / "last.pt").exists, first)
    for second in ([f"resume={run_dir}"], [*endless, "resume=auto"], endless):
        refused = run(tmp_path, *second)
        assert refused.code == 2, refused.output
        assert f"process {first.pid} on " in refused.output
        assert "one writer at a time" in refused.output
    first.process.kill()
    assert first.end().code == -signal.SIGKILL
    assert (run_dir / "run.lock").exists()
    done = state(run_dir)["env_steps"]
    resumed = run(tmp_path, f"resume={run_dir}", f"trainer.total_env_steps={done + 64}")
    assert resumed.code == 0, resumed.output
    assert_curves_are_whole(run_dir)
    assert not (run_dir / "run.lock").exists()


def test_who_was_taken_for_dead_stops_at_its_next_write(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    first = Run(tmp_path, *toy(run_dir, "trainer.total_env_steps=1_000_000", "trainer.on_save_error=warn"))
    wait_until((run_dir / "checkpoints" / "last.pt").exists, first)
    (tmp_path / "other").write_text("{}")
    (tmp_path / "other").replace(run_dir / "run.lock")
    ended = first.end()
    assert ended.code == 1
    assert f"another process has taken over {run_dir}" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("choice", ["stop", "warn"])
def test_a_folder_that_is_removed_during_the_run_is_noticed(tmp_path: Path, choice: str) -> None:
    run_dir = tmp_path / "run"
    endless = ("trainer.total_env_steps=1_000_000", "trainer.eval_every=0", f"trainer.on_save_error={choice}")
    process = Run(tmp_path, *toy(run_dir, *endless))
    wait_until((run_dir / "checkpoints" / "last.pt").exists, process)
    run_dir.rename(tmp_path / "gone")
    if choice == "warn":
        wait_until(lambda: "has been removed; the run goes on" in process.output, process)
        wait_until((run_dir / "checkpoints" / "last.pt").exists, process)
        os.kill(process.pid, signal.SIGTERM)
        assert process.end().code == 128 + signal.SIGTERM
        assert process.output.count("has been removed") == 1
        return
    ended = process.end()
    assert ended.code == 1
    assert f"the run folder {run_dir}, or run.lock in it, has been removed" in ended.output
    assert "Traceback" not in ended.output


def test_two_commands_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    arguments = [argument for argument in toy(tmp_path) if not argument.startswith("hydra.run.dir")]
    both = [Run(tmp_path, *arguments, prepare=at_noon) for _ in range(2)]
    assert [each.end().code for each in both] == [0, 0], both[0].output + both[1].output
    folders = sorted(tmp_path.glob("runs/*/*"))
    assert [folder.name for folder in folders] == ["2026-01-02_12-00-00-s1", "2026-01-02_12-00-00-s1-2"]
    assert_same(state(folders[0]), state(folders[1]))
    assert lines(folders[0]) == lines(folders[1])


def test_two_runs_of_the_same_second_from_python_get_folders_of_their_own(
    toy: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(building, "datetime", Frozen)
    for _ in range(3):
        build(toy())
    assert [path.name[19:] for path in sorted(tmp_path.glob("runs/*/*"))] == ["-s1", "-s1-2", "-s1-3"]


def test_from_python_a_folder_that_holds_a_run_is_refused(toy: Callable[..., Config], tmp_path: Path) -> None:
    build(toy(), tmp_path / "run").train()
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="already holds a run"):
        build(toy(), tmp_path / "run")
    assert snapshot(tmp_path) == before


def test_with_resume_auto_the_same_command_begins_and_goes_on_and_says_that_it_is_finished(
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "run"
    stopped_before_its_first_checkpoint(tmp_path, run_dir)
    again = [f"env.marker={tmp_path / 'marker'}", "env.signal=SIGTERM", "env.at=30"]
    command = toy(run_dir, *again, "resume=auto", env=SIGNALLING)
    refused = run(tmp_path, *command[:-1])
    assert "before its first checkpoint; start it again with resume=auto" in refused.output
    refused = run(tmp_path, f"resume={run_dir}")
    assert f"start it again (resume=auto hydra.run.dir={run_dir}" in refused.output
    (tmp_path / "marker").touch()
    assert run(tmp_path, *command).code == 128 + signal.SIGTERM
    assert 0 < state(run_dir)["iteration"] < 6
    ended = run(tmp_path, *command)
    assert ended.code == 0, ended.output
    undisturbed = run(tmp_path, *toy(tmp_path / "whole", *again, env=SIGNALLING))
    assert undisturbed.code == 0
    assert_same(state(run_dir), state(tmp_path / "whole"))
    assert lines(run_dir) == lines(tmp_path / "whole")
    assert_curves_are_whole(run_dir)
    before = snapshot(run_dir)
    finished = run(tmp_path, *command)
    assert finished.code == 0
    assert finished.output.splitlines() == [f"{run_dir}: the run is finished, with 384 steps"]
    assert snapshot(run_dir) == before
    other = run(tmp_path, *command, "seed=2")
    assert other.code == 2
    assert "seed cannot be changed" in other.output
    longer = run(tmp_path, *command, "trainer.total_env_steps=512")
    assert longer.code == 0, longer.output
    assert summary(run_dir)["env_steps"] == 512


def test_resume_auto_wants_a_folder_and_resume_null_is_none(tmp_path: Path) -> None:
    arguments = [argument for argument in toy(tmp_path) if not argument.startswith("hydra.run.dir")]
    refused = run(tmp_path, *arguments, "resume=auto")
    assert refused.code == 2
    assert "needs a folder that stays the same: hydra.run.dir=" in refused.output
    assert run(tmp_path, *toy(tmp_path / "run", "resume=null")).code == 0


def test_an_edited_config_is_not_overwritten_without_a_word(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert run(tmp_path, *toy(run_dir)).code == 0
    path = run_dir / "config.yaml"
    edited = path.read_text().replace("gamma: 0.99", "gamma: 0.5")
    path.write_text(edited)
    resumed = run(tmp_path, f"resume={run_dir}", "trainer.total_env_steps=512")
    assert resumed.code == 0
    assert (
        "differs from the checkpoint, whose configuration counts: trainer.gamma 0.99 -> 0.5" in resumed.output
    )
    assert (run_dir / "config-before-resume.yaml").read_text() == edited
    assert "gamma: 0.99" in path.read_text()
    assert json.loads((run_dir / "summary.json").read_text())["env_steps"] == 512
    assert checkpoint.load(run_dir / "checkpoints" / "last.pt")["config"]["trainer"]["gamma"] == 0.99
    assert "differs" not in run(tmp_path, f"resume={run_dir}").output
