"""The floor: the bare matrix products of one iteration, which no trainer can do without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equipoise.trainer.loop import Trainer
from equipoise.trainer.policy.encoders import MLP


class Layer(NamedTuple):
    """How a linear layer is used: `[rows, inputs] -> [rows, outputs]`."""

    rows: int
    inputs: int
    outputs: int
    input_gradient: bool
    """Somebody needs the gradient of its input, which is so for all but the first layer of a trunk."""


class Products:
    """Operands and results of one layer's products, allocated once and laid out as autograd has them."""

    def __init__(self, layer: Layer, device: torch.device, backward: bool) -> None:
        def numbers(*shape: int) -> Tensor:
            return torch.randn(*shape, device=device)

        self.layer = layer
        self.x, self.weight = numbers(layer.rows, layer.inputs), numbers(layer.outputs, layer.inputs)
        self.y = numbers(layer.rows, layer.outputs)
        if backward:
            self.y_gradient, self.weight_gradient = torch.randn_like(self.y), torch.empty_like(self.weight)
            self.x_gradient = torch.empty_like(self.x)

    def forward(self) -> None:
        torch.mm(self.x, self.weight.t(), out=self.y)

    def backward(self, input_gradient: bool) -> None:
        torch.mm(self.y_gradient.t(), self.x, out=self.weight_gradient)
        if input_gradient:
            torch.mm(self.y_gradient, self.weight, out=self.x_gradient)


class Floor:
    """The matrix products of one iteration of `trainer`, and nothing else.

    The actor forward at every step of the rollout, the critic forward once for all samples, and for every
    minibatch of the update forward and both backward products of all layers: one gradient, not three.
    No bias, no activation, no allocation. `needed_only` leaves out the gradients of the observations, which
    autograd does not compute either.
    """

    def __init__(self, trainer: Trainer, needed_only: bool = False) -> None:
        policy, batch = trainer.policy, trainer.config.trainer.batch
        num_envs, device = trainer.config.env.num_envs, trainer.collector.env.device
        samples = num_envs * batch.rollout_steps

        def observations(count: int) -> Tensor:
            # Of a set every thing exists, whatever of it a rollout has.
            return torch.ones(count, policy.observation_width, device=device)

        def products(layers: list[Layer], backward: bool = False) -> list[Products]:
            return [Products(layer, device, backward) for layer in layers]

        with recorded(policy) as layers, torch.no_grad():
            policy.actor(observations(num_envs))
        self._act = products(layers)
        with recorded(policy) as layers, torch.no_grad():
            policy.critic(observations(samples))
        self._judge = products(layers)
        with recorded(policy) as layers:
            policy(observations(samples // batch.num_minibatches))
        self._learn = products(layers, backward=True)
        self._steps = batch.rollout_steps
        self._updates = batch.update_epochs * batch.num_minibatches
        self._needed_only = needed_only

    @torch.inference_mode()
    def __call__(self) -> None:
        """Do them all once."""
        for _ in range(self._steps):
            for product in self._act:
                product.forward()
        for product in self._judge:
            product.forward()
        for _ in range(self._updates):
            for product in self._learn:
                product.forward()
            for product in reversed(self._learn):
                product.backward(product.layer.input_gradient or not self._needed_only)


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Layer]]:
    """The linear layers that run inside the `with`, in order."""
    layers: list[Layer] = []

    def note(linear: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(linear, nn.Linear)
        rows = inputs[0].numel() // linear.in_features
        layers.append(Layer(rows, linear.in_features, linear.out_features, inputs[0].requires_grad))

    handles = [m.register_forward_hook(note) for m in module.modules() if isinstance(m, nn.Linear)]
    fused = [m for m in module.modules() if isinstance(m, MLP) and m.fused]
    for mlp in fused:
        mlp.fused = False
    try:
        yield layers
    finally:
        for mlp in fused:
            mlp.fused = True
        for handle in handles:
            handle.remove()
