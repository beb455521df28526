"""Environments as the section `env` of the configuration names them: made, seeded, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import update_wrapper
from typing import Any

import torch

from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import BatchedEnv, ScriptedEnv, SharedEnv
from equipoise.envs.references import References, reference_returns
from equipoise.envs.vectorised.parallel import TeamsError
from equipoise.trainer.configuration.constructors import constructor_of, find_class
from equipoise.trainer.configuration.schema import EnvConfig
from equipoise.trainer.contracts import SuppliedToEnv
from equipoise.trainer.seeding import training_seed
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.system import torch_switches

MakeEnv = Callable[[int], BatchedEnv]
"""Number of environments -> environment."""


def environment_maker(
    section: EnvConfig, device: torch.device, environment: Callable[..., Any] | None = None
) -> MakeEnv:
    """`make(num_envs)` for the environment of the section `env`.

    What one finds out with effort about all (its attribute `found_out`), the next ones are told.

    `environment`: makes a single Gymnasium environment, in place of the one that the section names.
    """
    target, keywords = find_class(section.target), section.keywords
    if environment is not None:
        name = str(keywords.get("make") or keywords.get("id"))
        keywords = {**keywords, "id": None, "make": _Named(environment, name)}

    known: dict[str, Any] = {}

    def make(num_envs: int) -> BatchedEnv:
        try:
            with torch_switches.kept(section.label):
                env: BatchedEnv = target(**SuppliedToEnv(num_envs, device)._asdict(), **keywords | known)
            known.update(getattr(env, "found_out", {}))
        except (EnvError, ValueError, KeyboardInterrupt):  # a ValueError says which argument is wrong
            raise
        except BaseException as error:  # user code: may raise anything, SystemExit too
            raise EnvError(f"{section.label} cannot be made: {type(error).__name__}: {error}") from error
        return env

    return make


class _Named:
    """A callable under the name that the configuration gives it, for messages and saved states."""

    def __init__(self, call: Callable[..., Any], name: str) -> None:
        update_wrapper(self, call, updated=())
        self._call, self.__name__ = call, name

    def __call__(self, **keywords: Any) -> Any:
        return self._call(**keywords)

    def __str__(self) -> str:
        return self.__name__


def in_whole_teams(make: MakeEnv) -> MakeEnv:
    """`make` for evaluations, rounded up to whole teams where agents come in teams."""

    def make_enough(num_envs: int) -> BatchedEnv:
        try:
            return make(num_envs)
        except TeamsError as error:
            return make(-(-num_envs // error.size) * error.size)

    return make_enough


def with_arguments(section: EnvConfig, kwargs: Mapping[str, Any]) -> EnvConfig:
    """The section `env` with other constructor arguments, which for Gymnasium are in `env.kwargs`."""
    keywords = dict(section.keywords)
    if "kwargs" in constructor_of(find_class(section.target)).parameters:
        keywords["kwargs"] = {**(keywords.get("kwargs") or {}), **kwargs}
    else:
        keywords |= kwargs
    return section.model_copy(update={"keywords": keywords})


def space_of(env: BatchedEnv) -> HybridSpace:
    """The actions of `env`, on its device."""
    return HybridSpace(env.action_space, env.relevance, env.device)


def seed_of(env: BatchedEnv, seed: int, process: int) -> int:
    """Seed of a process's environments, which learn their first number if they are numbered across all."""
    if isinstance(env, SharedEnv):
        env.first_env = process * env.num_envs
        return seed
    return training_seed(seed, process)


def find_references(env: BatchedEnv, make_env: MakeEnv) -> References | None:
    """What scores 0 and 1: as the environment states it, else measured now; None without an expert.

    Raises `EnvError` if the environment fails.
    """
    stated = getattr(env, "reference_returns", None)
    if stated is not None:
        return References(*stated)
    if not isinstance(env, ScriptedEnv):
        return None
    try:
        return reference_returns(make_env)
    except EnvError:
        raise
    except Exception as error:  # user code: may raise anything
        doing = f"{type(env).__name__}: playing random actions and the expert's"
        raise EnvError(f"{doing} failed: {type(error).__name__}: {error}") from error
