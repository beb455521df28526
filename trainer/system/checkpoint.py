"""Checkpoints: one file each, written whole or not at all, and read only if every byte is as it was written.

The file is what `torch.save` writes (a zip archive), with the SHA-256 of everything before it as the
archive's comment. `torch.load` verifies no checksum, and the archive's own (`zipfile.testzip`) cover the
data of its members but not their headers, where one flipped bit can turn a tensor into uninitialised
memory without an error. The digest covers both, and any other zip tool still opens the file.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.trainer.system.files import replace_file

FORMAT = "equipoise-checkpoint"
VERSION = 2
"""1 is that of release 0.1.0, whose classes and keys had other names."""

_SEAL = b"sha256:"
_SEAL_LENGTH = len(_SEAL) + 64
_PLAIN = (type(None), bool, int, float, str, bytes)


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read; the message says which, why and what to do."""


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write `state`, which may hold tensors, dicts, lists, tuples and plain values, nothing else.

    Tensors are stored from the CPU, so that a checkpoint of a GPU run loads anywhere. Raises
    `CheckpointError` where the file cannot be written (the earlier one then stays as it was) and
    `TypeError`, naming the place, for a value that a checkpoint cannot hold.
    """
    path = Path(path)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, "state": plain(state, "state")}, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, _seal(buffer.getvalue()))
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(
            f"could not write the checkpoint {path}: {reason}; an earlier file of that name is unchanged"
        ) from error


def load(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The state that `save` was given, its tensors on `device`. Raises `CheckpointError`.

    Reading it runs no code that is in it: it is unpickled with `weights_only=True`. What the configuration
    among its values may name is for `trainer.configuration.imports` to judge.
    """
    path = Path(path)
    content = _read(path)
    try:
        document = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # the digest is right, so somebody made this file: anything may be in it
        raise CheckpointError(
            f"{path} holds something other than tensors and plain values and was not loaded; "
            f"use a checkpoint that the trainer wrote"
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of this trainer; use one from a run's checkpoints/"
        )
    version = document.get("version")
    if version == 1:
        raise CheckpointError(
            f"{path} was written by release 0.1.0, whose classes and configuration keys had other names: "
            "load it with that release, or train anew"
        )
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {version}, this trainer reads up to {VERSION}; "
            f"load it with the release that wrote it or a newer one"
        )
    state: dict[str, Any] = document["state"]
    return state


class Checkpoints:
    """The checkpoints of one run: `last.pt`, `best.pt` and, if asked for, `iteration_00000100.pt`, ….

    `keep_every`: iterations between two numbered checkpoints, 0 for none. `keep_max`: how many numbered
    ones stay; the one written longest ago goes first.
    """

    def __init__(self, folder: str | Path, keep_every: int = 0, keep_max: int = 3) -> None:
        if keep_every < 0:
            raise ValueError(f"keep_every is {keep_every}; it must be 0 (no numbered checkpoints) or more")
        if keep_max < 1:
            raise ValueError(f"keep_max is {keep_max}; it must be 1 or more")
        self.folder = Path(folder)
        self.keep_every = keep_every
        self.keep_max = keep_max

    @property
    def last_path(self) -> Path:
        return self.folder / "last.pt"

    @property
    def best_path(self) -> Path:
        return self.folder / "best.pt"

    def last(self, state: Mapping[str, Any], iteration: int) -> None:
        """Write `last.pt` and, where another `keep_every` iterations are full, a numbered one.

        `iteration`: how many iterations are done in `state`.
        """
        save(self.last_path, state)
        if (
            self.keep_every
            and iteration // self.keep_every > self._number_before(iteration) // self.keep_every
        ):
            save(self.folder / f"iteration_{iteration:08d}.pt", state)
            for path in self._numbered()[: -self.keep_max]:
                path.unlink()

    def best(self, state: Mapping[str, Any]) -> None:
        """Write `best.pt`."""
        save(self.best_path, state)

    def later_than(self, iteration: int) -> tuple[int, list[Path]]:
        """Where `last.pt` is, and the checkpoints after `iteration`; none if `last.pt` is not after it."""
        reached = _iteration(self.last_path)
        if reached <= iteration:
            return reached, []
        later = [path for path in (self.best_path, *self._numbered()) if _iteration(path) > iteration]
        return reached, [*later, self.last_path]

    def _numbered(self) -> list[Path]:
        """The numbered checkpoints, the one written longest ago first."""
        return sorted(
            self.folder.glob("iteration_*.pt"), key=lambda path: (path.stat().st_mtime_ns, path.name)
        )

    def _number_before(self, iteration: int) -> int:
        """The highest one below `iteration`: a run resumed from an earlier state writes later ones anew."""
        numbers = [
            int(match[1]) for path in self._numbered() if (match := re.search(r"_(\d+)\.pt$", path.name))
        ]
        return max((number for number in numbers if number < iteration), default=0)


