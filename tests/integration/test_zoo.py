"""The policies of `zoo/` score what their cards say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import equipoise
from equipoise.scripts.zoo import ZOO
from tests import pages

pytest.importorskip("safetensors", reason="needs: pip install -e '.[hub]'")
FOLDERS = sorted(path.parent for path in (pages.ROOT / "zoo").glob("*/config.json"))
EPISODES = 25
SHORT = {"pendulum": 10, "cartpole": 8}
"""Episodes of those that take long."""


def test_it_is_there_and_small() -> None:
    assert {"cartpole", "platform", "topology_spawn"} <= {folder.name for folder in FOLDERS} <= set(ZOO)
    size = sum(file.stat().st_size for folder in FOLDERS for file in folder.iterdir())
    assert size < 800_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_policy_scores_what_its_card_says(folder: Path) -> None:
    told = json.loads((folder / "config.json").read_text())["results"]
    episodes = SHORT.get(folder.name, EPISODES)
    found = equipoise.evaluate(folder, episodes, seed=1, deterministic=True)
    mean = found["return_mean"]
    assert mean is not None
    chance = told["return_std"] * math.sqrt(1 / episodes + 1 / told["episodes"])
    assert abs(mean - told["return_mean"]) <= 4.0 * chance + 1e-3 * abs(told["return_mean"])
    assert (
        f"{told['return_mean']:.4g} ± {told['return_std']:.2g}" in (folder.parent / "README.md").read_text()
    )
