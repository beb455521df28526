"""The order in which heads decide, and functions that take their choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from equipoise.trainer.spaces import HybridSpace

Choose: TypeAlias = Callable[[int, Tensor], Tensor]
"""Takes a choice: head and its logits `[B, choices]` -> `[B]` int64."""


def order_of(names: Sequence[str | int] | None, space: HybridSpace) -> tuple[int, ...]:
    """The heads in the order of `names`, see `ActionTable.heads_of`; as declared without them.

    Raises:
        ValueError: they do not name every head once.
    """
    every = tuple(range(space.num_heads))
    if names is None:
        return every
    try:
        order = tuple(head for name in names for head in space.table.heads_of(name))
    except KeyError:
        order = ()
    if tuple(sorted(order)) != every:
        heads = ", ".join(str(space.table.head_name(head)) for head in every) or "none"
        raise ValueError(f"policy.order = {list(names)}: must name each of these once: {heads}")
    return order


def told(choices: Tensor) -> Choose:
    """Takes the `choices` `[B, H]` that have been taken already."""
    return lambda head, logits: choices[:, head]


def in_turn(space: HybridSpace, order: Sequence[int], logits: Tensor, choose: Choose) -> Tensor:
    """The choices `[B, H]` of heads that do not depend on each other, taken in `order`."""
    taken = {head: choose(head, space.of_head(logits, head)) for head in order}
    return torch.stack([taken[head] for head in range(space.num_heads)], 1)
