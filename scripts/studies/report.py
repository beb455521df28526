"""Reports in Markdown: tables of arms over seeds, and the origin of the numbers."""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from equipoise.scripts.studies.experiments import Failure
from equipoise.scripts.studies.intervals import (
    SIGNIFICANT,
    Interval,
    Strata,
    holm,
    iqm_interval,
    probability_of_improvement,
    rank_sum_test,
)
from equipoise.scripts.studies.results import (
    MEASURES,
    THRESHOLD,
    Measure,
    Result,
    by_arm,
    ranked,
    strata,
    write_csv,
)

INTERVALS = """\
*IQM*: interquartile mean over the runs. In brackets its 95 % interval, from order statistics; with fewer than
six runs, which cannot give one, their *range*. In parentheses the number of runs.
*P(… > …)*: probability that a run of the first does better than one of the second, with Newcombe's 95 %
interval; *p*: of the exact rank-sum test, corrected by Holm for all comparisons of this report. **Bold**: p
below 0.05. Everything else is no difference that these runs can show.
"""
LEGEND = f"""\
Score: 0 = uniformly random actions, 1 = the scripted expert (may be exceeded); where there is no expert, the
mean return. *Final score*: the closing evaluation, deterministic episodes on fresh seeds. *Area*: mean height
of the learning curve. {INTERVALS}*Steps to*: of the median run, and how many got there. *Balance ratio*: push
of the discrete over that of the continuous side, per unit of base weight, measured on each minibatch's own
gradients, geometric mean over the last quarter. Best area first.
"""

K = TypeVar("K", bound=Hashable)


def told_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p {p:.{3 if p < 0.1 else 2}f}"


class Comparison(NamedTuple):
    """Two arms compared: the probability that a run of the first does better than one of the second."""

    probability: Interval
    p: float
    """From the rank-sum test, corrected for all comparisons made together with this one."""

    @property
    def shows_a_difference(self) -> bool:
        return self.p < SIGNIFICANT

    @property
    def told_p(self) -> str:
        return told_p(self.p)

    def __str__(self) -> str:
        text = f"{shown(self.probability, 2)}, {self.told_p}"
        return f"**{text}**" if self.shows_a_difference else text


def compare(pairs: Mapping[K, tuple[Strata, Strata]]) -> dict[K, Comparison]:
    """Make all comparisons of a study at once, as Holm's correction requires; arms without runs have none."""
    there = {key: pair for key, pair in pairs.items() if all(len(x) for strata in pair for x in strata)}
    corrected = holm([rank_sum_test(*pair) for pair in there.values()])
    return {
        key: Comparison(probability_of_improvement(*pair), p)
        for (key, pair), p in zip(there.items(), corrected, strict=True)
    }


def markdown_tables(
    parts: Mapping[str, Sequence[Result]],
    baseline: str,
    changes: Mapping[str, str] | None = None,
    threshold: float = THRESHOLD,
) -> dict[str, str]:
    """A table for each part of a study: its arms by the area under their curves, compared with `baseline`.

    Runs of several environments count as strata; an arm that lacks one of them is left out. The correction
    for many comparisons is over all parts.
    """
    tables = {title: _Table(results, baseline) for title, results in parts.items()}
    pairs = {(title, key): pair for title, part in tables.items() for key, pair in part.pairs().items()}
    compared = compare(pairs)
    return {
        title: part.markdown(
            {key: found for (where, key), found in compared.items() if where == title},
            changes or {},
            threshold,
        )
        for title, part in tables.items()
    }


