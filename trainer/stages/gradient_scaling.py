"""Adaptive gradient scaling: both sides of a hybrid action push in proportion to their importance.

    norm_s   = ‖∇ loss_s‖₂                                of each side s, measured in the minibatch
    ema_s    = m·ema_s + (1 − m)·norm_s                    started at the first usable norm
    scale_s  = clamp((target · unit / ema_s)^α, min, max)  unit: geometric mean of both EMAs (relative), or 1
    weight_s = base_s·scale_s / Σ base·scale

With α = 1, the default, weight_s·norm_s / base_s is the same for both sides: per unit of the importance that
was asked for, both push equally. With α = ½ only half of the difference is taken away (on a logarithmic
scale), with α = 0 none of it. The target cancels in the division by the sum unless a bound bites or
`weight_normalization` is `none`.

`GradientScaling` is a stage of the trainer, and stands on its own in any training loop:

    scaling = GradientScaling(parameters=list(policy.parameters()), warmup_steps=0)
    w_d, w_c = scaling.compute_adaptive_gradient_scaling(discrete_loss, continuous_loss)
    (w_d * discrete_loss + w_c * continuous_loss + rest).backward()
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from equipoise.envs.arguments import Count, CountOrZero, Factor, PositiveFactor, checked
from equipoise.trainer.data import Metric, Metrics, Reduction
from equipoise.trainer.stages.protocol import SIDES, Sides, WeightResult

Scale = Tensor | float


class GradientScaling:
    """Weights for the two surrogate losses from the norms of their gradients.

    Args:
        enable_adaptive_scaling: False: the base weights for ever; norms are only watched.
        gradient_norm_target: size that both gradients are scaled to before the weights are normalised.
        scaling_momentum: of the EMA, for each update; with `measure_every` k it decays by momentum^k.
        min_scaling_factor, max_scaling_factor: bounds of a side's scale.
        warmup_steps: updates, measured or not, that use the base weights while the EMAs already run.
        discrete_weight, continuous_weight: importance of each side; normalised to sum 1.
        parameters: default for the methods that take gradients by themselves.
        scaling_reference: `relative` bounds the correction, whatever the size of the gradients;
            `absolute` bounds target / ema itself, and so does nothing once both scales sit at a bound.
        weight_normalization: `sum` divides the weights by their sum; `none` lets the target act.
        scaling_exponent: α, the part of the difference between both norms that is corrected.
        balance_on: `norm` of each minibatch's gradient, signal and noise; or `signal`, what of it two
            halves of a rollout have in common (see `trainer.gradient_noise`), as every fifth iteration finds.
        norm_parameters: `all` that a side's loss reaches, or only those `shared` by both sides, where one can
            drown the other; `auto`: the shared ones if there are any, else all.
        measure_every: updates from one measurement to the next.
        monitor_every: the same where scaling is disabled; 0: never.
        audit_every: also measure every so many updates for `balance_ratio` alone, without touching the
            EMAs, so that the evidence covers minibatches that `measure_every` leaves out; 0: never.
        device: where the weights and the EMAs live; None: where the gradients turn out to be.

    Raises:
        ValueError: for a keyword out of range, both weights zero, or min > max.
    """

    @checked
    def __init__(
        self,
        enable_adaptive_scaling: bool = True,
        gradient_norm_target: PositiveFactor = 1.0,
        scaling_momentum: Annotated[float, Ge(0.0), Lt(1.0)] = 0.9,
        min_scaling_factor: PositiveFactor = 0.1,
        max_scaling_factor: PositiveFactor = 10.0,
        warmup_steps: CountOrZero = 100,
        discrete_weight: Factor = 0.7,
        continuous_weight: Factor = 0.3,
        parameters: Sequence[Tensor] | None = None,
        scaling_reference: Literal["relative", "absolute"] = "relative",
        weight_normalization: Literal["sum", "none"] = "sum",
        scaling_exponent: Annotated[float, Ge(0.0), Le(1.0)] = 1.0,
        balance_on: Literal["norm", "signal"] = "norm",
        norm_parameters: Literal["auto", "all", "shared"] = "auto",
        measure_every: Count = 1,
        monitor_every: CountOrZero = 50,
        audit_every: CountOrZero = 0,
        device: torch.device | None = None,
    ) -> None:
        total = discrete_weight + continuous_weight
        if total == 0.0:
            raise ValueError(
                "discrete_weight and continuous_weight are both 0: at least one must be positive"
            )
        if min_scaling_factor > max_scaling_factor:
            raise ValueError(
                f"min_scaling_factor = {min_scaling_factor} is greater than "
                f"max_scaling_factor = {max_scaling_factor}"
            )
        self.enabled = enable_adaptive_scaling
        self.target = gradient_norm_target
        self.momentum = scaling_momentum
        self.bounds = (min_scaling_factor, max_scaling_factor)
        self.warmup_steps = warmup_steps
        self.parameters = parameters
        self.relative = scaling_reference == "relative"
        self.normalize = weight_normalization == "sum"
        self.exponent = scaling_exponent
        self.on_signal = balance_on == "signal"
        self.norm_parameters = norm_parameters
        self.interval = measure_every if enable_adaptive_scaling else monitor_every
        self.audit_every = audit_every
        self.monitoring: dict[str, Tensor] = {}
        """Figures of the last update, device scalars; NaN where there is nothing to report."""
        base = [discrete_weight / total, continuous_weight / total]
        self._base = torch.tensor(base, dtype=torch.float64, device=device)
        self._nothing = torch.full((2,), math.nan, dtype=torch.float64, device=device)
        self._ema = self._nothing.clone()
        self._signal = self._nothing.clone()
        """EMA of the squared norms of the signal, of which single estimates may be negative."""
        self._updates = torch.zeros((), dtype=torch.int64, device=device)

    def gradients(self, sides: Sides) -> WeightResult:
        """The hook: weights of this update, measuring the gradients if it is their turn."""
        measured, audited = (e > 0 and sides.update % e == 0 for e in (self.interval, self.audit_every))
        norms, cosine = None, None
        if measured or audited:
            shared = self.norm_parameters == "shared" or (self.norm_parameters == "auto" and sides.share)
            discrete, continuous = (sides.norm(side, shared=shared) for side in SIDES)
            norms = torch.stack([discrete, continuous]).to(torch.float64)
            full = norms.prod() if not shared else sides.norm("discrete") * sides.norm("continuous")
            cosine = sides.dot() / full
        weights = self._weigh(
            norms, learn=measured and not self.on_signal, cosine=cosine, decay=self.momentum**self.interval
        )
        discrete_weight, continuous_weight = weights.unbind()
        return WeightResult(discrete_weight, continuous_weight, self._metrics())

    def observe_signal(self, norms: Tensor) -> None:
        """Take in `[2]` norms of each side's signal, negative where the estimate of their square is."""
        if not self.on_signal:
            return
        squares = (norms * norms.abs()).to(self._signal)
        smoothed = self.momentum * self._signal + (1.0 - self.momentum) * squares
        self._signal = torch.where(self._signal.isnan(), squares, smoothed)
        self._ema = torch.where(self._signal > 0, self._signal.sqrt(), self._ema)

    def compute_adaptive_gradient_scaling(
        self, discrete_loss: Tensor, continuous_loss: Tensor, parameters: Iterable[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Measure both losses' gradients and return `(discrete_weight, continuous_weight)`.

        One call is one update and always measures. The losses are scalars; their graphs are kept. Parameters
        that require no gradient (frozen layers) are left out.

        Raises:
            ValueError: neither loss has a gradient, or there are no parameters to take it for.
        """
        if not (discrete_loss.requires_grad or continuous_loss.requires_grad):
            raise ValueError(
                "discrete_loss and continuous_loss: neither has a gradient to balance; were they computed "
                "under torch.no_grad() or torch.inference_mode(), or detached?"
            )
        # A list, because the generator `module.parameters()` can be read only once.
        given = None if parameters is None else list(parameters)
        norms = [self.compute_gradient_norm(loss, given) for loss in (discrete_loss, continuous_loss)]
        weights = self._weigh(torch.stack(norms).to(torch.float64), learn=True, decay=self.momentum)
        weights = weights.to(discrete_loss.dtype)
        return weights[0], weights[1]

    def compute_gradient_norm(self, loss: Tensor, parameters: Iterable[Tensor] | None = None) -> Tensor:
        """L2 norm of the gradient of a scalar `loss` for all `parameters` that require one; keeps the graph.

        0 if the loss depends on none of them.
        """
        given = list(parameters if parameters is not None else self.parameters or ())
        if not given:
            raise ValueError("parameters: none given, neither here nor to GradientScaling(parameters=…)")
        chosen = [parameter for parameter in given if parameter.requires_grad]
        if not chosen:
            raise ValueError(f"parameters: none of the {len(given)} given requires a gradient")
        if not loss.requires_grad:
            return loss.new_zeros(())
        found = torch.autograd.grad(loss, chosen, retain_graph=True, allow_unused=True)
        squares = [torch.linalg.vector_norm(g, dtype=torch.float64).square() for g in found if g is not None]
        return torch.stack(squares).sum().sqrt() if squares else loss.new_zeros(())

    def compute_normalized_weights(
        self,
        discrete_scale: Scale,
        continuous_scale: Scale,
        base_weights: tuple[float, float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Clamp both scales to the bounds and return base weight × scale of each side.

        With `weight_normalization: sum`, the default, both are divided by their sum. Scales are tensors or
        plain numbers.
        """
        scales = torch.stack([torch.as_tensor(scale) for scale in (discrete_scale, continuous_scale)])
        base = self._base
        if base_weights is not None:  # not in the scales' own type, in which 0.7 beside whole numbers is 0
            base = torch.tensor(base_weights, dtype=base.dtype, device=scales.device)
        discrete, continuous = self._normalized(base * scales.clamp(*self.bounds)).unbind()
        return discrete, continuous

    def _normalized(self, weights: Tensor) -> Tensor:
        return weights / weights.sum() if self.normalize else weights

    def _weigh(
        self, norms: Tensor | None, *, learn: bool, decay: float, cosine: Tensor | None = None
    ) -> Tensor:
        """`[2]` weights of this update; `norms` `[2]` in float64, None where nothing was measured."""
        if norms is not None and norms.device != self._ema.device:
            self._base, self._nothing, self._ema, self._updates = (
                state.to(norms.device) for state in (self._base, self._nothing, self._ema, self._updates)
            )
        if norms is not None and learn:
            # A zero, NaN or infinite norm is a hole: it leaves this side's EMA alone, not the other's.
            usable = _usable(norms)
            smoothed = torch.where(self._ema.isnan(), norms, decay * self._ema + (1.0 - decay) * norms)
            self._ema = torch.where(usable, smoothed, self._ema)
        product = self._ema.prod()
        ready = ~product.isnan()
        unit = torch.where(ready, product.sqrt(), 1.0) if self.relative else 1.0
        wanted = (self.target * unit / self._ema).pow(self.exponent).nan_to_num(nan=1.0)
        scales = wanted.clamp(*self.bounds)
        active = ready & (self._updates >= self.warmup_steps) & self.enabled
        weights = torch.where(active, self._normalized(self._base * scales), self._base)
        clamped = torch.where(active, (wanted != scales).double(), self._nothing)
        self._monitor(norms, weights, scales, clamped)
        self.monitoring["gradient_scaling_active"] = active.to(torch.float64)
        self.monitoring["gradient_cosine"] = cosine if cosine is not None else self._nothing[0]
        self._updates = self._updates + 1
        return weights

    def _monitor(self, norms: Tensor | None, weights: Tensor, scales: Tensor, clamped: Tensor) -> None:
        raw, effective = self._nothing if norms is None else norms, weights * self._ema
        pairs = {
            "weight_used": weights,
            "grad_norm": self._ema,
            "norm_raw": raw,
            "scale": scales,
            "clamped": clamped,
            "effective_norm": effective,
            "unusable_norms": raw if norms is None else (~_usable(norms)).double(),
        }
        progress = self._updates / self.warmup_steps if self.warmup_steps else torch.ones_like(raw[0])
        pushes = torch.stack([weights * raw / self._base, raw, effective / self._base])
        ratios = pushes[:, 0] / pushes[:, 1]
        ratios = torch.where(_usable(ratios), ratios, math.nan)
        self.monitoring = {
            f"{side}_{name}": metric
            for name, pair in pairs.items()
            for side, metric in zip(SIDES, pair.unbind(), strict=True)
        }
        self.monitoring["warmup_progress"] = progress.clamp(max=1.0)
        self.monitoring.update(zip(_RATIOS, ratios.unbind(), strict=True))

    def _metrics(self) -> Metrics:
        return {
            f"gradient_scaling/{name}": Metric(value, _REDUCTIONS.get(name, "mean"))
            for name, value in self.monitoring.items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {"ema": self._ema.clone(), "updates": self._updates.clone(), "signal": self._signal.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._ema = state["ema"].to(self._ema)
        self._updates = state["updates"].to(self._updates)
        self._signal = state.get("signal", self._nothing).to(self._signal)


def _usable(norms: Tensor) -> Tensor:
    """Where they are positive and finite."""
    return (norms > 0.0) & (norms < math.inf)


_RATIOS = ("balance_ratio", "balance_ratio_before", "balance_ratio_ema")
_REDUCTIONS: dict[str, Reduction] = {
    "discrete_unusable_norms": "sum",
    "continuous_unusable_norms": "sum",
    "discrete_grad_norm": "last",
    "continuous_grad_norm": "last",
    "warmup_progress": "last",
    **dict.fromkeys(_RATIOS, "geometric_mean"),
}
