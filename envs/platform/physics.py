"""How the world of Platform moves: what one action does, substep by substep, to player and enemies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RUN, HOP, LEAP = 0, 1, 2
PARAMETER_LIMITS = (30.0, 720.0, 430.0)
LEFTS = (0.0, 475.0, 985.0)
WIDTHS = (250.0, 275.0, 50.0)
GAPS = (225.0, 235.0)
GROUND = 40.0
"""Height of all three platforms: what stands on one has exactly this y."""
END = 1035.0
WIDTH, HEIGHT = 20.0, 30.0
"""Size of the player and of the enemies."""

DT = 0.05
GRAVITY = 9.8
DECAY = 0.99
TOP_SPEED, TOP_SPEED_ON_GROUND, TOP_SPEED_UP = 100.0, 70.0, 200.0
MAX_GAIN = TOP_SPEED - TOP_SPEED_ON_GROUND
"""Most speed to the right gained or lost in one substep."""
ENEMY_SPEED = 30.0
TAKE_OFF = (35.0, 25.0)
"""Upward speed of a hop and of a leap."""
SPEED_NOISE = 0.5 * DT
TAKE_OFF_NOISE = 1.0

RUN_SUBSTEPS = 20
MAX_SUBSTEPS = 145
"""A hop lands after at most 144: 2·35/9.8 seconds and the step that ends below the ground."""


class PlatformState(NamedTuple):
    """Between two actions the player is at ground level, so its height and fall are no part of the state."""

    x: Tensor
    """`[N]` float64, left edge of the player."""
    speed: Tensor
    """`[N]` float64."""
    enemy_x: Tensor
    """`[N, 2]` float64, left edges of the enemies of the first two platforms."""
    enemy_speed: Tensor
    """`[N, 2]` float64."""
    steps: Tensor
    """`[N]` int64."""


class Path(NamedTuple):
    """The player after each substep of an action, `[N, MAX_SUBSTEPS]`, as if nothing stopped it."""

    x: Tensor
    y: Tensor
    speed: Tensor


class Noise(NamedTuple):
    """Standard normal numbers of one action."""

    drag: Tensor
    """`[N, MAX_SUBSTEPS]`, of the player's speed: its size is taken off."""
    take_off: Tensor
    """`[N, 2]`, of a jump to the right and up: their size is taken off."""
    enemy: Tensor
    """`[N, MAX_SUBSTEPS]`, of an enemy's speed."""


class Played(NamedTuple):
    """Where an action led; `[N]` bool each but the state."""

    state: PlatformState
    crashed: Tensor
    arrived: Tensor


