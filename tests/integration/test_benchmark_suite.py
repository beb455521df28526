"""The benchmark suite: what it trains, and what its table says of runs that are there or missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from equipoise.scripts import benchmark_suite
from equipoise.scripts.studies.published import Published
from equipoise.scripts.studies.tasks import TASKS, Task
from equipoise.trainer.configuration.compose import compose

TINY = Task(
    "tiny",
    "catch_point",
    (
        "experiment=catch_point",
        "env.num_envs=4",
        "trainer.batch.rollout_steps=6",
        "trainer.batch.update_epochs=1",
        "trainer.batch.num_minibatches=1",
        "trainer.total_env_steps=24",
        "trainer.eval_every=0",
        "trainer.final_eval_episodes=4",
    ),
    "success_rate",
    ppo=Published(0.69, "somebody"),
)


@pytest.mark.usefixtures("forked")
def test_both_arms_are_trained_and_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_suite, "TASKS", (TINY,))
    out, report = tmp_path / "runs", tmp_path / "benchmarks.md"
    command = ["--tasks=tiny", "--seeds=3", f"--out={out}", f"--report={report}"]
    assert benchmark_suite.main(command) == 0
    success = {}
    for arm, adaptive in (("adaptive", True), ("fixed", False)):
        folder = out / "tiny" / arm / "s3"
        summary = json.loads((folder / "summary.json").read_text())
        success[arm] = f"{summary['success_rate']:.3f} ({summary['success_rate']:.3f})"
        assert f"enable_adaptive_scaling: {str(adaptive).lower()}" in (folder / "config.yaml").read_text()
    text = report.read_text()
    row = f"| tiny | 0 k | success rate | 0.69, somebody | – | {success['adaptive']} | {success['fixed']} | 1 / 1 |"
    assert row in text
    assert "## Missing" not in text

    shutil.rmtree(out / "tiny" / "fixed")
    assert benchmark_suite.main([*command, "--report-only", "--seeds=3-5"]) == 0
    text = report.read_text()
    assert f"| {success['adaptive']} | – | 1 / 0 |" in text
    assert "- tiny, adaptive: seeds 4-5\n- tiny, fixed: seeds 3-5\n" in text


def test_every_task_is_a_configuration_of_the_published_length() -> None:
    lengths = {
        "platform": 200_000,
        "goal": 300_000,
        "hard_goal": 300_000,
        "cartpole": 100_000,
        "pendulum": 100_000,
    }
    for task in TASKS:
        config = compose([f"env={task.env}", *task.overrides])
        assert config.trainer.total_env_steps == lengths.get(task.name, 1_000_000), task.name
        assert config.trainer.final_eval_episodes >= 100, task.name
