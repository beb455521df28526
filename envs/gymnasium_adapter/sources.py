"""Whose code runs when a Gymnasium environment is made from its id."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium
from gymnasium.envs.registration import parse_env_id


def modules_of(id: str) -> list[str]:
    """The modules that `gymnasium.make(id)` imports or calls; none for an id that is not registered.

    Imports nothing: `module:Name-v0` names its module, a registered id the module of its entry point. An id
    without a version may stand for any registered one.
    """
    module, separator, name = id.rpartition(":")
    if separator:
        return [module.partition(":")[0]]
    if name in gymnasium.registry:
        specs = [gymnasium.registry[name]]
    else:
        try:
            wanted = parse_env_id(name)[:2]
        except gymnasium.error.Error:  # no id at all
            return []
        specs = [spec for spec in gymnasium.registry.values() if (spec.namespace, spec.name) == wanted]
    points = [point for spec in specs for point in (spec.entry_point, spec.vector_entry_point) if point]
    return sorted({_module(point) for point in points})


def _module(entry_point: Callable[..., object] | str) -> str:
    if isinstance(entry_point, str):
        return entry_point.partition(":")[0]
    return str(getattr(entry_point, "__module__", type(entry_point).__module__))
