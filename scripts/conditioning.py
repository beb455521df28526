"""Compares policies whose numbers and later decisions do, or do not, see the choices just taken.

    python -m scripts.conditioning --seeds 1-20 --out runs/conditioning
    python -m scripts.conditioning --tasks "nasim tiny,nasim small" --seeds 1-3  # pip install nasim

All runs are made one after the other, in this process; one that is there is not made again. `--report-only`
reports the runs that exist.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import equipoise
from equipoise.scripts.studies.experiments import add_arguments, chosen, file, folder, study
from equipoise.scripts.studies.joint_tasks import Climbing, SharedBox
from equipoise.scripts.studies.report import cpu_model, table, write_report
from equipoise.trainer.monitor.summary import git_revision

ARMS = ("none", "choices", "autoregressive")
REACHED = 0.9
"""Share of the episodes in which the better option was taken."""
COLUMNS = (
    *("task", "policy.conditioning", "runs", "end at the better option", "steps until 90 % take it, median"),
    *("return, deterministic", "return, sampled", "area", "CPU s"),
)
Row = dict[str, Any]


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
}


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed, task in [] if options.report_only else product(options.seeds, options.tasks):
        for arm in TASKS[task].arms:
            place = options.out / f"{task.replace(' ', '_')}-{arm}-s{seed}.json"
            if not place.exists():
                row = one(task, arm, seed, options.out)
                place.write_text(json.dumps(row))
                print(json.dumps(row), flush=True)
    rows = [json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]
    command = shlex.join(["python", "-m", "scripts.conditioning", *(arguments or sys.argv[1:])])
    origin = [f"command: `{command}`", f"commit: {', '.join(sorted({row['commit'] for row in rows}))}"]
    origin += [f"machine: {cpu_model()}, {os.cpu_count()} cores, PyTorch {torch.__version__}"]
    write_report(
        options.report, "Conditioning", "".join(f"- {line}\n" for line in origin), "\n".join(tables(rows))
    )
    options.report.with_suffix(".csv").write_text("\n".join(as_csv(rows)) + "\n")
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
    return [table(shown)]


def as_csv(rows: Sequence[Row]) -> list[str]:
    names = list(rows[0]) if rows else []
    return [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m scripts.conditioning", description=__doc__.split("\n")[0])
    add_arguments(parser, seeds="1-20")
    named = partial(chosen, known=TASKS, kind="task")
    parser.add_argument("--tasks", type=named, default="shared box,climbing", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--out", type=folder, default="runs/conditioning", help="folder of the runs")
    parser.add_argument("--report", type=file, default="docs/results/conditioning.md", help="Markdown file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
