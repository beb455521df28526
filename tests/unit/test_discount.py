"""The discount that follows from the time limit of episodes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.wrappers import TimeLimit

from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.discount import with_discount

CARTPOLE = ("env.id=CartPole-v1", "env.num_envs=2", "trainer.total_env_steps=256", "device=cpu")


@pytest.mark.parametrize(
    ("limit", "discount"),
    [(1, 0.9), (20, 0.9), (40, 0.95), (60, 29 / 30), (200, 0.99), (10_000, 0.99), (None, 0.99)],
)
def test_its_horizon_is_half_an_episode_and_10_to_100_steps(limit: int | None, discount: float) -> None:
    settings = compose(["env=gymnasium", *CARTPOLE]).trainer
    env: Any = SimpleNamespace(time_limit=limit)
    assert with_discount(settings, env).discount == pytest.approx(discount)
    typed = compose(["env=gymnasium", *CARTPOLE, "trainer.gamma=0.5"]).trainer
    assert with_discount(typed, env).discount == 0.5


@pytest.mark.parametrize("env", ["gymnasium", "vector"])
def test_all_parts_have_the_same_one_and_the_files_have_the_rule(env: str, tmp_path: Path) -> None:
    config = compose([f"env={env}", *CARTPOLE, "env.kwargs.max_episode_steps=40"])
    trainer = build(config, tmp_path)
    trainer.close()
    normalization: Any = trainer.learner.pipeline.stages["reward_normalization"]
    assert trainer.settings.discount == normalization.gamma == pytest.approx(0.95)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["trainer"]["gamma"] is None


def test_an_environment_that_nobody_registered_has_no_limit_that_is_known() -> None:
    env = GymnasiumEnv(make=lambda: TimeLimit(CartPoleEnv(), 40))
    env.close()
    assert env.time_limit is None
