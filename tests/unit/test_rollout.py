"""Collecting: what is stored is what happened, and episodes are counted across rollouts."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from equipoise.trainer.data import Metrics
from equipoise.trainer.diagnosis import NonFiniteError, check_finite
from equipoise.trainer.episodes import Unfinished, count_episodes, episode_means, short_ones_only
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.encoders import MLP
from equipoise.trainer.rollout import Collector, allocate
from equipoise.trainer.spaces import HybridSpace
from tests.toy_env import ToyEnv

CPU = torch.device("cpu")


def collector(num_envs: int = 3, steps: int = 6, masked: bool = False, seed: int = 0) -> Collector:
    torch.manual_seed(0)
    env = ToyEnv(num_envs, CPU, reward_weights=(1.0, 0.0), masked=masked)
    policy = ActorCritic(
        HybridSpace(env.action_space),
        (2,),
        2,
        encoder=partial(MLP, hidden_sizes=(8,)),
        state_dependent_std=True,
    )
    assert policy.normalizer is not None
    policy.normalizer.update(torch.randn(100, 2))
    rollout = allocate(env, policy.space, steps, 2)
    return Collector(env, policy, rollout, torch.Generator().manual_seed(seed), seed)


def metrics(steps: list[Metrics]) -> dict[str, float]:
    return {tag: float(metric.value) for tag, metric in episode_means(steps).items()}


@pytest.mark.parametrize("masked", [False, True])
def test_stored_log_probs_are_those_of_the_stored_actions(masked: bool) -> None:
    rollout, _ = (collecting := collector(masked=masked)).collect()
    policy = collecting.policy
    inputs = policy.normalize(rollout.observations.flatten(0, 1))
    distribution = policy.distribution(inputs, rollout.action_mask.flatten(0, 1))
    choices, parameters = (part.flatten(0, 1) for part in rollout.actions)
    discrete = distribution.discrete_log_prob(choices)
    continuous = distribution.continuous_log_prob(parameters, distribution.relevant(choices))
    torch.testing.assert_close(rollout.discrete_log_prob.flatten(0, 1), discrete, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(rollout.continuous_log_prob.flatten(0, 1), continuous, rtol=0.0, atol=1e-6)
    assert float(discrete.detach().exp().max()) <= 1.0
    assert bool((choices == 0).any())
    assert bool((choices == 1).any())


def test_masks_are_stored_and_obeyed() -> None:
    rollout, _ = collector(steps=20, masked=True).collect()
    first_step = rollout.observations[..., 0] == 0
    assert torch.equal(rollout.action_mask[..., 0, 1], ~first_step)
    assert bool(rollout.action_mask[..., 0, 0].all())
    assert not rollout.actions.discrete[first_step].any()
    assert not rollout.discrete_log_prob[first_step].any()
    assert bool((rollout.discrete_log_prob[~first_step] != 0).all())


def test_without_masks_every_choice_is_valid() -> None:
    assert bool(collector().collect()[0].action_mask.all())


def test_what_the_environment_gave_is_stored_in_its_place() -> None:
    rollout, _ = collector().collect()
    clock = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 0]]).T
    assert torch.equal(rollout.observations[..., 0], clock.float())
    assert rollout.last_observation[:, 0].tolist() == [0, 2, 1]
    assert torch.equal(rollout.rewards[..., 0], torch.tensor([1.0, 2.0, 3.0]).expand(6, 3))
    assert torch.equal(rollout.task_reward, rollout.rewards[..., 0])
    assert rollout.terminated.nonzero().tolist() == [[2, 0], [4, 2], [5, 0]]
    assert rollout.truncated.nonzero().tolist() == [[3, 1]]
    assert rollout.done.sum() == 4
    # The last observations of the episodes that ended, not the first ones of those that followed.
    assert rollout.final_observations[rollout.done][:, 0].tolist() == [3, 4, 5, 3]


def test_returns_and_lengths_of_episodes_that_ended_by_hand() -> None:
    collecting = collector()
    # Environment i pays i + 1 a step for 3 + i steps: returns 3, 8, 15.
    # Steps 0–5: 0 ends at 2 and 5, 1 at 3, 2 at 4.
    first = metrics(collecting.collect()[1])
    assert first["episode/return"] == pytest.approx((3 + 3 + 8 + 15) / 4)
    assert first["episode/length"] == pytest.approx((3 + 3 + 4 + 5) / 4)
    assert first["episode/success"] == pytest.approx(3 / 4)
    # Steps 6–11: 0 ends at 8 and 11, 1 (begun at 4) at 7 and 11, 2 (begun at 5) at 9.
    second = metrics(collecting.collect()[1])
    assert second["episode/return"] == pytest.approx((3 + 3 + 8 + 8 + 15) / 5)
    assert second["episode/length"] == pytest.approx((3 + 3 + 4 + 4 + 5) / 5)
    assert second["episode/success"] == pytest.approx(3 / 5)


def test_an_episode_over_several_rollouts_is_one_episode() -> None:
    collecting = collector(steps=2)
    collected = [metrics(collecting.collect()[1]) for _ in range(2)]
    assert math.isnan(collected[0]["episode/return"])  # nothing ended
    assert collected[1]["episode/return"] == pytest.approx((3 + 8) / 2)
    assert collected[1]["episode/length"] == pytest.approx((3 + 4) / 2)


def shown(collecting: Collector) -> dict[str, float]:
    """What the trainer logs of the next rollout."""
    _, steps = collecting.collect()
    means = episode_means(steps, collecting.short_episodes_only)
    return {tag: float(metric.value) for tag, metric in means.items()}


def test_a_return_is_held_back_while_only_short_episodes_have_ended() -> None:
    """Environments 0, 1 and 2 pay 3, 8 and 15, and end after 3, 4 and 5 steps, in the second rollout, or third."""
    collecting = collector(steps=2)
    second = [shown(collecting) for _ in range(2)][1]
    assert math.isnan(second["episode/return"])
    assert math.isnan(second["episode/success"])
    assert second["episode/length"] == 3.5
    saved = collecting.state_dict()
    assert shown(collecting)["episode/return"] == pytest.approx((3 + 15) / 2)
    other = collector(steps=2, seed=8)
    other.load_state_dict(saved)
    assert shown(other)["episode/return"] == pytest.approx((3 + 15) / 2)


def test_one_endless_episode_does_not_hold_the_others_back_for_ever() -> None:
    assert bool(short_ones_only(torch.tensor([19, 20, 0, 0])))
    assert not bool(short_ones_only(torch.tensor([20, 20, 0, 0])))
    assert not bool(short_ones_only(torch.tensor([1, 1, 1, 1])))


def test_episodes_are_told_apart_within_and_across_rollouts() -> None:
    """Two environments over two rollouts of three steps: rewards and ends by hand."""
    rewards = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    first_ends = torch.tensor([[False, False], [True, False], [False, True]])
    zeros = torch.zeros(2)
    ended, going_on = count_episodes(rewards, first_ends, Unfinished(zeros, zeros))
    assert ended.returns[first_ends].tolist() == [3.0, 70.0]
    assert ended.lengths[first_ends].tolist() == [2.0, 3.0]
    assert bool(ended.returns[~first_ends].isnan().all())
    assert bool(ended.lengths[~first_ends].isnan().all())
    assert going_on.returns.tolist() == [4.0, 0.0]
    assert going_on.lengths.tolist() == [1.0, 0.0]
    # In the second rollout environment 0 ends at once and in every step, environment 1 never.
    every = torch.tensor([[True, False]] * 3)
    ended, going_on = count_episodes(rewards, every, going_on)
    assert ended.returns[:, 0].tolist() == [5.0, 2.0, 4.0]
    assert ended.lengths[:, 0].tolist() == [2.0, 1.0, 1.0]
    assert going_on.returns.tolist() == [0.0, 70.0]
    assert going_on.lengths.tolist() == [0.0, 3.0]


def test_a_step_that_only_begins_an_episode_is_none_of_its_steps() -> None:
    """Episodes of two, two and four steps, a reset between them, in the last step of one rollout and within the other."""
    rewards, before = torch.zeros(3, 1), Unfinished(torch.zeros(1), torch.zeros(1))
    for ends, idle, lengths, unfinished in (
        ([0, 1, 0], [0, 0, 1], [2.0], 0.0),
        ([0, 1, 0], [0, 0, 1], [2.0], 0.0),
        ([0, 0, 0], [0, 0, 0], [], 3.0),
        ([1, 0, 0], [0, 1, 0], [4.0], 1.0),
    ):
        done, unused = (torch.tensor(flags).bool().unsqueeze(1) for flags in (ends, idle))
        ended, before = count_episodes(rewards, done, before, unused)
        assert ended.lengths[done].tolist() == lengths
        assert before.lengths.tolist() == [unfinished]


def test_small_rewards_are_not_lost_beside_large_ones() -> None:
    """In float32 the running sum would swallow the second episode: 1e9 + 1 = 1e9."""
    rewards, done = torch.tensor([[1e9], [1.0]]), torch.tensor([[True], [True]])
    ended, _ = count_episodes(rewards, done, Unfinished(torch.zeros(1), torch.zeros(1)))
    assert ended.returns.flatten().tolist() == [1e9, 1.0]


def test_the_same_seed_collects_the_same_and_another_one_does_not() -> None:
    first, again, other = (collector(seed=seed).collect()[0] for seed in (1, 1, 2))
    assert torch.equal(first.actions.continuous, again.actions.continuous)
    assert torch.equal(first.actions.discrete, again.actions.discrete)
    assert not torch.equal(first.actions.continuous, other.actions.continuous)


def test_collecting_continues_from_its_state() -> None:
    collecting, other = collector(masked=True, steps=5), collector(masked=True, steps=5, seed=8)
    collecting.collect()
    other.collect()
    other.load_state_dict(collecting.state_dict())
    (rollout, steps), (same, same_steps) = collecting.collect(), other.collect()
    for field in ("observations", "rewards", "discrete_log_prob", "continuous_log_prob", "action_mask"):
        assert torch.equal(getattr(rollout, field), getattr(same, field))
    assert metrics(steps) == pytest.approx(metrics(same_steps), nan_ok=True)


# --- what is not finite ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "index", "value", "message"),
    [
        ("rewards", (4, 2, 1), math.nan, r"reward 'skill' is nan in environment 2, step 4 "),
        ("rewards", (0, 1, 0), math.inf, r"reward 'wage' is inf in environment 1, step 0 "),
        ("observations", (5, 0, 1), -math.inf, r"observation \[1\] is -inf in environment 0, step 5 "),
        (
            "final_observations",
            (2, 0, 1),
            math.nan,
            r"final observation \[1\] is nan in environment 0, step 2 ",
        ),
        (
            "last_observation",
            (1, 0),
            math.nan,
            r"observation after the last step \[0\] is nan in environment 1",
        ),
    ],
)
def test_what_is_not_finite_is_named(field: str, index: tuple[int, ...], value: float, message: str) -> None:
    rollout, _ = collector().collect()
    getattr(rollout, field)[index] = value
    with pytest.raises(NonFiniteError, match=message + ".*began at 1200 env steps"):
        check_finite(rollout, 1200)


def test_final_observations_count_only_where_an_episode_ended() -> None:
    rollout, _ = collector().collect()
    rollout.final_observations[~rollout.done] = math.nan
    check_finite(rollout, 0)


def test_large_rewards_whose_sum_overflows_are_no_error() -> None:
    rollout, _ = collector().collect()
    rollout.rewards.fill_(3e38)
    check_finite(rollout, 0)
