"""What a memory is, and what those that come with us have in common.

What the constructor of a memory takes besides `width`, which is supplied, are keys of `policy.memory`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from equipoise.trainer.data import Sequences

Size = Annotated[int, Ge(1), Le(10**6)]
Cell = TypeVar("Cell", nn.GRUCell, nn.LSTMCell)

MakeMemory = Callable[..., nn.Module]
"""A memory's class with its keywords bound; to be called with `width=`."""


class Memory(nn.Module, ABC):
    """From the features of one observation to those of an episode so far.

    One of your own sets both attributes and implements `step`. `forward` calls it for one step after the
    other; a memory that is faster with whole sequences replaces it.
    """

    width: int
    """`W'` of the features that it gives."""
    state_size: int
    """`M` numbers that it keeps; all are 0 when an episode begins."""

    @abstractmethod
    def step(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[n, W]` and `[n, M]` -> `[n, W']` and `[n, M]`."""

    def forward(self, features: Tensor, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """`[T, n, W]` -> `[T, n, W']`, and the states `[T, n, M]` after each step."""
        state, outputs, states = sequences.state, [], []
        for row, begins in zip(features, sequences.begins, strict=True):
            output, state = self.step(row, state.masked_fill(begins.unsqueeze(-1), 0.0))
            outputs.append(output)
            states.append(state)
        return torch.stack(outputs), torch.stack(states)


def make_memory(make: MakeMemory, width: int) -> Memory:
    """A memory, tried on two sequences of two steps.

    Raises:
        ValueError: for one that breaks the contract of `Memory`; the message names its section.
    """
    name = getattr(getattr(make, "func", make), "__name__", str(make))
    key = f"policy.memory = {name}"
    try:
        memory = make(width=width)
    except Exception as error:  # user code: may raise anything
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{key}: {reason}") from error
    if not isinstance(memory, Memory):
        raise ValueError(f"{key}: must be a subclass of {Memory.__module__}.Memory")
    for size in ("width", "state_size"):
        number = getattr(memory, size, None)
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{key}: its `{size}` = {number}; must be a number >= 1")
    features, state = torch.zeros(2, 2, width), torch.zeros(2, memory.state_size)
    begins = torch.ones(2, 2, dtype=torch.bool)
    ways: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "step": lambda: memory.step(features[0], state),
        "forward": lambda: memory.forward(features, Sequences(state, begins)),
    }
    for method, call in ways.items():
        leading = (2,) if method == "step" else (2, 2)
        wanted = [(*leading, memory.width), (*leading, memory.state_size)]
        try:
            with torch.no_grad():
                given = [tuple(part.shape) for part in call()]
        except Exception as error:  # the same
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"{key}: {method} fails on two sequences of zeros: {what}") from error
        if given != wanted:
            raise ValueError(f"{key}: {method} gives {given} for two sequences of zeros; must be {wanted}")
    return memory


def orthogonal(cell: Cell) -> Cell:
    """`cell` with orthogonal weights of each gate, as of the other layers, and biases 0."""
    for weight in (cell.weight_ih, cell.weight_hh):
        for gate in torch.split(weight.data, cell.hidden_size):
            nn.init.orthogonal_(gate)
    for bias in (cell.bias_ih, cell.bias_hh):
        nn.init.zeros_(bias)
    return cell


def resets(keep: Tensor) -> Sequence[Tensor | None]:
    """Of `keep` `[T, n]`, 0 where a state is emptied before the step, else 1: `[n, 1]` for each step, or None
    where nothing is emptied, as far as looking is free."""
    columns = keep.unsqueeze(-1).unbind()
    if keep.device.type != "cpu":
        return columns
    wanted = (keep < 1).any(1).tolist()
    return [column if reset else None for column, reset in zip(columns, wanted, strict=True)]


def before_each(states: Tensor, first: Tensor, keep: Tensor) -> Tensor:
    """`[T, n, M]`: the state that each step began with; `first` `[n, M]`."""
    return torch.cat([first.unsqueeze(0), states[:-1]]) * keep.unsqueeze(-1)
