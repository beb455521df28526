from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.data import Rollout
from equipoise.trainer.stages.advantage_weighting import AdvantageWeighting
from equipoise.trainer.stages.entropy_regularization import EntropyRegularization
from equipoise.trainer.stages.gradient_scaling import GradientScaling
from equipoise.trainer.stages.pipeline import Pipeline, StageOrderError, check_order, hook
from equipoise.trainer.stages.protocol import (
    AdvantageResult,
    LossState,
    Probe,
    RewardResult,
    Sides,
    WeightResult,
)
from equipoise.trainer.stages.reward_normalization import RewardNormalization
from equipoise.trainer.stages.value_clipping import ValueClipping
from tests.toy_env import ToyEnv

KINDS: dict[str, type] = {
    "reward_normalization": RewardNormalization,
    "advantage_weighting": AdvantageWeighting,
    "value_clipping": ValueClipping,
    "entropy_regularization": EntropyRegularization,
    "gradient_scaling": GradientScaling,
}


class Rewards:
    def rewards(self, rollout: Rollout) -> RewardResult:
        raise NotImplementedError


class Advantages:
    needs_task_advantage = False

    def advantages(self, rollout: Rollout, probe: Probe) -> AdvantageResult:
        raise NotImplementedError


class Losses:
    def losses(self, state: LossState) -> LossState:
        return state


class Gradients:
    def gradients(self, sides: Sides) -> WeightResult:
        raise NotImplementedError


def accepted(names: list[str], kinds: Mapping[str, type] = KINDS) -> bool:
    try:
        check_order(kinds, names)
    except StageOrderError:
        return False
    return True


def message(names: list[str], kinds: Mapping[str, type] = KINDS) -> str:
    with pytest.raises(StageOrderError) as error:
        check_order(kinds, names)
    return str(error.value)


def suggestion(text: str) -> list[str]:
    """The list that a message ends with."""
    names: list[str] = ast.literal_eval(text.rpartition("an order that works: ")[2])
    return names


def test_of_120_orders_two_are_accepted() -> None:
    good = [order for order in permutations(KINDS) if accepted(list(order))]
    first, second, *clipping_and_entropy, last = KINDS
    assert good == [
        (first, second, *clipping_and_entropy, last),
        (first, second, *clipping_and_entropy[::-1], last),
    ]


def test_any_of_the_five_may_be_left_out() -> None:
    for left_out in KINDS:
        assert accepted([name for name in KINDS if name != left_out])


def test_a_wrong_order_names_both_stages_and_an_order_that_works() -> None:
    text = message(["gradient_scaling", "value_clipping"])
    assert "'gradient_scaling' (acts on the gradients) stands before 'value_clipping'" in text
    assert suggestion(text) == ["value_clipping", "gradient_scaling"]


