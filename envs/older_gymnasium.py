"""What Gymnasium 0.29 lacks: many published environments insist on it, and pip installs it for them."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

try:
    from gymnasium.spaces import OneOf as OneOfSpace
except ImportError:

    class OneOfSpace(spaces.Space[Any]):  # type: ignore[no-redef]
        """No environment of Gymnasium 0.29 has one."""


__all__ = ["OneOfSpace"]
