"""The study of pictures: its table by hand, and settings that are said to be the same are the same."""

from __future__ import annotations

import json
from pathlib import Path

from equipoise.scripts.pictures import SAME, TASKS, table, wrapped
from equipoise.trainer.configuration.keywords import configure


def test_a_table_by_hand(tmp_path: Path) -> None:
    for seed, sampled in ((1, 2.0), (2, 5.0)):
        found = {"sampled": sampled, "deterministic": 1.0, "cpu_seconds": 10.0}
        (tmp_path / f"breakout-same-s{seed}.json").write_text(json.dumps(found))
    assert table(tmp_path, "breakout", ["same"])[-1] == (
        "| same | 3.50 (2.0, 5.0) | 1.00 (1.0, 1.0) | 10.00 (10.0, 10.0) | 2 |"
    )


def test_every_setting_is_one_and_nothing_is_normalised_or_adapted() -> None:
    for task in TASKS.values():
        for arm, settings in task.items():
            if arm not in ("make", "steps", "entities"):
                composed, _ = configure("CartPole-v1", {}, {"device": "cpu", **settings})
                assert composed.config.env.num_envs == 8
    config = configure("CartPole-v1", {}, dict(SAME))[0].config
    assert config.trainer.batch.rollout_steps * 8 // config.trainer.batch.num_minibatches == 256
    assert config.stages["gradient_scaling"].keywords["enable_adaptive_scaling"] is False


def test_other_tasks_stay_as_they_are() -> None:
    assert wrapped("breakout", {"seed": 1}) == {"seed": 1}
