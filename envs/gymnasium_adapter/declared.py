"""What an environment and its wrappers declare beside their spaces."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from equipoise.envs.gymnasium_adapter.own_spaces import layers


def declared_relevance(env: gymnasium.Env[Any, Any]) -> tuple[Any, str | None]:
    """The attribute `relevance` that holds for the action space of `env`, and a remark for the user, if any.

    The outermost one counts: a wrapper knows the action space that it offers. One from below a wrapper that
    changes the action space, and says nothing of its own, is of another space and does not apply.
    """
    changed_by: str | None = None
    for layer in layers(env):
        if declares(layer, "relevance"):
            table = layer.relevance  # type: ignore[attr-defined]
            if table is None or changed_by is None:
                return plain(table), None
            return None, (
                f"relevance of {type(layer).__name__}: does not apply, as {changed_by} changes the action "
                "space; give that wrapper an attribute `relevance`, or set env.relevance (`all`: every "
                "parameter always matters)"
            )
        if isinstance(layer, gymnasium.Wrapper) and layer.action_space != layer.env.action_space:
            changed_by = type(layer).__name__
    return None, None


def declares(layer: gymnasium.Env[Any, Any], name: str) -> bool:
    """Whether `layer` has the attribute itself: a wrapper of anybody's may hand on what it wraps has."""
    return inspect.getattr_static(layer, name, None) is not None


def declared_time_limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """Steps after which the shortest of its `TimeLimit` wrappers ends an episode; None: there is none."""
    limits = [layer.spec.max_episode_steps for layer in layers(env) if isinstance(layer.spec, EnvSpec)]
    return min((limit for limit in limits if limit is not None), default=None)


def plain(table: Any) -> Any:
    """Arrays, at any depth, as lists: an environment's table may be one, and has no truth value then."""
    table = table.tolist() if isinstance(table, np.ndarray | np.generic) else table
    return [plain(part) for part in table] if isinstance(table, list | tuple) else table
