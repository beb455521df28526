"""The tasks in which later choices must suit earlier ones, and the table of their study."""

from __future__ import annotations

import pytest
import torch

from equipoise.scripts.conditioning import tables
from equipoise.scripts.studies.joint_tasks import Climbing, Context, SharedBox


def test_the_options_need_different_values_of_the_shared_number() -> None:
    env, state = SharedBox(3), Context(torch.tensor([0.0, 0.0, 1.0]))
    number = torch.tensor([[0.5], [-0.5], [-0.3]])
    for option, payoffs in ((0, [1.0, 0.5, 0.5]), (1, [-2.5, 1.5, 1.5])):
        outcome = env.advance(state, (torch.full((3,), option), number))
        assert outcome.rewards[0].tolist() == pytest.approx(payoffs)
        assert outcome.success.tolist() == [option == 1] * 3


def test_the_climbing_game_is_that_of_its_source() -> None:
    env, state = Climbing(9), Context(torch.full((9,), -0.5))
    order, target = torch.arange(9) // 3, torch.arange(9) % 3
    payoffs = (10 * env.advance(state, {"order": order, "target": target}).rewards[0]).round().tolist()
    assert payoffs == [11, -30, 0, -30, 7, 6, 0, 0, 5]
    moved = env.advance(Context(torch.full((9,), 0.5)), {"order": order, "target": (target - 1) % 3})
    assert (10 * moved.rewards[0]).round().tolist() == payoffs
    assert moved.success.tolist() == [True] + [False] * 8


def test_the_table_counts_who_ended_at_the_better_option() -> None:
    def row(arm: str, success: float, reached: int | None) -> dict[str, object]:
        numbers = dict.fromkeys(("deterministic", "sampled", "area", "cpu_seconds"), 1.0)
        return {"task": "climbing", "arm": arm, "success": success, "reached_at": reached, **numbers}

    rows = [row("none", 0.1, None), row("none", 0.89, None), row("autoregressive", 1.0, 4096)]
    rows += [row("autoregressive", 0.9, 2048), row("autoregressive", 0.2, None)]
    none, other = tables(rows)[0].splitlines()[-2:]
    assert "| none | 2 | 0 of 2 | never |" in none
    assert "| autoregressive | 3 | 2 of 3 | 3,072 (2 runs) |" in other


def test_differences_are_those_of_the_same_seed() -> None:
    def row(arm: str, seed: int, area: float) -> dict[str, object]:
        numbers = {"area": area, "deterministic": 0.0, "sampled": 0.0, "cpu_seconds": 1.0}
        return {"task": "Car", "arm": arm, "seed": seed, "success": None, "reached_at": None, **numbers}

    rows = [row("none", seed, 10.0 * seed) for seed in (1, 2, 3)]
    rows += [row("choices", seed, 10.0 * seed + seed) for seed in (3, 1)]
    area, _ = tables(rows)[-1].splitlines()[-2:]
    assert "| Car | choices | area | 2 | 2 [-10.7, 14.7] | 2 of 2 | 0.59 |" in area