def _iteration(path: Path) -> int:
    """After how many iterations a checkpoint was written; 0 for one that is not there or not whole."""
    try:
        return int(load(path).get("iteration", 0))
    except CheckpointError:
        return 0


class Found(NamedTuple):
    """The checkpoint to resume from."""

    path: Path
    state: dict[str, Any]
    notice: str | None
    """What the user should know: set where `last.pt` was damaged and an older checkpoint stands in."""

    @property
    def config(self) -> dict[str, Any]:
        """Of the run that wrote it. Raises `CheckpointError` where there is none."""
        config = self.state.get("config") if isinstance(self.state, dict) else None
        if not isinstance(config, dict):
            raise CheckpointError(f"{self.path} holds no configuration: no run of this trainer wrote it")
        return config


def newest(location: str | Path, device: str | torch.device = "cpu") -> Found:
    """The newest whole checkpoint of a run folder (or of its `checkpoints/`), or the very file named.

    `last.pt` comes first, then the others from the newest to the oldest. Raises `CheckpointError` where
    there is none, or where the file named is damaged.
    """
    location = Path(location)
    if not location.is_dir():
        return Found(location, load(location, device), None)
    folder = location / "checkpoints" if (location / "checkpoints").is_dir() else location
    paths = sorted(
        folder.glob("*.pt"), key=lambda path: (path.name == "last.pt", path.stat().st_mtime_ns), reverse=True
    )
    if not paths:
        if (location / "model.safetensors").exists():
            raise CheckpointError(f"{location}: config.json, which belongs to model.safetensors, is missing")
        raise CheckpointError(
            f"{location} has no checkpoint: the run ended before its first one, so start it again "
            f"(resume=auto hydra.run.dir={location}, with its settings)"
        )
    problems: list[str] = []
    for path in paths:
        try:
            state = load(path, device)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            notice = f"using {path} instead, because {'; '.join(problems)}" if problems else None
            return Found(path, state, notice)
    raise CheckpointError(f"{location} has no usable checkpoint: {'; '.join(problems)}")


def plain(value: Any, where: str) -> Any:
    """A copy of `value`, its tensors on the CPU, that `weights_only=True` will load again.

    Raises `TypeError`, naming the place that begins with `where`, for what it would not load.
    """
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        # A view would take its whole storage into the file.
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if whole else tensor.clone()
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in _PLAIN:
                raise TypeError(
                    f"a checkpoint cannot hold {where}'s key {key!r} of type {type(key).__name__}"
                )
        return {key: plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(item, f"{where}[{index}]") for index, item in enumerate(value))
    if type(value) in _PLAIN:  # not isinstance: numpy.float64 is a float, but pickles as numpy's own
        return value
    raise TypeError(
        f"a checkpoint cannot hold {where} of type {type(value).__name__}: "
        f"only tensors, dicts, lists, tuples, numbers, strings, bytes and None"
    )


def _seal(archive: bytes) -> bytes:
    """`archive` with its SHA-256 as zip comment; the archive ends in the length of an empty comment."""
    body = archive[:-2] + struct.pack("<H", _SEAL_LENGTH)
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode()


def _read(path: Path) -> bytes:
    """The bytes of a checkpoint whose digest is right."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; give a run folder or a file in its checkpoints/"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if not content:
        raise CheckpointError(f"{path} is empty; use another checkpoint of the run")
    body, seal = content[:-_SEAL_LENGTH], content[-_SEAL_LENGTH:]
    if seal == _SEAL + hashlib.sha256(body).hexdigest().encode():
        return content
    if not content.startswith(b"PK"):
        raise CheckpointError(
            f"{path} is not a checkpoint (not even a zip archive); give one the trainer wrote"
        )
    if zipfile.is_zipfile(io.BytesIO(content)) and not seal.startswith(_SEAL):
        raise CheckpointError(
            f"{path} is a zip archive without this trainer's checksum; give a checkpoint the trainer wrote"
        )
    raise CheckpointError(
        f"{path} is damaged (cut off or changed: its checksum is wrong); use another checkpoint of the run"
    )
