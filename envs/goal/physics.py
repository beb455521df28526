"""How the world of Goal moves: a player, a goalkeeper and a ball, substep by substep.

Constants of the robot soccer server, manual 7.07, with the pitch of gym-goal; lengths in metres.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

PITCH_LENGTH, PITCH_WIDTH = 40.0, 30.0
GOAL_LINE = PITCH_LENGTH / 2
"""The ball is played in the right-hand half: x from 0 to here."""
GOAL_WIDTH, GOAL_DEPTH = 14.02, 2.44
GOAL_AREA_LENGTH, GOAL_AREA_WIDTH = 5.5, 18.32
PLAYER_SIZE, BALL_SIZE = 0.9, 0.4
KICKABLE = PLAYER_SIZE + 0.7
REACH = KICKABLE + 1e-5
"""What counts as within reach of a kick. The ball of a kick-off lies at KICKABLE exactly, and float32 rounds
positions of up to 20 m by 1e-6: without the margin it is out of reach in a fifth of the starts."""
CATCHABLE = 2.0
PLAYER_POWER_RATE, BALL_POWER_RATE = 0.006, 0.027
PLAYER_TOP, BALL_TOP = 1.0, 2.7
"""Bounds of acceleration and of speed, each along x and along y."""
PLAYER_DECAY, BALL_DECAY = 0.4, 0.94
PLAYER_RAND, BALL_RAND = 0.1, 0.05
MAX_POWER = 100.0
INERTIA = 5.0
FACING = math.pi / 8
DASH_POWER, GOALIE_POWER, GOALIE_SAVE_POWER = 10.0, 8.0, 20.0

SHOT_TARGET_X = GOAL_LINE + BALL_SIZE
UNIFORMS = 6
"""Random numbers of a substep: three for the player's kick or dash, three for the goalkeeper."""


class GoalState(NamedTuple):
    """Positions and velocities `[N, 2]`, orientations `[N]` in radians (not wrapped)."""

    player: Tensor
    player_velocity: Tensor
    player_angle: Tensor
    goalie: Tensor
    goalie_velocity: Tensor
    goalie_angle: Tensor
    ball: Tensor
    ball_velocity: Tensor
    steps: Tensor
    """`[N]` int64."""


def kick_off(u: Tensor) -> GoalState:
    """From uniform numbers `[N]`: the player on the halfway line with the ball at its feet."""
    player = torch.stack((torch.zeros_like(u), PITCH_WIDTH * (u - 0.5)), dim=1)
    angle = torch.atan2(-player[:, 1], GOAL_LINE - player[:, 0])
    ball = player + KICKABLE * _unit(angle)
    # The keeper waits at the edge of the goal area, on the line from the ball to the middle of the goal.
    x = GOAL_LINE - GOAL_AREA_LENGTH
    y = ball[:, 1] * GOAL_AREA_LENGTH / (GOAL_LINE - ball[:, 0])
    y = y.clamp(-GOAL_AREA_WIDTH / 2, GOAL_AREA_WIDTH / 2)
    goalie = torch.stack((torch.full_like(y, x), y), dim=1)
    rest = [torch.zeros_like(player) for _ in range(3)]  # not one for all, which a compiler would go by
    steps = torch.zeros_like(u, dtype=torch.long)
    return GoalState(player, rest[0], angle, goalie, rest[1], _angle(goalie, ball), ball, rest[2], steps)


def substep(state: GoalState, target: Tensor, u: Tensor) -> GoalState:
    """The player kicks the ball towards `target` `[N, 2]` or, out of reach, goes after it.

    `u` `[N, UNIFORMS]` uniform in [0, 1).
    """
    u = 2.0 * u - 1.0
    state = _save(_act(state, target, u[:, :3]), u[:, 3:])
    player, goalie, ball = (
        state.player + state.player_velocity,
        state.goalie + state.goalie_velocity,
        state.ball + state.ball_velocity,
    )
    player_v, goalie_v, ball_v = (
        state.player_velocity * PLAYER_DECAY,
        state.goalie_velocity * PLAYER_DECAY,
        state.ball_velocity * BALL_DECAY,
    )
    player, player_v, goalie, goalie_v = _part(player, player_v, goalie, goalie_v, 2 * PLAYER_SIZE)
    player, player_v, ball, ball_v = _part(player, player_v, ball, ball_v, PLAYER_SIZE + BALL_SIZE)
    goalie, goalie_v, ball, ball_v = _part(goalie, goalie_v, ball, ball_v, PLAYER_SIZE + BALL_SIZE)
    return GoalState(
        player, player_v, state.player_angle, goalie, goalie_v, state.goalie_angle, ball, ball_v, state.steps
    )


def can_kick(state: GoalState) -> Tensor:
    return _length(state.player - state.ball) <= REACH


def caught(state: GoalState) -> Tensor:
    return _length(state.goalie - state.ball) < CATCHABLE


def in_net(ball: Tensor) -> Tensor:
    x, y = ball.unbind(dim=1)
    return (x >= GOAL_LINE) & (x <= GOAL_LINE + GOAL_DEPTH) & (y.abs() <= GOAL_WIDTH / 2)


def in_field(ball: Tensor) -> Tensor:
    x, y = ball.unbind(dim=1)
    return (x >= 0) & (x <= GOAL_LINE) & (y.abs() <= PITCH_WIDTH / 2)


