"""Makes vector environments, and says when they begin new episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import gymnasium
from gymnasium.envs.registration import EnvSpec

from equipoise.envs.gymnasium_adapter.making import found_at, registered, wanted
from equipoise.envs.gymnasium_adapter.objects import built
from equipoise.envs.vectorised.parallel import Agents, TeamsError

Autoreset: TypeAlias = Literal["same_step", "next_step", "disabled"]
_MODES: dict[Any, Autoreset] = {"SameStep": "same_step", "NextStep": "next_step", "Disabled": "disabled"}
"""By the values of Gymnasium's `AutoresetMode`, which Gymnasium 0.29 does not have."""


def make_vectorised(
    id: str, make: str | Callable[..., Any] | None, num_envs: int, kwargs: Mapping[str, Any]
) -> Any:
    """Raises ValueError where it cannot be made, or is something else."""
    try:
        kwargs = built(dict(kwargs))
        if make is None:
            return registered(id, lambda: gymnasium.make_vec(id, num_envs=num_envs, **kwargs))
        call = found_at(make) if isinstance(make, str) else make
        if isinstance(call, type) and hasattr(call, "possible_agents"):
            return Agents(lambda: call(**kwargs), num_envs)
        try:
            env = call(num_envs=num_envs, **kwargs)
        except TypeError:
            env = call(**kwargs)  # of PettingZoo, which says itself how many agents it has
    except TeamsError:
        raise
    except (Exception, SystemExit) as error:  # user code: may raise anything
        raise ValueError(
            f"{id!r} could not be made with {dict(kwargs)}: {type(error).__name__}: {error}"
            f"{wanted(error, make)}"
        ) from error
    if hasattr(env, "possible_agents"):
        env.close()
        return Agents(lambda: call(**kwargs), num_envs)
    if getattr(env, "num_envs", None) != num_envs:
        raise ValueError(
            f"{id!r} gives a {type(env).__name__} of {getattr(env, 'num_envs', 'no')} environments, not "
            f"{num_envs}; env=gymnasium takes single ones"
        )
    return env


def autoreset_of(env: Any, given: Autoreset | None) -> Autoreset:
    """Raises ValueError where nobody says when episodes begin anew."""
    if given is not None:
        if given not in _MODES.values():
            raise ValueError(f"autoreset is {given!r}; allowed are {', '.join(_MODES.values())}")
        return given
    stated = (getattr(env, "metadata", None) or {}).get("autoreset_mode")
    known = _MODES.get(getattr(stated, "value", stated))
    if known is None:
        raise ValueError(
            f"the metadata of {type(env).__name__} do not say when it begins new episodes; set env.autoreset "
            f"to one of {', '.join(_MODES.values())}; with Gymnasium 0.29 it is same_step"
        )
    return known


def time_limit_of(env: Any) -> int | None:
    """Steps after which `gymnasium.make_vec` has episodes end; None: nothing says so."""
    spec = getattr(env, "spec", None)
    if not isinstance(spec, EnvSpec):
        return None
    # `make_vec` leaves the registered limit where it is, and what it was given beside it; -1 is none.
    given = spec.kwargs.get("max_episode_steps")
    limit = given if isinstance(given, int) else spec.max_episode_steps
    return limit if limit is not None and limit > 0 else None
