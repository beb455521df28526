"""`trainer.compile: default` with the C++ compiler: the same lessons, the same metrics, also in two processes."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from shutil import which

import pytest
import torch
from torch import Tensor

from equipoise.trainer.build import build
from equipoise.trainer.compilation import EAGER_CALLS, Compiled, news
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.loop import Trainer
from equipoise.trainer.monitor.outcome import summarize
from tests.reliability.processes import lines, state, summary, toy
from tests.reliability.test_several_processes import start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler on this machine"),
]
SMALL = (
    "policy.hidden_sizes=[8]",
    "env.num_envs=8",
    "device=cpu",
    "threads=1",
    "trainer.batch.rollout_steps=8",
    "trainer.gradient_scaling.warmup_steps=20",
)


def built(folder: Path, *overrides: str) -> Trainer:
    return build(compose(["env=synthetic", *SMALL, *overrides]), folder)


def assert_alike(mine: Trainer, theirs: Trainer) -> None:
    """One iteration from the same state: rounding alone makes two long runs part."""
    before = theirs.learner.flat.vector.detach().clone()
    told, expected = ({k: v for k, v in t.iterate().items() if k[:5] != "time/"} for t in (mine, theirs))
    assert told == pytest.approx(expected, rel=1e-3, abs=1e-4)
    steps = [t.learner.flat.vector.detach() - before for t in (mine, theirs)]
    assert float((steps[0] - steps[1]).norm()) < 1e-3 * float(steps[1].norm())


def test_what_is_compiled_teaches_the_same_and_goes_on_when_it_is_resumed(tmp_path: Path) -> None:
    trainer = built(tmp_path / "a", "trainer.compile=default")
    for _ in range(3):
        trainer.iterate()
    update, step = news(trainer.compiling)
    assert update.startswith("compiled the update in ")
    assert step.startswith("compiled a step of the rollout in "), "and acting not, which is of no use then"
    assert news(trainer.compiling) == []
    taken = summarize(trainer).compile_seconds
    assert taken is not None
    assert taken > 0.0
    saved = deepcopy(trainer.state_dict())
    eager = built(tmp_path / "b")
    eager.load_state_dict(deepcopy(saved))
    assert_alike(trainer, eager)
    resumed = built(tmp_path / "c", "trainer.compile=default")
    resumed.load_state_dict(deepcopy(saved))
    resumed.iterate()
    assert_alike(resumed, eager)
    assert [part.notice for part in (*trainer.compiling, *resumed.compiling)] == [None] * 6
    trainer.load_state_dict(deepcopy(saved))  # its memory lies elsewhere now
    eager.load_state_dict(deepcopy(saved))
    assert_alike(trainer, eager)


class Remembering:
    """Hands over what it had, keeps it besides, and shifts it on in place."""

    def __init__(self) -> None:
        self.now, self.before, self.earlier = torch.zeros(64), torch.zeros(64), torch.zeros(64)

    def add(self, number: Tensor) -> tuple[Tensor, Tensor]:
        had = self.now
        self.earlier.copy_(self.before)
        self.now, self.before = self.now + number, had
        return had, self.earlier * 1.0


def test_what_is_compiled_remembers_what_was() -> None:
    """PyTorch 2.13's compiler was seen to take a mere copy of state for the state itself, when a recorder of
    this project gave it the work."""
    eager, remembering = Remembering(), Remembering()
    compiled = Compiled("default", "adding", remembering.add, torch.device("cpu"))
    for i in range(6):
        number = torch.full((64,), 1.0 + i)
        for mine, theirs in zip(compiled.call(number), eager.add(number), strict=True):
            assert torch.equal(mine, theirs), i
    assert compiled.notice is None


def test_two_processes_compile_too(tmp_path: Path) -> None:
    overrides = ("trainer.total_env_steps=192", "trainer.gradient_scaling.measure_every=3")
    processes = start(tmp_path, *toy(tmp_path / "compiled", *overrides, "trainer.compile=default"))
    first, second = (process.end(seconds=600.0) for process in processes)
    assert (first.code, second.code) == (0, 0), first.output + second.output
    output = " ".join(first.output.split())
    assert "compiled the update in" in output
    assert "compiled a step of the rollout in" in output
    assert "not compiled" not in output
    ended = [process.end() for process in start(tmp_path, *toy(tmp_path / "eager", *overrides))]
    assert [each.code for each in ended] == [0, 0]
    compiled, eager = (lines(tmp_path / name) for name in ("compiled", "eager"))
    assert len(compiled) == len(eager) == 3
    assert state(tmp_path / "eager")["learner"]["updates"] > EAGER_CALLS
    for mine, theirs in zip(compiled, eager, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-2, abs=1e-3)
    assert summary(tmp_path / "compiled")["compile_seconds"] > 0.0
    weights = [state(tmp_path / name)["policy"] for name in ("compiled", "eager")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("setting", ["default", "cudagraphs"])
@pytest.mark.parametrize(
    "env", ["topology_spawn", "synthetic", "platform", "moving", "hard_move", "catch_point"]
)
def test_on_cuda_it_teaches_the_same(env: str, setting: str, tmp_path: Path) -> None:
    overrides = (f"env={env}", "policy.hidden_sizes=[8]", "env.num_envs=8", "device=cuda")
    compiled, eager = (
        build(compose([*overrides, f"trainer.compile={each}"]), tmp_path / each) for each in (setting, "none")
    )
    for _ in range(3):
        compiled.iterate()
    assert [part.notice for part in compiled.compiling] == [None] * 3
    eager.load_state_dict(deepcopy(compiled.state_dict()))
    assert_alike(compiled, eager)
