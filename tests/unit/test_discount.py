"""The discount that follows from the time limit of episodes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import pytest
import yaml
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.wrappers import TimeLimit

from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.envs.vectorised import VectorisedEnv
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


@pytest.mark.parametrize(("given", "around", "limit"), [(50, 200, 50), (200, 50, 50), (-1, 40, 40)])
def test_the_shortest_of_several_limits_counts(given: int, around: int, limit: int) -> None:
    env = GymnasiumEnv(
        "CartPole-v1",
        kwargs={"max_episode_steps": given},
        wrappers=[{"_target_": "gymnasium.wrappers.TimeLimit", "max_episode_steps": around}],
    )
    env.close()
    assert env.time_limit == limit


@pytest.mark.parametrize("meant", [0, 7, "many", None])
def test_an_argument_of_that_name_that_the_environment_itself_takes_is_no_limit(meant: object) -> None:
    class Named(CartPoleEnv):
        def __init__(self, max_episode_steps: object = None, render_mode: str | None = None) -> None:
            super().__init__(render_mode=render_mode)

    gymnasium.register("Named-v0", Named, max_episode_steps=50, kwargs={"max_episode_steps": meant})
    env = GymnasiumEnv("Named-v0")
    env.close()
    assert env.time_limit == 50


@pytest.mark.parametrize(("given", "limit"), [(-1, None), (40, 40)])
def test_several_at_once_have_the_limit_that_they_were_given(given: int, limit: int | None) -> None:
    env = VectorisedEnv("CartPole-v1", num_envs=2, kwargs={"max_episode_steps": given})
    env.close()
    assert env.time_limit == limit


def test_an_environment_that_nobody_registered_has_no_limit_that_is_known() -> None:
    env = GymnasiumEnv(make=lambda: TimeLimit(CartPoleEnv(), 40))
    env.close()
    assert env.time_limit is None
