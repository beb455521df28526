"""Closes one environment of several in a process: the `close` of many ends pygame, which all share."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gymnasium

_open: weakref.WeakValueDictionary[int, gymnasium.Env[Any, Any]] = weakref.WeakValueDictionary()
"""By identity: an environment may define what equals it."""


def opened(env: gymnasium.Env[Any, Any]) -> None:
    """`env` has been made in this process."""
    _open[id(env.unwrapped)] = env.unwrapped


def close(env: gymnasium.Env[Any, Any]) -> None:
    """`env.close()`, whatever it raises; pygame goes on while other environments of this process are open."""
    _open.pop(id(env.unwrapped), None)
    with ExitStack() as stack:
        if _open:
            stack.enter_context(_pygame_goes_on())
        env.close()


@contextmanager
def _pygame_goes_on() -> Iterator[None]:
    pygame: Any = sys.modules.get("pygame")
    places: list[Any] = [p for p in (pygame, getattr(pygame, "display", None)) if hasattr(p, "quit")]
    with ExitStack() as stack:
        for place in places:
            stack.callback(setattr, place, "quit", place.quit)
            place.quit = lambda: None
        yield
