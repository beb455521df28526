from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equipoise.envs.moving import ACCELERATE, BRAKE, TURN, Moving, MovingState, Sliding
from tests.envs.rollout import first_episodes, random_policy


def place(
    env: Moving,
    position: tuple[float, float],
    target: tuple[float, float],
    heading: float = 0.0,
    speed: float = 0.0,
    course: float | None = None,
    steps: int = 0,
) -> None:
    """The same state in every environment."""
    n = env.num_envs
    env.state = MovingState(
        position=torch.tensor([position] * n),
        heading=torch.full((n,), heading),
        speed=torch.full((n,), speed),
        course=torch.full((n,), heading if course is None else course),
        target=torch.tensor([target] * n),
        steps=torch.full((n,), steps),
    )


def act(choice: int, share: float = 0.0, n: int = 1) -> tuple[Tensor, Tensor]:
    return torch.full((n,), choice), torch.full((n, 2), share)


def reward(env: Moving, rewards: Tensor) -> float:
    return float(rewards[0] @ torch.tensor(env.reward_weights))


def test_accelerating_moves_along_the_heading() -> None:
    env = Moving(1)
    place(env, (0.0, 0.0), (0.5, 0.0))
    step = env.step(act(ACCELERATE, 1.0))
    assert env.state.speed.item() == 0.5
    assert env.state.position[0].tolist() == pytest.approx([0.0025, 0.0])
    assert reward(env, step.rewards) == pytest.approx(0.0025 - 0.001, abs=1e-6)
    assert step.observation[0].tolist() == pytest.approx(
        [0.0025, 0.0, 0.5, 1.0, 0.0, 0.5, 0.0, 0.4975, 0.0, 1 / 200], abs=1e-6
    )


@pytest.mark.parametrize("share", [-1.0, 2.0])
def test_acceleration_is_limited_to_its_range(share: float) -> None:
    env = Moving(1)
    place(env, (0.0, 0.0), (0.5, 0.0), speed=1.0)
    env.step(act(ACCELERATE, share))
    assert env.state.speed.item() == (1.5 if share > 1 else 1.0)


def test_turning_keeps_moving_in_the_new_direction() -> None:
    env = Moving(1)
    place(env, (0.0, 0.0), (0.5, 0.0), speed=2.0)
    env.step(act(TURN, 1.0))
    assert env.state.heading.item() == pytest.approx(math.pi / 2)
    assert env.state.position[0].tolist() == pytest.approx([0.0, 0.01], abs=1e-7)


def test_a_sliding_vehicle_turns_without_changing_its_course() -> None:
    env = Sliding(1)
    place(env, (0.0, 0.0), (0.5, 0.0), speed=2.0)
    env.step(act(TURN, 1.0))
    assert env.state.heading.item() == pytest.approx(math.pi / 2)
    assert env.state.position[0].tolist() == pytest.approx([0.01, 0.0])


def test_sliding_adds_velocities_as_vectors() -> None:
    """0.4 to the right and 0.3 up give 0.5 at atan(3/4)."""
    env = Sliding(1)
    place(env, (0.0, 0.0), (0.5, 0.0), heading=math.pi / 2, speed=0.4, course=0.0)
    env.step(act(ACCELERATE, 0.6))
    assert env.state.speed.item() == pytest.approx(0.5)
    assert env.state.course.item() == pytest.approx(math.atan2(0.3, 0.4))
    assert env.state.position[0].tolist() == pytest.approx([0.002, 0.0015])


def test_standing_in_the_circle_is_the_goal() -> None:
    env = Moving(1)
    place(env, (0.45, 0.0), (0.5, 0.0), speed=0.05)
    step = env.step(act(BRAKE))
    assert step.terminated.item()
    assert step.metrics["success"].item() == 1.0
    assert reward(env, step.rewards) == pytest.approx(1.0 - 0.001, abs=1e-6)


def test_driving_through_the_circle_is_not() -> None:
    env = Moving(1)
    place(env, (0.45, 0.0), (0.5, 0.0), speed=0.5)
    step = env.step(act(BRAKE))
    assert not step.terminated.item()
    assert step.metrics["success"].isnan().item()
    assert env.state.speed.item() == pytest.approx(0.4)


def test_leaving_the_field_costs_exactly_one() -> None:
    env = Moving(1)
    place(env, (0.999, 0.0), (0.5, 0.0), speed=1.0)
    step = env.step(act(ACCELERATE, 0.0))
    assert step.terminated.item()
    assert reward(env, step.rewards) == -1.0
    assert step.final_observation[0, 0].item() == pytest.approx(1.004)
    assert step.observation[0, 0].abs().item() <= 1.0  # the next episode has begun


def test_time_out_is_a_failure_one_step_late_as_in_the_original() -> None:
    env = Moving(1)
    place(env, (0.0, 0.0), (0.5, 0.0), steps=199)
    assert not env.step(act(BRAKE)).terminated.item()
    step = env.step(act(BRAKE))
    assert step.terminated.item()
    assert not step.truncated.item()
    assert reward(env, step.rewards) == -1.0


def test_without_faithful_time_out_truncates_at_the_usual_reward() -> None:
    env = Moving(1, faithful=False)
    place(env, (0.0, 0.0), (0.5, 0.0), steps=199)
    step = env.step(act(BRAKE))
    assert step.truncated.item()
    assert not step.terminated.item()
    assert reward(env, step.rewards) == pytest.approx(-0.001)


@pytest.mark.parametrize("kind", [Moving, Sliding])
def test_the_controller_always_gets_there(kind: type[Moving]) -> None:
    env = kind(256)
    result = first_episodes(env, env.expert_action, 201)
    assert result.successes.mean().item() == 1.0
    assert result.returns.mean().item() > 1.85
    assert result.lengths.max().item() <= 130


@pytest.mark.parametrize("kind", [Moving, Sliding])
def test_random_actions_fail(kind: type[Moving]) -> None:
    env = kind(256)
    result = first_episodes(env, random_policy(env), 201)
    assert -1.5 < result.returns.mean().item() < -1.1
    assert result.successes.mean().item() < 0.03


def test_no_environment_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_envs: 0"):
        Moving(0)
