"""An environment and stages that go wrong on purpose, once, at a chosen moment of a run.

`marker`: a file. While it is there the disturbance waits for its moment, then removes the file first: the
run that is resumed with the same configuration goes through undisturbed, like one that never had the file.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from equipoise.envs.protocol import Timestep
from equipoise.envs.switched_lqr import SwitchedLQR
from equipoise.trainer.data import Rollout, Term
from equipoise.trainer.stages.protocol import LossState, RewardResult
from tests.envs.misbehaving import Counter
from tests.toy_env import ToyEnv


def fires(marker: str) -> bool:
    try:
        Path(marker).unlink()
    except FileNotFoundError:
        return False
    return True


def send(name: str, times: int = 1) -> None:
    for _ in range(times):
        os.kill(os.getpid(), getattr(signal, name))


class DrawingEnv(ToyEnv):
    """Its reward is drawn from generators of the process, as simulators do that know no better."""

    def step(self, action: Any) -> Timestep:
        luck = np.random.random() + random.random() + torch.rand(self.num_envs, 2)
        step = super().step(action)
        return step._replace(rewards=step.rewards + luck)


class Misleading(SwitchedLQR):
    """Its derivatives point the other way."""

    def step(self, action: Any) -> Timestep:
        timestep = super().step(action)
        return timestep._replace(rewards=2.0 * timestep.rewards.detach() - timestep.rewards)


AT_REST = ("env._target_=tests.reliability.disturbed.Misleading", "env.num_envs=64", "env.dimension=2")
"""From the sixth rollout on `auto` asks for derivatives in one of five only."""


class SignallingEnv(ToyEnv):
    """Sends its own process a signal at step `at` of the environment number `instance` made in it.

    The first one trains, the second evaluates (where `num_envs` and the episodes of both evaluations agree).
    """

    made = 0

    def __init__(
        self, num_envs: int, device: torch.device, marker: str = "", signal: str = "SIGINT",
        at: int = 0, instance: int = 1, times: int = 1, **keywords: Any,
    ) -> None:  # fmt: skip
        super().__init__(num_envs, device, **keywords)
        SignallingEnv.made += 1
        self.mine = SignallingEnv.made == instance
        self.marker, self.signal, self.at, self.times = marker, signal, at, times
        self.steps = 0

    def step(self, action: Any) -> Timestep:
        self.steps += 1
        if self.mine and self.steps == self.at and fires(self.marker):
            send(self.signal, self.times)
        return super().step(action)


class SignallingStage:
    """Sends the signal in minibatch `at`."""

    def __init__(self, marker: str = "", signal: str = "SIGINT", at: int = 0) -> None:
        self.marker, self.signal, self.at = marker, signal, at
        self.minibatches = 0

    def losses(self, state: LossState) -> LossState:
        self.minibatches += 1
        if self.minibatches == self.at and fires(self.marker):
            send(self.signal)
        return state


class FaultyEnv(ToyEnv):
    """At step `at` (from 1) `field` is not what it should be: `value` in environment 2, last column; or, for
    a `fault` of `not a number`, `raise`, `shape`, `dtype` or `list`, something else altogether."""

    def __init__(
        self, num_envs: int, device: torch.device, field: str = "observation", value: float = 0.0,
        fault: str = "value", at: int = 5, scale: float = 1.0, picky: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(num_envs, device)
        if fault == "constructor":
            raise OSError("no map found")
        self.field, self.value, self.fault, self.at = field, value, fault, at
        self.scale, self.picky, self.steps = scale, picky, 0

    def reset(self, seed: int | None = None) -> tuple[Tensor, Tensor | None]:
        if self.fault == "raise on reset":
            raise OSError("no map found")
        return super().reset(seed)

    def step(self, action: Any) -> Timestep:
        self.steps += 1
        if self.picky and not bool(action[1][0].isfinite().all()):
            raise AssertionError("what an action!")
        step = super().step(action)
        step = step._replace(rewards=step.rewards * self.scale)
        return self._spoil(step) if self.steps == self.at else step

    def _spoil(self, step: Timestep) -> Timestep:
        good: Tensor = getattr(step, self.field)
        match self.fault:
            case "value":
                bad: Any = good.clone()
                bad[2, -1] = self.value
            case "not a number":
                bad = torch.full_like(good, torch.nan)
            case "raise":
                raise RuntimeError("the simulator lost contact")
            case "shape":
                bad = good[..., :1]
            case "dtype":
                bad = good.double()
            case "list":
                bad = good.tolist()
            case _:
                return step
        return step._replace(**{self.field: bad})


class FaultyLosses:
    """In minibatches `first` to `last` (from 1) something is `value`.

    `where`: `value` (component 1 of the value term), `discrete` (head 0 of the discrete surrogate), both in
    sample 3; `gradient` (a finite term whose gradient is not).
    """

    def __init__(self, where: str = "value", value: float = 0.0, first: int = 1, last: int = 1) -> None:
        self.where, self.value, self.first, self.last = where, value, first, last
        self.minibatches = 0

    def losses(self, state: LossState) -> LossState:
        self.minibatches += 1
        if not self.first <= self.minibatches <= self.last:
            return state
        if self.where == "gradient":  # √x has an infinite slope at 0
            return state.with_term("root", Term((0.0 * state.distribution.mean).abs().sqrt()))
        values, mask = state.terms[self.where]
        bad = values.clone()
        bad[3, 1 if self.where == "value" else 0] = self.value
        return state.with_term(self.where, Term(bad, mask))


class FaultyRollout:
    """A reward stage that oversteps: one log-probability, or all rewards of component 1, become `value`."""

    def __init__(self, where: str = "log_prob", value: float = 0.0) -> None:
        self.where, self.value = where, value

    def rewards(self, rollout: Rollout) -> RewardResult:
        rewards = rollout.rewards.clone()
        if self.where == "log_prob":
            rollout.continuous_log_prob[0, 0, 0] = self.value
        else:
            rewards[..., 1] = self.value
        return RewardResult(rewards, torch.ones_like(rollout.reward_weights))


class Traced(Counter):
    """Leaves the number of its process in `folder`."""

    def __init__(self, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        (Path(folder) / str(os.getpid())).touch()


gymnasium.register("test/Traced-v0", entry_point=Traced)
