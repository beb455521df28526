"""The stages of a run, in order, each at its hook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.trainer.contracts import HOOKS
from equipoise.trainer.stages.protocol import (
    AdvantageStage,
    GradientStage,
    LossStage,
    LossState,
    RewardStage,
    Stage,
)


class StageOrderError(ValueError):
    """The list of stages cannot run as it stands."""


def hook(name: str, kind: type) -> str:
    """The hook at which a stage class acts: the one of the four methods that it has."""
    found = [method for method in HOOKS if callable(getattr(kind, method, None))]
    if len(found) != 1:
        has = " and ".join(f"{method}()" for method in found) or "none"
        raise StageOrderError(
            f"trainer.stages: {name!r} ({kind.__qualname__}) has {has} of the methods {', '.join(HOOKS)}; "
            "a stage has exactly one, which says when it runs"
        )
    return found[0]


def check_order(kinds: Mapping[str, type], names: Sequence[str]) -> None:
    """Refuse a list that has a stage twice, two stages for an exclusive hook, or a wrong order.

    Rewards come before advantages, these before losses, and gradients last of all; loss stages run in the
    order given.

    Raises:
        StageOrderError: names both stages and an order that works.
    """
    if not names:
        raise StageOrderError("trainer.stages: the list is empty; name at least one stage")
    hooks = {name: hook(name, kinds[name]) for name in names}
    working = _working_order(hooks)
    for index, later in enumerate(names):
        for earlier in names[:index]:
            if earlier == later:
                raise StageOrderError(
                    f"trainer.stages: {later!r} is listed twice; an order that works: {working}"
                )
            if hooks[earlier] == hooks[later] and hooks[later] != "losses":
                raise StageOrderError(
                    f"trainer.stages: {earlier!r} and {later!r} both act on the {hooks[later]}, which only "
                    f"one stage can; an order that works: {working}"
                )
            if HOOKS.index(hooks[earlier]) > HOOKS.index(hooks[later]):
                raise StageOrderError(
                    f"trainer.stages: {earlier!r} (acts on the {hooks[earlier]}) stands before {later!r} "
                    f"(acts on the {hooks[later]}); an order that works: {working}"
                )


def _working_order(hooks: Mapping[str, str]) -> list[str]:
    """The same stages in an order that works; of those that compete for a hook only the first."""
    kept: dict[str, str] = {}
    for name, when in hooks.items():
        kept.setdefault(name if when == "losses" else when, name)
    return sorted(kept.values(), key=lambda name: HOOKS.index(hooks[name]))


class Pipeline:
    """The stages by name, in the order in which they run, which `check_order` has accepted.

    Raises:
        StageOrderError: an advantage stage does not say whether it needs the task's advantage.
    """

    def __init__(self, stages: Mapping[str, Stage]) -> None:
        self.stages = dict(stages)
        for name, stage in stages.items():
            if callable(getattr(stage, "advantages", None)) and not isinstance(stage, AdvantageStage):
                raise StageOrderError(
                    f"trainer.stages: {name!r} ({type(stage).__qualname__}) has advantages() and lacks the "
                    "attribute needs_task_advantage, True or False"
                )
        self.rewards = next((s for s in stages.values() if isinstance(s, RewardStage)), None)
        self.advantages = next((s for s in stages.values() if isinstance(s, AdvantageStage)), None)
        self._losses = [s for s in stages.values() if isinstance(s, LossStage)]
        self.gradients = next((s for s in stages.values() if isinstance(s, GradientStage)), None)
        self.of_updates = [s for s in stages.values() if isinstance(s, LossStage | GradientStage)]
        """Those that act in every minibatch."""

    def num_values(self, num_components: int) -> int:
        """How many heads the critic needs: one more than components where the task's advantage is wanted."""
        return num_components + (self.advantages is not None and self.advantages.needs_task_advantage)

    def losses(self, state: LossState) -> LossState:
        for stage in self._losses:
            state = stage.losses(state)
        return state

    def state_dict(self) -> dict[str, Any]:
        """The state of every stage that has one."""
        return {name: s.state_dict() for name, s in self.stages.items() if hasattr(s, "state_dict")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, stage in self.stages.items():
            if hasattr(stage, "load_state_dict") and name in state:
                stage.load_state_dict(state[name])
