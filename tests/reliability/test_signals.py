"""Signals at every phase of a run, `kill -9` at random moments, and a disk that is full for a while.

`EQUIPOISE_KILLS=50 pytest tests/reliability/test_signals.py -k kill_9_at_random` kills more often.
"""

from __future__ import annotations

import functools
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest

from equipoise.trainer.system import checkpoint
from equipoise.trainer.system.checkpoint import CheckpointError
from tests.integration.test_training import assert_same
from tests.reliability.disturbed import fires, send
from tests.reliability.processes import Run, assert_curves_are_whole, lines, run, state, summary, toy

KILLS = int(os.environ.get("EQUIPOISE_KILLS", "4"))
AUTO_KILLS = 30
SIGNALLING_ENV = "tests.reliability.disturbed.SignallingEnv"
EVALUATION_ENV = 2  # the second one that a process makes
COLLECT_4 = 3 * 8 + 5  # a step of the fourth iteration


def in_env(name: str, **keywords: object) -> list[str]:
    return [f"env.signal={name}", *(f"env.{key}={value}" for key, value in keywords.items())]


def in_update(name: str, at: int) -> list[str]:
    stage = "trainer.signalling._target_=tests.reliability.disturbed.SignallingStage"
    return [
        stage,
        f"trainer.signalling.signal={name}",
        f"trainer.signalling.at={at}",
        "trainer.stages=[reward_normalization,advantage_weighting,signalling,gradient_scaling]",
    ]


PHASES = {  # where the signal comes, what is asked for, how many iterations are done then
    "collect": ("SIGINT", in_env("SIGINT", at=COLLECT_4), 4),
    "update": ("SIGTERM", in_update("SIGTERM", at=4 * 4 - 1), 4),
    "evaluation before": ("SIGTERM", in_env("SIGTERM", at=17, instance=EVALUATION_ENV), 0),
    "evaluate": ("SIGTERM", in_env("SIGTERM", at=37, instance=EVALUATION_ENV), 2),
    "final evaluation": (
        "SIGINT",
        ["trainer.eval_every=0", *in_env("SIGINT", at=17, instance=EVALUATION_ENV)],
        6,
    ),
}


def disturbed(run_dir: Path, marker: Path, *overrides: str) -> list[str]:
    stage = [f"trainer.signalling.marker={marker}"] if any("signalling" in o for o in overrides) else []
    return toy(run_dir, *overrides, f"env.marker={marker}", *stage, env=SIGNALLING_ENV)


def assert_the_same_as_undisturbed(tmp_path: Path, run_dir: Path, arguments: list[str]) -> None:
    """`run_dir` is finished and equals a run with the same configuration through which nothing went."""
    other = tmp_path / "undisturbed"
    whole = run(tmp_path, *arguments, f"hydra.run.dir={other}")
    assert whole.code == 0, whole.output
    assert summary(run_dir)["status"] == "finished"
    assert_same(state(run_dir), state(other))
    assert lines(run_dir) == lines(other)
    assert_curves_are_whole(run_dir)


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_leaves_a_run_that_can_be_resumed(tmp_path: Path, phase: str) -> None:
    name, overrides, iterations = PHASES[phase]
    run_dir, marker = tmp_path / "run", tmp_path / "marker"
    arguments = disturbed(run_dir, marker, *overrides)
    marker.touch()
    ended = run(tmp_path, *arguments)
    assert not marker.exists()  # it happened
    assert ended.code == 128 + getattr(signal, name), ended.output
    assert "Traceback" not in ended.output
    found = summary(run_dir)
    assert (found["status"], found["iterations"]) == ("interrupted", iterations)
    assert state(run_dir)["iteration"] == len(lines(run_dir)) == iterations
    resumed = run(tmp_path, f"resume={run_dir}")
    assert resumed.code == 0, resumed.output
    assert_the_same_as_undisturbed(tmp_path, run_dir, arguments)


def signal_while_saving(marker: Path) -> None:
    """From the third fsync of a checkpoint on, if the marker is there."""
    fsync, seen = os.fsync, []

    def disturbed_fsync(number: int) -> None:
        seen.append(number)
        if len(seen) > 8 and fires(str(marker)):
            send("SIGTERM")
        fsync(number)

    os.fsync = disturbed_fsync


