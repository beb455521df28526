"""What every peer is asked to do."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equipoise.envs.synthetic import Synthetic

HIDDEN = 64
"""Units of each of the two tanh layers, of the policy and of a critic that shares nothing with it."""


@dataclass(frozen=True)
class Task:
    """One environment, and the sizes and settings of PPO that all peers use."""

    env: str
    """`synthetic`, or the id of a Gymnasium environment with a `Discrete` action space."""
    steps: int
    envs: int
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.01
    max_grad_norm: float = 0.5

    @property
    def samples(self) -> int:
        """Transitions of an iteration."""
        return self.steps * self.envs

    @property
    def minibatch(self) -> int:
        return self.samples // self.minibatches


@dataclass(frozen=True)
class Goal:
    """A mean return over the last `episodes` training episodes."""

    mean_return: float
    episodes: int


class Episodes:
    """Mean return of the last episodes of `num_envs` environments that step together."""

    def __init__(self, num_envs: int, goal: Goal) -> None:
        self.goal = goal
        self._running = torch.zeros(num_envs, dtype=torch.float64)
        self._ended: deque[float] = deque(maxlen=goal.episodes)

    def add(self, rewards: Tensor, done: Tensor) -> None:
        """One step, `[N]` each."""
        self._running += rewards
        if done.any():
            self._ended.extend(self._running[done].tolist())
            self._running[done] = 0.0

    @property
    def reached(self) -> bool:
        full = len(self._ended) == self.goal.episodes
        return full and sum(self._ended) / len(self._ended) >= self.goal.mean_return


def synthetic(num_envs: int) -> Synthetic:
    """O = 32, one head of 6 choices, P = 4; K = 1, as no peer knows reward components."""
    env = Synthetic(num_envs, components=1)
    env.reset(seed=1)
    return env


def tower(inputs: int, outputs: int) -> nn.Sequential:
    """The network of all peers that let their user choose one: two hidden tanh layers."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs)
    )


def orthogonal(network: nn.Sequential, last: float) -> nn.Sequential:
    """Orthogonal weights with gain √2, and `last` for the output layer."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last if layer is layers[-1] else 2**0.5)
        nn.init.zeros_(layer.bias)
    return network
