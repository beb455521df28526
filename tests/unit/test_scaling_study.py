"""The study of what balancing buys: its cells, its control arm, and the numbers in its report."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.scripts import scaling
from equipoise.scripts.studies.loss_factor import DiscreteLossFactor
from equipoise.scripts.studies.results import Result
from equipoise.scripts.studies.scaling_report import arranged, body, headline, picture
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.data import Term
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.stages.protocol import LossState

VERSIONS = {"python": "3"}


def result(arm: str, seed: int, final: float, **metrics: Any) -> Result:
    numbers = {
        "status": "finished",
        "normalized_score": final,
        "balance_ratio": 1.0,
        "decision_accuracy": 0.5,
        "spawn_parameter_error": 0.25,
        "versions": VERSIONS,
        "seconds": 1.0,
        "git_revision": "r",
        "device": "cpu",
        "env_steps": 10,
        **metrics,
    }
    summary = Summary.of(numbers)
    steps, scores = np.array([0.0, 10.0]), np.array([0.0, final])
    nothing = np.array([])
    return Result("e", arm, seed, summary, steps, scores, nothing, nothing, 0.0, final / 2.0, np.inf)


def test_the_factor_multiplies_the_discrete_loss_alone() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    terms = {"discrete": Term(weight.square() * torch.ones(3)), "continuous": Term(weight * torch.ones(3))}
    state = LossState(None, None, torch.zeros(0), terms, torch.zeros(()), (weight, weight), {})  # type: ignore[arg-type]
    changed = DiscreteLossFactor(factor=30.0).losses(state).terms
    (gradient,) = torch.autograd.grad(changed["discrete"].values.mean(), weight)
    assert gradient.item() == pytest.approx(30.0 * 2.0 * 2.0)
    assert changed["continuous"] is terms["continuous"]


def test_every_cell_is_a_configuration_of_its_own() -> None:
    arms = [scaling.arm(cell, weights) for cell in scaling.grid() for weights in scaling.WEIGHTS]
    assert len({arm.name for arm in arms}) == len(arms) == 7 * 2 * 2
    configs = {arm.name: compose(["env=topology_spawn", *arm.overrides]) for arm in arms}
    assert len({json.dumps(config.plain(), sort_keys=True) for config in configs.values()}) == len(arms)
    loud = configs["adam_x1000_adaptive"].trainer
    assert loud.stages.index("discrete_loss_factor") < loud.stages.index("gradient_scaling")
    assert loud.sections["discrete_loss_factor"].keywords["factor"] == 1000.0
    silent = configs["adam_x1_no_entropy_fixed"].trainer.sections
    assert silent["entropy_regularization"].keywords["entropy_coeff_start"] == 0
    assert silent["gradient_scaling"].keywords["enable_adaptive_scaling"] is False


def test_the_control_holds_the_mean_of_the_weights_that_adaptive_runs_ended_with(tmp_path: Path) -> None:
    options = argparse.Namespace(out=tmp_path, env=["e"])
    with pytest.raises(ConfigError, match="adam_x0.03_adaptive has not been trained"):
        scaling.control_arms(options)
    for cell in scaling.CONTROLLED:
        for seed, weight in ((1, 0.9), (2, 0.7)):
            folder = tmp_path / "e" / scaling.arm(cell, "adaptive").name / f"s{seed}"
            folder.mkdir(parents=True)
            summary = {"status": "finished", "seed": seed, "normalized_score": 0.5, "env_steps": 1}
            (folder / "summary.json").write_text(json.dumps(summary | {"discrete_weight_used": weight}))
            (folder / "metrics.jsonl").write_text("")
    arms = scaling.control_arms(options)
    assert [arm.name for arm in arms][:2] == ["adam_x0.03_control", "adam_x1_control"]
    weights = compose(["env=topology_spawn", *arms[-1].overrides]).trainer.policy_loss_weights
    assert (weights.discrete_weight, weights.continuous_weight) == pytest.approx((0.8, 0.2))


def test_the_report_sets_fixed_beside_adaptive() -> None:
    results = [
        *(result("adam_x30_fixed", seed, 0.4, balance_ratio=4.0) for seed in range(4)),
        *(
            replace(result("adam_x30_adaptive", s, 0.8, decision_accuracy=0.75), skipped=2.0)
            for s in range(4)
        ),
        result("adam_w0.9_fixed", 1, 0.6),
        result("sgd_x1_no_entropy_adaptive", 1, 0.6),
        result("tune_sgd_0.1_x1_fixed", 101, 0.1),
    ]
    assert [condition.title for condition in arranged(results)] == [
        "Adam, with entropy bonus",
        "SGD, without entropy bonus",
    ]
    lines = body(results, [], "r").splitlines()
    row = next(line for line in lines if line.startswith("| loss × 30"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[1:3] == ["0.200, range 0.200 to 0.200 (4)", "0.400, range 0.400 to 0.400 (4)"]
    # Four runs each can show a difference (2 of 70 deals), but not twice: two comparisons are made here.
    assert re.fullmatch(r"1.00 \[0\.\d\d, 1.00\] \(4 \+ 4\), p 0.057", cells[3])
    assert cells[4:7] == ["0.400, range 0.400 to 0.400 (4)", "0.800, range 0.800 to 0.800 (4)", cells[3]]
    assert cells[7:] == ["0.50 → 0.75", "0.25 → 0.25", "4.00 → 1.00", "0 → 8"]
    assert lines.index(row) < next(i for i, line in enumerate(lines) if line.startswith("| base weight 0.9"))
    axes = picture(results).axes
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["× 30"]
    panels = headline(results).axes
    assert [axis.get_title() for axis in panels] == ["Adam"]  # the other condition has no bonus
    assert [list(line.get_ydata()) for line in panels[0].lines[1::2]] == [[0.2], [0.4]]
