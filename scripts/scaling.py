r"""What balancing buys: fixed against adaptive weights where the discrete loss, or its weight, is wrong.

    python -m scripts.scaling --parts adam,control,trunk --seeds 1-10 --jobs 2
    python -m scripts.scaling --parts sgd --seeds 1-5 --jobs 2
    python -m scripts.scaling --parts decisive --seeds 1-5 --steps 400000 --out runs/scaling_full \
        --report docs/results/scaling_full.md
    python -m scripts.scaling --report-only

The discrete loss is multiplied by 0.03, 1, 30 or 1000, or its base weight is 0.5, 0.7, 0.9 or 0.99: with
fixed and with adaptive weights, with and without the entropy bonus, under Adam and under SGD, whose learning
rate is tuned once for either kind of weights. `control` holds fixed weights where the adaptive ones ended on
average, `trunk` gives each side a trunk of its own, `decisive` has the wrong losses under Adam alone.
Finished runs are not repeated: the same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from equipoise.scripts.studies import plots
from equipoise.scripts.studies.experiments import (
    Arm,
    Failure,
    add_arguments,
    add_environments,
    add_places,
    chosen,
    plan,
    study,
)
from equipoise.scripts.studies.parallel import run
from equipoise.scripts.studies.report import report_study
from equipoise.scripts.studies.results import Result, load, read_csv
from equipoise.scripts.studies.scaling_report import body, headline, picture
from equipoise.trainer.configuration.errors import ConfigError

FACTORS = (0.03, 1.0, 30.0, 1000.0)
BASE_WEIGHTS = (0.5, 0.7, 0.9, 0.99)
"""Of the discrete side; 0.7 is the default, and the same cell as a factor of 1."""
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Learning rates that SGD is tuned over, at factor 1."""
TUNING_SEEDS = (101, 102)
WEIGHTS = ("fixed", "adaptive")

_ENTROPY = "trainer.entropy_regularization"
_BASE = "trainer.policy_loss_weights"
_FACTOR = "trainer.discrete_loss_factor"
_STAGES = (
    "reward_normalization,advantage_weighting,value_clipping,discrete_loss_factor,entropy_regularization,"
    "gradient_scaling"
)


class Cell(NamedTuple):
    """One cell of the study: what is wrong, and under which conditions."""

    factor: float = 1.0
    base: float = 0.7
    entropy: bool = True
    own_trunks: bool = False

    @property
    def name(self) -> str:
        wrong = f"x{self.factor:g}" if self.base == 0.7 else f"w{self.base:g}"
        return wrong + "_no_entropy" * (not self.entropy) + "_own_trunks" * self.own_trunks

    def overrides(self) -> tuple[str, ...]:
        found = list(base_weights(self.base))
        if self.factor != 1.0:
            found += [
                f"trainer.stages=[{_STAGES}]",
                f"{_FACTOR}._target_=equipoise.scripts.studies.loss_factor.DiscreteLossFactor",
                f"{_FACTOR}.factor={self.factor}",
            ]
        if not self.entropy:
            found += [f"{_ENTROPY}.entropy_coeff_start=0", f"{_ENTROPY}.entropy_coeff_end=0"]
        if self.own_trunks:
            found.append("policy.shared_trunk=false")
        return tuple(found)


def grid() -> list[Cell]:
    cells = [*(Cell(factor=f) for f in FACTORS), *(Cell(base=b) for b in BASE_WEIGHTS if b != 0.7)]
    return [cell._replace(entropy=entropy) for entropy in (True, False) for cell in cells]


OWN_TRUNKS = (Cell(own_trunks=True), Cell(factor=1000.0, own_trunks=True))
CONTROLLED = tuple(Cell(factor=f) for f in FACTORS)


def base_weights(discrete: float) -> tuple[str, str]:
    return f"{_BASE}.discrete_weight={discrete:.6g}", f"{_BASE}.continuous_weight={1 - discrete:.6g}"


def sgd(rate: float) -> tuple[str, str]:
    return "optimizer=sgd", f"optimizer.learning_rate={rate:g}"


