"""`key=value` arguments of the small commands (evaluate, play, export), checked like the configuration."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from equipoise.commands import spelled
from equipoise.trainer.configuration.errors import ConfigError, allowed, nearest, problems_of, shown, unknown
from equipoise.trainer.configuration.hub import is_remote
from equipoise.trainer.system.files import unwritable


def print_help(text: str) -> None:
    """Print it, as far as somebody reads it (`| head`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # what Python flushes once more at its end must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_output(path: Path | None) -> None:
    """Raise `ConfigError` for a file that could not be written in the end."""
    if path is not None and (why := unwritable(path)):
        raise ConfigError(f"output = {path}: {why}")


def module_names(text: str) -> tuple[str, ...]:
    """The names in `[my_package,other]`."""
    return tuple(name for part in text.strip("[] ").split(",") if (name := part.strip(" '\"")))


def take_allowed(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The arguments without `allow=[…]`, and the modules named there."""
    others = [argument for argument in arguments if not argument.startswith("allow=")]
    given = [argument.partition("=")[2] for argument in arguments if argument.startswith("allow=")]
    return others, tuple(name for text in given for name in module_names(text))


class Arguments(BaseModel):
    """Subclasses list the keys; the docstring is the head of the command's `--help`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Self:
        """Raises `ConfigError`; prints the help and exits where it is asked for."""
        if {"-h", "--help"} & set(arguments):
            print_help(cls._help())
            raise SystemExit(0)
        raw: dict[str, str] = {}
        rest = iter(arguments)
        for argument in rest:
            key, equals, value = argument.partition("=")
            if key.startswith("-"):
                raise ConfigError(cls._without_dashes(key, value if equals else next(rest, "")))
            if not equals:
                known = "checkpoint" in cls.model_fields and Path(argument).exists()
                meant = f"write checkpoint={argument}" if known else "arguments are key=value"
                raise ConfigError(f"cannot read the argument {argument!r} ({meant})")
            if (
                value or key == "allow"
            ):  # `checkpoint=` is no path, but the name of a variable that is not set
                raw[key] = value
        try:
            return cls.model_validate_strings(raw)
        except ValidationError as error:
            raise ConfigError(*problems_of(error, cls, raw)) from None

    @classmethod
    def parse_with_overrides(cls, arguments: Sequence[str]) -> tuple[Self, tuple[str, ...]]:
        """The arguments, and the settings of a run among them.

        Raises `ConfigError`, also for what is no setting, but nearly the name of an argument.
        """
        from equipoise.trainer.configuration.compose import GROUPS
        from equipoise.trainer.configuration.schema import Config

        own, settings = [], []
        known = {*cls.model_fields, *Config.model_fields, *GROUPS}
        for argument in arguments:
            key, equals, value = argument.partition("=")
            if key in cls.model_fields or key.startswith("-") or not equals:
                own.append(argument)
            elif key.isidentifier() and key not in known and nearest(key, known) in cls.model_fields:
                raise ConfigError(unknown(key, value, cls.model_fields))
            else:
                settings.append(argument)
        return cls.parse(own), tuple(settings)

    @classmethod
    def _without_dashes(cls, flag: str, value: str) -> str:
        """The message for `--episodes 3`: how such a thing is written here."""
        written = f"{flag} {value}".strip()
        name = nearest(flag.lstrip("-").replace("-", "_"), cls.model_fields)
        if name is None:
            known = ", ".join(f"{key}=" for key in cls.model_fields)
            return f"{written}: there is no such argument; there are {known}"
        return f"{written}: arguments have no dashes; write {name}={value or '<value>'}"

    @classmethod
    def _help(cls) -> str:
        lines = []
        for name, field in cls.model_fields.items():
            default = "must be given" if field.is_required() else f"default {shown(field.default)}"
            meaning = f": {field.description}" if field.description else ""
            lines.append(f"  {name}={allowed(field.annotation, field.metadata)}{meaning} ({default})")
        return spelled("\n".join([inspect.cleandoc(cls.__doc__ or ""), "", *lines]))


class CheckpointArguments(Arguments):
    """Arguments of a command that reads a checkpoint."""

    checkpoint: Path = Field(
        description="a checkpoint, or a run folder, whose newest one is taken, or an exported folder, or "
        "hf://user/repo"
    )
    allow: Annotated[tuple[str, ...], BeforeValidator(module_names)] = Field(
        (), description="modules of yours that the checkpoint may name, [my_package]; it is data otherwise"
    )

    def beside(self, path: Path, suffix: str) -> Path:
        """Where a file about the checkpoint at `path` goes: beside it, or here if it came from the hub."""
        return (Path() if is_remote(self.checkpoint) else path.parent) / f"{path.stem}{suffix}"
