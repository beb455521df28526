"""Tuning-free: what adaptive weights at their default lose against fixed weights tuned for each task.

    python -m scripts.regret --seeds 1-3 --share 0.4 --jobs 2
    python -m scripts.regret --report-only

Every hybrid benchmark is trained with adaptive weights as they are and with fixed ones, 0.1 to 0.9 for the
discrete side. The regret of an arm on a task is the best fixed weight's mean score there less its own. The
best is chosen afterwards, on the runs that it is measured by, which favours the fixed weights.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from equipoise.scripts.studies.experiments import Failure, add_arguments, add_places, study
from equipoise.scripts.studies.intervals import RESAMPLES, Floats, interval
from equipoise.scripts.studies.parallel import trained
from equipoise.scripts.studies.report import failed, provenance, shown, table
from equipoise.scripts.studies.results import Result, by_arm, load, strata, write_csv
from equipoise.scripts.studies.tasks import TASKS, Task, add_share, jobs_of, tasks_named

WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the discrete surrogate; the continuous one has the rest."""
ADAPTIVE = "adaptive"
_BASE = "trainer.policy_loss_weights"
ARMS: dict[str, tuple[str, ...]] = {
    ADAPTIVE: (),
    **{
        f"fixed_{w:g}": (
            "trainer.gradient_scaling.enable_adaptive_scaling=false",
            f"{_BASE}.discrete_weight={w:g}",
            f"{_BASE}.continuous_weight={1 - w:g}",
        )
        for w in WEIGHTS
    },
}
HYBRID = [task for task in TASKS if task.env not in ("gymnasium", "hard_move") or task.name == "hard_move_4"]
FIGURES = {"final": "final score", "area": "area under the curve"}
LEGEND = """\
Score: 0 = uniformly random actions, 1 = the scripted expert; means over the runs. *Regret*: the mean score of
the task's best fixed weight less the arm's own, over the tasks; 95 % intervals of a bootstrap over the seeds
with 2,000 resamples, each with a best fixed weight of its own.
"""

Scores = Mapping[str, Mapping[str, Floats]]
"""Task -> arm -> the score of each run."""


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "scripts.regret", *(arguments or sys.argv[1:])])
    jobs = jobs_of(options.tasks, ARMS, options.seeds, options.out, options.share)
    ours, failures = trained(jobs, options.jobs, options.report_only)
    found = [load(job.folder, job.arm.name, job.env) for job in ours]
    results = [result for result in found if result is not None]
    if not results:
        print(f"{options.out}: no finished runs to report", file=sys.stderr)
        return 1
    write_csv(options.report.with_suffix(".csv"), results)
    options.report.write_text(report(command, results, failures, options.report.stem))
    print(f"report: {options.report}")
    return 1 if failures else 0


def report(command: str, results: Sequence[Result], failures: Sequence[Failure], stem: str) -> str:
    text = f"# Without tuning\n\n{provenance(command, results)}\n{LEGEND}"
    for figure, title in FIGURES.items():
        scores = complete(results, figure)
        text += f"\n## By {title}\n\n"
        text += _table(scores) if scores else "No task has runs of all arms yet.\n"
    return text + f"\nEvery run: [{stem}.csv]({stem}.csv)\n{failed(failures)}"


def complete(results: Sequence[Result], figure: str) -> Scores:
    """The tasks that have runs of every arm."""
    scores: dict[str, dict[str, Floats]] = {}
    for task in dict.fromkeys(result.env for result in results):
        runs = by_arm(results, task)
        if runs.keys() >= ARMS.keys():
            scores[task] = {arm: strata(runs[arm], figure, [task])[0] for arm in ARMS}
    return scores


def regrets(scores: Scores) -> dict[str, Floats]:
    """Arm -> its regret on each task, in the order of `scores`."""
    means = {task: {arm: runs.mean(-1) for arm, runs in arms.items()} for task, arms in scores.items()}
    best = {
        task: np.max([m for a, m in arms.items() if a != ADAPTIVE], axis=0) for task, arms in means.items()
    }
    return {arm: np.array([best[task] - means[task][arm] for task in scores]) for arm in ARMS}


def _table(scores: Scores) -> str:
    random = np.random.default_rng(0)
    drawn = {
        task: {
            arm: runs[random.integers(len(runs), size=(RESAMPLES, len(runs)))] for arm, runs in arms.items()
        }
        for task, arms in scores.items()
    }
    known, resampled = regrets(scores), regrets(drawn)
    rows = [["arm", *scores, "mean regret", "largest regret"]]
    for arm in sorted(ARMS, key=lambda a: known[a].mean()):
        cells = [f"{scores[task][arm].mean():.3f}" for task in scores]
        mean, largest = (
            shown(interval(float(f(known[arm])), f(resampled[arm], axis=0))) for f in (np.mean, np.max)
        )
        rows.append([f"**{arm}**" if arm == ADAPTIVE else arm, *cells, mean, largest])
    return table(rows)


def _tasks(text: str) -> list[Task]:
    return tasks_named(text, HYBRID)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, seeds="1-3")
    add_places(parser, "runs/regret", "docs/results/regret.md")
    parser.add_argument("--tasks", type=_tasks, default=HYBRID, help="some of them, as a,b (default: all)")
    add_share(parser, 0.4)
    parser.epilog = f"tasks: {', '.join(task.name for task in HYBRID)}"
    return parser


if __name__ == "__main__":
    sys.exit(main())
