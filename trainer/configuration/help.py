"""The text of `python -m trainer.run --help`, made from `conf/` and the models in `schema.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from pydantic import BaseModel

from equipoise.commands import spelled
from equipoise.trainer.configuration.annotations import meanings_of
from equipoise.trainer.configuration.compose import GROUPS, compose, options
from equipoise.trainer.configuration.constructors import (
    MISSING,
    TARGET,
    constructor_of,
    find_class,
    is_section,
)
from equipoise.trainer.configuration.errors import allowed, key_names, shown
from equipoise.trainer.configuration.resuming import RESUMABLE
from equipoise.trainer.configuration.roles import ENCODER, ENV, OPTIMIZER, POLICY, STAGE, Role
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

Precedence: command line > experiment > what the environment chooses > the groups, preset among them."""


def help_text() -> str:
    plain = compose().plain()
    groups = [f"  {group}={'|'.join(options(group))}" for group in GROUPS if options(group)]
    resumable = (
        f"Beside resume= these may be given: {RESUMABLE}. So may allow=[my_package]: modules of yours "
        "that the checkpoint may name."
    )
    keys = [*_keys(Config, plain)]
    stages = ((f"trainer.{name}", part) for name, part in plain["trainer"].items() if is_section(part))
    for key, section in stages:
        keys += _section(key, section, STAGE)
    parts = [_USAGE, "\n".join(["Groups:", *groups]), "\n".join(["Keys:", *keys]), resumable]
    return spelled("\n\n".join(parts))


def _keys(model: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A line for each key of `model`: its default, what is allowed, what it means."""
    for name, field in model.model_fields.items():
        key, value = field.alias or name, values.get(field.alias or name)
        if _is_model(field.annotation) and isinstance(value, Mapping):
            yield from _keys(field.annotation, value, f"{prefix}{key}.")
            if key in _ROLES:
                yield from _section(key, value, _ROLES[key], [*key_names(field.annotation), TARGET])
        elif key not in ("sections", "keywords"):
            meaning = f": {field.description}" if field.description else ""
            yield _line(prefix + key, value, allowed(field.annotation, field.metadata) + meaning)


_ROLES = {"env": ENV, "policy": POLICY, "optimizer": OPTIMIZER}


def _section(key: str, section: Mapping[str, Any], role: Role, told: Sequence[str] = ()) -> Iterator[str]:
    """A line for each argument of the constructor that a section names, set or not; but for those `told`."""
    cls = find_class(section[TARGET])
    constructor, meanings = constructor_of(cls), meanings_of(cls)
    if TARGET not in told:
        yield _line(f"{key}.{TARGET}", section[TARGET], "")
    for name, parameter in constructor.parameters.items():
        if name in role.supplied or name in told:
            continue
        value = section.get(name, parameter.default)
        if is_section(value):
            yield from _section(f"{key}.{name}", value, ENCODER)
            continue
        hint = constructor.hints.get(name)
        parts = [allowed(hint) if hint is not None else "", meanings.get(name, "")]
        unset = value is parameter.empty
        yield _line(f"{key}.{name}", MISSING if unset else value, ": ".join(filter(None, parts)))


def _line(key: str, value: object, text: str) -> str:
    return f"  {key} = {shown(value)}".ljust(52) + (f"  {text}" if text else "")


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
