"""The leaves of an action space: each a row of categorical heads or a row of continuous parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

MOST_CHOICES = 64
"""Of a number in an integer `Box` that is still a head: more are a quantity, whose neighbours are alike."""

MOST_WHOLE_NUMBERS = 2**24
"""Between the bounds of a rounded parameter."""

ACCEPTED = "Discrete, MultiDiscrete, MultiBinary and bounded Box, alone or nested in Dict, Tuple and OneOf"

Key: TypeAlias = "str | int"


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
    scalar: bool = False
    """From a `Discrete`: a number, where all others are arrays."""
    outcomes: tuple[tuple[int, ...], ...] = ()
    """Of a `OneOf` and of discrete parts of its options: the numbers under each choice of head `first`, which
    they all share and which is counted with the leaf that says which option."""

    @property
    def rounded(self) -> bool:
        """Parameters that the environment wants as whole numbers."""
        return not self.discrete and self.dtype.kind in "iu"


def leaf_of(path: str, keys: tuple[Key, ...], space: gymnasium.Space[Any]) -> ActionLeaf:
    """A leaf that is counted from 0. Raises UnsupportedSpaceError."""
    return _heads(path, keys, space) or _parameters(path, keys, space)


def _heads(path: str, keys: tuple[Key, ...], space: gymnasium.Space[Any]) -> ActionLeaf | None:
    """As a row of heads; None where it is none."""
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
        binary=isinstance(space, spaces.MultiBinary), scalar=isinstance(space, spaces.Discrete),
    )  # fmt: skip


def _parameters(path: str, keys: tuple[Key, ...], space: gymnasium.Space[Any]) -> ActionLeaf:
    if not isinstance(space, spaces.Box):
        raise UnsupportedSpaceError(
            f"{path}: {space} holds no numbers; accepted are {ACCEPTED}. Wrap the environment in one that "
            "takes numbers there (gymnasium.wrappers.TransformAction)"
        )
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
    whole = np.dtype(box.dtype).kind in "iub"
    unbounded = ~(np.isfinite(exact[0]) & np.isfinite(exact[1]) & np.isfinite(width))
    fault = None
    if (exact[0] > exact[1]).any():
        fault = "has a low above its high; correct its bounds"
    elif unbounded.any() or (whole and (width > MOST_WHOLE_NUMBERS).any()):
        wide = "has more whole numbers than float32 can tell apart" if whole else "is unbounded"
        fault = f"{wide}; say between which numbers to act, for example env.action_bounds=[-1,1]"
    elif not (constant | (width > 0)).all():
        fault = (
            "has a low that as float32 is its high; make them equal, which sends a constant, or rescale "
            "(gymnasium.wrappers.RescaleAction)"
        )
    if fault is not None:
        raise UnsupportedSpaceError(f"{path}: {box} {fault}; accepted are {ACCEPTED}")
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
