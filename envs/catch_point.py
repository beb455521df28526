"""Catch Point: move near a point, then catch it, with few attempts to spare."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import gymnasium
import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from equipoise.envs.arguments import Count, CountOrZero, checked
from equipoise.envs.drawing import BLUE, RED, Canvas
from equipoise.envs.episodic import EpisodicEnv, Outcome, hybrid
from equipoise.envs.point_mass import FIELD, FORCE, placed, pushed
from equipoise.envs.protocol import NativeAction

MOVE, CATCH = 0, 1


class CatchPointState(NamedTuple):
    position: Tensor
    """`[N, 2]`."""
    velocity: Tensor
    """`[N, 2]`."""
    target: Tensor
    """`[N, 2]`."""
    misses: Tensor
    """`[N]` int64 failed catches."""
    steps: Tensor
    """`[N]` int64."""


class CatchPoint(EpisodicEnv[CatchPointState]):
    """Catch Point as HyAR (Li et al., ICLR 2022) rebuilt it after Fan et al. (IJCAI 2019).

    Rules from the scenario `simple_catch` of HyAR's code as DLPA ships it (github.com/Valarzz/DLPA), and
    from HyAR's training scripts. `move` pushes the body of `envs.point_mass` with full force in direction
    π·parameter, measured from the y axis; `catch` lets it drift and closes the hand after that motion.
    A catch within `catch_radius` gives `catch_reward` and ends the episode. Every step gives −distance².
    Once more than `max_misses` catches have failed, the next step ends the episode at reward 0.
    `max_steps` truncates: the 30 of HyAR's scripts (DLPA has 25, where no policy can pass 0.97).

    Observation `[4]`: velocity, target − position. `observe_counts` adds the two numbers that DLPA adds,
    which make the state complete: misses / 6 − 1 and steps / 12 − 1.

    Assumed: `catch_radius` 0.2 and damping 0.25 are defined in a file that no public copy we could read
    holds; DLPA's own count of misses, in its trainer, uses 0.2.
    """

    reward_names = ("distance", "catch")
    relevance = (((0,), ()),)

    @checked
    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        max_steps: Count = 30,
        max_misses: CountOrZero = 10,
        catch_radius: Annotated[float, Gt(0)] = 0.2,
        catch_reward: Annotated[float, Ge(0)] = 20.0,
        observe_counts: bool = False,
    ) -> None:
        super().__init__(num_envs, device)
        self.max_steps, self.max_misses, self.catch_radius = max_steps, max_misses, catch_radius
        self.observe_counts = observe_counts
        self.reward_weights = (1.0, catch_reward)
        width = 6 if observe_counts else 4
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.action_space = gymnasium.spaces.Tuple(
            (gymnasium.spaces.Discrete(2), gymnasium.spaces.Box(-1, 1, (1,), np.float32))
        )

    def start(self) -> CatchPointState:
        zero = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)
        return CatchPointState(*placed(self.random.uniform(4)), zero, zero)

    def advance(self, state: CatchPointState, action: NativeAction) -> Outcome[CatchPointState]:
        choice, parameters = hybrid(action)
        angle = math.pi * parameters[:, 0].clamp(-1, 1)
        push = torch.stack((angle.sin(), angle.cos()), dim=1) * (choice == MOVE)[:, None]
        position, velocity = pushed(state.position, state.velocity, FORCE * push)
        square = (state.target - position).square().sum(dim=1)
        exhausted = state.misses > self.max_misses
        catch = (choice == CATCH) & ~exhausted
        caught = catch & (square <= self.catch_radius**2)
        misses = state.misses + (catch & ~caught)
        after = CatchPointState(position, velocity, state.target, misses, state.steps + 1)
        rewards = (torch.where(exhausted, 0.0, -square), caught)
        return Outcome(after, rewards, caught | exhausted, after.steps >= self.max_steps, caught)

    def observe(self, state: CatchPointState) -> Tensor:
        columns = [state.velocity, state.target - state.position]
        if self.observe_counts:
            columns += [(state.misses / 6 - 1)[:, None], (state.steps / 12 - 1)[:, None]]
        return torch.cat(columns, dim=1)

    def expert_action(self) -> NativeAction:
        """Push towards the target until the drift of a catching step ends within reach of it."""
        state = self.state
        drifted, _ = pushed(state.position, state.velocity, torch.zeros_like(state.velocity))
        miss = state.target - drifted
        within = miss.square().sum(dim=1) <= (0.999 * self.catch_radius) ** 2
        offset = state.target - state.position
        angle = torch.atan2(offset[:, 0], offset[:, 1])
        return within.long(), (angle / math.pi)[:, None]

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        position, target = self.state.position[index].tolist(), self.state.target[index].tolist()
        canvas = Canvas(-2 * FIELD, 2 * FIELD, -2 * FIELD, 2 * FIELD)
        canvas.disc(target[0], target[1], 0.06, RED)
        canvas.disc(position[0], position[1], self.catch_radius, BLUE, filled=False)
        canvas.disc(position[0], position[1], 0.06, BLUE)
        return canvas.array()
