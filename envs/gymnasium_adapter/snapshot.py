"""The exact state of a single Gymnasium environment as plain values, for checkpoints.

Taken are the attributes of the environment and of every wrapper around it. They must be numbers, strings,
numpy arrays, tensors, `np.random.Generator`s, or containers of these. Of spaces (those of the class too) the
random stream is taken that `sample` draws from; functions and the like never change and are left as they are.
Anything else (a simulator's handle, an object of one's own) could hide state, so nothing is then claimed,
unless the environment has `state_dict`/`load_state_dict` or `get_state`/`set_state` of its own: what those
give, the random streams and the wrappers are enough.

The generators of the whole process (`np.random`, `random`, `torch`) are `Guard`'s business.
"""

from __future__ import annotations

import copy
import types
from collections import deque
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

CONSTANT = (
    gymnasium.Space,
    EnvSpec,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
)
MUTABLE = (np.ndarray, np.random.Generator, torch.Tensor, dict, list, deque)
CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "deque": deque}
BIT_GENERATORS: dict[str, Any] = {
    name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
}
NOT_STATE = {"env", "_saved_kwargs"}
"""Attributes of Gymnasium's wrappers: the next layer, and the arguments they were made with."""


class NotPlainError(Exception):
    """The state holds something that plain values cannot express."""


def take(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """The state of `env` with its wrappers: dicts, lists, tuples, strings, bytes and numbers only.

    Raises:
        NotPlainError: the state cannot be had exactly; the message names the attribute and the way out.
    """
    saved, seen = [], set[int]()
    for layer in layers(env):
        getter, _ = _own_methods(layer)
        names = ["_np_random"] if getter else [name for name in vars(layer) if name not in NOT_STATE]
        attributes = {
            name: _encode(vars(layer)[name], f"{type(layer).__name__}.{name}", seen)
            for name in names
            if name in vars(layer) and not isinstance(vars(layer)[name], CONSTANT)
        }
        own = _encode(getter(), f"{type(layer).__name__}.{getter.__name__}()", set()) if getter else None
        saved.append({"type": _name(layer), "attributes": attributes, "own": own})
    # The attribute itself: asking for `np_random` would seed a stream that nobody uses, from the system.
    streams = [_encode(space._np_random, f"{space}.np_random", seen) for space in spaces(env)]
    return {"layers": saved, "spaces": streams}


def restore(env: gymnasium.Env[Any, Any], state: Mapping[str, Any]) -> None:
    """Put `env`, made in the same way and reset once, into a state that `take` gave.

    Raises:
        ValueError: the state is of another environment.
    """
    found = layers(env)
    names = [_name(layer) for layer in found]
    if names != (expected := [saved["type"] for saved in state["layers"]]):
        raise ValueError(f"the saved state is of the environment {expected}, this one is {names}")
    for layer, saved in zip(found, state["layers"], strict=True):
        for name, value in saved["attributes"].items():
            vars(layer)[name] = _decode(value)
        if saved["own"] is not None:
            _, setter = _own_methods(layer)
            setter(_decode(saved["own"]))
    if "spaces" in state:  # not in checkpoints of older versions
        for space, stream in zip(spaces(env), state["spaces"], strict=True):
            space._np_random = _decode(stream)


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
        space.seed(int(sequence.generate_state(1)[0]) >> 1)
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


def _name(layer: gymnasium.Env[Any, Any]) -> str:
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


def _own_methods(layer: gymnasium.Env[Any, Any]) -> tuple[Any, Any]:
    for getter, setter in (("state_dict", "load_state_dict"), ("get_state", "set_state")):
        if hasattr(type(layer), getter) and hasattr(type(layer), setter):
            return getattr(layer, getter), getattr(layer, setter)
    return None, None


def _encode(value: Any, path: str, seen: set[int]) -> Any:
    """Plain scalars as they are, all else as `(kind, …)`. Types are kept: float32 arithmetic must go on."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, MUTABLE):
        memory = value.base if isinstance(value, np.ndarray) and value.base is not None else value
        if id(memory) in seen:
            raise NotPlainError(
                f"{path} shares memory with another attribute, which a copy would part{_WAY_OUT}"
            )
        seen.add(id(memory))
    if isinstance(value, torch.Tensor):
        return ("tensor", _encode(value.detach().cpu().numpy(), path, set()))
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return (kind, value.dtype.str, tuple(value.shape), value.tobytes())
    if isinstance(value, np.random.Generator) and type(value.bit_generator).__name__ in BIT_GENERATORS:
        bits = _encode(dict(value.bit_generator.state), path, set())
        return ("generator", type(value.bit_generator).__name__, bits)
    if type(value) is dict:
        parts = [(key, _encode(part, f"{path}[{key!r}]", seen)) for key, part in value.items()]
        if all(type(key) in (bool, int, float, str) for key in value):
            return ("dict", parts)
    if type(value) in (list, tuple, deque):
        parts = [_encode(part, f"{path}[{index}]", seen) for index, part in enumerate(value)]
        return (type(value).__name__, parts, value.maxlen if isinstance(value, deque) else None)
    raise NotPlainError(f"{path} is a {type(value).__module__}.{type(value).__qualname__}{_WAY_OUT}")


_WAY_OUT = "; give the environment state_dict and load_state_dict for an exact resume"


def _decode(saved: Any) -> Any:
    if not isinstance(saved, tuple | list):
        return saved
    kind, *rest = saved
    if kind in ("array", "scalar"):
        dtype, shape, data = rest
        array = np.frombuffer(data, np.dtype(dtype)).reshape(shape).copy()
        return array if kind == "array" else array[()]
    if kind == "tensor":
        return torch.from_numpy(_decode(rest[0]))
    if kind == "generator":
        name, bits = rest
        generator = np.random.Generator(BIT_GENERATORS[name]())
        generator.bit_generator.state = _decode(bits)
        return generator
    if kind == "dict":
        return {key: _decode(part) for key, part in rest[0]}
    parts, maxlen = rest
    if kind == "deque":
        return deque((_decode(part) for part in parts), maxlen)
    return CONTAINERS[kind](_decode(part) for part in parts)
