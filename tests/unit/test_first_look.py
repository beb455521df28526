"""A first look: what random actions get, without a trainer."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from equipoise.envs.protocol import Timestep
from equipoise.envs.references import References
from equipoise.envs.vectorised import VectorisedEnv
from equipoise.trainer.evaluator import Evaluator
from equipoise.trainer.first_look import RandomReturn, look_at
from tests.toy_env import ToyEnv
from tests.unit.test_evaluation import policy, wages

CPU = torch.device("cpu")


def test_it_sees_the_first_episode_of_each_environment() -> None:
    look = look_at(wages(), seed=0)
    assert look.returns == [3, 8, 15]  # (i + 1)·(3 + i)
    assert (look.lengths, look.unfinished) == ([3, 4, 5], 0)
    assert look.random_return == (
        pytest.approx(26 / 3),
        pytest.approx((298 / 3 - (26 / 3) ** 2) ** 0.5),
        False,
    )
    assert look.rewards["wage"] == (2.0, 1.0, 3.0)
    assert look.rewards["skill"].lowest < 0 < look.rewards["skill"].highest, "its actions are random"
    assert (look.valid, look.inexact) == (None, None)
    assert look.lines()[:2] == [
        "masks: none",
        "random actions: return 8.667 ± 4.922 in 3 episodes of 3 to 5 steps",
    ]
    assert look.lines()[-1] == "resume: exact"


def test_masks_are_obeyed_and_counted() -> None:
    class Strict(ToyEnv):
        def step(self, action: Any) -> Timestep:
            mask = self._mask()
            assert mask is not None
            assert mask[torch.arange(3), 0, action[0]].all()
            return super().step(action)

    look = look_at(Strict(3, CPU, masked=True), seed=0)
    # One of two choices at the first of 5 steps; environments 0 and 1 begin another episode within them.
    assert look.valid == pytest.approx((15 - 0.5 * 5) / 15)


def test_it_ends_when_the_time_is_up_and_says_what_it_has_seen() -> None:
    class Slow(ToyEnv):
        def step(self, action: Any) -> Timestep:
            time.sleep(0.02)
            return (
                super()
                .step(action)
                ._replace(
                    terminated=torch.zeros(3, dtype=torch.bool), truncated=torch.zeros(3, dtype=torch.bool)
                )
            )

    look = look_at(Slow(3, CPU), seed=0, max_seconds=0.1)
    assert look.unfinished == 3
    assert 1 <= look.lengths[0] <= 6
    assert "of which 3 had not ended after" in look.lines()[1]
    assert look.random_return.unfinished


def test_a_run_measures_random_actions_once_and_takes_what_an_environment_states() -> None:
    judge = Evaluator(policy(), wages, 3, None, 1, 3, 3, 1_000)
    before = torch.get_rng_state()
    judge.look()
    assert torch.equal(torch.get_rng_state(), before)
    assert judge.random is not None
    assert judge.random.mean == pytest.approx(26 / 3)
    resumed = Evaluator(policy(), wages, 3, None, 2, 3, 3, 1_000)
    resumed.load_state_dict({"best_return": 1.0, "random": [0.5, 0.1, False]})
    resumed.look()
    assert resumed.random == RandomReturn(0.5, 0.1)
    stating = Evaluator(policy(), wages, 3, References(-2.0, 5.0), 1, 3, 3, 1_000)
    stating.look()
    assert stating.random == RandomReturn(-2.0, None)


def test_a_step_that_only_begins_an_episode_pays_nothing() -> None:
    """CartPole pays 1 a step; `make_vec` spends one more on each new episode, which is given 0."""
    env = VectorisedEnv("CartPole-v1", num_envs=4)
    look = look_at(env, seed=0)
    env.close()
    assert look.rewards["reward"] == (1.0, 1.0, 1.0)
