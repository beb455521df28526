"""Trains the benchmarks of the field over seeds and writes their table, published numbers beside ours.

    python -m scripts.benchmark_suite --seeds 1-10 --jobs 2
    python -m scripts.benchmark_suite --tasks platform,hard_move_4 --seeds 1-3
    python -m scripts.benchmark_suite --report-only

Each task is trained by its file in conf/experiment with adaptive weights (preset=balanced) and with fixed
ones (preset=debug). Finished runs are not repeated: the same command continues where it was stopped;
`--report-only` trains nothing, reports the runs that exist and lists those that are missing.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

import numpy as np

from equipoise.scripts.studies.experiments import Failure, Job, add_arguments, add_places, chosen, study
from equipoise.scripts.studies.intervals import Floats, Strata, interquartile_mean, iqm_interval
from equipoise.scripts.studies.parallel import trained
from equipoise.scripts.studies.published import SOURCES, Published
from equipoise.scripts.studies.report import (
    INTERVALS,
    compare,
    failed,
    report_study,
    shown,
    spans,
    table,
)
from equipoise.scripts.studies.results import Result, load, read_csv
from equipoise.scripts.studies.tasks import TASKS, Task, add_share, jobs_of, tasks_named

ARMS = {"adaptive": "preset=balanced", "fixed": "preset=debug"}
NOTES = "benchmarks-notes.md"

LEGEND = """\
Ours: greedy episodes on fresh seeds after training (100 at least), interquartile mean over the seeds,
the worst seed in brackets; *adaptive* is `preset=balanced`, *fixed* is `preset=debug`, all else equal.
The published numbers are the authors' own, in their own implementations of the environments and at their own
lengths, which the second table names. Ours see 14 features on Goal, not 17, begin with nothing made by hand,
and all their steps are counted.
`hard_move_<n>` is the published form (one choice of 2ⁿ options, each with a parameter of its own);
`hard_move_<n>_actuator` is another, easier representation (n independent decisions, a parameter each), and no
published number is of that form.
"""


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "scripts.benchmark_suite", *(arguments or sys.argv[1:])])
    failures: list[Failure] = []
    missing: list[Job] = []
    if options.from_csv:
        results = read_csv(options.report.with_suffix(".csv"))
    else:
        arms = {name: [ARMS[name]] for name in options.arms}
        jobs = jobs_of(options.tasks, arms, options.seeds, options.out, options.share)
        ours, failures = trained(jobs, options.jobs, options.report_only)
        found = [(job, load(job.folder, job.arm.name, job.env)) for job in ours]
        results = [result for _, result in found if result is not None]
        missing = [job for job, result in found if result is None]
    return report_study(
        options,
        "The field's benchmarks",
        command,
        results,
        failures,
        lambda: body(options.tasks, results, missing, failures, options.report.stem),
    )


def body(
    tasks: Sequence[Task],
    results: Sequence[Result],
    missing: Sequence[Job],
    failures: Sequence[Failure],
    stem: str,
) -> str:
    """The report in Markdown, below its title and origin."""
    text = f"{LEGEND}\n{table(_comparison(tasks, results))}"
    text += f"\n## Where the published numbers come from\n\n{table(_sources())}"
    text += f"\nWhat was tried on the way, what failed, and why: [{NOTES}]({NOTES}).\n"
    text += f"\n## Every task and arm\n\n{INTERVALS}\n{table(_details(tasks, results))}"
    text += _missing(missing)
    return text + f"\nEvery run: [{stem}.csv]({stem}.csv)\n{failed(failures)}"


def _sources() -> list[list[str]]:
    head = ["method", "numbers", "trained for", "what else it had", "read in"]
    return [head, *([s.name, s.numbers, s.trained, s.more, s.read] for s in SOURCES)]


def _comparison(tasks: Sequence[Task], results: Sequence[Result]) -> list[list[str]]:
    rows = [["task", "steps", "measure", "published, PPO", "published, best", *ARMS, "seeds"]]
    for task in tasks:
        arms = [_runs(results, task, arm) for arm in ARMS]
        if not any(arms):
            continue
        steps = max(run.summary.env_steps or 0 for runs in arms for run in runs)
        measure = "success rate" if task.measure == "success_rate" else "return"
        row = [task.name, f"{steps / 1000:,.0f} k", measure, _published(task.ppo), _published(task.best)]
        row += [_summary(_numbers(runs, task.measure)) for runs in arms]
        rows.append([*row, " / ".join(str(len(runs)) for runs in arms)])
    return rows


def _details(tasks: Sequence[Task], results: Sequence[Result]) -> list[list[str]]:
    head = ["task", "arm", "seeds", "success rate", "return", "P(adaptive > fixed)", "lowest return"]
    rows = [[*head, "balance before → after", "weights d / c", "seconds"]]
    compared = compare({task.name: _pair(results, task) for task in tasks})
    for task in tasks:
        for arm in ARMS:
            if not (runs := _runs(results, task, arm)):
                continue
            row = [task.name, arm, spans([run.seed for run in runs])]
            for measure in ("success_rate", "return_mean"):
                numbers = _numbers(runs, measure)
                row.append(shown(iqm_interval([numbers])) if len(numbers) else "–")
            row.append(str(compared.get(task.name, "")) if arm == "adaptive" else "")
            row.append(f"{_numbers(runs, 'return_mean').min():.3f}")
            row.append(" → ".join(_mean(runs, key) for key in ("balance_ratio_before", "balance_ratio")))
            weights = ("discrete_weight_used", "continuous_weight_used")
            row.append(" / ".join(_mean(runs, key) for key in weights))
            rows.append([*row, f"{np.median([run.summary.seconds or 0.0 for run in runs]):.0f}"])
    return rows


def _pair(results: Sequence[Result], task: Task) -> tuple[Strata, Strata]:
    """The task's own measure of adaptive and of fixed runs."""
    adaptive, fixed = ([_numbers(_runs(results, task, arm), task.measure)] for arm in ARMS)
    return adaptive, fixed