class World:
    """The two gaps and three platforms, as tensors on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._take_off, self.lefts, widths = (
            torch.tensor(values, dtype=torch.float64, device=device)
            for values in ((0.0, *TAKE_OFF), LEFTS, WIDTHS)
        )
        self.rights = self.lefts + widths

    def play(self, state: PlatformState, choice: Tensor, parameter: Tensor, noise: Noise) -> Played:
        """One action `[N]`, all its substeps at once: enemies do not change the path until they touch."""
        path = self._path(state, choice, parameter, noise)
        enemy_x, enemy_speed = self._enemies(state, path, SPEED_NOISE * noise.enemy)

        touching = ((path.x[:, None] - enemy_x).abs() < WIDTH).any(dim=1) & (path.y < GROUND + HEIGHT)
        stop = touching | (path.y < GROUND) | (path.x >= END)
        substep = torch.arange(1, MAX_SUBSTEPS + 1, device=self.device)
        stop = stop | ((choice == RUN)[:, None] & (substep == RUN_SUBSTEPS))
        last = stop.int().argmax(dim=1, keepdim=True)  # the first True

        x, y, speed = (values.gather(1, last)[:, 0] for values in path)
        x, y, speed = self._bounce(x, y, speed)
        each = last[:, None].expand(-1, 2, 1)
        enemies = (enemy_x.gather(2, each)[..., 0], enemy_speed.gather(2, each)[..., 0])
        crashed = touching.gather(1, last)[:, 0] | (y < GROUND)
        return Played(PlatformState(x, speed, *enemies, state.steps + 1), crashed, x >= END)

    def _path(self, state: PlatformState, choice: Tensor, parameter: Tensor, noise: Noise) -> Path:
        right = self.rights[platform_at(state.x)]
        drag, loss = SPEED_NOISE * noise.drag.abs(), TAKE_OFF_NOISE * noise.take_off.abs()
        run = self._run(state, parameter, drag, right)
        jump = self._jump(state, choice, parameter, drag, loss, state.x <= right)
        running = (choice == RUN)[:, None]
        return Path(*(torch.where(running, a, b) for a, b in zip(run, jump, strict=True)))

    def _run(self, state: PlatformState, push: Tensor, drag: Tensor, right: Tensor) -> Path:
        """On the ground the push raises the speed in every substep; beyond the edge the fall begins."""
        x, speed = state.x, state.speed
        xs, ys, speeds = [], [], []
        for i in range(RUN_SUBSTEPS):
            standing = x <= right
            pushed = (speed + push - drag[:, i]).clamp(0, TOP_SPEED_ON_GROUND)
            moving = torch.where(standing, pushed, (speed - drag[:, i]).clamp(min=0))
            x, speed = (x + moving * DT).clamp(max=END), moving * DECAY
            xs.append(x)
            ys.append(torch.where(standing, GROUND, GROUND - GRAVITY * DT * DT))
            speeds.append(speed)
        rest = (0, MAX_SUBSTEPS - RUN_SUBSTEPS)
        return Path(*(torch.nn.functional.pad(torch.stack(v, dim=1), rest) for v in (xs, ys, speeds)))

    def _jump(
        self,
        state: PlatformState,
        choice: Tensor,
        parameter: Tensor,
        drag: Tensor,
        loss: Tensor,
        standing: Tensor,
    ) -> Path:
        """A jump aims at the speed that covers `parameter` in its time aloft; off the edge it is a fall.

        Aloft the speed follows v ← 0.99·max(0, v − drag). As drag only takes away, the sum without the
        max, cut off at 0, is the same.
        """
        up = self._take_off[choice]
        wanted = parameter / (2.0 * up / GRAVITY + 1.0) - state.speed
        gain = (wanted.clamp(max=TOP_SPEED_UP - up) - loss[:, 0]).clamp(-MAX_GAIN, MAX_GAIN)
        gain = torch.where(standing, gain, 0.0)
        first = (state.speed + gain - drag[:, 0]).clamp(0, TOP_SPEED_ON_GROUND)
        decay = DECAY ** torch.arange(MAX_SUBSTEPS - 1, dtype=torch.float64, device=self.device)
        lost = torch.cumsum(drag[:, 1:] / decay, dim=1)
        aloft = (decay * (DECAY * first[:, None] - lost)).clamp(min=0)
        moving = torch.cat((first[:, None], aloft), dim=1)
        x = (state.x[:, None] + DT * torch.cumsum(moving, dim=1)).clamp(max=END)
        rising = torch.where(standing, up - loss[:, 1], -GRAVITY * DT)[:, None]
        falling = GRAVITY * DT * torch.arange(MAX_SUBSTEPS, dtype=torch.float64, device=self.device)
        y = GROUND + DT * torch.cumsum(rising - falling, dim=1)
        return Path(x, y, DECAY * moving)

    def _enemies(self, state: PlatformState, path: Path, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and speeds `[N, 2, MAX_SUBSTEPS]`.

        Each paces its platform, but only while the player is on its side. The player never turns back: the
        first one's time ends where the second one's begins.
        """
        lefts, rights = self.lefts[:2], self.rights[:2] - WIDTH
        middle, reach = (lefts + rights) / 2, (rights - lefts) / 2
        x, speed = state.enemy_x, state.enemy_speed
        xs, speeds = [x], [speed]
        for i in range(MAX_SUBSTEPS):
            pacing = (x - middle).abs() < reach
            speed = (torch.where(pacing, speed, -speed) + noise[:, i, None]).clamp(-ENEMY_SPEED, ENEMY_SPEED)
            x = torch.clamp(x + speed * DT, lefts, rights)
            xs.append(x)
            speeds.append(speed)
        before = torch.cat((state.x[:, None], path.x[:, :-1]), dim=1)
        second = torch.cumsum(before > LEFTS[1], dim=1)
        first = torch.arange(1, MAX_SUBSTEPS + 1, device=self.device) - second
        moved = torch.stack((first, second), dim=1)
        return torch.stack(xs, dim=2).gather(2, moved), torch.stack(speeds, dim=2).gather(2, moved)

    def _bounce(self, x: Tensor, y: Tensor, speed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Push a player that has come below the ground out of the platform: up, or sideways if nearer."""
        index = platform_at(x)
        left, right = self.lefts[index], self.rights[index]
        inside = (y < GROUND) & (left - WIDTH < x) & (x < right)
        side = torch.where(x < left, left - WIDTH, torch.where(x > right - WIDTH, right, x))
        sideways = (side != x) & ((x - side).abs() < GROUND - y)
        return (
            torch.where(inside & sideways, side, x),
            torch.where(inside & ~sideways, GROUND, y),
            torch.where(inside, 0.0, speed),
        )


def platform_at(x: Tensor) -> Tensor:
    """Index of the only platform that a player at `x` can touch."""
    return (x >= 400.0).long() + (x >= 900.0).long()
