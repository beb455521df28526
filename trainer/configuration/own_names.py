"""Classes of this package by the names of release 0.1: `envs.goal.Goal` is `equipoise.envs.goal.Goal`.

Importing them by the old name would load the same file a second time, as another module.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[2]
FOLDERS = ("envs", "trainer", "scripts")


def with_own_names(settings: Any) -> Any:
    """`settings` with each old name after a `_target_`, at any depth, as it is now."""
    if isinstance(settings, Mapping):
        return {
            key: canonical(part) if key == "_target_" and isinstance(part, str) else with_own_names(part)
            for key, part in settings.items()
        }
    return [with_own_names(part) for part in settings] if isinstance(settings, list) else settings


def canonical(target: str) -> str:
    """The name of a class as it is now. A module of the user's with the old name wins. Imports nothing."""
    module = target.rpartition(".")[0]
    if module.partition(".")[0] not in FOLDERS or _is_the_users(module):
        return target
    ours = PACKAGE.joinpath(*module.split("."))
    return f"equipoise.{target}" if ours.is_dir() or ours.with_suffix(".py").exists() else target


def _is_the_users(module: str) -> bool:
    """Whether Python finds a module of this name that is none of ours."""
    path: list[str] | None = None
    name = origin = ""
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        spec = _spec(name, path)
        if spec is None:
            return False
        path = list(spec.submodule_search_locations or ())
        origin = spec.origin or next(iter(path), "")
    place = Path(origin).resolve()
    return not any(place.is_relative_to((PACKAGE / folder).resolve()) for folder in FOLDERS)


def _spec(name: str, path: list[str] | None) -> ModuleSpec | None:
    specs = (finder.find_spec(name, path) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)