class _Table:
    """The arms of one part of a study against the baseline."""

    def __init__(self, results: Sequence[Result], baseline: str) -> None:
        self.baseline = baseline
        self.envs = sorted({result.env for result in results})
        arms = by_arm(results)
        complete = [name for name in ranked(results) if {run.env for run in arms[name]} == set(self.envs)]
        self.arms = {name: arms[name] for name in complete}

    def pairs(self) -> dict[tuple[str, Measure], tuple[Strata, Strata]]:
        """(arm, measure) -> its scores and those of the baseline."""
        if self.baseline not in self.arms:
            return {}
        return {
            (name, measure): (self._scores(name, measure), self._scores(self.baseline, measure))
            for name in self.arms
            if name != self.baseline
            for measure in MEASURES
        }

    def _has_sense(self, threshold: float) -> bool:
        """The default is a share of what the expert reaches; returns have a threshold that somebody gave."""
        runs = [run for arm in self.arms.values() for run in arm]
        return threshold != THRESHOLD or any(run.summary.normalized_score is not None for run in runs)

    def _scores(self, arm: str, measure: Measure) -> Strata:
        return strata(self.arms[arm], measure, self.envs)

    def markdown(
        self,
        compared: Mapping[tuple[str, Measure], Comparison],
        changes: Mapping[str, str],
        threshold: float,
    ) -> str:
        head = ["arm", *(["what it changes"] if changes else []), "final score, IQM", "area, IQM"]
        head += [f"steps to {threshold:g}"] if (timed := self._has_sense(threshold)) else []
        head += [*(f"P({measure} > {self.baseline})" for measure in ("area", "final")), "balance ratio"]
        rows = [head]
        for name, runs in self.arms.items():
            row = [f"{name} (baseline)" if name == self.baseline else name]
            row += [changes.get(name, "")] if changes else []
            row += [shown(iqm_interval(self._scores(name, measure))) for measure in ("final", "area")]
            row += [_time(runs)] if timed else []
            row += [str(compared.get((name, measure), "")) for measure in ("area", "final")]
            rows.append([*row, _balance(runs)])
        return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first one is the head."""
    head, *body = rows
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *body))


def shown(interval: Interval, digits: int = 3) -> str:
    """`0.918 [0.911, 0.922] (10)`: the value, its interval, the number of runs."""
    value, low, high = (f"{number:.{digits}f}" for number in interval[:3])
    limits = f", range {low} to {high}" if interval.is_range else f" [{low}, {high}]"
    runs = " + ".join(map(str, interval.runs))
    return f"{value}{limits if math.isfinite(interval.low) else ''} ({runs})"


def _time(runs: Sequence[Result]) -> str:
    """Median over the runs; runs that never got there count as infinite."""
    times = np.array([run.time_to_threshold for run in runs])
    reached, median = int(np.isfinite(times).sum()), float(np.median(times))
    return f"{f'{median / 1e3:.0f} k' if math.isfinite(median) else 'n/a'} ({reached}/{len(runs)})"


def _balance(runs: Sequence[Result]) -> str:
    """Geometric mean over the runs of the balance ratio in the last quarter."""
    ratios = [run.summary.balance_ratio for run in runs if run.summary.balance_ratio]
    return f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}" if ratios else "n/a"


def write_report(path: Path, title: str, origin: str | None, body: str) -> None:
    """Write `title`, hand-written prose, the `origin` of the numbers and the `body` to `path`.

    Title and prose are kept from the report that is there: whatever stands above its list of origins. With
    `origin` None, so is the list: the numbers come from the report's own CSV.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# {title}\n\n"
    if path.exists() and (found := _HEAD.match(path.read_text())):
        head, before = found.groups()
        origin = before if origin is None else origin
    path.write_text(f"{head}{origin or ''}\n{body}")


def report_study(
    options: argparse.Namespace,
    title: str,
    command: str,
    results: Sequence[Result],
    failures: Sequence[Failure],
    body: Callable[[], str],
) -> int:
    """Write the report of a study with the options of `add_places`, and its CSV; returns the exit status.

    With `--from-csv` the origin of the numbers and the CSV stay as they are.
    """
    path: Path = options.report
    if not results:
        print(f"{options.out}: no finished runs to report", file=sys.stderr)
        return 1
    write_report(path, title, None if options.from_csv else provenance(command, results), body())
    if not options.from_csv:
        write_csv(path.with_suffix(".csv"), results)
    print(f"report: {path}")
    return 1 if failures else 0


_HEAD = re.compile(r"(# .*\n\n(?:.*\n)*?)(- command: .*\n(?:- .*\n)*)")


def provenance(command: str, results: Sequence[Result]) -> str:
    """Command, commit, machine, versions, seeds and steps as a Markdown list."""

    def distinct(values: Sequence[object]) -> str:
        return ", ".join(sorted({str(value) for value in values if value})) or "n/a"

    versions = [" ".join(f"{k} {v}" for k, v in run.summary.versions.items() if v) for run in results]
    seconds = [run.summary.seconds or 0.0 for run in results]
    lines = [
        f"command: `{command}`",
        f"commit: {distinct([run.summary.git_revision for run in results])}",
        f"machine: {cpu_model()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}; "
        f"device {distinct([run.summary.device for run in results])}",
        f"versions: {distinct(versions)}",
        f"seeds: {spans([run.seed for run in results])}",
        f"environment steps of a run: {distinct([format(run.summary.env_steps, ',') for run in results])}",
        f"seconds of a run, median: {np.median(seconds):.0f}" if seconds else "no runs",
    ]
    return "".join(f"- {line}\n" for line in lines)


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def spans(numbers: Sequence[int]) -> str:
    """Format 1, 2, 3, 7 as `1-3,7`."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def failed(failures: Sequence[Failure]) -> str:
    """A section that lists the failures; empty if there are none."""
    if not failures:
        return ""
    entries = (f"- {failure.job.name}\n\n```\n{failure.reason}\n```\n" for failure in failures)
    return "\n## Failed\n\n" + "\n".join(entries)
