"""A gated recurrent unit over whole sequences, in which episodes may end.

`torch.nn.GRU` cannot empty its state inside a sequence, and a loop over its cell leaves autograd some twenty
operations for each step. Here all that does not depend on the step before is computed at once for all steps,
which leaves six operations of a step forwards and three backwards. The compiler sees one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from equipoise.trainer.data import Sequences
from equipoise.trainer.policy.encoders.mlp import stacked
from equipoise.trainer.policy.memory.contract import Memory, Size, before_each, orthogonal, resets


class GRU(Memory):
    """A gated recurrent unit (Cho et al., "Learning phrase representations using RNN encoder-decoder for
    statistical machine translation", 2014), as `torch.nn.GRU` computes it.

    Args:
        width: `W` of the features that arrive.
        hidden_size: numbers that it keeps of an episode
        layers: widths of layers behind it, the last of which gives the features; none: the numbers are
    """

    def __init__(self, width: int, hidden_size: Size = 64, layers: Sequence[Size] = ()) -> None:
        super().__init__()
        self.width, self.state_size = [hidden_size, *layers][-1], hidden_size
        self.cell = orthogonal(nn.GRUCell(width, hidden_size))
        self.layers = stacked([hidden_size, *layers], "tanh")

    def step(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Memory.step`."""
        state = self.cell(features, state)
        return self.layers(state), state

    def forward(self, features: Tensor, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """See `Memory.forward`."""
        cell, keep = self.cell, (~sequences.begins).to(features.dtype)
        gates = linear(features, cell.weight_ih, cell.bias_ih)
        states: Tensor = gru(gates, sequences.state, keep, cell.weight_hh, cell.bias_hh)[0]
        return self.layers(states), states


@torch.library.custom_op("equipoise::gru", mutates_args=())
def gru(
    gates: Tensor, state: Tensor, keep: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The states after each step, and what the backward needs.

    Args:
        gates: `[T, n, 3H]`: what the inputs add to the gates r, z and n, with their bias.
        state: `[n, H]` before the first step.
        keep: `[T, n]` float: 0 where the state is emptied before the step, else 1.
        weight, bias: `[3H, H]` and `[3H]`, of the state.

    Returns:
        The states `[T, n, H]` after each step; and what the backward needs: the gates `[T, n, 3H]` after
        their functions, and `[T, n, 3H]` what the state had added to them.
    """
    size = weight.shape[1]
    outputs = gates.new_empty(*gates.shape[:2], size)
    activated, added = torch.empty_like(gates), torch.empty_like(gates)
    transposed, parts = weight.t(), [2 * size, size]
    columns = (
        *(part.unbind() for of in (gates, activated, added) for part in torch.split(of, parts, -1)),
        added.unbind(),
        activated[..., size : 2 * size].unbind(),
        outputs.unbind(),
        resets(keep),
    )
    for rz_in, n_in, rz, n, rz_added, n_added, all_added, z, output, reset in zip(*columns, strict=True):
        if reset is not None:
            state = state * reset
        torch.addmm(bias, state, transposed, out=all_added)
        torch.add(rz_in, rz_added, out=rz).sigmoid_()
        torch.addcmul(n_in, rz[:, :size], n_added, out=n).tanh_()
        state = torch.lerp(n, state, z, out=output)
    return outputs, activated, added


@torch.library.custom_op("equipoise::gru_backward", mutates_args=())
def gru_backward(
    gradient: Tensor,
    outputs: Tensor,
    before: Tensor,
    keep: Tensor,
    weight: Tensor,
    activated: Tensor,
    added: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`gradient`: of the outputs; `before` `[T, n, H]`: the state that each step began with.

    Returns: the gradients of the gates `[T, n, 3H]`, of what the state adds to them, and of the first state.
    """
    size = weight.shape[1]
    r, z, n = torch.split(activated, size, -1)
    of_n = (1 - z) * (1 - n * n)
    n_added = added[..., 2 * size :]
    factors = torch.stack([of_n * n_added * r * (1 - r), (before - n) * z * (1 - z), of_n * r], dim=2)
    added_gradient = torch.empty_like(added)
    states = torch.empty_like(outputs)  # gradients of the states after each step
    states[-1] = gradient[-1]
    first = torch.empty_like(outputs[0])
    columns = (
        factors.unbind(),
        (z * keep.unsqueeze(-1)).unbind(),
        added_gradient.view_as(factors).unbind(),
        added_gradient.unbind(),
        states.unbind(),
        (first, *states[:-1].unbind()),
        (torch.zeros_like(first), *gradient[:-1].unbind()),
        resets(keep),
    )
    for factor, kept, parts, whole, state, earlier, given, reset in zip(
        *(column[::-1] for column in columns), strict=True
    ):
        torch.mul(state.unsqueeze(1), factor, out=parts)
        torch.addcmul(given, state, kept, out=earlier)
        earlier.addmm_(whole if reset is None else whole * reset, weight)
    gates_gradient = torch.cat([added_gradient[..., : 2 * size], states * of_n], dim=-1)
    return gates_gradient, added_gradient, first


@gru.register_fake
def _(gates: Tensor, state: Tensor, keep: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    outputs = gates.new_empty(*gates.shape[:2], weight.shape[1])
    return outputs, torch.empty_like(gates), torch.empty_like(gates)


@gru_backward.register_fake
def _(
    gradient: Tensor,
    outputs: Tensor,
    before: Tensor,
    keep: Tensor,
    weight: Tensor,
    activated: Tensor,
    added: Tensor,
) -> tuple[Tensor, ...]:
    return torch.empty_like(activated), torch.empty_like(added), torch.empty_like(outputs[0])


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    _, state, keep, weight, _ = inputs
    ctx.save_for_backward(state, keep, weight, *output)


def _backward(ctx: Any, gradient: Tensor, *unused: Any) -> tuple[Tensor | None, ...]:
    state, keep, weight, outputs, activated, added = ctx.saved_tensors
    before = before_each(outputs, state, keep)
    gates, of_added, first = gru_backward(
        gradient.contiguous(), outputs, before, keep, weight, activated, added
    )
    rows = of_added.flatten(0, 1)
    return gates, first, None, rows.t() @ before.flatten(0, 1), rows.sum(0)


gru.register_autograd(_backward, setup_context=_setup)
