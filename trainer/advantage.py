"""Generalised advantage estimation, for any number of reward components at once."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_gae(
    rewards: Tensor,
    values: Tensor,
    last_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_values: Tensor,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns (Schulman et al., "High-dimensional continuous control using generalized
    advantage estimation", 2016, equation 16), for the whole batch at once.

    An episode that terminated has no value after its end. One that was truncated goes on as far as the
    value is concerned: it bootstraps from the value of its final observation. Where both flags are set,
    terminated wins. No advantage reaches across the end of an episode.

    Args:
        rewards, values, final_values: `[T, N]` or `[T, N, K]`; `final_values` is read only where truncated.
        last_values: `[N]` or `[N, K]`, of the observation after the last step.
        terminated, truncated: `[T, N]` bool.

    Returns:
        `(advantages, returns)`, both shaped like `rewards`; `returns = advantages + values`.
    """
    per_component = (..., *([None] * (rewards.dim() - terminated.dim())))
    terminated, truncated = terminated[per_component], truncated[per_component]
    next_values = torch.cat([values[1:], last_values.unsqueeze(0)])
    next_values = torch.where(truncated, final_values, next_values).masked_fill(terminated, 0.0)
    advantages = rewards + gamma * next_values - values
    carry = (gamma * gae_lambda) * (~(terminated | truncated)).to(rewards.dtype)
    for step in range(len(rewards) - 2, -1, -1):
        advantages[step].addcmul_(carry[step], advantages[step + 1])
    return advantages, advantages + values
