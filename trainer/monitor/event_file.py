"""TensorBoard's event files: written record by record, and cut where a resumed run goes on.

TensorBoard's own writer ends its thread with a traceback when the disk is full, and cannot recover.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from equipoise.trainer.system.files import AppendFile

_OURS = re.compile(r"events\.out\.tfevents\.\d{10}\.\d{9}\..+")
"""Names of our event files. Other programs write no nanoseconds into theirs."""
_LENGTH = struct.Struct("<Q")
_HEADER, _FOOTER = _LENGTH.size + 4, 4  # each ends in a checksum


def cut_event_files(folder: Path, env_steps: int) -> set[str]:
    """Remove from the event files of a run whatever was written after its checkpoint at `env_steps`.

    A resumed run writes those steps again. TensorBoard has no reliable way to be told so: of the marks in
    the files its two loaders each ignore some. At 0, a run that starts again, all event files are removed.
    Returns the tags of the scalars that stay.
    """
    reached, tags = env_steps == 0, set[str]()
    for path in sorted(path for path in folder.glob("events.out.tfevents.*") if _OURS.fullmatch(path.name)):
        length = 0
        if not reached:
            length, reached, found = _find_cut(path, env_steps)
            tags |= found
        if length:
            os.truncate(path, length)
        else:
            path.unlink()
    return tags


def _find_cut(path: Path, env_steps: int) -> tuple[int, bool, set[str]]:
    """The bytes of the file to keep, 0 if they hold no scalar, whether everything after them goes, and the
    tags of the scalars in them.

    The checkpoint follows the scalars of its iteration. What has the same step and comes later (the closing
    evaluation's film and results) does not belong to it.
    """
    length, tags = 0, set[str]()
    for end, event in _read_events(path):
        if event.step > env_steps:
            return length if tags else 0, True, tags
        scalars = {value.tag for value in event.summary.value if value.HasField("simple_value")}
        tags |= scalars
        length = end
        if scalars and event.step == env_steps:
            return length, True, tags
    return length if tags else 0, False, tags


def _read_events(path: Path) -> Iterator[tuple[int, Event]]:
    """The whole records of an event file, each with the position of its end, up to the first torn one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while len(header := file.read(_HEADER)) == _HEADER:
            (length,) = _LENGTH.unpack_from(header)
            end = file.tell() + length + _FOOTER
            if end > size:
                return
            try:
                event = Event.FromString(file.read(length))
            except DecodeError:
                return
            file.seek(end)
            yield end, event


class EventFile:
    """A new file in `folder`; TensorBoard reads the files of a folder in the order of their names."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        seconds, rest = divmod(time.time_ns(), 1_000_000_000)
        # To the nanosecond: a run that is resumed within the same second must still come second.
        name = f"events.out.tfevents.{seconds:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendFile(folder / name)
        self._records = RecordWriter(self._file)
        # The checksum takes plain Python a quarter of a microsecond a byte: a millisecond an iteration.
        self._thread = ThreadPoolExecutor(1, "tensorboard")
        self.add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.flush()

    def add(self, event: Event) -> None:
        self._last = self._thread.submit(self._records.write, event.SerializeToString())

    def flush(self) -> None:
        """Hand everything to the operating system. Raises `OSError`; what could not be written is kept."""
        self._last.result()
        self._file.flush()

    def close(self) -> None:
        """Write what can still be written, without errors; `flush` first to see them."""
        self._thread.shutdown()
        self._file.close()
