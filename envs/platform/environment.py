"""Platform: run, hop and leap over two enemies and two gaps to the right-hand end."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from equipoise.envs.arguments import Count, checked
from equipoise.envs.drawing import BLUE, GREY, ORANGE, Canvas
from equipoise.envs.episodic import EpisodicEnv, Outcome
from equipoise.envs.platform.expert import plan
from equipoise.envs.platform.physics import (
    END,
    ENEMY_SPEED,
    GAPS,
    GROUND,
    HEIGHT,
    LEFTS,
    MAX_SUBSTEPS,
    PARAMETER_LIMITS,
    TOP_SPEED,
    WIDTH,
    WIDTHS,
    Noise,
    PlatformState,
    World,
)
from equipoise.envs.protocol import NativeAction

_SHIFT = (WIDTH, 0.0, 0.0, ENEMY_SPEED, 0.0, 0.0, 0.0, 0.0, 0.0)
_SCALE = (END + WIDTH, TOP_SPEED, END, 2 * ENEMY_SPEED, 275.0, 275.0, 235.0, END, 1.0)
_FEATURES = (
    (WIDTHS[0], WIDTHS[1], GAPS[0], LEFTS[0], 0.0),
    (WIDTHS[1], WIDTHS[2], GAPS[1], LEFTS[1], 0.0),
    (WIDTHS[2], 0.0, 0.0, LEFTS[2], 0.0),
)


class Platform(EpisodicEnv[PlatformState]):
    """Platform of Masson, Ranchod, Konidaris (AAAI 2016); rules of gym-platform (github.com/cycraig/
    gym-platform) and its Gymnasium fork hybrid-platform 0.1.0, with which this agrees step by step.

    `run` takes a push per substep in [0, 30], `hop` and `leap` a distance in [0, 720] and [0, 430]: a run
    lasts one second (20 substeps of 0.05), a jump until it lands. The reward is the progress to the right
    as a share of the whole way, so a finished episode returns 1. Touching an enemy or falling ends the
    episode; the progress of that step counts. Only the enemy of the player's half of the world moves.

    Observation `[9]` in [0, 1]: x, speed, x and speed of the near enemy; then of the present platform its
    width, the next one's width, the gap between, where it begins, and the (zero) difference in height.

    Deviations: the original observes also the number of substeps of the last action, which trainers
    drop; it has no time limit of its own, here `max_steps` (200, as the fork registers) truncates. State
    and arithmetic are float64, as in the original, because standing means y = 40 exactly.
    """

    reward_names = ("progress",)
    reward_weights = (1.0,)
    relevance = (((0,), (1,), (2,)),)

    @checked
    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        max_steps: Count = 200,
    ) -> None:
        super().__init__(num_envs, device)
        self.max_steps = max_steps
        self.observation_space = gymnasium.spaces.Box(0, 1, (9,), np.float32)
        boxes = (gymnasium.spaces.Box(0, limit, (1,), np.float32) for limit in PARAMETER_LIMITS)
        self.action_space = gymnasium.spaces.Tuple(
            (gymnasium.spaces.Discrete(3), gymnasium.spaces.Tuple(tuple(boxes)))
        )
        self._world = World(self.device)
        self._shift, self._scale, self._features, self._limits = (
            torch.tensor(values, dtype=torch.float64, device=self.device)
            for values in (_SHIFT, _SCALE, _FEATURES, PARAMETER_LIMITS)
        )

    def start(self) -> PlatformState:
        zero = torch.zeros(self.num_envs, dtype=torch.float64, device=self.device)
        enemy_x = (self._world.rights[:2] - WIDTH).expand(self.num_envs, 2)
        return PlatformState(zero, zero, enemy_x, torch.full_like(enemy_x, -ENEMY_SPEED), zero.long())

    def advance(self, state: PlatformState, action: NativeAction) -> Outcome[PlatformState]:
        numbers = self.random.normal(2 * MAX_SUBSTEPS + 2).double()
        noise = Noise(numbers[:, :MAX_SUBSTEPS], numbers[:, -2:], numbers[:, MAX_SUBSTEPS:-2])
        after, crashed, arrived = self._world.play(state, *self.parse(action), noise)
        progress = (after.x - state.x) / END
        late = after.steps >= self.max_steps
        return Outcome(after, (progress,), crashed | arrived, late, arrived)

    def parse(self, action: NativeAction) -> tuple[Tensor, Tensor]:
        """The choice and the parameter that goes with it, `[N]` each."""
        if isinstance(action, tuple) and len(action) == 2:
            choice, boxes = action
            if isinstance(choice, Tensor) and isinstance(boxes, tuple) and len(boxes) == 3:
                run, hop, leap = boxes
                if isinstance(run, Tensor) and isinstance(hop, Tensor) and isinstance(leap, Tensor):
                    chosen = torch.cat((run, hop, leap), dim=1).double().gather(1, choice[:, None])[:, 0]
                    return choice, torch.minimum(chosen.clamp(min=0), self._limits[choice])
        raise TypeError(f"action: (choice, (run, hop, leap)) is expected, got {type(action)}")

    def observe(self, state: PlatformState) -> Tensor:
        second = (state.x > LEFTS[1]).long()[:, None]
        stage = (state.x >= LEFTS[1]).long() + (state.x >= LEFTS[2]).long()
        near = (state.enemy_x.gather(1, second), state.enemy_speed.gather(1, second))
        raw = torch.cat((state.x[:, None], state.speed[:, None], *near, self._features[stage]), dim=1)
        return ((raw + self._shift) / self._scale).float()

    def expert_action(self) -> NativeAction:
        choice, parameter = plan(self._world, self.state)
        column = parameter.float()[:, None]
        return choice, (column, column, column)

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        state = self.state
        canvas = Canvas(-WIDTH, END + WIDTH, 0.0, 300.0, width=800)
        for left, width in zip(LEFTS, WIDTHS, strict=True):
            canvas.box(left, 0.0, left + width, GROUND, GREY)
        for enemy in state.enemy_x[index].tolist():
            canvas.box(enemy, GROUND, enemy + WIDTH, GROUND + HEIGHT, ORANGE)
        x = float(state.x[index])
        canvas.box(x, GROUND, x + WIDTH, GROUND + HEIGHT, BLUE)
        return canvas.array()
