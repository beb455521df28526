"""The entities that exist, of all sets in one column: on a CPU nothing is computed for the others."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.trainer.policy.encoders.node_set import pool


class Living:
    """Rows `[R, W]` of entities, and what belongs to their sets.

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
        total = rows.new_zeros(self.exists.shape[0], rows.shape[1]).index_add(0, self._sets, rows)
        return total / self.exists.sum(1, keepdim=True).clamp(min=1.0)

    def given(self, of_sets: Tensor) -> Tensor:
        """`[B, W]` -> `[R, W]`: to each what its set has."""
        if self._rows is None:
            return of_sets.repeat_interleave(self.exists.shape[1], 0)
        return of_sets.index_select(0, self._sets)

    def placed(self, rows: Tensor) -> Tensor:
        """`[R, W]` -> `[B, N, W]`, 0 for those that do not exist."""
        if self._rows is None:
            return rows.view(*self.exists.shape, rows.shape[1]) * self.exists.unsqueeze(-1)
        everything = rows.new_zeros(self.exists.numel(), rows.shape[1])
        return everything.index_copy(0, self._rows, rows).view(*self.exists.shape, rows.shape[1])
