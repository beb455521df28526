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
    scores = np.array([0.0, final])
    return Result(task, arm, seed, summary, steps, scores, steps, steps, 0.0, final / 2.0, np.inf)


def runs(task: str, finals: dict[str, float]) -> list[Result]:
    """Two of every arm, whose mean is the given one."""
    return [result(task, arm, s, finals[arm] + d) for arm in ARMS for s, d in ((1, -0.1), (2, 0.1))]


def test_regret_is_the_best_fixed_weights_lead() -> None:
    """Two seeds that lie as far below the mean as above it."""
    found = regrets(complete([*runs("hard", FINALS), *runs("easy", EASY)], "final"))
    assert found[ADAPTIVE].mean(1) == pytest.approx(
        [0.8 - 0.6, 0.4 - 0.9]
    )  # adaptive is not among the fixed ones
    assert found["fixed_0.5"] == pytest.approx(np.zeros((2, 2)))
    assert found["fixed_0.1"] == pytest.approx(np.array([[0.6, 0.6], [0.0, 0.0]]))
    # The curves rise from 0 in a straight line: half of all that.
    areas = regrets(complete(runs("hard", FINALS), "area"))
    assert areas["fixed_0.1"].mean() == pytest.approx(0.3)


def test_the_best_fixed_weight_is_chosen_by_other_seeds() -> None:
    """Where all arms are alike, and luck alone picks the best, nothing is lost on average."""
    random, arms = np.random.default_rng(0), len(ARMS)
    drawn = random.normal(size=(400, arms, 10))
    found = [regrets({"task": dict(zip(ARMS, study, strict=True))})[ADAPTIVE].mean() for study in drawn]
    assert np.mean(found) == pytest.approx(0.0, abs=0.06)  # four standard errors
    same_runs = drawn.mean(-1)[:, 1:].max(1) - drawn.mean(-1)[:, 0]
    assert same_runs.mean() > 0.3


def test_seeds_that_not_all_arms_have_are_left_out() -> None:
    results = [run for run in runs("hard", FINALS) if (run.arm, run.seed) != ("fixed_0.1", 2)]
    assert [len(scores) for scores in complete(results, "final")["hard"].values()] == [1] * len(ARMS)


def test_a_task_without_all_arms_is_left_out_of_the_table() -> None:
    incomplete = [r for r in runs("new", EASY) if r.arm != "fixed_0.9"]
    results = [*runs("hard", FINALS), *incomplete]
    assert list(complete(results, "final")) == ["hard"]
    text = regret.body(results, [], "regret")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == "| arm | hard | mean regret | largest | P(… > adaptive) |"
    # The smallest regret first; two seeds show no difference, whatever they are.
    assert rows[2].startswith("| fixed_0.5 | 0.800 | 0.000, range 0.000 to 0.000 (2) | 0.000 | 1.00 [")
    assert rows[2].endswith(" (2 + 2), p 1.00 |")
    assert rows[3] == "| adaptive | 0.600 | 0.200, range 0.200 to 0.200 (2) | 0.200 |  |"


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


def test_every_published_hybrid_environment_takes_part_once() -> None:
    assert len({task.env for task in HYBRID}) == len(HYBRID)
    published = {task.env for task in TASKS if task.best or task.ppo}
    assert {task.env for task in HYBRID} == published
