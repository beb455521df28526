"""Compares policies whose numbers and later decisions do, or do not, see the choices just taken.

    python -m scripts.conditioning --seeds 1-20 --out runs/conditioning
    python -m scripts.conditioning --tasks "nasim tiny,nasim small" --seeds 1-3  # pip install nasim
    python -m scripts.conditioning --tasks Order,Car,Parameterised,Strategy,DataCentre,Gripper --seeds 1-5

All runs are made one after the other, in this process; one that is there is not made again. `--report-only`
reports the runs that exist.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import equipoise
from equipoise.scripts.studies.experiments import add_arguments, chosen, study
from equipoise.scripts.studies.intervals import Floats, holm, paired, within_pairs
from equipoise.scripts.studies.joint_tasks import Climbing, SharedBox
from equipoise.scripts.studies.report import table
from equipoise.scripts.studies.rows import Row, add_folders, made, publish
from equipoise.scripts.suite.tasks import TASKS as FIRST_TRY
from equipoise.trainer.monitor.summary import git_revision

ARMS = ("none", "choices", "autoregressive")
REACHED = 0.9
"""Share of the episodes in which the better option was taken."""
SEVERAL = ("Strategy", "DataCentre")
"""Tasks of the first-try suite with more than one decision."""
COLUMNS = (
    *("task", "policy.conditioning", "runs", "end at the better option", "steps until 90 % take it, median"),
    *("return, deterministic", "return, sampled", "area", "CPU s"),
)


class Task(NamedTuple):
    env: str | Callable[..., Any]
    steps: int
    arms: Sequence[str]
    settings: Mapping[str, Any]


SMALL = {"num_envs": 64, "rollout_steps": 16}
TASKS: Mapping[str, Task] = {
    "shared box": Task(SharedBox, 32_768, ARMS[:2], SMALL),
    "climbing": Task(Climbing, 32_768, (ARMS[0], ARMS[2]), SMALL),
    "nasim tiny": Task("nasim:TinyVA-v0", 30_720, (ARMS[0], ARMS[2]), {"eval_max_steps": 500}),
    "nasim small": Task("nasim:SmallVA-v0", 61_440, (ARMS[0], ARMS[2]), {"eval_max_steps": 1_000}),
    # The hybrid tasks of the first-try suite that need no package, with the defaults alone.
    **{
        task.name: Task(task.id, task.steps, ARMS if task.name in SEVERAL else ARMS[:2], {})
        for task in FIRST_TRY[:6]
    },
}


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    planned = (
        (f"{task.replace(' ', '_')}-{arm}-s{seed}", partial(one, task, arm, seed, options.out))
        for seed, task in product(options.seeds, options.tasks)
        for arm in TASKS[task].arms
    )
    rows = made(options, planned)
    publish(options, "scripts.conditioning", "Conditioning", arguments, rows, tables(rows))
    return 0


def one(task: str, arm: str, seed: int, out: Path) -> Row:
    """Train and evaluate."""
    about, began = TASKS[task], time.process_time()
    run = equipoise.train(
        about.env,
        folder=out / "runs" / f"{task.replace(' ', '_')}-{arm}-s{seed}",
        overrides={"policy.conditioning": arm},
        seed=seed,
        total_env_steps=about.steps,
        eval_every=0,
        final_eval_episodes=32 if task.startswith("nasim") else 256,
        progress=False,
        resume="auto",
        **about.settings,
    )
    found, metrics = run.summary, run.metrics
    success = metrics.get("episode/success", np.full(len(metrics["env_steps"]), np.nan))
    there = np.flatnonzero(success >= REACHED)
    return {
        "task": task,
        "arm": arm,
        "seed": seed,
        "steps": about.steps,
        "success": found["success_rate"],
        "reached_at": int(metrics["env_steps"][there[0]]) if len(there) else None,
        "deterministic": found["return_mean"],
        "sampled": found["sampled_return_mean"],
        "area": float(np.nanmean(metrics["episode/return"])),
        "cpu_seconds": time.process_time() - began,
        "commit": git_revision() or "n/a",
    }


def tables(rows: Sequence[Row]) -> list[str]:
    shown = [list(COLUMNS)]
    for task, about in TASKS.items():
        for arm in about.arms:
            found = [row for row in rows if (row["task"], row["arm"]) == (task, arm)]
            if not found:
                continue
            known = [row for row in found if row["success"] is not None]
            ended = sum(row["success"] >= REACHED for row in known)
            soon = sorted(row["reached_at"] for row in found if row["reached_at"] is not None)
            when = f"{int(np.median(soon)):,} ({len(soon)} runs)" if soon else "never"
            means = [np.mean([row[name] for row in found]) for name in ("deterministic", "sampled", "area")]
            spent = np.mean([row["cpu_seconds"] for row in found])
            shown.append(
                [task, arm, str(len(found)), f"{ended} of {len(known)}" if known else "", when]
                + [f"{mean:.3g}" for mean in means]
                + [f"{spent:.1f}"]
            )
    return [table(shown), *_differences(rows)]


def _differences(rows: Sequence[Row]) -> list[str]:
    """What seeing the choices adds, seed by seed, on tasks that nobody made for it."""
    found: list[tuple[str, str, str, Floats]] = []
    for task, measure in product((task.name for task in FIRST_TRY[:6]), ("area", "deterministic")):
        by_arm = {
            arm: {row["seed"]: row[measure] for row in rows if (row["task"], row["arm"]) == (task, arm)}
            for arm in ARMS
        }
        for arm in ARMS[1:]:
            if len(more := within_pairs(by_arm[arm], by_arm["none"])) > 1:
                found.append((task, arm, measure, more))
    if not found:
        return []
    intervals = [paired(more) for *_, more in found]
    shown = [["task", "policy.conditioning", "measure", "seeds", "more than none, mean [95 %]", "ahead", "p"]]
    for (task, arm, measure, more), one, p in zip(
        found, intervals, holm([p for _, p in intervals]), strict=True
    ):
        interval = f"{one[0].value:.3g} [{one[0].low:.3g}, {one[0].high:.3g}]"
        ahead = f"{(more > 0).sum()} of {len(more)}"
        shown.append([task, arm, measure, str(len(more)), interval, ahead, f"{p:.2f}"])
    return [
        "Differences seed by seed; intervals and p after Student's t, p corrected by Holm for all rows.\n",
        table(shown),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m scripts.conditioning", description=__doc__.split("\n")[0])
    add_arguments(parser, seeds="1-20")
    named = partial(chosen, known=TASKS, kind="task")
    parser.add_argument("--tasks", type=named, default="shared box,climbing", help=f"of {', '.join(TASKS)}")
    add_folders(parser, "conditioning")
    return parser


if __name__ == "__main__":
    sys.exit(main())
