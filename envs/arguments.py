"""Checks what an environment or a stage is constructed with, from a configuration or from Python."""

from __future__ import annotations

from pydantic import ConfigDict, validate_call

checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
"""Decorator for `__init__`: an argument outside its annotation (`Annotated[float, Gt(0)]`), NaN or infinite
raises `pydantic.ValidationError`, a ValueError that names the argument, the value and what is allowed."""
