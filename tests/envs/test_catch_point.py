from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equipoise.envs.catch_point import CATCH, MOVE, CatchPoint, CatchPointState
from tests.envs.rollout import first_episodes, random_policy


def place(
    env: CatchPoint, target: tuple[float, float], velocity: tuple[float, float] = (0.0, 0.0), misses: int = 0
) -> None:
    n = env.num_envs
    env.state = CatchPointState(
        torch.zeros(n, 2),
        torch.tensor([velocity] * n),
        torch.tensor([target] * n),
        torch.full((n,), misses),
        torch.zeros(n).long(),
    )


def act(choice: int, angle: float = 0.0) -> tuple[Tensor, Tensor]:
    return torch.tensor([choice]), torch.tensor([[angle]])


# The angle is measured from the y axis, in units of π.
@pytest.mark.parametrize(
    ("angle", "direction"),
    [(0.0, (0.0, 1.0)), (0.5, (1.0, 0.0)), (-0.5, (-1.0, 0.0)), (1.0, (0.0, -1.0)), (7.0, (0.0, -1.0))],
)
def test_moving_pushes_in_the_given_direction(angle: float, direction: tuple[float, float]) -> None:
    env = CatchPoint(1)
    place(env, (1.0, 1.0))
    env.step(act(MOVE, angle))
    assert env.state.velocity[0].tolist() == pytest.approx([0.2 * direction[0], 0.2 * direction[1]], abs=1e-6)
    assert env.state.position[0].tolist() == pytest.approx(
        [0.02 * direction[0], 0.02 * direction[1]], abs=1e-6
    )


def test_catching_drifts_and_then_catches() -> None:
    """From rest at 0.21 the target is out of reach; drifting at 0.4 brings it to 0.21 − 0.03 = 0.18."""
    env = CatchPoint(1)
    place(env, (0.21, 0.0), velocity=(0.4, 0.0))
    step = env.step(act(CATCH, 0.5))
    assert step.terminated.item()
    assert step.metrics["success"].item() == 1.0
    assert step.rewards[0].tolist() == pytest.approx([-(0.18**2), 1.0], abs=1e-6)
    assert env.reward_weights == (1.0, 20.0)


def test_a_missed_catch_counts_but_being_near_is_no_success() -> None:
    env = CatchPoint(1)
    place(env, (0.3, 0.0))
    step = env.step(act(CATCH))
    assert env.state.misses.item() == 1
    assert step.rewards[0].tolist() == pytest.approx([-0.09, 0.0], abs=1e-6)
    place(env, (0.1, 0.0))
    assert not env.step(act(MOVE, 0.5)).terminated.item()


def test_the_eleventh_miss_loses_one_step_later_at_reward_zero() -> None:
    env = CatchPoint(1)
    place(env, (0.3, 0.0), misses=10)
    assert not env.step(act(CATCH)).terminated.item()
    env.state = env.state._replace(target=torch.zeros(1, 2))  # too late even where a catch would work
    step = env.step(act(CATCH))
    assert step.terminated.item()
    assert step.rewards[0].tolist() == [0.0, 0.0]
    assert step.metrics["success"].item() == 0.0


def test_time_out_truncates() -> None:
    env = CatchPoint(1, max_steps=1)
    place(env, (1.0, 0.0))
    step = env.step(act(MOVE))
    assert step.truncated.item()
    assert not step.terminated.item()


def test_counts_can_be_observed() -> None:
    env = CatchPoint(1, observe_counts=True)
    place(env, (0.5, 0.0), misses=2)
    step = env.step(act(CATCH))
    assert step.observation[0].tolist() == pytest.approx([0.0, 0.0, 0.5, 0.0, 3 / 6 - 1, 1 / 12 - 1])
    assert env.observation_space.shape == (6,)


def test_the_controller_succeeds_wherever_time_allows() -> None:
    env = CatchPoint(512)
    assert first_episodes(env, env.expert_action, 30).successes.mean().item() > 0.97


def test_random_actions_waste_their_catches() -> None:
    env = CatchPoint(512)
    result = first_episodes(env, random_policy(env), 31)
    assert result.successes.mean().item() < 0.15
    assert result.lengths.mean().item() < 25  # 11 misses at even odds take 22 steps, one more ends it
