"""TensorBoard's event file: one record after another, checksums made by a thread.

TensorBoard's own writer ends its thread with a traceback when the disk is full, and cannot go on after it.
"""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from equipoise.trainer.system.files import AppendFile


class EventFile:
    """A new file in `folder`; TensorBoard reads those of a folder in the order of their names."""

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
        """Hand everything so far to the operating system. Raises `OSError`; nothing is lost by it."""
        self._last.result()
        self._file.flush()

    def close(self) -> None:
        """Write what can still be written; to hear of what can not, flush first."""
        self._thread.shutdown()
        self._file.close()
