"""Checkpoints: whole or refused, whatever happens to the file."""

from __future__ import annotations

import errno
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.trainer.system.checkpoint import (
    FORMAT,
    VERSION,
    CheckpointError,
    Checkpoints,
    _seal,
    load,
    newest,
    save,
)


def example_state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    return {
        "iteration": 7,
        "policy": OrderedDict(weight=torch.randn(16, 8, generator=generator), bias=torch.arange(8)),
        "normalizer": {"count": 1e-300, "seen": (True, None, "name", b"bytes"), 3: [torch.tensor(2.5)]},
        "rng": generator.get_state(),
    }


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return (
            isinstance(right, dict)
            and list(left) == list(right)
            and all(same(left[k], right[k]) for k in left)
        )
    if isinstance(left, (list, tuple)):
        return (
            type(left) is type(right)
            and len(left) == len(right)
            and all(same(a, b) for a, b in zip(left, right, strict=True))
        )
    return type(left) is type(right) and bool(left == right)


def test_what_is_saved_comes_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.pt"
    save(path, example_state())
    assert same({**example_state(), "policy": dict(example_state()["policy"])}, load(path))
    assert sorted(os.listdir(path.parent)) == ["last.pt"]


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save(path, example_state())
    content = path.read_bytes()
    for percent in range(100):
        path.write_bytes(content[: len(content) * percent // 100])
        with pytest.raises(CheckpointError, match=r"last\.pt"):
            load(path)


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save(path, example_state())
    content = path.read_bytes()
    dice = random.Random(0)
    for position in dice.sample(range(8 * len(content)), 200):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"last\.pt"):
            load(path)


def test_a_flipped_bit_in_the_headers_passes_the_archives_own_checks(tmp_path: Path) -> None:
    """Why there is a digest: `testzip` finds nothing wrong where a header has changed."""
    path = tmp_path / "last.pt"
    save(path, example_state())
    flipped = bytearray(path.read_bytes())
    # The central directory's entry of the first member: bit 4 of its external attributes says "a folder".
    flipped[flipped.index(b"PK\x01\x02") + 38] ^= 0x10
    path.write_bytes(flipped)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    with pytest.raises(CheckpointError, match="damaged"):
        load(path)


def test_other_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    with pytest.raises(CheckpointError, match="does not exist"):
        load(path)
    path.touch()
    with pytest.raises(CheckpointError, match="is empty"):
        load(path)
    path.write_bytes(b"\x89PNG another program's file" * 10)
    with pytest.raises(CheckpointError, match="not even a zip"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "dear reader" * 20)
    with pytest.raises(CheckpointError, match="without this trainer's checksum"):
        load(path)
    torch.save({"model": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match="without this trainer's checksum"):
        load(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path)


def write_sealed(path: Path, document: object) -> None:
    """A file whose digest is right, as somebody could make one who means harm."""
    torch.save(document, path)
    path.write_bytes(_seal(path.read_bytes()))


def test_a_foreign_document_and_a_future_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    write_sealed(path, {"format": "other", "version": 1, "state": {}})
    with pytest.raises(CheckpointError, match="not a checkpoint of this trainer"):
        load(path)
    write_sealed(path, {"format": FORMAT, "version": 1, "state": {}})
    with pytest.raises(CheckpointError, match=r"written by release 0\.1\.0, whose classes"):
        load(path)
    write_sealed(path, {"format": FORMAT, "version": VERSION + 1, "state": {}})
    with pytest.raises(CheckpointError, match=f"version {VERSION + 1}, this trainer reads up to {VERSION}"):
        load(path)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


def test_a_malicious_pickle_is_not_executed(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.is_dir()  # the payload works where pickle is trusted
    target.rmdir()
    path = tmp_path / "last.pt"
    write_sealed(path, {"format": FORMAT, "version": VERSION, "state": Payload(target)})
    with pytest.raises(CheckpointError, match="other than tensors and plain values"):
        load(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [0, np.float64(1.0)]}, r"state\['x'\]\['a'\]\[1\] of type float64"),
        (np.zeros(2), r"state\['x'\] of type ndarray"),
        ({(1, 2): 0}, r"state\['x'\]'s key \(1, 2\)"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, value: object, where: str) -> None:
    with pytest.raises(TypeError, match=where):
        save(tmp_path / "last.pt", {"x": value})
    assert not list(tmp_path.iterdir())


def test_a_view_does_not_take_its_whole_storage_along(tmp_path: Path) -> None:
    save(tmp_path / "view.pt", {"x": torch.zeros(1_000_000)[:10]})
    assert (tmp_path / "view.pt").stat().st_size < 10_000


@pytest.mark.parametrize(("target", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_full_disk_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: object, name: str
) -> None:
    path = tmp_path / "last.pt"
    save(path, {"iteration": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(target, name, full)
        with pytest.raises(CheckpointError, match=r"last\.pt: No space left on device"):
            save(path, {"iteration": 2})
    assert load(path) == {"iteration": 1}
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_really_full_device(tmp_path: Path) -> None:
    save(tmp_path / "last.pt", {"iteration": 1})
    (tmp_path / ".last.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(tmp_path / "last.pt", {"iteration": 2})
    assert load(tmp_path / "last.pt") == {"iteration": 1}
    assert os.listdir(tmp_path) == ["last.pt"]


def test_numbered_checkpoints_come_every_so_often_and_the_oldest_go(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_every=10, keep_max=2)
    for iteration in (4, 9, 12, 16, 20, 27, 31):  # tens are full at 12, 20 and 31
        checkpoints.last({"iteration": iteration}, iteration)
    checkpoints.best({"iteration": 16})
    names = ["best.pt", "iteration_00000020.pt", "iteration_00000031.pt", "last.pt"]
    assert sorted(os.listdir(tmp_path)) == names
    assert [load(tmp_path / name)["iteration"] for name in names] == [16, 20, 31, 31]


def test_a_run_resumed_from_an_earlier_state_writes_its_own_numbered_checkpoints(tmp_path: Path) -> None:
    for iteration in (10, 20, 30):
        Checkpoints(tmp_path, keep_every=10).last({"branch": 1}, iteration)
    Checkpoints(tmp_path, keep_every=10).last({"branch": 2}, 20)  # resumed at 10
    Checkpoints(tmp_path, keep_every=10).last({"branch": 2}, 30)
    branches = [load(tmp_path / f"iteration_000000{number}.pt")["branch"] for number in (10, 20, 30)]
    assert branches == [1, 2, 2]


def test_without_keep_every_there_is_only_the_last(tmp_path: Path) -> None:
    Checkpoints(tmp_path).last({}, 1000)
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize(("name", "value"), [("keep_every", -1), ("keep_max", 0)])
def test_retention_out_of_range_is_refused(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Checkpoints(tmp_path, **{name: value})


def test_newest_takes_last_and_falls_back_with_a_notice(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for time, name in enumerate(("iteration_00000010.pt", "best.pt", "last.pt")):
        save(folder / name, {"name": name})
        os.utime(folder / name, (time, time))
    found = newest(tmp_path)
    assert (found.path.name, found.state, found.notice) == ("last.pt", {"name": "last.pt"}, None)

    (folder / "last.pt").write_bytes((folder / "last.pt").read_bytes()[:-100])
    found = newest(tmp_path)
    assert found.path.name == "best.pt"
    assert found.state == {"name": "best.pt"}
    assert found.notice is not None
    assert "last.pt is damaged" in found.notice
    assert newest(folder).path == found.path
    assert newest(folder / "iteration_00000010.pt").state == {"name": "iteration_00000010.pt"}
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged"):
        newest(folder / "last.pt")


def test_newest_says_so_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="ended before its first one"):
        newest(tmp_path)
    (tmp_path / "last.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        newest(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        newest(tmp_path / "elsewhere")


@pytest.mark.parametrize("state", [{"iteration": 1}, {"config": [1]}, []])
def test_a_checkpoint_of_no_run_says_so(tmp_path: Path, state: Any) -> None:
    save(tmp_path / "last.pt", {})
    found = newest(tmp_path / "last.pt")._replace(state=state)
    with pytest.raises(CheckpointError, match="holds no configuration"):
        _ = found.config
