"""Optimizers of every kind: the steps of PyTorch's own loop, skipped updates without a trace, exact resume."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.optimizer import ELEMENTWISE, PolicyOptimizer, try_out
from equipoise.trainer.system.checkpoint import plain


class Lamb(torch.optim.Optimizer):
    """Steps as long as each parameter's own norm, and counts in its group: neither a vector nor a flag will do."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["steps"] += 1
            for p in group["params"]:
                p.add_(p.grad, alpha=-group["lr"] * float(p.norm() / p.grad.norm()) / group["steps"])


Make = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: dict[str, tuple[Make, dict[str, Any]]] = {
    **{cls.__name__: (cls, {}) for cls in ELEMENTWISE},
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "dampening": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
    "amsgrad": (torch.optim.AdamW, {"amsgrad": True, "betas": [0.8, 0.9]}),
    "Adafactor": (torch.optim.Adafactor, {}),
    "Lamb": (Lamb, {}),
}
each = pytest.mark.parametrize("name", OPTIMIZERS)
RATES = (0.1, 0.05, 0.02, 0.01, 0.005)
GOOD, BAD = torch.zeros(()), torch.ones(())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def gradients() -> list[Tensor]:
    size = sum(p.numel() for p in network().parameters())
    return list(torch.randn(len(RATES), size, generator=torch.Generator().manual_seed(1)))


def by_hand(name: str) -> Tensor:
    """`[n]`: the parameters after all steps, as a training loop of PyTorch's manual has them."""
    (cls, keywords), module = OPTIMIZERS[name], network()
    optimizer = cls(module.parameters(), lr=RATES[0], **keywords)
    for rate, gradient in zip(RATES, gradients(), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        parts = gradient.split([p.numel() for p in module.parameters()])
        for parameter, part in zip(module.parameters(), parts, strict=True):
            parameter.grad = part.clone().view_as(parameter)
        optimizer.step()
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def make(name: str, may_wait: bool | None = None) -> tuple[FlatParameters, PolicyOptimizer]:
    cls, keywords = OPTIMIZERS[name]
    flat = FlatParameters(network())
    return flat, PolicyOptimizer(cls, flat, RATES[0], keywords, may_wait=may_wait)


def step(flat: FlatParameters, optimizer: PolicyOptimizer, gradient: Tensor, skipped: Tensor = GOOD) -> None:
    assert flat.vector.grad is not None
    flat.vector.grad.copy_(gradient)
    optimizer.step(skipped)


@each
@pytest.mark.parametrize("may_wait", [True, False])
@pytest.mark.parametrize("bad", [(), (0,), (2, 3)], ids=["none", "first", "later"])
def test_steps_are_pytorchs_and_skipped_ones_leave_no_trace(
    name: str, may_wait: bool, bad: tuple[int, ...]
) -> None:
    flat, optimizer = make(name, may_wait)
    for number, (rate, gradient) in enumerate(zip(RATES, gradients(), strict=True)):
        optimizer.set_learning_rate(rate)
        for _ in range(bad.count(number)):
            step(flat, optimizer, torch.full_like(gradient, torch.nan), BAD)
            step(flat, optimizer, 1e6 * gradient, BAD)  # finite, the loss was not
        step(flat, optimizer, gradient)
    torch.testing.assert_close(flat.vector.detach(), by_hand(name), rtol=1e-5, atol=1e-6)
    assert float(optimizer.learning_rate) == pytest.approx(RATES[-1])


@each
def test_the_comparison_sees_a_step_that_was_not_skipped(name: str) -> None:
    flat, optimizer = make(name)
    for number, (rate, gradient) in enumerate(zip(RATES, gradients(), strict=True)):
        optimizer.set_learning_rate(rate)
        if number == 2:
            step(flat, optimizer, 1e6 * gradient)
        step(flat, optimizer, gradient)
    assert float((flat.vector.detach() - by_hand(name)).abs().max()) > 1e-4


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "momentum", "dampening"])
@pytest.mark.parametrize("multiplier", [0.0, 4.0])
def test_multiplied_steps_are_those_of_a_group_with_its_own_learning_rate(
    name: str, multiplier: float
) -> None:
    (cls, keywords), flat, module = OPTIMIZERS[name], FlatParameters(network()), network()
    ours = PolicyOptimizer(cls, flat, 0.1, keywords, flat.parameters[-1:], multiplier)
    *rest, last = module.parameters()
    groups = [{"params": rest}, {"params": [last], "lr": 0.1 * multiplier}]
    theirs = cls(groups, lr=0.1, **keywords)
    for gradient in gradients():
        step(flat, ours, torch.full_like(gradient, torch.nan), BAD)
        step(flat, ours, gradient)
        parts = gradient.split([p.numel() for p in module.parameters()])
        for parameter, part in zip(module.parameters(), parts, strict=True):
            parameter.grad = part.clone().view_as(parameter)
        theirs.step()
    wanted = nn.utils.parameters_to_vector(module.parameters()).detach()
    torch.testing.assert_close(flat.vector.detach(), wanted, rtol=1e-5, atol=1e-6)
    assert float((wanted - by_hand(name)).abs().max()) > 1e-3  # the multiplier shows


