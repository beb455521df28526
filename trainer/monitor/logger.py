"""What a logger is told, and the base of those that hand it to another program."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from equipoise.trainer.configuration.resuming import what_changes
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.monitor.gif import Frames
from equipoise.trainer.system.files import replace_file
from equipoise.trainer.system.run_folder import METRICS

if TYPE_CHECKING:
    from equipoise.trainer.monitor.summary import Summary


class LoggedRun(NamedTuple):
    """The run that begins, or goes on."""

    config: Config
    folder: Path
    iteration: int
    """Where it begins, above 0 when it is resumed; what was logged beyond it comes again."""
    env_steps: int
    references: Mapping[str, float]
    """Constant lines that charts compare with, by tag."""
    hyperparameters: Mapping[str, bool | int | float | str | None]
    """Every setting, by its key."""
    typed: list[str]
    """Keys of those that were typed."""


class Logger:
    """Does nothing. A class of yours overrides what it needs. All calls come from the first process.

    An exception of `start` ends the run before its first iteration. An `OSError` later, of a full disk, means
    what `trainer.on_save_error` says, and what could not be written should be kept for the next call. Any
    other exception is told once, and the run goes on.
    """

    elsewhere = False
    """Whether it writes outside of the run folder, so that an `OSError` of it, too, is only told."""

    def start(self, run: LoggedRun) -> None:
        """Before the first iteration of a session."""

    def reference(self, tag: str, value: float) -> None:
        """One more constant line, from now on."""

    def scalars(self, metrics: Mapping[str, float], iteration: int, env_steps: int) -> None:
        """The metrics of an iteration by tag, NaN and infinity among them. Waits for nothing."""

    def evaluation(self, metrics: Mapping[str, float], env_steps: int) -> None:
        """What an evaluation says by tag that is in no iteration's metrics: the one before the first
        iteration, and the closing one where the last iteration had none."""

    def film(self, tag: str, frames: Frames, fps: float, env_steps: int) -> None:
        """Frames `[frames, height, width, 3]` of an episode."""

    def sync(self) -> None:
        """Everything so far should be safe: a checkpoint is about to be written."""

    def finish(self, summary: Summary) -> None:
        """The run is finished or interrupted."""

    def close(self) -> None:
        """Comes last, also after an error."""


class Tracker(Logger):
    """Hands the metrics to a program that keeps runs of its own, which cannot take back what it has got.

    The file `<name>.json` of the run folder remembers the tracker's run and how far it is. A resumed run goes
    on there, and sends no step twice: those it repeats are the same, bit for bit. Where they would not be, as
    settings have changed, it begins another run of the tracker's. What a tracker lacks, because it was killed
    with the run or is new to it, is sent from `metrics.jsonl`.
    """

    name = ""
    elsewhere = True

    def start(self, run: LoggedRun) -> None:
        self._file = run.folder / f"{self.name}.json"
        self._known = self._read() if run.iteration else {}
        before, now = self._known.get("config"), run.config.plain()
        ahead = self._known.get("env_steps", 0) > run.env_steps
        if ahead and not _same(before, now):
            self._known = {}
        self._known["run"] = self.begin(run, self._known.get("run"))
        self._known["config"] = now
        self._known.setdefault("env_steps", 0)
        if (reached := self.reached()) is not None:
            self._known["env_steps"] = reached
        for row in _rows(run.folder / METRICS, run.iteration):
            metrics = {
                tag: x for tag, x in row.items() if x is not None and tag not in ("iteration", "env_steps")
            }
            self.scalars(metrics, row["iteration"], row["env_steps"])
        self._remember()

    def scalars(self, metrics: Mapping[str, float], iteration: int, env_steps: int) -> None:
        if env_steps <= self._known["env_steps"]:
            return
        self._known["env_steps"] = env_steps
        self._remember()  # first: killed in between, one point is missing, and none is there twice
        self.send({tag: x for tag, x in metrics.items() if math.isfinite(x)}, env_steps)

    def begin(self, run: LoggedRun, known: str | None) -> str:
        """Begin a run, or go on with the one `known`; returns what it is known by."""
        raise NotImplementedError

    def reached(self) -> int | None:
        """The last step that the tracker itself has; None: what it was sent."""
        return None

    def send(self, metrics: Mapping[str, float], env_steps: int) -> None:
        """Finite metrics of a step that is new."""
        raise NotImplementedError

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # of a run that had no such logger before
            return {}
        return found

    def _remember(self) -> None:
        replace_file(self._file, json.dumps(self._known).encode())


def _rows(path: Path, iteration: int) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file up to an iteration."""
    if iteration and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # torn by a kill, and so beyond any checkpoint
                if (row := json.loads(line))["iteration"] <= iteration:
                    yield row


def _same(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether iterations come out as they did; another length stretches the schedules."""
    if before is None or what_changes(before, now):
        return False
    old, new = before["trainer"], now["trainer"]
    return new["schedule_steps"] is not None or old["total_env_steps"] == new["total_env_steps"]


def run_name(run: LoggedRun) -> str:
    """What trackers call a run: its folder's name."""
    return run.folder.resolve().name


def group_name(run: LoggedRun) -> str:
    """What trackers call the runs that differ by their seed, say."""
    return f"{run.config.env.label}-{run.config.preset}"


def final_metrics(summary: Summary) -> dict[str, float]:
    """How good the policy is at the end, by tag: what runs are ranked by."""
    named = {f"final/{name}": getattr(summary, name) for name in summary.RANKED_BY}
    return {tag: number for tag, number in named.items() if number is not None}
