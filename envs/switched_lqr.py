"""Switched LQR: choose which controls work, and how much of each, to bring an unstable system to rest."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import gymnasium
import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from equipoise.envs.arguments import Count, checked
from equipoise.envs.drawing import BLUE, GREY, RED, Canvas
from equipoise.envs.episodic import EpisodicEnv, Outcome, hybrid
from equipoise.envs.protocol import NativeAction
from equipoise.envs.quadratic_forms import Forms, value_iteration

CONTROL_COST = 0.1
LIMIT = 100.0
WEAK = 0.15
START = 10.0
_DIRECTIONS = 1024

Matrix = np.ndarray[Any, np.dtype[np.float64]]


class SwitchedLQRState(NamedTuple):
    position: Tensor
    """`[N, d]`."""
    steps: Tensor
    """`[N]` int64."""


class SwitchedLQR(EpisodicEnv[SwitchedLQRState]):
    """A linear system with `modes` ways to act on it, after the benchmark of "Policy optimization in hybrid
    discrete-continuous action spaces via mixed gradients" (arXiv 2605.14297).

    x' = Ax + B_k u with the chosen mode k, whose gains are 1 on its own group of dimensions and 0.15 on the
    others, so that no mode does everything well. A is `growth`·I and 0.05 times a symmetric random matrix
    whose largest entry is 1, the same for the same `matrix_seed`. Every step costs |x|² + 0.1·|u|², of the
    state before it. Each mode has a control of its own, `d` numbers between ±20/√d. The start is uniform in
    ±10/√d, every entry of the state is held within ±100, and `max_steps` truncate the episode.

    Observation `[d]`: the state. All of it is differentiable; it has no jumps but those of the mode.

    The expert is the optimum of this horizon without the bounds, which it does not reach, by value iteration
    over quadratic forms (`envs.quadratic_forms`).
    """

    reward_names = ("state", "control")
    reward_weights = (1.0, 1.0)

    @checked
    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        dimension: Annotated[int, Ge(1), Le(100)] = 10,
        modes: Annotated[int, Ge(1), Le(20)] = 3,
        growth: Annotated[float, Gt(0), Le(2)] = 1.1,
        max_steps: Count = 20,
        matrix_seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__(num_envs, device)
        self.dimension, self.modes, self.max_steps = dimension, modes, max_steps
        self._matrix = _dynamics(dimension, growth, matrix_seed)
        self._strengths = _strengths(dimension, modes)
        self._dynamics = torch.from_numpy(self._matrix).float().to(self.device)
        self._gains = torch.from_numpy(self._strengths).float().to(self.device)
        bound = 2.0 * START / math.sqrt(dimension)
        controls = modes * dimension
        self.observation_space = gymnasium.spaces.Box(-LIMIT, LIMIT, (dimension,), np.float32)
        self.action_space = gymnasium.spaces.Tuple(
            (gymnasium.spaces.Discrete(modes), gymnasium.spaces.Box(-bound, bound, (controls,), np.float32))
        )
        self.relevance = (
            tuple(tuple(range(first, first + dimension)) for first in range(0, controls, dimension)),
        )

    def start(self) -> SwitchedLQRState:
        reach = START / math.sqrt(self.dimension)
        zero = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)
        return SwitchedLQRState(reach * (2 * self.random.uniform(self.dimension) - 1), zero)

    def advance(self, state: SwitchedLQRState, action: NativeAction) -> Outcome[SwitchedLQRState]:
        choice, parameters = hybrid(action)
        rows = choice.view(-1, 1, 1).expand(-1, 1, self.dimension)
        control = parameters.view(-1, self.modes, self.dimension).gather(1, rows).squeeze(1)
        dynamics = self._dynamics.T.to(state.position.dtype)
        moved = state.position @ dynamics + self._gains[choice] * control
        after = SwitchedLQRState(moved.clamp(-LIMIT, LIMIT), state.steps + 1)
        rewards = (-state.position.square().sum(1), -CONTROL_COST * control.square().sum(1))
        never = torch.zeros_like(choice, dtype=torch.bool)
        small = after.position.square().sum(1) < 1.0
        return Outcome(after, rewards, never, after.steps >= self.max_steps, small)

    def observe(self, state: SwitchedLQRState) -> Tensor:
        return state.position

    @cached_property
    def _plans(self) -> list[Forms]:
        directions = np.random.default_rng(0).uniform(-1.0, 1.0, (_DIRECTIONS, self.dimension))
        inputs = self._strengths[:, :, None] * np.eye(self.dimension)
        one = np.eye(self.dimension)
        return value_iteration(self._matrix, inputs, one, CONTROL_COST * one, self.max_steps, directions)

    def expert_action(self) -> NativeAction:
        """The plan that is the cheapest for the steps that are left."""
        position = self.state.position.double().cpu().numpy()
        steps = self.state.steps.cpu().numpy()
        choice = np.zeros(self.num_envs, dtype=np.int64)
        control = np.zeros((self.num_envs, self.dimension))
        for step in np.unique(steps):
            here = steps == step
            forms = self._plans[self.max_steps - 1 - step]
            plan = forms.best(position[here])
            choice[here] = forms.modes[plan]
            control[here] = -np.einsum("nij,nj->ni", forms.gains[plan], position[here])
        everywhere = np.tile(control, self.modes).astype(np.float32)
        return torch.from_numpy(choice).to(self.device), torch.from_numpy(everywhere).to(self.device)

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A bar for each dimension, on a scale of which the start fills half."""
        reach = START / math.sqrt(self.dimension)
        canvas = Canvas(0, 1, -0.5, 0.5)
        width = 1.0 / self.dimension
        for place, entry in enumerate(self.state.position[index].tolist()):
            height = max(-0.48, min(0.48, 0.25 * entry / reach))
            left, right = (place + 0.2) * width, (place + 0.8) * width
            low, high = sorted((0.0, height))
            canvas.box(left, low, right, high, BLUE if abs(entry) <= reach else RED)
        canvas.line([(0, 0), (1, 0)], GREY)
        return canvas.array()


def _dynamics(dimension: int, growth: float, seed: int) -> Matrix:
    """`A` `[d, d]`."""
    noise = np.random.default_rng(seed).standard_normal((dimension, dimension))
    symmetric = (noise + noise.T) / 2
    matrix: Matrix = growth * np.eye(dimension) + 0.05 * symmetric / np.abs(symmetric).max()
    return matrix


def _strengths(dimension: int, modes: int) -> Matrix:
    """`[m, d]`: what each mode makes of each control. The groups are as equal as can be."""
    owner = np.arange(dimension) * modes // dimension
    return np.where(owner == np.arange(modes)[:, None], 1.0, WEAK)