def test_a_signal_while_saving(tmp_path: Path) -> None:
    run_dir, marker = tmp_path / "run", tmp_path / "marker"
    arguments = toy(run_dir)
    marker.touch()
    ended = run(tmp_path, *arguments, prepare=functools.partial(signal_while_saving, marker))
    assert not marker.exists()
    assert ended.code == 128 + signal.SIGTERM, ended.output
    assert summary(run_dir)["status"] == "interrupted"
    assert 0 < summary(run_dir)["iterations"] < 6
    assert run(tmp_path, f"resume={run_dir}").code == 0
    assert_the_same_as_undisturbed(tmp_path, run_dir, arguments)


def test_a_second_signal_leaves_at_once_with_the_last_checkpoint(tmp_path: Path) -> None:
    run_dir, marker = tmp_path / "run", tmp_path / "marker"
    arguments = disturbed(run_dir, marker, *in_env("SIGTERM", at=COLLECT_4, times=2))
    marker.touch()
    ended = run(tmp_path, *arguments)
    assert ended.code == 128 + signal.SIGTERM
    assert "Traceback" not in ended.output
    assert summary(run_dir)["status"] == "interrupted"
    assert state(run_dir)["iteration"] == 3  # the fourth was left undone
    assert run(tmp_path, f"resume={run_dir}").code == 0
    assert_the_same_as_undisturbed(tmp_path, run_dir, arguments)


def test_a_signal_ends_a_whole_sweep(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.touch()
    arguments = disturbed(tmp_path / "unused", marker, *in_env("SIGINT", at=COLLECT_4))[:-1]
    ended = run(tmp_path, "-m", *arguments, f"env.marker={marker}", "seed=1,2", "hydra.sweep.dir=sweep")
    assert ended.code == 128 + signal.SIGINT, ended.output
    assert [summary(path.parent)["status"] for path in tmp_path.rglob("summary.json")] == ["interrupted"]


def test_before_the_first_checkpoint_there_is_nothing_to_resume_and_that_is_said(tmp_path: Path) -> None:
    run_dir, marker = tmp_path / "run", tmp_path / "marker"
    marker.touch()
    ended = run(tmp_path, *disturbed(run_dir, marker, *in_env("SIGKILL", at=3)))
    assert ended.code == -signal.SIGKILL
    resumed = run(tmp_path, f"resume={run_dir}")
    assert resumed.code == 2
    assert resumed.output.splitlines() == [
        f"Configuration error: resume: {run_dir} has no checkpoint: the run ended before its first one, "
        f"so start it again (resume=auto hydra.run.dir={run_dir}, with its settings)"
    ]


def test_kill_9_at_random_moments_costs_nothing_but_time(tmp_path: Path) -> None:
    """A run that is killed, resumed and killed again until it is through equals one in peace."""
    longer = ("trainer.total_env_steps=1_280", "trainer.keep_every=4")
    whole = tmp_path / "whole"
    peaceful = Run(tmp_path, *toy(whole, *longer))
    assert peaceful.end().code == 0
    seconds = summary(whole)["seconds"]
    dice = random.Random(1)
    kills = early = rounds = 0
    while kills < KILLS:
        rounds += 1
        run_dir = tmp_path / f"run-{rounds}"
        arguments = toy(run_dir, *longer)
        while True:
            process = Run(tmp_path, *arguments)
            wait_for_training(process, run_dir)
            process.process.join(dice.uniform(0.0, seconds / 2))
            process.process.kill()
            ended = process.end()
            if ended.code != -signal.SIGKILL:
                assert ended.code == 0, ended.output
                break
            kills += 1
            try:
                checkpoint.newest(run_dir)
            except CheckpointError as error:
                early += 1
                assert "ended before its first one" in str(error)
                run_dir = tmp_path / f"run-{rounds}-{kills}"
                arguments = toy(run_dir, *longer)
            else:
                last = run_dir / "checkpoints" / "last.pt"
                assert not last.exists() or checkpoint.load(last)
                arguments = [f"resume={run_dir}"]
        assert_same(state(run_dir), state(whole))
        assert lines(run_dir) == lines(whole)
        assert_curves_are_whole(run_dir)
    print(f"{kills} kills, {early} before the first checkpoint, {rounds} runs, all as undisturbed")


@pytest.mark.slow
def test_a_job_that_is_killed_30_times_from_its_first_second_on_ends_as_if_it_never_was(
    tmp_path: Path,
) -> None:
    """`resume=auto`, and the same command again and again, as a scheduler types it."""
    longer = ("trainer.total_env_steps=7_680", "trainer.checkpoint_every=2", "trainer.eval_every=20")
    whole = tmp_path / "whole"
    assert run(tmp_path, "--help").code == 0  # what all processes share has been imported
    began = time.monotonic()
    peaceful = Run(tmp_path, *toy(whole, *longer))
    wait_for_training(peaceful, whole)
    until_it_trains = time.monotonic() - began
    assert peaceful.end().code == 0
    dice = random.Random(2)
    kills = early = rounds = 0
    while kills < AUTO_KILLS:
        rounds += 1
        run_dir = tmp_path / f"run-{rounds}"
        command = toy(run_dir, *longer, "resume=auto")
        ended = -signal.SIGKILL
        while ended == -signal.SIGKILL:
            process = Run(tmp_path, *command)
            later = 0.9 if kills < 8 else 1.4  # at first there is no checkpoint, or no folder
            seconds = dice.uniform(0.0, later * until_it_trains) if kills < AUTO_KILLS else None
            process.process.join(seconds)
            process.process.kill()
            ended, output = process.end().code, process.output
            early += ended != 0 and not (run_dir / "checkpoints").exists()
            kills += ended == -signal.SIGKILL
        assert ended == 0, output
        assert_same(state(run_dir), state(whole))
        assert lines(run_dir) == lines(whole)
        assert_curves_are_whole(run_dir)
        assert sorted(path.name for path in run_dir.iterdir() if "events" not in path.name) == sorted(
            path.name for path in whole.iterdir() if "events" not in path.name
        )
    print(f"{kills} kills, {early} before the first checkpoint, {rounds} runs, all as undisturbed")


def wait_for_training(process: Run, run_dir: Path) -> None:
    """Until the run has begun to write: before that a kill interrupts nothing but imports."""
    before = (run_dir / "config.yaml").stat().st_mtime_ns if (run_dir / "config.yaml").exists() else 0
    while process.process.is_alive():
        if (run_dir / "config.yaml").exists() and (run_dir / "config.yaml").stat().st_mtime_ns > before:
            return
        time.sleep(0.001)


def limit_file_size(process: Run, limit: int) -> None:
    """What a full disk does, to one process: no file may grow beyond `limit` bytes."""
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, hard))


