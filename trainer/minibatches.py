"""Minibatches: the samples of a rollout in random order, cut into equal parts.

Where the policy has a memory, whole sequences are put in random order: those of a number of environments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from equipoise.trainer.data import Minibatch, Sequences


def minibatches(samples: Minibatch, count: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """Every sample once, in random order, in `count` minibatches of equal size.

    `generator`: on the device of the samples. The minibatches are views of one shuffled copy.
    """
    if samples.sequences is not None:
        yield from _of_sequences(samples, samples.sequences, count, generator)
        return
    total = len(samples.advantages)
    order = torch.randperm(total, generator=generator, device=samples.advantages.device)
    shuffled = map_tensors(samples, lambda tensor: tensor.index_select(0, order))
    size = total // count
    for first in range(0, total, size):
        yield map_tensors(shuffled, itemgetter(slice(first, first + size)))


def _of_sequences(
    samples: Minibatch, sequences: Sequences, count: int, generator: torch.Generator
) -> Iterator[Minibatch]:
    num = len(sequences.state)
    order = torch.randperm(num, generator=generator, device=sequences.state.device)
    for chosen in order.view(count, num // count):
        yield of_environments(samples, sequences, chosen)


def of_environments(samples: Minibatch, sequences: Sequences, chosen: Tensor) -> Minibatch:
    """The sequences of the environments `chosen` `[n]`."""

    def take(tensor: Tensor) -> Tensor:
        return tensor.view(*sequences.begins.shape, *tensor.shape[1:]).index_select(1, chosen).flatten(0, 1)

    return map_tensors(samples, take)._replace(sequences=sequences.of(chosen))


def map_tensors(samples: Minibatch, function: Callable[[Tensor], Tensor]) -> Minibatch:
    """Apply `function` to each tensor `[B, ...]` in `samples`, which are then no sequences any more."""

    def mapped(field: Any) -> Any:
        if isinstance(field, tuple):
            return type(field)(*map(mapped, field))
        return None if field is None else function(field)

    return Minibatch(*map(mapped, samples._replace(sequences=None)))
