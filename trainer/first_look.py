"""A first look at an environment: what random actions achieve, its episodes, rewards and speed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from equipoise.envs.action_table import ActionTable
from equipoise.envs.checked import CheckedEnv
from equipoise.envs.dependent_masks import DependentMask, MaskingEnv
from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.envs.protocol import BatchedEnv
from equipoise.envs.random_numbers import StreamPerEnv
from equipoise.envs.references import random_action
from equipoise.trainer.idle_steps import IdleSteps
from equipoise.trainer.spaces import HybridSpace, shortened

MOST_STEPS = 1_000
"""Of each environment."""
MOST_SECONDS = 5.0


class RandomReturn(NamedTuple):
    """The baseline: the task return of episodes with random actions."""

    mean: float
    std: float | None
    """None where it is stated, not measured."""
    unfinished: bool = False
    """Whether episodes were longer than the look; those count as they stood."""


class Sizes(NamedTuple):
    """The sizes of a reward component in single steps."""

    mean_size: float
    """Mean of the absolute value."""
    lowest: float
    highest: float


@dataclass(frozen=True)
class FirstLook:
    """What `look_at` has seen; the first episode of each environment counts."""

    returns: list[float]
    lengths: list[float]
    unfinished: int
    """Episodes that were still running when the look ended."""
    rewards: dict[str, Sizes]
    """By component, in the environment's own units."""
    valid: float | None
    """Mean share of a decision's choices that the masks allow; None without masks."""
    steps_per_second: float
    """Over all environments, with random actions."""
    num_envs: int
    inexact: str | None
    """Why a run in this environment cannot be resumed bit for bit; None: it can."""
    depends: Mapping[int, Sequence[int]]
    """Head -> those whose choices its mask depends on, beside what is valid in itself."""

    @property
    def random_return(self) -> RandomReturn:
        return RandomReturn(float(np.mean(self.returns)), float(np.std(self.returns)), self.unfinished > 0)

    def lines(self) -> list[str]:
        """The findings for people, one a line."""
        count, mean, std = len(self.returns), *self.random_return[:2]
        shortest, longest = min(self.lengths), max(self.lengths)
        steps = f"{shortest:,.0f}" if shortest == longest else f"{shortest:,.0f} to {longest:,.0f}"
        ended = f"of {steps} steps"
        if self.unfinished:
            ended = f"of which {self.unfinished} had not ended after {longest:,.0f} steps"
        rewards = "; ".join(
            f"{name} {sizes.lowest:.4g} to {sizes.highest:.4g}, mean size {sizes.mean_size:.4g}"
            for name, sizes in self.rewards.items()
        )
        masks = [] if self.valid is None else [f"{self.valid:.0%} of the choices are valid on average"]
        for head, given in sorted(self.depends.items()):
            masks.append(f"what is valid of head {head} depends on head {' and head '.join(map(str, given))}")
        return [
            f"masks: {'; '.join(masks) or 'none'}",
            f"random actions: return {mean:.4g} ± {std:.4g} in {count} episodes {ended}",
            f"reward of a step: {rewards}",
            f"speed: {self.steps_per_second:,.0f} steps a second in {self.num_envs} environments",
            f"resume: {'exact' if self.inexact is None else f'episodes would begin anew: {self.inexact}'}",
        ]


def understood(env: BatchedEnv, space: HybridSpace) -> str:
    """How the spaces of `env` are understood: what a policy sees, and what it decides."""
    described = (
        getattr(env, "observation_layout", None) or ObservationLayout(env.observation_space).describe()
    )
    width = described[-1]["columns"][1]
    parts = []
    for part in described if len(described) > 1 else ():
        first, stop = part["columns"]
        kind = " (one-hot)" if part["encoding"] == "one-hot" else ""
        parts.append(f"{part['path']} = {first if stop == first + 1 else f'{first}-{stop - 1}'}{kind}")
    shape = " x ".join(map(str, env.observation_space.shape)) or "1"
    seen = shortened(parts) if parts else shape if described[0]["encoding"] == "numbers" else "one-hot"
    return f"observations: {width} numbers: {seen}\n{space.describe()}"


@torch.inference_mode()
def look_at(
    env: BatchedEnv, seed: int, max_steps: int = MOST_STEPS, max_seconds: float = MOST_SECONDS
) -> FirstLook:
    """Take random actions until the first episode of every environment has ended, or time is up.

    Raises:
        EnvError: the environment misbehaved.
    """
    checked, stream = CheckedEnv(env), StreamPerEnv(env.num_envs, env.device, seed)
    _, mask = checked.reset(seed)
    weights = torch.tensor(env.reward_weights, device=env.device)
    returns, lengths = torch.zeros(2, env.num_envs, device=env.device)
    running = torch.ones_like(returns, dtype=torch.bool)
    rewards, valid, spent, began = [], [], 0.0, time.perf_counter()
    for _ in range(max_steps):
        if mask is not None:
            own = mask.own if isinstance(mask, DependentMask) else mask
            valid.append(own.flatten(1).sum(1))
        action, before = random_action(env, mask, stream), time.perf_counter()
        step = checked.step(action)
        spent += time.perf_counter() - before
        mask = step.action_mask
        rewards.append(step.rewards)
        returns, lengths = returns + (step.rewards @ weights) * running, lengths + running
        running = running & ~(step.terminated | step.truncated)
        if not running.any() or time.perf_counter() - began > max_seconds:
            break
    choices = sum(ActionTable(env.action_space).choices)
    depends = dict(env.mask_depends_on) if isinstance(env, MaskingEnv) else {}
    if isinstance(mask, DependentMask):  # of the same heads in every step
        depends |= {table.head: table.given for table in mask.tables}
    state, given = env.state_dict(), torch.cat(rewards)
    if (idle := IdleSteps(env).all()) is not None:
        given = given[~idle.flatten()]  # a step that only begins an episode pays nothing
    return FirstLook(
        returns=returns.tolist(),
        lengths=lengths.tolist(),
        unfinished=int(running.sum()),
        rewards=_sizes(env, given),
        valid=float(torch.cat(valid).float().mean()) / choices if valid and choices else None,
        steps_per_second=len(rewards) * env.num_envs / spent,
        num_envs=env.num_envs,
        inexact=None if state.get("exact", True) else str(state.get("reason")),
        depends=depends,
    )


def _sizes(env: BatchedEnv, rewards: torch.Tensor) -> dict[str, Sizes]:
    numbers = zip(rewards.abs().mean(0), rewards.amin(0), rewards.amax(0), strict=True)
    return {name: Sizes(*map(float, each)) for name, each in zip(env.reward_names, numbers, strict=True)}