def test_a_wrong_order_is_refused_before_an_environment_is_made(
    toy: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("no environment should have been made")

    monkeypatch.setattr(ToyEnv, "__init__", forbidden)
    with pytest.raises(StageOrderError, match="'gradient_scaling' .* stands before 'value_clipping'"):
        build(toy("trainer.stages=[gradient_scaling,value_clipping]"), tmp_path)


def test_a_stage_twice() -> None:
    text = message(["value_clipping", "gradient_scaling", "value_clipping"])
    assert "'value_clipping' is listed twice" in text
    assert suggestion(text) == ["value_clipping", "gradient_scaling"]


@pytest.mark.parametrize(
    ("kind", "what"), [(Rewards, "rewards"), (Advantages, "advantages"), (Gradients, "gradients")]
)
def test_two_stages_for_an_exclusive_hook(kind: type, what: str) -> None:
    text = message(["mine", "yours"], {"mine": kind, "yours": kind})
    assert f"'mine' and 'yours' both act on the {what}" in text
    assert suggestion(text) == ["mine"]


def test_the_losses_belong_to_as_many_as_like() -> None:
    check_order({"mine": Losses, "yours": Losses}, ["yours", "mine"])


@given(st.lists(st.sampled_from(["r1", "r2", "r3", "a1", "l1", "l2", "g1", "g2"]), min_size=1))
def test_the_order_that_a_message_suggests_works(names: list[str]) -> None:
    by_letter = {"r": Rewards, "a": Advantages, "l": Losses, "g": Gradients}
    kinds = {name: by_letter[name[0]] for name in names}
    if not accepted(names, kinds):
        suggested = suggestion(message(names, kinds))
        check_order(kinds, suggested)
        assert {name[0] for name in suggested} == {name[0] for name in names}


def test_an_empty_list_is_refused() -> None:
    assert "the list is empty" in message([])


def test_a_class_has_exactly_one_of_the_methods() -> None:
    class Nothing:
        gradients = None  # an attribute of that name is no method

    class Both(Rewards, Losses):
        pass

    assert hook("mine", Losses) == "losses"
    with pytest.raises(
        StageOrderError, match=r"'mine' \(.*Nothing\) has none of the methods rewards, advant"
    ):
        hook("mine", Nothing)
    with pytest.raises(StageOrderError, match=r"'mine' \(.*Both\) has rewards\(\) and losses\(\)"):
        hook("mine", Both)


def test_an_advantage_stage_says_whether_it_needs_the_task() -> None:
    class Silent:
        def advantages(self, rollout: Rollout, probe: Probe) -> AdvantageResult:
            raise NotImplementedError

    with pytest.raises(StageOrderError, match=r"'mine' \(.*Silent\) .* lacks .* needs_task_advantage"):
        Pipeline({"mine": Silent()})  # type: ignore[dict-item]


class Named(Losses):
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def losses(self, state: LossState) -> LossState:
        self.log.append(self.name)
        return state

    def state_dict(self) -> dict[str, Any]:
        return {"name": self.name}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.name = state["name"]


def test_every_stage_is_at_its_place_and_loss_stages_run_in_order() -> None:
    log: list[str] = []
    rewards, advantages, gradients = Rewards(), Advantages(), Gradients()
    pipeline = Pipeline(
        {"r": rewards, "a": advantages, "second": Named("2", log), "first": Named("1", log), "g": gradients}
    )
    assert (pipeline.rewards, pipeline.advantages, pipeline.gradients) == (rewards, advantages, gradients)
    pipeline.losses(None)  # type: ignore[arg-type]
    assert log == ["2", "1"]
    alone = Pipeline({"first": Named("1", log)})
    assert (alone.rewards, alone.advantages, alone.gradients) == (None, None, None)


def test_state_of_the_stages_that_have_one() -> None:
    pipeline = Pipeline({"r": Rewards(), "mine": Named("before", [])})
    state = pipeline.state_dict()
    assert state == {"mine": {"name": "before"}}
    fresh = Named("after", [])
    Pipeline({"mine": fresh, "g": Gradients()}).load_state_dict(state)
    assert fresh.name == "before"


def test_value_clipping_and_entropy_commute(toy: Callable[..., Config], tmp_path: Path) -> None:
    """Both accepted orders give the same gradients bit for bit, over a whole iteration."""
    found = []
    for name, order in (
        ("a", "value_clipping,entropy_regularization"),
        ("b", "entropy_regularization,value_clipping"),
    ):
        stages = f"trainer.stages=[reward_normalization,advantage_weighting,{order},gradient_scaling]"
        trainer = build(toy(stages, "trainer.gradient_scaling.warmup_steps=1"), tmp_path / name)
        trainer.iterate()
        vector = trainer.learner.flat.vector
        assert vector.grad is not None
        found.append((vector.detach(), vector.grad))
    (first, first_gradient), (second, second_gradient) = found
    assert first_gradient.any()
    assert torch.equal(first_gradient, second_gradient)
    assert torch.equal(first, second)
