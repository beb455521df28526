"""Checks what an environment or a stage is constructed with, from a configuration or from Python."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import ConfigDict, validate_call

LARGEST = 1e30
"""Bound of factors in float32 arithmetic, which ends at 3.4e38."""
LARGEST_COUNT = 10**15
"""Bound of counts, which are compared with int64 tensors."""

Factor = Annotated[float, Ge(0), Le(LARGEST)]
PositiveFactor = Annotated[float, Gt(0), Le(LARGEST)]
Count = Annotated[int, Ge(1), Le(LARGEST_COUNT)]
CountOrZero = Annotated[int, Ge(0), Le(LARGEST_COUNT)]

checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
"""Decorator for `__init__`: an argument outside its annotation (`Annotated[float, Gt(0)]`), NaN or infinite
raises `pydantic.ValidationError`, a ValueError that names the argument, the value and what is allowed."""
