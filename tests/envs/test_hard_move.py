from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equipoise.envs.hard_move import Form, HardMove, HardMoveState
from tests.envs.rollout import first_episodes, random_policy


def place(env: HardMove, target: tuple[float, float], velocity: tuple[float, float] = (0.0, 0.0)) -> None:
    n = env.num_envs
    env.state = HardMoveState(
        torch.zeros(n, 2), torch.tensor([velocity] * n), torch.tensor([target] * n), torch.zeros(n).long()
    )


def option(env: HardMove, choice: int, strength: float) -> tuple[Tensor, Tensor]:
    """The strength goes to the chosen option; all others get a strength that must not matter."""
    strengths = torch.full((env.num_envs, 2**env.n), -0.5)
    strengths[:, choice] = strength
    return torch.full((env.num_envs,), choice), strengths


# Four actuators point right, up, left, down; the lowest bit is the last of them. Two neighbours together
# are √2 long, which is scaled to 1, so a single one is 1/√2.
@pytest.mark.parametrize(
    ("choice", "strength", "push"),
    [
        (0b0000, 1.0, (0.0, 0.0)),
        (0b1000, 1.0, (math.sqrt(0.5), 0.0)),
        (0b0100, 0.5, (0.0, 0.5 * math.sqrt(0.5))),
        (0b0001, 1.0, (0.0, -math.sqrt(0.5))),
        (0b1100, 1.0, (math.sqrt(0.5), math.sqrt(0.5))),
        (0b1100, -1.0, (-math.sqrt(0.5), -math.sqrt(0.5))),
        (0b1010, 1.0, (0.0, 0.0)),
        (0b1000, 3.0, (math.sqrt(0.5), 0.0)),
    ],
)
def test_an_option_pushes_along_the_sum_of_its_actuators(
    choice: int, strength: float, push: tuple[float, float]
) -> None:
    env = HardMove(1)
    place(env, (1.0, 0.0))
    env.step(option(env, choice, strength))
    assert env.state.velocity[0].tolist() == pytest.approx([0.2 * push[0], 0.2 * push[1]], abs=1e-6)


def test_friction_and_motion() -> None:
    """v = 0.75·0.4 + 0.1·2·0.5·0.7071 = 0.37071, x = 0.1·v."""
    env = HardMove(1)
    place(env, (1.0, 0.0), velocity=(0.4, 0.0))
    step = env.step(option(env, 0b1000, 0.5))
    assert step.observation[0].tolist() == pytest.approx([0.37071, 0.0, 0.962929, 0.0], abs=1e-5)
    assert step.rewards[0].tolist() == pytest.approx([-(0.962929**2), 0.0], abs=1e-5)


@pytest.mark.parametrize(("distance", "reached"), [(0.21, False), (0.19, True)])
def test_the_target_has_a_radius(distance: float, reached: bool) -> None:
    env = HardMove(1)
    place(env, (distance, 0.0))
    step = env.step(option(env, 0, 1.0))
    assert step.terminated.item() is reached
    assert step.rewards[0].tolist() == pytest.approx([-(distance**2), float(reached)], abs=1e-6)
    assert not step.truncated.item()


def test_time_out_truncates() -> None:
    env = HardMove(1, max_steps=2)
    place(env, (1.0, 0.0))
    assert not env.step(option(env, 0, 1.0)).truncated.item()
    step = env.step(option(env, 0, 1.0))
    assert step.truncated.item()
    assert not step.terminated.item()
    assert step.metrics["success"].item() == 0.0


def test_an_actuator_that_is_off_does_not_push() -> None:
    env = HardMove(2, form="actuator")
    place(env, (1.0, 0.0))
    switches = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]])
    env.step((switches, torch.ones(2, 4)))
    # Right and up at +1, left and down at −1 are 2√2 long: a single actuator is 1/(2√2) of a full push.
    assert env.state.velocity[0].tolist() == pytest.approx([0.2 / (2 * math.sqrt(2)), 0.0], abs=1e-6)
    assert env.state.velocity[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("n", [4, 6, 8, 10])
def test_both_forms_reach_equally_far(n: int) -> None:
    """The largest push is 1 in both: actuators with signed strengths must not be stronger."""
    one, other = HardMove(64, n=n), HardMove(64, n=n, form="actuator")
    for env in (one, other):
        env.reset(0)
        env.step(env.expert_action())
    assert one.state.velocity.norm(dim=1).max().item() == pytest.approx(0.2, rel=1e-3)
    torch.testing.assert_close(one.state.velocity, other.state.velocity, rtol=0.0, atol=1e-3)


def test_spaces_and_relevance() -> None:
    env = HardMove(1, n=3)
    assert env.action_space[0].n == 8
    assert env.action_space[1].shape == (8,)
    assert env.relevance == (tuple((i,) for i in range(8)),)
    env = HardMove(1, n=3, form="actuator")
    assert env.action_space[0].nvec.tolist() == [2, 2, 2]
    assert env.relevance == (((), (0,)), ((), (1,)), ((), (2,)))


@pytest.mark.parametrize(
    ("n", "form", "at_least"), [(4, "option", 0.93), (10, "option", 0.98), (4, "actuator", 0.93)]
)
def test_the_controller_succeeds_wherever_time_allows(n: int, form: Form, at_least: float) -> None:
    env = HardMove(512, n=n, form=form)
    assert first_episodes(env, env.expert_action, 30).successes.mean().item() > at_least


def test_random_actions_do_no_better_than_the_published_failures() -> None:
    """Methods that fail are published at 0.04 to 0.06."""
    env = HardMove(1024)
    assert 0.03 < first_episodes(env, random_policy(env), 30).successes.mean().item() < 0.08
