"""A sweep (`-m`): how each of its jobs ended, whatever launcher runs them, and the ranking at the end.

Jobs may run in other processes or on other machines. Each leaves a note in a folder that all of them see, and
the process that started the sweep reads the notes when it is over.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from equipoise.commands import loaded, typed
from equipoise.trainer.configuration.compose import as_typed
from equipoise.trainer.system.files import replace_file
from equipoise.trainer.system.run_folder import adopt, expect

_MARK = "began"
"""A file as old as the sweep."""


class JobScore(float):
    """What a job returns to Hydra's sweeper: its score, or its return where there is no score.

    A sweeper that optimises needs a number from every job and cannot take NaN, so a failed job has −∞.
    """

    error: str | None = None
    """Why the job failed."""

    @classmethod
    def of_failure(cls, error: str) -> JobScore:
        score = cls(-math.inf)
        score.error = error
        return score


class Sweep(Callback):
    """Hydra calls `on_multirun_start` where the sweep was started, `on_job_…` where a job runs.

    `folder`: of the notes, and of what jobs print that run in a process of their own.
    """

    started: ClassVar[Sweep | None] = None
    """The sweep of this process. None in a job's own process."""
    job_folder: ClassVar[Path]
    """Of the job at hand."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).resolve()
        self._planned: list[list[str]] = []

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        expect(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        Sweep.started = self
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _MARK).touch()
        if config.hydra.sweeper._target_.endswith(".BasicSweeper"):  # others decide as they go
            self._planned = combinations(list(config.hydra.overrides.task))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.mode is not RunMode.MULTIRUN:
            return
        Sweep.job_folder = folder = Path(config.hydra.runtime.output_dir)
        if folder.stat().st_mtime_ns >= (self.folder / _MARK).stat().st_mtime_ns:
            adopt(folder)
        self._note(config, "stopped before it could say why")
        self._tell(config, "started")
        self._output = ExitStack()
        if Sweep.started is None:  # jobs beside this one print too
            file = self._output.enter_context(
                (self.folder / f"{config.hydra.job.num}.log").open("w", encoding="utf-8")
            )
            self._output.enter_context(redirect_stdout(file))
            self._output.enter_context(redirect_stderr(file))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """`job_return` holds a `JobScore`."""
        if config.hydra.mode is RunMode.MULTIRUN:
            self._output.close()
            self._note(config, job_return.return_value.error)
            self._tell(config, "failed" if job_return.return_value.error else "finished")

    def report(self) -> int:
        """Rank the jobs so far; list those that failed, and those that never began, with their commands. The
        exit status: 1 if some failed."""
        paths = sorted(self.folder.glob("*.json"), key=lambda path: int(path.stem))
        notes = [json.loads(path.read_text()) for path in paths]
        begun = {path.stem for path in paths}
        waiting = {number: job for number, job in enumerate(self._planned) if str(number) not in begun}
        names = distinct([*(note["overrides"] for note in notes), *waiting.values()])
        report, jobs = loaded("report"), []
        for path, note, own in zip(paths, notes, names, strict=False):
            name = (
                " ".join(override for override in own if not override.startswith("seed=")) or "(no overrides)"
            )
            title = f"#{path.stem} {' '.join(own)}"
            jobs.append(report.Job(name, title, Path(note["folder"]), note["error"], note["overrides"]))
        try:
            report.conclude(jobs, self.folder / "report.html", typed("train", *sys.argv[1:]), title="sweep")
        except Exception as error:  # whatever it is: the jobs are done, and their exit status counts
            print(f"no report: {type(error).__name__}: {error}")
        for number, job in waiting.items():
            print(f"not begun: #{number}\n  {typed('train', *job)}")
        return int(any(note["error"] for note in notes))

    def _note(self, config: DictConfig, error: str | None) -> None:
        note = {"overrides": _overrides(config), "folder": str(Sweep.job_folder), "error": error}
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / f"{config.hydra.job.num}.json", json.dumps(note, indent=1).encode())

    def _tell(self, config: DictConfig, what: str) -> None:
        if Sweep.started is None:
            print(f"#{config.hydra.job.num} {what}: {Sweep.job_folder}", flush=True)


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job, as Hydra's own sweeper combines them; nothing for what it refuses."""
    values: dict[str, list[str]] = {}
    for given in OverridesParser.create().parse_overrides(list(overrides)):
        if not given.is_sweep_override():
            values[given.get_key_element()] = [given.get_value_element_as_str()]
        elif given.is_discrete_sweep():
            values[given.get_key_element()] = list(given.sweep_string_iterator())
        else:
            return []
    jobs = product(*([f"{as_typed(key)}={value}" for value in several] for key, several in values.items()))
    return [list(job) for job in jobs]


def _overrides(config: DictConfig) -> list[str]:
    """As they were typed."""
    return [as_typed(override) for override in config.hydra.overrides.task]


def distinct(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each job's overrides those that not all jobs have."""
    common = set(jobs[0]).intersection(*jobs) if len(jobs) > 1 else set[str]()
    return [[override for override in own if override not in common] for own in jobs]
