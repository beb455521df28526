"""Goal: move the ball past the keeper and shoot."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from equipoise.envs.arguments import Count, checked
from equipoise.envs.drawing import BLUE, GREEN, ORANGE, WHITE, Canvas
from equipoise.envs.episodic import EpisodicEnv, Outcome, where
from equipoise.envs.goal.expert import plan
from equipoise.envs.goal.physics import (
    BALL_SIZE,
    GOAL_DEPTH,
    GOAL_LINE,
    GOAL_WIDTH,
    PITCH_LENGTH,
    PITCH_WIDTH,
    PLAYER_SIZE,
    SHOT_TARGET_X,
    UNIFORMS,
    GoalState,
    can_kick,
    caught,
    derived_features,
    goal_distance,
    in_field,
    in_net,
    kick_off,
    substep,
)
from equipoise.envs.protocol import NativeAction

KICK_TO, SHOOT_LEFT, SHOOT_RIGHT = 0, 1, 2
GOAL_REWARD = 50.0
STOPPED = 0.1
"""Speed below which a kicked ball counts as stopped."""

MEASURED = (-8.02, 28.78)
MEASURED_HARD = (-7.43, 28.78)
"""Mean returns of random actions and of the expert by `envs.references.reference_returns` over 1,000 episodes
(`faithful`, 100 steps): the expert thinks for a minute, which is too long for every run to wait."""

HARD_RANGES = ((-1.0, -0.6), (-0.6, -0.2), (0.2, 0.2), (0.2, 0.6), (0.6, 1.0))
"""Hard Goal's parts of the goal, in units of half its width. The middle one is a single point, by a slip in
HyAR's scripts (`pad_action` of main_hard_goal_*.py, github.com/TJU-DRL-LAB/self-supervised-rl), which
published results include."""

_SHIFT = (0.0, 15.0, 1.0, 1.0, math.pi, 0.0, 15.0, 1.0, 1.0, math.pi, 0.0, 15.0, 3.0, 3.0)
_SCALE = (20.0, 30.0, 2.0, 2.0, 2 * math.pi, 20.0, 30.0, 2.0, 2.0, 2 * math.pi, 20.0, 30.0, 6.0, 6.0)


_DERIVED_SHIFT, _DERIVED_SCALE = (1.0, 1.0, GOAL_WIDTH / 2), (2.0, 2.0, 1.5 * GOAL_WIDTH)


_PlayOn = Callable[..., tuple[GoalState, Tensor]]


def _play_on(
    state: GoalState, active: Tensor, target: Tensor, u: Tensor, kicks: Tensor
) -> tuple[GoalState, Tensor]:
    """A substep of the actions that are not over, `active` `[N]`, and which of them are not over after it."""
    after = where(active, substep(state, target, u), state)
    over = in_net(after.ball) | caught(after) | ~in_field(after.ball)
    stopped = torch.linalg.vector_norm(after.ball_velocity, dim=1) <= STOPPED
    return after, active & ~over & ~(kicks & stopped & can_kick(after))


class Goal(EpisodicEnv[GoalState]):
    """Goal of Masson, Ranchod, Konidaris (AAAI 2016); rules of gym-goal (github.com/cycraig/gym-goal).

    `kick_to` takes a point (x in [0, 40], y in [−15, 15]) and lasts until the ball has all but stopped and
    the player has caught up with it; the two `shoot` choices are the same and take the height on the goal
    line, in [−7.01, 7.01]; a shot lasts until the episode ends. A goal gives 50; a ball that the keeper
    catches or that leaves the field gives minus its distance from the goal, and so does time: step
    `max_steps` ends the episode without moving anything.

    Observation `[14]`, scaled so that most values lie in [0, 1]: position, velocity and orientation of the
    player, the same of the keeper, position and velocity of the ball. `published_features` adds the three
    that results of MP-DQN and HyAR include (`physics.derived_features`), scaled to [0, 1]: `[17]`.

    `hard` is Hard Goal (HyAR, ICLR 2022): each `shoot` is cut into five choices, each with a fifth of the
    goal's width as its range. With `faithful` the middle range is the point 0.2 of half the width, as in
    HyAR's scripts.

    `faithful` keeps the original's slips, which published results include: `kick_to` ignores its y and
    makes for (x, x); a ball that passes below the goal is scored as farther away than it is; running out
    of time is an end, not a truncation.

    `compiled` lets PyTorch compile a substep, of which a kick takes some 250: the environment is then three
    to six times as fast. Compiling takes 5 to 30 s for each use, as training and evaluation are, and with
    derivatives some more. It may round differently, which makes another run of a seed and of a resumed one.
    Where nothing can be compiled, for want of a C++ compiler say, that is told.

    Deviations: an action that is not over after `max_substeps` is given up and the next one begins (the
    original waits for ever; of 5,000 random actions none took more than 225).
    """

    reward_names = ("goal", "distance")
    reward_weights = (GOAL_REWARD, 1.0)

    @checked
    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        faithful: bool = True,
        max_steps: Count = 100,
        max_substeps: Count = 300,
        hard: bool = False,
        published_features: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__(num_envs, device)
        self._play_on = self._compiled(torch.compile(_play_on)) if compiled else _play_on
        self._remarks: list[str] = []
        self.faithful, self.max_steps, self.max_substeps = faithful, max_steps, max_substeps
        self.hard, self.published_features = hard, published_features
        measured = MEASURED_HARD if hard else MEASURED
        self.reference_returns = measured if faithful and max_steps == 100 else None
        width = 17 if published_features else 14
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        kick = gymnasium.spaces.Box(
            np.array([0, -PITCH_WIDTH / 2], np.float32), np.array([PITCH_LENGTH, PITCH_WIDTH / 2], np.float32)
        )
        self._shots = self._shot_ranges().to(self.device)
        bounds = self._shot_boxes().tolist()
        shots = [gymnasium.spaces.Box(low, high, (1,), np.float32) for low, high in bounds]
        boxes = (kick, *shots)
        self.relevance = (((0, 1), *((i + 2,) for i in range(len(shots)))),)
        self.action_space = gymnasium.spaces.Tuple(
            (gymnasium.spaces.Discrete(len(boxes)), gymnasium.spaces.Tuple(boxes))
        )
        more = published_features
        self._shift = torch.tensor(_SHIFT + _DERIVED_SHIFT * more, device=self.device)
        self._scale = torch.tensor(_SCALE + _DERIVED_SCALE * more, device=self.device)

    def start(self) -> GoalState:
        return kick_off(self.random.uniform())

    def advance(self, state: GoalState, action: NativeAction) -> Outcome[GoalState]:
        choice, target = self.parse(action)
        u = self.random.uniform(self.max_substeps, UNIFORMS)
        out_of_time = state.steps + 1 >= self.max_steps
        after, active, kicks = state, ~out_of_time, choice == KICK_TO
        for i in range(self.max_substeps):
            after, active = self._play_on(after, active, target, u[:, i], kicks)
            if self.device.type == "cpu" and not active.any():
                break  # on a GPU asking would cost more than going on
        return self._judge(after._replace(steps=state.steps + 1), out_of_time)

    def _compiled(self, play_on: _PlayOn) -> _PlayOn:
        def attempt(*state: Any) -> tuple[GoalState, Tensor]:
            try:
                return play_on(*state)
            except (RuntimeError, OSError) as error:
                self._play_on = _play_on
                reason = str(error).strip().partition("\n")[0]
                told = f"env.compiled = true: not compiled ({reason}), and slower; it takes a C++ compiler"
                self._remarks.append(told)
                return _play_on(*state)

        return attempt

    @property
    def notice(self) -> str | None:
        """Why a resumed run is not exactly the same."""
        return "env.compiled = true may round differently" if self._play_on is not _play_on else None

    def take_remarks(self) -> list[str]:
        remarks, self._remarks = self._remarks, []
        return remarks

    def _judge(self, state: GoalState, out_of_time: Tensor) -> Outcome[GoalState]:
        scored = in_net(state.ball) & ~out_of_time
        lost = ~scored & ~out_of_time & (caught(state) | ~in_field(state.ball))
        late = out_of_time if self.faithful else torch.zeros_like(out_of_time)
        distance = torch.where(lost | late, -goal_distance(state.ball, self.faithful), 0.0)
        truncated = out_of_time & ~late
        return Outcome(state, (scored, distance), scored | lost | late, truncated, scored)

    def parse(self, action: NativeAction) -> tuple[Tensor, Tensor]:
        """The choice `[N]` and the point that it makes for `[N, 2]`."""
        if isinstance(action, tuple) and len(action) == 2:
            choice, boxes = action
            if isinstance(choice, Tensor) and isinstance(boxes, tuple) and len(boxes) == len(self._shots) + 1:
                kick, *shots = boxes
                if isinstance(kick, Tensor) and all(isinstance(shot, Tensor) for shot in shots):
                    return choice, self._target(choice, kick, torch.cat(shots, dim=1))  # type: ignore[arg-type]
        kinds = "kick_to, " + ", ".join(["shoot"] * len(self._shots))
        raise TypeError(f"action: (choice, ({kinds})) is expected, got {type(action)}")

    def _target(self, choice: Tensor, kick: Tensor, shots: Tensor) -> Tensor:
        x = kick[:, 0].clamp(0, PITCH_LENGTH)
        y = x if self.faithful else kick[:, 1].clamp(-PITCH_WIDTH / 2, PITCH_WIDTH / 2)
        which = (choice - 1).clamp(min=0)[:, None]
        low, high = self._shots.unbind(dim=1)
        height = shots.clamp(low, high).gather(1, which)[:, 0]
        shot = torch.stack((torch.full_like(height, SHOT_TARGET_X), height), dim=1)
        return torch.where((choice == KICK_TO)[:, None], torch.stack((x, y), dim=1), shot)

    def _shot_boxes(self) -> Tensor:
        """`[S, 2]`: the bounds of each `shoot` in the action space, in metres."""
        ranges = [(low, high) if low < high else (-0.2, 0.2) for low, high in HARD_RANGES] * 2
        return torch.tensor(ranges if self.hard else [(-1.0, 1.0)] * 2) * GOAL_WIDTH / 2

    def _shot_ranges(self) -> Tensor:
        """`[S, 2]`: the heights that each `shoot` can make for, in metres."""
        return (
            torch.tensor(HARD_RANGES * 2) * GOAL_WIDTH / 2
            if self.hard and self.faithful
            else self._shot_boxes()
        )

    def observe(self, state: GoalState) -> Tensor:
        columns: tuple[Tensor, ...] = (
            state.player,
            state.player_velocity,
            state.player_angle[:, None],
            state.goalie,
            state.goalie_velocity,
            state.goalie_angle[:, None],
            state.ball,
            state.ball_velocity,
        )
        if self.published_features:
            columns = (*columns, derived_features(state))
        return (torch.cat(columns, dim=1) + self._shift) / self._scale

    def expert_action(self) -> NativeAction:
        """See `envs.goal.expert`; it knows the faithful kick, and without `faithful` aims it the same way.

        Both shots reach the whole goal; it shoots with the one whose side it aims at, so that who imitates it
        need not learn a mean of both posts.
        """
        shoot, height, x = plan(self.state, self.max_substeps)
        kick, shots = x[:, None].expand(-1, 2), [height[:, None]] * len(self._shots)
        if self.hard:
            low, high = self._shots.unbind(dim=1)
            outside = (low - height[:, None]).clamp(min=0) + (height[:, None] - high).clamp(min=0)
            which = outside.argmin(dim=1) + 1
        else:
            which = torch.where(height > 0, SHOOT_LEFT, SHOOT_RIGHT)
        return torch.where(shoot, which, KICK_TO), (kick, *shots)

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        state = self.state
        right = GOAL_LINE + GOAL_DEPTH
        canvas = Canvas(-2.0, right, -PITCH_WIDTH / 2, PITCH_WIDTH / 2, background=GREEN)
        canvas.line([(GOAL_LINE, -PITCH_WIDTH / 2), (GOAL_LINE, PITCH_WIDTH / 2)], WHITE)
        for y in (-GOAL_WIDTH / 2, GOAL_WIDTH / 2):
            canvas.line([(GOAL_LINE, y), (right, y)], WHITE)
        for position, color in ((state.player, BLUE), (state.goalie, ORANGE)):
            canvas.disc(float(position[index, 0]), float(position[index, 1]), PLAYER_SIZE, color)
        canvas.disc(float(state.ball[index, 0]), float(state.ball[index, 1]), BALL_SIZE, WHITE)
        return canvas.array()
