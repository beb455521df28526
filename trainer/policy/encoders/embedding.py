"""Choices among very many, each of which stands for a row of numbers that is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from equipoise.trainer.policy.protocol import Encoder


class Embedding(Encoder):
    """One-hot codes, `[B, O]` -> `[B, W]`: the sum of the rows of what was chosen.

    Args:
        observation_shape: of the codes.
        width: `W`
    """

    packed = True
    raw_observations = True

    def __init__(
        self, observation_shape: Sequence[int], width: Annotated[int, Ge(1), Le(10**6)] = 32
    ) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Parameter(torch.randn(math.prod(observation_shape), width))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.to(torch.float32) @ self.table
