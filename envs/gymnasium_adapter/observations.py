"""Observations of any supported Gymnasium space as one float32 row per environment.

`Box` is flattened, `Discrete` and `MultiDiscrete` become one-hot codes, `MultiBinary` zeros and ones;
`Dict` and `Tuple` concatenate their parts in the order of the space, as `gymnasium.spaces.flatten` does.

What environments of others return is taken as it is meant: numbers and lists for arrays, any dtype that holds
real numbers, one number for an array of one and the other way round, dicts with more parts. Wrong shapes and
structures are errors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from equipoise.envs.sequences import PadSequences, is_sequence

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]

ACCEPTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these"


@dataclass(frozen=True)
class _Leaf:
    path: str
    keys: tuple[Any, ...]
    """Which entry of each nested Dict or Tuple leads here."""
    space: gymnasium.Space[Any]
    shape: tuple[int, ...]
    columns: slice
    low: Floats
    high: Floats
    """Of each column."""
    first: NDArray[np.int64] | None = None
    """Of integers: the smallest value of each entry."""
    count: NDArray[np.int64] | None = None
    """Of integers: how many values each entry has."""
    column: NDArray[np.int64] | None = None
    """One-hot leaves: the column of the smallest value of each entry. None: copied as it is."""
    single: tuple[int, int] | None = None
    """`first` and `count` of a `Discrete`."""
    bytes: bool = False
    """Whether it is a Box of whole numbers that a byte holds: a rollout may keep no more than that."""

    def put(self, row: Floats, value: Any) -> str | None:
        """Fill the columns of `row` `[O]`, as `read` and `write` do; quick where all is as it should be."""
        if isinstance(value, np.ndarray) and value.shape == self.shape:
            if self.first is None and value.dtype.kind in "fiub" and not self.bytes:
                row[self.columns] = value.reshape(-1)
                return None
            if self.first is not None and self.count is not None and value.dtype.kind in "iub":
                choices = value.reshape(-1) - self.first
                if ((choices >= 0) & (choices < self.count)).all():
                    if self.column is None:
                        row[self.columns] = choices
                    else:
                        row[self.column + choices] = 1.0
                    return None
        elif self.single is not None and isinstance(value, int | np.integer):
            choice = int(value) - self.single[0]
            if 0 <= choice < self.single[1]:
                row[self.columns.start + choice] = 1.0
                return None
        fault = self.write(row[None], self.read(value)[None])
        return None if fault is None else fault[1]

    def fits(self, observation: Any) -> bool:
        """Whether it is there in a whole observation, and can be read."""
        try:
            for key in self.keys:
                observation = observation[key]
            self.read(observation)
        except (LookupError, TypeError, ValueError):
            return False
        return True

    def read(self, value: Any) -> Array:
        """The entries of one observation, `[entries]`. Raises ValueError."""
        array = as_array(value)
        if array.dtype.kind not in "fiub":
            got = f"dtype {array.dtype}" if isinstance(value, np.ndarray) else f"the value {value!r:.80}"
            raise ValueError(f"{self.path} has {got}, expected {self._form()}")
        if array.shape != self.shape and (array.size, self.shape.count(1)) != (1, len(self.shape)):
            raise ValueError(f"{self.path} has shape {array.shape}, expected {self._form()}")
        entries = array.reshape(-1)
        whole = np.isfinite(entries) & (entries == np.floor(entries)) if array.dtype.kind == "f" else True
        if self.first is not None and not np.all(whole):
            raise ValueError(f"{self.path} is {value}, expected integers of {self.space}")
        return entries

    def _refuse_others(self, entries: Array) -> None:
        """Raise ValueError for numbers that no byte holds, where the space says that they are bytes."""
        if entries.dtype.itemsize == 1 and entries.dtype.kind in "ub":
            return
        wrong = ~((entries >= 0) & (entries <= 255) & (entries == np.floor(entries)))
        if wrong.any():
            raise ValueError(
                f"{self.path} holds {entries[wrong].flat[0]} and has dtype {entries.dtype}; its space says "
                f"{self.space.dtype}: correct the space, or the numbers"
            )

    def write(self, flat: Floats, entries: Array) -> tuple[int, str] | None:
        """Fill the columns of `flat` `[rows, O]` from `[rows, entries]`. Integers beyond the range of their
        space count as its nearest: gives the row of the first such and what is wrong with it."""
        outside = None
        if self.first is not None and self.count is not None:
            kept = np.clip(entries, self.first, self.first + self.count - 1).astype(np.int64)
            if (kept != entries).any():
                row, entry = (int(index) for index in np.argwhere(kept != entries)[0])
                place = f"{self.path}[{entry}]" if self.shape else self.path
                outside = row, f"{place} is {entries[row, entry]}, outside its space {self.space}"
            entries = kept - self.first
        if self.bytes:
            self._refuse_others(entries)
        if self.column is None:
            flat[:, self.columns] = entries
        else:
            np.put_along_axis(flat, entries + self.column, np.float32(1.0), axis=1)
        return outside

    def _form(self) -> str:
        if isinstance(self.space, spaces.Box):
            return f"{self.shape} of {self.space.dtype}"
        return f"{self.shape}, integers of {self.space}"


@dataclass(frozen=True)
class _Node:
    """A Dict or a Tuple."""

    parts: tuple[tuple[Any, _Leaf | _Node], ...]
    """Key -> part, of those that are not left out."""
    names: tuple[Any, ...] | None
    """Of all parts of a Dict."""
    count: int
    """Of all parts."""

    def check(self, value: Any, keys: tuple[Any, ...]) -> None:
        """Raise ValueError where `value` lacks parts but those that are left out. A dict may have more."""
        wanted: object = f"{self.count} parts" if self.names is None else list(self.names)
        got = f"a {type(value).__name__}"
        if self.names is None and isinstance(value, tuple | list):
            if len(value) == self.count:
                return
            got = f"{len(value)} parts"
        elif self.names is not None and isinstance(value, Mapping):
            if all(key in value for key, _ in self.parts):
                return
            got = f"a dict of {list(value)}"
        path = "observation" + "".join(f"[{key!r}]" for key in keys)
        raise ValueError(f"{path} is {got}; its space has {wanted}")


class ObservationLayout:
    """Where each part of an observation lies in the flat row of width `O`.

    Args:
        space: of one environment.
        ignore: parts to leave out, by name: `mission`, or `sensors.text` and `0.text` for a nested one. Parts
            of a `Tuple` have numbers, which a command line reads as such: `1`, `0.1`.

    Raises:
        ValueError: the space has a leaf that cannot be flattened; the message gives its path and the way out.
    """

    def __init__(self, space: gymnasium.Space[Any], ignore: Collection[str | float] = ()) -> None:
        self._space, self.ignore = space, tuple(map(str, ignore))
        self._simple = (space.dtype, space.shape) if isinstance(space, spaces.Box) else None
        self._leaves: list[_Leaf] = []
        found = list(_walk(space, "observation", ()))
        self._refuse(found)
        for path, keys, leaf in found:
            if not self.ignores(keys):
                start = self._leaves[-1].columns.stop if self._leaves else 0
                self._leaves.append(_make_leaf(path, keys, leaf, start))
        self.width: int = self._leaves[-1].columns.stop if self._leaves else 0
        if self.width == 0:
            raise ValueError(f"observation space {space} is empty: a policy needs something to look at")
        self._tree = self._rooted(space, (), {leaf.keys: leaf for leaf in self._leaves})
        self.flat = isinstance(self._tree, _Leaf)
        """Whether an observation is one value, and no dict or tuple of several."""
        self.low = np.concatenate([leaf.low for leaf in self._leaves])
        self.high = np.concatenate([leaf.high for leaf in self._leaves])

    def box(self) -> spaces.Box:
        """The space of the flat rows; a single `Box` keeps its own shape, so that images and sets show."""
        shape = self._space.shape if isinstance(self._space, spaces.Box) else (self.width,)
        return spaces.Box(self.low.reshape(shape), self.high.reshape(shape), dtype=np.float32)

    def flat_box(self) -> spaces.Box:
        """As `box`, flat and without bounds."""
        return spaces.Box(-np.inf, np.inf, (self.width,), np.float32)

    def row(self, observation: Any) -> tuple[Floats, str | None]:
        """`[O]`, newly allocated, of one observation; and of the first integer that lies outside its space,
        which counts as the nearest one, what is wrong with it.

        Raises:
            ValueError: the observation does not fit the space; the message gives the path of the part.
        """
        if type(observation) is np.ndarray and (observation.dtype, observation.shape) == self._simple:
            return np.array(observation, np.float32).reshape(-1), None
        row = np.zeros(self.width, np.float32)
        return row, self._fill(row, self._tree, observation, ())

    def beyond(self, observation: Any) -> list[str]:
        """The parts of an observation that fits which its space does not have, and nobody sees."""
        return list(_beyond(self._tree, observation, "observation"))

    def way_out(self, observation: Any) -> str:
        """What to add to the message on an observation that does not fit: how to do without its unfit parts;
        nothing where all are unfit, or none."""
        unfit = [".".join(map(str, leaf.keys)) for leaf in self._leaves if not leaf.fits(observation)]
        return f"; {self._leaving_out(unfit)}" if 0 < len(unfit) < len(self._leaves) else ""

    def rows(self, observations: Any, count: int) -> tuple[Floats, tuple[int, str] | None]:
        """`[count, O]` of a batch as vector environments give it, each array with a leading axis; and the row
        of the first integer outside its space, with what is wrong with it. The rest is not checked."""
        flat = np.zeros((count, self.width), np.float32)
        outside = None
        for leaf in self._leaves:
            value = observations
            for key in leaf.keys:
                value = value[key]
            fault = leaf.write(flat, np.asarray(value).reshape(count, -1))
            outside = outside or fault
        return flat, outside

    def ignores(self, keys: tuple[Any, ...]) -> bool:
        """Whether the part that `keys` lead to, or one that it is in, is left out."""
        if not self.ignore:
            return False
        return any(".".join(map(str, keys[: n + 1])) in self.ignore for n in range(len(keys)))

    def name(self, column: int) -> str:
        """The entry of the observation that a column is of, `observation['place'][1]`."""
        leaf = next(leaf for leaf in self._leaves if column < leaf.columns.stop)
        return f"{leaf.path}[{column - leaf.columns.start}]"

    def describe(self) -> list[dict[str, Any]]:
        """What lies in which columns, as plain values: enough to build a row without this package.

        For each part `keys` (what leads to it in a nested observation), its `shape` and `dtype`, `columns`
        (the first, and the one after the last) and `encoding`: `numbers`, as they are, in row-major order,
        between `low` and `high` (None: unbounded); or `one-hot`: for each entry, in row-major order, as many
        columns as it has `choices`, all 0 but number `value - start`, which is 1. Parts that are left out are
        not there.
        """
        described = []
        for leaf in self._leaves:
            part = {
                "path": leaf.path,
                "keys": list(leaf.keys),
                "shape": list(leaf.shape),
                "dtype": str(leaf.space.dtype),
            }
            part["columns"] = [leaf.columns.start, leaf.columns.stop]
            if leaf.column is not None and leaf.first is not None and leaf.count is not None:
                part |= {"encoding": "one-hot", "choices": leaf.count.tolist(), "start": leaf.first.tolist()}
            else:
                part |= {"encoding": "numbers", "low": _finite(leaf.low), "high": _finite(leaf.high)}
            described.append(part)
        return described

    def _refuse(self, found: list[tuple[str, tuple[Any, ...], gymnasium.Space[Any]]]) -> None:
        """Raise ValueError for parts that cannot be read, or that are to be left out and are not there."""
        names = [".".join(map(str, keys)) for _, keys, _ in found]
        for name in self.ignore:
            if not any(part == name or part.startswith(f"{name}.") for part in names):
                raise ValueError(f"ignore: {name!r} is no part of the observation; there are {names}")
        readable = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
        seen = [
            (path, name, leaf)
            for (path, keys, leaf), name in zip(found, names, strict=True)
            if not self.ignores(keys)
        ]
        unread = [part for part in seen if not isinstance(part[2], readable)]
        if not unread:
            return
        said = (f"{path} is a {type(leaf).__name__} space ({leaf!s:.200})" for path, _, leaf in unread)
        named = ", ".join(said)
        way_out = "wrap the environment so that it gives numbers"
        if all(is_sequence(leaf) for _, _, leaf in unread):
            wrapper = f"{{_target_: {PadSequences.__module__}.PadSequences, longest: 16}}"
            way_out = f"env.wrappers=[{wrapper}] makes sets of up to 16 things of all such parts"
        elif len(unread) < len(seen):
            way_out = self._leaving_out([name for _, name, _ in unread])
        raise ValueError(f"{named}; accepted are {ACCEPTED}; {way_out}")

    def _leaving_out(self, names: Sequence[str]) -> str:
        listed = ",".join([*self.ignore, *names])
        return f"env.ignore=[{listed}] leaves {'it' if len(names) == 1 else 'them'} out"

    def _fill(self, row: Floats, node: _Leaf | _Node, value: Any, keys: tuple[Any, ...]) -> str | None:
        """Fill the columns of what is under `node`; gives what is wrong with the first integer outside."""
        if isinstance(node, _Leaf):
            return node.put(row, value)
        node.check(value, keys)
        outside = None
        for key, part in node.parts:
            fault = self._fill(row, part, value[key], (*keys, key))
            outside = outside or fault
        return outside

    def _rooted(
        self, space: gymnasium.Space[Any], keys: tuple[Any, ...], leaves: Mapping[Any, _Leaf]
    ) -> _Leaf | _Node:
        """What is under `keys` as a tree, without what is left out."""
        if keys in leaves:
            return leaves[keys]
        seen = [(key, part) for key, part in _parts(space) if not self.ignores((*keys, key))]
        parts = tuple((key, self._rooted(part, (*keys, key), leaves)) for key, part in seen)
        names = tuple(space.spaces) if isinstance(space, spaces.Dict) else None
        return _Node(parts, names, len(_parts(space)))


def _beyond(node: _Leaf | _Node, value: Any, path: str) -> Iterator[str]:
    if isinstance(node, _Leaf):
        return
    if node.names is not None:
        yield from (f"{path}[{key!r}]" for key in value if key not in node.names)
    for key, part in node.parts:
        yield from _beyond(part, value[key], f"{path}[{key!r}]")


def _finite(bounds: Floats) -> list[float | None]:
    """As JSON can say it; a bound that is the same for all is given once."""
    numbers = bounds[:1] if bounds.size and (bounds == bounds[0]).all() else bounds
    return [number if np.isfinite(number) else None for number in numbers.tolist()]


def _walk(
    space: gymnasium.Space[Any], path: str, keys: tuple[Any, ...]
) -> Iterator[tuple[str, tuple[Any, ...], gymnasium.Space[Any]]]:
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        yield path, keys, space
    for key, part in _parts(space):
        yield from _walk(part, f"{path}[{key!r}]", (*keys, key))


def _parts(space: gymnasium.Space[Any]) -> list[tuple[Any, gymnasium.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    return list(enumerate(space.spaces)) if isinstance(space, spaces.Tuple) else []


def _make_leaf(path: str, keys: tuple[Any, ...], space: gymnasium.Space[Any], start: int) -> _Leaf:
    shape = tuple(space.shape or ())
    if isinstance(space, spaces.Box):
        low = space.low.astype(np.float32).reshape(-1)
        high = space.high.astype(np.float32).reshape(-1)
        columns, whole = slice(start, start + low.size), space.dtype in (np.uint8, np.bool_)
        return _Leaf(path, keys, space, shape, columns, low, high, bytes=whole)
    first, count = _choices(space)
    one_hot = not isinstance(space, spaces.MultiBinary)
    width = int(count.sum()) if one_hot else len(count)
    column = start + np.cumsum(count) - count if one_hot else None
    low, high = np.zeros(width, np.float32), np.ones(width, np.float32)
    single = (int(first[0]), int(count[0])) if isinstance(space, spaces.Discrete) else None
    columns = slice(start, start + width)
    return _Leaf(path, keys, space, shape, columns, low, high, first, count, column, single)


def _choices(space: gymnasium.Space[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The smallest value of each entry of a space of integers and how many there are, both flat."""
    if isinstance(space, spaces.Discrete):
        return np.array([space.start], np.int64), np.array([space.n], np.int64)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start.reshape(-1).astype(np.int64), space.nvec.reshape(-1).astype(np.int64)
    entries = int(np.prod(space.shape or ()))
    return np.zeros(entries, np.int64), np.full(entries, 2)


def as_array(value: Any) -> Array:
    """Of dtype object where `value` is no array of anything."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # lists of different lengths; a tensor of autograd's
        return np.asarray(None)
