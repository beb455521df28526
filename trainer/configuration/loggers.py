"""The loggers that come with us, by their short names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from equipoise.prerequisites import extra
from equipoise.trainer.configuration.constructors import TARGET, is_section
from equipoise.trainer.configuration.errors import Problem, nearest, shown

_PLACE = "equipoise.trainer.loggers"
LOGGERS = {
    "tensorboard": f"{_PLACE}.tensorboard.TensorBoard",
    "jsonl": f"{_PLACE}.jsonl.Jsonl",
    "csv": f"{_PLACE}.csv.Csv",
    "wandb": f"{_PLACE}.wandb.Wandb",
    "mlflow": f"{_PLACE}.mlflow.Mlflow",
    "trackio": f"{_PLACE}.trackio.Trackio",
}
_PACKAGES = ("wandb", "mlflow", "trackio")
"""Those that need a package of their name, which is an extra of ours, too."""
_NAMES = {target: name for name, target in LOGGERS.items()}


def as_section(logger: object) -> object:
    """A short name as a section; anything else as it is."""
    return {TARGET: LOGGERS[logger]} if isinstance(logger, str) and logger in LOGGERS else logger


def as_written(section: Mapping[str, Any]) -> Any:
    """The short name of a section without arguments; any other as it is."""
    return _NAMES.get(section[TARGET], section) if section.keys() == {TARGET} else section


def problems(loggers: object) -> Iterator[Problem]:
    """Names that are none, loggers that are named twice, packages that are missing; imports nothing."""
    for index, logger in enumerate(found := loggers if isinstance(loggers, list | tuple) else ()):
        if isinstance(logger, str) and logger not in LOGGERS:
            match = nearest(logger, LOGGERS)
            hint = f"; did you mean {match}?" if match else ""
            names = f"{', '.join(LOGGERS)}, or a section with a _target_"
            yield Problem("loggers", f" = {shown(logger)}: there is no such logger{hint} (there are {names})")
            continue
        if logger in found[:index]:
            yield Problem("loggers", f" = {shown(list(found))}: {shown(logger)} is listed twice")
        section = as_section(logger)
        name = _NAMES.get(section[TARGET]) if is_section(section) else None  # type: ignore[index]
        if name in _PACKAGES and find_spec(name) is None:
            yield Problem("loggers", f" = {name}: the package {name} is missing; it comes with {extra(name)}")
