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

REWARD = ""
"""Stands for what `step` returns, among keys of `info`."""

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


ONE = Rewards(("reward",), (1.0,))


def rewards_of(
    env: gymnasium.Env[Any, Any],
    components: Components | None,
    weights: Weights | None,
    measured: Mapping[str, int] | None = None,
) -> Rewards:
    """What `env.reward_components` and `env.reward_weights` name, or else what the environment declares.

    Args:
        measured: how many numbers each thing of `unannounced` was seen to hold; this counts more than what
            is declared, as a wrapper may have added them up.

    Raises:
        ValueError: for names, numbers or weights that do not fit.
    """
    measured = measured or {}
    if components is not None:
        if weights is not None:
            raise ValueError("reward_weights is for rewards that are vectors; reward_components has its own")
        return _of_info(components, measured)
    names = _declared(env)
    if weights is not None and not isinstance(weights, Mapping):
        if len(names) != len(weights):
            names = numbered("reward", len(weights))
        return Rewards(names, _checked("reward_weights", dict(zip(names, weights, strict=True))))
    parts = _parts(env)
    if (count := measured.get(REWARD, len(names))) != len(names):
        names, parts = numbered("reward", count), ()
    given = dict.fromkeys(names, 1.0) | (dict(weights) if weights is not None else {})
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"reward_weights: {unknown[0]!r} is no part of the reward; there are {list(names)}")
    return Rewards(names, _checked("reward_weights", given), parts=parts)


def unannounced(components: Components | None, weights: Weights | None) -> tuple[str, ...]:
    """What nobody has said how many numbers it holds: `REWARD`, or keys of `info`."""
    if components is None:
        return (REWARD,) if weights is None or isinstance(weights, Mapping) else ()
    named = components if isinstance(components, Mapping) else dict.fromkeys(components, 1.0)
    return tuple(str(key) for key, weight in named.items() if not isinstance(weight, Sequence))


def vector_remark(names: Sequence[str]) -> list[str]:
    """What to tell of a reward whose parts nobody has weighted; nothing of a single one."""
    if len(names) == 1:
        return []
    return [
        f"the reward is a vector: its numbers are the reward components {', '.join(names)}, which count "
        f"alike (env.reward_weights=[{','.join('1' * len(names))}] weights them)"
    ]


def _of_info(components: Components, measured: Mapping[str, int]) -> Rewards:
    if isinstance(components, str):
        raise ValueError(f"reward_components is {components!r}; give a list of names or name: weight pairs")
    named = components if isinstance(components, Mapping) else dict.fromkeys(components, 1.0)
    weights: dict[str, float] = {}
    keys = []
    for key, weight in named.items():
        each = weight if isinstance(weight, Sequence) else [weight] * measured.get(str(key), 1)
        keys.append((str(key), len(each)))
        weights |= zip(numbered(str(key), len(each)), each, strict=True)
    return Rewards(tuple(weights), _checked("reward_components", weights), tuple(keys))


def _checked(argument: str, weights: Mapping[str, Any]) -> tuple[float, ...]:
    for name, weight in weights.items():
        if not (isinstance(weight, int | float) and math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{argument}: the weight of {name!r} is {weight}; it must be at least 0")
    if not any(weights.values()):
        raise ValueError(f"{argument} names no component with a weight above 0")
    return tuple(float(weight) for weight in weights.values())


def numbered(name: str, count: int) -> tuple[str, ...]:
    """Of the numbers that are called `name` together."""
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
    return numbered("reward", int(np.prod(space.shape)) if isinstance(space, spaces.Box) else 1)


def _numbers(field: str, value: Any, count: int) -> NDArray[np.float64]:
    numbers = as_array(value)
    if numbers.dtype.kind not in "fiub":
        named = "; a reward_space (a Dict) names its parts" if isinstance(value, Mapping) else ""
        raise ValueError(f"{field} is a {type(value).__name__}, expected {_expected(count)}{named}")
    if numbers.size != count or numbers.size != max(numbers.shape, default=1):
        what = f"{field} is a {type(value).__name__} of shape {numbers.shape}, expected {_expected(count)}"
        vector = numbers.size == max(numbers.shape, default=1)
        raise ValueError(what + (_way_out(field, numbers.size, count) if vector else ""))
    return numbers.reshape(-1).astype(np.float64)


def _expected(count: int) -> str:
    return "one real number" if count == 1 else f"{count} real numbers"


def _way_out(field: str, size: int, count: int) -> str:
    weights = f"[{','.join('1' * size)}]"
    if field == "reward" and size:
        return f"; env.reward_weights={weights} takes {'it as it is' if size == 1 else 'each by itself'}"
    if size < 2 or count > 1:
        return ""
    key = field.split("'")[1]
    return f"; env.reward_components={{{key}: {weights}}} takes each by itself"
