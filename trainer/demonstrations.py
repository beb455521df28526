"""Demonstrations: what a teacher did in which states. From a scripted expert, a trained policy, or a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.envs.dependent_masks import DependentMask
from equipoise.envs.protocol import BatchedEnv, NativeAction, ScriptedEnv
from equipoise.envs.random_numbers import StreamPerEnv
from equipoise.envs.references import random_action
from equipoise.trainer.data import Actions
from equipoise.trainer.policy.player import Player
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.spaces import HybridSpace

FORMAT = 1

Teacher = Callable[[Tensor, Any], NativeAction]
"""Observation `[N, O]`, mask -> the action to imitate, in the environment's structure."""


class Demonstrations(NamedTuple):
    """`n` samples of a teacher."""

    observations: Tensor
    """`[n, O]` as the environment gave them."""
    actions: Actions
    """`[n, H]` and `[n, P]` in [-1, 1]."""
    action_mask: Tensor
    """`[n, H, C]` or `[n, S]` bool."""

    def __len__(self) -> int:  # of a named tuple that would be the number of its fields
        return len(self.observations)

    def save(self, path: Path) -> None:
        parts = {"observations": self.observations, "action_mask": self.action_mask}
        parts |= {"discrete": self.actions.discrete, "continuous": self.actions.continuous}
        torch.save({"format": FORMAT, **{name: part.cpu() for name, part in parts.items()}}, path)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | None = None) -> Demonstrations:
        """Raises ValueError for a file that holds none."""
        try:
            found = torch.load(path, map_location=device, weights_only=True)
            if found["format"] != FORMAT:
                raise ValueError(f"has format {found['format']}, this version reads {FORMAT}")
            actions = Actions(found["discrete"], found["continuous"])
            return cls(found["observations"], actions, found["action_mask"])
        except Exception as error:  # torch raises many kinds for what is no file of its own
            reason = "holds no demonstrations"
            if isinstance(error, OSError):
                reason = (error.strerror or str(error)).lower()
            elif isinstance(error, ValueError):
                reason = str(error)
            raise ValueError(f"demonstrations = {path}: {reason}") from None


def expert(env: BatchedEnv) -> Teacher:
    """The scripted expert of `env`. Raises ValueError where it has none."""
    if not isinstance(env, ScriptedEnv):
        raise ValueError(
            f"source = expert: {type(env).__name__} has no scripted expert; give a checkpoint or a file "
            "of demonstrations"
        )
    return lambda _, __: env.expert_action()


def trained(policy: Policy) -> Teacher:
    """The deterministic actions of a policy for the same environment."""
    player = Player(policy)

    def act(observation: Tensor, mask: Any) -> NativeAction:
        return policy.to_native(player.acting(observation, mask).mode())

    return act


class Recording:
    """What a teacher does, in episodes that go on from one call of `more` to the next.

    In a share `detours` of all steps another action is taken than the one that is recorded, a random one: so
    the teacher also shows how to get back from where it would not go (DART: Laskey et al., 2017).
    """

    def __init__(
        self, env: BatchedEnv, space: HybridSpace, teacher: Teacher, seed: int, detours: float = 0.1
    ) -> None:
        self._env, self._space, self._teacher, self._detours = env, space, teacher, detours
        self._now = env.reset(seed)
        self._luck = StreamPerEnv(env.num_envs, env.device, seed + 1)
        self._found: list[tuple[Tensor, ...]] = []

    @torch.no_grad()
    def more(self, samples: int, student: Teacher | None = None) -> Demonstrations:
        """All so far, and what the teacher does in `samples` more states, rounded up to whole steps of all
        environments. With a `student` it is the student who acts, and what the teacher would do is recorded
        where that leads (DAgger: Ross et al., "A reduction of imitation learning and structured prediction
        to no-regret online learning", 2011).

        Raises:
            ValueError: masks that depend on other choices, of which no demonstration can be kept.
        """
        env, space = self._env, self._space
        for _ in range(-(-samples // env.num_envs)):
            observation, mask = self._now
            if isinstance(mask, DependentMask):
                raise ValueError(
                    f"{type(env).__name__}: its masks depend on other choices; not to be recorded"
                )
            action = self._teacher(observation, mask)
            valid = (
                space.valid_choices.expand(env.num_envs, *space.valid_choices.shape) if mask is None else mask
            )
            shown = (observation, *space.from_native(action), valid)
            self._found.append(tuple(part.clone() for part in shown))
            taken = action if student is None else student(observation, mask)
            lost = self._luck.uniform(1)[:, 0] < self._detours
            step = env.step(_either(lost, random_action(env, mask, self._luck), taken))
            self._now = step.observation, step.action_mask
        observations, discrete, continuous, masks = map(torch.cat, zip(*self._found, strict=True))
        return Demonstrations(observations, Actions(discrete, continuous), masks)


def record(
    env: BatchedEnv, space: HybridSpace, teacher: Teacher, samples: int, seed: int, detours: float = 0.1
) -> Demonstrations:
    """What `teacher` does in `samples` states; see `Recording`."""
    return Recording(env, space, teacher, seed, detours).more(samples)


def _either(where: Tensor, one: Any, other: Any) -> Any:
    """`one` in the environments `where` `[N]`, else `other`; both nested alike."""
    if isinstance(one, Tensor):
        return torch.where(where.view(-1, *[1] * (one.dim() - 1)), one, other)
    if isinstance(one, dict):
        return {key: _either(where, part, other[key]) for key, part in one.items()}
    return tuple(_either(where, *pair) for pair in zip(one, other, strict=True))
