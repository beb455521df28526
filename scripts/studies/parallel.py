"""Trains the missing runs of a study in parallel processes.

Finished runs are skipped, interrupted ones are resumed, and a failure does not stop the others. Ctrl-C lets
the current runs write a checkpoint first; a second one ends them at once.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from equipoise.commands import child
from equipoise.scripts.studies.experiments import Failure, Job, State, state_of
from equipoise.trainer.configuration.compose import quoted
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.system.run_folder import SUMMARY

_POLL_SECONDS = 0.2
_LOG_LINES = 6
_DIFFERENT = "the folder holds a run of another configuration: remove it, or choose another --out"
_BUSY = "another process is training it"


def run(jobs: Sequence[Job], parallel: int = 2, console: Console | None = None) -> list[Failure]:
    """Run the missing jobs, `parallel` at a time, and return the failures.

    Raises `KeyboardInterrupt` after all runs have stopped.
    """
    console = console or Console()
    states = {job.folder: state_of(job) for job in jobs}
    waiting = deque(job for job in jobs if states[job.folder] in ("new", "unfinished"))
    failures = _foreign(jobs, states, console)
    console.print(f"{len(jobs)} runs: {len(jobs) - len(waiting) - len(failures)} done, {len(waiting)} to do")
    with _Crew(len(waiting), console) as crew:
        while waiting or crew.running:
            while waiting and len(crew.running) < parallel:
                crew.start(waiting.popleft())
            time.sleep(_POLL_SECONDS)
            crew.collect()
    return failures + crew.failures


def trained(jobs: Sequence[Job], parallel: int, report_only: bool) -> tuple[list[Job], list[Failure]]:
    """Train what is missing, unless `report_only`. Returns the jobs to report and the failures.

    Jobs whose folder holds something else are not reported.
    """
    if report_only:
        failures = _foreign(jobs, {job.folder: state_of(job) for job in jobs}, Console())
    else:
        failures = run(jobs, parallel)
    others = {failure.job.folder for failure in failures if failure.reason == _DIFFERENT}
    return [job for job in jobs if job.folder not in others], failures


def _foreign(jobs: Sequence[Job], states: Mapping[Path, State], console: Console) -> list[Failure]:
    """The jobs whose folder holds something else, which is also printed."""
    failures = [Failure(job, _DIFFERENT) for job in jobs if states[job.folder] == "different"]
    for failure in failures:
        _say(console, f"{failure.job.name}: {failure.job.folder}: {failure.reason}")
    return failures


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass
class _Crew:
    """The running processes and their progress bar."""

    total: int
    console: Console
    running: list[tuple[Job, subprocess.Popen[bytes], float]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    ended: int = 0
    began: float = field(default_factory=time.monotonic)

    def __enter__(self) -> _Crew:
        columns = (TextColumn("{task.completed:.1f} / {task.total:.0f} runs"), BarColumn())
        hidden = not self.console.is_terminal
        self.bar = Progress(*columns, TextColumn("{task.description}"), console=self.console, disable=hidden)
        self.task = self.bar.add_task("", total=self.total)
        self.bar.start()
        # A plain `kill` stops the runs too, by the same way out as Ctrl-C.
        self.before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            _stop([process for _, process, _ in self.running])
        finally:
            signal.signal(signal.SIGTERM, self.before)
            self.bar.stop()

    def start(self, job: Job) -> None:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            try:  # held until the run has closed its output, even if this process dies before
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._end(job, _BUSY)
                return
            command, environment = child("train", *_arguments(job))
            environment["OMP_NUM_THREADS"] = "1"
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self.running.append((job, process, time.monotonic()))

    def collect(self) -> None:
        """Collect the runs that have ended and show the progress of the others."""
        for entry in [entry for entry in self.running if entry[1].poll() is not None]:
            self.running.remove(entry)
            job, process, started = entry
            self._end(job, _complaint(job, process.returncode), time.monotonic() - started)
        done = self.ended + sum(_fraction_done(job) for job, _, _ in self.running)
        names = ", ".join(job.name for job, _, _ in self.running)
        self.bar.update(self.task, completed=done, description=f"eta {self._eta(done)}  {names}")

    def _end(self, job: Job, complaint: str | None, seconds: float = 0.0) -> None:
        self.ended += 1
        if complaint is not None:
            self.failures.append(Failure(job, complaint))
        outcome = "failed" if complaint else f"finished, {_score(job)}"
        text = f"[{self.ended}/{self.total}] {job.name}: {outcome}, {seconds:.0f} s"
        _say(self.console, f"{text}  eta {self._eta(self.ended)}")
        if complaint is not None:
            _say(self.console, complaint)

    def _eta(self, done: float) -> str:
        if done <= 0:
            return "n/a"
        seconds = round((time.monotonic() - self.began) / done * (self.total - done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _arguments(job: Job) -> list[str]:
    """The command of a run, whether it is new or was killed, before its first checkpoint or later."""
    return [*job.overrides, f"hydra.run.dir={quoted(job.folder)}", "resume=auto"]


def _complaint(job: Job, code: int) -> str | None:
    """Why a run ended unfinished; None if it is finished."""
    if code == 0 and state_of(job) == "finished":
        return None
    lines = [line for line in job.log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join([f"exit status {code}, {job.log} ends with", *lines[-_LOG_LINES:]])


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Interrupt the processes and wait for their checkpoints; kill them on a second interrupt."""
    with _killing(processes):
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait()


@contextmanager
def _killing(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
            process.wait()
        raise


def _fraction_done(job: Job) -> float:
    """The fraction of the run that is done, from the last line of its metrics."""
    try:
        with (job.folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 50_000))
            found = re.findall(rb'"env_steps": (\d+)', file.read())
    except FileNotFoundError:
        return 0.0
    return min(int(found[-1]) / job.config["trainer"]["total_env_steps"], 1.0) if found else 0.0


def _score(job: Job) -> str:
    summary = Summary.read(job.folder / SUMMARY)
    return f"{summary.score_name} {summary.score:.3f}"
