"""How a rollout keeps observations that hold pictures: a byte for each number that fits into one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equipoise.envs.observation_parts import ObservationPart


class Storage:
    """Rows `[..., O]` of float32 as rows of bytes, and back; nothing is lost.

    A part that holds whole numbers from 0 to 255 takes a byte for each. All other parts take the four bytes
    of a float32 for each number, and come first.

    Args:
        parts: of an observation, in the order of its columns.
    """

    def __init__(self, parts: Sequence[ObservationPart]) -> None:
        self.parts = tuple(parts)
        self.count = sum(part.stop - part.first for part in parts if not part.whole)
        """How many numbers are no bytes."""
        self.width = 4 * self.count + sum(part.stop - part.first for part in parts if part.whole)
        """Bytes of a packed row."""
        self.columns = tuple(c for part in parts if not part.whole for c in range(part.first, part.stop))
        """Those of the numbers that are no bytes."""
        places, number, byte = [], 0, 4 * self.count
        for part in parts:
            size = part.stop - part.first
            places.append(slice(byte, byte + size) if part.whole else slice(number, number + size))
            byte, number = (byte + size, number) if part.whole else (byte, number + size)
        self._places = tuple(places)

    def pack(self, rows: Tensor) -> Tensor:
        """`[..., O]` float32 -> `[..., width]` uint8."""
        if not self.count:
            return rows.to(torch.uint8)
        numbers = [rows[..., part.first : part.stop] for part in self.parts if not part.whole]
        whole = [rows[..., part.first : part.stop].to(torch.uint8) for part in self.parts if part.whole]
        return self.joined(torch.cat(numbers, -1), torch.cat(whole, -1))

    def numbers(self, packed: Tensor) -> Tensor:
        """`[..., count]` float32: the parts of a packed row that are no bytes."""
        # Not `contiguous`: it takes no rows at all for contiguous, whatever their stride.
        return packed[..., : 4 * self.count].clone(memory_format=torch.contiguous_format).view(torch.float32)

    def with_numbers(self, packed: Tensor, numbers: Tensor) -> Tensor:
        """A packed row with other numbers `[..., count]`."""
        return self.joined(numbers, packed[..., 4 * self.count :])

    def joined(self, numbers: Tensor, whole: Tensor) -> Tensor:
        return torch.cat([numbers.contiguous().view(torch.uint8), whole], -1)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Each part, `[..., its size]`, of rows or of packed rows: float32, or uint8."""
        if rows.dtype != torch.uint8:
            return [rows[..., part.first : part.stop] for part in self.parts]
        numbers = self.numbers(rows) if self.count else rows
        return [
            (rows if part.whole else numbers)[..., place]
            for part, place in zip(self.parts, self._places, strict=True)
        ]
