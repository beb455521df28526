"""Wrappers that a configuration names."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium

from equipoise.envs.gymnasium_adapter.objects import built

OWN = "gymnasium.wrappers."


@dataclass(frozen=True)
class Wrapping:
    """A wrapper to be put around an environment: its class by name, and keywords, see `objects.built`."""

    name: str
    keywords: Mapping[str, Any]

    def around(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        """Raises whatever the wrapper does, or ImportError, AttributeError or TypeError for a wrong name."""
        module, _, name = self.name.rpartition(".")
        place = gymnasium.wrappers if is_own(self.name) else importlib.import_module(module)
        if not hasattr(place, name):
            near = difflib.get_close_matches(name, dir(place), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise AttributeError(f"{place.__name__} has no {name}{hint}")
        found = getattr(place, name)
        keywords = built(dict(self.keywords))
        if place is gymnasium.wrappers:  # which want tuples, that nobody can type
            keywords = {k: tuple(v) if isinstance(v, list) else v for k, v in keywords.items()}
        wrapped = found(env, **keywords)
        if not isinstance(wrapped, gymnasium.Env):
            raise TypeError(f"it gives a {type(wrapped).__name__}, which is no gymnasium.Env")
        return wrapped


def is_own(name: str) -> bool:
    """Whether it is one of Gymnasium's, which need no module: `FlattenObservation`."""
    return "." not in name.removeprefix(OWN)


def read_wrappers(given: object) -> list[Wrapping]:
    """Of `[Name, module.Class, {_target_: module.Class, keyword: …}]`, from the innermost on.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(given, list | tuple):
        raise ValueError(f"wrappers is {given!r}; allowed is a list of names, or {{_target_: …, …}} of them")
    found = []
    for wrapper in given:
        keywords = dict(wrapper) if isinstance(wrapper, Mapping) else {"_target_": wrapper}
        name = keywords.pop("_target_", None)
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"wrappers: {wrapper!r} names no class; allowed are `module.Class`, the name of one of "
                "gymnasium.wrappers, and {_target_: …, …} with keywords"
            )
        found.append(Wrapping(name, keywords))
    return found
