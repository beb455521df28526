"""Finds a setting by its last name: `learning_rate` is `optimizer.learning_rate`."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from equipoise.trainer.configuration.compose import GROUPS, compose_unchecked, without_hydra
from equipoise.trainer.configuration.constructors import TARGET, constructor_of, find_class
from equipoise.trainer.configuration.errors import ConfigError, nearest, shown
from equipoise.trainer.configuration.roles import ENCODER, ENV, OPTIMIZER, POLICY, STAGE

ALIASES = {
    "lr": "learning_rate",
    "steps": "total_env_steps",
    "total_steps": "total_env_steps",
    "timesteps": "total_env_steps",
    "total_timesteps": "total_env_steps",
    "n_envs": "num_envs",
    "n_steps": "rollout_steps",
    "epochs": "update_epochs",
    "n_epochs": "update_epochs",
    "minibatches": "num_minibatches",
    "env_id": "id",
    "env_kwargs": "kwargs",
    "gae_gamma": "gamma",
    "clip_range": "clip_epsilon",
    "vf_coef": "value_coefficient",
    "optim": "optimizer",
}
"""What other trainers call a setting -> its last name here."""

_ROLES = {"env": ENV, "policy": POLICY, "optimizer": OPTIMIZER}


def locate(name: str, value: object = None, composed: DictConfig | None = None) -> str:
    """The dotted key of the setting `name`, as `composed` has it (None: the default configuration).

    Of several keys with this last name the one that is nested least is meant.

    Raises:
        ConfigError: no setting has this name, or several that are nested alike; `value` is for the message.
    """
    config = without_hydra(compose_unchecked() if composed is None else composed)
    if name in config:
        return name
    known = _last_names(config)
    keys = known.get(ALIASES.get(name, name), [])
    if len(keys) > 1:  # a key of a section stands for those of the sections inside it
        outermost = min(key.count(".") for key in keys)
        keys = [key for key in keys if key.count(".") == outermost]
    if len(keys) == 1:
        return keys[0]
    if keys:
        choice = " or ".join(keys)
        raise ConfigError(f"{name} = {shown(value)}: several settings have this name: write {choice}")
    match = nearest(name, [*known, *ALIASES, *GROUPS])
    match = ALIASES.get(match, match) if match else None
    hint = f"did you mean {match}?" if match else "see the names in `equipoise train --help`"
    raise ConfigError(f"{name} = {shown(value)}: there is no such setting; {hint}")


def _last_names(config: DictConfig) -> dict[str, list[str]]:
    """The dotted keys that end in each name. A key that follows another one is not counted beside it."""
    found: dict[str, list[str]] = {}
    for key in _keys(config):
        found.setdefault(key.rpartition(".")[2], []).append(key)
    return found


def _keys(section: DictConfig, prefix: str = "") -> Iterator[str]:
    names = [str(name) for name in section if name != TARGET]
    for name in names:
        if OmegaConf.is_interpolation(section, name):
            continue
        yield f"{prefix}{name}"
        inside = None if OmegaConf.is_missing(section, name) else section[name]
        if isinstance(inside, DictConfig):
            yield from _keys(inside, f"{prefix}{name}.")
    target = section.get(TARGET)
    if isinstance(target, str):
        yield from (f"{prefix}{name}" for name in _taken(target, prefix) if name not in names)


def _taken(target: str, prefix: str) -> set[str]:
    """The keys that the class of a section takes, whether they are written there or not."""
    top, _, rest = prefix.partition(".")
    role = STAGE if top == "trainer" else ENCODER if rest else _ROLES[top]
    try:
        return {*constructor_of(find_class(target)).parameters} - role.supplied
    except ImportError:  # the check of the section says it
        return set()
