from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from equipoise.trainer.data import Actions, Minibatch, Term
from equipoise.trainer.stages.protocol import LossStage, LossState
from equipoise.trainer.stages.value_clipping import ValueClipping, clipped_value_loss

GOLDEN = [  # old, new, target, loss at epsilon 0.2
    (2.0, 3.5, 2.8, 0.49),
    (2.0, 2.15, 2.8, 0.4225),
    (2.0, 0.5, 2.1, 2.56),
    (-1.0, -1.5, -3.0, 3.24),
]
Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def smaller_of_both(values: Tensor, old: Tensor, returns: Tensor, epsilon: float) -> Tensor:
    clipped = old + (values - old).clamp(-epsilon, epsilon)
    return torch.minimum((values - returns).square(), (clipped - returns).square())


def clipped_around_the_target(values: Tensor, old: Tensor, returns: Tensor, epsilon: float) -> Tensor:
    clipped = returns + (values - returns).clamp(-epsilon, epsilon)
    return torch.maximum((values - old).square(), (clipped - returns).square())


def clipped_only(values: Tensor, old: Tensor, returns: Tensor, epsilon: float) -> Tensor:
    return (old + (values - old).clamp(-epsilon, epsilon) - returns).square()


def gives_the_golden_losses(loss: Loss) -> bool:
    old, new, target, expected = torch.tensor(GOLDEN, dtype=torch.float64).unbind(1)
    return torch.allclose(loss(new, old, target, 0.2), expected, rtol=0, atol=1e-9)


def state_of(values: Tensor, old: Tensor, returns: Tensor) -> LossState:
    empty = torch.zeros(len(values), 0)
    actions = Actions(empty.long(), empty)
    batch = Minibatch(
        empty, actions, empty.bool(), empty, empty, torch.zeros(len(values)), values=old, returns=returns
    )
    one = torch.ones(())
    terms = {"value": Term((values - returns).square())}
    return LossState(batch, None, values, terms, one, (one, one), {})  # type: ignore[arg-type]


def test_golden_losses_and_that_wrong_formulas_miss_them() -> None:
    assert gives_the_golden_losses(clipped_value_loss)
    for wrong in (smaller_of_both, clipped_around_the_target, clipped_only):
        assert not gives_the_golden_losses(wrong)


@pytest.mark.parametrize(
    ("old", "new", "target", "sign"),
    [
        (2.0, 2.1, 3.0, -1),  # inside: towards the target
        (2.0, 2.5, 3.0, 0),  # beyond ε on the way to the target: nothing more to gain
        (2.0, 3.5, 2.8, +1),  # overshot: pulled back, whatever ε says
        (2.0, 1.5, 3.0, -1),  # beyond ε the wrong way: pulled back
        (2.0, 2.0, 3.0, -1),  # the first minibatch
    ],
)
def test_sign_of_the_gradient(old: float, new: float, target: float, sign: int) -> None:
    value = torch.tensor(new, requires_grad=True)
    clipped_value_loss(value, torch.tensor(old), torch.tensor(target), 0.2).backward()
    assert value.grad is not None
    assert value.grad.sign() == sign


def test_at_the_old_value_it_is_the_plain_loss_with_the_plain_gradient() -> None:
    old = torch.tensor([0.3, -2.0, 5.0])
    value, target = old.clone().requires_grad_(), torch.tensor([1.0, -2.5, 4.0])
    (gradient,) = torch.autograd.grad(clipped_value_loss(value, old, target, 0.2).sum(), value)
    torch.testing.assert_close(gradient, 2 * (old - target))


def test_the_term_is_replaced_per_head_and_the_others_stay() -> None:
    stage = ValueClipping(reward_names=("a", "b"))
    assert isinstance(stage, LossStage)
    old = torch.tensor([[2.0, 2.0], [-1.0, 2.0]])
    new = torch.tensor([[3.5, 2.15], [-1.5, 0.5]])
    target = torch.tensor([[2.8, 2.8], [-3.0, 2.1]])
    state = state_of(new, old, target).with_term("other", Term(torch.zeros(())))
    result = stage.losses(state)
    assert set(result.terms) == {"value", "other"}
    torch.testing.assert_close(result.terms["value"].values, torch.tensor([[0.49, 0.4225], [3.24, 2.56]]))
    assert result.metrics["value/clipped_fraction/a"].value == 1.0
    assert result.metrics["value/clipped_fraction/b"].value == 0.5


def test_epsilon_is_the_width_of_the_neighbourhood() -> None:
    old, new, target = torch.zeros(1, 1), torch.full((1, 1), 0.4), torch.ones(1, 1)
    narrow = ValueClipping(reward_names=("a",), value_clip_epsilon=0.1).losses(state_of(new, old, target))
    wide = ValueClipping(reward_names=("a",), value_clip_epsilon=0.5).losses(state_of(new, old, target))
    assert narrow.terms["value"].values.item() == pytest.approx(0.81)  # (0.1 − 1)²
    assert wide.terms["value"].values.item() == pytest.approx(0.36)  # (0.4 − 1)²


def test_explained_variance_is_the_old_predictions_and_has_a_name_per_head() -> None:
    returns = torch.tensor([[1.0], [2.0], [3.0], [4.0]])  # variance 1.25
    old = returns + torch.tensor([[0.5], [-0.5], [0.5], [-0.5]]) + 7.0  # residual variance 0.25, any offset
    heads = torch.cat([returns, torch.ones(4, 1)], 1)
    state = state_of(torch.zeros(4, 2), torch.cat([old, torch.ones(4, 1)], 1), heads)
    metrics = ValueClipping(reward_names=("a",)).losses(state).metrics
    assert metrics["value/explained_variance/a"].value.item() == pytest.approx(0.8)
    assert metrics["value/explained_variance/task"].value.isnan()  # constant returns: nothing to explain


def test_switched_off_it_leaves_the_loss_alone_and_still_reports() -> None:
    state = state_of(torch.ones(3, 1), torch.zeros(3, 1), torch.full((3, 1), 2.0))
    result = ValueClipping(reward_names=("a",), enable_value_clipping=False).losses(state)
    assert result.terms == state.terms
    assert set(result.metrics) == {"value/explained_variance/a"}


@pytest.mark.parametrize("epsilon", [0.0, -0.2, float("nan"), float("inf")])
def test_an_impossible_epsilon_is_refused_by_name(epsilon: float) -> None:
    with pytest.raises(ValidationError, match="value_clip_epsilon"):
        ValueClipping(reward_names=("a",), value_clip_epsilon=epsilon)
