"""One task at the defaults, with rewards, episodes, numbers of environments and discounts of any size.

    python -m scripts.extremes --seeds 1-3

All runs are made one after the other, in this process; one that is there is not made again. `--report-only`
reports the runs that exist.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

import equipoise
from equipoise.scripts.studies import plots
from equipoise.scripts.studies.experiments import add_arguments, study
from equipoise.scripts.studies.extreme_task import Chase, references
from equipoise.scripts.studies.report import table
from equipoise.scripts.studies.rows import Row, add_folders, made, publish
from equipoise.trainer.monitor.summary import git_revision
from equipoise.trainer.settled import FOR_FEW

STEPS = 65_536
EVALUATIONS = 8


class Case(NamedTuple):
    """A length of episodes, a factor on rewards, and settings other than the defaults."""

    length: int = 100
    factor: float = 1.0
    settings: Mapping[str, Any] = {}


CASES: Mapping[str, Mapping[str, Case]] = {
    "rewards": {f"× {factor:g}": Case(factor=factor) for factor in (1e-6, 1e-3, 1.0, 1e3, 1e6)},
    "steps of an episode": {f"{length:,}": Case(length) for length in (1, 10, 100, 1_000, 10_000)},
    "environments": {
        **{f"{n}": Case(settings={"num_envs": n}) for n in (1, 8, 64, 512)},
        "64, rollout_steps=16": Case(settings={"num_envs": 64, "rollout_steps": 16}),
        "512, rollout_steps=8": Case(settings={"num_envs": 512, "rollout_steps": 8}),
    },
    "γ": {f"{gamma:g}": Case(settings={"gamma": gamma}) for gamma in (0.9, 0.99, 0.999)},
}
COLUMNS = ("", "", "runs", "deterministic", "sampled", "mean over the run", "half of the way at", "CPU s")


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    planned = (
        (_file(group, name, seed), partial(one, group, name, seed, options.out))
        for seed, (group, names) in product(options.seeds, CASES.items())
        for name in names
    )
    rows = made(options, planned)
    columns = [{key: value for key, value in row.items() if key != "curve"} for row in rows]
    publish(options, "scripts.extremes", "Extremes", arguments, columns, [table(_shown(rows))])
    if rows:
        plots.save(_curves(rows), options.report.with_suffix(""))
    return 0


def one(group: str, name: str, seed: int, out: Path) -> Row:
    """Train and evaluate."""
    case, began = CASES[group][name], time.process_time()
    num_envs, rollout = (
        case.settings.get("num_envs", 8),
        case.settings.get("rollout_steps", FOR_FEW["rollout_steps"]),
    )
    run = equipoise.train(
        Chase,
        folder=out / "runs" / _file(group, name, seed),
        kwargs={"length": case.length, "factor": case.factor},
        seed=seed,
        total_env_steps=STEPS,
        eval_every=max(1, STEPS // (num_envs * rollout) // EVALUATIONS),
        eval_episodes=2 if case.length > 1_000 else 16,
        final_eval_episodes=4 if case.length > 1_000 else 64,
        progress=False,
        resume="auto",
        **case.settings,
    )
    random, best = references(case.length)

    def score(returns: Any) -> Any:
        """0: random actions, 1: the best that there is."""
        return (np.asarray(returns, float) / (case.length * case.factor) - random) / (best - random)

    metrics = run.metrics
    known = ~np.isnan(metrics["evaluation/return"])
    steps = metrics["env_steps"][known]
    curve = score(metrics["evaluation/sampled_return"][known])
    return {
        "group": group,
        "case": name,
        "seed": seed,
        "deterministic": float(score(run.summary["return_mean"])),
        "sampled": float(score(run.summary["sampled_return_mean"])),
        "half": next((int(step) for step, value in zip(steps, curve, strict=True) if value >= 0.5), None),
        "cpu_seconds": time.process_time() - began,
        "commit": git_revision() or "n/a",
        "curve": list(zip(steps.tolist(), curve.tolist(), strict=True)),
    }


def _file(group: str, name: str, seed: int) -> str:
    plain = "".join(c if c.isalnum() or c in "-." else "" for c in name)
    return f"{list(CASES).index(group)}-{plain}-s{seed}"


def _shown(rows: Sequence[Row]) -> list[list[str]]:
    shown = [list(COLUMNS)]
    for group, names in CASES.items():
        for name in names:
            found = [row for row in rows if (row["group"], row["case"]) == (group, name)]
            if not found:
                continue
            columns = [[row[key] for row in found] for key in ("deterministic", "sampled")]
            columns.append([np.mean([score for _, score in row["curve"]]) for row in found])
            half = sorted(row["half"] or STEPS + 1 for row in found)[len(found) // 2]
            shown.append(
                [group, name, str(len(found))]
                + [f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})" for values in columns]
                + [
                    f"{half:,}" if half <= STEPS else "never",
                    f"{np.mean([r['cpu_seconds'] for r in found]):.0f}",
                ]
            )
    return shown


def _curves(rows: Sequence[Row]) -> Figure:
    """Mean score of the sampled policy over the run, a panel for each group."""
    figure = Figure(figsize=(4 * len(CASES), 3.4), layout="constrained")
    for axis, (group, names) in zip(figure.subplots(1, len(CASES), sharey=True), CASES.items(), strict=True):
        for index, name in enumerate(names):
            found = [row["curve"] for row in rows if (row["group"], row["case"]) == (group, name)]
            if found:
                steps, scores = np.mean(np.array(found), axis=0).T
                style = plots.DASHES[index % len(plots.DASHES)]
                axis.plot(
                    steps, scores, "o", color=plots.COLOURS[index], linestyle=style, markersize=3, label=name
                )
        axis.set(title=group, xlabel="environment steps")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.axes[0].set_ylabel("score, sampled policy")
    return figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m scripts.extremes", description=__doc__.split("\n")[0])
    add_arguments(parser, seeds="1-3")
    add_folders(parser, "extremes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
