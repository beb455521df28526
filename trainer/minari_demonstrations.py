"""Demonstrations from a dataset of Minari (https://minari.farama.org), an optional package."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.envs.protocol import BatchedEnv, NativeAction
from equipoise.prerequisites import extra
from equipoise.trainer.data import Actions
from equipoise.trainer.demonstrations import Demonstrations
from equipoise.trainer.spaces import HybridSpace

PREFIX = "minari:"


def read_minari(source: str, env: BatchedEnv, space: HybridSpace) -> Demonstrations:
    """All steps of the local dataset that `source` names after `minari:`.

    It holds no masks: every choice counts as valid.

    Raises:
        ValueError: Minari is not installed, there is no such dataset, or it is of other spaces than `env`.
    """
    name = source.removeprefix(PREFIX)
    if importlib.util.find_spec("minari") is None:
        raise ValueError(f"source = {source}: needs more packages: {extra('minari')}")
    import minari

    try:
        dataset = minari.load_dataset(name)
    except Exception as error:  # of many kinds
        known = ", ".join(sorted(minari.list_local_datasets())) or "none"
        raise ValueError(f"source = {source}: {error}; there are {known}") from None
    native = getattr(env, "native_observation_space", env.observation_space)
    layout = ObservationLayout(native, getattr(env, "ignored", ()))
    found: list[tuple[Tensor, ...]] = []
    for episode in dataset.iterate_episodes():
        steps = len(episode)
        try:
            # One observation more than there are actions.
            rows, _ = layout.rows(_cut(episode.observations, steps), steps)
            actions = space.from_native(_tensors(episode.actions, env.device))
        except (ValueError, LookupError, TypeError) as error:
            reason = f"episode {episode.id} does not fit the environment: {error}"
            spaces = f"{dataset.observation_space} and {dataset.action_space}"
            raise ValueError(f"source = {source}: {reason} (the dataset has {spaces})") from None
        found.append((torch.from_numpy(rows).to(env.device), *actions))
    if not found:
        raise ValueError(f"source = {source}: holds no episodes")
    observations, discrete, continuous = (torch.cat(parts) for parts in zip(*found, strict=True))
    mask = space.valid_choices.expand(len(observations), *space.valid_choices.shape)
    return Demonstrations(observations, Actions(discrete, continuous), mask)


def _cut(value: Any, steps: int) -> Any:
    """The first `steps` of nested arrays."""
    if isinstance(value, Mapping):
        return {key: _cut(part, steps) for key, part in value.items()}
    return (
        tuple(_cut(part, steps) for part in value) if isinstance(value, tuple) else np.asarray(value)[:steps]
    )


def _tensors(value: Any, device: torch.device) -> NativeAction:
    """Nested arrays as nested tensors."""
    if isinstance(value, Mapping):
        return {key: _tensors(part, device) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_tensors(part, device) for part in value)
    return torch.as_tensor(np.ascontiguousarray(value), device=device)
