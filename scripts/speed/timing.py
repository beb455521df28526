"""Clocks, interleaved rounds and phases: how the benchmark measures, whatever it measures."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import wraps
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch

from equipoise.scripts.speed.naive import NaiveScaling
from equipoise.trainer import loop as training_loop
from equipoise.trainer import targets
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.loop import Trainer
from equipoise.trainer.monitor.run_log import RunLog

Clock = Callable[[], float]


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def clock_for(device: torch.device) -> Clock:
    """Seconds. On the CPU this process's own: with one thread that is what the loop takes on a core of its
    own, however busy the machine is. On a GPU the wall's, after waiting for the device."""
    if device.type == "cpu":
        return time.process_time

    def wall() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return wall


class Loop:
    """The whole loop of a run: collect, learn, and log to TensorBoard and `metrics.jsonl`."""

    def __init__(self, overrides: Sequence[str], run_dir: Path) -> None:
        config = compose([*overrides, "trainer.total_env_steps=1_000_000_000", "threads=1"])
        self.trainer: Trainer = build(config, run_dir)
        for stage in self.trainer.learner.pipeline.stages.values():
            if isinstance(stage, NaiveScaling):
                stage.parameters = list(self.trainer.policy.parameters())
        schedule = self.trainer.schedule
        self.samples = schedule.samples
        with redirect_stdout(StringIO()):  # no live view: the terminal belongs to the benchmark
            self.log = RunLog(config, run_dir, 0, 0, schedule.env_steps, schedule.remaining)

    def __call__(self) -> None:
        """One iteration."""
        figures = self.trainer.iterate()
        with redirect_stdout(StringIO()):
            self.log.record(self.trainer.iteration, self.trainer.env_steps, figures)

    def close(self) -> None:
        self.log.__exit__(None, None, None)
        self.trainer.collector.env.close()


def interleave(
    arms: Mapping[str, Callable[[], None]], rounds: int, warmup: int, clock: Clock
) -> dict[str, list[float]]:
    """Seconds of every arm in every round. All arms take turns, starting with another one in each round, so
    that whatever disturbs the machine disturbs them alike; the first `warmup` rounds do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    order = list(arms)
    for _ in range(warmup + rounds):
        for name in order:
            began = clock()
            arms[name]()
            seconds[name].append(clock() - began)
        order = [*order[1:], order[0]]
    return {name: times[warmup:] for name, times in seconds.items()}


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Of what was measured in the same round."""
    return spread([n / d for n, d in zip(numerators, denominators, strict=True)])


class Phases:
    """Where a loop's time goes: each phase's own seconds, without those of the phases inside it."""

    def __init__(self, clock: Clock) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock = clock
        self._running: list[str] = []
        self._since = 0.0
        self._watched: list[tuple[Any, str, Any]] = []

    def watch(self, owner: Any, method: str, phase: str) -> None:
        """From now on count the calls of `owner.method` as `phase`."""
        original = getattr(owner, method)

        @wraps(original)
        def timed(*args: Any, **keywords: Any) -> Any:
            self._switch()
            self._running.append(phase)
            try:
                return original(*args, **keywords)
            finally:
                self._switch()
                self._running.pop()

        self._watched.append((owner, method, vars(owner).get(method)))
        setattr(owner, method, timed)

    def _switch(self) -> None:
        now = self._clock()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def release(self) -> None:
        """Leave everything as it was."""
        for owner, method, own in reversed(self._watched):
            if own is None:
                delattr(owner, method)
            else:
                setattr(owner, method, own)
        self._watched.clear()


def phase_shares(loop: Loop, iterations: int, clock: Clock) -> dict[str, float]:
    """Phase -> its share of an iteration; they add up to 1."""
    trainer, phases = loop.trainer, Phases(clock)
    stages = trainer.learner.pipeline
    phases.watch(trainer, "iterate", "rest")
    phases.watch(trainer.collector.env, "step", "environment")
    phases.watch(trainer.collector, "collect", "rollout")
    phases.watch(training_loop, "prepare", "prepare")
    phases.watch(targets, "compute_gae", "GAE")
    for name, stage in (("reward stage", stages.rewards), ("advantage stage", stages.advantages)):
        if stage is not None:
            phases.watch(stage, "rewards" if stage is stages.rewards else "advantages", name)
    phases.watch(trainer.learner, "learn", "update")
    phases.watch(trainer.log, "add", "logging")
    phases.watch(trainer.log, "read", "logging")
    phases.watch(loop.log, "record", "logging")
    try:
        for _ in range(iterations):
            loop()
    finally:
        phases.release()
    total = sum(phases.seconds.values())
    return {name: seconds / total for name, seconds in phases.seconds.items()}