def test_log_std_alone_is_what_the_setting_multiplies(toy: Callable[..., Config], tmp_path: Path) -> None:
    def steps(multiplier: float) -> dict[str, Tensor]:
        one = ("trainer.batch.update_epochs=1", "trainer.batch.num_minibatches=1")
        trainer = build(toy(*one, f"optimizer.log_std_multiplier={multiplier}"), tmp_path / str(multiplier))
        before = {name: p.detach().clone() for name, p in trainer.policy.named_parameters()}
        trainer.iterate()
        return {name: p.detach() - before[name] for name, p in trainer.policy.named_parameters()}

    once, fast, held = steps(1.0), steps(4.0), steps(0.0)
    assert float(once["log_std"].abs().min()) > 0
    torch.testing.assert_close(fast.pop("log_std"), 4 * once["log_std"], rtol=1e-3, atol=1e-7)
    assert not held.pop("log_std").any()
    for name, moved in fast.items():
        assert torch.equal(moved, once[name])
        assert torch.equal(held[name], moved)


@each
def test_it_goes_on_bit_for_bit_from_what_a_checkpoint_holds(name: str) -> None:
    whole, first = make(name), make(name)
    for number, (rate, gradient) in enumerate(zip(RATES, gradients(), strict=True)):
        if number == 2:
            state = plain(copy.deepcopy(first[1].state_dict()), "state")
            vector, first = first[0].vector.detach().clone(), make(name)
            first[0].vector.data.copy_(vector)
            first[1].load_state_dict(state)
            assert float(first[1].learning_rate) == pytest.approx(RATES[1])
        for flat, optimizer in (whole, first):
            optimizer.set_learning_rate(rate)
            step(flat, optimizer, gradient)
    assert torch.equal(whole[0].vector, first[0].vector)


def test_only_steps_of_one_kernel_skip_themselves() -> None:
    fused = {name for name in OPTIMIZERS if make(name)[1].fused}
    assert fused == {"Adam", "AdamW", "SGD", "momentum", "amsgrad"}


def test_undoing_a_step_reads_nothing_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    flat, optimizer = make("RMSprop", may_wait=False)
    step(flat, optimizer, gradients()[0])  # its state is not there before
    monkeypatch.setattr(Tensor, "__bool__", lambda self: pytest.fail("waits for the device"))
    step(flat, optimizer, gradients()[1], BAD)


class Unsavable(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        self.state[self.param_groups[0]["params"][0]]["history"] = {1, 2}


class Replacing(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            p.data = p.data - p.grad


class WithoutRate(torch.optim.Optimizer):
    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, {})


@pytest.mark.parametrize(
    ("cls", "keywords", "message"),
    [
        (torch.optim.LBFGS, {}, "its step computes the loss several times; the trainer computes it once"),
        (torch.optim.SparseAdam, {}, "SparseAdam does not support dense gradients"),
        (torch.optim.Muon, {}, "Muon only supports 2D parameters"),
        (torch.optim.Adam, {"betas": [0.9, 1.5]}, "Invalid beta parameter at index 1: 1.5"),
        (torch.optim.Adam, {"betas": 0.9}, "TypeError"),
        (nn.Linear, {}, "must be a torch.optim.Optimizer"),
        (Unsavable, {}, "a checkpoint cannot hold its state"),
        (Replacing, {}, "replaces the parameters' memory"),
        (WithoutRate, {}, "unexpected keyword argument 'lr'"),
    ],
)
def test_what_cannot_train_a_policy_is_refused_in_a_sentence(
    cls: Any, keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        try_out(cls, keywords, "optimizer._target_ = it")
    assert str(error.value).startswith("optimizer._target_ = it: ")
    assert "\n" not in str(error.value)


@each
def test_what_can_is_not(name: str) -> None:
    try_out(*OPTIMIZERS[name], "it")
