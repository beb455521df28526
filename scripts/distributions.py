"""Compares distributions of parameters, σ by state and limits of the KL on tasks of the suite.

    python -m scripts.distributions --seeds 1-10 --out runs/distributions

All runs are made one after the other, in this process; one that is there is not made again. Stopped at any
moment, it still compares all arms on the seeds that are done. `--report-only` reports the runs that exist.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import equipoise
from equipoise.scripts.studies.experiments import add_arguments, chosen, study
from equipoise.scripts.studies.intervals import SIGNIFICANT, holm, paired, within_pairs
from equipoise.scripts.studies.report import table
from equipoise.scripts.studies.rows import Row, add_folders, made, publish
from equipoise.scripts.suite.episodes import binned
from equipoise.scripts.suite.tasks import TASKS
from equipoise.trainer.monitor.summary import git_revision

BASELINE = "gaussian"
BY_STATE = {"policy.state_dependent_std": True}
ARMS: Mapping[str, Mapping[str, Any]] = {
    BASELINE: {},
    "gaussian narrow": {"policy.log_std_init": -0.87},  # begins with the standard deviation of `beta`, 0.42
    "beta": {"policy.distribution": "beta"},
    "squashed": {"policy.distribution": "squashed"},
    "gaussian by state": BY_STATE,
    "beta by state": {"policy.distribution": "beta", **BY_STATE},
    "rate follows KL": {"optimizer.anneal": False, "optimizer.desired_kl": 0.01},
    "iteration ends at KL": {"trainer.target_kl": 0.02},
}
"""What each changes of the defaults of `env=gymnasium`."""
TASK = {task.name: task for task in TASKS}
WITH_PARAMETERS = ("Order", "Car", "Parameterised", "Strategy", "DataCentre", "Gripper", "Pendulum")
"""Cheap tasks of the suite."""
EPISODES = 32

EXPLANATION = f"""\
A cell has the mean of an arm's runs, and its mean difference to `{BASELINE}` on the same seeds, with the 95 %
interval (Student's t) and the number of pairs. **Bold**: p below 0.05, corrected by Holm for all cells of the
table. Everything else is no difference that these runs can show."""

MEASURES = {"area": "area", "deterministic": "deterministic at the end", "sampled": "sampled at the end"}


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    planned = (
        (f"{task}-{arm.replace(' ', '_')}-s{seed}", partial(one, task, arm, seed, options.out))
        for seed, task, arm in product(options.seeds, options.tasks, options.arms)
    )
    rows = made(options, planned)
    publish(options, "scripts.distributions", "Distributions", arguments, rows, tables(rows))
    return 0


def one(task: str, arm: str, seed: int, out: Path) -> Row:
    """Train and evaluate."""
    steps, began = TASK[task].steps, time.process_time()
    run = equipoise.train(
        TASK[task].id,
        folder=out / "runs" / f"{task}-{arm.replace(' ', '_')}-s{seed}",
        overrides=dict(ARMS[arm]),
        seed=seed,
        total_env_steps=steps,
        eval_every=0,
        final_eval_episodes=EPISODES,
        progress=False,
        resume="auto",
    )
    found, returns = run.summary, run.metrics["episode/return"]
    known = ~np.isnan(returns)
    curve = binned(list(run.metrics["env_steps"][known]), list(returns[known]), steps)
    return {
        "task": task,
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "area": float(np.mean(curve)),
        "deterministic": found["return_mean"],
        "sampled": found["sampled_return_mean"],
        "entropy": float(run.metrics["entropy/continuous"][-1]),
        "rate": float(run.metrics["optimizer/learning_rate"][-1]),
        "cpu_seconds": time.process_time() - began,
        "commit": git_revision() or "n/a",
    }


def tables(rows: Sequence[Row]) -> list[str]:
    tasks = [task for task in WITH_PARAMETERS if any(row["task"] == task for row in rows)]
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    lines = ["", EXPLANATION]
    for measure, title in MEASURES.items():
        cells = _cells(rows, measure)
        shown = [["arm", *tasks], *([arm, *(cells.get((task, arm), "") for task in tasks)] for arm in arms)]
        lines += ["", f"## Return: {title}", "", table(shown).rstrip()]
    seconds = {arm: [row["cpu_seconds"] for row in rows if row["arm"] == arm] for arm in arms}
    listed = ", ".join(f"{arm} {np.mean(each):.1f}" for arm, each in seconds.items() if each)
    return [*lines, "", f"CPU seconds of a run, mean over all tasks: {listed}.", ""]


def _cells(rows: Sequence[Row], measure: str) -> dict[tuple[str, str], str]:
    """Task and arm -> the mean of its runs, and its difference to the baseline on the same seeds."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        found.setdefault((row["task"], row["arm"]), {})[row["seed"]] = row[measure]
    against = {}
    for (task, arm), ours in found.items():
        theirs = found.get((task, BASELINE), {})
        differences = within_pairs(ours, theirs)
        if arm != BASELINE and len(differences) > 1:
            against[task, arm] = paired(differences)
    cells = {place: f"{np.mean(list(each.values())):.4g}" for place, each in found.items()}
    corrected = holm([p for _, p in against.values()])
    for (place, (difference, _)), p in zip(against.items(), corrected, strict=True):
        value, low, high, runs, _ = difference
        text = f"{value:+.3g} [{low:.3g}, {high:.3g}] ({runs[0]})"
        cells[place] += f", **{text}**" if p < SIGNIFICANT else f", {text}"
    return cells


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m scripts.distributions", description=__doc__.split("\n")[0])
    add_arguments(parser, seeds="1-10")
    for name, known in (("tasks", WITH_PARAMETERS), ("arms", ARMS)):
        named = partial(chosen, known=known, kind=name[:-1])
        parser.add_argument(f"--{name}", type=named, default=",".join(known), help="as a,b (default: all)")
    add_folders(parser, "distributions")
    return parser


if __name__ == "__main__":
    sys.exit(main())
