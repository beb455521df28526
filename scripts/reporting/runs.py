"""Runs as a report sees them: whatever their folders hold, of the finished and of all others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.scripts.studies.intervals import Floats
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import env_label
from equipoise.trainer.monitor.summary import Summary, read_config
from equipoise.trainer.system.lock import LEASE
from equipoise.trainer.system.lock import NAME as LOCK
from equipoise.trainer.system.run_folder import COMMANDS, METRICS, SUMMARY, is_run


@dataclass(frozen=True)
class Run:
    """A run folder. `name`: what the report calls the run. `group`: that of a study that has named it."""

    folder: Path
    name: str
    config: Mapping[str, Any]
    group: str | None = None

    @cached_property
    def env(self) -> str:
        return env_label(self.config.get("env") or {})

    @property
    def seed(self) -> Any:
        return self.config.get("seed")

    @cached_property
    def summary(self) -> Summary | None:
        try:
            return Summary.read(self.folder / SUMMARY)
        except (OSError, ValueError, TypeError):
            return None

    @cached_property
    def status(self) -> str:
        """`finished`, `interrupted`, `failed`, `running`, or `killed`: it can no longer say so itself."""
        if self.summary is not None:
            return self.summary.status
        lock = self.folder / LOCK
        try:
            return "running" if time.time() - lock.stat().st_mtime < LEASE else "killed"
        except OSError:
            return "killed"

    @property
    def finished(self) -> bool:
        return self.summary is not None and self.status == "finished"

    @cached_property
    def commands(self) -> list[str]:
        """What was typed to begin the run, and to go on with it."""
        try:
            return (self.folder / COMMANDS).read_text("utf-8").splitlines()
        except OSError:
            return []

    @cached_property
    def film(self) -> Path | None:
        """The latest."""
        return max((self.folder / "videos").glob("steps_*.gif"), default=None)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return list(_rows(self.folder / METRICS))

    @property
    def env_steps(self) -> int:
        """How many it has done; one without the logger `jsonl` says so at its end."""
        if not self.rows and self.summary is not None:
            return self.summary.env_steps or 0
        return int(self.rows[-1].get("env_steps", 0)) if self.rows else 0

    @property
    def planned_steps(self) -> int | None:
        trainer = self.config.get("trainer") or {}
        return trainer.get("total_env_steps")

    def curve(self, tag: str) -> tuple[Floats, Floats]:
        """Environment steps and values of a metric, of which not all iterations need to have one."""
        pairs = [(r["env_steps"], r[tag]) for r in self.rows if isinstance(r.get(tag), int | float)]
        return np.array([s for s, _ in pairs], float), np.array([x for _, x in pairs], float)

    def evaluations(self, score: str) -> tuple[Floats, Floats]:
        """The curve of `score`, a field of summaries, with the closing evaluation at its end."""
        steps, values = self.curve(tag_of(score))
        end = getattr(self.summary, score) if self.finished else None
        if end is not None and self.summary is not None and (not len(steps) or steps[-1] < self.env_steps):
            steps, values = np.append(steps, self.summary.env_steps or 0), np.append(values, end)
        return steps, values


_METRICS = {"normalized_score": "score", "return_mean": "return", "success_rate": "success"}


def tag_of(field: str) -> str:
    """The metric of evaluations that a field of a summary holds at the end."""
    sampled = "sampled_" if field.startswith("sampled_") else ""
    return f"evaluation/{sampled}{_METRICS[field.removeprefix('sampled_')]}"


def find(places: Sequence[Path]) -> list[Run]:
    """The runs in and below these folders, without the copies that a resumed run keeps of its other end.

    Raises `ConfigError` for a place that is not there, and where there are no runs at all.
    """
    folders: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            raise ConfigError(f"{place}: {'is no folder' if place.exists() else 'there is no such folder'}")
        inside = (path.parent for path in sorted(place.rglob("config.yaml")))
        folders |= dict.fromkeys(f for f in inside if not _kept_aside(f, place) and is_run(f))
    if not folders:
        named = ", ".join(map(str, places))
        raise ConfigError(
            f"{named}: no runs in there: a run's folder has a config.yaml, as training leaves it"
        )
    names = _names(list(folders))
    return [read(folder, names[folder]) for folder in folders]


def read(folder: Path, name: str) -> Run:
    return Run(folder, name, read_config(folder))


def _kept_aside(folder: Path, place: Path) -> bool:
    """Whether it is what `RunFolder.set_aside` keeps inside of a run's folder."""
    return folder != place and folder.name.startswith("until-") and (folder.parent / "config.yaml").exists()


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """What tells their paths apart: without what all of them begin with."""
    parts = [folder.resolve().parts for folder in folders]
    common = 0
    while len(parts) > 1 and all(len(p) > common + 1 and p[common] == parts[0][common] for p in parts):
        common += 1
    common = min([common, *(len(p) - 1 for p in parts)]) if len(parts) > 1 else len(parts[0]) - 1
    return {folder: "/".join(p[common:]) for folder, p in zip(folders, parts, strict=True)}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file; one that is torn, by a kill or as it is being written, is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("env_steps"), int | float):
                yield row
