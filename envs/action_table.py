"""An action space as one table: which numbers of an action are which heads and which parameters.

Accepted: `Discrete`, `MultiDiscrete`, `MultiBinary`, `Box`, alone or nested in any `Dict` or `Tuple`. Heads
and parameters are counted from 0, each for themselves, in the order of the space (a `Dict` made of a plain
dict sorts its keys; every other `Dict` keeps its own order).

- Every number of a `Discrete`, `MultiDiscrete` or `MultiBinary` is a categorical head.
- Every number of a bounded float `Box` is a parameter; where low equals high it is a constant.
- An integer `Box` is a row of heads if none of its numbers has more than `MOST_CHOICES` values, else a row of
  parameters that are rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

MOST_CHOICES = 64
"""Of a number in an integer `Box` that is still a head: more are a quantity, whose neighbours are alike."""

ACCEPTED = "Discrete, MultiDiscrete, MultiBinary and bounded Box, alone or nested in Dict and Tuple"
_ADVICE = (
    "give every parameter bounds with low <= high that float32 can hold, as it must their difference "
    "(gymnasium.wrappers.RescaleAction, or bounds in the environment)"
)

Key: TypeAlias = "str | int"
Value = TypeVar("Value")
Nested: TypeAlias = "Value | dict[str, Nested[Value]] | tuple[Nested[Value], ...]"
"""A value in the place of each leaf of the space."""


class UnsupportedSpaceError(ValueError):
    """An action space, or a relevance table, that a hybrid policy cannot serve."""


@dataclass(frozen=True)
class ActionLeaf:
    """One leaf of an action space, a row of heads or a row of parameters. All numbers are plain ones."""

    path: str
    """As it is written in Python: `action['aim'][0]`."""
    keys: tuple[Key, ...]
    """Which entry of each nested `Dict` or `Tuple` leads here."""
    discrete: bool
    """Heads, else parameters."""
    first: int
    """The number of the first head, or of the first parameter."""
    count: int
    """How many there are."""
    shape: tuple[int, ...]
    """Of the leaf in an action of one environment."""
    dtype: np.dtype[Any]
    """What the environment expects."""
    choices: tuple[int, ...] = ()
    """How many choices each head has."""
    start: tuple[int, ...] = ()
    """What choice 0 of each head is in the environment."""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    """The environment's bounds of each parameter. Equal ones make it a constant."""
    binary: bool = False
    """From a `MultiBinary`, whose masks have a form of their own."""

    @property
    def rounded(self) -> bool:
        """Parameters that the environment wants as whole numbers."""
        return not self.discrete and self.dtype.kind in "iu"


