"""The document's way to scale gradients, kept for comparison: two more backward passes in every update."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from equipoise.trainer.data import Metric, Term
from equipoise.trainer.stages.gradient_scaling import GradientScaling
from equipoise.trainer.stages.protocol import SIDES, LossState, reduce_term


class NaiveScaling:
    """A loss stage that takes both surrogates' gradients in full for their norms, throws them away, and
    leaves the weighted loss to yet another backward pass.

    It takes the place of `gradient_scaling`: the trainer then applies the base weights, so each surrogate is
    multiplied with weight / base weight. `parameters` has to be filled in once the policy is built.
    """

    def __init__(
        self,
        discrete_weight: Annotated[float, Ge(0.0)] = 0.7,
        continuous_weight: Annotated[float, Ge(0.0)] = 0.3,
    ) -> None:
        total = discrete_weight + continuous_weight
        self.base = (discrete_weight / total, continuous_weight / total)
        self.scaling = GradientScaling(discrete_weight=discrete_weight, continuous_weight=continuous_weight)
        self.parameters: list[Tensor] = []

    def losses(self, state: LossState) -> LossState:
        discrete, continuous = (reduce_term(state.terms[side]) for side in SIDES)
        weights = self.scaling.compute_adaptive_gradient_scaling(discrete, continuous, self.parameters)
        figures = {
            f"gradient_scaling/{name}": Metric(value) for name, value in self.scaling.monitoring.items()
        }
        for side, loss, weight, base in zip(SIDES, (discrete, continuous), weights, self.base, strict=True):
            state = state.with_term(side, Term(loss * (weight / base)))
        return replace(state, metrics={**state.metrics, **figures})
