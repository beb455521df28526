"""Real processes that run the real command, and what they leave in their folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from equipoise.trainer.system import checkpoint
from tests.conftest import TOY
from tests.forked import Command, Ended


class Run(Command):
    """`python -m equipoise.trainer.run …`, with stdout and stderr in one."""

    def __init__(self, cwd: Path, *arguments: str, prepare: Callable[[], None] | None = None) -> None:
        ours = ["allow=[tests]"] if any(argument.startswith("resume=") for argument in arguments) else []
        super().__init__(cwd, "equipoise.trainer.run", *arguments, *ours, prepare=prepare, merged=True)

    @property
    def output(self) -> str:
        return self.stdout


def run(cwd: Path, *arguments: str, prepare: Callable[[], None] | None = None) -> Ended:
    return Run(cwd, *arguments, prepare=prepare).end()


def toy(run_dir: Path, *overrides: str, env: str = "tests.toy_env.ToyEnv") -> list[str]:
    """A run of 6 iterations of 64 steps on a toy, into `run_dir`: saved after each, evaluated every second."""
    return [
        *TOY,
        "policy.hidden_sizes=[8]",
        "trainer.batch.rollout_steps=8",
        "trainer.total_env_steps=384",
        "trainer.checkpoint_every=1",
        "trainer.eval_every=2",
        "trainer.eval_episodes=8",
        "trainer.final_eval_episodes=8",
        f"env._target_={env}",
        f"hydra.run.dir={run_dir}",
        *overrides,
    ]


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """What `metrics.jsonl` says, without the clock."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{tag: x for tag, x in row.items() if not tag.startswith("time/")} for row in rows]


def summary(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def state(run_dir: Path) -> dict[str, Any]:
    """What `last.pt` holds, without the configuration (a resumed run's names its checkpoint)."""
    found = checkpoint.load(run_dir / "checkpoints" / "last.pt")
    del found["config"]
    return found


def points(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard shows of a tag: (step, value)."""
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def assert_curves_are_whole(run_dir: Path, *tags: str) -> None:
    """Every iteration once, in `metrics.jsonl` and in TensorBoard, and the same in both."""
    rows = lines(run_dir)
    assert [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))
    for tag in tags or ("loss/value", "optimizer/gradient_norm"):
        there = {row["env_steps"]: row[tag] for row in rows if tag in row}
        shown = points(run_dir, tag)
        assert [step for step, _ in shown] == list(there) != []
        assert all(abs(value - there[step]) <= 1e-6 * abs(there[step]) for step, value in shown)
