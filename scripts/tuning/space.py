"""A search space: a YAML file of ranges and choices, by the keys of the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from equipoise.trainer.configuration.errors import ConfigError, shown
from equipoise.trainer.configuration.schema import Config

SPACES = Path(__file__).parent
Space = Mapping[str, Any]
_MISSING = object()


def read(name: str) -> Space:
    """The space of a file, or one that comes with us by its name.

    Raises:
        ConfigError: there is no such file, or an entry is neither a range nor choices.
    """
    ours = SPACES / f"{name}.yaml"
    path = ours if ours.exists() else Path(name)
    try:
        space = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        known = ", ".join(sorted(each.stem for each in SPACES.glob("*.yaml")))
        raise ConfigError(f"space = {name}: no file that can be read ({error}); ours: {known}") from None
    if not isinstance(space, dict) or not space:
        raise ConfigError(f"space = {name}: must hold `key: {{low: …, high: …}}` or `key: [choices]`")
    for key, entry in space.items():
        if why := _wrong(entry):
            raise ConfigError(f"space = {name}: {key} = {shown(entry)}: must be {why}")
    return space


def _wrong(entry: Any) -> str | None:
    if isinstance(entry, list):
        plain = all(
            isinstance(choice, str | int | float) and not isinstance(choice, bool) for choice in entry
        )
        return None if entry and plain else "choices that are numbers or text, as one types them ('true')"
    if not isinstance(entry, dict) or not {"low", "high"} <= entry.keys() <= {"low", "high", "log", "step"}:
        return "{low, high} with log or step, or a list of choices"
    low, high, log, step = entry["low"], entry["high"], entry.get("log", False), entry.get("step")
    given = [low, high] if step is None else [low, high, step]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in given) or not low <= high:
        return "a range of numbers (YAML reads 1e-4 as text: write 1.0e-4)"
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        return "above 0 where log is true, and without step; or log is false"
    whole = isinstance(low, int) and isinstance(high, int)
    if step is not None and (step <= 0 or (whole and not isinstance(step, int))):
        return "with a step above 0, a whole number in a range of whole numbers"
    return None


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """A value for each key; of a trial that has some already, the same ones."""
    return {key: _suggested(trial, key, entry) for key, entry in space.items()}


def _suggested(trial: Any, key: str, entry: Any) -> Any:
    if isinstance(entry, list):
        return trial.suggest_categorical(key, entry)
    low, high, others = entry["low"], entry["high"], {k: entry[k] for k in ("log", "step") if k in entry}
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, **others)
    return trial.suggest_float(key, float(low), float(high), **others)


def held(space: Space, config: Config) -> dict[str, Any]:
    """The settings of `config` that lie in the space, as the space writes them."""
    settings = config.plain()
    found = {key: _held(entry, _setting(settings, key.split("."))) for key, entry in space.items()}
    return {key: value for key, value in found.items() if value is not _MISSING}


def _setting(section: Any, path: Sequence[str]) -> Any:
    if not path or not isinstance(section, Mapping):
        return _MISSING if path else section
    # What a policy itself lacks has gone to its encoder.
    inner = section if path[0] in section else section.get("encoder")
    return _setting((inner or {}).get(path[0], _MISSING), path[1:])


def _held(entry: Any, value: Any) -> Any:
    if isinstance(entry, list):
        return next((choice for choice in entry if yaml.safe_load(str(choice)) == value), _MISSING)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number and entry["low"] <= value <= entry["high"] else _MISSING


def overrides(values: Mapping[str, Any]) -> list[str]:
    """`key=value` for each."""
    return [f"{key}={value}" for key, value in values.items()]


def examples(space: Space) -> list[list[list[str]]]:
    """Lists of overrides, of each of which the configuration should take one: all lowest values, all highest,
    and every other choice, by itself or with one of these."""
    low, high = ({key: _end(entry, i) for key, entry in space.items()} for i in (0, -1))
    between = [
        {key: choice}
        for key, entry in space.items()
        if isinstance(entry, list)
        for choice in entry[1:-1]  # the ends are in `low` and `high`
    ]
    return [
        [overrides(low)],
        [overrides(high)],
        *([overrides(one), overrides(low | one), overrides(high | one)] for one in between),
    ]


def _end(entry: Any, i: int) -> Any:
    return entry[i] if isinstance(entry, list) else entry[("low", "high")[i]]
