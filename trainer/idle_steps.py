"""Which actions an environment did not use: at the end of a rollout, or after each step."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.envs.protocol import BatchedEnv, IdlingEnv


class IdleSteps:
    """Of `env`, whose `take_idle` nobody else asks."""

    def __init__(self, env: BatchedEnv) -> None:
        self._env = env
        self.possible = isinstance(env, IdlingEnv)
        self._asked: list[Tensor | None] = []

    def latest(self) -> Tensor | None:
        """`[N]`: whether the action of the step just taken was not used, for who asks after each; None: all
        were."""
        if not self.possible:
            return None
        self._asked.append(self._taken())
        return None if self._asked[-1] is None else self._asked[-1][-1]

    def all(self) -> Tensor | None:
        """`[T, N]`: of all steps since this was last asked; None: all were used."""
        rows, self._asked = self._asked or [self._taken()], []
        if all(row is None for row in rows):
            return None
        none = torch.zeros(1, self._env.num_envs, dtype=torch.bool, device=self._env.device)
        return torch.cat([none if row is None else row for row in rows])

    def _taken(self) -> Tensor | None:
        idle = self._env.take_idle() if isinstance(self._env, IdlingEnv) else None
        return None if idle is None else idle.to(self._env.device)
