"""stdout and stderr that end no run: closed, unable to say a character, a broken pipe, a full disk."""

from __future__ import annotations

import codecs
import contextlib
import errno
import faulthandler
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_PLAIN = {"→": "->", "·": "-", "±": "+/-", "≥": ">=", "≤": "<=", "–": "-", "×": "x", "…": "...", "σ": "sigma"}
_STDERR = 2
_MOST_WAITING = 2**20
"""Bytes that wait for room on the disk; what comes later is lost."""


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Inside, whatever is wrong with stdout and stderr costs output and nothing else.

    Streams that are no files of the system (a notebook's, a test's) stay as they are. A crash of the whole
    process, in a simulator's C++ say, tells where it was: it would say nothing at all.
    """
    _occupy_descriptors()
    quiet = not faulthandler.is_enabled()
    if quiet:
        faulthandler.enable(_STDERR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before
        if quiet:
            faulthandler.disable()


def _occupy_descriptors() -> None:
    """Keep the next file that is opened from becoming stdout, into which any library may write."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _lasting(stream: TextIO | None) -> TextIO:
    if stream is None:  # Python was started with it closed
        return _text(_Silence(), "utf-8")
    try:
        number = stream.fileno()
        stream.flush()
    except (OSError, ValueError):
        return stream
    return _text(_LastingFile(number), getattr(stream, "encoding", None) or "utf-8")


def _text(file: Any, encoding: str) -> TextIO:
    return io.TextIOWrapper(file, encoding, _ERRORS, line_buffering=True, write_through=True)


class _Silence(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        return len(content)


class _LastingFile(io.RawIOBase):
    """A file descriptor that is not closed with this object. What a full disk has no room for comes later."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting = bytearray()
        self._lost = False

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        if not self._lost and len(self._waiting) < _MOST_WAITING:
            self._waiting += content
        self.flush()
        return len(content)

    def flush(self) -> None:
        try:
            while self._waiting and not self._lost:
                del self._waiting[: os.write(self._number, self._waiting)]
        except OSError as error:  # full, which may pass, or nobody reads any more
            self._lost = error.errno in (errno.EPIPE, errno.EBADF)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    said = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, c.encode("ascii", "backslashreplace").decode()) for c in said), error.end


_ERRORS = "equipoise.plain"
codecs.register_error(_ERRORS, _plain)
