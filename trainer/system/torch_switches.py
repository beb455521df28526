"""PyTorch's process-wide switches, which code of an environment may flip: put back, and named once.

An environment that runs networks of its own may switch gradients off, or compute in float64, for the whole
process; the trainer would then learn nothing, or fail somewhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

_remarks: list[str] = []


class _Switch(NamedTuple):
    name: str
    get: Callable[[], Any]
    set: Callable[[Any], object]


_SWITCHES = (
    _Switch("torch.set_grad_enabled", torch.is_grad_enabled, torch.set_grad_enabled),
    _Switch("torch.set_default_dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Switch("torch.set_num_threads", torch.get_num_threads, torch.set_num_threads),
    _Switch(
        "torch.use_deterministic_algorithms",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
)

State = tuple[Any, ...]
NEEDED: dict[str, Any] = {"torch.set_grad_enabled": True, "torch.set_default_dtype": torch.float32}
"""What the trainer cannot do without."""


def state() -> State:
    return tuple(switch.get() for switch in _SWITCHES)


def restore(before: State) -> list[str]:
    """Put all switches back as they were; returns the calls that had changed them."""
    changed = []
    for switch, value in zip(_SWITCHES, before, strict=True):
        if (found := switch.get()) != value:
            switch.set(value)
            changed.append(f"{switch.name}({found})")
    return changed


@contextmanager
def kept(who: str) -> Iterator[None]:
    """Inside, `who` may change the switches: afterwards they are as before, and a remark says so."""
    before = state()
    try:
        yield
    finally:
        for call in restore(before):
            _remarks.append(f"{who} has called {call}, for the whole process; this was undone")


def require() -> None:
    """Set what the trainer cannot do without, whoever changed it: a module that was imported, say."""
    for switch in _SWITCHES:
        value = NEEDED.get(switch.name)
        if value is not None and (found := switch.get()) != value:
            switch.set(value)
            _remarks.append(f"{switch.name}({found}) was in force; training takes place with {value}")


def take_remarks() -> list[str]:
    """Lines for the terminal; none that have been taken before."""
    new = list(dict.fromkeys(_remarks))
    _remarks.clear()
    return new
