"""`trainer.compile: default`: what the compiler makes teaches the same; and a compiler that is missing."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from copy import deepcopy
from itertools import count
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor
from torch import Tensor

from equipoise.trainer.build import build
from equipoise.trainer.compilation import compiled_graphs
from equipoise.trainer.compilation.graphs import Graphed
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.monitor.outcome import summarize

needs_compiler = pytest.mark.skipif(
    which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler on this machine"
)


def trained(config: Config, folder: Path, iterations: int = 2) -> tuple[Any, Tensor]:
    trainer = build(config, folder)
    for _ in range(iterations):
        trainer.iterate()
    return trainer, trainer.learner.flat.vector.detach()


def test_without_a_compiler_the_run_goes_on_and_says_why(
    toy: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler\nmore that nobody reads")

    monkeypatch.setattr(torch._inductor, "compile", missing)
    trainer, fallen_back = trained(toy("trainer.compile=default"), tmp_path / "a")
    for compiling in trainer.compiling:
        assert compiling.news().endswith("RuntimeError: no C++ compiler")
        assert compiling.news() is None, "said once"
    assert summarize(trainer).compile_seconds == 0.0
    assert torch.equal(fallen_back, trained(toy(), tmp_path / "b")[1])


def test_where_the_environment_cannot_be_recorded_acting_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gymnasium's CartPole computes in NumPy, and is not stepped by the attempt."""
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: graph)
    task = ["experiment=cartpole", "device=cpu"]
    trainer, recorded = trained(compose([*task, "trainer.compile=default"]), tmp_path / "a")
    _, step, acting = trainer.compiling
    assert "numpy() looks at values" in step.news()
    assert acting.news().startswith("compiled acting in ")
    torch.testing.assert_close(recorded, trained(compose(task), tmp_path / "b")[1], rtol=1e-4, atol=1e-5)


SMALL = (
    "policy.hidden_sizes=[8]",
    "env.num_envs=8",
    "device=cpu",
    "threads=1",
    "trainer.batch.rollout_steps=8",
)


@needs_compiler
@pytest.mark.parametrize("env", ["topology_spawn", "synthetic"])
def test_what_is_compiled_teaches_the_same_and_tells_the_same(env: str, tmp_path: Path) -> None:
    """From the same state, since rounding alone makes two long runs part: parameters and every metric."""
    task = [f"env={env}", *SMALL, "trainer.gradient_scaling.warmup_steps=20"]
    trainer, _ = trained(compose([*task, "trainer.compile=default"]), tmp_path / "a", iterations=3)
    update, step, acting = trainer.compiling
    assert update.news().startswith("compiled the update in ")
    assert step.news().startswith("compiled a step of the rollout in ")
    assert acting.news() is None, "of no use where whole steps are compiled"
    assert summarize(trainer).compile_seconds > 0.0
    eager = build(compose(task), tmp_path / "b")
    eager.load_state_dict(deepcopy(trainer.state_dict()))
    before = eager.learner.flat.vector.detach().clone()
    told, expected = ({k: v for k, v in t.iterate().items() if k[:5] != "time/"} for t in (trainer, eager))
    assert told == pytest.approx(expected, rel=1e-3, abs=1e-4)
    steps = [t.learner.flat.vector.detach() - before for t in (trainer, eager)]
    assert float((steps[0] - steps[1]).norm()) < 1e-3 * float(steps[1].norm())


class Drawing:
    """What it multiplies with comes from where a tape does not see it."""

    def __init__(self, draw: Callable[[], Any]) -> None:
        self.draw = draw

    def multiply(self, number: Tensor) -> Tensor:
        return number * self.draw()


COUNTER = count(1)
NUMPY = np.random.default_rng(0)
TABLE = np.array([2.0, 3.0], dtype=np.float32)


@pytest.mark.parametrize(
    ("draw", "same"),
    [
        (random.random, False),
        (lambda: next(COUNTER), False),
        (lambda: torch.from_numpy(NUMPY.random(2)), False),
        (lambda: torch.tensor(random.random()), False),
        (lambda: torch.tensor([0.0, next(COUNTER)]), False),
        (lambda: torch.from_numpy(TABLE), True),
        (lambda: torch.tensor([2.0, float("nan")]), True),
    ],
)
def test_what_is_not_the_same_twice_is_not_compiled(
    draw: Callable[[], Any], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: graph)
    drawing = Drawing(draw)
    graphed = Graphed("default", "drawing", drawing.multiply, [drawing], torch.device("cpu"))
    for _ in range(4):
        graphed(None, torch.ones(2))
    notice = graphed.compiling.notice
    assert notice is None if same else notice is not None and "does not do the same twice" in notice


class Remembering:
    """Hands over what it had, keeps it besides, and shifts it on in place."""

    def __init__(self) -> None:
        self.now, self.before, self.earlier = torch.zeros(64), torch.zeros(64), torch.zeros(64)

    def add(self, number: Tensor) -> tuple[Tensor, Tensor]:
        had = self.now
        self.earlier.copy_(self.before)
        self.now, self.before = self.now + number, had
        return had, self.earlier * 1.0


@needs_compiler
def test_what_is_compiled_remembers_what_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor takes a mere copy of state for the state itself, after something else was written to it."""
    monkeypatch.setattr(compiled_graphs, "CHECKED_CALLS", 0)
    eager, remembering = Remembering(), Remembering()
    graphed = Graphed("default", "adding", remembering.add, [remembering], torch.device("cpu"))
    for i in range(8):
        number = torch.full((64,), 1.0 + i)
        for mine, theirs in zip(graphed(None, number), eager.add(number), strict=True):
            assert torch.equal(mine, theirs), i
    assert graphed.compiling.notice is None


class Later:
    """Does something else from the third call on, where nobody sees it."""

    def __init__(self) -> None:
        self.calls = iter(range(100))

    def multiply(self, number: Tensor) -> Tensor:
        return number * (1.0 if next(self.calls) < 6 else 2.0)


def test_the_first_replays_are_held_against_ordinary_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: graph)
    later, numbers = Later(), []
    graphed = Graphed("default", "multiplying", later.multiply, [], torch.device("cpu"))
    for _ in range(8):
        numbers.append(float(graphed(None, torch.ones(()))))
    # Two ordinary calls, two that are recorded, then each is counted once.
    assert numbers == [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert graphed.compiling.notice == "DifferenceError: what was compiled gave 1 instead of 2"
