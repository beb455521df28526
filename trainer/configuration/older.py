"""What a checkpoint of an older release cannot have: settings that came later, which get their defaults."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from equipoise.trainer.configuration.constructors import TARGET, constructor_of, is_section

_FILE = Path(__file__).parents[2] / "conf" / "config.yaml"


def with_later_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the keys of `trainer` that it lacks, as the default configuration has them."""
    trainer = raw.get("trainer")
    return {**raw, "trainer": {**_defaults(), **trainer}} if isinstance(trainer, Mapping) else dict(raw)


def with_later_keywords(older: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    """`older` with those keywords of its classes that `newer` has, and sets to what the class takes without.

    Imports nothing: of a class that is not loaded yet, no default is known.
    """
    completed = dict(older)
    for name, value in newer.items():
        mine = older.get(name)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            completed[name] = with_later_keywords(mine, value)
        elif name not in older and is_section(older) and _takes_anyway(older[TARGET], name, value):
            completed[name] = value
    return completed


def _takes_anyway(target: str, name: str, value: Any) -> bool:
    module, _, called = target.rpartition(".")
    found = getattr(sys.modules.get(module), called, None)
    parameters = constructor_of(found).parameters if isinstance(found, type) else {}
    return name in parameters and bool(parameters[name].default == value)


@cache
def _defaults() -> dict[str, Any]:
    """The single settings of `trainer`. Its stages have theirs in their constructors."""
    trainer = yaml.safe_load(_FILE.read_text(encoding="utf-8"))["trainer"]
    return {key: value for key, value in trainer.items() if not isinstance(value, dict | list)}
