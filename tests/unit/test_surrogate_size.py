"""The size of a surrogate made irrelevant: by hand, exactly invariant to a factor, and no gradient in the mean."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equipoise.trainer.data import Actions, Minibatch, Term
from equipoise.trainer.stages.protocol import LossState, reduce_term
from equipoise.trainer.stages.surrogate_size import UNIT, SurrogateSize


def state_of(discrete: Term, continuous: Term) -> LossState:
    nothing = torch.zeros(len(discrete.values), 0)
    actions = Actions(nothing.long(), nothing)
    batch = Minibatch(nothing, actions, nothing.bool(), nothing, nothing, nothing, nothing, nothing)
    one = torch.ones(())
    terms = {"discrete": discrete, "continuous": continuous, "value": Term(torch.ones(3))}
    return LossState(batch, None, nothing, terms, one, (one, one), {})  # type: ignore[arg-type]


def through(discrete: Term, continuous: Term) -> LossState:
    return SurrogateSize().losses(state_of(discrete, continuous))


SOME = Term(torch.tensor([[1.0], [-3.0]]), torch.tensor([[True], [True]]))


def test_the_unit_is_the_mean_size_of_a_standard_normal_number() -> None:
    draws = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)).abs().mean()
    assert draws.item() == pytest.approx(UNIT, abs=2e-3)


def test_each_side_is_divided_by_the_mean_size_of_its_own_active_terms() -> None:
    """Sizes 2 and 6: of |1|, |−3| and of |6| alone; the idle 0 and what lies outside the mask do not count."""
    other = Term(torch.tensor([[6.0], [0.0], [math.nan]]), torch.tensor([[True], [True], [False]]))
    state = through(SOME, other)
    assert reduce_term(state.terms["discrete"]).item() == pytest.approx(UNIT * (1 - 3) / 2 / 2)
    assert reduce_term(state.terms["continuous"]).item() == pytest.approx(UNIT * (6 + 0) / 2 / 6)
    assert state.metrics["loss/size_discrete"].value.item() == 2.0
    assert state.metrics["loss/size_continuous"].value.item() == 6.0
    assert state.terms["value"].values.tolist() == [1.0, 1.0, 1.0]


def gradient(factor: float, size: SurrogateSize) -> Tensor:
    """Of a discrete surrogate that has a factor, after the stage."""
    logits = torch.tensor([0.3, -1.0, 0.2, 0.7], dtype=torch.float64, requires_grad=True)
    values = factor * (logits.exp() * torch.tensor([1.0, -2.0, 0.5, 1.5])).unsqueeze(-1)
    state = size.losses(state_of(Term(values), SOME))
    (found,) = torch.autograd.grad(reduce_term(state.terms["discrete"]), logits)
    return found


@given(st.floats(1e-6, 1e6))
def test_a_factor_on_a_loss_changes_nothing_behind_the_stage(factor: float) -> None:
    torch.testing.assert_close(gradient(factor, SurrogateSize()), gradient(1.0, SurrogateSize()))
    switched_off = SurrogateSize(enable_unit_size=False)
    torch.testing.assert_close(gradient(factor, switched_off), factor * gradient(1.0, switched_off))


def test_the_direction_of_the_gradient_is_kept() -> None:
    """A gradient through the mean would turn it: the loss would become nearly constant."""
    kept, raw = gradient(1.0, SurrogateSize()), gradient(1.0, SurrogateSize(enable_unit_size=False))
    assert torch.cosine_similarity(kept, raw, dim=0).item() == pytest.approx(1.0)


@pytest.mark.parametrize("values", [torch.zeros(4, 1), torch.zeros(4, 0)])
def test_nothing_active_stays_nothing(values: Tensor) -> None:
    state = through(Term(values, torch.zeros_like(values, dtype=torch.bool)), SOME)
    assert reduce_term(state.terms["discrete"]).item() == 0.0
    assert state.metrics["loss/size_discrete"].value.isnan()


def test_a_nan_stays_one_and_is_not_hidden() -> None:
    values = torch.tensor([[1.0], [math.nan]])
    assert reduce_term(through(Term(values), SOME).terms["discrete"]).isnan()


def test_switched_off_it_leaves_the_state_alone() -> None:
    state = replace(state_of(SOME, SOME), metrics={})
    assert SurrogateSize(enable_unit_size=False).losses(state) is state
