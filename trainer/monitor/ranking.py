"""The table at the end of a sweep: its runs, best first, seeds of one configuration together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.table import Table

_IGNORED = ("seed", "resume")


class _Run(NamedTuple):
    folder: Path
    name: str | None
    config: dict[str, Any]
    summary: dict[str, Any]

    @property
    def env(self) -> str:
        return str(self.summary.get("env") or self.config.get("env", {}).get("name") or "unknown environment")


class _Group(NamedTuple):
    name: str
    summaries: list[dict[str, Any]]

    @property
    def scores(self) -> list[float]:
        return [_score(s) for s in self.summaries if s["status"] == "finished"]


def ranking(
    run_dirs: Sequence[Path], console: Console | None = None, names: Sequence[str] | None = None
) -> None:
    """Print a table for each environment: configurations by mean score (the normalised one; the return
    where there is no expert), best first. Runs that did not finish are counted, and listed below.

    `names` of the configurations, one for each folder; None: what tells their `config.yaml` apart.
    """
    console = console or Console()
    given: Sequence[str | None] = names or [None] * len(run_dirs)
    runs = [_read_run(folder, name) for folder, name in zip(run_dirs, given, strict=True)]
    for env in sorted({run.env for run in runs}):
        table = Table(title=f"ranking, {env}")
        table.add_column("configuration", overflow="fold")
        for column in ("finished", "score", "lowest", "highest", "balance"):
            table.add_column(column, justify="right", no_wrap=True)
        here = [run for run in runs if run.env == env]
        found = labels([run.config for run in here])
        for group in _groups(here, [run.name or label for run, label in zip(here, found, strict=True)]):
            table.add_row(*_row(group))
        console.print(table)
    for run in runs:
        if run.summary["status"] != "finished":
            line = f"{run.summary['status']}: {run.folder}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _row(group: _Group) -> list[str]:
    scores = group.scores
    figures = (_mean(scores), min(scores), max(scores)) if scores else ()
    ratios = [math.log(s["balance_ratio"]) for s in group.summaries if s.get("balance_ratio")]
    return [
        group.name,
        f"{len(scores)}/{len(group.summaries)}",
        *([f"{figure:.3f}" for figure in figures] or ["n/a"] * 3),
        f"{math.exp(_mean(ratios)):.2f}" if ratios else "n/a",
    ]


def labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each configuration what tells it from the others, as `key=value …`, without the seed.

    A key that says nothing new, given those before it, is left out: `preset` stands for what it sets.
    """
    flat = [_flat(config) for config in configs]  # empty for a run that failed before it wrote its own
    keys = sorted({key for config in flat for key in config}, key=lambda key: (key != "preset", key))
    chosen: list[str] = []
    groups = 1
    for key in keys:
        if key in _IGNORED:
            continue
        now = len({tuple(repr(config.get(k)) for k in (*chosen, key)) for config in flat if config})
        if now > groups:
            chosen, groups = [*chosen, key], now

    def label(config: Mapping[str, Any]) -> str:
        return " ".join(f"{key}={config[key]}" for key in chosen if key in config) or "all alike"

    return [label(config) if config else "no configuration" for config in flat]


def _groups(runs: Sequence[_Run], names: Sequence[str]) -> list[_Group]:
    """Runs of the same name together, best first."""
    groups: dict[str, _Group] = {}
    for run, name in zip(runs, names, strict=True):
        groups.setdefault(name, _Group(name, [])).summaries.append(run.summary)
    return sorted(groups.values(), key=lambda group: -_mean(group.scores))


def _read_run(folder: Path, name: str | None) -> _Run:
    config = _read(folder / "config.yaml")
    summary = {"status": "failed", **_read(folder / "summary.json")}
    return _Run(folder, name, config, summary)


def _read(path: Path) -> dict[str, Any]:
    """A JSON or YAML file; nothing where there is none, as of a run that failed early."""
    if not path.exists():
        return {}
    text = path.read_text()
    found: dict[str, Any] = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    return found


def _score(summary: Mapping[str, Any]) -> float:
    score = summary["normalized_score"]
    return float(summary["return_mean"] if score is None else score)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else -math.inf


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as `a.b.c`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
