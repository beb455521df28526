"""A scripted player of Goal: it shoots when the keeper cannot get there, and lures it away when it can."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.envs.episodic import where
from equipoise.envs.goal.physics import (
    BALL_DECAY,
    GOAL_LINE,
    GOAL_WIDTH,
    SHOT_TARGET_X,
    UNIFORMS,
    GoalState,
    can_kick,
    in_field,
    substep,
)

HEIGHTS = 29
"""Shots considered, evenly over the goal."""
LURES = (0.0, 1.5, 3.0, 4.5, 6.0, 8.0, 11.0, 15.0, 20.0, 40.0)
"""Points (x, x) that a kick is tried to."""
ENOUGH = 2.1
"""Distance that the keeper must stay away from a shot; it catches within 2."""
PATIENCE = 24
"""Steps after which it shoots anyway: kicks that undo each other could go on for ever."""
LOST = -10.0
WIDE = 5.0
"""What a shot that misses the goal counts less than one past the keeper: the next kick may mend it."""
SAFE = 2.2
"""Distance that the keeper must stay away from a rolling ball."""
KEEPER_SPEED, KEEPER_DELAY = 0.2, 0.7
"""Of a save: 20·0.006/(1 − 0.4) a substep, after the substeps that speeding up costs."""
SUBSTEPS = 60


def plan(state: GoalState, substeps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shoot? `[N]` bool, the height of the shot `[N]`, and the point x to kick to `[N]` otherwise."""
    clearance, height = best_shot(state)
    count, lures = len(state.steps), len(LURES)
    tried = GoalState(*(field.repeat_interleave(lures, dim=0) for field in state))
    x = state.ball.new_tensor(LURES).repeat(count)
    after, alive = _kick(tried, torch.stack((x, x), dim=1), substeps)
    hope = torch.where(alive, best_shot(after)[0], 2 * LOST).view(count, lures)
    best = hope.argmax(dim=1)
    shoot = (
        (state.steps >= PATIENCE)
        | (clearance >= ENOUGH)
        | ((hope.max(dim=1).values < LOST) & (clearance > LOST))
    )
    return shoot, height, x.view(count, lures).gather(1, best[:, None])[:, 0]


def best_shot(state: GoalState) -> tuple[Tensor, Tensor]:
    """How far `[N]` the keeper stays from the safest shot, and that shot's height `[N]`.

    Shots that would miss the goal count `WIDE` less.
    """
    heights = torch.linspace(-GOAL_WIDTH / 2, GOAL_WIDTH / 2, HEIGHTS, device=state.ball.device)
    aim = torch.stack((torch.full_like(heights, SHOT_TARGET_X), heights), dim=1) - state.player[:, None]
    length = torch.linalg.vector_norm(aim, dim=2, keepdim=True)
    course = aim / length
    # The ball leaves from where it lies, on a course and with a speed reckoned from the player.
    travelled = length * (1 - BALL_DECAY ** torch.arange(1, SUBSTEPS + 1, device=aim.device))
    ball = state.ball[:, None, None] + travelled[..., None] * course[:, :, None]
    offset = state.goalie - state.ball
    way = (offset[:, None] * course).sum(dim=2, keepdim=True) * course - offset[:, None]
    far = torch.linalg.vector_norm(way, dim=2, keepdim=True).clamp(min=1e-6)
    time = (torch.arange(1, SUBSTEPS + 1, device=aim.device) - KEEPER_DELAY).clamp(min=0)
    gone = torch.minimum(KEEPER_SPEED * time, far) / far
    keeper = state.goalie[:, None, None] + gone[..., None] * way[:, :, None]
    distance = torch.linalg.vector_norm(ball - keeper, dim=3)
    clearance = torch.where(ball[..., 0] <= GOAL_LINE, distance, torch.inf).amin(dim=2)
    crossing = state.ball[:, 1:] + course[..., 1] / course[..., 0] * (GOAL_LINE - state.ball[:, :1])
    reaches = ball[:, :, -1, 0] > GOAL_LINE
    # Noise turns the course by up to 5 % of its angle: keep off the posts by twice its mean.
    error = 0.05 * torch.atan2(course[..., 1], course[..., 0]).abs() * 20.0
    inside = crossing.abs() + error < GOAL_WIDTH / 2
    value, index = torch.where(reaches & inside, clearance, clearance.clamp(max=4.0) - WIDE).max(dim=1)
    return value, heights[index]


def _kick(state: GoalState, target: Tensor, substeps: int) -> tuple[GoalState, Tensor]:
    """Where a kick without noise leads, and whether the ball is still in play."""
    middle = state.ball.new_full((len(state.steps), UNIFORMS), 0.5)
    active = torch.ones_like(state.steps, dtype=torch.bool)
    alive = active
    for _ in range(substeps):
        state = where(active, substep(state, target, middle), state)
        near = torch.linalg.vector_norm(state.goalie - state.ball, dim=1) < SAFE
        alive = alive & ~near & in_field(state.ball)
        stopped = torch.linalg.vector_norm(state.ball_velocity, dim=1) <= 0.1
        active = active & alive & ~(stopped & can_kick(state))
        if state.ball.device.type == "cpu" and not active.any():
            break
    return state, alive