def _runs(results: Sequence[Result], task: Task, arm: str) -> list[Result]:
    return [result for result in results if (result.env, result.arm) == (task.name, arm)]


def _numbers(runs: Sequence[Result], key: str) -> Floats:
    """The number `key` of each run that has one."""
    return np.array([x for run in runs if (x := getattr(run.summary, key)) is not None], dtype=float)


def _summary(figures: Floats) -> str:
    return f"{float(interquartile_mean(figures)):.3f} ({figures.min():.3f})" if len(figures) else "–"


def _mean(runs: Sequence[Result], key: str) -> str:
    figures = _numbers(runs, key)
    return f"{figures.mean():.2f}" if len(figures) else "–"


def _published(result: Published | None) -> str:
    return "–" if result is None else f"{result.value:g}, {result.source}"


def _missing(jobs: Sequence[Job]) -> str:
    """A section that lists the unfinished runs; empty if there are none."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for job in jobs:
        seeds.setdefault((job.env, job.arm.name), []).append(job.seed)
    lines = "".join(
        f"- {task}, {arm}: seeds {spans(which)}\n" for (task, arm), which in sorted(seeds.items())
    )
    return f"\n## Missing\n\nNot trained to the end yet:\n\n{lines}" if lines else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, seeds="1-10")
    add_places(parser, "runs/benchmarks", "docs/results/benchmarks.md")
    parser.add_argument("--tasks", type=_tasks, default=TASKS, help="some of them, as a,b (default: all)")
    parser.add_argument("--arms", type=_arms, default=tuple(ARMS), help="adaptive,fixed (default) or one")
    add_share(parser, 1.0)
    parser.epilog = "tasks:\n" + "\n".join(f"  {task.name:24} {' '.join(task.overrides)}" for task in TASKS)
    return parser


def _tasks(text: str) -> list[Task]:
    return tasks_named(text, TASKS)


def _arms(text: str) -> list[str]:
    return chosen(text, ARMS, "arm")


if __name__ == "__main__":
    sys.exit(main())
