"""Reports: tables of arms over seeds in Markdown, and where the numbers come from."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from equipoise.scripts.studies.experiments import Failure
from equipoise.scripts.studies.intervals import Interval, bootstrap, probability_of_improvement
from equipoise.scripts.studies.results import THRESHOLD, Result, by_arm, ranked, strata

LEGEND = """\
Score: 0 = uniformly random actions, 1 = the scripted expert (may be exceeded); where there is no expert, the
mean return. *Final score*: the closing evaluation, deterministic episodes on fresh seeds. *Area*: mean height
of the learning curve. *IQM*: interquartile mean over the runs, with the 95 % interval of a stratified
bootstrap with 2,000 resamples. *P(… > …)*: probability that a run of the arm does better than one of the
baseline, with its interval (Agarwal et al., 2021). *Steps to*: of the median run, and how many got there.
*Balance ratio*: push of the discrete over that of the continuous side, per unit of base weight, measured on
each minibatch's own gradients, geometric mean over the last quarter. Best area first.
"""


def markdown_table(
    results: Sequence[Result],
    baseline: str,
    changes: dict[str, str] | None = None,
    threshold: float = THRESHOLD,
) -> str:
    """Arms in the order of the area under their curves, compared with `baseline`.

    Runs of several environments count as strata; an arm that lacks one of them is left out.
    """
    envs = sorted({result.env for result in results})
    arms = {
        name: runs for name, runs in by_arm(results).items() if {result.env for result in runs} == set(envs)
    }
    head = ["arm", *(["what it changes"] if changes else []), "runs", "final score, IQM", "area, IQM"]
    head += [f"steps to {threshold:g}", f"P(area > {baseline})", f"P(final > {baseline})", "balance ratio"]
    rows = []
    for name in ranked(results):
        if name not in arms:
            continue
        runs = arms[name]
        row = [f"**{name}**" if name == baseline else name, *([changes.get(name, "")] if changes else [])]
        row += [str(len(runs)), *(shown(bootstrap(strata(runs, f, envs))) for f in ("final", "area"))]
        row.append(_time(runs, threshold))
        for figure in ("area", "final"):
            if name == baseline or baseline not in arms:
                row.append("")
            else:
                theirs = strata(arms[baseline], figure, envs)
                row.append(shown(probability_of_improvement(strata(runs, figure, envs), theirs), 2))
        row.append(_balance(runs))
        rows.append(row)
    return table([head, *rows])


def table(rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; the first row is the head."""
    head, *body = rows
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *body))


def shown(interval: Interval, digits: int = 3) -> str:
    value, low, high = (f"{number:.{digits}f}" for number in interval)
    return f"{value} [{low}, {high}]"


def _time(runs: Sequence[Result], threshold: float) -> str:
    """Median over the runs, those that never got there counting as infinite."""
    times = np.array([run.time_to(threshold) for run in runs])
    reached, median = int(np.isfinite(times).sum()), float(np.median(times))
    return f"{f'{median / 1e3:.0f} k' if math.isfinite(median) else 'n/a'} ({reached}/{len(runs)})"


def _balance(runs: Sequence[Result]) -> str:
    """Geometric mean over the runs of the ratio in the last quarter."""
    ratios = [run.summary.balance_ratio for run in runs if run.summary.balance_ratio]
    return f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}" if ratios else "n/a"


def provenance(command: str, results: Sequence[Result]) -> str:
    """Command, commit, machine, versions, seeds and steps, as a list."""

    def distinct(values: Sequence[object]) -> str:
        return ", ".join(sorted({str(value) for value in values})) or "n/a"

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
    """1, 2, 3, 7 as `1-3,7`."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def failed(failures: Sequence[Failure]) -> str:
    """A section that lists them; nothing where there are none."""
    if not failures:
        return ""
    entries = (f"- {failure.job.name}\n\n```\n{failure.reason}\n```\n" for failure in failures)
    return "\n## Failed\n\n" + "\n".join(entries)
