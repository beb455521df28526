"""Observations of any supported Gymnasium space as one float32 row per environment.

`Box` is flattened, `Discrete` and `MultiDiscrete` become one-hot codes, `MultiBinary` zeros and ones;
`Dict` and `Tuple` concatenate their parts in the order of the space, as `gymnasium.spaces.flatten` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]

ACCEPTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these"


@dataclass(frozen=True)
class _Leaf:
    path: str
    keys: tuple[Any, ...]
    """Which entry of each nested Dict or Tuple leads here."""
    columns: slice
    first_column: NDArray[np.int64] | None
    """One-hot leaves: value `v` of entry `j` sets column `first_column[j] + v`. None: copied as it is."""
    low: Floats
    high: Floats


class ObservationLayout:
    """Where each part of an observation lies in the flat row of width `O`.

    Args:
        space: of one environment.
        max_rows: the largest number of rows that `first_fault` gets.
        check_bounds: whether `first_fault` holds observations against the bounds of their space.

    Raises:
        ValueError: the space has a leaf that cannot be flattened; the message gives its path.
    """

    def __init__(self, space: gymnasium.Space[Any], max_rows: int = 1, check_bounds: bool = True) -> None:
        self._space = space
        self._simple = (space.dtype, space.shape) if isinstance(space, spaces.Box) else None
        self._leaves: list[_Leaf] = []
        for path, keys, leaf in _walk(space, "observation", ()):
            start = self._leaves[-1].columns.stop if self._leaves else 0
            self._leaves.append(_make_leaf(path, keys, leaf, start))
        self.width: int = self._leaves[-1].columns.stop if self._leaves else 0
        if self.width == 0:
            raise ValueError(f"observation space {space} is empty: a policy needs something to look at")
        self.low = np.concatenate([leaf.low for leaf in self._leaves])
        self.high = np.concatenate([leaf.high for leaf in self._leaves])
        largest = np.finfo(np.float32).max
        # Two comparisons with finite numbers catch NaN and infinity too. One row per environment, as NumPy
        # compares arrays of equal shape several times faster than it broadcasts.
        floor, ceiling = (self.low, self.high) if check_bounds else (-largest, largest)
        self._floor = np.full((max_rows, self.width), np.maximum(floor, -largest), np.float32)
        self._ceiling = np.full((max_rows, self.width), np.minimum(ceiling, largest), np.float32)

    def box(self) -> spaces.Box:
        """The space of the flat rows; a single `Box` keeps its own shape, so that images and sets show."""
        shape = self._space.shape if isinstance(self._space, spaces.Box) else (self.width,)
        return spaces.Box(self.low.reshape(shape), self.high.reshape(shape), dtype=np.float32)

    def flatten(self, observation: Any, rows: int) -> Floats:
        """`[rows, O]`, newly allocated, of a batch of `rows` observations, or of a single one (`rows=1`)."""
        flat = np.zeros((rows, self.width), np.float32)
        for leaf in self._leaves:
            value = observation
            for key in leaf.keys:
                value = value[key]
            entries = np.asarray(value).reshape(rows, -1)
            if leaf.first_column is None:
                flat[:, leaf.columns] = entries
            else:
                np.put_along_axis(flat, entries + leaf.first_column, np.float32(1.0), axis=1)
        return flat

    def check(self, observation: Any) -> None:
        """Check structure, shape and dtype of one environment's observation, and the range of integers.

        Precision may be lost on the way to a float `Box` (float64 for float32 is common), nothing else.
        Floats and their range are checked in the flat batch, which is cheaper.

        Raises:
            ValueError: it does not fit the space; the message gives the path of the offending part.
        """
        if type(observation) is np.ndarray and (observation.dtype, observation.shape) == self._simple:
            return
        _check(self._space, observation, "observation")

    def first_fault(self, flat: Floats) -> tuple[int, str] | None:
        """The row of the first entry that is not finite or out of bounds, and what is wrong with it."""
        good = (flat >= self._floor[: len(flat)]) & (flat <= self._ceiling[: len(flat)])
        if good.all():
            return None
        row, column = (int(index) for index in np.argwhere(~good)[0])
        value = flat[row, column]
        if not np.isfinite(value):
            return row, f"{self._name(column)} is {value} as float32; observations must be finite"
        low, high = self.low[column], self.high[column]
        return row, f"{self._name(column)} is {value}, outside its space's [{low}, {high}]"

    def _name(self, column: int) -> str:
        leaf = next(leaf for leaf in self._leaves if column < leaf.columns.stop)
        return f"{leaf.path}[{column - leaf.columns.start}]"

    def describe(self) -> list[dict[str, Any]]:
        """What lies in which columns, as plain values: enough to build a row without this package.

        For each part `keys` (what leads to it in a nested observation), its `shape` and `dtype`, `columns`
        (the first, and the one after the last) and `encoding`: `numbers`, as they are, in row-major order,
        between `low` and `high` (None: unbounded); or `one-hot`: for each entry, in row-major order, as many
        columns as it has `choices`, all 0 but number `value - start`, which is 1.
        """
        described = []
        for leaf, (path, keys, space) in zip(
            self._leaves, _walk(self._space, "observation", ()), strict=True
        ):
            part = {
                "path": path,
                "keys": list(keys),
                "shape": list(space.shape or ()),
                "dtype": str(space.dtype),
            }
            part["columns"] = [leaf.columns.start, leaf.columns.stop]
            if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
                sizes, starts = _choices(space)
                part |= {"encoding": "one-hot", "choices": sizes.tolist(), "start": starts.tolist()}
            else:
                part |= {"encoding": "numbers", "low": _finite(leaf.low), "high": _finite(leaf.high)}
            described.append(part)
        return described


def _finite(bounds: Floats) -> list[float | None]:
    """As JSON can say it; a bound that is the same for all is given once."""
    numbers = bounds[:1] if bounds.size and (bounds == bounds[0]).all() else bounds
    return [number if np.isfinite(number) else None for number in numbers.tolist()]


def _walk(
    space: gymnasium.Space[Any], path: str, keys: tuple[Any, ...]
) -> Iterator[tuple[str, tuple[Any, ...], gymnasium.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _walk(part, f"{path}[{key!r}]", (*keys, key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _walk(part, f"{path}[{index}]", (*keys, index))
    elif isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        yield path, keys, space
    else:
        raise ValueError(f"{path} is a {type(space).__name__} space ({space}); accepted are {ACCEPTED}")


def _make_leaf(path: str, keys: tuple[Any, ...], space: gymnasium.Space[Any], start: int) -> _Leaf:
    if isinstance(space, spaces.Box):
        low = space.low.astype(np.float32).reshape(-1)
        high = space.high.astype(np.float32).reshape(-1)
        return _Leaf(path, keys, slice(start, start + low.size), None, low, high)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        sizes, starts = _choices(space)
        width = int(sizes.sum())
        first = start + np.cumsum(sizes) - sizes - starts
    else:
        width, first = int(np.prod(space.shape or (1,))), None
    low, high = np.zeros(width, np.float32), np.ones(width, np.float32)
    return _Leaf(path, keys, slice(start, start + width), first, low, high)


def _choices(space: spaces.Discrete | spaces.MultiDiscrete) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number of choices and the first choice of each entry, both flat."""
    if isinstance(space, spaces.Discrete):
        return np.array([space.n], np.int64), np.array([space.start], np.int64)
    return space.nvec.reshape(-1).astype(np.int64), space.start.reshape(-1).astype(np.int64)


