"""Files that survive a crash, a power cut and a full disk: whole, or with nothing torn and nothing lost."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def unwritable(path: Path) -> str | None:
    """Why no file could be put at `path`, its folders made first; None: nothing speaks against it."""
    try:
        if path.is_dir():
            return "is a folder"
    except OSError as error:
        return _reason(error)
    return unwritable_folder(path.parent)


def unwritable_folder(path: Path) -> str | None:
    """Why no file could be put into the folder `path`, made first where it is not there."""
    try:
        there = next(place for place in (path, *path.parents) if place.exists())
    except OSError as error:
        return _reason(error)
    # Tried, not asked: the administrator may write everywhere, but not everywhere are files to be had.
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=there):
        return None
    return f"{there} is no folder that can be written to"


def _reason(error: OSError) -> str:
    """Of what cannot even be looked at: a name that is too long."""
    return (error.strerror or str(error)).lower()


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step: temporary file beside it, fsync, rename, fsync of the folder.

    Raises `OSError` (disk full, no permission) with the earlier file untouched and nothing left behind.
    """
    # One fixed name, so that what a `kill -9` leaves behind is overwritten by the next save, not collected.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class AppendFile:
    """A file that only grows. What the disk has no room for waits in memory, and goes first next time.

    `append`: keep what the file holds; else it is emptied.
    """

    def __init__(self, path: Path, append: bool = False) -> None:
        self._file = path.open("ab" if append else "wb", buffering=0)
        self._waiting = bytearray()

    def write(self, content: bytes) -> None:
        """Add `content`, in memory; never fails."""
        self._waiting += content

    def flush(self) -> None:
        """Hand everything to the operating system. Raises `OSError`; nothing is lost by it."""
        while self._waiting:
            del self._waiting[: self._file.write(self._waiting)]

    def sync(self) -> None:
        """Wait until everything is on the disk. Raises `OSError`."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what can still be written; to hear of what can not, flush first."""
        with contextlib.suppress(OSError):
            self.flush()
        self._file.close()
