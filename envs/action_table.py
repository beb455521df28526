"""An action space as one table: which numbers of an action are which heads and which parameters.

Accepted: `Discrete`, `MultiDiscrete`, `MultiBinary`, `Box`, alone or nested in `Dict`, `Tuple` and `OneOf`.
Heads and parameters are counted from 0, each for themselves, in the order of the space (a `Dict` made of a
plain dict sorts its keys; every other `Dict` keeps its own order).

- Every number of a `Discrete`, `MultiDiscrete` or `MultiBinary` is a categorical head.
- Every number of a bounded float `Box` is a parameter; where low equals high it is a constant.
- An integer `Box` is a row of heads if none of its numbers has more than `MOST_CHOICES` values, else a row of
  parameters that are rounded.
- A `OneOf` is one head. An option is one choice of it, or, where it holds discrete parts, as many choices as
  these have combinations: none is ever made that does not count. Its parameters belong to its choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import gymnasium
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from equipoise.envs.action_leaves import (
    ACCEPTED,
    MOST_CHOICES,
    ActionLeaf,
    UnsupportedSpaceError,
    inner_float32,
)
from equipoise.envs.action_parts import OneOf, Structure, read

__all__ = [
    "ACCEPTED",
    "MOST_CHOICES",
    "ActionLeaf",
    "ActionTable",
    "Nested",
    "UnsupportedSpaceError",
    "inner_float32",
]

Value = TypeVar("Value")
Nested: TypeAlias = "Value | dict[str, Nested[Value]] | tuple[Nested[Value], ...]"
"""A value in the place of each leaf of the space; in that of a `OneOf` `(which option, (each of them))`."""


class ActionTable:
    """The leaves of an action space, and how they are nested.

    Args:
        space: of one environment.

    Raises:
        UnsupportedSpaceError: names the path of the leaf that does not fit and what is accepted.
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.space = space
        whole = read(space)
        self.leaves: tuple[ActionLeaf, ...] = whole.leaves
        if not any(leaf.count for leaf in self.leaves):
            raise UnsupportedSpaceError(f"action: {space} holds no action at all; accepted are {ACCEPTED}")
        self.structure: Structure = whole.structure
        """The numbers of the leaves, nested as in the space."""
        self.choices: tuple[int, ...] = whole.choices
        """Of each head."""
        self.num_heads = len(self.choices)
        widest, needed = max(self.choices, default=0), sum(self.choices)
        self.padded = 2 * needed >= self.num_heads * widest
        """Whether what has a number for each choice, like a mask, is `[..., H, C]`, padded to the widest
        head. Where that would more than double it, it is `[..., S]`: `S` choices, head after head."""
        self.every_choice: NDArray[np.bool_] = np.ones(needed, np.bool_)
        """`[H, C]` or `[S]`: which choices there are, the mask that forbids nothing."""
        if self.padded:
            self.every_choice = np.arange(widest) < np.array(self.choices, np.int64)[:, None]
        self.num_continuous = whole.num_parameters
        self.options: Mapping[int, tuple[tuple[int, ...], ...]] = whole.options
        """Head -> the parameters of each of its choices, where the space itself says that they belong
        together: a `OneOf`, or a `Tuple` of a `Discrete` and as many parts of parameters alone as it has
        choices, which may be in a `Tuple` of their own."""

    def heads_of(self, name: str | int) -> tuple[int, ...]:
        """The heads called `name`: a number, or the keys of a leaf with dots in between, `orders.unit`.

        Raises:
            KeyError: there is none.
        """
        if isinstance(name, int) and 0 <= name < self.num_heads:
            return (name,)
        for leaf in self.leaves:
            if leaf.discrete and leaf.count and _dotted(leaf) == name:
                return tuple(range(leaf.first, leaf.first + leaf.count))
        raise KeyError(name)

    def head_name(self, head: int) -> str | int:
        """What a head is called: by its leaf, where it is the only one there, or its number."""
        for leaf in self.leaves:
            if leaf.discrete and leaf.count == 1 and leaf.first == head:
                return _dotted(leaf) or head
        return head

    def head_path(self, head: int) -> str:
        """Where a head stands in an action: `head 0 of action['unit']`."""
        leaf = next(x for x in self.leaves if x.discrete and x.first <= head < x.first + x.count)
        return f"head {head} of {leaf.path}"

    def of_head(self, numbers: Tensor, head: int) -> Tensor:
        """A view `[N, choices]` of numbers of all choices, `[N, H, C]` or `[N, S]`."""
        count = self.choices[head]
        if numbers.dim() == 3:
            return numbers[:, head, :count]
        return numbers.narrow(1, sum(self.choices[:head]), count)

    def by_head(self, mask: NDArray[Any]) -> list[NDArray[Any]]:
        """`[N, choices]` for each head, of `[N, H, C]` or `[N, S]`."""
        if mask.ndim == 2:
            return np.split(mask, np.cumsum(self.choices)[:-1], 1)
        return [mask[:, head, :count] for head, count in enumerate(self.choices)]

    def assemble(self, values: Sequence[Value]) -> Nested[Value]:
        """The value of each leaf, in order, in the structure of the space."""
        return _filled(self.structure, values)

    def take_apart(self, action: Any) -> list[Any]:
        """What is in the place of each leaf, in order: the inverse of `assemble`.

        Raises:
            ValueError: the action has another structure; the message gives the path.
        """
        return list(_taken(self.structure, action, "action"))

    def action_of(self, arrays: Sequence[NDArray[Any]], index: int) -> Any:
        """What environment `index` takes, from an array `[N, ...]` for each leaf: for a `Discrete` a number,
        for a `OneOf` `(option, what it holds)`, else arrays, which are views."""
        return _chosen(self.structure, self._row(arrays, index))

    def actions_of(self, arrays: Sequence[NDArray[Any]]) -> Any:
        """The same for all environments as Gymnasium's vector environments take it: the arrays, and in the
        place of a `OneOf` a tuple of what each environment takes."""
        return self._batched(self.structure, arrays)

    def _row(self, arrays: Sequence[NDArray[Any]], index: int) -> list[Any]:
        leaves = zip(self.leaves, arrays, strict=True)
        return [array[index] if leaf.scalar else array[index, ...] for leaf, array in leaves]

    def _batched(self, structure: Structure, arrays: Sequence[NDArray[Any]]) -> Any:
        if isinstance(structure, dict):
            return {key: self._batched(part, arrays) for key, part in structure.items()}
        if isinstance(structure, tuple):
            return tuple(self._batched(part, arrays) for part in structure)
        if isinstance(structure, int):
            return arrays[structure]
        rows = range(len(arrays[0]))
        return tuple(_chosen(structure, self._row(arrays, index)) for index in rows)


