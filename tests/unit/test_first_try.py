"""The parts of the first-try study."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import equipoise.scripts.suite.environments  # noqa: F401 - registers
from equipoise.scripts.suite import report
from equipoise.scripts.suite.cleanrl_hybrid import Actions
from equipoise.scripts.suite.episodes import Found, binned, play
from equipoise.scripts.suite.tasks import TASKS

OURS = [task for task in TASKS if "suite" in task.id]


def test_a_curve_has_the_means_of_its_parts_and_carries_over_what_is_empty() -> None:
    curve = binned([15, 16, 40, 100], [1.0, 3.0, 5.0, 7.0], total=100)
    assert curve == [2.0] * 8 + [5.0] * 11 + [7.0]


@pytest.mark.parametrize("task", OURS, ids=lambda task: task.name)
def test_the_hand_made_agent_fills_every_action_space(task: object) -> None:
    space = gymnasium.make(task.id).action_space  # type: ignore[attr-defined]
    actions = Actions(space)
    generator = np.random.default_rng(0)
    for _ in range(20):
        heads = [generator.integers(n) for n in actions.heads]
        numbers = generator.uniform(-1.5, 1.5, len(actions.low))
        assert actions.native(np.array([*heads, *numbers])) in space


def test_numbers_go_to_their_own_bounds_in_the_order_of_the_space() -> None:
    space = spaces.Tuple(
        (spaces.Box(0.0, 10.0, (1,)), spaces.Discrete(3, start=5), spaces.Box(-3.0, 0.0, (1,)))
    )
    low, choice, high = Actions(space).native(np.array([2.0, -1.0, 0.0]))
    assert (low.tolist(), choice, high.tolist()) == ([0.0], 7, [-1.5])


def test_several_choices_in_one_leaf_are_one_array() -> None:
    space = spaces.Dict(kinds=spaces.MultiDiscrete([2, 3]), size=spaces.Box(0.0, 1.0, (2,)))
    action = Actions(space).native(np.array([1.0, 2.0, -1.0, 3.0]))
    assert (action["kinds"].tolist(), action["size"].tolist()) == ([1, 2], [0.0, 1.0])
    assert action in space


def test_everybody_plays_the_same_episodes() -> None:
    env = gymnasium.make(OURS[0].id)
    middle = {"amount": np.full(1, 0.5, np.float32), "price": np.full(1, 0.5, np.float32), "side": 0}
    first, again = (play(env, lambda *_: middle, True, episodes=3) for _ in range(2))
    assert first == again
    assert len(set(first)) == 3


def found(curve: float, end: float) -> Found:
    return Found([curve] * 20, [end], [end], [0.0], 1.0)


def test_what_is_shown_to_be_worse_is_named() -> None:
    runs = {("T", "equipoise", seed): found(1.0 + seed / 100, 4.0) for seed in range(10)}
    runs |= {("T", "sb3", seed): found(2.0 + seed / 100, 4.0) for seed in range(10)}
    text = report.body(runs, [])
    assert "better on none; worse on T" in text
    assert "0.261 [0.2" in text, "the curve's mean over the best end, 1.045 / 4"
    assert report.body({key: runs[key] for key in runs if key[2] < 3}, []).count("worse on none") == 1


def test_runs_of_another_day_count_if_they_were_as_long(tmp_path: Path) -> None:
    runs = {("T", "sb3", 1): found(1.25, 4.0), ("U", "sb3", 2): found(2.0, 5.0)._replace(commit="abc")}
    table = tmp_path / "report.csv"
    report.write_rows(table, runs, {"T": 2048, "U": 4096})
    assert report.read_rows(table, {"T": 2048, "U": 4096}) == runs
    assert report.read_rows(table, {"T": 2048, "U": 2048}).keys() == {("T", "sb3", 1)}
    assert report.read_rows(tmp_path / "none.csv", {}) == {}
