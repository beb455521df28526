"""`python -m …` in a process of its own that need not import PyTorch first: a server has, and forks."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "torch._dynamo",
        "equipoise.trainer.run",
        "equipoise.trainer.build",
        "equipoise.trainer.monitor.run_log",
        "tests.reliability.disturbed",
        "tests.warm",
    ]
)


class Ended(NamedTuple):
    code: int
    """The exit status; of a process that a signal has ended, its number, negative."""
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


class Command:
    """`python -m module …` of this clone.

    Args:
        cwd: its current folder.
        environment: variables beside those of this process.
        prepare: is called in the new process first.
        merged: stderr goes where stdout goes.
    """

    def __init__(
        self,
        cwd: Path,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
        merged: bool = False,
    ) -> None:
        self._files = [cwd / f"{name}-{time.monotonic_ns()}.txt" for name in ("stdout", "stderr")]
        if merged:
            del self._files[1]
        variables = {**os.environ, **(environment or {})}
        given = cwd, module, arguments, variables, self._files, prepare
        process = _SERVER.Process(target=_command, args=given)
        process.start()
        self.process: BaseProcess = process

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def stdout(self) -> str:
        """So far."""
        file = self._files[0]
        return file.read_text(errors="replace") if file.exists() else ""

    def interrupt(self) -> None:
        os.kill(self.pid, signal.SIGINT)

    def end(self, seconds: float = 120.0) -> Ended:
        """Wait for it, or kill it after `seconds`, which is an error."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"no end after {seconds} s: {self.stdout}")
        errors = self._files[-1].read_text(errors="replace") if len(self._files) > 1 else ""
        return Ended(self.process.exitcode, self.stdout, errors)


def started_anew(cwd: Path, module: str, *arguments: str, environment: Mapping[str, str]) -> Ended:
    """The same with an interpreter of its own, for what ends as only the main process of a program can."""
    command, variables = [sys.executable, "-m", module, *arguments], {**os.environ, **environment}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300)
    return Ended(done.returncode, done.stdout, done.stderr)


def _command(
    cwd: Path,
    module: str,
    arguments: tuple[str, ...],
    variables: Mapping[str, str],
    files: list[Path],
    prepare: Callable[[], None] | None,
) -> None:
    for stream, path in zip((1, 2), [*files, files[0]], strict=False):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = [str(cwd), *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))]
    if prepare is not None:
        prepare()
    sys.argv = [module, *arguments]
    warnings.filterwarnings(
        "ignore", r".*found in sys\.modules", module="runpy"
    )  # the server has imported it
    runpy.run_module(module, run_name="__main__", alter_sys=True)
