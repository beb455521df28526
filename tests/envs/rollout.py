"""Running a batched environment in tests: random actions, and the episodes a policy gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import torch
from torch import Tensor

from equipoise.envs.protocol import NativeAction


class Episodes(NamedTuple):
    """The first episode of each environment."""

    returns: Tensor
    successes: Tensor
    lengths: Tensor


def sample(space: gymnasium.Space[Any], num_envs: int, generator: torch.Generator) -> NativeAction:
    """Uniform actions for `num_envs` environments."""
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(sample(leaf, num_envs, generator) for leaf in space.spaces)
    if isinstance(space, gymnasium.spaces.Discrete):
        return torch.randint(0, int(space.n), (num_envs,), generator=generator)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        heads = [torch.randint(0, int(n), (num_envs,), generator=generator) for n in space.nvec]
        return torch.stack(heads, dim=1)
    assert isinstance(space, gymnasium.spaces.Box)
    low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
    return low + (high - low) * torch.rand(num_envs, *space.shape, generator=generator)


@torch.inference_mode()
def first_episodes(env: Any, policy: Callable[[], NativeAction], max_steps: int, seed: int = 0) -> Episodes:
    """The first episode of each environment; fails if one does not end within `max_steps`."""
    env.reset(seed)
    weights = torch.tensor(env.reward_weights)
    running = torch.ones(env.num_envs, dtype=torch.bool)
    returns, lengths = torch.zeros(env.num_envs), torch.zeros(env.num_envs)
    successes = torch.full((env.num_envs,), torch.nan)
    for _ in range(max_steps):
        step = env.step(policy())
        returns += torch.where(running, step.rewards @ weights, 0.0)
        lengths += running
        ended = running & (step.terminated | step.truncated)
        successes = torch.where(ended, step.metrics["success"], successes)
        running = running & ~ended
        if not running.any():
            return Episodes(returns, successes, lengths)
    raise AssertionError(f"{int(running.sum())} episodes did not end within {max_steps} steps")


def random_policy(env: Any, seed: int = 0) -> Callable[[], NativeAction]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: sample(env.action_space, env.num_envs, generator)
