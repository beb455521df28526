"""SIGINT, SIGTERM and SIGHUP end a run after the iteration at hand; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

ECHO = 5.0
"""Seconds: a signal to all processes of a job (of SLURM, say) comes again, passed on by `torchrun`."""

_NUMBERS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interrupted(KeyboardInterrupt):
    """Raised where a signal ends what is being done at once."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"interrupted by {number.name}")
        self.signal = number


class Interruption:
    """A context in which the first signal is noted in `signal` and a second one raises `Interrupted`.

    A signal that is ignored stays so: `nohup` ignores SIGHUP, and shells SIGINT for what they start in the
    background. Outside the main thread, where Python allows no handlers, signals keep their meaning.

    Args:
        echo: seconds in which further signals are taken for the first one.
    """

    def __init__(self, echo: float = 0.0) -> None:
        self.signal: signal.Signals | None = None
        self._echo, self._noted = echo, 0.0
        self._at_once = False
        self._previous: dict[signal.Signals, signal._HANDLER] = {}
        self._replaced: dict[str, None] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @staticmethod
    @contextmanager
    def keeping_handlers() -> Iterator[None]:
        """Afterwards the handlers are as before: an environment that ignores a signal when it is made must
        not look like `nohup`."""
        before = {number: signal.getsignal(number) for number in _NUMBERS}
        try:
            yield
        finally:
            for number, handler in before.items():
                replaced = handler is not None and signal.getsignal(number) != handler  # None: not Python's
                if replaced and threading.current_thread() is threading.main_thread():
                    signal.signal(number, handler)

    def rearm(self) -> list[str]:
        """Put the handlers back that other code (of an environment) has replaced; returns the signals of
        which it ever has."""
        for number in self._previous:
            if signal.getsignal(number) != self._note:
                signal.signal(number, self._note)
                self._replaced[number.name] = None
        return list(self._replaced)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, the first signal raises `Interrupted` too: for what may be left undone at any point."""
        try:
            self._at_once = True
            if self.signal is not None:  # it came on the way here
                raise Interrupted(self.signal)
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._noted = signal.Signals(number), time.monotonic()
            if not self._at_once:
                return
        elif time.monotonic() - self._noted < self._echo:
            return
        raise Interrupted(signal.Signals(number))