def _dotted(leaf: ActionLeaf) -> str:
    """The keys that lead to a leaf; empty where they are not all of dicts."""
    return ".".join(map(str, leaf.keys)) if all(isinstance(key, str) for key in leaf.keys) else ""


def _filled(structure: Structure, values: Sequence[Value]) -> Nested[Value]:
    if isinstance(structure, dict):
        return {key: _filled(part, values) for key, part in structure.items()}
    if isinstance(structure, tuple):
        return tuple(_filled(part, values) for part in structure)
    if isinstance(structure, OneOf):
        return values[structure.index], tuple(_filled(option, values) for option in structure.options)
    return values[structure]


def _taken(structure: Structure, action: Any, path: str) -> Iterator[Any]:
    if isinstance(structure, dict):
        if not isinstance(action, Mapping) or action.keys() != structure.keys():
            raise ValueError(f"{path} must be a dict with the keys {list(structure)}")
        for key, part in structure.items():
            yield from _taken(part, action[key], f"{path}[{key!r}]")
    elif isinstance(structure, int):
        yield action
    else:
        parts = (structure.index, structure.options) if isinstance(structure, OneOf) else structure
        if not isinstance(action, tuple | list) or len(action) != len(parts):
            raise ValueError(f"{path} must be a tuple of {len(parts)} parts")
        for index, part in enumerate(parts):
            yield from _taken(part, action[index], f"{path}[{index}]")


def _chosen(structure: Structure, values: Sequence[Any]) -> Any:
    if isinstance(structure, int):
        return values[structure]
    if isinstance(structure, dict):
        return {key: _chosen(part, values) for key, part in structure.items()}
    if isinstance(structure, tuple):
        return tuple(_chosen(part, values) for part in structure)
    option = int(values[structure.index])
    return np.int64(option), _chosen(structure.options[option], values)
