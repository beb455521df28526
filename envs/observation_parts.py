"""What lies where in the flat row of an observation: what an encoder of several parts goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.envs.protocol import BatchedEnv


class ObservationPart(NamedTuple):
    """A leaf of the observation space."""

    name: str
    """What leads to it: `camera`, `arm.camera`, `0` in a tuple; empty where it is the whole observation."""
    shape: tuple[int, ...]
    """As the environment has it."""
    dtype: str
    first: int
    """Its first column."""
    stop: int
    """The column after its last one."""
    choices: tuple[int, ...] = ()
    """Of a one-hot code: how many columns each entry has. Empty: numbers as they are."""
    high: float | None = None
    """Of numbers, the largest one that there may be; None: unbounded."""

    @property
    def whole(self) -> bool:
        """Whether all its numbers are whole ones from 0 to 255."""
        return bool(self.choices) or self.dtype in ("uint8", "bool")

    @property
    def picture(self) -> bool:
        """Whether it is a picture: rows and columns of uint8 or of bool."""
        return not self.choices and self.whole and len(self.shape) in (2, 3, 4)


def parts_of(env: BatchedEnv) -> tuple[ObservationPart, ...]:
    """Of the observations of `env`, in the order of their columns."""
    described = getattr(env, "observation_layout", None)
    return read_parts(described or ObservationLayout(env.observation_space).describe())


def read_parts(described: Sequence[Mapping[str, Any]]) -> tuple[ObservationPart, ...]:
    """`described`: see `ObservationLayout.describe`."""
    return tuple(map(_read, described))


def _read(part: Mapping[str, Any]) -> ObservationPart:
    name, (first, stop) = ".".join(map(str, part["keys"])), part["columns"]
    place = name, tuple(part["shape"]), part["dtype"], first, stop
    if part["encoding"] == "one-hot":
        return ObservationPart(*place, tuple(part["choices"]))
    highs = part["high"]
    return ObservationPart(*place, high=None if None in highs else max(highs, default=None))
