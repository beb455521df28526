"""Whose code runs when a Gymnasium environment is made. Nothing here imports any of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import parse_env_id

from equipoise.envs.gymnasium_adapter.objects import targets
from equipoise.envs.gymnasium_adapter.wrapping import is_own

HARMLESS = ("equipoise.envs.remembering.Columns", "equipoise.envs.sequences.PadSequences")
"""Wrappers of ours: they import and write nothing, whatever arguments a checkpoint gives them."""


def sources(section: Mapping[str, Any]) -> Iterator[str]:
    """The code that the keywords of a `GymnasiumEnv` name: modules, and callables as `module:name`."""
    if isinstance(id := section.get("id"), str):
        yield from modules_of(id)
    if isinstance(make := section.get("make"), str):
        yield make if ":" in make else f"{make}:"
    yield from targets([section.get("kwargs"), section.get("kwargs_each")])
    wrappers = section.get("wrappers")
    for wrapper in wrappers if isinstance(wrappers, list | tuple) else ():
        name = wrapper.get("_target_") if isinstance(wrapper, Mapping) else wrapper
        if isinstance(name, str) and not is_own(name) and name not in HARMLESS:
            yield ":".join(name.rsplit(".", 1))
        elif isinstance(name, str) and name.endswith("RecordVideo"):  # writes files wherever it is told to
            yield "gymnasium.wrappers:RecordVideo"
        if isinstance(wrapper, Mapping):
            yield from targets(list(wrapper.values()))


def modules_of(id: str) -> list[str]:
    """The modules that `gymnasium.make(id)` imports or calls.

    Those are the module in `module:Name-v0`, and that of the entry point of what is registered by this name.
    A name without a version may stand for any registered one; one that is not registered has none.
    """
    module, separator, name = id.rpartition(":")
    if name in gymnasium.registry:
        specs = [gymnasium.registry[name]]
    else:
        try:
            wanted = parse_env_id(name)[:2]
        except gymnasium.error.Error:  # no id at all
            wanted = (None, "")
        specs = [spec for spec in gymnasium.registry.values() if (spec.namespace, spec.name) == wanted]
    points = [point for spec in specs for point in (spec.entry_point, spec.vector_entry_point) if point]
    before = [module.partition(":")[0]] if separator else []
    return sorted({*before, *(_module(point) for point in points)})


def _module(entry_point: Callable[..., object] | str) -> str:
    if isinstance(entry_point, str):
        return entry_point.partition(":")[0]
    return str(getattr(entry_point, "__module__", type(entry_point).__module__))
