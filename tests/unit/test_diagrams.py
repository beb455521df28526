"""The diagrams of the docs: what is left out of the imports, and where boxes and arrows come to lie."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

from equipoise.scripts import draw_diagrams
from equipoise.scripts.diagrams.data_flow import BANDS, data_flow
from equipoise.scripts.diagrams.imports import reduced, rooms
from equipoise.scripts.diagrams.layered import layout
from equipoise.scripts.diagrams.policies import PICTURES, policy_picture

DIAMOND = {"top": {"left", "right", "bottom"}, "left": {"bottom"}, "right": {"bottom"}, "bottom": set[str]()}


def test_arrows_that_follow_from_others_are_left_out() -> None:
    assert reduced(DIAMOND) == {**DIAMOND, "top": {"left", "right"}}


def test_a_circle_is_named() -> None:
    with pytest.raises(ValueError, match="a -> b -> a"):
        reduced({"a": {"b"}, "b": {"a"}})


def test_every_arrow_points_down_and_boxes_do_not_touch() -> None:
    placed = layout(DIAMOND, lambda name: 80.0, gap=10.0)
    row = {name: index for index, layer in enumerate(placed.layers) for name in layer}
    assert [row[name] for name in ("top", "left", "right", "bottom")] == [0, 1, 1, 2]
    for path in placed.paths:
        assert all(row[lower] == row[upper] + 1 for upper, lower in pairwise(path))
    for layer in placed.layers:
        boxes = [name for name in layer if name in DIAMOND]
        assert all(placed.x[right] - placed.x[left] >= 90.0 for left, right in pairwise(boxes))


def test_arrows_that_need_not_cross_do_not_cross() -> None:
    """By name the lower boxes would lie the other way round."""
    placed = layout({"a": {"z"}, "b": {"y"}, "y": set(), "z": set()}, lambda name: 50.0, gap=10.0)
    assert placed.layers == [["a", "b"], ["z", "y"]]


def test_rooms_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "house"
    (package / "wing").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "top.py": "from house.wing.part import x\nimport json",
        "wing/__init__.py": "",
        "wing/part.py": "from typing import TYPE_CHECKING\nx = 1\nif TYPE_CHECKING:\n    import house.top",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    graph, sizes = rooms("house")
    assert graph == {"top": {"wing"}, "wing": set()}
    assert sizes == {"wing": 1}
    sys.modules.pop("house", None)


def test_the_committed_picture_of_the_imports_is_up_to_date() -> None:
    drawn = draw_diagrams.imports("equipoise.trainer", "Imports in trainer/")
    committed = draw_diagrams.ROOT / "docs" / "images" / "imports-after.svg"
    assert committed.read_text() == drawn, "run: python -m scripts.draw_diagrams"


def test_the_data_flow_names_rooms_that_exist() -> None:
    ElementTree.fromstring(data_flow())
    trainer = draw_diagrams.ROOT / "trainer"
    for _, steps in BANDS:
        for step in steps:
            assert (trainer / step.room).exists() or (draw_diagrams.ROOT / step.room).exists(), step


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_of_policies_show_all_their_boxes_and_are_shown(name: str) -> None:
    """Each arrow begins and ends at a box, and none leads back."""
    picture = PICTURES[name]
    ElementTree.fromstring(policy_picture(name))
    ends = {int(end) for arrow in picture.arrows.split() for end in arrow.split(">")}
    assert ends == set(range(len(picture.boxes)))
    for arrow in picture.arrows.split():
        (column, row), (to_column, to_row) = (picture.boxes[int(end)][:2] for end in arrow.split(">"))
        assert (column, row) < (to_column, to_row)
    committed = draw_diagrams.ROOT / "docs" / "images" / f"{name}.svg"
    assert committed.read_text() == policy_picture(name), "run: python -m scripts.draw_diagrams"
    assert f"images/{name}.svg" in (draw_diagrams.ROOT / "docs" / "policies.md").read_text()
