"""How much of each side's gradient is signal, and how much is noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equipoise.trainer.configuration.schema import TrainerConfig
from equipoise.trainer.data import Metric, Metrics, Minibatch, Sequences
from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.minibatches import map_tensors, of_environments
from equipoise.trainer.objective import surrogates_of
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.stages.protocol import SIDES, reduce_terms
from equipoise.trainer.system import distributed

SAMPLES = 512
"""Samples of each half, over all processes: enough to see a signal, cheap compared to the updates."""


def signal_shares(
    policy: Policy,
    flat: FlatParameters,
    shared: Tensor | None,
    samples: Minibatch,
    settings: TrainerConfig,
) -> Metrics:
    """`‖E g‖² / E‖g‖²` of each surrogate's gradient `g` over half of a rollout: 1 where nothing is noise; and
    `‖E g‖`, the norm of what is not noise (where the estimate of its square is negative, so is it).

    The gradients of two halves that have nothing in common, g₁ and g₂, have one expectation, so that g₁·g₂
    estimates ‖E g‖² without bias; ½(‖g₁‖² + ‖g₂‖²) estimates E‖g‖². Where there is no signal the share
    scatters around 0. A share s of n samples means a noise scale (McCandlish et al., "An empirical model of
    large-batch training", 2018) of n·(1 − s)/s samples.

    Not measured of a single environment whose sequence a memory goes through.

    Args:
        flat: the policy's parameters.
        shared: `[n]` 1 for the parameters to take it over, which both sides reach; None: each side's own.
        samples: `B = T·N`, a whole rollout from which no update has learned yet.
    """
    if len(samples.advantages) < 2:
        return {}
    steps = settings.batch.rollout_steps
    if samples.sequences is None:
        parts = [take(samples, rows) for rows in halves(samples, steps, SAMPLES)]
    elif steps < len(samples.advantages):
        parts = _whole_sequences(samples, samples.sequences)
    else:
        return {}
    found = [_gradients(policy, flat, half, settings) for half in parts]
    metrics = {}
    for side, one, other in zip(SIDES, *found, strict=True):
        if shared is not None:
            one, other = one * shared, other * shared
        metrics[f"gradient_scaling/{side}_signal_share"] = Metric(signal_share(one, other))
        metrics[f"gradient_scaling/{side}_signal_norm"] = Metric(signed_root(torch.dot(one, other)))
    return metrics


def signal_share(one: Tensor, other: Tensor) -> Tensor:
    """`‖E g‖² / E‖g‖²` from the gradients `[n]` of two halves; NaN where both are 0."""
    size = 0.5 * (one.square().sum() + other.square().sum())
    return torch.where(size > 0, torch.dot(one, other) / size, torch.nan)


def signed_root(number: Tensor) -> Tensor:
    """Of a device scalar: the root of its size, with its sign."""
    return number.sign() * number.abs().sqrt()


def take(samples: Minibatch, rows: Tensor) -> Minibatch:
    """Those of `rows` alone."""
    return map_tensors(samples, lambda tensor: tensor.index_select(0, rows))


def halves(samples: Minibatch, steps: int, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows of every other environment, since neighbouring steps share their noise; of a single environment
    those of the first and of the second half of the rollout. Equally many of both, `limit` at most over all
    processes."""
    index = torch.arange(len(samples.advantages), device=samples.advantages.device).view(steps, -1)
    first, second = (index[:, ::2], index[:, 1::2]) if index.shape[1] > 1 else index.tensor_split(2)
    size = min(first.numel(), second.numel())
    if limit is not None:
        size = min(size, max(1, limit // distributed.world_size()))

    def spread(rows: Tensor) -> Tensor:
        return rows.reshape(-1)[:: rows.numel() // size][:size]

    return spread(first), spread(second)


def _whole_sequences(samples: Minibatch, sequences: Sequences) -> list[Minibatch]:
    """Those of every other environment, equally many of both."""
    steps, num_envs = sequences.begins.shape
    size = min(num_envs // 2, max(1, SAMPLES // distributed.world_size() // steps))
    each = torch.arange(num_envs, device=sequences.begins.device)
    return [of_environments(samples, sequences, half[:size]) for half in (each[::2], each[1::2])]


@torch.enable_grad()
def _gradients(
    policy: Policy, flat: FlatParameters, batch: Minibatch, settings: TrainerConfig
) -> Sequence[Tensor]:
    """`[n]` for each side."""
    losses = side_losses(batch, distribution_of(policy, batch), settings)
    return distributed.all_reduce_means([flat.gradient(losses[side], retain_graph=True) for side in SIDES])


def distribution_of(policy: Policy, batch: Minibatch) -> HybridDistribution:
    """What the policy, as it is now, would draw the actions of the samples from."""
    inputs = policy.recall(batch.inputs, batch.sequences)
    return policy.distribution(inputs, batch.action_mask, batch.actions.discrete)


def side_losses(
    batch: Minibatch, distribution: HybridDistribution, settings: TrainerConfig
) -> dict[str, Tensor]:
    """The surrogate of each side, without any stage."""
    sides = surrogates_of(batch, distribution, settings)
    return reduce_terms({"discrete": sides.discrete, "continuous": sides.continuous})
