"""Gradients through the simulator beside PPO's, on every environment of this project that has derivatives.

    python -m scripts.pathwise --seeds 1-10 --jobs 2
    python -m scripts.pathwise --tasks catch_point,lqr_10 --seeds 1-3
    python -m scripts.pathwise --tasks catch_point_tuned,hard_move_4_tuned --seeds 1-6
    python -m scripts.pathwise --report-only

All arms have the same settings, those of the task's experiment, and the same number of steps, a tenth to half
of what PPO is given there. Finished runs are not repeated; with `--add` nor are those of the report's CSV.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from equipoise.scripts.studies import plots
from equipoise.scripts.studies.adding import add_adding, known_results, without
from equipoise.scripts.studies.experiments import Failure, add_arguments, add_places, study
from equipoise.scripts.studies.intervals import SIGNIFICANT, holm, paired, within_pairs
from equipoise.scripts.studies.parallel import trained
from equipoise.scripts.studies.report import LEGEND, failed, markdown_tables, report_study, table, told_p
from equipoise.scripts.studies.results import MEASURES, Measure, Result, by_arm, load
from equipoise.scripts.studies.tasks import Task, add_tasks_and_arms, jobs_of

THRESHOLD = 0.9
ARMS = {kind: (f"trainer.continuous_gradient={kind}",) for kind in ("score", "pathwise", "auto")}
BASELINE = "score"


def _task(name: str, env: str, steps: int, *overrides: str, eval_every: int = 5) -> Task:
    measured = (
        f"trainer.total_env_steps={steps}",
        f"trainer.eval_every={eval_every}",
        "trainer.eval_episodes=64",
    )
    return Task(name, env, (*overrides, *measured), "return_mean")


TASKS = (
    _task("catch_point", "catch_point", 102_400, "experiment=catch_point"),
    _task("catch_point_25", "catch_point", 102_400, "experiment=catch_point", "env.max_steps=25"),
    *(_task(f"hard_move_{n}", "hard_move", 102_400, "experiment=hard_move", f"env.n={n}") for n in (4, 10)),
    *(_task(name, name, 204_800, f"experiment={name}") for name in ("moving", "sliding", "platform")),
    *(
        _task(f"lqr_{d}", "switched_lqr", 204_800, "experiment=switched_lqr", f"env.dimension={d}")
        for d in (2, 10, 20)
    ),
    _task("lqr_10_long", "switched_lqr", 499_200, "experiment=switched_lqr", "env.dimension=10"),
    # How long PPO takes to what derivatives reach above: with `--arms score`.
    _task("catch_point_long", "catch_point", 512_000, "experiment=catch_point"),
    *(
        _task(f"hard_move_{n}_long", "hard_move", 204_800, "experiment=hard_move", f"env.n={n}")
        for n in (4, 10)
    ),
    _task("inventory", "inventory", 204_800, "experiment=inventory"),
    *(_task(name, name, 81_920) for name in ("topology_spawn", "topology_spawn_hard")),
    # An evaluation of Goal, whose last episode may be long, takes as long as five iterations.
    _task("goal", "goal", 204_800, "experiment=goal", "env.compiled=true", eval_every=20),
)
"""The cheapest first."""
TUNED = tuple(
    replace(
        task,
        name=f"{task.name}_tuned",
        overrides=(
            *task.overrides,
            "env.num_envs=64",
            "trainer.batch.rollout_steps=8",
            "trainer.eval_every=4",
        ),
    )
    for task in TASKS
    if task.name in ("catch_point", "hard_move_4", "hard_move_10")
)
"""With rollouts of the shape that PPO does best with, which matters most of all to it; not in the default."""
HEADLINE = ("catch_point", "hard_move_4", "lqr_10")
"""Of which there is a picture of their own, for the README."""


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "scripts.pathwise", *(arguments or sys.argv[1:])])
    path: Path = options.report
    failures: list[Failure] = []
    results = known_results(options)
    if not options.from_csv:
        arms = {name: ARMS[name] for name in options.arms}
        jobs = without(jobs_of(options.tasks, arms, options.seeds, options.out), results)
        jobs, failures = trained(jobs, options.jobs, options.report_only)
        found = [load(job.folder, job.arm.name, job.env, THRESHOLD) for job in jobs]
        fresh = [result for result in found if result is not None]
        results += fresh
        if fresh:
            tasks = list(dict.fromkeys(result.env for result in fresh))
            plots.save(plots.curves(fresh, tasks), path.with_name(f"{path.stem}_curves"))
            if headline := [task for task in HEADLINE if task in tasks]:
                plots.save(plots.curves(fresh, headline), path.with_name(f"{path.stem}_headline"))
    return report_study(
        options,
        "Gradients through the simulator",
        command,
        results,
        failures,
        lambda: body(results, failures),
    )


def body(results: Sequence[Result], failures: Sequence[Failure]) -> str:
    """The report in Markdown, below its title and origin."""
    tasks = list(dict.fromkeys(result.env for result in results))
    parts = {task: [result for result in results if result.env == task] for task in tasks}
    tables = markdown_tables(parts, BASELINE, threshold=THRESHOLD)
    sections = "".join(f"\n## {task}\n\n{text}" for task, text in tables.items())
    return (
        f"{LEGEND}\n## Within pairs of runs of one seed\n\n{_pairs(parts)}{sections}"
        f"{_returns(parts)}"
        f"\n## What a step costs\n\n{_cost(parts)}{failed(failures)}"
    )


def _pairs(parts: dict[str, list[Result]]) -> str:
    """For each arm its runs less those of the baseline with the same seeds."""
    text = (
        "The mean difference with its 95 % interval, after Student's t, in parentheses the number of pairs,\n"
        "and p, corrected by Holm for all tasks of the column. **Bold**: below 0.05.\n"
    )
    for arm in (arm for arm in ARMS if arm != BASELINE):
        columns = [_differences(parts, arm, measure) for measure in MEASURES]
        rows = [[task, *(column[task] for column in columns)] for task in parts if task in columns[0]]
        if rows:
            head = ["task", *(f"{measure}: {arm} − {BASELINE}" for measure in MEASURES)]
            text += f"\n{table([head, *rows])}"
    return text


def _differences(parts: dict[str, list[Result]], arm: str, measure: Measure) -> dict[str, str]:
    """Task -> difference, interval, pairs and p, where there are two pairs at least."""
    found = {}
    for task, results in parts.items():
        runs = by_arm(results)
        ours, theirs = (
            {run.seed: getattr(run, measure) for run in runs.get(name, [])} for name in (arm, BASELINE)
        )
        if len(differences := within_pairs(ours, theirs)) > 1:
            found[task] = paired(differences)
    cells = {}
    for (task, (one, _)), p in zip(found.items(), holm([p for _, p in found.values()]), strict=True):
        text = f"{one.value:+.3f} [{one.low:.3f}, {one.high:.3f}] ({one.runs[0]}), {told_p(p)}"
        cells[task] = f"**{text}**" if p < SIGNIFICANT else text
    return cells


def _returns(parts: dict[str, list[Result]]) -> str:
    """Of the LQR, where random actions lose a thousand times what the optimum does and every score is 1."""
    rows = [["task", *(f"{arm}, median [worst, best]" for arm in ARMS)]]
    for task in (task for task in parts if task.startswith("lqr")):
        found = {
            arm: np.array([run.summary.return_mean for run in runs])
            for arm, runs in by_arm(parts[task]).items()
        }
        cells = [
            f"{np.median(x):.4g} [{x.min():.4g}, {x.max():.4g}] ({len(x)})"
            if (x := found.get(arm)) is not None
            else ""
            for arm in ARMS
        ]
        rows.append([task, *cells])
    return f"\n## Returns\n\n{table(rows)}" if len(rows) > 1 else ""


def _cost(parts: dict[str, list[Result]]) -> str:
    """CPU time, in pairs of runs of one seed and one commit."""
    others = [arm for arm in ARMS if arm != BASELINE]
    rows = [["task", f"{BASELINE}, CPU s for 100,000 steps", *(f"{arm} / {BASELINE}" for arm in others)]]
    for task, results in parts.items():
        costs = {
            arm: {
                (run.seed, run.summary.git_revision): 1e5 * run.summary.cpu_seconds / run.summary.env_steps
                for run in runs
                if run.summary.cpu_seconds and run.summary.env_steps
            }
            for arm, runs in by_arm(results).items()
        }
        base = costs.get(BASELINE, {})
        cells = [
            _median([one[key] / base[key] for key in one if key in base], ".2f")
            for one in (costs.get(arm, {}) for arm in others)
        ]
        if any(cells):
            rows.append([task, _median(list(base.values()), ".0f"), *cells])
    return table(rows)


def _median(numbers: Sequence[float], form: str) -> str:
    return f"{np.median(numbers):{form}} ({len(numbers)})" if numbers else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m scripts.pathwise", description=__doc__.split("\n")[0])
    add_arguments(parser, seeds="1-10")
    add_places(parser, "runs/pathwise", "docs/results/pathwise.md")
    add_adding(parser)
    add_tasks_and_arms(parser, (*TASKS, *TUNED), ARMS)
    parser.set_defaults(tasks=",".join(task.name for task in TASKS))
    return parser


if __name__ == "__main__":
    sys.exit(main())
