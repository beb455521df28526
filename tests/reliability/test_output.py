"""Exit status and message follow what happened to the training, whatever stdout is."""

from __future__ import annotations

import functools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from equipoise.trainer.system.streams import lasting_streams
from tests.reliability.processes import Ended, run, state, summary, toy

ROOT = Path(__file__).parents[2]


def in_encoding(name: str) -> None:
    sys.stdout.reconfigure(encoding=name, errors="strict")  # type: ignore[attr-defined]
    sys.stderr.reconfigure(encoding=name, errors="strict")  # type: ignore[attr-defined]


def without_a_reader() -> None:
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)


def on_a_full_disk() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    os.dup2(full, 2)


def output(ended: Ended) -> str:
    assert "Traceback" not in ended.output
    return ended.output


def test_closed_streams(tmp_path: Path) -> None:
    """From the start of the interpreter on, which then has no `sys.stdout`."""
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "equipoise.trainer.run", *toy(run_dir)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    closed = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", *command]
    assert subprocess.run(closed, env=settings, check=False, timeout=300).returncode == 0
    assert summary(run_dir)["status"] == "finished"
    assert state(run_dir)["iteration"] == 6  # nothing was printed into it


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_streams_that_cannot_say_everything(tmp_path: Path, encoding: str) -> None:
    said = functools.partial(in_encoding, encoding)
    run_dir = tmp_path / "run"
    ended = run(tmp_path, *toy(run_dir), prepare=said)
    assert ended.code == 0, ended.output
    assert summary(run_dir)["status"] == "finished"
    for text in ("balance ratio, before -> after weighting", f"{run_dir}/checkpoints/best.pt"):
        assert text in output(ended)
    helped = run(tmp_path, "--help", prepare=said)
    assert helped.code == 0
    assert "a whole number >= 1" in output(helped)
    refused = run(tmp_path, "optimizer.learning_rate=0", prepare=said)
    assert refused.code == 2
    assert "optimizer.learning_rate = 0" in output(refused)


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    ended = run(tmp_path, *toy(run_dir), prepare=without_a_reader)
    assert (ended.code, ended.output) == (0, "")  # stderr is empty, too
    assert summary(run_dir)["status"] == "finished"
    ended = run(tmp_path, "--cfg", "job", prepare=without_a_reader)
    assert (ended.code, ended.output) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_on_a_full_disk(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert run(tmp_path, *toy(run_dir), prepare=on_a_full_disk).code == 0
    assert summary(run_dir)["status"] == "finished"
    assert run(tmp_path, "seed=x", prepare=on_a_full_disk).code == 2


def test_what_a_full_disk_had_no_room_for_is_written_when_there_is_some(tmp_path: Path) -> None:
    """In a process of its own, which may not write beyond 10 bytes into a file, and later may."""
    child = os.fork()
    if child == 0:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        os.dup2(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), 1)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        with lasting_streams():
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
            print("first line")
            print("second line")
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            print("third line")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "log").read_text() == "first line\nsecond line\nthird line\n"


def test_streams_of_a_test_or_a_notebook_stay(capsys: pytest.CaptureFixture[str]) -> None:
    with lasting_streams():
        print("captured → as ever")
    assert capsys.readouterr().out == "captured → as ever\n"
