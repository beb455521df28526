"""Long short-term memory over whole sequences, in which episodes may end; made as the one in `gru.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from equipoise.trainer.data import Sequences
from equipoise.trainer.policy.encoders.mlp import stacked
from equipoise.trainer.policy.memory.contract import Memory, Size, before_each, orthogonal, resets


class LSTM(Memory):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al.,
    "Learning to forget", 2000), as `torch.nn.LSTM` computes it.

    Args:
        width: `W` of the features that arrive.
        hidden_size: of its output; it keeps twice as many numbers of an episode
        layers: widths of layers behind it, the last of which gives the features; none: the output is
    """

    def __init__(self, width: int, hidden_size: Size = 64, layers: Sequence[Size] = ()) -> None:
        super().__init__()
        self.width, self.state_size = [hidden_size, *layers][-1], 2 * hidden_size
        self.cell = orthogonal(nn.LSTMCell(width, hidden_size))
        self.layers = stacked([hidden_size, *layers], "tanh")

    def step(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Memory.step`."""
        hidden, cells = state.chunk(2, -1)
        hidden, cells = self.cell(features, (hidden, cells))
        return self.layers(hidden), torch.cat([hidden, cells], -1)

    def forward(self, features: Tensor, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """See `Memory.forward`. No gradient goes through the states."""
        cell, keep = self.cell, (~sequences.begins).to(features.dtype)
        gates = linear(features, cell.weight_ih, cell.bias_ih + cell.bias_hh)
        first = sequences.state.chunk(2, -1)
        hidden, cells, *_ = lstm(gates, first[0], first[1], keep, cell.weight_hh)
        return self.layers(hidden), torch.cat([hidden, cells], -1).detach()


@torch.library.custom_op("equipoise::lstm", mutates_args=())
def lstm(
    gates: Tensor, hidden: Tensor, cells: Tensor, keep: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The features and the cells after each step, and what the backward needs.

    Args:
        gates: `[T, n, 4H]`: what the inputs add to the gates i, f, g and o, with all biases.
        hidden, cells: `[n, H]` before the first step.
        keep: `[T, n]` float: 0 where the state is emptied before the step, else 1.
        weight: `[4H, H]`, of the state.

    Returns:
        Features `[T, n, H]`, cells `[T, n, H]`, the gates `[T, n, 4H]` after their functions, and the tanh of
        the cells. What the features alone depend on is differentiated.
    """
    size = weight.shape[1]
    outputs, after, squashed = (gates.new_empty(*gates.shape[:2], size) for _ in range(3))
    activated, transposed = torch.empty_like(gates), weight.t()
    columns = (
        gates.unbind(),
        activated.unbind(),
        activated[..., : 2 * size].unbind(),
        *(part.unbind() for part in torch.split(activated, size, -1)),
        outputs.unbind(),
        after.unbind(),
        squashed.unbind(),
        resets(keep),
    )
    for given, all_of_it, i_and_f, i, f, g, o, output, cell, small, reset in zip(*columns, strict=True):
        if reset is not None:
            hidden, cells = hidden * reset, cells * reset
        torch.addmm(given, hidden, transposed, out=all_of_it)
        i_and_f.sigmoid_()
        g.tanh_()
        o.sigmoid_()
        cells = torch.mul(f, cells, out=cell).addcmul_(i, g)
        hidden = torch.mul(o, torch.tanh(cells, out=small), out=output)
    return outputs, after, activated, squashed


@torch.library.custom_op("equipoise::lstm_backward", mutates_args=())
def lstm_backward(
    gradient: Tensor, before: Tensor, keep: Tensor, weight: Tensor, activated: Tensor, squashed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the gates `[T, n, 4H]`, and of the first features and cells.

    `gradient`: of the features; `before` `[T, n, H]`: the cells that each step began with.
    """
    size = weight.shape[1]
    i, f, g, o = torch.split(activated, size, -1)
    factors = torch.stack([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], dim=2)
    of_gates = torch.empty_like(activated)
    first, of_cells = torch.empty_like(before[0]), torch.zeros_like(before[0])
    hidden = gradient[-1]
    columns = (
        factors.unbind(),
        (o * (1 - squashed * squashed)).unbind(),
        (squashed * o * (1 - o)).unbind(),
        (f * keep.unsqueeze(-1)).unbind(),
        of_gates[..., : 3 * size].view(*of_gates.shape[:2], 3, size).unbind(),
        of_gates[..., 3 * size :].unbind(),
        of_gates.unbind(),
        (torch.zeros_like(first), *gradient[:-1].unbind()),
        resets(keep),
    )
    for factor, through_cell, through_o, kept, ifg, of_o, whole, given, reset in zip(
        *(column[::-1] for column in columns), strict=True
    ):
        of_cells = torch.addcmul(of_cells, hidden, through_cell)
        torch.mul(of_cells.unsqueeze(1), factor, out=ifg)
        torch.mul(hidden, through_o, out=of_o)
        hidden = torch.addmm(given, whole if reset is None else whole * reset, weight)
        of_cells = of_cells * kept
    return of_gates, hidden, of_cells


@lstm.register_fake
def _(gates: Tensor, hidden: Tensor, cells: Tensor, keep: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    small = gates.new_empty(*gates.shape[:2], weight.shape[1])
    return small, torch.empty_like(small), torch.empty_like(gates), torch.empty_like(small)


@lstm_backward.register_fake
def _(
    gradient: Tensor, before: Tensor, keep: Tensor, weight: Tensor, activated: Tensor, squashed: Tensor
) -> tuple[Tensor, ...]:
    return torch.empty_like(activated), torch.empty_like(before[0]), torch.empty_like(before[0])


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    _, *inputs_kept = inputs
    ctx.save_for_backward(*inputs_kept, *output)


def _backward(ctx: Any, gradient: Tensor, *unused: Any) -> tuple[Tensor | None, ...]:
    hidden, cells, keep, weight, outputs, after, activated, squashed = ctx.saved_tensors
    before = before_each(after, cells, keep)
    gates, of_hidden, of_cells = lstm_backward(
        gradient.contiguous(), before, keep, weight, activated, squashed
    )
    rows = before_each(outputs, hidden, keep).flatten(0, 1)
    return gates, of_hidden, of_cells, None, gates.flatten(0, 1).t() @ rows


lstm.register_autograd(_backward, setup_context=_setup)
