"""Gymnasium spaces as plain data, for a checkpoint: tensors, numbers and text, and nothing to execute."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from equipoise.envs.older_gymnasium import OneOfSpace


def to_data(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """What `from_data` makes an equal space of; a kind that neither knows becomes its description."""
    match space:
        case spaces.Dict():
            parts = [to_data(part) for part in space.spaces.values()]
            return {"kind": "Dict", "keys": [_plain(key) for key in space.spaces], "parts": parts}
        case spaces.Tuple():
            return {"kind": "Tuple", "parts": [to_data(part) for part in space.spaces]}
        case OneOfSpace():
            return {"kind": "OneOf", "parts": [to_data(part) for part in space.spaces]}
        case spaces.Box():
            numbers = {"low": _tensor(space.low), "high": _tensor(space.high)}
            return {"kind": "Box", "dtype": str(space.dtype), **numbers}
        case spaces.Discrete():
            return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            return {"kind": "MultiDiscrete", "nvec": _tensor(space.nvec), "start": _tensor(space.start)}
        case spaces.MultiBinary():
            return {"kind": "MultiBinary", "n": np.array(space.n).tolist()}
    return {"kind": type(space).__name__, "described": str(space)}


class Unread(gymnasium.Space[Any]):
    """Stands for a space of a kind that is not understood: a part of an observation that is left out."""

    def __init__(self, described: str) -> None:
        super().__init__()
        self.described = described

    def __repr__(self) -> str:
        return self.described


def _plain(key: Any) -> str | int:
    """A key as text or a number; members of an `Enum` that are such, too, are found under it all the same."""
    return int(key) if isinstance(key, int) else str.__str__(key) if isinstance(key, str) else str(key)


def from_data(data: Mapping[str, Any]) -> gymnasium.Space[Any]:
    """The space that `to_data` was given, with `Unread` for parts of a kind that is not known."""
    match data["kind"]:
        case "Dict":
            parts = map(from_data, data["parts"])
            return spaces.Dict(OrderedDict(zip(data["keys"], parts, strict=True)))
        case "Tuple":
            return spaces.Tuple([from_data(part) for part in data["parts"]])
        case "OneOf":
            return OneOfSpace([from_data(part) for part in data["parts"]])
        case "Box":
            dtype: Any = np.dtype(data["dtype"])
            return spaces.Box(data["low"].numpy(), data["high"].numpy(), dtype=dtype)
        case "Discrete":
            return spaces.Discrete(data["n"], start=data["start"])
        case "MultiDiscrete":
            return spaces.MultiDiscrete(data["nvec"].numpy(), start=data["start"].numpy())
        case "MultiBinary":
            return spaces.MultiBinary(data["n"])
    return Unread(str(data.get("described", data["kind"])))


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
