"""Observations outside of their space: counted, told once and used, or an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from equipoise.envs.gymnasium_adapter.observations import Floats, ObservationLayout

CheckBounds: TypeAlias = Literal["tell", "strict", "off"] | bool
"""`off` in a YAML file is false, and `true` was what `strict` is now."""

_LARGEST = np.finfo(np.float32).max
_WHOLE = 2.0**24
"""From here on neighbouring float32 numbers are 2 apart or more."""


class Bounds:
    """Looks at flat observations of `num_envs` environments.

    Args:
        layout: of the observations.
        num_envs: the largest number of rows at once.
        check: see `GymnasiumEnv`.
    """

    def __init__(self, layout: ObservationLayout, num_envs: int, check: CheckBounds) -> None:
        self._layout = layout
        self.check: str = ("strict" if check else "off") if isinstance(check, bool) else check
        if self.check not in ("tell", "strict", "off"):
            raise ValueError(f"check_bounds is {check!r}; allowed are 'tell', 'strict' and 'off'")
        floor, ceiling = (-_LARGEST, _LARGEST) if self.check == "off" else (layout.low, layout.high)
        # Two comparisons with finite numbers catch NaN and infinity too. One row per environment, as NumPy
        # compares arrays of equal shape several times faster than it broadcasts.
        self._floor = np.full((num_envs, layout.width), np.maximum(floor, -_LARGEST), np.float32)
        self._ceiling = np.full((num_envs, layout.width), np.minimum(ceiling, _LARGEST), np.float32)
        self.count = 0
        """How many observations lay outside so far."""
        self.last = np.zeros(num_envs, np.float32)
        """`[N]`: 1 where one did in this step."""
        self.remark: str | None = None
        """What is to be told the user; taken by whoever tells it."""

    def begin(self) -> None:
        """Of a new step."""
        if self.count:
            self.last = np.zeros_like(self.last)

    def fault(self, flat: Floats, indices: Sequence[int]) -> tuple[int, str] | None:
        """Look at the observations `[len(indices), O]` of these environments.

        Returns the environment of the first entry that is an error, and what is wrong with it: one that is
        not finite, or under `strict` one outside of its space. Counts what lies outside and is none.
        """
        good = (flat >= self._floor[: len(flat)]) & (flat <= self._ceiling[: len(flat)])
        if good.all():
            return None
        if not (finite := np.isfinite(flat)).all():
            row, column = (int(index) for index in np.argwhere(~finite)[0])
            what = f"is {flat[row, column]} as float32; observations must be finite"
            return indices[row], f"{self._layout.name(column)} {what}"
        row, column = (int(index) for index in np.argwhere(~good)[0])
        if self.check == "strict":
            strict = "; env.check_bounds=tell would use it"
            return indices[row], self._said(flat[row, column], column) + strict
        there = np.flatnonzero(~good.all(axis=1)).tolist()
        self.note([indices[i] for i in there], self._said(flat[row, column], column))
        return None

    def note(self, indices: Sequence[int], what: str) -> None:
        """Count observations of these environments that lie outside; the first time it is told what."""
        if self.check == "off":
            return
        if not self.count:
            self.remark = (
                f"{what}. Such observations are used as they are and counted, in the metric "
                "`episode/outside_bounds` (env.check_bounds=strict makes them an error, off says nothing)"
            )
        self.count += len(indices)
        self.last[indices] = 1.0

    def coarse(self, flat: Floats) -> str | None:
        """What to tell of a number so large that float32, which a policy sees, keeps no whole units of it."""
        row, column = np.unravel_index(int(np.abs(flat).argmax()), flat.shape) if flat.size else (0, 0)
        if not flat.size or abs(flat[row, column]) < _WHOLE:
            return None
        value = flat[row, column]
        return (
            f"{self._layout.name(int(column))} is {float(value):.10g}, of which float32 tells only steps of "
            f"{float(np.spacing(abs(value))):g} apart: let the environment subtract a fixed origin, such as "
            "the time at which it was made"
        )

    def _said(self, value: np.float32, column: int) -> str:
        low, high = self._layout.low[column], self._layout.high[column]
        by = low - value if value < low else value - high
        return f"{self._layout.name(column)} is {value}, outside its space's [{low}, {high}] by {by:.3g}"
