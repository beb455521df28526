"""A scripted player of Platform: it tries a few actions in its head and takes the most promising one."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.envs.platform.physics import (
    END,
    ENEMY_SPEED,
    GRAVITY,
    HOP,
    LEFTS,
    MAX_GAIN,
    MAX_SUBSTEPS,
    RUN,
    TAKE_OFF,
    TOP_SPEED_ON_GROUND,
    WIDTH,
    WIDTHS,
    Noise,
    PlatformState,
    World,
    platform_at,
)

TIME_ALOFT = 2.0 * TAKE_OFF[0] / GRAVITY + 1.0
RUNS = (30.0, 8.0, 5.0, 3.5, 2.5, 1.5, 0.8, 0.3, 0.0)
HOP_SPEEDS = (70.0, 60.0, 50.0, 40.0, 30.0, 22.0, 15.0, 8.0, 0.0)
CAUTION = 2.0
"""Standard deviations that a take-off is assumed to lose."""
REACH = 3.5
"""A hop covers this many times its speed, with caution (0.05 · Σ 0.99^k over 143 substeps is 3.8)."""


def plan(world: World, state: PlatformState) -> tuple[Tensor, Tensor]:
    """Choice and its parameter `[N]`."""
    count = len(state.x)
    choices = torch.tensor([RUN] * len(RUNS) + [HOP] * len(HOP_SPEEDS), device=world.device)
    parameters = torch.tensor([*RUNS, *(TIME_ALOFT * v for v in HOP_SPEEDS)], device=world.device).double()
    options = len(choices)
    # Option by option within each environment: row i·options + j tries option j in environment i.
    tried = PlatformState(*(field.repeat_interleave(options, dim=0) for field in state))
    zero = tried.x.new_zeros(count * options, MAX_SUBSTEPS)
    noise = Noise(zero + 0.8, tried.x.new_full((count * options, 2), CAUTION), zero)
    after, crashed, arrived = world.play(tried, choices.repeat(count), parameters.repeat(count), noise)
    worth = after.x / END - 0.4 * _endangered(after) - 0.5 * _stranded(after) - 2.0 * crashed + 2.0 * arrived
    best = worth.view(count, options).argmax(dim=1)
    return choices[best], parameters[best]


def _stranded(state: PlatformState) -> Tensor:
    """Past the edge, or too near it for a run-up and too slow to jump the gap from there."""
    index = platform_at(state.x)
    lefts = state.x.new_tensor((*LEFTS, END))
    room = lefts[index] + state.x.new_tensor(WIDTHS)[index] - state.x
    fastest = (state.speed + MAX_GAIN).clamp(max=TOP_SPEED_ON_GROUND)
    short = state.x + REACH * fastest < lefts[index + 1] - WIDTH
    return (index < 2) & ((room < 1.0) | ((room < 25.0) & short))


def _endangered(state: PlatformState) -> Tensor:
    """An enemy is too near: ahead, as getting above it takes a second; behind, as it catches up."""
    second = (state.x > LEFTS[1]).long()[:, None]
    distance = state.enemy_x.gather(1, second)[:, 0] - state.x
    coming = state.enemy_speed.gather(1, second)[:, 0] > 0
    closing = (state.speed - MAX_GAIN).clamp(min=0) + ENEMY_SPEED
    ahead = (distance > 0) & (distance < WIDTH + 5.0 + 1.1 * closing)
    behind = (distance <= 0) & (distance > -WIDTH - torch.where(coming, 60.0, 15.0))
    return ahead | behind
