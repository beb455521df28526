"""Returns and lengths of the episodes in a rollout, whichever rollout they began in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.trainer.data import Metric, Metrics
from equipoise.trainer.system import distributed

LENGTH = "episode/length"
ENOUGH = 10
"""See `short_ones_only`."""


class Unfinished(NamedTuple):
    """Return and length so far of the episodes that continue, `[N]` each."""

    returns: Tensor
    """float32."""
    lengths: Tensor
    """float32, in steps."""


class Episodes(NamedTuple):
    """Return and length of episodes that ended in a rollout, `[T, N]`, at their last step; NaN elsewhere."""

    returns: Tensor
    lengths: Tensor


def count_episodes(
    rewards: Tensor, done: Tensor, before: Unfinished, idle: Tensor | None = None
) -> tuple[Episodes, Unfinished]:
    """Returns and lengths of episodes, without a loop over the steps.

    The return of an episode is the running sum of its environment's rewards at its last step, minus that
    sum at the end of the episode before; so is its length, of ones. The first episode of a rollout starts
    from `before` instead.

    Args:
        rewards: `[T, N]` task rewards.
        done: `[T, N]` bool: an episode ended in this step.
        before: of the episodes that were under way when the rollout began.
        idle: `[T, N]` bool: a step that only begins an episode, and is not one of it.

    Returns:
        The episodes that ended, and those that continue after the last step.
    """
    step = torch.arange(len(done), device=done.device).unsqueeze(-1)
    # [T, N]: the last step before this one in which an episode ended; -1: none has in this rollout.
    latest_end = torch.where(done, step, -1).cummax(0).values
    previous_end = torch.cat([torch.full_like(latest_end[:1], -1), latest_end[:-1]])
    first = previous_end < 0

    def since(each: Tensor, already: Tensor) -> Tensor:
        """`[T, N]`: the sum of `each` since the episode of a step began."""
        total = each.double().cumsum(0)
        return (
            total - torch.where(first, -already.double(), total.gather(0, previous_end.clamp(min=0)))
        ).float()

    returns = since(rewards, before.returns)
    lengths = since(torch.ones_like(rewards) if idle is None else ~idle, before.lengths)
    ended = Episodes(returns.where(done, torch.nan), lengths.where(done, torch.nan))
    last = done[-1]
    return ended, Unfinished(returns[-1].masked_fill(last, 0.0), lengths[-1].masked_fill(last, 0.0))


def short_ones_only(ended: Tensor) -> Tensor:
    """Whether the episodes so far are mainly those that end early (bool scalar), so that their mean misleads.

    Environments that are reset together first finish their short episodes: those that fail soon, or succeed
    soon. A mean of them moves as the long ones come in, whatever the policy learns. So this is true until
    every environment has finished an episode, or, should one of them be caught in an endless episode, until
    `ENOUGH` times as many have ended as there are environments.

    Args:
        ended: `[N]` int64: how many episodes have ended in each environment since all were reset.
    """
    return (ended == 0).any() & (ended.sum() < ENOUGH * len(ended))


def episode_means(steps: list[Metrics], hold_back: Tensor | None = None) -> Metrics:
    """Mean of each metric over all steps and processes, NaNs left out; a step need not have every metric.

    Where `hold_back` (bool scalar) is true, this process contributes nothing but the length.
    """
    sums = {}
    for tag in dict.fromkeys(tag for step in steps for tag in step):
        metrics = torch.stack([step[tag].value for step in steps if tag in step])
        if hold_back is not None and tag != LENGTH:
            metrics = metrics.masked_fill(hold_back, torch.nan)
        sums[tag] = torch.stack([metrics.nansum(), (~metrics.isnan()).sum()])
    return {tag: Metric(whole / count) for tag, (whole, count) in distributed.all_reduce_sums(sums).items()}
