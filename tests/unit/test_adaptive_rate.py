"""The learning rate that follows the KL divergence: values by hand, in updates, resumed, refused."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from equipoise.trainer.adaptive_rate import AdaptiveRate
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.resuming import resumed
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.loop import Trainer

Toy = Callable[..., Config]
FOLLOWING = ("optimizer=adam_kl", "trainer.batch.update_epochs=2", "trainer.batch.num_minibatches=2")


@pytest.mark.parametrize(
    ("kl", "rate", "then"),
    [
        (0.0201, 3e-3, 2e-3),  # more than twice 0.01: divided by 1.5
        (0.0199, 3e-3, 3e-3),
        (0.0051, 3e-3, 3e-3),
        (0.0049, 3e-3, 4.5e-3),  # less than half: times 1.5
        (0.0, 3e-3, 4.5e-3),
        (1.0, 1.2e-5, 1e-5),  # within its bounds
        (0.0, 9e-3, 1e-2),
        (float("nan"), 3e-3, 3e-3),
        (float("inf"), 3e-3, 3e-3),
    ],
)
def test_by_hand(kl: float, rate: float, then: float) -> None:
    following = AdaptiveRate(0.01, 1e-5, 1e-2)
    assert float(following.after(torch.tensor(rate), torch.tensor(kl))) == pytest.approx(then, rel=1e-6)


def rates(trainer: Trainer, iterations: int) -> list[float]:
    return [trainer.iterate()["optimizer/learning_rate"] for _ in range(iterations)]


def test_it_rises_once_for_each_update_but_the_first_of_an_iteration(toy: Toy, tmp_path: Path) -> None:
    """The first update of an iteration finds a divergence of 0 whatever the rate is: it says nothing. Of four
    updates three change the rate."""
    wanted = ("optimizer.desired_kl=1e9", "optimizer.learning_rate=1e-5")
    trainer = build(toy(*FOLLOWING, *wanted), tmp_path)
    assert rates(trainer, 2) == pytest.approx([1e-5 * 1.5**3, 1e-5 * 1.5**6], rel=1e-5)
    # Of one update in an iteration nothing can be known.
    alone = build(toy(*FOLLOWING[:1], *wanted, *ONE), tmp_path / "one")
    assert rates(alone, 2) == pytest.approx([1e-5, 1e-5])


ONE = ("trainer.batch.update_epochs=1", "trainer.batch.num_minibatches=1")


@pytest.mark.parametrize("optimizer", ["torch.optim.Adam", "torch.optim.RMSprop"])
def test_it_falls_where_the_policy_moves_too_far_and_the_optimizer_hears_of_it(
    toy: Toy, tmp_path: Path, optimizer: str
) -> None:
    """Fused, with the rate on the device, and not, where it is a number."""
    more = ("optimizer.desired_kl=1e-12", "optimizer.learning_rate=1e-2", f"optimizer._target_={optimizer}")
    trainer = build(toy(*FOLLOWING, *more), tmp_path)
    assert rates(trainer, 1) == pytest.approx([1e-2 / 1.5**3], rel=1e-5)
    group = trainer.learner.optimizer.inner.param_groups[0]
    assert float(group["lr"]) == float(trainer.learner.learning_rate)


@pytest.mark.parametrize("optimizer", ["torch.optim.Adam", "torch.optim.RMSprop"])
def test_it_is_resumed_exactly(toy: Toy, tmp_path: Path, optimizer: str) -> None:
    config = toy(*FOLLOWING, "optimizer.desired_kl=1e-3", f"optimizer._target_={optimizer}")
    whole, half, rest = (build(config, tmp_path / name) for name in "abc")
    expected = rates(whole, 4)
    assert len(set(expected)) > 1
    rates(half, 2)
    rest.load_state_dict(deepcopy(half.state_dict()))
    assert rates(rest, 2) == expected[2:]
    assert torch.equal(rest.learner.flat.vector, whole.learner.flat.vector)


def test_a_rate_that_is_typed_when_the_run_goes_on_counts(toy: Toy, tmp_path: Path) -> None:
    trainer = build(toy(*FOLLOWING, "optimizer.desired_kl=1e9"), tmp_path / "a")
    rates(trainer, 1)
    state: Any = deepcopy(trainer.state_dict())
    config = resumed(state["config"], {"optimizer.learning_rate": 2e-5}, "x", ["tests"])
    again = build(config, tmp_path / "b", state)
    assert rates(again, 1) == pytest.approx([2e-5 * 1.5**3], rel=1e-5)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["optimizer.desired_kl=0.01"], "optimizer.anneal = true: must be false with optimizer.desired_kl"),
        (
            ["optimizer=adam_kl", "optimizer.learning_rate=0.1"],
            "optimizer.learning_rate = 0.1: must be between learning_rate_min (1e-05) and learning_rate_max (0.01)",
        ),
        (["optimizer=adam_kl", "optimizer.desired_kl=0"], "optimizer.desired_kl = 0: must be a number > 0"),
    ],
)
def test_what_does_not_go_together_is_one_message(typed: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose(typed)
    assert said in str(error.value)
