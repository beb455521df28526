"""Environments that open a window unless they are told otherwise, made without one."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator


def windowless(create: Any) -> dict[str, None]:
    """`render_mode` for what opens a window unless it is told otherwise: a run wants none for each copy."""
    try:
        default = inspect.signature(create).parameters["render_mode"].default
    except (KeyError, TypeError, ValueError):  # it has no such argument, or none that can be known
        return {}
    return {"render_mode": None} if isinstance(default, str) and default == "human" else {}


def entry_point(id: str) -> Any:
    """What Gymnasium calls to make `id`; None where the registration leaves nothing to choose, or lacks."""
    module, colon, name = id.partition(":")
    if colon:
        importlib.import_module(module)
    spec = gymnasium.registry.get(name or id)
    if spec is None or spec.entry_point is None or "render_mode" in spec.kwargs:
        return None
    return load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
