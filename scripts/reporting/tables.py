"""Tables of a report: how good each group is, what tells the groups apart, how each run went."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from equipoise.commands import typed
from equipoise.scripts.reporting.charts import STYLES, number, rounded, sample
from equipoise.scripts.reporting.charts import steps as shortened
from equipoise.scripts.reporting.groups import Environment, Group, short_fractions
from equipoise.scripts.reporting.runs import Run
from equipoise.scripts.studies.intervals import Floats, Interval
from equipoise.scripts.studies.report import Comparison
from equipoise.trainer.configuration.imports import allowance
from equipoise.trainer.monitor.summary import read_config

_SIDE_BY_SIDE = 6
"""Most groups that are columns in the table of settings."""
_LONG = 40
"""Letters of a name from which on it may be broken into lines."""
_OPEN = 12
"""Most runs whose table is open from the beginning."""


def interval(found: Interval | None) -> str:
    """`0.62 [0.58, 0.66]`, or `0.62, range 0.58 to 0.66`."""
    if found is None:
        return "–"
    value, low, high = map(rounded, found[:3])
    if found.runs == (1,):
        return value
    return f"{value}, range {low} to {high}" if found.is_range else f"{value} [{low}, {high}]"


def results(environment: Environment) -> str:
    """A row for each group, best first: its score with the interval, and what goes with it."""
    groups, score = environment.groups, environment.score
    columns: dict[str, list[str]] = {"group": [], "runs": [], environment.title: [], "each run": []}
    low, high = _span(environment)
    for group in groups:
        found, style = environment.interval(group), environment.styles[group.name]
        done = len(group.finished)
        counted = str(done) if done == len(group.runs) else f"{done} of {len(group.runs)}"
        name = f"{sample(style)}{escape(group.name)}"
        columns["group"].append(f'<th scope="row"{" class=wrap" * (len(group.name) > _LONG)}>{name}</th>')
        columns["runs"].append(_cell(counted, done))
        columns[environment.title].append(_cell(interval(found), found.value if found else None))
        columns["each run"].append(f"<td>{_forest(group.values(score), found, low, high, style)}</td>")
    if "normalized_score" in score:
        columns["return"] = _means(groups, score.replace("normalized_score", "return_mean"))
    columns["success"] = _means(groups, environment.success, percent=True)
    if environment.compared:
        versus = f"P(better than {environment.reference})"
        if environment.reference == groups[0].name:
            versus = "P(best is better)"
        columns[versus] = [_comparison(environment.compared.get(group.name)) for group in groups]
    columns["push ratio"] = _ratios(groups)
    done_steps = [max(run.env_steps for run in group.runs) for group in groups]
    columns["steps"] = [_cell(shortened(steps), steps) for steps in done_steps]
    seconds = [group.values("seconds") for group in groups]
    columns["time"] = [_time(float(np.median(found)) if len(found) else None) for found in seconds]
    columns = {head: cells for head, cells in columns.items() if set(cells) - {_cell("–", None)}}
    rows = [f"<tr>{''.join(cells)}</tr>" for cells in zip(*columns.values(), strict=True)]
    return _table(list(columns), rows, sortable=len(rows) > 1)


def _span(environment: Environment) -> tuple[float, float]:
    """From the lowest to the highest run, with some room."""
    values = np.concatenate([group.values(environment.score) for group in environment.groups])
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def _forest(values: Floats, found: Interval | None, low: float, high: float, style: int) -> str:
    """The interval as a bar with its value on it, dotted where it is a range, and a tick for each run."""
    if found is None:
        return ""
    kind = f"s{style}" if style < STYLES else "rest"

    def x(value: float) -> str:
        return f"{6 + 188 * (value - low) / (high - low):.1f}"

    ticks = "".join(f'<path class="run" d="M{x(value)} 1v6"/>' for value in values)
    bar = f'<path class="{"range" if found.is_range else "sure"}" d="M{x(found.low)} 14H{x(found.high)}"/>'
    dot = f'<circle class="mark {kind}" cx="{x(found.value)}" cy="14" r="4"/>'
    label = f'role="img" aria-label="{escape(interval(found))}"'
    return f'<svg class="forest" viewBox="0 0 200 22" {label}>{ticks}{bar}{dot}</svg>'


def _means(groups: Sequence[Group], field: str, percent: bool = False) -> list[str]:
    cells = []
    for group in groups:
        values = group.values(field)
        mean = float(values.mean()) if len(values) else None
        text = "–" if mean is None else f"{100 * mean:.0f} %" if percent else rounded(mean)
        cells.append(_cell(text, mean))
    return cells


def _ratios(groups: Sequence[Group]) -> list[str]:
    found = [group.push_ratio for group in groups]
    return [_cell("–" if ratio is None else f"{ratio:.2f}", ratio) for ratio in found]


def _comparison(found: Comparison | None) -> str:
    if found is None:
        return _cell("–", None)
    value, low, high = (f"{x:.2f}" for x in found.probability[:3])
    text = f"{value} [{low}, {high}], {found.told_p}"
    return _cell(
        f"<b>{escape(text)}</b>" if found.shows_a_difference else escape(text), found.probability.value
    )


def settings(environment: Environment) -> str:
    """What differs between the groups; everything else is the same in all of them."""
    groups = environment.groups
    keys = list(groups[0].settings)
    if len(groups) < 2 or not keys:
        return ""
    exact = {key: [group.settings[key] for group in groups] for key in keys}
    columns = {key: list(zip(values, short_fractions(values), strict=True)) for key, values in exact.items()}
    if len(groups) <= _SIDE_BY_SIDE:
        heads = ["setting", *(group.name for group in groups)]
        rows = [_row(f"<code>{escape(key)}</code>", values) for key, values in columns.items()]
    else:
        heads = ["group", *keys]
        by_group = zip(*columns.values(), strict=True)
        rows = [_row(escape(group.name), values) for group, values in zip(groups, by_group, strict=True)]
    return f"<h3>Settings that differ</h3>{_table(heads, rows)}"


def _row(head: str, values: Sequence[tuple[str, str]]) -> str:
    """Shown is what is short; the exact value is the cell's hint."""
    hints = ("" if exact == short else f' title="{escape(exact)}"' for exact, short in values)
    cells = "".join(
        f'<td class="wrap"{hint}>{escape(short)}</td>' for hint, (_, short) in zip(hints, values, strict=True)
    )
    return f'<tr><th scope="row">{head}</th>{cells}</tr>'


