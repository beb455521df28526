"""Pictures: convolutions whose form goes by the size of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from equipoise.envs.observation_parts import ObservationPart
from equipoise.trainer.policy.encoders.mlp import ACTIVATIONS, Activation, linear
from equipoise.trainer.policy.protocol import Encoder

Count = Annotated[int, Ge(1), Le(10**6)]
Layer = tuple[Count, Count, Count]
"""Channels, side of the kernel, stride."""

_LARGE: tuple[Layer, ...] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Of Mnih et al., "Human-level control through deep reinforcement learning", 2015, for 84 x 84."""
_MIDDLE: tuple[Layer, ...] = ((32, 3, 2), (64, 3, 2))
_SMALL: tuple[Layer, ...] = ((16, 3, 1), (32, 3, 1))
_BLOCK = 2**26
"""Numbers of the widest layer that are held at once where nothing is to be learned."""


class Convolution(Encoder):
    """A picture, `[B, O]` -> `[B, W]`: convolutions, and one layer over all that is left of it.

    Takes a picture `[rows, columns]`, `[rows, columns, channels]` or `[channels, rows, columns]`, and several
    of them as a frame stack has them, `[frames, …]`, which become channels. Its numbers are divided by the
    largest one that there may be.

    Args:
        observation_shape: of the picture.
        observation_parts: the picture alone.
        width: `W`
        layers: [channels, side of the kernel, stride] of each convolution; null: by the picture's size
        channels: which axis they are; auto: the first or the last one, whichever is shorter
        scale: what numbers are divided by; null: the upper bound that the space states
        activation: after each layer

    Raises:
        ValueError: for an observation that is no picture, or too small for the layers.
    """

    packed = True
    raw_observations = True

    def __init__(
        self,
        observation_shape: Sequence[int],
        observation_parts: Sequence[ObservationPart] = (),
        width: Count = 256,
        layers: Sequence[Layer] | None = None,
        channels: Literal["auto", "first", "last"] = "auto",
        scale: Annotated[float, Gt(0)] | None = None,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.shape, self.order = _as_picture(observation_shape, channels)
        depth, rows, columns = (math.prod(self.shape[axis] for axis in axes) for axes in self.order)
        if scale is None:
            scale = observation_parts[0].high if len(observation_parts) == 1 else None
        self.factor = 1.0 / (scale or 255.0)
        side = min(rows, columns)
        if layers is None:
            layers = _LARGE if side >= 36 else _MIDDLE if side >= 16 else _SMALL
        padding = 1 if side < 5 else 0
        parts: list[nn.Module] = []
        self._widest = depth * rows * columns
        for count, kernel, stride in layers:
            parts += [_convolution(depth, count, kernel, stride, padding), ACTIVATIONS[activation]()]
            rows, columns = ((n + 2 * padding - kernel) // stride + 1 for n in (rows, columns))
            if min(rows, columns) < 1:
                raise ValueError(
                    f"layers = {list(map(list, layers))}: nothing is left of a picture of shape "
                    f"{tuple(observation_shape)}; give smaller kernels or strides"
                )
            depth = count
            self._widest = max(self._widest, depth * rows * columns)
        self.layers = nn.Sequential(*parts)
        self.last = linear(depth * rows * columns, width)
        self.activation = ACTIVATIONS[activation]()
        self.width = width

    def forward(self, inputs: Tensor) -> Tensor:
        rows = max(1, _BLOCK // self._widest)
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or len(inputs) <= rows:
            return self._features(inputs)
        return torch.cat([self._features(block) for block in torch.split(inputs, rows)])

    def _features(self, inputs: Tensor) -> Tensor:
        axes = [axis + 1 for group in self.order for axis in group]
        pictures = inputs.view(-1, *self.shape).permute(0, *axes)
        depth = len(self.order[0])
        numbers = pictures.to(torch.float32) * self.factor
        if depth == 2:
            numbers = numbers.flatten(1, 2)
        elif depth == 0:
            numbers = numbers.unsqueeze(1)
        features: Tensor = self.activation(self.last(self.layers(numbers).flatten(1)))
        return features


def _convolution(depth: int, count: int, kernel: int, stride: int, padding: int) -> nn.Conv2d:
    layer = nn.Conv2d(depth, count, kernel, stride, padding)
    nn.init.orthogonal_(layer.weight, math.sqrt(2.0))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _as_picture(
    shape: Sequence[int], channels: str
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], tuple[int], tuple[int]]]:
    """The shape, and which of its axes are channels, rows and columns."""
    shape = tuple(shape)
    if len(shape) not in (2, 3, 4):
        raise ValueError(
            f"a picture has 2, 3 or, as a stack, 4 axes; this observation has shape {shape} (use policy=mlp)"
        )
    if len(shape) == 2:
        return shape, ((), (0,), (1,))
    frames = tuple(range(len(shape) - 3))
    first = len(frames)
    if channels == "auto":
        channels = "first" if shape[first] < shape[-1] else "last"
    if channels == "first":
        return shape, ((*frames, first), (first + 1,), (first + 2,))
    return shape, ((*frames, first + 2), (first,), (first + 1,))
