"""Networks from observations to features: a multilayer perceptron, and one for sets of nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class _InPlaceTanh(torch.autograd.Function):
    """tanh x = 2·σ(2x) − 1: on the CPU a third of the time of `torch.tanh`, which takes longer there than the
    product of matrices before it; the error is 2e-7."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.mark_dirty(inputs)
        result = inputs.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradients[0], result)  # type: ignore[no-any-return]


class Tanh(nn.Module):
    """Of a tensor that nobody else needs: on the CPU it is overwritten."""

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.device.type != "cpu" or torch.compiler.is_compiling():  # also while exporting
            return inputs.tanh()
        result: Tensor = _InPlaceTanh.apply(inputs)  # type: ignore[no-untyped-call]
        return result


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": Tanh,
    "relu": partial(nn.ReLU, inplace=True),
    "silu": nn.SiLU,
    "elu": partial(nn.ELU, inplace=True),
}
"""Applied to what a layer has just put out, which nobody else needs: most of them overwrite it."""


def linear(inputs: int, outputs: int, gain: float = math.sqrt(2.0), bias: bool = True) -> nn.Linear:
    """A layer with orthogonal weights (Saxe et al., 2014) scaled by `gain`, and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.orthogonal_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """`[B, O]` -> `[B, W]`."""

    def __init__(self, width_in: int, hidden_sizes: Sequence[int], activation: str) -> None:
        super().__init__()
        sizes = [width_in, *hidden_sizes]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [linear(inputs, outputs), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)
        self.width = sizes[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.layers(inputs)
        return features


class NodeSet(nn.Module):
    """Features of each node of a set, `[B, M·F]` -> `[B, M, W]`, equivariant to the order of the nodes.

    Every node goes through the same network; what the nodes have in common enters each of them as the
    mean over the nodes that exist (Zaheer et al., "Deep sets", 2017, equation 4). Feature 0 of a node says
    whether it exists; empty slots get features too, which nobody reads.
    """

    def __init__(self, nodes: int, features: int, hidden_sizes: Sequence[int], activation: str) -> None:
        super().__init__()
        self.nodes, self.width = nodes, hidden_sizes[-1]
        self.node = MLP(features, hidden_sizes, activation)
        self.own = linear(self.width, self.width)
        self.context = linear(self.width, self.width, gain=1.0, bias=False)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, inputs: Tensor) -> Tensor:
        nodes, exists = _split(inputs, self.nodes)
        hidden = self.node(nodes)
        context = self.context(pool(hidden, exists))
        own = self.own(hidden).view(*exists.shape, self.width)
        # A new tensor: overwriting a view costs copies of it in the backward.
        features: Tensor = self.activation(own + context.unsqueeze(-2))
        return features


class NodeSetSummary(nn.Module):
    """One feature vector of a whole set, `[B, M·F]` -> `[B, W]`, whatever the order of the nodes."""

    def __init__(self, nodes: int, features: int, hidden_sizes: Sequence[int], activation: str) -> None:
        super().__init__()
        self.nodes, self.width = nodes, hidden_sizes[-1]
        self.node = MLP(features, hidden_sizes, activation)
        self.summary = MLP(self.width, [self.width], activation)

    def forward(self, inputs: Tensor) -> Tensor:
        nodes, exists = _split(inputs, self.nodes)
        summary: Tensor = self.summary(pool(self.node(nodes), exists))
        return summary


def _split(inputs: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """`[B, M·F]` -> the nodes of all sets in one column `[B·M, F]`, and which of them exist `[B, M]`."""
    sets = inputs.view(inputs.shape[0], nodes, inputs.shape[-1] // nodes)
    return sets.flatten(0, 1), sets[..., 0]


def pool(hidden: Tensor, exists: Tensor) -> Tensor:
    """Mean over the nodes that exist, `[B·M, W]`, `[B, M]` -> `[B, W]`; 0 without any."""
    share = exists / exists.sum(-1, keepdim=True).clamp(min=1.0)
    return torch.bmm(share.unsqueeze(-2), hidden.view(*exists.shape, hidden.shape[-1])).squeeze(-2)
