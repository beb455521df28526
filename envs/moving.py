"""Moving and Sliding: steer to a circle in a square field and stop inside it."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import gymnasium
import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from equipoise.envs.arguments import Count, checked
from equipoise.envs.drawing import BLACK, BLUE, RED, Canvas
from equipoise.envs.episodic import EpisodicEnv, Outcome, hybrid
from equipoise.envs.protocol import NativeAction

ACCELERATE, TURN, BRAKE = 0, 1, 2
FIELD = 1.0
TARGET_RADIUS = 0.1


class MovingState(NamedTuple):
    position: Tensor
    """`[N, 2]`."""
    heading: Tensor
    """`[N]` radians in [0, 2π): where the vehicle points."""
    speed: Tensor
    course: Tensor
    """`[N]` radians: where it moves to (Sliding; in Moving the same as `heading`)."""
    target: Tensor
    """`[N, 2]`."""
    steps: Tensor
    """`[N]` int64 steps taken in this episode."""


class Moving(EpisodicEnv[MovingState]):
    """Moving-v0 of gym-hybrid (github.com/thomashirtz/gym-hybrid, 2021): accelerate, turn or brake.

    The field is [-1, 1]², the target a circle of radius 0.1. `accelerate` takes a share in [0, 1] of
    `max_acceleration`, `turn` a share in [-1, 1] of `max_turn` radians, `brake` nothing: it takes `brake`
    off the speed. After each choice the vehicle moves on for `dt`. Success is to stand (speed exactly 0)
    in the circle: +1. Leaving the field fails. Every other step gives what the distance shrank by, less
    `step_cost`; a failing step gives −1 in place of that.

    Observation `[10]`: x, y, speed, cos and sin of the heading, target x and y, distance, inside the
    circle (0 or 1), steps / max_steps.

    `faithful` keeps what published results include: the step after `max_steps` ends the episode as a
    failure (terminated, −1). False: step `max_steps` truncates it, at the usual reward.

    Deviations: the observation space is unbounded (the original declares [1, −1], the wrong way round).
    """

    reward_names = ("progress", "step", "goal", "failure")
    relevance = (((0,), (1,), ()),)

    @checked
    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        max_turn: Annotated[float, Gt(0)] = math.pi / 2,
        max_acceleration: Annotated[float, Gt(0)] = 0.5,
        dt: Annotated[float, Gt(0)] = 0.005,
        max_steps: Count = 200,
        step_cost: Annotated[float, Ge(0)] = 0.001,
        brake: Annotated[float, Gt(0)] = 0.1,
        faithful: bool = True,
    ) -> None:
        super().__init__(num_envs, device)
        self.max_turn, self.max_acceleration, self.dt = max_turn, max_acceleration, dt
        self.max_steps, self.brake, self.faithful = max_steps, brake, faithful
        self.reward_weights = (1.0, step_cost, 1.0, 1.0)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (10,), np.float32)
        self.action_space = gymnasium.spaces.Tuple(
            (
                gymnasium.spaces.Discrete(3),
                gymnasium.spaces.Box(np.array([0, -1], np.float32), np.array([1, 1], np.float32)),
            )
        )

    def start(self) -> MovingState:
        u = self.random.uniform(5)
        zero = torch.zeros(self.num_envs, device=self.device)
        heading = 2 * math.pi * u[:, 2]
        return MovingState(
            position=FIELD * (2 * u[:, 0:2] - 1),
            heading=heading,
            speed=zero,
            course=heading,
            target=(FIELD - TARGET_RADIUS) * (2 * u[:, 3:5] - 1),
            steps=zero.long(),
        )

    def _accelerated(self, state: MovingState, amount: Tensor, heading: Tensor) -> tuple[Tensor, Tensor]:
        """Speed and course once `amount >= 0` is added to the speed along `heading`."""
        return state.speed + amount, heading

    def _unaccelerated_course(self, state: MovingState, speed: Tensor, heading: Tensor) -> Tensor:
        return heading

    def advance(self, state: MovingState, action: NativeAction) -> Outcome[MovingState]:
        choice, parameters = hybrid(action)
        rotation = self.max_turn * parameters[:, 1].clamp(-1, 1) * (choice == TURN)
        heading = (state.heading + rotation) % (2 * math.pi)
        braked = torch.where(state.speed < self.brake, 0.0, state.speed - self.brake)
        speed = torch.where(choice == BRAKE, braked, state.speed)
        course = self._unaccelerated_course(state, speed, heading)
        gain = self.max_acceleration * parameters[:, 0].clamp(0, 1)
        faster, turned = self._accelerated(state, gain, heading)
        speed = torch.where(choice == ACCELERATE, faster, speed)
        course = torch.where(choice == ACCELERATE, turned, course)
        direction = torch.stack((course.cos(), course.sin()), dim=1)
        position = state.position + (self.dt * speed)[:, None] * direction
        after = MovingState(position, heading, speed, course, state.target, state.steps + 1)
        return self._judge(state, after)

    def _judge(self, before: MovingState, after: MovingState) -> Outcome[MovingState]:
        distance = _distance(after)
        success = (distance < TARGET_RADIUS) & (after.speed == 0)
        outside = (after.position.abs() > FIELD).any(dim=1)
        late = after.steps > self.max_steps if self.faithful else torch.zeros_like(outside)
        failure = ~success & (outside | late)
        progress = torch.where(failure, 0.0, _distance(before) - distance)
        truncated = torch.zeros_like(outside) if self.faithful else after.steps >= self.max_steps
        rewards = (progress, failure.float() - 1, success.float(), -failure.float())
        return Outcome(after, rewards, success | failure, truncated, success)

    def observe(self, state: MovingState) -> Tensor:
        distance = _distance(state)
        columns = (
            state.speed,
            state.heading.cos(),
            state.heading.sin(),
            state.target[:, 0],
            state.target[:, 1],
            distance,
            (distance <= TARGET_RADIUS).float(),
            state.steps / self.max_steps,
        )
        return torch.cat((state.position, torch.stack(columns, dim=1)), dim=1)

    def expert_action(self) -> NativeAction:
        """Turn to the target on the spot, then accelerate as far as braking still stops at its centre."""
        state = self.state
        offset = state.target - state.position
        error = torch.atan2(offset[:, 1], offset[:, 0]) - state.heading
        error = (error + math.pi) % (2 * math.pi) - math.pi
        remaining = _distance(state) * error.cos()
        # From speed v the way to a stop is dt·(v²/2b + v/2), this step included; solved for v.
        b = self.brake
        fastest = -b / 2 + (b * b / 4 + 2 * b * remaining.clamp(min=0) / self.dt).sqrt()
        standing = state.speed == 0
        turn = standing & (error.abs() > 1e-3)
        gain = (fastest - state.speed) / self.max_acceleration
        arrived = standing & (_distance(state) < TARGET_RADIUS)
        choice = torch.where(gain > 0.1, ACCELERATE, BRAKE)
        choice = torch.where(turn, TURN, choice)
        choice = torch.where(arrived, BRAKE, choice)
        return choice, torch.stack((gain.clamp(0, 1), (error / self.max_turn).clamp(-1, 1)), dim=1)

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        state = self.state
        x, y = state.position[index].tolist()
        heading = float(state.heading[index])
        canvas = Canvas(-FIELD, FIELD, -FIELD, FIELD)
        canvas.disc(float(state.target[index, 0]), float(state.target[index, 1]), TARGET_RADIUS, RED)
        canvas.disc(x, y, 0.05, BLUE)
        canvas.line([(x, y), (x + 0.1 * math.cos(heading), y + 0.1 * math.sin(heading))], BLACK)
        return canvas.array()


class Sliding(Moving):
    """Sliding-v0 of gym-hybrid: as `Moving`, but the vehicle keeps its momentum.

    Turning changes where it points, not where it moves to; acceleration adds to the velocity as a vector;
    braking slows along the course. The sum of vectors is that of gym-hybrid's later revision and of the
    copy in DI-engine (github.com/opendilab/DI-engine, dizoo/gym_hybrid); a first revision had it wrong.
    """

    def _accelerated(self, state: MovingState, amount: Tensor, heading: Tensor) -> tuple[Tensor, Tensor]:
        angle = state.course - heading
        along = amount + state.speed * angle.cos()
        across = state.speed * angle.sin()
        # At rest neither the root nor the angle has a derivative; a body that stays there needs none.
        square = along.square() + across.square()
        rests = square == 0
        speed = torch.where(rests, 0.0, torch.where(rests, 1.0, square).sqrt())
        return speed, heading + torch.atan2(across, torch.where(rests, 1.0, along))

    def _unaccelerated_course(self, state: MovingState, speed: Tensor, heading: Tensor) -> Tensor:
        return torch.where(speed == 0, heading, state.course)


def _distance(state: MovingState) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(state.target - state.position, dim=1)
    return distance