class ActionTable:
    """The leaves of an action space, and how they are nested.

    Args:
        space: of one environment.

    Raises:
        UnsupportedSpaceError: names the path of the leaf that does not fit and what is accepted.
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.space = space
        self.leaves: tuple[ActionLeaf, ...] = tuple(_leaves(space))
        if not any(leaf.count for leaf in self.leaves):
            raise UnsupportedSpaceError(f"action: {space} holds no action at all; accepted are {ACCEPTED}")
        self.structure: Nested[int] = _structure(space, iter(range(len(self.leaves))))
        """The numbers of the leaves, nested as in the space."""
        self.choices: tuple[int, ...] = tuple(n for leaf in self.leaves for n in leaf.choices)
        """Of each head."""
        self.num_heads = len(self.choices)
        self.num_continuous = sum(leaf.count for leaf in self.leaves if not leaf.discrete)
        self.options: Mapping[int, tuple[tuple[int, ...], ...]] = dict(self._options(space, ()))
        """Head -> the parameters of each of its choices, where the space itself says that they belong
        together: a `Tuple` of a `Discrete` and as many parts of nothing but parameters as it has choices,
        which may be in a `Tuple` of their own (Masson, Ranchod, Konidaris, "Reinforcement learning with
        parameterized actions", AAAI 2016)."""

    def assemble(self, values: Sequence[Value]) -> Nested[Value]:
        """The value of each leaf, in order, in the structure of the space."""
        return _filled(self.structure, values)

    def take_apart(self, action: Any) -> list[Any]:
        """What is in the place of each leaf, in order: the inverse of `assemble`.

        Raises:
            ValueError: the action has another structure; the message gives the path.
        """
        return list(_taken(self.structure, action, "action"))

    def _options(
        self, space: gymnasium.Space[Any], keys: tuple[Key, ...]
    ) -> Iterator[tuple[int, tuple[tuple[int, ...], ...]]]:
        for key, part in _parts(space):
            yield from self._options(part, (*keys, key))
        if isinstance(space, spaces.Tuple) and (places := _parameterised(space)):
            head = next(leaf.first for leaf in self.leaves if leaf.keys == (*keys, 0))
            yield head, tuple(self._parameters_at((*keys, *place)) for place in places)

    def _parameters_at(self, keys: tuple[Key, ...]) -> tuple[int, ...]:
        leaves = (leaf for leaf in self.leaves if not leaf.discrete and leaf.keys[: len(keys)] == keys)
        return tuple(number for leaf in leaves for number in range(leaf.first, leaf.first + leaf.count))


def _parts(space: gymnasium.Space[Any]) -> Sequence[tuple[Key, gymnasium.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    return list(enumerate(space.spaces)) if isinstance(space, spaces.Tuple) else []


def _walk(
    space: gymnasium.Space[Any], keys: tuple[Key, ...] = ()
) -> Iterator[tuple[tuple[Key, ...], gymnasium.Space[Any]]]:
    """The leaves of `space`, in order, each with what leads to it."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        yield keys, space
    for key, part in _parts(space):
        yield from _walk(part, (*keys, key))


def _leaves(space: gymnasium.Space[Any]) -> Iterator[ActionLeaf]:
    heads = parameters = 0
    for keys, part in _walk(space):
        path = "action" + "".join(f"[{key!r}]" for key in keys)
        leaf = _heads(path, keys, part) or _parameters(path, keys, part)
        yield replace(leaf, first=heads if leaf.discrete else parameters)
        heads, parameters = heads + leaf.count * leaf.discrete, parameters + leaf.count * (not leaf.discrete)


def _heads(path: str, keys: tuple[Key, ...], space: gymnasium.Space[Any]) -> ActionLeaf | None:
    """The leaf as a row of heads, `first` not yet filled in; None where it is none."""
    match space:
        case spaces.Discrete():
            choices, start = np.array(space.n), np.array(space.start)
        case spaces.MultiDiscrete():
            choices, start = space.nvec, space.start
        case spaces.MultiBinary():
            choices, start = np.full(space.shape, 2), np.zeros(space.shape, np.int64)
        case spaces.Box() if np.dtype(space.dtype).kind in "iub":
            low, high = (bound.astype(object) for bound in (space.low, space.high))  # no overflow
            choices, start = np.asarray(high - low + 1, dtype=object), low
            if not ((choices > 0) & (choices <= MOST_CHOICES)).all():
                return None
        case _:
            return None
    counts, starts = (tuple(map(int, numbers.reshape(-1))) for numbers in (choices, start))
    return ActionLeaf(
        path, keys, True, 0, len(counts), _shape(space), np.dtype(space.dtype), counts, starts,
        binary=isinstance(space, spaces.MultiBinary),
    )  # fmt: skip


def _parameters(path: str, keys: tuple[Key, ...], space: gymnasium.Space[Any]) -> ActionLeaf:
    """The leaf as a row of parameters, `first` not yet filled in."""
    if not isinstance(space, spaces.Box):
        raise UnsupportedSpaceError(f"{path}: {space} is not supported; accepted are {ACCEPTED}")
    low, high = _bounds(path, space)
    return ActionLeaf(
        path, keys, False, 0, len(low), _shape(space), np.dtype(space.dtype), low=low, high=high
    )


def _shape(space: gymnasium.Space[Any]) -> tuple[int, ...]:
    return tuple(map(int, space.shape or ()))


def _bounds(path: str, box: spaces.Box) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Low and high of each number, which float32 can tell apart unless they are equal."""
    exact = box.low.astype(np.float64).reshape(-1), box.high.astype(np.float64).reshape(-1)
    constant = exact[0] == exact[1]
    low, high = inner_float32(*exact)
    with np.errstate(over="ignore", invalid="ignore"):
        width = high - low
    fault = None
    if not (np.isfinite(exact[0]).all() and np.isfinite(exact[1]).all()):
        fault = "is unbounded"
    elif np.dtype(box.dtype).kind in "iub" and (width > 2**24).any():
        fault = "is so wide that float32 cannot tell its numbers apart"
    elif not np.isfinite(width).all():
        fault = "is so wide that high - low is infinite as float32"
    elif (exact[0] > exact[1]).any() or not (constant | (width > 0)).all():
        fault = "has a bound with low >= high as float32"
    if fault is not None:
        raise UnsupportedSpaceError(f"{path}: {box} {fault}; accepted are {ACCEPTED}: {_ADVICE}")
    return tuple(exact[0].tolist()), tuple(exact[1].tolist())


def inner_float32(low: ArrayLike, high: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bounds as float32 numbers that do not lie outside of the exact ones, but for constants."""
    exact = np.asarray(low, np.float64), np.asarray(high, np.float64)
    varies = exact[0] < exact[1]
    with np.errstate(over="ignore"):
        inner = exact[0].astype(np.float32), exact[1].astype(np.float32)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    return (
        np.where(varies & (inner[0] < exact[0]), np.nextafter(inner[0], up), inner[0]),
        np.where(varies & (inner[1] > exact[1]), np.nextafter(inner[1], down), inner[1]),
    )


def _parameterised(space: spaces.Tuple[Any]) -> list[tuple[int, ...]]:
    """Where, from `space`, the parameters of each choice of its first part are; empty for other forms."""
    first, rest = space.spaces[:1], space.spaces[1:]
    inner = rest[0] if len(rest) == 1 else None
    nested = isinstance(inner, spaces.Tuple)
    options = inner.spaces if isinstance(inner, spaces.Tuple) else rest
    if len(options) < 2 or not isinstance(first[0], spaces.Discrete) or first[0].n != len(options):
        return []
    if any(not isinstance(leaf, spaces.Box) for option in options for _, leaf in _walk(option)):
        return []
    return [(1, i) if nested else (1 + i,) for i in range(len(options))]


def _structure(space: gymnasium.Space[Any], numbers: Iterator[int]) -> Nested[int]:
    if isinstance(space, spaces.Dict):
        return {key: _structure(part, numbers) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_structure(part, numbers) for part in space.spaces)
    return next(numbers)


def _filled(structure: Nested[int], values: Sequence[Value]) -> Nested[Value]:
    if isinstance(structure, dict):
        return {key: _filled(part, values) for key, part in structure.items()}
    if isinstance(structure, tuple):
        return tuple(_filled(part, values) for part in structure)
    return values[structure]


def _taken(structure: Nested[int], action: Any, path: str) -> Iterator[Any]:
    if isinstance(structure, dict):
        if not isinstance(action, Mapping) or action.keys() != structure.keys():
            raise ValueError(f"{path} must be a dict with the keys {list(structure)}")
        for key, part in structure.items():
            yield from _taken(part, action[key], f"{path}[{key!r}]")
    elif isinstance(structure, tuple):
        if not isinstance(action, tuple | list) or len(action) != len(structure):
            raise ValueError(f"{path} must be a tuple of {len(structure)} parts")
        for index, part in enumerate(structure):
            yield from _taken(part, action[index], f"{path}[{index}]")
    else:
        yield action
