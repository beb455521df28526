"""Behaviour cloning: a policy learns what a teacher did (Pomerleau, "ALVINN", 1989)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equipoise.trainer.data import Actions
from equipoise.trainer.demonstrations import Demonstrations
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.policy.protocol import Policy


def imitation_loss(distribution: HybridDistribution, actions: Actions) -> Tensor:
    """`[B]`: minus the log-probability of a teacher's actions, numbers in [-1, 1], those that matter only.

    Towards numbers the spread is held: it would shrink to nothing, and with it all exploration, and single
    errors would weigh as much as they are narrow.
    """
    family, space = distribution.family, distribution.space
    samples = family.from_range(actions.continuous)
    each = family.log_prob(samples, distribution.mean, distribution.log_std.detach())
    numbers = (each * distribution.relevant(actions.discrete)).sum(-1)
    choices = distribution.discrete_log_prob(actions.discrete).sum(-1)
    return -(choices + numbers) if space.num_continuous else -choices


def clone(
    policy: Policy,
    demonstrations: Demonstrations,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    told: Callable[[int, float, float], object] = lambda epoch, loss, agreement: None,
) -> None:
    """Fit `policy` to all `demonstrations`, `epochs` times, by Adam at a rate that falls to 0.

    The running statistics of observations are theirs afterwards. The critic learns nothing.

    Args:
        generator: of the order, on the device of the demonstrations.
        told: gets, after each epoch, its number, the mean loss, and the share of choices that agreed.

    Raises:
        ValueError: for demonstrations of another environment, or a policy with a memory.
    """
    check(policy, demonstrations)
    policy.update_normalizer(demonstrations.observations)
    inputs = policy.normalize(demonstrations.observations)
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    size = min(batch_size, len(inputs))
    batches = len(inputs) // size
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * batches)
    for epoch in range(epochs):
        order = torch.randperm(len(inputs), generator=generator, device=inputs.device)
        losses, agreed = [], []
        for rows in torch.split(order[: batches * size], size):
            actions = Actions(*(part[rows] for part in demonstrations.actions))
            distribution = policy.distribution(
                inputs[rows], demonstrations.action_mask[rows], actions.discrete
            )
            loss = imitation_loss(distribution, actions).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
            agreed.append((distribution.mode().discrete == actions.discrete).float().mean())
        told(epoch + 1, float(torch.stack(losses).mean()), float(torch.stack(agreed).mean()))


def check_learner(policy: Policy) -> None:
    """Raises ValueError where `policy` cannot learn from any demonstrations."""
    if policy.state_size:
        raise ValueError("policy.memory: what is remembered cannot be learned from single demonstrations")


def check(policy: Policy, demonstrations: Demonstrations) -> None:
    """Raises ValueError where `policy` cannot learn from `demonstrations`."""
    check_learner(policy)
    space = policy.space
    wanted = policy.observation_width, space.num_heads, space.num_continuous
    observations, (discrete, continuous), mask = demonstrations
    given = observations.shape[1], discrete.shape[1], continuous.shape[1]
    if given != wanted or mask.shape[1:] != space.valid_choices.shape:
        raise ValueError(
            f"demonstrations of {given[0]} observed numbers, {given[1]} choices and {given[2]} parameters "
            f"do not fit an environment of {wanted[0]}, {wanted[1]} and {wanted[2]}"
        )
