"""Every file of `conf/` composes and runs one update. They are found, not listed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import CONFIG_DIR, GROUPS, compose
from equipoise.trainer.configuration.imports import allowance

OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONFIG_DIR / group).glob("*.yaml"))]
SMALL = (
    "env.num_envs=4",
    "trainer.batch.rollout_steps=6",
    "trainer.batch.num_minibatches=1",
    "trainer.total_env_steps=24",
    "trainer.eval_every=0",
    "device=cpu",
)
NEEDED = {
    ("env", "gymnasium"): ("env.id=CartPole-v1",),
    ("env", "vector"): ("env.id=CartPole-v1",),
    ("env", "on_device"): ("env.make=tests.envs.test_on_device:Lab",),
}


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=[f"{g}={o}" for g, o in OPTIONS])
def test_every_option_runs_an_update(group: str, option: str, tmp_path: Path) -> None:
    config = compose([f"{group}={option}", *SMALL, *NEEDED.get((group, option), ())])
    trainer = build(config, tmp_path)
    before = trainer.learner.flat.vector.detach().clone()
    metrics = trainer.iterate()
    trainer.collector.env.close()
    after = trainer.learner.flat.vector.detach()
    assert after.isfinite().all()
    assert not torch.equal(before, after)
    assert metrics["optimizer/skipped"] == 0
    if group == "experiment":  # what comes with us is loaded again without leave
        assert allowance(config.plain()) == []


def test_there_are_options_to_be_found() -> None:
    presets = {option for group, option in OPTIONS if group == "preset"}
    assert presets == {
        "balanced",
        "conservative",
        "aggressive",
        "debug",
        "even",
        "new_project",
        "converting",
        "maximum_performance",
    }


def test_there_is_an_experiment_for_every_benchmark() -> None:
    experiments = {option for group, option in OPTIONS if group == "experiment"}
    assert experiments >= {
        "cartpole",
        "pendulum",
        "moving",
        "sliding",
        "hard_move",
        "catch_point",
        "platform",
        "goal",
        "switched_lqr",
        "inventory",
    }
