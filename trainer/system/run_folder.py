"""The folder of a run: whose it is, what is in it, and what of it may be removed again."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import yaml

from equipoise.trainer.system.lock import NAME as LOCK
from equipoise.trainer.system.lock import PATIENCE, FolderLock, LockedError

CHECKPOINTS = "checkpoints"
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
COMMANDS = "command.txt"
REPORT = "failure.txt"
_EVENTS = "events.out.tfevents.*"

Content = Literal["nothing", "unfinished", "run", "other files", "other files of our names"]

_expected: dict[Path, list[Path]] = {}


class FolderRemovedError(Exception):
    """The folder, or the lock in it, was removed while the run went on."""


def expect(path: Path) -> None:
    """Note which folders are missing on the way to `path`, which is about to be made for a run."""
    _expected[path.absolute()] = _missing(path.absolute())


def adopt(path: Path) -> None:
    """Note that the folder `path` was made for a run just now."""
    _expected[path.absolute()] = [path.absolute()]


class RunFolder:
    """A folder that is, or is to become, a run's. Makes nothing before `lock`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        absolute = self.path.absolute()
        self._made = _expected.pop(absolute) if absolute in _expected else _missing(absolute)
        """Folders that are made for this run, and so are its to remove; the innermost first."""
        self._lock: FolderLock | None = None
        self._removed = False

    @classmethod
    def fresh(cls, path: Path) -> RunFolder:
        """The folder `path`, or where that is taken `path-2`, `path-3`, …: no two runs get the same."""
        for folder in cls(path).numbered():
            folder.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.path.mkdir()
                break
        return folder

    def numbered(self) -> Iterator[RunFolder]:
        """This folder, then those of its name with -2, -3, … added."""
        yield self
        for number in itertools.count(2):
            yield RunFolder(self.path.with_name(f"{self.path.name}-{number}"))

    @contextmanager
    def lock(self, patience: bool = True) -> Iterator[None]:
        """Make the folder and be the only one who writes into it; what stayed empty is removed at the end.

        `patience`: give a process that has just been killed some seconds to let go.

        Raises:
            LockedError: somebody else is writing into it.
            OSError: it cannot be made or written to; the message names it.
        """
        if self._lock is not None:
            yield
            return
        try:
            with self._locked(patience) as self._lock:
                yield
        finally:
            self._lock = None
            self.discard()

    @contextmanager
    def _locked(self, patience: bool) -> Iterator[FolderLock]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            holding = FolderLock(self.path, PATIENCE if patience else 0.0)
        except OSError as error:
            raise OSError(f"cannot write to {self.path}: {error.strerror or error}") from error
        with holding:
            yield holding

    @property
    def is_ours(self) -> bool:
        """False where this process has been taken for dead, or the folder has been removed."""
        return self._lock is None or self._lock.is_held()

    def check(self) -> None:
        """See that the folder is still this run's alone.

        Raises:
            LockedError: another process has taken it over.
            FolderRemovedError: it was removed; raised once.
        """
        if self.is_ours or self._lock is None:
            return
        if self._lock.path.exists():
            raise LockedError(f"another process has taken over {self.path}: this one seemed to be dead")
        if not self._removed:
            self._removed = True
            raise FolderRemovedError(f"the run folder {self.path}, or {LOCK} in it, has been removed")

    @property
    def content(self) -> Content:
        """What is in it."""
        there = self._entries()
        if not there:
            return "nothing"
        ours = [path for path in there if path.name in (CHECKPOINTS, CONFIG, METRICS, SUMMARY)]
        if not ours:
            return "other files"
        if not is_run_config(self.path / CONFIG):
            return "other files of our names"
        return "run" if any((self.path / CHECKPOINTS).glob("*.pt")) else "unfinished"

    def set_aside(self, name: str, later: Sequence[Path]) -> Path:
        """Copy the run into a run folder `name` inside it, then remove the checkpoints `later`."""
        for number in itertools.count(1):
            copy = self.path / (name if number == 1 else f"{name}-{number}")
            if not copy.exists():
                break
        draft = copy.with_name(f".{copy.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        (draft / CHECKPOINTS).mkdir(parents=True)
        for pattern in (CONFIG, METRICS, "metrics.csv", COMMANDS, SUMMARY, REPORT, _EVENTS):
            for path in self.path.glob(pattern):
                shutil.copy2(path, draft)
        for path in (self.path / CHECKPOINTS).glob("*.pt"):
            _link_or_copy(path, draft / CHECKPOINTS / path.name)  # they are replaced, never written to
        draft.rename(copy)
        for path in later:
            path.unlink()
        return copy

    def _entries(self) -> list[Path]:
        """Without what a killed process may have left on the way to its first file."""
        if not self.path.is_dir():
            return []
        return [p for p in self.path.iterdir() if p.name != LOCK and not _is_draft(p) and not _is_empty(p)]

    def discard(self) -> None:
        """Remove the folders that were made for this run and are empty."""
        for path in self._made:
            if path == Path.cwd():
                return
            try:
                path.rmdir()
            except OSError:
                return


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder in whose `checkpoints/` a file lies; None where it lies elsewhere."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == CHECKPOINTS and is_run_config(folder.parent / CONFIG) else None


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run's."""
    return is_run_config(folder / CONFIG)


def is_run_config(path: Path) -> bool:
    """Whether a `config.yaml` is a run's, and not that of some other program."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(found, dict) and {"seed", "env", "policy", "optimizer", "trainer"} <= found.keys()


def _missing(path: Path) -> list[Path]:
    """`path` and its parents, as far as they are not there."""
    return [place for place in (path, *path.parents) if not place.exists()]


def _is_draft(path: Path) -> bool:
    return path.name.startswith(f".{LOCK}.") or (path.name.startswith(".") and path.name.endswith(".tmp"))


def _is_empty(path: Path) -> bool:
    return path.name == CHECKPOINTS and path.is_dir() and not any(path.iterdir())


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
