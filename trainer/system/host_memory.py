"""The host's memory: what of it may still be taken, and that what is freed stays with the process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

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


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that a process may still take before the system ends one, swap included; None if it does not say.

    `root`: of the file system in which the system's own files are. See `proc(5)` and `cgroups(7)`.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        free = (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0)) * 1024
    except (OSError, ValueError, IndexError, KeyError):
        return None
    return min([free, *_left_to_groups(root)])


def _left_to_groups(root: Path) -> Iterator[int]:
    """Of each control group that limits this process, of version 2 or 1; files kept in memory can go."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for controllers, path in (line.split(":", 2)[1:] for line in groups if line.count(":") >= 2):
        if controllers not in ("", "memory"):
            continue
        names = ("memory.max", "memory.current", "inactive_file")
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        mount = root / "sys/fs/cgroup" / controllers
        # In a container the path is often that outside of it, and the mount is the group itself.
        for folder in {mount / path.strip("/"), mount}:
            try:
                limit, used = (int((folder / name).read_text()) for name in names[:2])  # "max": no limit
                told = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield max(limit - used + int(told.get(names[2], 0)), 0)
            except (OSError, ValueError):
                continue
