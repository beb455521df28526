"""Tuning-free: what adaptive weights at their default lose against fixed weights tuned for each task.

    python -m scripts.regret --seeds 1-10 --share 0.4 --jobs 2
    python -m scripts.regret --report-only

Every hybrid benchmark is trained with adaptive weights as they are and with fixed ones, 0.1 to 0.9 for the
discrete side. The regret of an arm on a task is the score of the best fixed weight there less its own, seed
by seed: the weight is chosen by the other seeds. Chosen by the same runs that it is then measured by, the
largest of several means would look better than it is.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from equipoise.scripts.studies.experiments import Failure, add_arguments, add_places, study
from equipoise.scripts.studies.intervals import Floats, iqm_interval
from equipoise.scripts.studies.parallel import trained
from equipoise.scripts.studies.report import (
    INTERVALS,
    Comparison,
    compare,
    failed,
    report_study,
    shown,
    table,
)
from equipoise.scripts.studies.results import MEASURES, Measure, Result, by_arm, load, read_csv
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
HYBRID = tasks_named("catch_point,hard_move_4,moving,sliding,platform,goal", TASKS)
"""One task for each hybrid environment."""
TITLES: dict[Measure, str] = {"final": "final score", "area": "area under the curve"}
LEGEND = f"""\
Score: 0 = uniformly random actions, 1 = the scripted expert; means over the seeds. *Regret*: score of the
task's best fixed weight less the arm's own; for each seed that weight is the best of the *other* seeds.
*Mean regret*: over the tasks, interquartile mean over the seeds. *Largest*: of the tasks' mean regrets, as
it came out; the largest of several numbers tends to be too large. *P(… > adaptive)*: averaged over the tasks.
{INTERVALS}"""

Scores = Mapping[str, Mapping[str, Floats]]
"""Task -> arm -> the score of each seed; the same seeds everywhere."""


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "scripts.regret", *(arguments or sys.argv[1:])])
    failures: list[Failure] = []
    if options.from_csv:
        results = read_csv(options.report.with_suffix(".csv"))
    else:
        jobs = jobs_of(options.tasks, ARMS, options.seeds, options.out, options.share)
        ours, failures = trained(jobs, options.jobs, options.report_only)
        found = [load(job.folder, job.arm.name, job.env) for job in ours]
        results = [result for result in found if result is not None]
    return report_study(
        options,
        "Without tuning",
        command,
        results,
        failures,
        lambda: body(results, failures, options.report.stem),
    )


def body(results: Sequence[Result], failures: Sequence[Failure], stem: str) -> str:
    """The report in Markdown, below its title and origin."""
    scores = {measure: complete(results, measure) for measure in MEASURES}
    compared = compare(
        {
            (measure, arm): (_strata(found, arm), _strata(found, ADAPTIVE))
            for measure, found in scores.items()
            for arm in ARMS
            if found and arm != ADAPTIVE
        }
    )
    text = LEGEND
    for measure, title in TITLES.items():
        against = {arm: compared[measure, arm] for arm in ARMS if (measure, arm) in compared}
        text += f"\n## By {title}\n\n"
        text += _table(scores[measure], against) if scores[measure] else "No task has runs of all arms yet.\n"
    return text + f"\nEvery run: [{stem}.csv]({stem}.csv)\n{failed(failures)}"


def complete(results: Sequence[Result], measure: Measure) -> Scores:
    """The tasks that have runs of every arm, and of these the seeds that all of them have."""
    tasks: dict[str, dict[str, dict[int, float]]] = {}
    for task in dict.fromkeys(result.env for result in results):
        arms = by_arm(results, task)
        if arms.keys() >= ARMS.keys():
            tasks[task] = {arm: {run.seed: getattr(run, measure) for run in arms[arm]} for arm in ARMS}
    every = [set(runs) for arms in tasks.values() for runs in arms.values()]
    seeds = sorted(set.intersection(*every)) if every else []
    return {
        task: {arm: np.array([runs[seed] for seed in seeds]) for arm, runs in arms.items()}
        for task, arms in tasks.items()
        if seeds
    }


def regrets(scores: Scores) -> dict[str, Floats]:
    """Arm -> its regrets `[tasks, seeds]`, in the order of `scores`."""
    best = np.array([_best_fixed(arms) for arms in scores.values()])
    return {arm: best - np.array(_strata(scores, arm)) for arm in ARMS}


def _best_fixed(arms: Mapping[str, Floats]) -> Floats:
    """`[seeds]`: the score of the fixed weight that is best by the mean of the other seeds, or of the only
    seed there is."""
    fixed = np.array([runs for arm, runs in arms.items() if arm != ADAPTIVE])
    others = fixed.sum(1, keepdims=True) - fixed if fixed.shape[1] > 1 else fixed
    return np.asarray(np.take_along_axis(fixed, others.argmax(0)[None], 0)[0])


def _strata(scores: Scores, arm: str) -> list[Floats]:
    return [arms[arm] for arms in scores.values()]


def _table(scores: Scores, compared: Mapping[str, Comparison]) -> str:
    found = regrets(scores)
    rows = [["arm", *scores, "mean regret", "largest", "P(… > adaptive)"]]
    for arm in sorted(ARMS, key=lambda a: found[a].mean()):
        cells = [f"{runs.mean():.3f}" for runs in _strata(scores, arm)]
        cells += [shown(iqm_interval([found[arm].mean(0)])), f"{found[arm].mean(1).max():.3f}"]
        rows.append([arm, *cells, str(compared.get(arm, ""))])
    return table(rows)


def _tasks(text: str) -> list[Task]:
    return tasks_named(text, HYBRID)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, seeds="1-10")
    add_places(parser, "runs/regret", "docs/results/regret.md")
    parser.add_argument("--tasks", type=_tasks, default=HYBRID, help="some of them, as a,b (default: all)")
    add_share(parser, 0.4)
    parser.epilog = f"tasks: {', '.join(task.name for task in HYBRID)}"
    return parser


if __name__ == "__main__":
    sys.exit(main())