def runs(environment: Environment) -> str:
    """Every run, with what it was begun with."""
    rows = [_run(environment, group, run) for group in environment.groups for run in group.runs]
    heads = ["run", "group", "seed", "state", "steps", environment.title, "time", "commit", "begun with"]
    opened = " open" if len(rows) <= _OPEN else ""
    table = _table(heads, rows, sortable=len(rows) > 1)
    return f"<details{opened}><summary>Every run ({len(rows)})</summary>{table}</details>"


def _run(environment: Environment, group: Group, run: Run) -> str:
    summary = run.summary
    score = getattr(summary, environment.score) if run.finished else None
    steps = shortened(run.env_steps)
    if run.planned_steps and run.env_steps < run.planned_steps:
        steps += f" of {shortened(run.planned_steps)}"
    commit = (summary.git_revision if summary else None) or "–"
    short = commit[:8] + ("-dirty" if commit.endswith("-dirty") else "")
    cells = [
        f'<th scope="row" class="wrap">{escape(run.name)}</th>',
        f'<td class="text wrap">{escape(group.name)}</td>',
        _cell(escape(str(run.seed)), run.seed if isinstance(run.seed, int) else None),
        f'<td class="text wrap">{_state(run)}</td>',
        _cell(steps, run.env_steps),
        _cell("–" if score is None else rounded(score), score),
        _time(summary.seconds if summary else None),
        f'<td class="text"><code title="{escape(commit)}">{escape(short)}</code></td>',
        f'<td class="text wrap">{_commands(run)}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _state(run: Run) -> str:
    text = f'<span class="state {run.status}">{run.status}</span>'
    again = len(run.commands) - 1
    if again > 0:
        text += f", resumed {'once' if again == 1 else f'{again} times'}"
    if run.summary is not None and (why := run.summary.error or run.summary.stopped):
        text += f"<br>{escape(why)}"
    if run.status in ("interrupted", "killed") and any((run.folder / "checkpoints").glob("*.pt")):
        command = typed("train", f"resume={run.folder}", *allowance(read_config(run.folder)))
        text += f"<br>to go on: <code>{escape(command)}</code>"
    return text


def _commands(run: Run) -> str:
    if not run.commands:
        return f"<code>{escape(str(run.folder / 'config.yaml'))}</code>"
    text = escape("\n".join(run.commands))
    return f"<details><summary>command</summary><pre>{text}</pre></details>"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _cell("–", None)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return _cell(f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}", seconds)


def _cell(text: str, value: float | None) -> str:
    """`value`: what the column is sorted by."""
    return f'<td data-value="{"" if value is None else number(value).replace("−", "-")}">{text}</td>'


def _table(heads: Sequence[str], rows: Sequence[str], sortable: bool = False) -> str:
    left = ("state", "commit", "begun with", "group")
    head = "".join(f'<th scope="col"{" class=text" * (h in left)}>{escape(h)}</th>' for h in heads)
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll" tabindex="0"><table{" class=sortable" * sortable}>{table}</table></div>'