def _check(space: gymnasium.Space[Any], value: Any, path: str) -> None:
    if isinstance(space, spaces.Box):
        _check_box(space, value, path)
    elif isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or value.keys() != space.spaces.keys():
            got = f"a dict of {list(value)}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise ValueError(f"{path} is {got}; its space has {list(space.spaces)}")
        for key, part in space.spaces.items():
            _check(part, value[key], f"{path}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            got = f"{len(value)} parts" if isinstance(value, tuple | list) else f"a {type(value).__name__}"
            raise ValueError(f"{path} is {got}; its space has {len(space.spaces)} parts")
        for index, part in enumerate(space.spaces):
            _check(part, value[index], f"{path}[{index}]")
    else:
        _check_integers(space, value, path)


def _check_box(space: spaces.Box, value: Any, path: str) -> None:
    if not isinstance(value, np.ndarray | np.generic):
        raise ValueError(f"{path} is a {type(value).__name__}, expected a numpy array {_form(space)}")
    if value.shape != space.shape:
        raise ValueError(f"{path} has shape {value.shape}, expected {_form(space)}")
    if value.dtype != space.dtype:
        lossy = np.issubdtype(space.dtype, np.floating)
        if not np.can_cast(value.dtype, space.dtype, "same_kind" if lossy else "safe"):
            raise ValueError(f"{path} has dtype {value.dtype}, expected {_form(space)}")


def _check_integers(space: gymnasium.Space[Any], value: Any, path: str) -> None:
    entries = np.asarray(value)
    if entries.dtype.kind not in "iub":
        raise ValueError(f"{path} has dtype {entries.dtype}, expected integers of {space}")
    if entries.shape != space.shape:
        raise ValueError(f"{path} has shape {entries.shape}, expected {space.shape} of {space}")
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        sizes, starts = _choices(space)
    else:
        sizes, starts = np.array([2]), np.array([0])
    flat = entries.reshape(-1)
    if ((flat < starts) | (flat >= starts + sizes)).any():
        raise ValueError(f"{path} is {value}, outside its space {space}")


def _form(space: spaces.Box) -> str:
    return f"{space.shape} of {space.dtype}"
