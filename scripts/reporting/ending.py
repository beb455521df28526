"""What many runs end with: a table of them on the terminal, those that did not finish, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from equipoise.commands import typed
from equipoise.scripts.reporting.groups import Environment, Group, environments
from equipoise.scripts.reporting.page import page
from equipoise.scripts.reporting.runs import Run, read
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.imports import allowance
from equipoise.trainer.monitor.summary import read_config
from equipoise.trainer.system.files import replace_file
from equipoise.trainer.system.run_folder import is_run

PAGE = "report.html"


class Job(NamedTuple):
    """A run of a study or a sweep, which may not even have begun.

    `group`: what runs with other seeds share. `title`: of this run among them all. `error`: why it failed,
    where its own `summary.json` may not say so. `overrides`: it began with these.
    """

    group: str
    title: str
    folder: Path
    error: str | None = None
    overrides: Sequence[str] = ()


def conclude(
    jobs: Sequence[Job],
    to: Path,
    command: str,
    baseline: str | None = None,
    title: str | None = None,
    console: Console | None = None,
) -> None:
    """Print a table for each environment, and why jobs did not finish; write the page to the file `to`.

    Args:
        command: that of the study or the sweep.
        baseline: the group that the others are compared with; None: the best.
        title: of the page; None: the folder's name.

    Raises:
        ConfigError: the page cannot be written.
    """
    console = console or Console()
    runs = [replace(read(job.folder, job.title), group=job.group) for job in jobs if is_run(job.folder)]
    found = environments(runs, baseline)
    ranking(found, console)
    for job in jobs:
        for line in _complaint(job):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if runs:
        publish(found, to, command, title or to.resolve().parent.name)


def ranking(found: Sequence[Environment], console: Console) -> None:
    """A table for each environment: groups by the interquartile mean of their scores, best first."""
    for environment in found:
        table = Table(title=f"ranking, {environment.name}")
        table.add_column("configuration", overflow="fold")
        for column in ("finished", environment.title, "from", "to", "balance"):
            table.add_column(column, justify="right", no_wrap=True)
        for group in environment.groups:
            table.add_row(Text(group.name), *_row(environment, group))  # [32,32] is no markup
        console.print(table)
        if any(group.finished for group in environment.groups):
            console.print(_LEGEND, markup=False, highlight=False, style="dim")


_LEGEND = "interquartile mean; from … to: its 95 % interval, with fewer than six runs their range"


def _row(environment: Environment, group: Group) -> list[str]:
    interval, ratio = environment.interval(group), group.push_ratio
    return [
        f"{len(group.finished)}/{len(group.runs)}",
        *([f"{number:.3f}" for number in interval[:3]] if interval else ["n/a"] * 3),
        "n/a" if ratio is None else f"{ratio:.2f}",
    ]


def publish(found: Sequence[Environment], to: Path, command: str, title: str) -> None:
    """Write the page to the file `to`, and say where it is. Raises `ConfigError`."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        replace_file(to, page(title, found, command).encode(errors="replace"))
    except OSError as error:
        raise ConfigError(f"{to}: cannot be written: {error.strerror or error}") from error
    print(f"report: {to}", flush=True)


def _complaint(job: Job) -> list[str]:
    """Why the job did not finish, and how it goes on."""
    run = Run(job.folder, job.title, read_config(job.folder))
    if run.finished:
        return []
    status = run.summary.status if run.summary is not None else "failed"
    again = None
    if status == "interrupted" or (run.summary is None and run.config):
        resume = typed("train", f"resume={job.folder}", *allowance(run.config))
        saved = any((job.folder / "checkpoints").glob("*.pt"))
        again = f"resume with: {resume}" if saved else f"start again with: {typed('train', *job.overrides)}"
    why = run.summary.error if run.summary is not None else None
    reason = None if status == "interrupted" else why or job.error
    where = str(job.folder) if job.folder.exists() else None
    lines = [f"{status}: {job.title}", reason, again, where]
    return [line if number == 0 else f"  {line}" for number, line in enumerate(filter(None, lines))]
