"""Runs that fail, each of one cause, beside a healthy one: what the charts show then.

    python -m scripts.failures

Trains five short runs in this process, one after the other, and draws for each failure the chart that tells
it from the healthy run. A run that is there is not made again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

import equipoise
from equipoise.scripts.studies import plots
from equipoise.scripts.studies.experiments import folder, positive, study
from equipoise.scripts.studies.extreme_task import Chase


class Blind(Chase):
    """The target is there and is not shown."""

    def _observe(self) -> Any:
        return np.array([self.place, 0.0], np.float32)


class Failure(NamedTuple):
    """What was done to the run, in words and settings, and the metric that shows it."""

    cause: str
    settings: Mapping[str, Any]
    tag: str
    label: str
    logarithmic: bool = False
    env: type[Chase] = Chase


FAILURES: Mapping[str, Failure] = {
    "slow": Failure(
        "learning rate 2e-5", {"learning_rate": 2e-5}, "loss/kl", "KL divergence of an iteration", True
    ),
    "wild": Failure(
        "learning rate 0.1", {"learning_rate": 0.1}, "loss/kl", "KL divergence of an iteration", True
    ),
    "restless": Failure(
        "entropy bonus × 100",
        {"entropy_coeff_start": 1.0, "entropy_coeff_end": 1.0},
        "entropy/continuous",
        "entropy of the numbers",
    ),
    "blind": Failure(
        "the target is not observed",
        {},
        "value/explained_variance/reward",
        "explained variance of the critic",
        env=Blind,
    ),
}


@study
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m scripts.failures", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=folder, default="runs/failures", help="folder of the runs")
    parser.add_argument("--steps", type=positive, default=65_536, help="of each run (default: %(default)s)")
    parser.add_argument("--episodes", type=positive, default=100, help="at the end (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default="docs/images/failures", help="without a suffix")
    options = parser.parse_args(arguments)
    run_of = partial(_run, options)
    healthy = run_of("healthy", Chase, {})
    figure = Figure(figsize=(4.4 * len(FAILURES), 6.4), layout="constrained")
    for column, (name, failure) in zip(figure.subplots(2, len(FAILURES)).T, FAILURES.items(), strict=True):
        run = run_of(name, failure.env, failure.settings)
        print(f"{name}: {run.summary['return_mean']:.1f}, healthy: {healthy.summary['return_mean']:.1f}")
        shown = ("episode/return", "return while training"), (failure.tag, failure.label)
        for axis, (tag, label) in zip(column, shown, strict=True):
            for index, (who, each) in enumerate({"healthy": healthy, failure.cause: run}.items()):
                axis.plot(
                    each.metrics["env_steps"],
                    each.metrics[tag],
                    color=plots.COLOURS[index],
                    linestyle=plots.DASHES[index],
                    label=who,
                )
            axis.set(ylabel=label, yscale="log" if axis is column[1] and failure.logarithmic else "linear")
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.grid(alpha=0.3)
        column[0].set_title(failure.cause)
        column[0].legend(fontsize=8)
        column[1].set_xlabel("environment steps")
    plots.save(figure, options.picture)
    return 0


def _run(
    options: argparse.Namespace, name: str, env: type[Chase], settings: Mapping[str, Any]
) -> equipoise.Run:
    return equipoise.train(
        env,
        folder=options.out / name,
        seed=1,
        total_env_steps=options.steps,
        final_eval_episodes=options.episodes,
        eval_every=0,
        progress=False,
        resume="auto",
        **settings,
    )


if __name__ == "__main__":
    sys.exit(main())
