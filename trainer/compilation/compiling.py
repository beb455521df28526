"""What `trainer.compile` has achieved, for the terminal and the summary."""

from __future__ import annotations

from typing import Any

from equipoise.trainer.system import distributed


class Compiling:
    """Of one piece of work: how long it took, or why it is not done (any more).

    Args:
        setting: of `trainer.compile`.
        what: is compiled.
        notice: why it is not done, where that is known beforehand.
    """

    def __init__(self, setting: str, what: str, notice: str | None = None) -> None:
        self._setting, self._what = setting, what
        self.seconds = 0.0
        """What it has taken so far."""
        self.notice = notice
        """Why it is not done, or no more; None: nothing is wrong."""
        self._told: tuple[float, str | None] = (0.0, None)

    def took(self, seconds: float) -> None:
        self.seconds += seconds

    def fail(self, error: Exception) -> None:
        lines = [line for line in str(error).splitlines() if line.strip()] or ["no message"]
        # A compiler's own words come after its command line and the names of its files.
        said = [line.partition("error: ")[2] for line in lines if " error: " in line]
        self.notice = ": ".join([type(error).__name__, lines[0], *said[:1]])

    def news(self) -> str | None:
        """A line for the terminal if something has changed since the last call."""
        told, self._told = self._told, (self.seconds, self.notice)
        if told == self._told:
            return None
        return str(self) if self.notice is None else f"WARNING: trainer.compile = {self._setting}: {self}"

    def __str__(self) -> str:
        if self.notice is not None:
            return f"{self._what}: not compiled: {self.notice}"
        return f"compiled {self._what} in {self.seconds:.1f} s"


class DifferenceError(RuntimeError):
    """What is compiled did something else than an ordinary call, whose `result` is at hand."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


def several_processes() -> str | None:
    """The reason for which nothing is compiled where there are several: their collective operations."""
    return "there are several processes" if distributed.world_size() > 1 else None
