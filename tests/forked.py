"""`python -m …` in a process of its own that need not import PyTorch first: a server has, and forks."""

from __future__ import annotations

import faulthandler
import fcntl
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, NamedTuple

from torch.multiprocessing import start_processes

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
        with ExitStack() as stack:
            numbers = [stack.enter_context(path.open("ab")).fileno() for path in self._files]
            self.process = _started(
                cwd, module, arguments, variables, {1: numbers[0], 2: numbers[-1]}, prepare
            )

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
        """Wait for it, or kill it after `seconds`, which is an error that says what all its threads did."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            os.kill(self.pid, signal.SIGUSR1)
            self.process.join(2.0)
            self.process.kill()
            raise AssertionError(f"no end after {seconds} s: {self.stdout}")
        errors = self._files[-1].read_text(errors="replace") if len(self._files) > 1 else ""
        return Ended(self.process.exitcode, self.stdout, errors)


def in_two_processes(function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(rank, *arguments)` in two new processes at once; raises what it raises there."""
    start_processes(function, arguments, nprocs=2, start_method="forkserver")


def started_anew(cwd: Path, module: str, *arguments: str, environment: Mapping[str, str]) -> Ended:
    """The same with an interpreter of its own, for what ends as only the main process of a program can."""
    command, variables = [sys.executable, "-m", module, *arguments], {**os.environ, **environment}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300)
    return Ended(done.returncode, done.stdout, done.stderr)


POPEN = subprocess.Popen


def popen(command: Sequence[str], *arguments: Any, **keywords: Any) -> Any:
    """`subprocess.Popen`, but what starts a module of this package with this interpreter need not import PyTorch:
    for `monkeypatch.setattr(subprocess, "Popen", popen)`."""
    ours = list(command[:2]) == [sys.executable, "-m"] and command[2].startswith("equipoise.")
    return Child(command, **keywords) if ours else POPEN(command, *arguments, **keywords)


class Child:
    """As much of `subprocess.Popen` as is used to start this package's modules."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: Any,
        stderr: Any,
        env: Mapping[str, str],
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        start_new_session: bool = False,
    ) -> None:
        _, _, module, *rest = command
        open_files = {1: stdout.fileno(), 2: stderr.fileno(), **{number: number for number in pass_fds}}
        prepare = os.setsid if start_new_session else None
        self._process = _started(cwd or Path.cwd(), module, tuple(rest), env, open_files, prepare)
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _OpenFile:
    """An open file of this process in another one, where it arrives as its number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _arrived, (DupFd(self.number),)


def _arrived(file: Any) -> int:
    came: int = file.detach()
    kept = fcntl.fcntl(came, fcntl.F_DUPFD, 100)  # out of the way of the numbers that are wanted
    os.close(came)
    return kept


def _started(
    cwd: Path,
    module: str,
    arguments: tuple[str, ...],
    variables: Mapping[str, str],
    open_files: Mapping[int, int],
    prepare: Callable[[], None] | None,
) -> BaseProcess:
    """`open_files`: number there -> number here."""
    files = {there: _OpenFile(here) for there, here in open_files.items()}
    given = cwd, module, arguments, dict(variables), files, prepare
    process = _SERVER.Process(target=_command, args=given)
    process.start()
    return process


def _command(
    cwd: Path,
    module: str,
    arguments: tuple[str, ...],
    variables: Mapping[str, str],
    files: Mapping[int, int],
    prepare: Callable[[], None] | None,
) -> None:
    for number, file in files.items():
        os.dup2(file, number)
        os.close(file)
    faulthandler.register(signal.SIGUSR1, file=1)
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
