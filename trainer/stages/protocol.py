"""The four hooks of an iteration at which a stage may act.

    collect → rewards → values → GAE → advantages → [forward → surrogates → losses → gradients → step] …

A stage is any class with one of the four methods below; which one it has says when it runs. It takes
keywords (never the whole configuration), may have `state_dict`/`load_state_dict` (then it is in the
checkpoint), and returns its metrics as device scalars with its result. `trainer.stages` lists the stages
by name, in the order in which they run; each name is a section of `trainer` with a `_target_`.

`losses` may be implemented by any number of stages; each of the other three hooks belongs to one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from equipoise.trainer.data import Metric, Metrics, Minibatch, Rollout, Targets, Term
from equipoise.trainer.system import distributed

if TYPE_CHECKING:
    from equipoise.trainer.policy.distributions import HybridDistribution


Side = Literal["discrete", "continuous"]
SIDES: tuple[Side, Side] = ("discrete", "continuous")


class RewardResult(NamedTuple):
    rewards: Tensor
    """`[T, N, K]`: what the critic is trained on."""
    factor: Tensor
    """`[K]`: what every reward of a component was multiplied with, where that is one number for the whole
    rollout and the task is to be preserved; 1 otherwise. The loop divides the advantages by it."""
    metrics: Metrics = {}
    applied: Tensor | None = None
    """`[K]`: what every reward was multiplied with, the task preserved or not; None where that is not one
    number for the whole rollout. Values are logged in raw units by it."""


class AdvantageResult(NamedTuple):
    advantages: Tensor
    """`[T, N]`, before standardisation."""
    metrics: Metrics = {}


class WeightResult(NamedTuple):
    discrete: Tensor
    """Device scalar: the weight of the discrete surrogate in the loss."""
    continuous: Tensor
    """Device scalar: the weight of the continuous surrogate in the loss."""
    metrics: Metrics = {}


def _nowhere(observations: Tensor, mask: Tensor, choices: Tensor) -> HybridDistribution:
    raise RuntimeError("this state was made without a policy")


@dataclass(frozen=True)
class LossState:
    """One minibatch on its way through the loss stages. Frozen: a stage returns a new one."""

    batch: Minibatch
    distribution: HybridDistribution
    """Of the policy as it is now, for the samples of `batch`."""
    values: Tensor
    """`[B, V]` of the critic as it is now, in normalised units."""
    terms: Mapping[str, Term]
    """`discrete`, `continuous` and `value` from the core; a stage may replace `value` and add others.
    `discrete` and `continuous` get their weights from the gradient stage, `value` the value coefficient."""
    progress: Tensor
    """Device scalar: the fraction of the run that is done, 0 to 1."""
    side_scale: tuple[Tensor, Tensor]
    """Device scalars: the weight over its base weight that each side (discrete, continuous) had in the
    previous update; 1 at first."""
    metrics: Metrics
    policy_at: Callable[[Tensor, Tensor, Tensor], HybridDistribution] = _nowhere
    """The policy as it is now elsewhere: for raw observations `[B', O]`, a mask and the choices that were
    taken there."""

    def with_term(self, name: str, term: Term, metrics: Metrics | None = None) -> LossState:
        """This state with the term `name` added or replaced, and more metrics."""
        return replace(self, terms={**self.terms, name: term}, metrics={**self.metrics, **(metrics or {})})


class Sides(Protocol):
    """The gradients of the two surrogates, measured only if somebody asks."""

    update: int
    """The number of this optimizer step since training began, from 0."""

    share: bool
    """Whether there are parameters that both surrogates reach."""

    def norm(self, name: Side, *, shared: bool = False) -> Tensor:
        """Device scalar: the L2 norm of one surrogate's gradient, over all processes; with `shared` only
        that of the parameters which both surrogates reach."""
        ...

    def dot(self) -> Tensor:
        """Device scalar: the inner product of the two gradients."""
        ...


class Probe(Protocol):
    """A narrow view of the policy for stages that compare advantages by the gradients they cause."""

    def cosines(self, reference: Tensor, candidates: Tensor) -> Tensor:
        """`[K]` cosines between the policy gradient of `reference` `[T, N]` and those of `candidates`
        `[T, N, K]`, taken on disjoint halves of the environments (on the same samples the noise of the
        two would correlate with itself)."""
        ...


@runtime_checkable
class RewardStage(Protocol):
    def rewards(self, rollout: Rollout) -> RewardResult:
        """Transform `rollout.rewards`; must not write into the rollout."""
        ...


@runtime_checkable
class AdvantageStage(Protocol):
    needs_task_advantage: bool
    """True: the critic gets one more head, and `targets.task_advantages` is there."""

    def advantages(self, targets: Targets, probe: Probe) -> AdvantageResult:
        """Make one advantage of the K in `targets.advantages`."""
        ...


@runtime_checkable
class LossStage(Protocol):
    def losses(self, state: LossState) -> LossState: ...


@runtime_checkable
class GradientStage(Protocol):
    def gradients(self, sides: Sides) -> WeightResult:
        """Weigh the two sides of one update."""
        ...


@runtime_checkable
class SignalStage(Protocol):
    """A gradient stage that also wants to know how much of both gradients is signal."""

    def observe_signal(self, norms: Tensor) -> None:
        """`[2]`: `‖E g‖` of the discrete and the continuous surrogate's gradient, in some iterations before
        their first update; negative where there was more noise than signal to be seen."""
        ...


Stage = RewardStage | AdvantageStage | LossStage | GradientStage


def reduce_terms(terms: Mapping[str, Term]) -> dict[str, Tensor]:
    """Σ values·mask ÷ Σ mask over all processes, each as a scalar; 0 where nothing is active.

    Each process returns its share, scaled so that the mean over processes (which is what the gradient
    all-reduce takes) is the global metric. What lies outside the mask may be anything, NaN included.
    """
    masks = {n: term.mask.expand_as(term.values) for n, term in terms.items() if term.mask is not None}
    sums = [mask.sum().to(terms[name].values.dtype) for name, mask in masks.items()]
    counts = distributed.all_reduce_means(sums)
    active = dict(zip(masks, counts, strict=True))
    # Where no entry is active the sum is an exact zero, whatever it is divided by.
    least = 1.0 / distributed.world_size()
    return {
        name: torch.where(masks[name], term.values, 0.0).sum() / active[name].clamp(min=least)
        if name in masks
        else (term.values.mean() if term.values.dim() else term.values)
        for name, term in terms.items()
    }


def reduce_term(term: Term) -> Tensor:
    """`reduce_terms` of a single one."""
    return reduce_terms({"": term})[""]


def mean_metric(term: Term) -> Metric:
    """The reduced term as a metric, NaN where nothing was active."""
    values, mask = term.values.detach(), term.mask
    if mask is None:
        return Metric(values.mean())
    mask = mask.expand_as(values)
    return Metric(torch.where(mask, values, 0.0).sum() / mask.sum())
