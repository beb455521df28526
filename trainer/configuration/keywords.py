"""A configuration from Python: an environment, and settings by name as keywords."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from equipoise.trainer.configuration.compose import (
    GROUPS,
    Composed,
    compose_unchecked,
    options,
    resolved,
    values,
)
from equipoise.trainer.configuration.errors import ConfigError, nearest, shown
from equipoise.trainer.configuration.resuming import EXACT, INEXACT
from equipoise.trainer.configuration.settings import locate

MakeEnv = Callable[..., Any]
"""A class, or anything else that returns a Gymnasium environment."""

GYMNASIUM = "env=gymnasium"


def configure(
    environment: str | MakeEnv, overrides: Sequence[str] | Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[Composed, MakeEnv | None]:
    """The checked configuration of a new run, and what makes its environments if it cannot name that.

    Raises:
        ConfigError: for an unknown name or a bad value.
    """
    typed = _typed(overrides)
    named = [*settings.items(), *(overrides.items() if isinstance(overrides, Mapping) else ())]
    for name, value in named:
        if name == "env" or not isinstance(name, str):
            raise ConfigError(f"{name} = {shown(value)}: the environment is the first argument of train()")
    choice, about_env, unnamed = _environment(environment)
    groups = [f"{name}={value}" for name, value in named if name in GROUPS and isinstance(value, str)]
    composed = compose_unchecked([choice, *typed, *groups])
    for key, value in about_env.items():
        _set(composed, key, value)
    keys = []
    for name, value in named:
        if name not in GROUPS or not isinstance(value, str):
            keys.append(name if "." in name else locate(name, value, composed))
            _set(composed, keys[-1], value)
    found = resolved(composed)
    return found._replace(config=found.config.with_typed([*found.config.typed, *keys])), unnamed


def changed(overrides: Sequence[str] | Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value, of settings that a run is to go on with. Raises `ConfigError`."""
    named = [*settings.items(), *(overrides.items() if isinstance(overrides, Mapping) else ())]
    full = {key.rpartition(".")[2]: key for key in (*EXACT, *INEXACT)}
    return values(_typed(overrides)) | {full.get(name, name): plain(value, name) for name, value in named}


def reference(made_by: Callable[..., Any]) -> str | None:
    """`module:name`, under which another process finds `made_by`; None for a lambda and the like."""
    module, name = getattr(made_by, "__module__", None), getattr(made_by, "__qualname__", None)
    if not module or not name:
        return None
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return f"{module}:{name}" if found is made_by else None


def _typed(overrides: object) -> list[str]:
    if isinstance(overrides, Mapping):
        return []
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise ConfigError(f"overrides = {shown(overrides)}: must be a dictionary or a list of 'key=value'")
    for override in overrides:
        if not isinstance(override, str) or "=" not in override or override.startswith("-"):
            raise ConfigError(f"overrides: cannot read {override!r}: must be 'key=value'")
    return list(overrides)


def _environment(environment: str | MakeEnv) -> tuple[str, dict[str, Any], MakeEnv | None]:
    """The option of the group `env`, settings that go with it, and the environment if it has no name."""
    if isinstance(environment, str):
        if environment in options("env"):
            return f"env={environment}", {}, None
        if re.fullmatch(r"[a-z_]+", environment) and (match := nearest(environment, options("env"))):
            raise ConfigError(f"{environment}: there is no such environment; did you mean {match}?")
        return GYMNASIUM, {"env.id": environment}, None
    if not callable(environment):
        raise ConfigError(
            f"the environment must be an id, a class or a function that makes one, not {shown(environment)}: "
            "every copy needs an environment of its own, so give `lambda: MyEnv(...)` for an object"
        )
    name = getattr(environment, "__name__", type(environment).__name__).strip("<>")
    place = reference(environment)
    if isinstance(environment, type) and "num_envs" in inspect.signature(environment).parameters:
        if place is None:
            raise ConfigError(f"{name}: a class of batched environments must be at the top of a module")
        section = {"_target_": place.replace(":", "."), "name": name, "num_envs": 64}
        return GYMNASIUM, {"env": section}, None
    about = {"env.make": place or f"<{name}>", "env.name": name}
    return GYMNASIUM, about, None if place else environment


def _set(composed: DictConfig, key: str, value: object) -> None:
    try:
        if key == "env":
            OmegaConf.update(composed, key, value, merge=False)
        else:
            OmegaConf.update(composed, key, plain(value, key), merge=True, force_add=True)
    except OmegaConfBaseException as error:
        first = str(error).partition("\n")[0]
        raise ConfigError(f"{key} = {shown(value)}: {first}") from None


def plain(value: object, key: str) -> Any:
    """`value` as a configuration file could hold it; a class as its dotted name.

    Raises:
        ConfigError: it is nothing that a file can hold; the message names `key`.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(part, f"{key}.{name}") for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, f"{key}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, type) and (place := reference(value)):
        return place.replace(":", ".")
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        return plain(value.tolist(), key)
    raise ConfigError(
        f"{key} = {shown(value)}: must be numbers, text, lists, dictionaries or a class of a module"
    )
