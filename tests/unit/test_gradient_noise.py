"""Signal and noise of each side's gradient."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.schema import TrainerConfig
from equipoise.trainer.data import Actions, Minibatch
from equipoise.trainer.gradient_noise import signal_shares
from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.minibatches import map_tensors
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.encoders import MLP
from equipoise.trainer.spaces import HybridSpace
from tests.conftest import TOY

SPACE = HybridSpace(spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,)))))
NUM_ENVS = 8


@pytest.fixture(scope="module")
def settings() -> TrainerConfig:
    return compose(TOY).trainer


def samples(policy: ActorCritic, size: int, seed: int, learnable: bool = False) -> Minibatch:
    """Of random observations and advantages; `learnable`: choice 1 is always the better one."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 2, generator=generator)
    actions = Actions(
        torch.randint(2, (size, 1), generator=generator), torch.randn(size, 1, generator=generator)
    )
    advantages = torch.randn(size, generator=generator)
    if learnable:
        advantages = 2.0 * actions.discrete[:, 0] - 1.0 + 0.1 * advantages
    mask = torch.ones(size, 1, 2, dtype=torch.bool)
    with torch.no_grad():
        distribution = policy.distribution(inputs, mask)
        discrete = distribution.discrete_log_prob(actions.discrete)
        continuous = distribution.continuous_log_prob(
            actions.continuous, distribution.relevant(actions.discrete)
        )
    values = torch.zeros(size, 1)
    return Minibatch(inputs, actions, mask, discrete, continuous, advantages, values, values)


def of_rollout(batch: Minibatch, settings: TrainerConfig) -> TrainerConfig:
    """The settings of a rollout that has the samples of `batch`."""
    steps = len(batch.advantages) // NUM_ENVS
    return settings.model_copy(update={"batch": settings.batch.model_copy(update={"rollout_steps": steps})})


@pytest.fixture
def policy() -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(SPACE, (2,), 1, encoder=partial(MLP, hidden_sizes=(8,)))


def shares(policy: ActorCritic, batch: Minibatch, settings: TrainerConfig) -> tuple[float, float]:
    metrics = signal_shares(policy, FlatParameters(policy), None, batch, of_rollout(batch, settings))
    discrete, continuous = (
        float(metrics[f"gradient_scaling/{side}_signal_share"].value) for side in ("discrete", "continuous")
    )
    return discrete, continuous


def test_a_side_with_something_to_learn_stands_out_of_its_noise(
    policy: ActorCritic, settings: TrainerConfig
) -> None:
    found = torch.tensor(
        [shares(policy, samples(policy, 1024, s, learnable=True), settings) for s in range(8)]
    )
    assert float(found[:, 0].min()) > 0.8  # of 512 samples that all say the same


def test_where_there_is_nothing_to_learn_the_mean_share_is_none(
    policy: ActorCritic, settings: TrainerConfig
) -> None:
    """The squared norm of a mean, in place of the product of two halves, would give a half."""
    found = torch.tensor([shares(policy, samples(policy, 256, s), settings) for s in range(100)])
    assert float(found.mean(0).abs().max()) < 0.2


def test_halves_are_of_different_environments(policy: ActorCritic, settings: TrainerConfig) -> None:
    """Twins: each odd environment goes through what the even one before it did. Then nothing is noise."""
    batch = samples(policy, 256, 0)

    def twin(field: Tensor) -> Tensor:
        rows = field.view(-1, NUM_ENVS, *field.shape[1:])
        return rows[:, ::2].repeat_interleave(2, dim=1).reshape(field.shape)

    assert shares(policy, map_tensors(batch, twin), settings) == pytest.approx((1.0, 1.0), abs=1e-5)


def test_probing_leaves_no_gradients_behind(policy: ActorCritic, settings: TrainerConfig) -> None:
    shares(policy, samples(policy, 64, 0), settings)
    assert all(parameter.grad is None for parameter in policy.parameters())
