"""Losses whose graph is cut at the heads: the same gradients; and a compiler that is missing or fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import TINY, TOY
from tests.unit.test_gradients import Scene, make_scene
from trainer.build import build
from trainer.compose import compose
from trainer.config import Config
from trainer.data import Term
from trainer.gradients import Cut, FlatParameters, SideGradients
from trainer.objective import Losses, Objective, reach_of
from trainer.policy.actor_critic import Heads
from trainer.stages.gradient_scaling import GradientScaling
from trainer.stages.pipeline import Pipeline
from trainer.stages.protocol import LossState, WeightResult

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
WEIGHTS = WeightResult(torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64))


def cut_sides(scene: Scene, flat: FlatParameters, plain: bool = True) -> SideGradients:
    """As the update does it where the losses are compiled; here they are not."""
    heads = scene.policy(scene.batch.inputs)
    leaves = Heads(*(head.detach().requires_grad_(head.requires_grad) for head in heads))
    discrete, continuous, rest = scene.losses(leaves)
    losses = Losses(discrete, continuous, rest, rest.detach(), {}, plain)
    cut = Cut(heads, leaves, reach_of(losses))
    return SideGradients(flat, scene.shared(flat), discrete, continuous, rest, 0, cut)


def figures(sides: SideGradients) -> Tensor:
    return torch.stack([sides.norm("discrete"), sides.norm("continuous"), sides.dot()])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    choices=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    parameters=st.integers(1, 4),
    components=st.integers(1, 6),
    samples=st.integers(1, 9),
    masked=st.booleans(),
    shared_trunk=st.booleans(),
    shared_critic=st.booleans(),
    state_dependent_std=st.booleans(),
    plain=st.booleans(),
    measured=st.booleans(),
)
def test_a_cut_graph_gives_the_gradients_of_the_whole_one(
    seed: int, dtype: torch.dtype, plain: bool, measured: bool, **shape: Any
) -> None:
    scene = make_scene(seed, dtype=dtype, **shape)
    flat = FlatParameters(scene.policy)
    whole = SideGradients(flat, scene.shared(flat), *scene.losses(), 0)
    cut = cut_sides(scene, flat, plain)
    tolerance = TOLERANCE[dtype]
    if measured:
        torch.testing.assert_close(figures(cut), figures(whole), rtol=10 * tolerance, atol=tolerance)
    expected = whole.combine(WEIGHTS)
    size = max(1.0, float(expected.norm()))
    torch.testing.assert_close(cut.combine(WEIGHTS), expected, rtol=tolerance, atol=tolerance * size)


def test_the_comparison_sees_a_side_that_reaches_too_little() -> None:
    scene = make_scene(1)
    flat = FlatParameters(scene.policy)
    sides = cut_sides(scene, flat)
    assert sides._cut is not None
    short = sides._cut._replace(reach={**sides._cut.reach, "continuous": (2,)})
    sides._cut = short
    whole = SideGradients(flat, scene.shared(flat), *scene.losses(), 0)
    assert not torch.allclose(figures(sides), figures(whole), rtol=1e-3)


def trained(config: Config, folder: Path, iterations: int = 2) -> tuple[Any, Tensor]:
    trainer = build(config, folder)
    for _ in range(iterations):
        trainer.iterate()
    return trainer, trainer.update.flat.vector.detach()


def test_without_a_compiler_the_run_goes_on_and_says_why(
    toy: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise RuntimeError("no C++ compiler\nmore that nobody reads")

        return call

    monkeypatch.setattr(torch, "compile", missing)
    trainer, fallen_back = trained(toy("trainer.compile=default"), tmp_path / "a")
    assert trainer.update.compiling.news().endswith("RuntimeError: no C++ compiler")
    assert trainer.update.compiling.news() is None, "said once"
    assert trainer.summary(None)["compile_seconds"] == 0.0
    assert torch.equal(fallen_back, trained(toy(), tmp_path / "b")[1])


@pytest.mark.skipif(which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler on this machine")
@pytest.mark.parametrize("task", [TOY, (*TINY, "env=synthetic")], ids=["toy", "synthetic"])
def test_compiled_losses_teach_the_same(task: Sequence[str], tmp_path: Path) -> None:
    trainer, compiled = trained(compose([*task, "trainer.compile=default"]), tmp_path / "a")
    assert trainer.update.compiling.notice is None
    assert "compiled" in trainer.update.compiling.news()
    assert trainer.summary(None)["compile_seconds"] > 0.0
    eager = trained(compose(task), tmp_path / "b")[1]
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-5)


class Doubled:
    def losses(self, state: LossState) -> LossState:
        return state.with_term("discrete", Term(2 * state.terms["discrete"].values))


def test_a_stage_that_replaces_a_side_is_seen(toy: Callable[..., Config]) -> None:
    """The new loss may hang on anything, so its gradient is sent to all heads."""
    scene, one = make_scene(1, dtype=torch.float32), torch.ones(())
    for stage, everything in ((Doubled(), True), (GradientScaling(), False)):
        objective = Objective(scene.policy, Pipeline({"stage": stage}), toy().trainer)
        losses = objective(scene.policy(scene.batch.inputs), scene.batch, one, (one, one))
        assert (list(reach_of(losses)["discrete"]) == [0, 1, 2, 3]) is everything
