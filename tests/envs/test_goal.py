from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from equipoise.envs.goal.environment import KICK_TO, MEASURED, SHOOT_LEFT, SHOOT_RIGHT, Goal
from equipoise.envs.goal.physics import (
    PITCH_WIDTH,
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
from tests.envs.rollout import first_episodes, random_policy

CALM = torch.full((1, UNIFORMS), 0.5)
"""The middle of every range: no noise."""


def scene(
    player: tuple[float, float] = (0.0, 0.0),
    ball: tuple[float, float] = (1.5, 0.0),
    goalie: tuple[float, float] = (14.5, 0.0),
    angle: float = 0.0,
    ball_velocity: tuple[float, float] = (0.0, 0.0),
) -> GoalState:
    rest = torch.zeros(1, 2)
    return GoalState(
        torch.tensor([player]),
        rest,
        torch.tensor([angle]),
        torch.tensor([goalie]),
        rest,
        torch.zeros(1),
        torch.tensor([ball]),
        torch.tensor([ball_velocity]),
        torch.zeros(1, dtype=torch.long),
    )


def act(
    choice: int, x: float = 0.0, y: float = 0.0, height: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The height goes to the chosen shot, and a wild one to the other."""
    heights = [torch.tensor([[height if choice == shot else 5.0]]) for shot in (SHOOT_LEFT, SHOOT_RIGHT)]
    return torch.tensor([choice]), (torch.tensor([[x, y]]), *heights)


def test_kick_off() -> None:
    """From (0, 7.5) to (20, 0) is a 8 : −3 direction; the keeper stands at x = 14.5 on ball to (20, 0)."""
    state = kick_off(torch.tensor([0.75]))
    way = math.hypot(20.0, 7.5)
    ball = (1.6 * 20 / way, 7.5 - 1.6 * 7.5 / way)
    assert state.player[0].tolist() == [0.0, 7.5]
    assert state.player_angle.item() == pytest.approx(math.atan2(-7.5, 20.0))
    assert state.ball[0].tolist() == pytest.approx(ball)
    assert state.goalie[0].tolist() == pytest.approx([14.5, ball[1] * 5.5 / (20 - ball[0])], rel=1e-5)


def test_a_kick_is_made_for_friction_to_stop_it_at_the_target() -> None:
    """(1 − 0.94)·10 = 0.6; after one substep the ball has moved that far and keeps 94 % of it."""
    state = substep(scene(), torch.tensor([[10.0, 0.0]]), CALM)
    assert state.ball[0].tolist() == pytest.approx([2.1, 0.0])
    assert state.ball_velocity[0].tolist() == pytest.approx([0.564, 0.0])


def test_a_kick_is_no_harder_than_full_power() -> None:
    """100·0.027·ease, with ease 1 − 0.25·1.5/1.6 for the ball straight ahead 1.5 away."""
    state = substep(scene(), torch.tensor([[200.0, 0.0]]), CALM)
    assert state.ball[0, 0].item() == pytest.approx(1.5 + 2.7 * (1 - 0.25 * 1.5 / 1.6))


def test_out_of_reach_the_player_turns_to_the_ball_and_then_dashes() -> None:
    target = torch.tensor([[10.0, 0.0]])
    state = substep(scene(ball=(0.0, 3.0)), target, CALM)
    assert state.player_angle.item() == pytest.approx(math.pi / 2)
    assert state.player[0].tolist() == [0.0, 0.0]
    state = substep(state, target, CALM)
    assert state.player[0].tolist() == pytest.approx([0.0, 0.06], abs=1e-6)
    assert state.player_velocity[0].tolist() == pytest.approx([0.0, 0.024], abs=1e-6)


def test_the_keeper_saves_across_the_balls_way() -> None:
    """A ball on a 45° course that would end in the goal: the nearest point of it is up and to the left."""
    state = scene(player=(0.0, -14.0), ball=(10.0, -8.0), goalie=(18.0, -4.0), ball_velocity=(1.0, 1.0))
    after = substep(state, torch.tensor([[0.0, 0.0]]), CALM)
    # From (18, −4) to the line y = x − 18 at (16, −2): full save power, 20·0.006 = 0.12.
    assert after.goalie[0].tolist() == pytest.approx(
        [18 - 0.12 / math.sqrt(2), -4 + 0.12 / math.sqrt(2)], abs=1e-5
    )


def test_otherwise_the_keeper_goes_where_the_ball_will_stop() -> None:
    state = scene(player=(0.0, -14.0), ball=(10.0, 0.0), goalie=(14.5, 3.0), ball_velocity=(0.06, 0.0))
    after = substep(state, torch.tensor([[0.0, 0.0]]), CALM)
    way = math.hypot(3.5, 3.0)  # to (11, 0), at 8·0.006 = 0.048
    assert after.goalie[0].tolist() == pytest.approx(
        [14.5 - 0.048 * 3.5 / way, 3 - 0.048 * 3 / way], abs=1e-5
    )


def test_who_overlaps_is_parted_and_turns_round() -> None:
    state = scene(player=(0.0, 0.0), ball=(1.0, 0.0), ball_velocity=(0.06, 0.0))
    after = substep(state, torch.tensor([[1.0, 0.0]]), CALM)  # wanted: 0.06 − 0.06 = nothing
    # The ball rolls to 1.06; 1.3 − 1.06 = 0.24 is shared, and its speed of 0.06·0.94 turns round.
    assert after.player[0, 0].item() == pytest.approx(-0.12, abs=1e-5)
    assert after.ball[0, 0].item() == pytest.approx(1.18, abs=1e-5)
    assert after.ball_velocity[0, 0].item() == pytest.approx(-0.0564, abs=1e-5)


@pytest.mark.parametrize(
    ("ball", "inside"),
    [
        ((20.0, 7.0), True),
        ((22.4, -7.0), True),
        ((19.9, 0.0), False),
        ((22.5, 0.0), False),
        ((21.0, 7.1), False),
    ],
)
def test_the_net(ball: tuple[float, float], inside: bool) -> None:
    assert in_net(torch.tensor([ball])).item() is inside


@pytest.mark.parametrize(
    ("ball", "faithful", "distance"),
    [
        ((17.0, 3.0), True, 3.0),
        ((17.0, 11.01), True, 5.0),
        ((17.0, -11.01), True, 5.0),
        ((21.0, 8.01), True, 1.0),
        ((21.0, -8.01), True, 15.02),  # the original's slip
        ((21.0, -8.01), False, 1.0),
    ],
)
def test_distance_from_the_goal(ball: tuple[float, float], faithful: bool, distance: float) -> None:
    assert goal_distance(torch.tensor([ball]), faithful).item() == pytest.approx(distance, abs=1e-5)


@pytest.mark.parametrize(("faithful", "bound"), [(True, (1.0, 14.0)), (False, (-14.0, -1.0))])
def test_a_faithful_kick_ignores_y(faithful: bool, bound: tuple[float, float]) -> None:
    env = Goal(1, faithful=faithful)
    env.reset(0)
    env.state = scene(goalie=(19.0, 9.0))
    env.step(act(KICK_TO, x=6.0, y=-6.0))
    assert bound[0] < env.state.ball[0, 1].item() < bound[1]
    assert env.state.steps.item() == 1


@pytest.mark.parametrize("choice", [SHOOT_LEFT, SHOOT_RIGHT])
def test_a_shot_at_an_empty_goal_scores(choice: int) -> None:
    env = Goal(64)
    env.reset(0)
    empty = scene(goalie=(1.0, -14.0))
    env.state = GoalState(*(field.expand(64, *field.shape[1:]) for field in empty))
    actions = act(choice, height=1.0)
    step = env.step((actions[0].expand(64), tuple(box.expand(64, -1) for box in actions[1])))
    assert step.terminated.all()
    assert (step.rewards == torch.tensor([1.0, 0.0])).all()
    assert step.metrics["success"].mean().item() == 1.0


def test_a_shot_straight_at_the_keeper_is_caught() -> None:
    env = Goal(1)
    env.reset(0)
    env.state = scene()
    step = env.step(act(SHOOT_LEFT, height=0.0))
    assert step.terminated.item()
    assert step.rewards[0, 0].item() == 0.0
    assert -20.0 < step.rewards[0, 1].item() < -4.0
    assert step.metrics["success"].item() == 0.0


@pytest.mark.parametrize("faithful", [True, False])
def test_the_last_step_moves_nothing(faithful: bool) -> None:
    env = Goal(1, faithful=faithful)
    env.reset(0)
    env.state = scene()._replace(steps=torch.tensor([99]))
    before = env.observe(env.state)
    step = env.step(act(SHOOT_LEFT))
    assert torch.equal(step.final_observation, before)
    assert (step.terminated.item(), step.truncated.item()) == (faithful, not faithful)
    assert step.rewards[0].tolist() == ([0.0, -18.5] if faithful else [0.0, 0.0])


def test_an_action_of_another_structure_is_refused() -> None:
    env = Goal(1)
    env.reset(0)
    with pytest.raises(TypeError, match="kick_to, shoot, shoot"):
        env.step((torch.zeros(1).long(), torch.zeros(1, 4)))


def test_random_actions_hardly_ever_score() -> None:
    env = Goal(256)
    result = first_episodes(env, random_policy(env), 100)
    assert result.successes.mean().item() < 0.03
    assert result.returns.mean().item() == pytest.approx(MEASURED[0], abs=0.6)


def test_the_controller_beats_the_keeper_more_often_than_not() -> None:
    env = Goal(64)
    result = first_episodes(env, env.expert_action, 30)
    assert result.successes.mean().item() > 0.5
    assert result.returns.mean().item() == pytest.approx(MEASURED[1], abs=10.0)


def test_the_controller_shoots_with_the_side_that_it_aims_at() -> None:
    """As seen by a player who looks along x: left is where y grows."""
    env = Goal(64)
    env.reset(0)
    env.state = env.state._replace(steps=torch.full((64,), 50))  # out of patience: it shoots
    choice, (_, left, right) = env.expert_action()
    assert torch.equal(left, right)
    assert {SHOOT_LEFT, SHOOT_RIGHT} == set(choice.tolist())
    assert torch.equal(choice == SHOOT_LEFT, left[:, 0] > 0)


def test_references_are_stated_for_the_published_rules_only() -> None:
    assert Goal(1).reference_returns == MEASURED
    assert Goal(1, faithful=False).reference_returns is None
    assert Goal(1, max_steps=50).reference_returns is None


ORIGINAL = np.load(Path(__file__).parents[1] / "golden" / "goal_original.npz")
"""What the original (github.com/cycraig/gym-goal, run with NumPy in float64) does. `substeps` `[600, 39]`: the
state before (14 columns as observed, unscaled), the kind of action (0 kick to, 1 shoot) and its parameter, six
uniform numbers, the state after (14), the reward, whether the episode ends, whether the player's three numbers
are drawn. `starts` `[200, 15]`: states after `reset`, and whether the ball is within reach (always)."""


def original_state(columns: Tensor) -> GoalState:
    parts = columns.split([2, 2, 1, 2, 2, 1, 2, 2], dim=1)
    fields = [part.squeeze(1) if part.shape[1] == 1 else part for part in parts]
    return GoalState(*fields, torch.zeros(len(columns), dtype=torch.long))


def columns_of(state: GoalState) -> Tensor:
    fields = [field[:, None] if field.dim() == 1 else field for field in state[:-1]]
    return torch.cat(fields, dim=1)


@pytest.fixture(scope="module")
def substeps() -> Tensor:
    return torch.from_numpy(ORIGINAL["substeps"])


def test_every_substep_is_the_originals(substeps: Tensor) -> None:
    kind, parameter = substeps[:, 14:16].unbind(1)
    kick = torch.stack((parameter, parameter), 1)  # the original's slip: y is x
    shot = torch.stack((torch.full_like(parameter, SHOT_TARGET_X), parameter), 1)
    target = torch.where((kind == 0)[:, None], kick, shot)
    after = substep(original_state(substeps[:, :14]), target, substeps[:, 16:22])
    torch.testing.assert_close(columns_of(after), substeps[:, 22:36], rtol=0, atol=1e-7)


def test_episodes_end_as_in_the_original_and_pay_the_same(substeps: Tensor) -> None:
    after = original_state(substeps[:, 22:36])
    scored, over = in_net(after.ball), caught(after) | ~in_field(after.ball)
    assert torch.equal(scored | over, substeps[:, 37] == 1)
    reward = torch.where(scored, 50.0, torch.where(over, -goal_distance(after.ball, faithful=True), 0.0))
    ended = substeps[:, 37] == 1
    torch.testing.assert_close(reward[ended], substeps[ended, 36], rtol=0, atol=1e-9)
    assert bool((scored & ended).any())
    assert bool((over & ended).any())


def test_the_ball_is_within_reach_of_every_kick_off() -> None:
    assert can_kick(kick_off(torch.rand(20_000, generator=torch.Generator().manual_seed(1)))).all()
    starts = torch.from_numpy(ORIGINAL["starts"])
    assert (starts[:, 14] == 1).all()
    ours = kick_off(starts[:, 1] / PITCH_WIDTH + 0.5)
    torch.testing.assert_close(columns_of(ours), starts[:, :14], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("goalie", "ball", "features"),
    [
        ((14.0, 3.0), (11.0, -1.0), (-0.6, -0.8, 11.0)),  # slope 4/3: 3 + 6·4/3; bounded by 14.02 above
        ((14.0, 0.0), (11.0, 4.0), (-0.6, 0.8, -7.01)),  # −8, bounded by half the width below
        ((14.0, 0.0), (14.0, 2.0), (0.0, 1.0, -7.01)),
        ((14.0, 0.0), (14.0, -2.0), (0.0, -1.0, 7.01)),
    ],
)
def test_the_published_features(
    goalie: tuple[float, float], ball: tuple[float, float], features: tuple[float, float, float]
) -> None:
    state = scene(goalie=goalie, ball=ball)
    assert derived_features(state)[0].tolist() == pytest.approx(features, abs=1e-5)
    env = Goal(1, published_features=True)
    observed = env.observe(state)[0]
    assert observed.shape == env.observation_space.shape == (17,)
    assert torch.equal(observed[:14], Goal(1).observe(state)[0])
    x, y, height = features
    assert observed[14:].tolist() == pytest.approx(
        [(x + 1) / 2, (y + 1) / 2, (height + 7.01) / 21.03], abs=1e-5
    )


def hard(choice: int, heights: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    return torch.tensor([choice]), (torch.zeros(1, 2), *[torch.tensor([[heights]])] * 10)


@pytest.mark.parametrize("first", [1, 6])
@pytest.mark.parametrize("faithful", [True, False])
def test_hard_goal_cuts_a_shot_into_five_ranges(first: int, faithful: bool) -> None:
    env = Goal(1, hard=True, faithful=faithful)
    middle = (0.2 * 7.01, 0.2 * 7.01) if faithful else (-0.2 * 7.01, 0.2 * 7.01)
    ranges = [
        (-7.01, -0.6 * 7.01),
        (-0.6 * 7.01, -0.2 * 7.01),
        middle,
        (0.2 * 7.01, 0.6 * 7.01),
        (0.6 * 7.01, 7.01),
    ]
    for i, (low, high) in enumerate(ranges):
        lowest, highest = (env.parse(hard(first + i, height))[1][0, 1].item() for height in (-9.0, 9.0))
        assert (lowest, highest) == pytest.approx((low, high), abs=1e-5)
    assert env.action_space[0].n == 11
    assert env.relevance == (((0, 1), *((i,) for i in range(2, 12))),)


def test_the_controller_plays_hard_goal_too() -> None:
    env = Goal(64, hard=True)
    result = first_episodes(env, env.expert_action, 30)
    assert result.successes.mean().item() > 0.4


def played(env: Goal) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards and observations of three steps, and the derivative of the last by where a ball was kicked."""
    env.reset(3)
    random = torch.Generator().manual_seed(0)
    outcomes = []
    for _ in range(3):
        choice = torch.randint(0, 3, (8,), generator=random)
        kick = torch.rand(8, 2, generator=random) * 4.0
        kick.requires_grad_()
        shots = tuple(14 * torch.rand(8, 1, generator=random) - 7 for _ in range(2))
        outcomes.append(env.step((choice, (kick, *shots))))
    (derivative,) = torch.autograd.grad(outcomes[-1].final_observation.sum(), kick)
    return (
        torch.stack([step.rewards for step in outcomes]),
        torch.stack([step.observation.detach() for step in outcomes]),
        derivative,
    )


def test_compiled_it_is_the_same_game(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for the C++ compiler, which alone is left out."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, compiled = Goal(8), Goal(8, compiled=True)
    for one, other in zip(played(plain), played(compiled), strict=True):
        torch.testing.assert_close(one, other)
    assert played(plain)[2].any()
    assert compiled.take_remarks() == []


def test_what_cannot_be_compiled_is_played_as_it_is_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*state: object) -> None:
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda function: no_compiler)
    env = Goal(8, compiled=True)
    torch.testing.assert_close(played(env)[0], played(Goal(8))[0])
    (remark,) = env.take_remarks()
    assert (
        remark == "env.compiled = true: not compiled (no C++ compiler), and slower; it takes a C++ compiler"
    )
    assert env.take_remarks() == []
    assert env.notice is None
