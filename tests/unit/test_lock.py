"""One writer at a time: who is refused, and when the lock of a process that is gone is taken over."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from equipoise.trainer.system import lock
from equipoise.trainer.system.lock import NAME, FolderLock, LockedError

_FORK = multiprocessing.get_context("fork")


def hold(folder: Path, ready: Connection) -> None:
    FolderLock(folder)
    ready.send("held")
    time.sleep(60)


def hold_with_a_child(folder: Path, ready: Connection) -> None:
    FolderLock(folder)
    child = _FORK.Process(target=time.sleep, args=(60,))
    child.start()
    ready.send(child.pid)
    time.sleep(60)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[multiprocessing.process.BaseProcess]:
    """Another process that holds the lock of `tmp_path`."""
    here, there = _FORK.Pipe()
    process = _FORK.Process(target=hold, args=(tmp_path, there))
    process.start()
    assert here.recv() == "held"
    yield process
    process.kill()
    process.join()


def written(folder: Path, **differences: object) -> Path:
    """A lock file as another machine would leave it."""
    identity = {
        "host": "node7",
        "pid": 1,
        "since": "2026-01-01 10:00:00",
        "started": "1",
        "boot": "b",
        "pids": None,
    }
    (folder / NAME).write_text(json.dumps(identity | differences))
    return folder / NAME


def test_a_second_process_is_refused_by_name_and_gets_in_when_the_first_is_killed(
    tmp_path: Path, holder: multiprocessing.process.BaseProcess
) -> None:
    with pytest.raises(
        LockedError, match=rf"process {holder.pid} on \S+ \(since .*\) is writing to {tmp_path}"
    ):
        FolderLock(tmp_path, patience=0.0)
    holder.kill()
    began = time.monotonic()
    taken = FolderLock(tmp_path)
    assert time.monotonic() - began < 2.0  # not the lease, which is for other machines
    assert taken.is_held()
    taken.release()
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_outlives_its_parent_holds_nothing(tmp_path: Path) -> None:
    here, there = _FORK.Pipe()
    parent = _FORK.Process(target=hold_with_a_child, args=(tmp_path, there))
    parent.start()
    child = here.recv()
    parent.kill()
    parent.join()
    os.kill(child, 0)  # it lives
    FolderLock(tmp_path).release()
    os.kill(child, signal.SIGKILL)


def test_a_process_does_not_get_it_twice(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    with pytest.raises(LockedError, match="another run of this process"):
        FolderLock(tmp_path)
    assert first.is_held()
    first.release()
    FolderLock(tmp_path).release()


def test_without_record_locks_the_process_itself_tells(
    tmp_path: Path, holder: multiprocessing.process.BaseProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    with pytest.raises(LockedError, match=f"process {holder.pid} "):
        FolderLock(tmp_path, patience=0.0)
    holder.kill()
    holder.join()
    FolderLock(tmp_path).release()


def test_a_process_number_that_another_process_has_now_is_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived = FolderLock(tmp_path)
    identity = json.loads((tmp_path / NAME).read_text())
    lived.release()
    monkeypatch.setattr(lock, "fcntl", None)
    written(tmp_path, **{**identity, "started": "1"})
    FolderLock(tmp_path, patience=0.0).release()
    written(tmp_path, **identity)
    with pytest.raises(LockedError):
        FolderLock(tmp_path, patience=0.0)


def test_another_machine_that_renews_its_lock_is_alive(tmp_path: Path) -> None:
    path, ended = written(tmp_path), threading.Event()

    def renew() -> None:
        while not ended.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(LockedError, match="process 1 on node7"):
            FolderLock(tmp_path, patience=0.0)
    finally:
        ended.set()
        thread.join()


def test_another_machine_that_is_silent_for_longer_than_the_lease_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    os.utime(path, (time.time() - lock.LEASE - 1,) * 2)
    FolderLock(tmp_path).release()  # at once
    monkeypatch.setattr(lock, "LEASE", 1.0)
    written(tmp_path)
    began = time.monotonic()
    taken = FolderLock(tmp_path)
    assert 0.9 < time.monotonic() - began < 30.0
    assert (
        "held by process 1 on node7 (since 2026-01-01 10:00:00): waiting up to 1 s" in capsys.readouterr().err
    )
    taken.release()


def test_who_was_taken_for_dead_notices(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    assert held.is_held()
    other = tmp_path / "other"
    other.write_text("{}")
    other.replace(tmp_path / NAME)
    assert not held.is_held()
    held.release()
    assert (tmp_path / NAME).exists()  # it is the other one's
    (tmp_path / NAME).unlink()
    held = FolderLock(tmp_path)
    (tmp_path / NAME).unlink()
    assert not held.is_held()
    held.release()


def test_it_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    held = FolderLock(tmp_path)
    os.utime(tmp_path / NAME, (1.0, 1.0))
    deadline = time.monotonic() + 30
    while (tmp_path / NAME).stat().st_mtime == 1.0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    held.release()


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", unsupported)
    held = FolderLock(tmp_path)
    assert held.is_held()
    held.release()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_of_its_lock_is_removed_at_once(tmp_path: Path) -> None:
    lived = FolderLock(tmp_path)
    identity = json.loads((tmp_path / NAME).read_text())
    lived.release()
    drafts = {
        "living": identity,
        "gone": {**identity, "started": "1"},
        "elsewhere": {**identity, "boot": "x"},
    }
    for name, written in {**drafts, "not written yet": ""}.items():
        (tmp_path / f".{NAME}.{name}").write_text(json.dumps(written) if written else "")
    FolderLock(tmp_path).release()
    left = {path.name.rpartition(".")[2] for path in tmp_path.glob(f".{NAME}.*")}
    assert left == {"living", "elsewhere", "not written yet"}


def test_what_was_killed_before_it_could_say_who_it_is_leaves_nothing_either(tmp_path: Path) -> None:
    """Found by a test that kills at random moments: an empty draft waited for a lease's end."""
    old, new = tmp_path / f".{lock.NAME}.old", tmp_path / f".{lock.NAME}.new"
    for draft in (old, new):
        draft.touch()
    os.utime(old, (time.time() - 2 * lock.BLINK,) * 2)
    with lock.FolderLock(tmp_path):
        assert not old.exists()
        assert new.exists(), "its process may be about to say it"