def wait_for(process: Run, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in process.output:
        assert process.process.is_alive(), process.output
        assert time.monotonic() < deadline, process.output
        time.sleep(0.005)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
@pytest.mark.parametrize("choice", ["stop", "warn"])
def test_a_full_disk(tmp_path: Path, choice: str) -> None:
    run_dir = tmp_path / "run"
    endless = ("trainer.total_env_steps=1_000_000", "trainer.eval_every=0", f"trainer.on_save_error={choice}")
    process = Run(tmp_path, *toy(run_dir, *endless))
    wait_for_training(process, run_dir)
    deadline = time.monotonic() + 60
    while not (run_dir / "checkpoints" / "last.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    limit_file_size(process, 1_024)
    if choice == "stop":
        ended = process.end()
        assert ended.code == 1
        assert "could not write the checkpoint" in ended.output or "cannot write to" in ended.output
        assert "File too large" in ended.output
        assert "Traceback" not in ended.output
        before = checkpoint.load(run_dir / "checkpoints" / "last.pt")  # the older one is whole
        resumed = run(tmp_path, f"resume={run_dir}", f"trainer.total_env_steps={before['env_steps'] + 128}")
        assert resumed.code == 0, resumed.output
        assert_curves_are_whole(run_dir)
        return
    wait_for(process, "the run goes on")
    before = checkpoint.load(run_dir / "checkpoints" / "last.pt")
    time.sleep(0.3)
    assert process.process.is_alive()
    assert checkpoint.load(run_dir / "checkpoints" / "last.pt")["iteration"] == before["iteration"]
    limit_file_size(process, resource.RLIM_INFINITY)
    while checkpoint.load(run_dir / "checkpoints" / "last.pt")["iteration"] == before["iteration"]:
        assert process.process.is_alive(), process.output
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    ended = process.end()
    assert ended.code == 128 + signal.SIGTERM, ended.output
    assert "Traceback" not in ended.output
    assert_curves_are_whole(run_dir)  # what could not be written was written later


def no_file_beyond_a_kilobyte() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, resource.RLIM_INFINITY))


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    ended = run(tmp_path, *toy(tmp_path / "run"), prepare=no_file_beyond_a_kilobyte)
    assert ended.code == 1
    assert ended.output.splitlines() == [
        f"The run ended with an error. cannot write to {tmp_path / 'run'}: File too large"
    ]
    assert not (tmp_path / "run").exists()  # nothing half-written that one would try to resume
