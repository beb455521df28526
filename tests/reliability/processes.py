"""Real processes that run the real command, and what they leave in their folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from equipoise.trainer.system import checkpoint
from tests.conftest import TOY

# A server that has imported everything once and forks: a process of its own for each run, without the
# seconds that torch takes to import.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "torch._dynamo",
        "trainer.run",
        "equipoise.trainer.build",
        "equipoise.trainer.monitor.run_log",
        "tests.reliability.disturbed",
    ]
)


class Ended(NamedTuple):
    code: int
    output: str
    """Of stdout and stderr together."""


class Run:
    """`python -m trainer.run …` in a process of its own."""

    def __init__(self, cwd: Path, *arguments: str, prepare: Callable[[], None] | None = None) -> None:
        self._log = cwd / f"output-{time.monotonic_ns()}.txt"
        process = _SERVER.Process(target=_command, args=(arguments, cwd, self._log, prepare))
        process.start()
        self.process: BaseProcess = process

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def end(self, seconds: float = 120.0) -> Ended:
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"no end after {seconds} s: {self.output}")
        return Ended(self.process.exitcode, self.output)


def _command(arguments: tuple[str, ...], cwd: Path, log: Path, prepare: Callable[[], None] | None) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(cwd)
    if prepare is not None:
        prepare()
    from equipoise.trainer.run import main

    ours = ["allow=[tests]"] if any(argument.startswith("resume=") for argument in arguments) else []
    sys.argv = ["trainer.run", *arguments, *ours]
    code = main()
    sys.stdout.flush()
    sys.exit(code)


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
