"""The log of a standard deviation, kept within bounds."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from annotated_types import Ge, Le
from torch import Tensor

LogStd = Annotated[float, Ge(-20), Le(20)]


class LogStdRange(NamedTuple):
    """Maps all numbers into the bounds, with slope 1 in the middle and a gradient everywhere."""

    low: float
    high: float

    def bounded(self, raw: Tensor) -> Tensor:
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return middle + half * ((raw - middle) / half).tanh()

    def unbounded(self, log_std: float) -> float:
        """What `bounded` makes `log_std` of."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return middle + half * math.atanh((log_std - middle) / half)
