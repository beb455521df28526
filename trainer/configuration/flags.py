"""Tells the arguments of a command line apart: flags, settings, and settings that are spelled as flags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from equipoise.trainer.configuration.compose import GROUPS, options, sweeping
from equipoise.trainer.configuration.errors import ConfigError, nearest
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.configuration.settings import locate

_CONFIG_DIR = ("--config-dir", "-cd")
_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
               "--experimental-rerun", "--info", "-i")  # fmt: skip
_WITHOUT_VALUE = ("--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
                  "--shell-completion", "-sc")  # fmt: skip
_SWEEP = ("-m", "--multirun")
_ONE_OF = ("--run", "--cfg", "--multirun", "--info", "--shell-completion")
_SHORT = {"-c": "--cfg", "-i": "--info", "-m": "--multirun", "-r": "--run", "-sc": "--shell-completion"}


class Flags(NamedTuple):
    overrides: list[str]
    config_dir: Path | None
    help: bool
    hydra: bool
    """There are flags or settings that only Hydra's own command understands."""


def parse(arguments: Sequence[str]) -> Flags:
    """Raises `ConfigError` for what is neither `key=value` nor a flag; it says how to write it instead."""
    overrides, given, config_dir = list[str](), list[str](), None
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag in ("-h", "--help"):
            return Flags([], None, True, False)
        if flag in _CONFIG_DIR:
            config_dir = Path(value if equals else next(rest, ""))
            if not config_dir.is_dir():
                raise ConfigError(f"{flag} {config_dir}: there is no such folder")
        elif flag in _WITH_VALUE or argument in _WITHOUT_VALUE:
            given.append(_SHORT.get(flag, flag))
            if flag in _WITH_VALUE and not equals:
                next(rest, None)
        elif argument.startswith("-"):
            raise ConfigError(_as_setting(flag, value if equals else next(rest, "")))
        elif not equals and not argument.startswith("~"):
            spaces = ", without spaces" if next(rest, "").startswith("=") else ""
            raise ConfigError(f"cannot read the argument {argument!r} (arguments are key=value{spaces})")
        else:
            overrides.append(argument)
    exclusive = [flag for flag in _ONE_OF if flag in given]
    if len(exclusive) > 1:
        raise ConfigError(f"{' and '.join(exclusive)}: only one of them can be given")
    if "--multirun" not in given:
        _refuse_lists(overrides)
    _refuse_last_names(overrides)
    return Flags(overrides, config_dir, False, bool(given) or any(map(_is_hydras, overrides)))


def _is_hydras(override: str) -> bool:
    """Whether Hydra's own command is needed: `hydra.run.dir` and `hydra.searchpath` work without it."""
    key = override.lstrip("+~").partition("=")[0]
    return key.startswith(("hydra.", "hydra/")) and key not in ("hydra.run.dir", "hydra.searchpath")


def _as_setting(flag: str, value: str) -> str:
    """The message for `--seed 3` and `--learning-rate=0.1`: how such a thing is written here."""
    known = [*_CONFIG_DIR, *_WITH_VALUE, *_WITHOUT_VALUE, "--help"]
    written = f"{flag} {value}".strip()
    name = flag.lstrip("-").replace("-", "_")
    if name == "env" and value and value not in options("env"):
        return f"{written}: settings have no dashes; write env=gymnasium env.id={value}"
    try:
        key = name if name in GROUPS or "." in name else locate(name, value)
    except ConfigError as error:
        if match := nearest(flag, known):
            return f"{written}: there is no such flag; did you mean {match}?"
        return f"{written}: settings are key=value without dashes ({error.problems[0]})"
    return f"{written}: settings have no dashes; write {key}={value or '<value>'}"


def _refuse_last_names(overrides: Sequence[str]) -> None:
    """Raises `ConfigError` for `learning_rate=0.1`, which is `optimizer.learning_rate`."""
    for override in overrides:
        key, _, value = override.partition("=")
        if not key.isidentifier() or key in Config.model_fields or key in GROUPS:
            continue
        try:
            full = locate(key)
        except ConfigError:  # unknown everywhere: said when all settings are checked
            continue
        raise ConfigError(f"{key} = {value}: unknown key; did you mean {full}?")


def _refuse_lists(overrides: Sequence[str]) -> None:
    """Raises `ConfigError` for `key=a,b` without `-m`: it may be meant as a list or as a sweep."""
    for override in sweeping(overrides):
        key, _, values = override.partition("=")
        sweep = "several runs, one for each value, need the flag -m"
        if key in GROUPS or not re.fullmatch(r"[^()\[\]{}]*", values):
            raise ConfigError(f"{override}: {sweep}")
        raise ConfigError(f"{override}: a list is written {key}=[{values}]; {sweep}")
