"""Running statistics of observations and of value targets, frozen from collection to the end of the update.

Because nothing moves in between, the first minibatch of an iteration sees exactly the policy and the values
that acted: ratio 1, and v = v_old.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from equipoise.trainer.data import Metric, Metrics, critic_heads
from equipoise.trainer.policy.storage import Storage
from equipoise.trainer.running_moments import RunningMoments
from equipoise.trainer.system import distributed

_CLIP = 10.0
"""Normalised observations beyond this many standard deviations are outliers to a network."""


def _safe_std(mean: Tensor, variance: Tensor) -> Tensor:
    """The standard deviation, and 1 for a metric that does not vary beyond float32's resolution of it.

    Relative to the mean: rewards of 1e-12 are as good as rewards of 1e12.
    """
    std = variance.clamp(min=0.0).sqrt()
    return torch.where(std > 1e-6 * mean.abs(), std, torch.ones_like(std))


class ObservationNormalizer(nn.Module):
    """`(observation − mean) / std`, clipped to ±10, with moments over everything seen so far."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.moments = RunningMoments((width,))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def forward(self, observations: Tensor) -> Tensor:
        return ((observations - self.mean) / self.std).clamp(-_CLIP, _CLIP)

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Take in `[..., O]` of every process."""
        self.moments.update(observations)
        self.mean.copy_(self.moments.mean)
        self.std.copy_(_safe_std(self.moments.mean, self.moments.var))


class PartsNormalizer(ObservationNormalizer):
    """The same for the numbers of an observation that are no bytes, by part; all others stay as they are.

    Where a part has several axes, all places along the first one, which are things of a set or frames of a
    stack, share their statistics: what stands where must not matter.

    Args:
        storage: packed observations are those of it.
        raw: parts that must stay as they are, by name.
    """

    def __init__(self, storage: Storage, raw: Collection[str] = ()) -> None:
        super().__init__(storage.count)
        self.storage = storage
        self.columns: Tensor
        self.register_buffer("columns", torch.tensor(storage.columns, dtype=torch.int64), persistent=False)
        self._parts = [(part, part.name in raw) for part in storage.parts if not part.whole]

    def forward(self, observations: Tensor) -> Tensor:
        """Observations, packed or not."""
        if observations.dtype == torch.uint8:
            numbers = super().forward(self.storage.numbers(observations))
            return self.storage.with_numbers(observations, numbers)
        numbers = super().forward(observations.index_select(-1, self.columns))
        return observations.index_copy(-1, self.columns, numbers)

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Take in observations, packed or not, of every process."""
        packed = observations.dtype == torch.uint8
        numbers = observations.index_select(-1, self.columns) if not packed else None
        super().update(self.storage.numbers(observations) if numbers is None else numbers)
        first = 0
        for part, raw in self._parts:
            columns = slice(first, first := first + part.stop - part.first)
            mean, std = self.mean[columns], self.std[columns]
            if raw:
                mean.zero_()
                std.fill_(1.0)
            elif len(part.shape) > 1:
                means = self.moments.mean[columns].view(part.shape[0], -1)
                squares = self.moments.var[columns].view(part.shape[0], -1) + means.square()
                middle = means.mean(0)
                variance = (squares.mean(0) - middle.square()).clamp(min=0.0)
                mean.copy_(middle.repeat(part.shape[0]))
                std.copy_(_safe_std(middle, variance).repeat(part.shape[0]))


class ValueNormalizer(nn.Module):
    """Value targets to mean 0 and std 1, each component by itself, over about the last ten iterations.

    When the statistics move, the last layer of the critic is moved against them, so that its values in
    reward units stay what they were (PopArt: van Hasselt et al., "Learning values across many orders of
    magnitude", 2016, section 2.1).
    """

    mean: Tensor
    std: Tensor
    moments: Tensor
    weight: Tensor

    def __init__(self, num_values: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(num_values))
        self.register_buffer("std", torch.ones(num_values))
        self.register_buffer("moments", torch.zeros(2, num_values, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    def normalize(self, values: Tensor) -> Tensor:
        """`[..., V]` in reward units -> normalised."""
        return (values - self.mean) / self.std

    def denormalize(self, values: Tensor) -> Tensor:
        """`[..., V]` normalised -> reward units."""
        return values * self.std + self.mean

    @torch.no_grad()
    def update(self, returns: Tensor, head: nn.Linear) -> None:
        """Take in the returns `[..., V]` of every process and move `head` so that its values stay."""
        batch = returns.reshape(-1, returns.shape[-1]).to(torch.float64)
        mean = distributed.all_reduce_mean(batch.mean(0))
        variance = distributed.all_reduce_mean((batch - mean).square().mean(0))
        # Moments about the present mean: E[x²] − E[x]² would cancel where the mean is large.
        keep = self.momentum * self.weight
        weight = keep + (1.0 - self.momentum)
        share = (1.0 - self.momentum) / weight
        old_mean, old_variance = self.moments
        shift = mean - old_mean
        new_mean = old_mean + share * shift
        new_variance = (1.0 - share) * (old_variance + share * shift.square()) + share * variance
        self.weight.copy_(weight)
        self.moments.copy_(torch.stack([new_mean, new_variance]))
        new_std = _safe_std(new_mean, new_variance)
        head.weight *= (self.std / new_std).to(head.weight.dtype).unsqueeze(-1)
        head.bias.copy_((head.bias * self.std + self.mean - new_mean) / new_std)
        self.mean.copy_(new_mean)
        self.std.copy_(new_std)


def value_metrics(values: Tensor, applied: Tensor | None, reward_names: Sequence[str]) -> Metrics:
    """The mean value of each head: in units of the reward that the critic is trained on, and in raw units.

    Args:
        values: `[T, N, V]`, not normalised.
        applied: `[K]` what the raw rewards were multiplied with; None where no one number undoes it. The
            head of the task reward, which nothing multiplies, is in raw units as it is.
    """
    mean = values.mean((0, 1))
    metrics = {"mean": mean}
    if applied is not None:
        metrics["raw_mean"] = torch.cat([mean[: len(applied)] / applied, mean[len(applied) :]])
    return {
        f"value/{metric}/{name}": Metric(number)
        for metric, numbers in metrics.items()
        for name, number in zip(critic_heads(reward_names, len(mean)), numbers.unbind(), strict=False)
    }
