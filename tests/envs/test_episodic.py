from __future__ import annotations

import pytest
import torch

from equipoise.envs.moving import BRAKE, Moving
from tests.envs.rollout import random_policy


def test_stepping_needs_a_reset() -> None:
    with pytest.raises(RuntimeError, match=r"Moving: call reset\(\) first"):
        Moving(1).step((torch.tensor([BRAKE]), torch.zeros(1, 2)))


def test_an_action_of_another_structure_is_refused() -> None:
    env = Moving(1)
    env.reset(0)
    with pytest.raises(TypeError, match="a tuple of two tensors"):
        env.step(torch.zeros(1, 3))


def test_a_foreign_snapshot_is_refused() -> None:
    two, three = Moving(2), Moving(3)
    two.reset(0)
    with pytest.raises(ValueError, match=r"'position'.*\[3, 2\].*\[2, 2\]"):
        three.load_state_dict(two.state_dict())


@torch.inference_mode()
def test_a_snapshot_continues_bit_for_bit_and_is_not_changed_by_what_follows() -> None:
    env = Moving(8, max_steps=5)
    env.reset(3)
    policy = random_policy(env)
    for _ in range(4):
        env.step(policy())
    snapshot = env.state_dict()
    actions = [policy() for _ in range(10)]
    first = [env.step(action) for action in actions]
    env.load_state_dict(snapshot)
    again = [env.step(action) for action in actions]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.observation, b.observation)
        assert torch.equal(a.rewards, b.rewards)


@torch.inference_mode()
def test_only_the_environments_that_ended_start_anew() -> None:
    env = Moving(2, max_steps=3, faithful=False)
    env.reset(0)
    env.state = env.state._replace(steps=torch.tensor([2, 0]))
    before = env.state.target
    step = env.step((torch.tensor([BRAKE, BRAKE]), torch.zeros(2, 2)))
    assert step.truncated.tolist() == [True, False]
    assert env.state.steps.tolist() == [0, 1]
    assert not torch.equal(env.state.target[0], before[0])
    assert torch.equal(env.state.target[1], before[1])
    assert step.final_observation[0, 9].item() == 1.0
    assert step.observation[0, 9].item() == 0.0
