"""What a checkpoint of an older release cannot have: settings that came later, which get their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).parents[2] / "conf" / "config.yaml"


def with_later_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the keys of `trainer` that it lacks, as the default configuration has them."""
    trainer = raw.get("trainer")
    return {**raw, "trainer": {**_defaults(), **trainer}} if isinstance(trainer, Mapping) else dict(raw)


@cache
def _defaults() -> dict[str, Any]:
    """The single settings of `trainer`. Its stages have theirs in their constructors."""
    trainer = yaml.safe_load(_FILE.read_text(encoding="utf-8"))["trainer"]
    return {key: value for key, value in trainer.items() if not isinstance(value, dict | list)}
