"""The memories of a policy, one behind each of its encoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from equipoise.trainer.data import Sequences
from equipoise.trainer.policy.memory.contract import MakeMemory, make_memory
from equipoise.trainer.policy.protocol import Encoder


class Columns(Encoder):
    """Stands where an encoder stood: takes the features of its memory from those of all."""

    def __init__(self, first: int, width: int) -> None:
        super().__init__()
        self.first, self.width = first, width

    def forward(self, features: Tensor) -> Tensor:
        return features.narrow(-1, self.first, self.width)


class Memories(nn.Module):
    """Their features, and their states, lie side by side in one row.

    Args:
        make: each of them.
    """

    def __init__(self, make: MakeMemory) -> None:
        super().__init__()
        self._make = make
        self.encoders, self.memories = nn.ModuleList(), nn.ModuleList()
        self._sizes: list[int] = []
        self.width = 0

    @property
    def state_size(self) -> int:
        return sum(self._sizes)

    def behind(self, encoder: Encoder) -> Encoder:
        """Put a memory behind `encoder`; returns what stands in its place.

        Raises:
            ValueError: the memory breaks its contract, or the encoder gives no row of features.
        """
        if getattr(encoder, "nodes", None) is not None:
            raise ValueError(
                f"policy.memory: remembers a row of features; {type(encoder).__name__} gives those of each "
                "node, which it cannot tell from step to step (use policy.memory=null or policy=mlp)"
            )
        memory = make_memory(self._make, encoder.width)
        self.encoders.append(encoder)
        self.memories.append(memory)
        self._sizes.append(memory.state_size)
        columns = Columns(self.width, memory.width)
        self.width += memory.width
        return columns

    def step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Policy.remember`."""
        parts = zip(self.encoders, self.memories, torch.split(state, self._sizes, -1), strict=True)
        found = [memory.step(encoder(inputs), own) for encoder, memory, own in parts]  # type: ignore[operator]
        return _joined([features for features, _ in found]), _joined([own for _, own in found])

    def forward(self, inputs: Tensor, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """See `Policy.replay`."""
        size, begins = sequences.begins.shape, sequences.begins
        parts = zip(self.encoders, self.memories, torch.split(sequences.state, self._sizes, -1), strict=True)
        found = [
            memory(encoder(inputs).view(*size, -1), Sequences(own, begins)) for encoder, memory, own in parts
        ]
        return _joined([features.flatten(0, 1) for features, _ in found]), _joined([own for _, own in found])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)
