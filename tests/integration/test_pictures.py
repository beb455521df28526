"""Pictures from one end to the other: kept as bytes, learned from, resumed, loaded and exported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import equipoise
from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.trainer import export
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.memory_needed import needed
from equipoise.trainer.system import checkpoint
from tests.reliability.test_resume import assert_resumes_exactly

SHORT = (
    "env=gymnasium",
    f"env.make={__name__}:Quarters",
    "env.num_envs=4",
    "trainer.batch.rollout_steps=8",
    "trainer.batch.update_epochs=1",
    "trainer.batch.num_minibatches=2",
    "trainer.total_env_steps=64",
    "trainer.eval_every=0",
    "trainer.final_eval_episodes=2",
    "device=cpu",
)


class Quarters(gymnasium.Env[Any, Any]):
    """Which quarter of the picture is bright?"""

    action_space = spaces.Discrete(4)
    observation_space = spaces.Box(0, 255, (7, 7, 3), np.uint8)

    def look(self) -> Any:
        self.quarter = int(self.np_random.integers(4))
        picture = np.zeros((7, 7, 3), np.uint8)
        row, column = divmod(self.quarter, 2)
        picture[4 * row : 4 * row + 3, 4 * column : 4 * column + 3] = 200
        return picture

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {}

    def step(self, action: Any) -> Any:
        reward, self.t = float(action == self.quarter), self.t + 1
        return self.look(), reward, False, self.t == 5, {}


class Steered(Quarters):
    """The bright quarter is pointed at, with parameters alone: a policy without heads of choices."""

    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def step(self, action: Any) -> Any:
        aim = 2 * int(action[0] > 0) + int(action[1] > 0)
        observation, reward, terminated, truncated, _ = super().step(aim)
        parts = {"right": reward, "effort": -float(np.abs(action).sum())}
        return observation, reward, terminated, truncated, parts


def run(folder: Path, *overrides: str) -> Any:
    return build(compose([*SHORT, *overrides]), folder)


def test_a_rollout_keeps_bytes_and_acts_and_learns_from_the_same(tmp_path: Path) -> None:
    trainer = run(tmp_path / "run")
    rollout, _ = trainer.collector.collect()
    kept = [rollout.observations, rollout.final_observations, rollout.last_observation]
    assert [(field.dtype, field.numel()) for field in kept] == [
        (torch.uint8, 8 * 4 * 147), (torch.uint8, 8 * 4 * 147), (torch.uint8, 4 * 147)
    ]  # fmt: skip
    assert set(rollout.observations.unique().tolist()) == {0, 200}
    policy, mask = trainer.policy, rollout.action_mask.flatten(0, 1)
    distribution = policy.distribution(policy.normalize(rollout.observations.flatten(0, 1)), mask)
    log_prob = distribution.discrete_log_prob(rollout.actions.discrete.flatten(0, 1))
    torch.testing.assert_close(log_prob, rollout.discrete_log_prob.flatten(0, 1))  # ratio 1
    config, parts = trainer.config, policy.observation_parts
    assert needed(config, 147, 4, parts).samples == 3 * 8 * 4 * 147  # a byte each
    assert needed(config, 147, 4).samples == 4 * 4 * 8 * 4 * 147
    trainer.close()


@pytest.mark.parametrize("rewards", ["", "env.reward_components=[right,effort]"])
def test_parameters_alone_are_learned_from_pictures(rewards: str, tmp_path: Path) -> None:
    typed = (f"env.make={__name__}:Steered", *([rewards] if rewards else []))
    trainer = run(tmp_path / "run", *typed)
    assert trainer.collector.collect()[0].observations.dtype == torch.uint8
    trainer.train()
    trainer.close()


def test_it_resumes_exactly(tmp_path: Path) -> None:
    assert_resumes_exactly(compose([*SHORT, "trainer.total_env_steps=128"]), tmp_path)


def test_what_was_learned_acts_and_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = run(tmp_path / "run", "trainer.total_env_steps=32")
    trainer.train()
    pictures = np.random.default_rng(0).integers(0, 256, (50, 7, 7, 3)).astype(np.uint8)
    rows = torch.from_numpy(pictures.reshape(50, -1).astype(np.float32))
    with torch.no_grad():  # so little has been learned that all pictures would get the same answer
        head, features = trainer.policy.discrete_head, trainer.policy.discrete_trunk(rows)
        head.weight.normal_()
        head.bias.copy_(-head(features).mean(0))
    checkpoint.save(tmp_path / "policy.pt", trainer.state_dict())
    policy = equipoise.load(tmp_path / "policy.pt", device="cpu")
    actions = policy.act(pictures)
    assert [int(policy.act(picture)) for picture in pictures] == actions.tolist()
    assert len(set(actions.tolist())) > 1
    path = tmp_path / "policy.pt2"
    command = ["export", f"checkpoint={policy.path}", f"output={path}", f"allow=[{__name__}]"]
    monkeypatch.setattr(sys, "argv", command)
    assert export.main() == 0
    exported = torch.export.load(path).module()
    assert exported(observation=rows)["action"].tolist() == actions.tolist()


def test_numbers_that_no_byte_holds_are_refused(tmp_path: Path) -> None:
    class Fractions(Quarters):
        def look(self) -> Any:
            return super().look() / np.float32(255)

    env = GymnasiumEnv(make=Fractions, num_envs=1)
    said = r"observation holds 0\.784\d* and has dtype float32; its space says uint8"
    with pytest.raises(RuntimeError, match=said):
        env.reset(0)
