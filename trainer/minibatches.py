"""Minibatches: the samples of a rollout in random order, cut into equal parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from equipoise.trainer.data import Minibatch


def minibatches(samples: Minibatch, count: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """Every sample once, in random order, in `count` minibatches of equal size.

    `generator`: on the device of the samples. The minibatches are views of one shuffled copy.
    """
    total = len(samples.advantages)
    order = torch.randperm(total, generator=generator, device=samples.advantages.device)
    shuffled = map_tensors(samples, lambda tensor: tensor.index_select(0, order))
    size = total // count
    for first in range(0, total, size):
        yield map_tensors(shuffled, itemgetter(slice(first, first + size)))


def map_tensors(samples: Minibatch, function: Callable[[Tensor], Tensor]) -> Minibatch:
    """Apply `function` to each tensor in `samples`."""

    def mapped(field: Any) -> Any:
        if isinstance(field, tuple):
            return type(field)(*map(mapped, field))
        return None if field is None else function(field)

    return Minibatch(*map(mapped, samples))
