"""What studies draw: whoever compares two panels takes one colour for one arm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from equipoise.scripts.studies.plots import curves
from equipoise.scripts.studies.results import Result


def result(env: str, arm: str) -> Result:
    steps, heights = np.array([1.0, 2.0]), np.array([0.0, 1.0])
    return cast(Result, SimpleNamespace(env=env, arm=arm, steps=steps, scores=heights))


def drawn(axis: Any) -> dict[str, tuple[str, str]]:
    """Arm -> colour and marker."""
    return {
        str(line.get_label()).split(" (")[0]: (line.get_color(), line.get_marker()) for line in axis.lines
    }


def test_an_arm_has_one_colour_in_all_panels_and_others_have_a_legend_of_their_own() -> None:
    results = [result("one", "a"), result("one", "b"), result("two", "b"), result("two", "c")]
    one, two = curves(results, ["one", "two"]).axes
    assert drawn(one)["b"] == drawn(two)["b"]
    assert len({drawn(one)["a"], drawn(one)["b"], drawn(two)["c"]}) == 3
    legends = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in (one, two)]
    assert legends == [["a (1)", "b (1)"], ["b (1)", "c (1)"]]
    same = curves([result(env, arm) for env in ("one", "two") for arm in "ab"], ["one", "two"])
    assert [axis.get_legend() is not None for axis in same.axes] == [True, False]
