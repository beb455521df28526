"""What Hydra composes or a checkpoint holds becomes a `Config`, or one error with all that is wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from equipoise.trainer.configuration.constructors import MISSING, TARGET, check_section, is_section
from equipoise.trainer.configuration.contradictions import contradictions, device_problems
from equipoise.trainer.configuration.errors import (
    ConfigError,
    Problem,
    bad_value,
    key_names,
    problems_of,
    unknown,
)
from equipoise.trainer.configuration.imports import refuse_foreign, used_parts
from equipoise.trainer.configuration.loggers import as_section
from equipoise.trainer.configuration.loggers import problems as logger_problems
from equipoise.trainer.configuration.older import with_later_settings
from equipoise.trainer.configuration.own_names import with_own_names
from equipoise.trainer.configuration.roles import CALLBACK, ENV, LOGGER, OPTIMIZER, POLICY, STAGE, Role
from equipoise.trainer.configuration.schema import (
    ComponentConfig,
    Config,
    EnvConfig,
    OptimizerConfig,
    TrainerConfig,
)

_DEFAULTS = {"policy": {TARGET: "equipoise.trainer.policy.actor_critic.ActorCritic"}}


def check(raw: Mapping[str, Any], allow: Collection[str] | None = None, *, acting: bool = False) -> Config:
    """The composed configuration `raw` as a `Config`; builds nothing.

    Args:
        raw: composed from files and arguments, or taken from a checkpoint.
        allow: None: `raw` is the user's own and may name any code. Else it comes from a checkpoint: it may
            name only this package's code and these modules, and what it does not use is not looked at.
        acting: the policy is to act, not to learn: stages, callbacks and the optimizer are not used.

    Raises:
        ConfigError: for all that is wrong with it.
    """
    raw = with_own_names(raw)
    used = used_parts(raw, acting)
    if allow is not None:
        refuse_foreign(used, allow)
        raw = with_later_settings(raw)
    nested, problems = dict(raw), []
    for key, role, model in (
        ("env", ENV, EnvConfig),
        ("policy", POLICY, ComponentConfig),
        ("optimizer", OPTIMIZER, OptimizerConfig),
    ):
        if isinstance(section := nested.get(key), Mapping):
            checked = role if allow is None or key in used else None
            nested[key], wrong = _nest(key, {**_DEFAULTS.get(key, {}), **section}, checked, model)
            problems += wrong
    looked_at = allow is None or not acting
    problems += _nest_list(nested, "callbacks", CALLBACK if looked_at else None)
    problems += _nest_loggers(nested, LOGGER if looked_at else None)
    problems += _nest_sections(nested, used if allow is not None else None)
    try:
        config = Config.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(*_without_echoes([*problems_of(error, Config, nested), *problems])) from None
    problems += device_problems(config)
    if not acting:
        problems += contradictions(config, {problem.key for problem in problems})
    if problems:
        raise ConfigError(*problems)
    return config


def check_policy(raw: object, allow: Collection[str]) -> ComponentConfig:
    """The section `policy` of a checkpoint's configuration alone. Raises `ConfigError`."""
    if not isinstance(raw, Mapping):
        raise ConfigError("the checkpoint's configuration has no section policy")
    section = {**_DEFAULTS.get("policy", {}), **with_own_names(raw)}
    refuse_foreign({"policy": section}, allow)
    nested, problems = _nest("policy", section, POLICY, ComponentConfig)
    if problems:
        raise ConfigError(*problems)
    return ComponentConfig.model_validate(nested)


def _nest(
    key: str, section: Mapping[str, Any], role: Role | None, model: type[ComponentConfig]
) -> tuple[dict[str, Any], list[Problem]]:
    """A section with its constructor's keywords moved together, and what is wrong with those.

    Without a role its class is not looked at.
    """
    keywords = {name: value for name, value in section.items() if value != MISSING}
    own = {name: keywords.pop(name) for name in key_names(model) if name in keywords}
    problems: list[Problem] = []
    if role is not None and is_section(own):
        keywords, problems = check_section(key, {TARGET: own[TARGET], **keywords}, role)
        del keywords[TARGET]
    return {**own, "keywords": keywords}, problems


def _nest_loggers(raw: dict[str, Any], role: Role | None) -> list[Problem]:
    """The same for loggers, which have short names."""
    found = raw.get("loggers")
    if isinstance(found, list | tuple):
        if wrong := list(logger_problems(found) if role is not None else ()):
            del raw["loggers"]
            return wrong
        raw["loggers"] = [as_section(logger) for logger in found]
    elif found is not None:
        del raw["loggers"]
        return [bad_value("loggers", found, "a list, such as [tensorboard, jsonl, csv]")]
    return _nest_list(raw, "loggers", role)


def _nest_list(raw: dict[str, Any], key: str, role: Role | None) -> list[Problem]:
    """The same for each section of a list."""
    found, problems = raw.get(key), []
    if isinstance(found, list | tuple) and all(is_section(section) for section in found):
        raw[key] = []
        for index, section in enumerate(found):
            nested, wrong = _nest(f"{key}[{index}]", section, role, ComponentConfig)
            raw[key].append(nested)
            problems += wrong
    elif found is not None:
        raw.pop(key)
        problems.append(bad_value(key, found, "a list of sections with a _target_"))
    return problems


def _nest_sections(raw: dict[str, Any], used: Collection[str] | None) -> list[Problem]:
    """The same for every section of `raw["trainer"]` that has a `_target_`; `used`: looked at, None: all."""
    if not isinstance(raw.get("trainer"), Mapping):
        return []
    trainer = dict(raw["trainer"])
    known = [name for name in TrainerConfig.model_fields if name != "sections"]
    extra = {name: trainer.pop(name) for name in list(trainer) if name not in known}
    sections, problems = {}, []
    for name, section in extra.items():
        if is_section(section):
            role = STAGE if used is None or f"trainer.{name}" in used else None
            sections[name], wrong = _nest(f"trainer.{name}", section, role, ComponentConfig)
            problems += wrong
        elif name in (trainer.get("stages") or ()):
            problems.append(bad_value(f"trainer.{name}", section, "a section with a _target_"))
        else:
            named = [n for n, s in extra.items() if isinstance(s, Mapping) and TARGET in s]
            problems.append(unknown(f"trainer.{name}", section, [*known, *named]))
    raw["trainer"] = {**trainer, "sections": sections}
    return problems


def _without_echoes(problems: list[Problem]) -> list[Problem]:
    """Drop the second report of a value that one key takes from another of the same name."""
    first: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.key.rpartition(".")[2], problem.complaint), problem)
    return list(first.values())
