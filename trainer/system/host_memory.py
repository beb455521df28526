"""Freed memory of the host stays with the process."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, up to 1 GiB, for the next request; whether it does.

    By itself it hands blocks of some megabytes back to the system as soon as they are free, and takes them
    again, page by page, for the next minibatch's activations: tens of thousands of page faults an iteration.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:  # musl has no such setting
        return False
    return all(mallopt(option, _KEPT_BYTES) for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
