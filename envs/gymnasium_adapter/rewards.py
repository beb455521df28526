"""Rewards of one environment as the numbers that are learned from: one, a vector's, or parts of `info`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from equipoise.envs.gymnasium_adapter.declared import declares
from equipoise.envs.gymnasium_adapter.observations import as_array
from equipoise.envs.gymnasium_adapter.own_spaces import layers

Weights: TypeAlias = Mapping[str, float] | Sequence[float]
Components: TypeAlias = Mapping[str, float | Sequence[float]] | Sequence[str]


@dataclass(frozen=True)
class Rewards:
    """`K` components.

    Attributes:
        names, weights: of each.
        keys: of `info`, with how many numbers each holds; empty: they are the reward that `step` returns.
        parts: the keys of a reward that is a dict; empty: it is a number or an array.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    keys: tuple[tuple[str, int], ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether `step` returns the one number there is."""
        return not self.keys and len(self.names) == 1

    def read(self, reward: Any, info: Mapping[str, Any]) -> NDArray[np.float64]:
        """`[K]`. Raises ValueError where there is no number for each."""
        if not self.keys:
            if self.parts and isinstance(reward, Mapping):
                reward = [reward.get(part) for part in self.parts]
            return _numbers("reward", reward, len(self.names))
        lacking = [key for key, _ in self.keys if key not in info]
        if lacking:
            raise ValueError(
                f"info lacks the reward component {lacking[0]!r}; it has {sorted(map(str, info))}"
            )
        return np.concatenate([_numbers(f"reward component {key!r}", info[key], n) for key, n in self.keys])


def rewards_of(
    env: gymnasium.Env[Any, Any], components: Components | None, weights: Weights | None
) -> Rewards:
    """What `env.reward_components` and `env.reward_weights` name, or else what the environment declares.

    Raises:
        ValueError: for names, numbers or weights that do not fit.
    """
    if components is not None:
        if weights is not None:
            raise ValueError("reward_weights is for rewards that are vectors; reward_components has its own")
        return _of_info(components)
    if weights is not None and not isinstance(weights, Mapping):
        names = _declared(env)
        if len(names) != len(weights):
            names = _numbered("reward", len(weights))
        return Rewards(names, _checked("reward_weights", dict(zip(names, weights, strict=True))))
    names, parts = _declared(env), _parts(env)
    given = dict.fromkeys(names, 1.0) | (dict(weights) if weights is not None else {})
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"reward_weights: {unknown[0]!r} is no part of the reward; there are {list(names)}")
    return Rewards(names, _checked("reward_weights", given), parts=parts)


def _of_info(components: Components) -> Rewards:
    if isinstance(components, str):
        raise ValueError(f"reward_components is {components!r}; give a list of names or name: weight pairs")
    named = components if isinstance(components, Mapping) else dict.fromkeys(components, 1.0)
    weights: dict[str, float] = {}
    keys = []
    for key, weight in named.items():
        each = weight if isinstance(weight, Sequence) else [weight]
        keys.append((str(key), len(each)))
        weights |= zip(_numbered(str(key), len(each)), each, strict=True)
    return Rewards(tuple(weights), _checked("reward_components", weights), tuple(keys))


def _checked(argument: str, weights: Mapping[str, Any]) -> tuple[float, ...]:
    for name, weight in weights.items():
        if not (isinstance(weight, int | float) and math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{argument}: the weight of {name!r} is {weight}; it must be at least 0")
    if not any(weights.values()):
        raise ValueError(f"{argument} names no component with a weight above 0")
    return tuple(float(weight) for weight in weights.values())


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return (name,) if count == 1 else tuple(f"{name}_{index}" for index in range(count))


def _space(env: gymnasium.Env[Any, Any]) -> Any:
    """`reward_space` of the outermost layer that has one, as MO-Gymnasium's environments do."""
    having = (layer for layer in layers(env) if declares(layer, "reward_space"))
    return next((layer.reward_space for layer in having), None)  # type: ignore[attr-defined]


def _parts(env: gymnasium.Env[Any, Any]) -> tuple[str, ...]:
    space = _space(env)
    return tuple(space.spaces) if isinstance(space, spaces.Dict) else ()


def _declared(env: gymnasium.Env[Any, Any]) -> tuple[str, ...]:
    space = _space(env)
    if isinstance(space, spaces.Dict):
        return tuple(map(str, space.spaces))
    return _numbered("reward", int(np.prod(space.shape)) if isinstance(space, spaces.Box) else 1)


def _numbers(field: str, value: Any, count: int) -> NDArray[np.float64]:
    numbers = as_array(value)
    if numbers.dtype.kind not in "fiub":
        raise ValueError(f"{field} is a {type(value).__name__}, expected {_expected(count)}")
    if numbers.size != count or numbers.size != max(numbers.shape, default=1):
        what = f"{field} is a {type(value).__name__} of shape {numbers.shape}, expected {_expected(count)}"
        raise ValueError(what + _way_out(field, numbers.size, count))
    return numbers.reshape(-1).astype(np.float64)


def _expected(count: int) -> str:
    return "one real number" if count == 1 else f"{count} real numbers"


def _way_out(field: str, size: int, count: int) -> str:
    if size < 1 or (count > 1 and size > 1):
        return ""
    weights = f"[{','.join('1' * size)}]"
    if field == "reward":
        return f"; env.reward_weights={weights} takes {'it as it is' if size == 1 else 'each by itself'}"
    key = field.split("'")[1]
    return f"; env.reward_components={{{key}: {weights}}} takes each by itself" if size > 1 else ""
