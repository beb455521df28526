"""The few collective operations that training needs; without a process group each is the identity."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def total(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all processes."""
    if world_size() == 1:
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor


def mean(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes."""
    return tensor if world_size() == 1 else total(tensor) / world_size()
