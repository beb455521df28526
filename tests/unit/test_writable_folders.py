"""Where files can be put is known before anything is trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from equipoise.trainer.system.files import unwritable, unwritable_folder


def test_a_folder_that_is_there_or_can_be_made(tmp_path: Path) -> None:
    assert unwritable_folder(tmp_path) is None
    assert unwritable_folder(tmp_path / "a" / "b") is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert (
        unwritable_folder(tmp_path / "file" / "x")
        == f"{tmp_path / 'file'} is no folder that can be written to"
    )
    assert unwritable(tmp_path) == "is a folder"


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert unwritable_folder(tmp_path / ("x" * 300)) == "file name too long"
    assert unwritable(tmp_path / ("x" * 300 + ".gif")) == "file name too long"


@pytest.mark.skipif(sys.platform != "linux", reason="has no /proc")
def test_a_folder_of_the_system_in_which_even_the_administrator_makes_none() -> None:
    assert unwritable_folder(Path("/proc/x")) == "/proc is no folder that can be written to"
