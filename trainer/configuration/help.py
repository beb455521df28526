"""The text of `python -m trainer.run --help`, made from `conf/` and the models in `schema.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from omegaconf import OmegaConf
from pydantic import BaseModel

from equipoise.trainer.configuration.compose import GROUPS, compose_unchecked, options
from equipoise.trainer.configuration.errors import allowed, shown
from equipoise.trainer.configuration.resuming import RESUMABLE
from equipoise.trainer.configuration.schema import Config

_USAGE = """\
Train a policy. Arguments are key=value, in any order; the last one wins.

  python -m trainer.run                                  the default: env=topology_spawn preset=balanced
  python -m trainer.run preset=conservative seed=3 trainer.gradient_scaling.scaling_momentum=0.95
  python -m trainer.run env=gymnasium env.id=CartPole-v1 env.kwargs.max_episode_steps=200
  python -m trainer.run env=mine                         with conf/env/mine.yaml of the current folder
  python -m trainer.run -m preset=balanced,debug seed=1,2,3        a sweep over all combinations
  python -m trainer.run resume=runs/<run>                continue a run in its own folder
  python -m trainer.run resume=auto hydra.run.dir=<dir>  continue the run in <dir>, or start it there
  python -m trainer.run --cfg job                        print the configuration and stop
  python -m trainer.run --config-dir FOLDER              look for configuration files in FOLDER too
  python -m trainer.run --hydra-help                     the flags of Hydra, which reads the arguments

Precedence: command line > experiment > preset > what the environment chooses > the other groups."""


def help_text() -> str:
    defaults: Any = OmegaConf.to_container(compose_unchecked(), resolve=True)
    groups = [f"  {group}={'|'.join(options(group))}" for group in GROUPS if options(group)]
    resumable = f"Beside resume= these may be given: {RESUMABLE}."
    keys = [*_keys(Config, defaults), *_section_keys(defaults["trainer"])]
    return "\n\n".join([_USAGE, "\n".join(["Groups:", *groups]), "\n".join(["Keys:", *keys]), resumable])


def _keys(model: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A line for each key of `model`: its default, what is allowed, what it means."""
    for name, field in model.model_fields.items():
        key, value = field.alias or name, values.get(field.alias or name)
        models = [m for m in (field.annotation, *get_args(field.annotation)) if _is_model(m)]
        if models and isinstance(value, Mapping):
            chosen = next((m for m in models if value.get("kind") in get_args(_kind(m))), models[0])
            yield from _keys(chosen, value, f"{prefix}{key}.")
        elif key not in ("sections", "keywords"):
            meaning = f": {field.description}" if field.description else ""
            yield _line(prefix + key, value, allowed(field.annotation, field.metadata) + meaning)


def _section_keys(trainer: Mapping[str, Any]) -> Iterator[str]:
    """A line for each key of the stages; the class that `_target_` names says what is allowed."""
    for name, section in trainer.items():
        if isinstance(section, Mapping) and "_target_" in section:
            yield from (_line(f"trainer.{name}.{key}", value, "") for key, value in section.items())


def _line(key: str, value: object, text: str) -> str:
    return f"  {key} = {shown(value)}".ljust(52) + (f"  {text}" if text else "")


def _is_model(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind(model: type[BaseModel]) -> object:
    return field.annotation if (field := model.model_fields.get("kind")) else None