def arm(cell: Cell, weights: str, optimizer: str = "adam", more: Sequence[str] = ()) -> Arm:
    adaptive = "true" if weights == "adaptive" else "false"
    scaling = f"trainer.gradient_scaling.enable_adaptive_scaling={adaptive}"
    return Arm(f"{optimizer}_{cell.name}_{weights}", (*cell.overrides(), scaling, *more))


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "scripts.scaling", *(arguments or sys.argv[1:])])
    path: Path = options.report
    failures: list[Failure] = []
    if not (options.report_only or options.from_csv):
        for part in options.parts:
            failures += PARTS[part](options)
    results = read_csv(path.with_suffix(".csv")) if options.from_csv else finished(options, "*")

    def illustrated() -> str:
        plots.save(picture(results), path.with_suffix(""))
        plots.save(headline(results), path.with_name(f"{path.stem}_headline"))
        return body(results, failures, path.stem)

    return report_study(options, "What balancing buys", command, results, failures, illustrated)


def train(options: argparse.Namespace, arms: Sequence[Arm], seeds: Sequence[int]) -> list[Failure]:
    return run(plan(arms, options.env, seeds, options.steps, options.out), options.jobs)


def finished(options: argparse.Namespace, pattern: str) -> list[Result]:
    """The finished runs of the arms whose names match `pattern`."""
    folders = [
        folder
        for env in options.env
        for folder in sorted((options.out / env).glob(f"{pattern}/s*"))
        if folder.is_dir()
    ]
    found = [load(folder, folder.parent.name, folder.parents[1].name) for folder in folders]
    return [result for result in found if result is not None]


def train_adam(options: argparse.Namespace) -> list[Failure]:
    return train(options, [arm(cell, weights) for cell in grid() for weights in WEIGHTS], options.seeds)


def train_decisive(options: argparse.Namespace) -> list[Failure]:
    return train(options, [arm(cell, weights) for cell in CONTROLLED for weights in WEIGHTS], options.seeds)


def train_trunks(options: argparse.Namespace) -> list[Failure]:
    return train(options, [arm(cell, weights) for cell in OWN_TRUNKS for weights in WEIGHTS], options.seeds)


def train_control(options: argparse.Namespace) -> list[Failure]:
    return train(options, control_arms(options), options.seeds)


def control_arms(options: argparse.Namespace) -> list[Arm]:
    """Arms with fixed weights, at the mean of those that the adaptive runs of the same cell ended with."""
    arms = []
    for cell in CONTROLLED:
        adaptive = arm(cell, "adaptive").name
        ended = [run.summary.discrete_weight_used or 0.0 for run in finished(options, adaptive)]
        if not ended:
            raise ConfigError(f"control: {adaptive} has not been trained: --parts adam first")
        arms.append(arm(cell, "control", more=base_weights(float(np.mean(ended)))))
    return arms


def train_sgd(options: argparse.Namespace) -> list[Failure]:
    """Train the grid under SGD, each kind of weights at the learning rate that was best at factor 1."""
    failures, arms = [], []
    for weights in WEIGHTS:
        tuned = {rate: arm(Cell(), weights, f"tune_sgd_{rate:g}", sgd(rate)) for rate in RATES}
        failures += train(options, list(tuned.values()), TUNING_SEEDS)
        areas = {rate: [run.area for run in finished(options, tuned[rate].name)] for rate in RATES}
        best = max(RATES, key=lambda rate: np.mean(areas[rate]) if areas[rate] else -np.inf)
        print(f"SGD, {weights} weights: learning rate {best:g}")
        arms += [arm(cell, weights, "sgd", sgd(best)) for cell in grid()]
    return failures + train(options, arms, options.seeds)


PARTS: dict[str, Callable[[argparse.Namespace], list[Failure]]] = {
    "decisive": train_decisive,
    "adam": train_adam,
    "control": train_control,
    "trunk": train_trunks,
    "sgd": train_sgd,
}


def _parts(text: str) -> list[str]:
    return chosen(text, PARTS, "part")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, seeds="1-10")
    add_environments(parser)
    add_places(parser, "runs/scaling", "docs/results/scaling.md")
    every = ",".join(PARTS)
    parser.add_argument("--parts", type=_parts, default=every, help="some of them (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
