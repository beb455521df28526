"""The table at the end of a sweep: its runs, best first, seeds of one configuration together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from equipoise.commands import typed
from equipoise.trainer.configuration.imports import allowance
from equipoise.trainer.monitor.summary import Summary, read_config
from equipoise.trainer.system.run_folder import SUMMARY


class Run(NamedTuple):
    """`name`: of the configuration, which runs with other seeds share. `title`: of this run among them all.
    `error`: why it failed, where its own `summary.json` may not say so. `overrides`: it began with these."""

    name: str
    title: str
    folder: Path
    error: str | None = None
    overrides: Sequence[str] = ()


class _Group(NamedTuple):
    name: str
    summaries: list[Summary]

    @property
    def scores(self) -> list[float]:
        return [summary.score for summary in self.summaries if summary.status == "finished"]


def ranking(runs: Sequence[Run], console: Console | None = None) -> None:
    """Print a table for each environment: configurations by mean score (the normalised one; the return
    where there is no expert), best first. Runs that did not finish are counted, and listed below."""
    console = console or Console()
    summaries = [_summary(run.folder) for run in runs]
    environments = {summary.env for summary in summaries if summary.env}
    for env in sorted(environments):
        here = [(run.name, s) for run, s in zip(runs, summaries, strict=True) if s.env == env]
        ended = [s for _, s in here if s.status == "finished"]
        returns = bool(ended) and all(s.normalized_score is None for s in ended)
        table = Table(title=f"ranking, {env}")
        table.add_column("configuration", overflow="fold")
        for column in ("finished", "return" if returns else "score", "lowest", "highest", "balance"):
            table.add_column(column, justify="right", no_wrap=True)
        for group in _groups(here):
            name, *metrics = _row(group)
            table.add_row(Text(name), *metrics)  # [32,32] is no markup
        console.print(table)
    for run, summary in zip(runs, summaries, strict=True):
        if summary.status != "finished":
            for line in _complaint(run, summary):
                console.print(line, markup=False, highlight=False, soft_wrap=True)


def _row(group: _Group) -> list[str]:
    scores = group.scores
    metrics = (_mean(scores), min(scores), max(scores)) if scores else ()
    ratios = [math.log(s.balance_ratio) for s in group.summaries if s.balance_ratio]
    return [
        group.name,
        f"{len(scores)}/{len(group.summaries)}",
        *([f"{metric:.3f}" for metric in metrics] or ["n/a"] * 3),
        f"{math.exp(_mean(ratios)):.2f}" if ratios else "n/a",
    ]


def _complaint(run: Run, summary: Summary) -> list[str]:
    killed = not (run.folder / SUMMARY).exists() and (run.folder / "config.yaml").exists()
    again = None
    if summary.status == "interrupted" or killed:
        saved = any((run.folder / "checkpoints").glob("*.pt"))
        again = (
            f"resume with: {typed('train', f'resume={run.folder}', *allowance(read_config(run.folder)))}"
            if saved
            else f"start again with: {typed('train', *run.overrides)}"
        )
    reason = None if summary.status == "interrupted" else summary.error or run.error
    where = str(run.folder) if run.folder.exists() else None
    lines = [f"{summary.status}: {run.title}", reason, again, where]
    return [line if number == 0 else f"  {line}" for number, line in enumerate(filter(None, lines))]


def _groups(runs: Iterable[tuple[str, Summary]]) -> list[_Group]:
    """Summaries of the same name together, best first."""
    groups: dict[str, _Group] = {}
    for name, summary in runs:
        groups.setdefault(name, _Group(name, [])).summaries.append(summary)
    return sorted(groups.values(), key=lambda group: -_mean(group.scores))


def _summary(folder: Path) -> Summary:
    """The run's; of one that was killed, or never began, as much as there is to say."""
    if (folder / SUMMARY).exists():
        return Summary.read(folder / SUMMARY)
    return Summary("failed", env=read_config(folder).get("env", {}).get("name"))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else -math.inf
