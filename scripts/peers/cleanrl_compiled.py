"""CleanRL's structure compiled as LeanRL does: acting, GAE and the update by `torch.compile`, no `.item()`.

Written anew after the published changes (LeanRL, `ppo_continuous_action_torchcompile.py`): the loop of
`cleanrl.py`, of which the three functions are compiled, metrics stay on the device until the iteration is
over, and Adam is fused. A Gymnasium environment stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equipoise.scripts.peers import cleanrl
from equipoise.scripts.peers.cleanrl import PPO, Arrays, Env, Tensors
from equipoise.scripts.peers.task import Task

PACKAGES = cleanrl.PACKAGES


class Compiled(PPO):
    def __init__(self, task: Task, env: Env) -> None:
        super().__init__(task, env)
        rate = torch.tensor(task.learning_rate)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=rate, eps=1e-5, fused=True)
        for owner, name in ((self.agent, "act"), (self, "advantages"), (self, "learn")):
            setattr(owner, name, torch.compile(getattr(owner, name)))

    def read(self, divergence: Tensor, clipped: Tensor) -> tuple[Any, Any]:
        """After the iteration, all at once."""
        return divergence.clone(), clipped.clone()


def build(task: Task) -> Callable[[], None]:
    env: Any = Tensors(task.envs) if task.env == "synthetic" else Arrays(task.env, task.envs)
    return Compiled(task, env)
