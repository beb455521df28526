"""Generators that the module or the class of an environment holds, and that all its copies have in common."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.random import MT19937, RandomState, SeedSequence

from equipoise.envs.gymnasium_adapter.own_spaces import layers
from equipoise.envs.gymnasium_adapter.plain_values import Encoder, decode

_KINDS = (np.random.Generator, RandomState, random.Random, torch.Generator)
_LIBRARIES = ("builtins", "gymnasium", "numpy", "torch", "random", "typing", "equipoise")


class SharedStreams:
    """What one copy finds in such generators. They are of `np.random`, `random` and `torch`.

    Args:
        env: whose modules and classes are searched, and those of its wrappers.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        found = [held for layer in layers(env) for held in _held_by(type(layer))]
        self._held = list({id(held): held for held in found}.values())
        self._states: list[Any] = []
        self.leave()

    def begin(self, *origin: int) -> None:
        """Begin anew; streams of different origins are independent."""
        self._states = [_begun(held, (*origin, index)) for index, held in enumerate(self._held)]

    def enter(self) -> None:
        """Put them in force; `leave` notes how far they have come."""
        for held, state in zip(self._held, self._states, strict=True):
            _set(held, state)

    def leave(self) -> None:
        self._states = [_get(held) for held in self._held]

    def encoded(self) -> list[Any]:
        """Plain values, for `restore`."""
        return [Encoder([]).encode(state, "state") for state in self._states]

    def restore(self, encoded: Sequence[Any]) -> None:
        self._states = [decode(state) for state in encoded]


def _held_by(cls: type) -> Iterator[Any]:
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] not in _LIBRARIES:
            module = sys.modules.get(base.__module__)
            for value in (*vars(base).values(), *(vars(module).values() if module is not None else ())):
                if isinstance(value, _KINDS) and not _is_default(value):
                    yield value


def _is_default(value: Any) -> bool:
    """Those of the process have streams of their own, and what is on a device is not looked at."""
    elsewhere = isinstance(value, torch.Generator) and value.device.type != "cpu"
    return elsewhere or value is torch.default_generator


def _begun(held: Any, origin: tuple[int, ...]) -> Any:
    sequence = SeedSequence(origin)
    if isinstance(held, np.random.Generator):
        return type(held.bit_generator)(sequence).state
    if isinstance(held, RandomState):
        return RandomState(MT19937(sequence)).get_state(legacy=False)
    number = int(sequence.generate_state(1, np.uint64)[0])
    if isinstance(held, random.Random):
        return random.Random(number).getstate()
    return torch.Generator().manual_seed(number).get_state()


def _get(held: Any) -> Any:
    if isinstance(held, np.random.Generator):
        return held.bit_generator.state
    if isinstance(held, RandomState):
        return held.get_state(legacy=False)
    return held.getstate() if isinstance(held, random.Random) else held.get_state()


def _set(held: Any, state: Any) -> None:
    if isinstance(held, np.random.Generator):
        held.bit_generator.state = state
    elif isinstance(held, random.Random):
        held.setstate(state)
    else:
        held.set_state(state)
