"""One writer at a time: a lock on a folder, on shared disks too, that ends with its holder however that ends.

The lock is a file that says who holds it. Whether the holder lives is told by, the surest first,

1. a POSIX record lock on the file, where the file system has such locks: the kernel drops it with the
   process, and a forked child does not inherit it, as it would `flock`'s;
2. on the holder's own machine, its process;
3. from another machine, the file's time, which the holder renews every few seconds.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = "run.lock"
HEARTBEAT = 5.0
"""Seconds between two renewals of the file's time."""
LEASE = 60.0
"""Seconds without a renewal after which another machine takes the holder for dead."""
BLINK = 1.0
"""Seconds after which a draft that does not say whose it is will not do so any more: its process was killed
between the making of the file and the first line."""
PATIENCE = 3.0
"""Seconds within which a process that has been killed must have let go."""

_held: set[Path] = set()
"""The locks of this process: a record lock does not keep a process from itself."""


class LockedError(Exception):
    """Another process writes into the folder; the message says which."""


class FolderLock:
    """The lock of `folder`, which must be there; held until `release`, or for a `with` block.

    `patience`: seconds to wait for one who holds it.

    Raises:
        LockedError: somebody else holds it who is alive, or may be.
        OSError: no file can be made in the folder.
    """

    def __init__(self, folder: Path, patience: float = PATIENCE) -> None:
        self.path = folder.resolve() / NAME
        if self.path in _held:
            raise LockedError(f"another run of this process is writing to {folder}")
        self._draft = self.path.with_name(f".{NAME}.{uuid.uuid4().hex}")
        self._file = os.open(self._draft, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.write(self._file, json.dumps(_identity()).encode())
            _record_lock(self._file)
            self._acquire(patience)
            self._sweep()
        except BaseException:
            os.close(self._file)
            raise
        finally:
            self._draft.unlink(missing_ok=True)
        _held.add(self.path)
        self._released = threading.Event()
        threading.Thread(target=self._renew, name=NAME, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def is_held(self) -> bool:
        """False where this process has been taken for dead, or the folder has been removed."""
        return _is_at(self._file, self.path)

    def release(self) -> None:
        self._released.set()
        _held.discard(self.path)
        if self.is_held():
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._file)

    def _renew(self) -> None:
        while not self._released.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def _acquire(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while not self._publish():
            try:
                other = os.open(self.path, os.O_RDWR)
            except FileNotFoundError:  # released in this moment
                continue
            try:
                if self._is_free(other) and _record_lock(other) is not False and _is_at(other, self.path):
                    self._draft.replace(self.path)
                    return
                if time.monotonic() >= deadline:
                    raise LockedError(f"{_holder(other)} is writing to {self.path.parent}")
            finally:
                os.close(other)
            time.sleep(0.1)

    def _sweep(self) -> None:
        """Remove the drafts of processes that were killed at this point."""
        for draft in self.path.parent.glob(f".{NAME}.*"):
            if draft == self._draft:
                continue
            there = _read_at(draft)
            if _has_ended(there) or self._now() - _modified(draft) > (LEASE if there else BLINK):
                draft.unlink(missing_ok=True)

    def _now(self) -> float:
        """By the clock of the file server. Not by opening the file: closing it would drop the record lock."""
        os.utime(self._file)
        return os.fstat(self._file).st_mtime

    def _publish(self) -> bool:
        """Put the lock into its place, if there is none: a hard link is atomic on every file system."""
        try:
            os.link(self._draft, self.path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP):
                raise
            if self.path.exists():  # without links there is only this, which two might do at once
                return False
            self._draft.replace(self.path)
        return True

    def _is_free(self, other: int) -> bool:
        """Whether the holder of the lock file `other` is dead. For one on another machine that takes time."""
        unlocked = _record_lock(other)
        if unlocked is False:
            return False
        there = _read(other)
        if unlocked and there.get("boot") == _identity()["boot"]:
            return True
        ended = _has_ended(there)
        return self._has_expired(other) if ended is None else ended

    def _has_expired(self, other: int) -> bool:
        """Whether the lock is not renewed any more; by the clock of the file server alone."""
        first, told = _modified(self.path), False
        while True:
            renewed = _modified(self.path)
            if renewed != first or not _is_at(other, self.path):
                return False
            if self._now() - renewed > LEASE:
                return True
            if not told:
                told = True
                wait = f"waiting up to {LEASE:.0f} s for a sign of life"
                print(f"{self.path} is held by {_holder(other)}: {wait}", file=sys.stderr)
            time.sleep(0.5)


def take_away(folder: Path) -> None:
    """End the lock of a holder that lives but does nothing; it notices when it next looks (`is_held`)."""
    (folder / NAME).unlink(missing_ok=True)


def _identity() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "started": _started(os.getpid()),
        "boot": _first_line("/proc/sys/kernel/random/boot_id") or socket.gethostname(),
        "pids": _link("/proc/self/ns/pid"),
    }


def _has_ended(there: dict[str, Any]) -> bool | None:
    """Whether a process of this identity is gone; None: not to be seen from here, as of another machine."""
    here = _identity()
    if any(there.get(key) != here[key] for key in ("boot", "pids")):
        return None
    return _started(there.get("pid", 0)) != there.get("started")


def _holder(file: int) -> str:
    holder = _read(file)
    if not holder:
        return "another process"
    return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"


def _read(file: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) and {"pid", "host", "since"} <= found.keys() else {}


def _read_at(path: Path) -> dict[str, Any]:
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return {}
    try:
        return _read(file)
    finally:
        os.close(file)


def _started(pid: int) -> str | None:
    """When process `pid` began, as the kernel counts; None: it is not there, or nobody says."""
    stat = _first_line(f"/proc/{pid}/stat")
    if stat is not None:
        state, *rest = stat.rpartition(")")[2].split()
        return None if state == "Z" else rest[18]
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "unknown"
    except OSError:
        return None
    return "unknown"


def _record_lock(file: int) -> bool | None:
    """Whether this process now has the record lock; None where there are no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _modified(path: Path) -> float:
    """The file's time, 0 where there is none. It is opened because NFS may answer `stat` from its cache."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0.0


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text().partition("\n")[0]
    except OSError:
        return None


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
