"""Spaces of an environment: each with a random stream of its own, none shared by copies."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np


def layers(env: gymnasium.Env[Any, Any]) -> list[gymnasium.Env[Any, Any]]:
    """`env`, what it wraps, and so on down to the innermost."""
    found = [env]
    while isinstance(found[-1], gymnasium.Wrapper):
        found.append(found[-1].env)
    return found


def spaces(env: gymnasium.Env[Any, Any]) -> list[gymnasium.Space[Any]]:
    """Those of `env` and its wrappers, each once, with all parts: each has a random stream of its own."""
    found = dict[int, gymnasium.Space[Any]]()
    held = _held_spaces(env)[::-1]
    while held:
        space = held.pop()
        if id(space) not in found:
            found[id(space)] = space
            held += _parts(space)
    return list(found.values())


def seed_spaces(env: gymnasium.Env[Any, Any], seed: int) -> None:
    """Give every space a random stream of its own, and each part of it too: Gymnasium seeds none of them.

    One seed for all would make equal what an environment draws from two of them, start and goal for example.
    """
    every = spaces(env)
    before = [(space, space._np_random) for space in every if space._np_random is not None]
    parts = {id(part) for space in every for part in _parts(space)}
    for index, space in enumerate(space for space in every if id(space) not in parts):
        sequence = np.random.SeedSequence(seed, spawn_key=(_OF_SPACES, index))
        # Of the class: a published environment puts a number in the place of the method.
        type(space).seed(space, int(sequence.generate_state(1)[0]) >> 1)
    for space, stream in before:  # go on with the same object, which the environment may have a name for
        assert space._np_random is not None
        stream.bit_generator.state = space._np_random.bit_generator.state
        space._np_random = stream


_OF_SPACES = 1
"""Tells the streams of spaces from others that are made of the same seed."""


def own_spaces(env: gymnasium.Env[Any, Any], taken: set[int]) -> None:
    """Give `env` spaces of its own in place of those that it shares with other copies: of its class, or with
    an id in `taken`, to which those of `env` are added. Else what `sample` draws would depend on the number
    of environments."""
    memo: dict[int, Any] = {}  # one for all, so that a part that has a name of its own stays a part
    for layer in layers(env):
        shared = {
            name: value
            for cls in reversed(type(layer).__mro__)
            for name, value in vars(cls).items()
            if isinstance(value, gymnasium.Space)
        }
        shared |= {name: value for name, value in vars(layer).items() if id(value) in taken}
        for name, space in shared.items():
            if name not in vars(layer) or id(vars(layer)[name]) in taken:
                setattr(layer, name, copy.deepcopy(space, memo))
        for name, value in vars(layer).items():  # a part, or the stream of a space, under another name
            if id(value) in memo:
                setattr(layer, name, memo[id(value)])
    taken |= {id(space) for space in spaces(env)}


def _held_spaces(env: gymnasium.Env[Any, Any]) -> list[gymnasium.Space[Any]]:
    return [
        value
        for layer in layers(env)
        for value in (layer.observation_space, layer.action_space, *vars(layer).values())
        if isinstance(value, gymnasium.Space)
    ]


def _parts(space: gymnasium.Space[Any]) -> list[gymnasium.Space[Any]]:
    found: list[Any] = []
    for part in vars(space).values():  # a Dict has its parts in a dict, a Tuple in a tuple, …
        found += part.values() if isinstance(part, dict) else part if isinstance(part, tuple) else [part]
    return [part for part in found if isinstance(part, gymnasium.Space)]
