"""What a run says of the settings that nobody typed: which, why, and when it keeps silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import equipoise
from equipoise.trainer import settled as rules
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose, compose_run
from equipoise.trainer.monitor.outcome import summarize
from equipoise.trainer.settled import settled

SMALL = ("env.num_envs=8", "policy.hidden_sizes=[8]", "device=cpu")


class Both(gymnasium.Env[Any, Any]):
    """A choice and a number."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (1,), np.float32)))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps == 3, False, {}


def said(tmp_path: Path, *arguments: str) -> list[str]:
    config = compose_run([*SMALL, *arguments]).config
    trainer = build(config, tmp_path / str(len(list(tmp_path.iterdir()))))
    trainer.close()
    return settled(config, trainer.collector.env, trainer.policy)


BOTH = ("env=gymnasium", f"env.make={__name__}:Both", "trainer.total_env_steps=2048")


def test_each_setting_that_follows_from_the_environment_is_a_line_with_its_reason(tmp_path: Path) -> None:
    assert said(tmp_path, *BOTH) == [
        "setting: rollout of 128 steps, because 8 environments are few: 1,024 samples an iteration "
        "(trainer.batch.rollout_steps)",
        "setting: 32 updates an iteration, of 128 samples each, because fewer move the policy too little "
        "(trainer.batch.num_minibatches)",
        "setting: learning rate 0.002, because in so few updates a rate of 3e-4 leaves the policy, and σ, "
        "where they are (optimizer.learning_rate)",
        "setting: steps of log σ 4 times as long, because in so few updates σ stays wide otherwise "
        "(optimizer.log_std_multiplier)",
        "setting: entropy bonus from 0.01, because a larger one outweighs ordinary rewards "
        "(trainer.entropy_regularization.entropy_coeff_start)",
        "setting: values not clipped, because a clipped critic learns too slowly what a rare failure costs "
        "(trainer.value_clipping.enable_value_clipping)",
        "setting: discount 0.99, because nothing says after how many steps episodes end at the latest "
        "(trainer.gamma)",
        "setting: both sides weigh 0.5, because weights that adapt to the gradients are level or slower on "
        "tasks of others (preset)",
        "setting: no weights of reward components, because there is one (trainer.advantage_weighting)",
        "setting: observations normalised by running mean and deviation, because nobody knows their sizes "
        "beforehand (policy.normalize_observations)",
    ]


def test_actions_of_one_kind_have_nothing_to_weigh_and_no_length_is_told(tmp_path: Path) -> None:
    lines = said(tmp_path, "env=gymnasium", "env.id=CartPole-v1")
    assert (
        "setting: no weights of two sides, because actions are choices alone (trainer.gradient_scaling)"
        in lines
    )
    assert lines[-1] == "setting: 400,000 steps, because no length was given (trainer.total_env_steps)"


def test_the_discount_follows_from_the_time_limit(tmp_path: Path) -> None:
    short = ("env=gymnasium", "env.id=CartPole-v1", "env.kwargs.max_episode_steps=60")
    line = (
        "setting: discount 0.9667, because half an episode of at most 60 steps lies ahead on average "
        "(trainer.gamma)"
    )
    assert line in said(tmp_path, *short)
    trainer = build(compose(list(short)), tmp_path / "summary")
    assert summarize(trainer).discount == pytest.approx(1 - 2 / 60)
    trainer.close()
    assert not [line for line in said(tmp_path, *short, "trainer.gamma=0.9") if "discount" in line]
    long = "setting: discount 0.99, because episodes may have 500 steps (trainer.gamma)"
    assert long in said(tmp_path, "env=gymnasium", "env.id=CartPole-v1")


def test_where_copies_differ_the_time_limit_is_said_to_be_the_first_one_s(tmp_path: Path) -> None:
    each = "env.kwargs_each.max_episode_steps=[60,600]"
    line = (
        "setting: discount 0.9667, because half an episode of the first copy of at most 60 steps lies ahead "
        "on average (trainer.gamma)"
    )
    assert line in said(tmp_path, "env=gymnasium", "env.id=CartPole-v1", each)


def test_many_environments_are_told_that_their_rollouts_are_long(tmp_path: Path) -> None:
    (line, *_) = said(tmp_path, *BOTH, "env.num_envs=64")
    assert line == (
        "setting: rollout of 128 steps, because few environments need that; 64 give 8,192 samples an "
        "iteration; batch=balanced: 16 (trainer.batch.rollout_steps)"
    )


@pytest.mark.parametrize(
    ("typed", "silent"),
    [
        (["trainer.batch.rollout_steps=64"], ["rollout of", "updates an iteration"]),
        (["batch=few_environments"], ["rollout of", "updates an iteration"]),
        (["trainer.batch.rollout_steps=128"], ["rollout of"]),
        (["optimizer.learning_rate=2e-3"], ["learning rate"]),
        (["optimizer=adam_small_batches"], ["learning rate", "log σ"]),
        (["optimizer.log_std_multiplier=4"], ["log σ"]),
        (["policy.normalize_observations=false"], ["normalised"]),
        (["trainer.entropy_regularization.entropy_coeff_start=0.01"], ["entropy bonus"]),
        (["trainer.value_clipping.enable_value_clipping=false"], ["values"]),
        (["trainer.stages=[gradient_scaling]"], ["entropy bonus", "values not", "reward components"]),
    ],
)
def test_what_was_typed_is_not_told(tmp_path: Path, typed: list[str], silent: list[str]) -> None:
    lines, everything = said(tmp_path, *BOTH, *typed), said(tmp_path, *BOTH)
    told = [line for line in everything if not any(text in line for text in silent)]
    assert lines == told
    assert len(told) == len(everything) - len(silent)


def test_an_experiment_has_reasons_of_its_own(tmp_path: Path) -> None:
    assert not [line for line in said(tmp_path, "experiment=cartpole") if "rollout" in line or "rate" in line]


def test_the_reasons_are_those_of_the_files() -> None:
    for env in ("gymnasium", "vector"):
        config = compose([f"env={env}", "env.id=CartPole-v1"])
        assert config.trainer.batch.model_dump() == rules.FOR_FEW
        assert config.optimizer.learning_rate == rules.RATE
        assert config.optimizer.log_std_multiplier == rules.MULTIPLIER
        assert config.stages["entropy_regularization"].keywords["entropy_coeff_start"] == rules.BONUS
        assert config.stages["value_clipping"].keywords["enable_value_clipping"] is False
        assert config.trainer.total_env_steps == rules.STEPS
        assert config.preset == rules.EVEN
        assert config.trainer.policy_loss_weights.model_dump() == {
            "discrete_weight": 0.5,
            "continuous_weight": 0.5,
        }


def test_a_run_says_it_and_python_s_settings_count_as_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    equipoise.train(
        Both,
        folder=tmp_path / "run",
        learning_rate=2e-3,
        total_env_steps=1024,
        final_eval_episodes=2,
        overrides={"trainer.eval_every": 0},
    )
    text = " ".join(capsys.readouterr())
    assert "setting: rollout of 128 steps, because 8 environments are few" in text
    assert "setting: learning rate" not in text
