"""Which weighting of the two sides is safe to leave on: candidates beside fixed weights, over many tasks.

    python -m scripts.balance --seeds 1-10 --jobs 2
    python -m scripts.balance --tasks gripper,spawn --arms fixed_0.7,adaptive --seeds 1-3
    python -m scripts.balance --report-only

Tasks are this project's own, and those of `scripts/suite` as `env=gymnasium` trains them; TopologySpawn is
also trained with its discrete loss multiplied by 0.03, 30 and 1000. An arm is compared with both fixed
weights on every task, and with itself undisturbed where the loss has a factor. Finished runs are not
repeated: the same command continues where it was stopped; with `--add` nor are those that the report's CSV
has, from another machine or an earlier day.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from equipoise.scripts.studies import plots
from equipoise.scripts.studies.adding import add_adding, known_results, without
from equipoise.scripts.studies.experiments import Failure, Job, add_arguments, add_places, study
from equipoise.scripts.studies.intervals import Floats, equivalent, iqm_interval
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
from equipoise.scripts.studies.results import MEASURES, Result, by_arm, load
from equipoise.scripts.studies.tasks import Task, add_tasks_and_arms, jobs_of

_SCALING = "trainer.gradient_scaling"
_FIXED = (f"{_SCALING}.enable_adaptive_scaling=false",)
_UNIT = ("trainer.surrogate_size.enable_unit_size=true",)
_EVEN = (
    "trainer.policy_loss_weights.discrete_weight=0.5",
    "trainer.policy_loss_weights.continuous_weight=0.5",
)
REFERENCES = ("fixed_0.7", "fixed_0.5")
ARMS: dict[str, tuple[str, ...]] = {
    "fixed_0.7": _FIXED,
    "fixed_0.5": (*_FIXED, *_EVEN),
    "adaptive": (f"{_SCALING}.enable_adaptive_scaling=true",),
    "unit": (*_UNIT, *_FIXED),
    "unit_even": (*_UNIT, *_FIXED, *_EVEN),
    "unit_half": (*_UNIT, f"{_SCALING}.scaling_exponent=0.5"),
    "signal": (f"{_SCALING}.balance_on=signal",),
    "unit_adaptive": (*_UNIT, f"{_SCALING}.enable_adaptive_scaling=true"),
}
MEANINGS = {
    "fixed_0.7": "the weights 0.7 and 0.3, for ever",
    "fixed_0.5": "0.5 and 0.5, for ever",
    "adaptive": "gradient scaling: both sides push alike",
    "unit": "surrogates of unit size, fixed 0.7 and 0.3",
    "unit_even": "surrogates of unit size, fixed 0.5 and 0.5",
    "unit_half": "surrogates of unit size, half of the difference between both gradients corrected",
    "signal": "gradient scaling of what is not noise in both gradients",
    "unit_adaptive": "surrogates of unit size and gradient scaling",
}
FACTORS = (0.03, 30.0, 1000.0)
MARGIN = 0.02
"""Of the score: what counts as the same."""
_STAGES = (
    "reward_normalization,advantage_weighting,value_clipping,discrete_loss_factor,surrogate_size,"
    "entropy_regularization,gradient_scaling"
)


def _gymnasium(name: str, steps: int) -> Task:
    id = f"'equipoise.scripts.suite.environments:suite/{name}-v0'"
    base = "preset=balanced"  # the weights 0.7 and 0.3, as for this project's own tasks
    overrides = (base, f"env.id={id}", f"trainer.total_env_steps={steps}", "trainer.eval_episodes=16")
    return Task(name.lower(), "gymnasium", overrides, "return_mean")


def _own(name: str, env: str, steps: int, *overrides: str) -> Task:
    return Task(name, env, (*overrides, f"trainer.total_env_steps={steps}"), "return_mean")


def _disturbed(factor: float) -> Task:
    stage = "trainer.discrete_loss_factor"
    return _own(
        f"spawn_x{factor:g}",
        "topology_spawn",
        81_920,
        f"trainer.stages=[{_STAGES}]",
        f"{stage}._target_=equipoise.scripts.studies.loss_factor.DiscreteLossFactor",
        f"{stage}.factor={factor}",
    )


UNDISTURBED = "spawn"
DISTURBED = tuple(_disturbed(factor) for factor in FACTORS)
DISTURBED_NAMES = tuple(task.name for task in DISTURBED)
TASKS = (
    *(_gymnasium(name, 30_720) for name in ("Order", "Car", "Parameterised", "Strategy", "DataCentre")),
    _gymnasium("Gripper", 61_440),
    _own(UNDISTURBED, "topology_spawn", 81_920),
    _own("spawn_hard", "topology_spawn_hard", 81_920),
    _own("seasons", "topology_spawn_seasons", 81_920, "policy.log_std_init=0"),
    *DISTURBED,
    *(
        _own(name, name, 102_400, f"experiment={name}")
        for name in ("catch_point", "hard_move", "moving", "sliding", "platform", "goal")
    ),
)
"""The cheapest first."""


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "scripts.balance", *(arguments or sys.argv[1:])])
    path: Path = options.report
    failures: list[Failure] = []
    results = known_results(options)
    if not options.from_csv:
        arms = {name: ARMS[name] for name in options.arms}
        jobs = without(jobs_of(options.tasks, arms, options.seeds, options.out), results)
        jobs, failures = trained(jobs, options.jobs, options.report_only)
        found = [(job, load(job.folder, job.arm.name, job.env)) for job in jobs]
        results += [result for _, result in found if result is not None]
        _picture([job for job, result in found if result is not None and job.arm.name == REFERENCES[0]], path)
    return report_study(
        options,
        "Which weighting is safe to leave on",
        command,
        results,
        failures,
        lambda: body(results, failures, path.stem),
    )


def _picture(jobs: Sequence[Job], report: Path) -> None:
    """Both sides over training, left to themselves."""
    folders: dict[str, list[Path]] = {}
    for job in jobs:
        if job.env not in DISTURBED_NAMES:
            folders.setdefault(job.env, []).append(job.folder)
    if folders:
        plots.save(plots.sides(folders), report.with_name(f"{report.stem}_sides"))


def body(results: Sequence[Result], failures: Sequence[Failure], stem: str) -> str:
    """The report in Markdown, below its title and origin."""
    areas = {task: _by_arm(results, task) for task in dict.fromkeys(result.env for result in results)}
    pairs = {
        (task, arm, fixed): ([runs], [arms[fixed]])
        for task, arms in areas.items()
        for arm, runs in arms.items()
        for fixed in REFERENCES
        if fixed in arms and arm not in REFERENCES
    }
    compared = compare(pairs)
    meanings = "".join(f"- `{name}`: {text}\n" for name, text in MEANINGS.items())
    text = (
        f"{meanings}\n*Area*: mean of the deterministic evaluations over a run, in the task's score\n"
        "(0 random, 1 scripted expert) where there is an expert, else its return. "
        f"{INTERVALS}\n## Area on every task\n\n"
    )
    rows = [["task", "arm", "area, IQM", *(f"P(area > {fixed})" for fixed in REFERENCES)]]
    for task, arms in areas.items():
        for arm, runs in arms.items():
            verdicts = [str(compared.get((task, arm, fixed), "")) for fixed in REFERENCES]
            rows.append([task, arm, shown(iqm_interval([runs])), *verdicts])
    text += table(rows) + "\n## All tasks\n\n" + _verdicts(compared) + "\n" + _equivalence(results)
    return text + f"\nEvery run: [{stem}.csv]({stem}.csv)\n{failed(failures)}"


def _by_arm(results: Sequence[Result], task: str) -> dict[str, Floats]:
    return {arm: np.array([run.area for run in runs]) for arm, runs in by_arm(results, task).items()}


def _verdicts(compared: Mapping[tuple[str, str, str], Comparison]) -> str:
    """For each arm: on how many tasks it tends to be, and on which it is shown to be, better or worse."""
    rows = [["arm", "against", "larger area on", "shown to be better", "shown to be worse"]]
    for arm in dict.fromkeys(arm for _, arm, _ in compared):
        for fixed in REFERENCES:
            found = {task: c for (task, name, other), c in compared.items() if (name, other) == (arm, fixed)}
            shows = {task: c for task, c in found.items() if c.shows_a_difference}
            better = [task for task, c in shows.items() if c.probability.value > 0.5]
            worse = [task for task, c in shows.items() if c.probability.value < 0.5]
            larger = sum(c.probability.value > 0.5 for c in found.values())
            rows.append(
                [arm, fixed, f"{larger} of {len(found)}", *(", ".join(x) or "–" for x in (better, worse))]
            )
    return table(rows)


def _equivalence(results: Sequence[Result]) -> str:
    """Whether an arm's runs with a factor on the discrete loss are those without, by two one-sided tests."""
    rows = [["arm", *(f"{measure}, × {factor:g}" for measure in MEASURES for factor in FACTORS)]]
    for arm in ARMS:
        runs = {task: by_arm(results, task).get(arm, []) for task in (UNDISTURBED, *DISTURBED_NAMES)}
        row = [arm]
        for measure in MEASURES:
            same, *others = (np.array([getattr(run, measure) for run in found]) for found in runs.values())
            for other in others:
                row.append(_same(other, same) if min(len(other), len(same)) > 1 else "n/a")
        if any(cell != "n/a" for cell in row[1:]):
            rows.append(row)
    return (
        "## A factor on the discrete loss\n\nTopologySpawn, Adam: mean with the factor less mean without, "
        f"and p of the two one-sided tests that it lies within ± {MARGIN} of the score (small: the same).\n\n"
        f"{table(rows)}"
    )


def _same(ours: Floats, theirs: Floats) -> str:
    return f"{ours.mean() - theirs.mean():+.3f}, p {equivalent(ours, theirs, MARGIN):.3f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m scripts.balance", description=__doc__.split("\n")[0])
    add_arguments(parser, seeds="1-10")
    add_places(parser, "runs/balance", "docs/results/balance.md")
    add_adding(parser)
    add_tasks_and_arms(parser, TASKS, ARMS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
