"""The generators of the whole process (`np.random`, `random`, `torch`), from which many simulators draw.

Copies of such an environment would share one stream in a process, and forked processes would each begin
with the same one. So each copy has streams of its own, which are in force while it is at work.
"""

from __future__ import annotations

import copy
import ctypes
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.random import MT19937
from numpy.random.mtrand import get_bit_generator, set_bit_generator

_TORCH = torch.default_generator


class Streams:
    """States of `np.random`, `random` and `torch` (on the CPU).

    Args:
        origin: a seed, and further numbers if there is more than one for it; streams of different origins are
            independent. None at all: the states that are in force, which `enter` puts back.
    """

    def __init__(self, *origin: int) -> None:
        self.begin(*origin)

    def begin(self, *origin: int) -> None:
        """Begin anew, from an `origin` as above."""
        self._origin = origin
        if not origin:
            self.leave()
            return
        numpy, python, pytorch = np.random.SeedSequence(origin).generate_state(3, np.uint64).tolist()
        self._numpy: Any = MT19937(numpy)
        self._python = _packed(random.Random(python).getstate())
        self._torch = torch.Generator().manual_seed(pytorch).get_state()

    def enter(self) -> None:
        """Put them in force; `leave` notes how far they have come."""
        set_bit_generator(self._numpy)
        _set_python(self._python)
        _TORCH.set_state(self._torch)

    def leave(self) -> None:
        self._numpy = get_bit_generator()
        self._python = _get_python()
        self._torch = _TORCH.get_state()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def state_dict(self) -> dict[str, Any]:
        """Plain values; a generator that nobody has drawn from since it began takes no place.

        Raises ValueError if somebody has given `np.random` a bit generator of another kind.
        """
        state = self._plain()
        if self._origin:
            new = Streams(*self._origin)._plain()
            state = {name: value for name, value in state.items() if value != new[name]}
        return {"origin": list(self._origin), **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.begin(*state["origin"])
        if "numpy" in state:
            *key, position = np.frombuffer(state["numpy"], np.uint32)
            self._numpy = MT19937()
            self._numpy.state = {
                "bit_generator": "MT19937",
                "state": {"key": np.array(key, np.uint32), "pos": int(position)},
            }
        if "python" in state:
            _, numbers, gauss = state["python"]  # its position is last, as in `random.getstate`
            self._python = numbers[-4:] + numbers[:-4], gauss
        if "torch" in state:
            self._torch = torch.frombuffer(bytearray(state["torch"]), dtype=torch.uint8)

    def _plain(self) -> dict[str, Any]:
        if not isinstance(self._numpy, MT19937):
            raise ValueError(
                f"np.random draws from a {type(self._numpy).__name__}; only MT19937 can be saved"
            )
        numpy, (table, gauss) = self._numpy.state["state"], self._python
        return {
            "numpy": np.append(numpy["key"], np.uint32(numpy["pos"])).tobytes(),
            "python": [_GENERATOR.VERSION, table[4:] + table[:4], gauss],
            "torch": self._torch.numpy().tobytes(),
        }


@contextmanager
def preserved(*origin: int) -> Iterator[None]:
    """Inside, what is drawn from the generators of the process does not count. `origin`: as of `Streams`."""
    before = Streams()
    set_bit_generator(copy.deepcopy(get_bit_generator()))
    if origin:
        Streams(*origin).enter()
    try:
        yield
    finally:
        before.enter()


def _packed(state: tuple[Any, ...]) -> tuple[bytes, float | None]:
    """What `random.getstate` gives -> the position in the table and its 624 numbers, 4 bytes each, as CPython
    has them in memory; and the second of a pair of normal numbers, if it has not been drawn yet."""
    _, (*numbers, position), gauss = state
    return np.array([position, *numbers], np.uint32).tobytes(), gauss


def _get_python() -> tuple[bytes, float | None]:
    return _packed(random.getstate()) if _TABLE is None else (_TABLE.raw, _GENERATOR.gauss_next)


def _set_python(state: tuple[bytes, float | None]) -> None:
    table, gauss = state
    if _TABLE is None:
        position, *numbers = np.frombuffer(table, np.uint32).tolist()
        random.setstate((_GENERATOR.VERSION, (*numbers, position), gauss))
    else:
        _TABLE.raw, _GENERATOR.gauss_next = table, gauss


def _table() -> Any:
    """The memory of Python's generator behind the head of its object: `setstate`, which goes through 624
    numbers, takes half as long as a step of CartPole. None where it is not as in CPython."""
    found = (ctypes.c_char * 2500).from_address(id(_GENERATOR) + object.__basicsize__)
    before, seen = random.getstate(), []
    for state in (before, random.Random(1).getstate()):
        random.setstate(state)
        seen.append(found.raw == _packed(state)[0])
    random.setstate(before)
    return found if all(seen) else None


_GENERATOR: Any = random._inst
_TABLE = _table() if sys.implementation.name == "cpython" else None