def derived_features(state: GoalState) -> Tensor:
    """The three features `[N, 3]` that published results add to the state (`GoalObservationWrapper` in
    github.com/cycraig/MP-DQN): the unit vector from the keeper to the ball, and the height at which the line
    through both crosses the goal line. That height is bounded by half the goal's width below and, as in the
    original, by the whole width above."""
    offset = state.ball - state.goalie
    distance = _length(offset).clamp(min=1e-6)
    slope = offset[:, 1] / torch.where(offset[:, 0] == 0, torch.nan, offset[:, 0])
    height = state.ball[:, 1] + slope * (GOAL_LINE - state.ball[:, 0])
    level = torch.where(offset[:, 1] > 0, -GOAL_WIDTH / 2, GOAL_WIDTH / 2)
    height = torch.where(height.isnan(), level, height.clamp(-GOAL_WIDTH / 2, GOAL_WIDTH))
    return torch.cat((offset / distance[:, None], height[:, None]), dim=1)


def goal_distance(ball: Tensor, faithful: bool) -> Tensor:
    """Distance to the goal mouth. Faithful: behind the goal line below the goal it is too long, as in the
    original, which adds half the goal's width there instead of taking it off."""
    ahead = (GOAL_LINE - ball[:, 0]).clamp(min=0)
    beside = (ball[:, 1].abs() - GOAL_WIDTH / 2).clamp(min=0)
    distance = (ahead.square() + beside.square()).sqrt()
    if not faithful:
        return distance
    behind_below = (ball[:, 0] >= GOAL_LINE) & (ball[:, 1] < -GOAL_WIDTH / 2)
    return torch.where(behind_below, GOAL_WIDTH / 2 - ball[:, 1], distance)


def _act(state: GoalState, target: Tensor, u: Tensor) -> GoalState:
    reach = can_kick(state)
    to_ball = _angle(state.player, state.ball)
    off = _wrap(to_ball - state.player_angle)
    # Kick so that friction stops the ball at the target (measured from the player, as in the original).
    wanted = (1 - BALL_DECAY) * (target - state.player) - state.ball_velocity
    ease = 1 - 0.25 * off.abs() / math.pi - 0.25 * _length(state.player - state.ball) / KICKABLE
    power = (_length(wanted) / (ease * BALL_POWER_RATE)).clamp(max=MAX_POWER) * ease
    # Otherwise turn to the ball, then dash.
    facing = off.abs() < FACING
    turned = state.player_angle + off / (1 + INERTIA * _length(state.player_velocity))
    kick, dash = reach[:, None], (~reach & facing)[:, None]
    moved = _accelerate(
        torch.where(kick, state.ball_velocity, state.player_velocity),
        torch.where(reach, power * BALL_POWER_RATE, DASH_POWER * PLAYER_POWER_RATE),
        torch.where(reach, torch.atan2(wanted[:, 1], wanted[:, 0]), state.player_angle),
        u * torch.where(kick, BALL_RAND, PLAYER_RAND),
        torch.where(kick, BALL_TOP, PLAYER_TOP),
    )
    return state._replace(
        ball_velocity=torch.where(kick, moved, state.ball_velocity),
        player_velocity=torch.where(dash, moved, state.player_velocity),
        player_angle=torch.where(~reach & ~facing, turned, state.player_angle),
    )


def _save(state: GoalState, u: Tensor) -> GoalState:
    """The keeper goes where the ball will stop, or, against a shot, to the nearest point of its way."""
    way = state.ball_velocity / (1 - BALL_DECAY)
    end = state.ball + way
    slope = torch.where(way[:, 0] != 0, way[:, 1] / way[:, 0], 0.0)
    at_goal = state.ball[:, 1] + slope * (GOAL_LINE - state.ball[:, 0])
    scoring = (end[:, 0] > GOAL_LINE) & (at_goal.abs() <= GOAL_WIDTH / 2 + CATCHABLE) & (slope != 0)
    share = ((state.goalie - state.ball) * way).sum(dim=1) / way.square().sum(dim=1).clamp(min=1e-12)
    target = torch.where(scoring[:, None], state.ball + share[:, None] * way, end)
    angle = _angle(state.goalie, target)
    power = PLAYER_POWER_RATE * torch.where(scoring, GOALIE_SAVE_POWER, GOALIE_POWER)
    top = torch.full_like(power[:, None], PLAYER_TOP)
    velocity = _accelerate(state.goalie_velocity, power, angle, PLAYER_RAND * u, top)
    return state._replace(goalie_velocity=velocity, goalie_angle=angle)


def _accelerate(velocity: Tensor, rate: Tensor, angle: Tensor, noise: Tensor, top: Tensor) -> Tensor:
    """`noise` `[N, 3]`: of the angle in proportion to it, of the gain along x and y to the speed."""
    gain = rate[:, None] * _unit((1 + noise[:, 0]) * angle) + _length(velocity)[:, None] * noise[:, 1:]
    return torch.clamp(velocity + torch.clamp(gain, -top, top), -top, top)


def _part(
    a: Tensor, av: Tensor, b: Tensor, bv: Tensor, sizes: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two that overlap are moved apart and turn round."""
    apart = b - a
    distance = _length(apart).clamp(min=1e-6)
    hit = (distance < sizes)[:, None]
    shift = apart * torch.where(hit, ((sizes / distance - 1) / 2)[:, None], 0.0)
    turn = torch.where(hit, -1.0, 1.0)
    return a - shift, av * turn, b + shift, bv * turn


def _angle(origin: Tensor, target: Tensor) -> Tensor:
    difference = target - origin
    return torch.atan2(difference[:, 1], difference[:, 0])


def _unit(angle: Tensor) -> Tensor:
    return torch.stack((angle.cos(), angle.sin()), dim=1)


def _wrap(angle: Tensor) -> Tensor:
    """In [−π, π)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def _length(vector: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vector, dim=1)
    return length
