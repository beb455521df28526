"""The exact state of a single Gymnasium environment as plain values, for checkpoints.

Taken are the attributes of the environment and of every wrapper around it, in `__slots__` too, which must be
plain (`plain_values`). Of spaces (those of the class too) the random stream is taken that `sample` draws
from. Anything else (a simulator's handle, an object of one's own, a method of one, a function that keeps
something) could hide state, so nothing is then claimed, unless the environment has `state_dict` and
`load_state_dict`, or `get_state` and `set_state`: what those give, the random streams and the wrappers are
enough.

The generators of the whole process (`np.random`, `random`, `torch`) are `Guard`'s business.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import gymnasium

from equipoise.envs.gymnasium_adapter.own_spaces import layers, spaces
from equipoise.envs.gymnasium_adapter.plain_values import CONSTANT, Encoder, NotPlainError, decode

NOT_STATE = {"env", "_saved_kwargs"}
"""Attributes of Gymnasium's wrappers: the next layer, and the arguments they were made with."""


def take(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """The state of `env` with its wrappers: dicts, lists, tuples, strings, bytes and numbers only.

    Raises:
        NotPlainError: the state cannot be had exactly; the message names the attribute and the way out.
    """
    saved, found = [], layers(env)
    encoder = Encoder(found)
    for layer in found:
        getter, _ = _own_methods(layer)
        held = _attributes(layer)
        attributes = {
            name: encoder.encode_attribute(value, f"{type(layer).__name__}.{name}")
            for name, value in held.items()
            if not isinstance(value, CONSTANT) and (getter is None or name == "_np_random")
        }
        own = Encoder([]).encode(getter(), f"{type(layer).__name__}.{getter.__name__}()") if getter else None
        saved.append({"type": _name(layer), "attributes": attributes, "own": own})
    # The attribute itself: asking for `np_random` would seed a stream that nobody uses, from the system.
    streams = [encoder.encode_stream(space._np_random, f"{space}.np_random") for space in spaces(env)]
    return {"layers": saved, "spaces": streams}


def restore(env: gymnasium.Env[Any, Any], state: Mapping[str, Any]) -> None:
    """Put `env`, made in the same way and reset once, into a state that `take` gave.

    Raises:
        ValueError: the state is of another environment.
        NotPlainError: it held a function or a class that `env` does not have in the same place.
    """
    found = layers(env)
    names = [_name(layer) for layer in found]
    if names != (expected := [saved["type"] for saved in state["layers"]]):
        raise ValueError(f"the saved state is of the environment {expected}, this one is {names}")
    for layer, saved in zip(found, state["layers"], strict=True):
        held, slots = _attributes(layer), _slots(layer)
        for name, value in saved["attributes"].items():
            if isinstance(value, list | tuple) and value[0] == "named":
                value = _named(value[1], held.get(name), found, f"{type(layer).__name__}.{name}")
            else:
                value = decode(value)
            if name in slots:
                slots[name].__set__(layer, value)
            else:
                vars(layer)[name] = value
        if saved["own"] is not None:
            _, setter = _own_methods(layer)
            setter(decode(saved["own"]))
    if "spaces" in state:  # not in checkpoints of older versions
        for space, stream in zip(spaces(env), state["spaces"], strict=True):
            space._np_random = decode(stream)


def _attributes(layer: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """What `layer` holds, in `__slots__` too."""
    held = {}
    for name, slot in _slots(layer).items():
        try:
            held[name] = slot.__get__(layer)
        except AttributeError:  # nothing in it
            continue
    return {name: value for name, value in (held | vars(layer)).items() if name not in NOT_STATE}


def _slots(layer: gymnasium.Env[Any, Any]) -> dict[str, types.MemberDescriptorType]:
    return {
        name: member
        for cls in reversed(type(layer).__mro__)
        for name, member in vars(cls).items()
        if isinstance(member, types.MemberDescriptorType)
    }


def _named(name: str, now: Any, found: list[gymnasium.Env[Any, Any]], path: str) -> Any:
    """What has this name: `now`, or another method of one of the layers. Nothing else is looked for: a
    checkpoint may come from anybody."""
    if Encoder(found).names(now, name):
        return now
    index, _, method = name.partition(".")
    if index.isdecimal() and callable(getattr(type(found[int(index)]), method, None)):
        return getattr(found[int(index)], method)
    raise NotPlainError(f"{path} was {name}, which is not there when the environment is made")


def _name(layer: gymnasium.Env[Any, Any]) -> str:
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


def _own_methods(layer: gymnasium.Env[Any, Any]) -> tuple[Any, Any]:
    for getter, setter in (("state_dict", "load_state_dict"), ("get_state", "set_state")):
        if hasattr(type(layer), getter) and hasattr(type(layer), setter):
            return getattr(layer, getter), getattr(layer, setter)
    return None, None
