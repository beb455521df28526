"""Sets of things, any of which may be missing: what all of them together come to, whatever their order.

The encoders here and in `node_set.py` take a set as `[M, F]` whose feature 0 is 1 for a thing that exists
and 0 for an empty slot; `Parts` makes that of a set and a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from equipoise.trainer.policy.encoders.living import pool
from equipoise.trainer.policy.encoders.mlp import ACTIVATIONS, MLP, Activation, Sizes, linear
from equipoise.trainer.policy.encoders.node_set import set_shape, split_set
from equipoise.trainer.policy.protocol import Encoder

Heads = Annotated[int, Ge(1), Le(64)]


class SelfAttention(nn.Module):
    """Each of a set looks at all that exist, `[B, M, W]` -> `[B, M, W]` (Vaswani et al., 2017, section 3.2).

    Args:
        width: `W`.
        heads: a divisor of it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads = {heads}: must divide the width of {width}")
        self.heads = heads
        self.looks = linear(width, 3 * width, gain=1.0)
        self.gives = linear(width, width, gain=1.0)

    def forward(self, hidden: Tensor, exists: Tensor) -> Tensor:
        """`exists` `[B, M]`: 1 or 0."""
        size, count, width = hidden.shape
        query, key, value = (
            part.view(size, count, self.heads, width // self.heads).transpose(1, 2)
            for part in self.looks(hidden).chunk(3, -1)
        )
        # Where nothing exists all may be looked at, for without any there would be NaN; nobody reads it.
        seen = (exists > 0) | ~(exists > 0).any(-1, keepdim=True)
        found = scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None, None, :])
        given: Tensor = self.gives(found.transpose(1, 2).reshape(size, count, width))
        return given


class SetAttention(Encoder):
    """Features of a whole set, `[B, M·F]` -> `[B, W]`, whatever the order of its things.

    Each goes through one network, looks at the others, and what they have found is averaged over those that
    exist.

    Args:
        observation_shape: `(M, F)`: things, features of each.
        hidden_sizes: widths of the layers of each thing's network, of which the last is `W`
        heads: of the attention, a divisor of `W`
        activation: after each layer

    Raises:
        ValueError: for observations of another kind.
    """

    raw_observations = True

    def __init__(
        self,
        observation_shape: Sequence[int],
        hidden_sizes: Sizes = (64,),
        heads: Heads = 4,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.slots, features = set_shape(observation_shape)
        self.width = hidden_sizes[-1]
        self.each = MLP((features,), hidden_sizes, activation)
        self.attention = SelfAttention(self.width, heads)
        self.own = linear(self.width, self.width)
        self.activation = ACTIVATIONS[activation]()
        self.summary = MLP((self.width,), [self.width], activation)

    def forward(self, inputs: Tensor) -> Tensor:
        things, exists = split_set(inputs, self.slots)
        hidden = self.each(things).view(*exists.shape, self.width)
        hidden = hidden + self.attention(hidden, exists)
        found = self.activation(self.own(hidden))
        summary: Tensor = self.summary(pool(found.flatten(0, 1), exists))
        return summary
