"""Compares distributions of parameters, σ by state and the rate that follows the KL on tasks of the suite.

    python -m scripts.distributions --seeds 1-3 --out runs/distributions

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
from equipoise.scripts.studies.report import table
from equipoise.scripts.studies.rows import Row, add_folders, made, publish
from equipoise.scripts.suite.episodes import binned
from equipoise.scripts.suite.tasks import TASKS
from equipoise.trainer.monitor.summary import git_revision

BASELINE = "gaussian"
BY_STATE = {"policy.state_dependent_std": True}
KL = {"optimizer.anneal": False, "optimizer.desired_kl": 0.01}
ARMS: Mapping[str, Mapping[str, Any]] = {
    BASELINE: {},
    "beta": {"policy.distribution": "beta"},
    "squashed": {"policy.distribution": "squashed"},
    "kl": KL,
    # A Beta distribution starts with a standard deviation of 0.42, the Gaussian with 0.61: is it only that?
    "gaussian narrow": {"policy.log_std_init": -0.87},
    "gaussian by state": BY_STATE,
    "beta by state": {"policy.distribution": "beta", **BY_STATE},
    "squashed by state": {"policy.distribution": "squashed", **BY_STATE},
}
"""What each changes of the defaults of `env=gymnasium`."""
STEPS = {"Order": 30_720, "Parameterised": 30_720, "Gripper": 61_440, "Pendulum": 40_960}
STEPS |= {"MountainCarContinuous": 40_960}
"""Cheap tasks of the suite, the last two for a part of its length."""
EPISODES = 32

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
    steps, began = STEPS[task], time.process_time()
    run = equipoise.train(
        next(known.id for known in TASKS if known.name == task),
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
    """A table for each measure: every seed, and in how many of the pairs an arm is above the baseline."""
    lines = []
    tasks = [t for t in STEPS if any(row["task"] == t for row in rows)]
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    for measure, title in MEASURES.items():
        by_place = {(row["task"], row["arm"], row["seed"]): row[measure] for row in rows}
        shown = [["arm", *tasks, f"above `{BASELINE}`"]]
        for arm in arms:
            cells, pairs = [], []
            for task in tasks:
                found = {s: value for (t, a, s), value in sorted(by_place.items()) if (t, a) == (task, arm)}
                cells.append(" ".join(f"{value:.4g}" for value in found.values()))
                both = [s for s in found if (task, BASELINE, s) in by_place]
                pairs += [found[s] > by_place[task, BASELINE, s] for s in both]
            better = "" if arm == BASELINE else f"{sum(pairs)} of {len(pairs)}"
            shown.append([arm, *cells, better])
        lines += ["", f"## Return: {title}", "", table(shown).rstrip()]
    seconds = {arm: [row["cpu_seconds"] for row in rows if row["arm"] == arm] for arm in arms}
    listed = ", ".join(f"{arm} {np.mean(each):.1f}" for arm, each in seconds.items() if each)
    return [*lines, "", f"CPU seconds of a run, mean over all tasks: {listed}.", ""]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m scripts.distributions", description=__doc__.split("\n")[0])
    add_arguments(parser, seeds="1-3")
    for name, known in (("tasks", STEPS), ("arms", ARMS)):
        named = partial(chosen, known=known, kind=name[:-1])
        parser.add_argument(f"--{name}", type=named, default=",".join(known), help="as a,b (default: all)")
    add_folders(parser, "distributions")
    return parser


if __name__ == "__main__":
    sys.exit(main())
