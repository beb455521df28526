"""Cosines between policy gradients, from disjoint halves of the environments."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from equipoise.trainer.data import Actions, Rollout
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.encoders import MLP
from equipoise.trainer.probe import PolicyProbe
from equipoise.trainer.rollout import Collector, allocate
from equipoise.trainer.spaces import HybridSpace
from tests.toy_env import ToyEnv

CPU = torch.device("cpu")
STEPS = 16


def collected(num_envs: int) -> tuple[ActorCritic, Rollout]:
    torch.manual_seed(0)
    env = ToyEnv(num_envs, CPU)
    policy = ActorCritic(HybridSpace(env.action_space), (2,), 2, encoder=partial(MLP, hidden_sizes=(8,)))
    rollout = allocate(env, policy.space, STEPS, 2)
    return policy, Collector(env, policy, rollout, torch.Generator().manual_seed(0), 0).collect()[0]


def advantages(num_envs: int, seed: int = 0) -> Tensor:
    return torch.randn(STEPS, num_envs, generator=torch.Generator().manual_seed(seed))


def twin_halves() -> tuple[ActorCritic, Rollout, Tensor]:
    """Each environment with an odd number went through exactly what the one before it did, advantages too."""
    policy, rollout = collected(8)

    def twin(tensor: Tensor) -> Tensor:
        return tensor[:, :4].repeat_interleave(2, dim=1)

    rollout.observations, rollout.actions = twin(rollout.observations), Actions(*map(twin, rollout.actions))
    return policy, rollout, twin(advantages(8))


def test_the_same_advantage_on_the_same_samples_has_cosine_1_and_its_opposite_minus_1() -> None:
    policy, rollout, ours = twin_halves()
    candidates = torch.stack([ours, -ours, 3.0 * ours, ours + 7.0], dim=-1)  # size and shift do not matter
    cosines = PolicyProbe(policy, rollout).cosines(ours, candidates)
    assert cosines.tolist() == pytest.approx([1.0, -1.0, 1.0, 1.0], abs=1e-5)
    assert not cosines.requires_grad


def test_reference_and_candidates_come_from_disjoint_halves() -> None:
    policy, rollout = collected(8)
    reference, candidates = advantages(8), torch.stack([advantages(8, 1), advantages(8, 2)], dim=-1)
    probe = PolicyProbe(policy, rollout)
    before = probe.cosines(reference, candidates)
    reference[:, 1::2], candidates[:, ::2] = 1e3, -1e3
    assert torch.equal(probe.cosines(reference, candidates), before)
    candidates[0, 1] += 1.0
    assert not torch.equal(probe.cosines(reference, candidates), before)


def test_on_independent_halves_noise_does_not_agree_with_itself() -> None:
    policy, rollout = collected(8)
    noise = [
        PolicyProbe(policy, rollout).cosines(advantages(8, s), advantages(8, s)[..., None]) for s in range(40)
    ]
    # One sample against itself would be +1 every time.
    assert abs(float(torch.cat(noise).mean())) < 0.3


def test_of_a_single_environment_the_halves_are_in_time() -> None:
    policy, rollout = collected(1)
    reference, candidates = advantages(1), advantages(1, 1)[..., None]
    probe = PolicyProbe(policy, rollout)
    before = probe.cosines(reference, candidates)
    reference[STEPS // 2 :], candidates[: STEPS // 2] = 1e3, -1e3
    assert torch.equal(probe.cosines(reference, candidates), before)


def test_probing_leaves_no_gradients_behind() -> None:
    policy, rollout = collected(4)
    PolicyProbe(policy, rollout).cosines(advantages(4), advantages(4, 1)[..., None])
    assert all(parameter.grad is None for parameter in policy.parameters())
