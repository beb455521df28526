"""The study without tuning: regrets by hand, and what its table says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from equipoise.scripts import regret
from equipoise.scripts.regret import ADAPTIVE, ARMS, HYBRID, complete, regrets
from equipoise.scripts.studies.results import Result
from equipoise.scripts.studies.tasks import TASKS, jobs_of
from equipoise.trainer.monitor.summary import Summary

FINALS = {
    ADAPTIVE: 0.6,
    "fixed_0.1": 0.2,
    "fixed_0.3": 0.5,
    "fixed_0.5": 0.8,
    "fixed_0.7": 0.3,
    "fixed_0.9": 0.0,
}
EASY = dict.fromkeys(FINALS, 0.4) | {ADAPTIVE: 0.9}


def result(task: str, arm: str, seed: int, final: float) -> Result:
    summary = Summary(
        "finished",
        normalized_score=final,
        return_mean=final,
        discrete_weight_used=0.5,
        continuous_weight_used=0.5,
        versions={"python": "3"},
        seconds=1.0,
        git_revision="r",
        device="cpu",
        env_steps=10,
    )
    steps = np.array([0.0, 10.0])
    return Result(task, arm, seed, summary, steps, np.array([0.0, final]), steps, steps, 0.0)


def runs(task: str, finals: dict[str, float]) -> list[Result]:
    """Two of every arm, whose mean is the given one."""
    return [result(task, arm, s, finals[arm] + d) for arm in ARMS for s, d in ((1, -0.1), (2, 0.1))]


def test_regret_is_the_best_fixed_weights_lead() -> None:
    found = regrets(complete([*runs("hard", FINALS), *runs("easy", EASY)], "final"))
    assert found[ADAPTIVE] == pytest.approx([0.8 - 0.6, 0.4 - 0.9])  # adaptive is not among the fixed ones
    assert found["fixed_0.5"] == pytest.approx([0.0, 0.0])
    assert found["fixed_0.1"] == pytest.approx([0.6, 0.0])
    # The curves rise from 0 in a straight line: half of all that.
    areas = regrets(complete(runs("hard", FINALS), "area"))
    assert areas["fixed_0.1"] == pytest.approx([0.3])


def test_a_task_without_all_arms_is_left_out_of_the_table() -> None:
    incomplete = [r for r in runs("new", EASY) if r.arm != "fixed_0.9"]
    results = [*runs("hard", FINALS), *incomplete]
    assert list(complete(results, "final")) == ["hard"]
    text = regret.report("python -m …", results, [], "regret")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == "| arm | hard | mean regret | largest regret |"
    assert rows[2].startswith("| fixed_0.5 | 0.800 | 0.000 [")  # the smallest regret first
    assert rows[3].startswith("| **adaptive** | 0.600 | 0.200 [")


def test_the_arms_differ_in_their_weights_alone(tmp_path: Any) -> None:
    tasks = [task for task in TASKS if task.name == "platform"]
    jobs = {job.arm.name: job for job in jobs_of(tasks, ARMS, [1], tmp_path, share=0.5)}
    assert jobs[ADAPTIVE].config["trainer"]["total_env_steps"] == 100_000
    assert jobs[ADAPTIVE].config["trainer"]["gradient_scaling"]["enable_adaptive_scaling"] is True
    for weight in regret.WEIGHTS:
        trainer = jobs[f"fixed_{weight:g}"].config["trainer"]
        assert trainer["gradient_scaling"]["enable_adaptive_scaling"] is False
        weights = trainer["policy_loss_weights"]
        assert weights["discrete_weight"] == pytest.approx(weight)
        assert weights["discrete_weight"] + weights["continuous_weight"] == pytest.approx(1.0)


def test_every_published_hybrid_task_takes_part() -> None:
    assert {t.name for t in HYBRID} == {"platform", "goal", "catch_point", "hard_move_4", "moving", "sliding"}
