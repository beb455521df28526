"""Batched PyTorch environments of the shapes of Isaac Lab and rsl_rl, by stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.vectorised.on_device import DeviceEnv
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose


class Lab:
    """As Isaac Lab's: a dict of tensors, Gymnasium's five values, new episodes in the step of the end.

    Copy `i` terminates after `i + 2` steps, or its time is up after 3. Writes over its tensors.
    """

    single_action_space = spaces.Box(-np.inf, np.inf, (2,))

    def __init__(self, num_envs: int, device: str, gain: float = 1.0) -> None:
        self.num_envs, self.device, self.gain = num_envs, device, gain
        self.clock = torch.zeros(num_envs)
        self.seen: list[Tensor] = []

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.clock.zero_()
        return self._observe(), {}

    def step(self, action: Tensor) -> tuple[Any, Any, Any, Any, Any]:
        self.seen.append(action)
        self.clock += 1
        terminated, truncated = self.clock == torch.arange(self.num_envs) + 2, self.clock == 3
        reward = self.gain * self.clock.clone()
        extras = {"success": terminated.clone(), "log": {"a": 1.0}}
        self.clock[terminated | truncated] = 0.0
        return self._observe(), reward, terminated, truncated & ~terminated, extras

    def _observe(self) -> dict[str, Tensor]:
        return {"policy": self.clock.unsqueeze(1), "critic": torch.full((self.num_envs, 3), 7.0)}


class Legged:
    """As rsl_rl wants it: `dones` with `time_outs`, `num_actions`, a seed by a method of its own."""

    num_actions = 3

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.lab = Lab(num_envs, "cpu")

    def seed(self, seed: int) -> None:
        pass

    def reset(self) -> tuple[Any, Any]:
        return self.lab.reset()[0]["policy"], {}

    def step(self, action: Tensor) -> tuple[Any, Any, Any, Any]:
        observation, reward, terminated, truncated, _ = self.lab.step(action)
        return observation["policy"], reward, (terminated | truncated).long(), {"time_outs": truncated}


def walk(env: DeviceEnv) -> list[Any]:
    actions = torch.zeros(env.num_envs, *env.action_space.shape)  # type: ignore[misc]
    return [env.step(actions) for _ in range(3)]


@pytest.mark.parametrize("make", [Lab, Legged])
def test_ends_and_time_limits_are_kept_apart_and_the_observation_before_stands_in(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(Legged, "seed", lambda _, seed: seeds.append(seed))
    env = DeviceEnv(3, make=make)
    assert env.reset(5)[0].tolist() == [[0.0], [0.0], [0.0]]
    first, second, third = walk(env)
    assert first.observation.tolist() == [[1.0], [1.0], [1.0]]  # a copy: the environment writes over its own
    assert second.terminated.tolist() == [True, False, False]
    assert second.observation.tolist() == [[0.0], [2.0], [2.0]]
    assert third.terminated.tolist() == [False, True, False]
    assert third.truncated.tolist() == [False, False, True]
    assert third.final_observation[2].tolist() == [2.0]
    assert third.rewards.tolist() == [[1.0], [3.0], [3.0]]
    if make is Lab:
        assert second.metrics["success"].nan_to_num(9.0).tolist() == [1.0, 9.0, 9.0]
        assert env.action_space == spaces.Box(-1.0, 1.0, (2,))
    else:
        assert seeds == [5]
        assert env.action_space.shape == (3,)


def test_the_last_observation_is_used_where_there_is_one() -> None:
    class Kind(Lab):
        def step(self, action: Tensor) -> Any:
            *given, extras = super().step(action)
            return *given, {**extras, "final_obs": {"policy": torch.full((self.num_envs, 1), 99.0)}}

    env = DeviceEnv(2, make=Kind)
    env.reset(0)
    assert walk(env)[1].final_observation.tolist() == [[99.0], [99.0]]


def test_parts_of_the_observation_are_chosen_by_name() -> None:
    assert DeviceEnv(2, make=Lab).observation_space.shape == (1,)
    assert DeviceEnv(2, make=Lab, observe=["critic", "policy"]).reset(0)[0].shape == (2, 4)
    with pytest.raises(
        ValueError, match=r"observe: Lab has no part 'poilcy'; there are \['policy', 'critic'\]"
    ):
        DeviceEnv(2, make=Lab, observe=["poilcy"])


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="make is missing"):
        DeviceEnv(2)
    with pytest.raises(ValueError, match="'Lab' could not be made with {'gian': 2}: TypeError"):
        DeviceEnv(2, make=Lab, kwargs={"gian": 2})
    with pytest.raises(ValueError, match="gives 3 copies, not 2"):
        DeviceEnv(2, make=lambda: Lab(3, "cpu"))


def test_rewards_that_are_vectors_become_components_by_number() -> None:
    class Two(Lab):
        def step(self, action: Tensor) -> Any:
            observations, rewards, *rest = super().step(action)
            return observations, torch.stack([rewards, -rewards], 1), *rest

    env = DeviceEnv(3, make=Two)
    assert (env.reward_names, env.reward_weights) == (("reward_0", "reward_1"), (1.0, 1.0))
    assert DeviceEnv(3, make=Two, reward_weights=[1, 2]).reward_weights == (1.0, 2.0)
    env.reset(0)
    walk(env)
    env = DeviceEnv(3, make=Two, reward_weights=[1])
    env.reset(0)
    with pytest.raises(EnvError, match=r"shape \(3, 2\), not 1 each; env.reward_weights=\[1,1\] takes each"):
        walk(env)


def test_it_is_trained(tmp_path: Path) -> None:
    sizes = ["env.num_envs=4", "policy.hidden_sizes=[8]", "trainer.batch.rollout_steps=8", "device=cpu"]
    short = ["trainer.total_env_steps=64", "trainer.eval_every=0", "trainer.final_eval_episodes=2"]
    trainer = build(
        compose(["env=on_device", f"env.make={__name__}:Lab", "env.kwargs.gain=2.0", *sizes, *short]),
        tmp_path / "run",
    )
    trainer.train()
    assert trainer.env_steps == 64
    trainer.close()
