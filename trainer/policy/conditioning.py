"""What choices that were taken add to the outputs of a network: to those of later heads, and to parameters.

Teacher forcing: a network is told the choices, and its outputs are those given them. With the choices of a
rollout these are the outputs by which the rollout was made, so losses need not know of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as product

from equipoise.trainer.policy.choosing import Choose
from equipoise.trainer.policy.encoders import linear
from equipoise.trainer.spaces import HybridSpace

Conditioning = Literal["none", "choices", "autoregressive"]
"""What sees the choices that were taken: nothing; the parameters; these and the heads that come later."""


def check_conditioning(conditioning: Conditioning, space: HybridSpace, nodes: int) -> None:
    """Raises ValueError where nothing could depend on choices, or not in this way."""
    fault = None
    if not space.num_heads:
        fault = "the action space has no choices that anything could depend on"
    elif not space.num_continuous and (conditioning == "choices" or space.num_heads == 1):
        fault = "the action space has nothing that could depend on a choice"
    if fault is not None:
        raise ValueError(f"policy.conditioning = {conditioning}: {fault}; leave it out")
    if nodes > 1 and space.num_heads != nodes:
        raise ValueError(
            f"policy.conditioning = {conditioning}: needs one head for each of {nodes} nodes; there are "
            f"{space.num_heads}"
        )
    if conditioning == "autoregressive" and nodes > 1:
        raise ValueError(
            "policy.conditioning = autoregressive: nodes of a set have no order in which they could decide; "
            "policy.conditioning=choices lets the parameters of each see its choice"
        )


class GivenChoices(nn.Module):
    """`A·tanh(B·f + Σ e)`: what is added to outputs, with an embedding `e` for each choice that they see.

    Args:
        width: of the features `f`.
        choices: of all heads together.
        seen: how many embeddings are added up at most: they are drawn so that their sum has variance 1.
        outputs: of `A`, which begins near 0.
    """

    def __init__(self, width: int, choices: int, seen: int, outputs: int) -> None:
        super().__init__()
        self.features = linear(width, width)
        self.embedding = nn.Parameter(torch.randn(choices, width) / math.sqrt(max(seen, 1)))
        self.outputs = linear(width, outputs, gain=0.01)

    def embedded(self, choices: Tensor) -> Tensor:
        """`[..., W]` for numbers `[...]` of choices, counted over all heads."""
        return self.embedding.index_select(0, choices.reshape(-1)).view(*choices.shape, -1)

    def forward(self, features: Tensor, choices: Tensor) -> Tensor:
        """For features `[..., W]` and the numbers `[..., heads]` of the choices that they see."""
        seen = self.embedded(choices).sum(-2)
        added: Tensor = self.outputs((self.features(features) + seen).tanh())
        return added


class ParametersGivenChoices(GivenChoices):
    """Outputs for parameters that see the choices of all heads, those of a node only its own."""

    def __init__(self, width: int, space: HybridSpace, nodes: int, outputs: int) -> None:
        one = nodes == 1
        choices = sum(space.choice_counts) if one else space.max_choices
        super().__init__(width, choices, space.num_heads if one else 1, outputs)
        self._first = space.first_choice if one else None

    def forward(self, features: Tensor, choices: Tensor) -> Tensor:
        """For features `[B, W]`, or `[B, nodes, W]`, and choices `[B, H]`."""
        seen = choices.unsqueeze(-1) if self._first is None else choices + self._first
        return super().forward(features, seen)


class HeadsInTurn(GivenChoices):
    """Logits of heads of which each sees the choices of those before it."""

    def __init__(self, width: int, space: HybridSpace, order: Sequence[int]) -> None:
        super().__init__(width, sum(space.choice_counts), space.num_heads - 1, sum(space.choice_counts))
        self.space, self.order = space, tuple(order)
        counts = space.choice_counts
        self._columns = [(sum(counts[:head]), sum(counts[: head + 1])) for head in range(len(counts))]

    def take(self, features: Tensor, logits: Tensor, choose: Choose) -> tuple[Tensor, Tensor]:
        """The logits, as `space.laid_out` has them, and the choices `[B, H]`.

        Args:
            features: `[B, W]`.
            logits: of all heads, as they are without the choices.
            choose: takes the choice of each head.
        """
        seen = self.features(features)
        rows: dict[int, Tensor] = {}
        taken: dict[int, Tensor] = {}
        for head in self.order:
            first, end = self._columns[head]
            added = product(seen.tanh(), self.outputs.weight[first:end], self.outputs.bias[first:end])
            rows[head] = self.space.of_head(logits, head) + added
            taken[head] = choose(head, rows[head])
            seen = seen + self.embedded(taken[head] + first)
        heads = range(self.space.num_heads)
        in_a_row = torch.cat([rows[head] for head in heads], 1)
        return self.space.laid_out(in_a_row), torch.stack([taken[head] for head in heads], 1)
