"""Running mean and variance of everything seen so far, on the device, over all processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equipoise.trainer.system import distributed


class RunningMoments(nn.Module):
    """Mean and population variance of samples of one shape.

    Accumulated in float64 by the pairwise update of Chan, Golub and LeVeque (1979), which generalises
    Welford (1962). Every process ends up with the moments of the samples of all of them. The tensors are
    written in place, so that they may be captured in a graph.
    """

    count: Tensor
    """Samples seen."""
    mean: Tensor
    """`[*shape]`, 0 before the first sample."""
    squares: Tensor
    """`[*shape]`: Σ (x − mean)²."""

    def __init__(self, shape: tuple[int, ...], device: torch.device | None = None) -> None:
        super().__init__()
        self.shape = shape
        for name, size in (("count", ()), ("mean", shape), ("squares", shape)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64, device=device))

    @property
    def var(self) -> Tensor:
        """`[*shape]` population variance, 1 before the first sample."""
        return torch.where(self.count > 0, self.squares / self.count.clamp(min=1), 1.0)

    @property
    def std(self) -> Tensor:
        """`[*shape]` population standard deviation, 1 before the first sample."""
        return self.var.sqrt()

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """Add the samples `[..., *shape]`; at least one leading dimension, none of them empty.

        Collective: each of several processes adds its own samples, and all must call this.
        """
        leading = batch.dim() - len(self.shape)
        if leading < 1 or tuple(batch.shape[leading:]) != self.shape or batch.numel() == 0:
            raise ValueError(f"expected samples of shape [..., {self.shape}], got {tuple(batch.shape)}")
        samples = batch.reshape(-1, *self.shape).to(torch.float64)
        count = distributed.all_reduce_sum(self.count.new_full((), len(samples)))
        mean = distributed.all_reduce_sum(samples.sum(0)) / count
        squares = distributed.all_reduce_sum((samples - mean).square().sum(0))

        shift = mean - self.mean
        fraction = count / (self.count + count)
        self.squares += squares + shift.square() * self.count * fraction
        self.mean += shift * fraction
        self.count += count
