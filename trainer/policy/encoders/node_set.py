"""Sets of nodes of which each owns a head of the action: the order of the nodes does not matter."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from equipoise.trainer.policy.encoders.living import Living
from equipoise.trainer.policy.encoders.mlp import ACTIVATIONS, MLP, Activation, Sizes, linear
from equipoise.trainer.policy.protocol import Encoder


class NodeSet(Encoder):
    """Features of each node of a set, `[B, M·F]` -> `[B, M, W]`, equivariant to the order of the nodes.

    Every node goes through the same network; what the nodes have in common enters each of them as the
    mean over the nodes that exist (Zaheer et al., "Deep sets", 2017, equation 4). Feature 0 of a node says
    whether it exists; the features of empty slots are 0.

    Args:
        observation_shape: `(M, F)`: nodes, features of each.
        hidden_sizes: widths of the layers of each node's network, of which the last is `W`
        activation: after each layer

    Raises:
        ValueError: for observations of another kind.
    """

    raw_observations = True
    """Sets of nodes carry their own scale: statistics would treat slot 0 and slot 9 differently."""

    def __init__(
        self,
        observation_shape: Sequence[int],
        hidden_sizes: Sizes = (64,),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.slots, features = set_shape(observation_shape)
        self.nodes = self.slots
        self.width = hidden_sizes[-1]
        self.node = MLP((features,), hidden_sizes, activation)
        self.own = linear(self.width, self.width)
        self.context = linear(self.width, self.width, gain=1.0, bias=False)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, inputs: Tensor) -> Tensor:
        living, features = self.rows(inputs)
        return living.placed(features)

    def rows(self, inputs: Tensor) -> tuple[Living, Tensor]:
        """Which exist, and the features `[R, W]` of those."""
        nodes, exists = split_set(inputs, self.slots)
        living = Living(exists)
        hidden = self.node(living.of(nodes))
        context = living.given(self.context(living.mean(hidden)))
        return living, self.activation(self.own(hidden).add_(context))


class NodeSetSummary(Encoder):
    """Features of a whole set, `[B, M·F]` -> `[B, W]`, whatever the order of the nodes.

    The mean over the nodes that exist of a network that all go through, and one layer after it.

    Args:
        observation_shape: `(M, F)`: nodes, features of each.
        hidden_sizes: widths of the layers of each node's network, of which the last is `W`
        activation: after each layer

    Raises:
        ValueError: for observations of another kind.
    """

    raw_observations = True

    def __init__(
        self,
        observation_shape: Sequence[int],
        hidden_sizes: Sizes = (64,),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.slots, features = set_shape(observation_shape)
        self.width = hidden_sizes[-1]
        self.node = MLP((features,), hidden_sizes, activation)
        self.summary = MLP((self.width,), [self.width], activation)

    def forward(self, inputs: Tensor) -> Tensor:
        nodes, exists = split_set(inputs, self.slots)
        living = Living(exists)
        summary: Tensor = self.summary(living.mean(self.node(living.of(nodes))))
        return summary


def set_shape(observation_shape: Sequence[int]) -> tuple[int, int]:
    """Nodes and features of each."""
    if len(observation_shape) != 2:
        raise ValueError(
            "a set of nodes needs observations [nodes, features]; these are of shape "
            f"{tuple(observation_shape)} (use policy=mlp)"
        )
    nodes, features = observation_shape
    return nodes, features


def split_set(inputs: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """`[B, M·F]` -> the nodes of all sets in one column `[B·M, F]`, and which of them exist `[B, M]`."""
    sets = inputs.view(inputs.shape[0], nodes, inputs.shape[-1] // nodes)
    return sets.flatten(0, 1), sets[..., 0]
