"""The multilayer perceptron, and what the layers of other encoders are made with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor, nn

from equipoise.trainer.policy.protocol import Encoder

Activation = Literal["tanh", "relu", "silu", "elu"]
Sizes = Annotated[Sequence[Annotated[int, Ge(1), Le(10**9)]], MinLen(1)]


class TanhLayers(torch.autograd.Function):
    """Linear layers with tanh after each, in blocks of rows that stay in the CPU's cache from layer to layer.

    tanh x = 2·σ(2x) − 1, which takes a third of the time of `torch.tanh` there (and that longer than the
    product of matrices before it); the inner 2 goes into the product. The error is 2e-7.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        transposed = [weight.t() for weight in weights]
        outputs = [inputs.new_empty(inputs.shape[0], weight.shape[0]) for weight in weights]
        for block, *results in _blocks(weights, inputs, *outputs):
            for weight, bias, result in zip(transposed, biases, results, strict=True):
                torch.addmm(bias, block, weight, beta=2.0, alpha=2.0, out=result).sigmoid_()
                block = torch.add(_MINUS_ONE, result, alpha=2.0, out=result)
        ctx.save_for_backward(inputs, *outputs, *weights)
        return outputs[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the result would be taken for a constant
            raise RuntimeError("layers with tanh have no second derivatives while MLP.fused is true")
        saved = ctx.saved_tensors
        count = len(saved) // 2
        through, weights = saved[: count + 1], saved[count + 1 :]
        of_weights = [torch.zeros_like(weight.t()) for weight in weights]  # transposed: see `Linear`
        of_biases = [weight.new_zeros(weight.shape[0]) for weight in weights]
        of_inputs = []
        for gradient, *block in _blocks(weights, gradients[0], *through):
            for layer in reversed(range(count)):
                gradient = torch.ops.aten.tanh_backward(gradient, block[layer + 1])
                of_weights[layer].addmm_(block[layer].t(), gradient)
                of_biases[layer] += gradient.sum(0)
                if layer or ctx.needs_input_grad[0]:
                    gradient = gradient @ weights[layer]
            of_inputs.append(gradient)
        first = torch.cat(of_inputs) if ctx.needs_input_grad[0] else None
        layers = zip(of_weights, of_biases, strict=True)
        return first, *(each for weight, bias in layers for each in (weight.t(), bias))


def _blocks(weights: Sequence[Tensor], *columns: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The columns in blocks of as many rows as give `_BLOCK` numbers in the widest layer."""
    rows = max(1, _BLOCK // max(max(weight.shape) for weight in weights))
    if columns[0].shape[0] <= rows:
        return [columns]
    return zip(*(torch.split(column, rows) for column in columns), strict=True)


_MINUS_ONE = torch.tensor(-1.0)
_BLOCK = 2**18
"""1 MiB: about what a core's cache holds, and enough rows to make calling the operations cheap."""


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": partial(nn.ReLU, inplace=True),
    "silu": nn.SiLU,
    "elu": partial(nn.ELU, inplace=True),
}
"""Applied to the output of a layer, which nothing else needs: some overwrite it."""


class Linear(nn.Linear):
    """`nn.Linear`, whose weights' gradient is the transpose of `inputsᵀ·gradient`.

    On a CPU that takes a quarter of the time of `gradientᵀ·inputs` where the inputs are few and no multiple
    of 16. PyTorch's derivative of a product follows how the weights lie in memory.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        narrow = self.in_features % 16 > 0 and inputs.dim() == 2 and inputs.device.type == "cpu"
        if not narrow or self.bias is None or torch.compiler.is_compiling():
            return super().forward(inputs)
        return torch.addmm(self.bias, inputs, self.weight.t().contiguous())


def linear(inputs: int, outputs: int, gain: float = math.sqrt(2.0), bias: bool = True) -> nn.Linear:
    """A layer with orthogonal weights (Saxe et al., 2014) scaled by `gain`, and zero bias."""
    layer = Linear(inputs, outputs, bias=bias)
    nn.init.orthogonal_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def stacked(sizes: Sequence[int], activation: Activation) -> nn.Sequential:
    """Layers of these widths, the first of which arrives; all are followed by the activation."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class MLP(Encoder):
    """A multilayer perceptron, `[B, O]` -> `[B, W]`; all layers are followed by the activation.

    Args:
        observation_shape: of one observation; `O` is their product.
        hidden_sizes: widths of the layers, of which the last is `W`
        activation: after each layer
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        hidden_sizes: Sizes = (64, 64),
        activation: Activation = "tanh",
    ) -> None:
        super().__init__()
        sizes = [math.prod(observation_shape), *hidden_sizes]
        self.layers = stacked(sizes, activation)
        self.width = sizes[-1]
        self.fused = activation == "tanh"
        """All layers are one operation, where there is one."""

    def forward(self, inputs: Tensor) -> Tensor:
        # Exported programs are to hold the single operations, a GPU has a fast tanh.
        if not self.fused or inputs.device.type != "cpu" or torch.compiler.is_exporting():
            features: Tensor = self.layers(inputs)
            return features
        linears = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        if torch.compiler.is_compiling():
            for layer in linears:
                products = torch.addmm(layer.bias, inputs, layer.weight.t())
                inputs = (products * 2.0).sigmoid() * 2.0 - 1.0  # tanh
            return inputs
        parameters = [p for layer in linears for p in (layer.weight, layer.bias)]  # .parameters() is slow
        fused: Tensor = TanhLayers.apply(inputs, *parameters)  # type: ignore[no-untyped-call]
        return fused
