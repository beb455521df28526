"""A discrete loss of the wrong size, on purpose, as a test for gradient scaling."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from equipoise.envs.arguments import checked
from equipoise.trainer.stages.protocol import LossState


class DiscreteLossFactor:
    """A loss stage that multiplies the discrete surrogate by `factor`."""

    @checked
    def __init__(self, *, factor: Annotated[float, Gt(0)]) -> None:
        self.factor = factor

    def losses(self, state: LossState) -> LossState:
        term = state.terms["discrete"]
        return state.with_term("discrete", term._replace(values=self.factor * term.values))
