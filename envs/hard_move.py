"""Hard Move: reach a circle with `n` actuators around the body, `2ⁿ` ways to switch them."""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any, Literal, NamedTuple

import gymnasium
import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from equipoise.envs.arguments import Count, checked
from equipoise.envs.drawing import BLUE, GREY, RED, Canvas
from equipoise.envs.episodic import EpisodicEnv, Outcome, hybrid
from equipoise.envs.point_mass import FIELD, FORCE, placed, pushed
from equipoise.envs.protocol import NativeAction

Form = Literal["option", "actuator"]


class HardMoveState(NamedTuple):
    position: Tensor
    """`[N, 2]`."""
    velocity: Tensor
    """`[N, 2]`."""
    target: Tensor
    """`[N, 2]`."""
    steps: Tensor
    """`[N]` int64."""


class HardMove(EpisodicEnv[HardMoveState]):
    """Hard Move of HyAR (Li et al., ICLR 2022; code: TJU-DRL-LAB/self-supervised-rl, HyAR, also in DLPA).

    Actuator i of n pushes at angle 2πi/n. The body is that of `envs.point_mass`. Two forms of the action:

    - `option`, the published one: `Discrete(2**n)` chooses which actuators are on (bit n−1−i of the choice
      is actuator i) and each option has a parameter of its own in [-1, 1], the signed strength of that
      option's sum of directions, which is scaled so that the strongest option reaches 1.
    - `actuator`, ours: `MultiDiscrete([2] * n)` switches each actuator, and each has a parameter in
      [-1, 1] that counts only while it is on. Scaled to the same greatest push, reached here with
      opposite actuators at −1 and +1.

    Every step gives −distance²; coming within `target_radius` gives `goal_reward` more and ends the
    episode; `max_steps` truncates it. Observation `[4]`: velocity, target − position.

    Assumed, because the scenario file is in no public copy we could read: `target_radius` 0.2 (Catch
    Point's in the same code; it puts an agent that hardly moves at the published 0.04 to 0.05) and
    `goal_reward` 20 (Catch Point's; published training scripts count a reward above 4 as success).
    `max_steps` is the 30 of HyAR's own training scripts (DLPA has 25, where for n = 4 no policy could pass
    0.86: the four options with two neighbours on span a square, which is all that can be reached in time;
    with 30 steps the bound is 0.96, and it rises with n).
    """

    reward_names = ("distance", "goal")

    @checked
    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        n: Annotated[int, Ge(2), Le(12)] = 4,
        form: Form = "option",
        max_steps: Count = 30,
        target_radius: Annotated[float, Gt(0)] = 0.2,
        goal_reward: Annotated[float, Ge(0)] = 20.0,
    ) -> None:
        super().__init__(num_envs, device)
        self.n, self.form, self.max_steps, self.target_radius = n, form, max_steps, target_radius
        self.reward_weights = (1.0, goal_reward)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        directions, motions = _pushes(n)
        if form == "option":
            self._pushes = motions.to(self.device)
            self.relevance = (tuple((option,) for option in range(2**n)),)
            switches: gymnasium.Space[Any] = gymnasium.spaces.Discrete(2**n)
        else:
            self._pushes = directions.to(self.device)
            self.relevance = tuple(((), (actuator,)) for actuator in range(n))
            switches = gymnasium.spaces.MultiDiscrete([2] * n)
        strengths = gymnasium.spaces.Box(-1, 1, (len(self._pushes),), np.float32)
        self.action_space = gymnasium.spaces.Tuple((switches, strengths))

    def start(self) -> HardMoveState:
        body = placed(self.random.uniform(4))
        return HardMoveState(*body, torch.zeros(self.num_envs, dtype=torch.long, device=self.device))

    def _push(self, action: NativeAction) -> Tensor:
        """`[N, 2]`, at most 1 long."""
        switches, strengths = hybrid(action)
        strengths = strengths.clamp(-1, 1)
        if self.form == "actuator":
            return (switches * strengths) @ self._pushes
        return self._pushes[switches] * strengths.gather(1, switches[:, None])

    def advance(self, state: HardMoveState, action: NativeAction) -> Outcome[HardMoveState]:
        position, velocity = pushed(state.position, state.velocity, FORCE * self._push(action))
        after = HardMoveState(position, velocity, state.target, state.steps + 1)
        square = (state.target - position).square().sum(dim=1)
        reached = square <= self.target_radius**2
        return Outcome(after, (-square, reached), reached, after.steps >= self.max_steps, reached)

    def observe(self, state: HardMoveState) -> Tensor:
        return torch.cat((state.velocity, state.target - state.position), dim=1)

    def expert_action(self) -> NativeAction:
        """The hardest push towards the target; nothing is gained by slowing down in it."""
        gain = (self.state.target - self.state.position) @ self._pushes.T
        if self.form == "actuator":
            return (gain.abs() > 0).long(), gain.sign()
        return gain.abs().argmax(dim=1), gain.sign()

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        position, target = self.state.position[index].tolist(), self.state.target[index].tolist()
        canvas = Canvas(-2 * FIELD, 2 * FIELD, -2 * FIELD, 2 * FIELD)
        canvas.disc(target[0], target[1], self.target_radius, RED)
        for i in range(self.n):
            angle = 2 * math.pi * i / self.n
            end = (position[0] + 0.15 * math.cos(angle), position[1] + 0.15 * math.sin(angle))
            canvas.line([(position[0], position[1]), end], GREY)
        canvas.disc(position[0], position[1], 0.06, BLUE)
        return canvas.array()


HardMovePerActuator = functools.partial(HardMove, form="actuator")
"""`HardMove` with one head and one parameter per actuator, under a name of its own."""


def _pushes(n: int) -> tuple[Tensor, Tensor]:
    """Directions of the actuators `[n, 2]` and pushes of the options `[2ⁿ, 2]`, each scaled to reach 1.

    The directions are rounded to three decimals as in the original.
    """
    angles = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    directions = torch.stack((angles.cos(), angles.sin()), dim=1).round(decimals=3)
    bits = (torch.arange(2**n)[:, None] >> torch.arange(n - 1, -1, -1)) & 1
    sums = bits.double() @ directions
    longest = torch.linalg.vector_norm(sums, dim=1).max()
    signed = torch.linalg.vector_norm((2 * bits - 1).double() @ directions, dim=1).max()
    return (directions / signed).float(), (sums / longest).float()
