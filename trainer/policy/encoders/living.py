"""The things of sets that exist, all in one column: on a CPU nothing is computed for the others."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class Living:
    """Rows `[R, W]` of things, and what belongs to their sets.

    On a GPU, and in a compiled or exported graph, they are all rows, `R = B·N`: how many exist only the
    device knows, and nobody is to wait for it.

    Args:
        exists: `[B, N]`, 1 or 0.
    """

    def __init__(self, exists: Tensor) -> None:
        self.exists = exists
        self._rows: Tensor | None = None
        if exists.device.type == "cpu" and not torch.compiler.is_compiling():
            rows = exists.reshape(-1).nonzero().squeeze(1)
            if len(rows) < exists.numel():
                self._rows, self._sets = rows, rows // exists.shape[1]

    def of(self, everything: Tensor) -> Tensor:
        """`[B·N, F]` -> `[R, F]`."""
        return everything if self._rows is None else everything.index_select(0, self._rows)

    def mean(self, rows: Tensor) -> Tensor:
        """`[R, W]` -> `[B, W]`, over those that exist; 0 without any."""
        if self._rows is None:
            return pool(rows, self.exists)
        total = rows.new_zeros(self.exists.shape[0], rows.shape[1]).index_add_(0, self._sets, rows)
        return total / self.exists.sum(1, keepdim=True).clamp(min=1.0)

    def given(self, of_sets: Tensor) -> Tensor:
        """`[B, W]` -> `[R, W]`: to each what its set has."""
        if self._rows is None:
            size, width = of_sets.shape
            return of_sets.unsqueeze(1).expand(size, self.exists.shape[1], width).reshape(-1, width)
        return of_sets.index_select(0, self._sets)

    def placed(self, rows: Tensor) -> Tensor:
        """`[R, W]` -> `[B, N, W]`, 0 for those that do not exist."""
        if self._rows is None:
            return rows.view(*self.exists.shape, rows.shape[1]) * self.exists.unsqueeze(-1)
        everything = rows.new_zeros(self.exists.numel(), rows.shape[1])
        return everything.index_copy_(0, self._rows, rows).view(*self.exists.shape, rows.shape[1])

    def through(self, layer: nn.Linear, rows: Tensor) -> Tensor:
        """`layer(placed(rows))`, `[R, W]` -> `[B, N, outputs]`, computed for those that exist alone."""
        if self._rows is None or layer.bias is None:
            return cast(Tensor, layer(self.placed(rows)))
        everything = layer.bias.expand(self.exists.numel(), -1).index_copy(0, self._rows, layer(rows))
        return everything.view(*self.exists.shape, layer.out_features)


Features = Tensor | tuple[Living, Tensor]
"""Of an encoder, `[B, W]` or `[B, N, W]`; or the rows of things that exist."""


def through(layer: nn.Linear, features: Features) -> Tensor:
    """`layer(features)`, of an encoder's features or of its rows."""
    if isinstance(features, tuple):
        living, rows = features
        return living.through(layer, rows)
    return cast(Tensor, layer(features))


def pool(hidden: Tensor, exists: Tensor) -> Tensor:
    """Mean over the things that exist, `[B·N, W]`, `[B, N]` -> `[B, W]`; 0 without any."""
    share = exists / exists.sum(-1, keepdim=True).clamp(min=1.0)
    return torch.bmm(share.unsqueeze(-2), hidden.view(*exists.shape, hidden.shape[-1])).squeeze(-2)
