from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.gradients import FlatParameters, SideGradients
from equipoise.trainer.monitor.outcome import summarize
from equipoise.trainer.stages.gradient_scaling import GradientScaling
from equipoise.trainer.stages.protocol import WeightResult

SIDES = ("discrete", "continuous")
NAN, INF = math.nan, math.inf
Pair = tuple[float, float]


def build_scaling(kind: type[GradientScaling] = GradientScaling, **keywords: Any) -> GradientScaling:
    """As the document has it: absolute, and no warm-up unless asked for."""
    document = {"scaling_reference": "absolute", "norm_parameters": "all", "warmup_steps": 0}
    return kind(**{**document, **keywords})


def push(scaling: GradientScaling, norms: Pair, dtype: torch.dtype = torch.float64) -> Pair:
    """One update with two losses that have exactly these gradient norms; returns the weights."""
    parameters = [torch.ones((), dtype=dtype, requires_grad=True) for _ in SIDES]
    discrete, continuous = (norm * parameter for norm, parameter in zip(norms, parameters, strict=True))
    weights = scaling.compute_adaptive_gradient_scaling(discrete, continuous, parameters)
    return weights[0].item(), weights[1].item()


def metrics(scaling: GradientScaling, name: str) -> list[float]:
    return [scaling.monitoring[f"{side}_{name}"].item() for side in SIDES]


class Step(NamedTuple):
    """What one update must give. None: nothing to report."""

    norms: Pair
    ema: tuple[float | None, float | None]
    scales: Pair
    weights: Pair
    balance_ratio: float | None
    active: bool = True


class Case(NamedTuple):
    keywords: dict[str, Any]
    steps: Sequence[Step]


def single(norms: Pair, scales: Pair, weights: Pair, balance_ratio: float, **keywords: Any) -> Case:
    return Case(keywords, [Step(norms, norms, scales, weights, balance_ratio)])


def stored_sequences() -> dict[str, Case]:
    path = Path(__file__).parents[1] / "golden" / "gradient_scaling_sequences.json"
    fields = Step._fields
    return {
        name: Case(entry["settings"], [Step(**{f: step[f] for f in fields}) for step in entry["steps"]])
        for name, entry in json.loads(path.read_text()).items()
    }


TYPICAL = (5.2, 0.8)
TYPICAL_SCALES, TYPICAL_WEIGHTS = (0.1923076923076923, 1.25), (0.26415094339622636, 0.7358490566037736)
CASES = {
    "typical": single(TYPICAL, TYPICAL_SCALES, TYPICAL_WEIGHTS, 1.0),
    "typical_relative": single(
        TYPICAL,
        (0.3922322702763681, 2.5495097567963922),
        TYPICAL_WEIGHTS,
        1.0,
        scaling_reference="relative",
    ),
    "typical_unnormalised": single(
        TYPICAL, TYPICAL_SCALES, (0.13461538461538458, 0.375), 1.0, weight_normalization="none"
    ),
    "equal_importance": single(
        TYPICAL,
        TYPICAL_SCALES,
        (0.13333333333333333, 0.8666666666666667),
        1.0,
        discrete_weight=0.5,
        continuous_weight=0.5,
    ),
    # √: the scales' ratio is √6.5 in place of 6.5, and so is what is left of the imbalance.
    "half_of_it": single(
        TYPICAL,
        (0.6262844962765469, 1.59671843378737),
        (0.4778636729183412, 0.5221363270816589),
        2.5495097567963922,
        scaling_reference="relative",
        scaling_exponent=0.5,
    ),
    "none_of_it": single(TYPICAL, (1.0, 1.0), (0.7, 0.3), 6.5, scaling_exponent=0.0),
    # Only the discrete scale hits its bound (0.0667 → 0.1).
    "very_imbalanced": single((15.0, 0.2), (0.1, 5.0), (0.044585987261146494, 0.9554140127388535), 1.5),
    "both_small": single((0.10, 0.05), (10.0, 10.0), (0.7, 0.3), 2.0),
    "both_tiny_absolute_is_inert": single((0.013, 0.002), (10.0, 10.0), (0.7, 0.3), 6.5),
    "both_tiny_relative_balances": single(
        (0.013, 0.002),
        (0.39223227027636803, 2.5495097567963922),
        (0.2641509433962264, 0.7358490566037735),
        1.0,
        scaling_reference="relative",
    ),
    "holes": Case(
        {},
        [
            Step(TYPICAL, TYPICAL, TYPICAL_SCALES, TYPICAL_WEIGHTS, 1.0),
            Step(
                (0.0, 0.9),
                (5.2, 0.81),
                (0.1923076923076923, 1.2345679012345678),
                (0.26657263751763044, 0.7334273624823696),
                None,
            ),
            Step(
                (4.0, NAN),
                (5.08, 0.81),
                (0.19685039370078738, 1.2345679012345678),
                (0.2711621233859397, 0.7288378766140603),
                None,
            ),
            Step(
                (INF, 0.7),
                (5.08, 0.799),
                (0.19685039370078738, 1.2515644555694618),
                (0.2684682954927278, 0.7315317045072721),
                None,
            ),
            Step(
                (6.0, 0.5),
                (5.172, 0.7691000000000001),
                (0.19334880123743234, 1.3002210375763879),
                (0.25759699899998567, 0.7424030010000143),
                1.7844547563805109,
            ),
        ],
    ),
    "first_norm_missing": Case(
        {},
        [
            Step((5.2, 0.0), (5.2, None), (0.1923076923076923, 1.0), (0.7, 0.3), None, active=False),
            Step(
                (5.0, 0.8),
                (5.180000000000001, 0.8),
                (0.19305019305019303, 1.25),
                (0.2649006622516556, 0.7350993377483445),
                0.9652509652509651,
            ),
            Step(
                (5.2, 0.7),
                (5.182, 0.79),
                (0.19297568506368196, 1.2658227848101264),
                (0.26238375403302333, 0.7376162459669767),
                1.1324915917737222,
            ),
        ],
    ),
    # EMA ½·20 + ½·2 = 11, scale 1/11 → 0.1; were the norm bounded first, ½·10 + ½·2 = 6 and a scale of 1/6.
    "bounds_after_smoothing": Case(
        {"scaling_momentum": 0.5},
        [
            Step((20.0, 0.8), (20.0, 0.8), (0.1, 1.25), (0.07 / 0.445, 0.375 / 0.445), 0.1 * 20),
            Step((2.0, 0.8), (11.0, 0.8), (0.1, 1.25), (0.07 / 0.445, 0.375 / 0.445), 0.1 * 2),
        ],
    ),
    **stored_sequences(),
}


def departures(kind: type[GradientScaling]) -> set[str]:
    """The cases in which `kind` gives anything but the reference numbers."""
    return {name for name, case in CASES.items() if not follows(kind, case)}


def follows(kind: type[GradientScaling], case: Case, tolerance: float = 1e-12) -> bool:
    scaling = build_scaling(kind, **case.keywords)
    for step in case.steps:
        weights = push(scaling, step.norms)
        active = scaling.monitoring["gradient_scaling_active"].item()
        effective = [NAN if e is None else w * e for w, e in zip(step.weights, step.ema, strict=True)]
        for found, expected in (
            (weights, step.weights),
            (metrics(scaling, "weight_used"), step.weights),
            (metrics(scaling, "grad_norm"), step.ema),
            (metrics(scaling, "scale"), step.scales),
            (metrics(scaling, "effective_norm"), effective),
            ([scaling.monitoring["balance_ratio"].item()], [step.balance_ratio]),
            ([active], [float(step.active)]),
        ):
            wanted = [NAN if number is None else number for number in expected]
            if list(found) != pytest.approx(wanted, rel=tolerance, abs=tolerance, nan_ok=True):
                return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_reference_numbers(name: str) -> None:
    assert follows(GradientScaling, CASES[name])


class EmaFromZero(GradientScaling):
    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._ema = torch.zeros_like(self._ema)


class MomentumSwapped(GradientScaling):
    def _weigh(self, norms: Tensor | None, *, decay: float, **rest: Any) -> Tensor:
        return super()._weigh(norms, decay=1.0 - decay, **rest)


class ClampedBeforeEma(GradientScaling):
    def _weigh(self, norms: Tensor | None, **rest: Any) -> Tensor:
        assert norms is not None
        low, high = self.bounds
        bounded = norms.clamp(self.target / high, self.target / low)
        return super()._weigh(torch.where(norms > 0, bounded, norms), **rest)


class BaseTwice(GradientScaling):
    def _normalized(self, weights: Tensor) -> Tensor:
        return super()._normalized(self._base * weights)


class NotNormalized(GradientScaling):
    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.normalize = False


class WarmupOneShort(GradientScaling):
    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.warmup_steps -= 1


class WarmupOneLong(GradientScaling):
    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.warmup_steps += 1


class EmaIdleInWarmup(GradientScaling):
    def _weigh(self, norms: Tensor | None, *, learn: bool, **rest: Any) -> Tensor:
        warm = bool(self._updates >= self.warmup_steps)
        return super()._weigh(norms, learn=learn and warm, **rest)


class HoleFreezesBoth(GradientScaling):
    def _weigh(self, norms: Tensor | None, *, learn: bool, **rest: Any) -> Tensor:
        assert norms is not None
        return super()._weigh(norms, learn=learn and bool((norms.isfinite() & (norms > 0)).all()), **rest)


class HoleCountsAsNought(GradientScaling):
    def _weigh(self, norms: Tensor | None, **rest: Any) -> Tensor:
        assert norms is not None
        return super()._weigh(norms.nan_to_num(0.0, 0.0).clamp(min=1e-8), **rest)


@pytest.mark.parametrize(
    ("wrong", "caught_by"),
    [
        (EmaFromZero, "typical"),
        (MomentumSwapped, "sequence_conservative"),
        (ClampedBeforeEma, "bounds_after_smoothing"),
        (BaseTwice, "typical"),
        (NotNormalized, "typical"),
        (WarmupOneShort, "sequence_balanced_warmup_4"),
        (WarmupOneLong, "sequence_balanced_warmup_4"),
        (EmaIdleInWarmup, "sequence_balanced_warmup_4"),
        (HoleFreezesBoth, "holes"),
        (HoleCountsAsNought, "holes"),
    ],
)
def test_the_reference_numbers_catch_a_wrong_variant(wrong: type[GradientScaling], caught_by: str) -> None:
    assert departures(GradientScaling) == set()
    assert caught_by in departures(wrong)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float32, 1e-6), (torch.float64, 1e-12)],
)
def test_losses_of_any_float_dtype(dtype: torch.dtype, tolerance: float) -> None:
    assert push(build_scaling(), TYPICAL, dtype) == pytest.approx(TYPICAL_WEIGHTS, rel=tolerance)


def test_what_the_typical_case_means() -> None:
    """Weight × norm is 0.7 : 0.3; per unit of importance, both sides push with 1.9623."""
    scaling = build_scaling()
    weights = push(scaling, TYPICAL)
    assert metrics(scaling, "effective_norm") == pytest.approx([1.3735849, 0.5886792])
    assert [w * n / b for w, n, b in zip(weights, TYPICAL, (0.7, 0.3), strict=True)] == pytest.approx(
        [1.9622642, 1.9622642]
    )
    assert scaling.monitoring["balance_ratio_before"].item() == pytest.approx(6.5)


NORM = st.floats(1e-6, 1e6)


@settings(max_examples=50, deadline=None)
@given(NORM, NORM, NORM, NORM, st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_relative_scaling_ignores_the_size_of_both_losses_together(
    discrete: float, continuous: float, factor: float, target: float, base_d: float, base_c: float
) -> None:
    """The weights sum to 1, do not see a common factor, and equal pushes unless a bound bites."""
    keywords: dict[str, Any] = {
        "scaling_reference": "relative",
        "discrete_weight": base_d,
        "continuous_weight": base_c,
    }
    plain = push(build_scaling(**keywords), (discrete, continuous))
    scaling = build_scaling(**keywords)
    scaled = push(scaling, (discrete * factor, continuous * factor))
    assert sum(plain) == pytest.approx(1.0, rel=1e-12)
    assert scaled == pytest.approx(plain, rel=1e-9)
    if not any(metrics(scaling, "clamped")):
        assert scaling.monitoring["balance_ratio"].item() == pytest.approx(1.0, rel=1e-9)
        wide: dict[str, Any] = {
            "gradient_norm_target": target,
            "min_scaling_factor": 1e-12,
            "max_scaling_factor": 1e12,
        }
        retargeted = push(build_scaling(**keywords, **wide), (discrete, continuous))
        assert retargeted == pytest.approx(plain, rel=1e-9)


def test_the_target_acts_only_without_normalisation() -> None:
    doubled = push(build_scaling(gradient_norm_target=2.0, weight_normalization="none"), TYPICAL)
    assert doubled == pytest.approx((2 * 0.13461538461538458, 2 * 0.375))
    assert push(build_scaling(gradient_norm_target=2.0), TYPICAL) == pytest.approx(TYPICAL_WEIGHTS)


def test_one_base_weight_of_zero_gives_everything_to_the_other() -> None:
    scaling = build_scaling(discrete_weight=0.0, continuous_weight=2.0)
    assert push(scaling, TYPICAL) == (0.0, 1.0)
    assert math.isnan(scaling.monitoring["balance_ratio"].item())


def test_normalized_weights_by_hand() -> None:
    scales = torch.tensor(0.5), torch.tensor(2.0)
    own = build_scaling().compute_normalized_weights(*scales)
    given_base = build_scaling().compute_normalized_weights(*scales, (0.2, 0.8))
    unnormalised = build_scaling(weight_normalization="none").compute_normalized_weights(*scales)
    assert [w.item() for w in own] == pytest.approx([0.35 / 0.95, 0.60 / 0.95])
    assert [w.item() for w in given_base] == pytest.approx([0.1 / 1.7, 1.6 / 1.7])
    assert [w.item() for w in unnormalised] == pytest.approx([0.35, 0.60])


def test_normalized_weights_of_plain_numbers_within_the_bounds() -> None:
    """The document's first edge case, 15.0 and 0.2: the discrete scale of 1/15 is raised to 0.1."""
    bounded = build_scaling().compute_normalized_weights(1 / 15, 5.0)
    assert [w.item() for w in bounded] == pytest.approx([0.07 / 1.57, 1.5 / 1.57])
    mixed = build_scaling(max_scaling_factor=2.0).compute_normalized_weights(torch.tensor(1.0), 5.0)
    assert [w.item() for w in mixed] == pytest.approx([0.7 / 1.3, 0.6 / 1.3])
    other = build_scaling().compute_normalized_weights(1, 0.01, (0.5, 0.5))
    assert [w.item() for w in other] == pytest.approx([1 / 1.1, 0.1 / 1.1])
    whole = build_scaling().compute_normalized_weights(1, 2, (0.7, 0.3))
    assert [w.item() for w in whole] == pytest.approx([0.7 / 1.3, 0.6 / 1.3])


def test_frozen_parameters_are_left_out() -> None:
    layer, frozen = nn.Linear(1, 2, bias=False), nn.Linear(1, 1).requires_grad_(False)
    nn.init.ones_(frozen.weight)
    nn.init.zeros_(frozen.bias)
    discrete, continuous = (layer(frozen(torch.ones(1))) * torch.tensor(TYPICAL)).unbind()
    parameters = [*frozen.parameters(), *layer.parameters()]
    weights = build_scaling().compute_adaptive_gradient_scaling(discrete, continuous, parameters)
    assert [weight.item() for weight in weights] == pytest.approx(TYPICAL_WEIGHTS, rel=1e-6)
    with pytest.raises(ValueError, match="none of the 2 given requires a gradient"):
        build_scaling().compute_gradient_norm(discrete, frozen.parameters())


def test_losses_without_gradients_are_an_error() -> None:
    layer = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        discrete, continuous = layer(torch.ones(1)).unbind()
    with pytest.raises(ValueError, match=r"neither has a gradient.*no_grad"):
        build_scaling().compute_adaptive_gradient_scaling(discrete, continuous, layer.parameters())


def test_gradient_norm_by_hand_and_the_graph_survives() -> None:
    layer, unused = nn.Linear(2, 1), nn.Linear(3, 3)
    loss = layer(torch.tensor([3.0, 4.0])).sum() * 2.0  # gradient 6, 8 and 2 for the bias
    parameters = [*layer.parameters(), *unused.parameters()]
    scaling = GradientScaling(parameters=parameters)
    for _ in range(2):
        assert scaling.compute_gradient_norm(loss).item() == pytest.approx(math.sqrt(104.0))
    assert scaling.compute_gradient_norm(loss, unused.parameters()).item() == 0.0
    assert scaling.compute_gradient_norm(torch.tensor(3.0)).item() == 0.0
    assert all(parameter.grad is None for parameter in parameters)
    loss.backward()


def test_a_generator_of_parameters_serves_both_losses() -> None:
    layer = nn.Linear(1, 2, bias=False)
    discrete, continuous = (layer(torch.ones(1)) * torch.tensor(TYPICAL)).unbind()
    weights = build_scaling().compute_adaptive_gradient_scaling(discrete, continuous, layer.parameters())
    assert [weight.item() for weight in weights] == pytest.approx(TYPICAL_WEIGHTS, rel=1e-6)


@pytest.mark.parametrize("parameters", [None, []])
def test_no_parameters_is_an_error(parameters: list[Tensor] | None) -> None:
    loss = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="parameters: none given"):
        GradientScaling().compute_adaptive_gradient_scaling(loss, loss, parameters)


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"scaling_momentum": 1.0}, "scaling_momentum"),
        ({"scaling_momentum": -0.1}, "scaling_momentum"),
        ({"gradient_norm_target": 0.0}, "gradient_norm_target"),
        ({"gradient_norm_target": INF}, "gradient_norm_target"),
        ({"min_scaling_factor": 0.0}, "min_scaling_factor"),
        ({"min_scaling_factor": 20.0}, "min_scaling_factor = 20.0 .* max_scaling_factor = 10.0"),
        ({"max_scaling_factor": NAN}, "max_scaling_factor"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"warmup_steps": 10**16}, "warmup_steps"),
        ({"max_scaling_factor": 1e308}, "max_scaling_factor"),
        ({"discrete_weight": 1e308}, "discrete_weight"),
        ({"discrete_weight": -0.1}, "discrete_weight"),
        ({"continuous_weight": NAN}, "continuous_weight"),
        ({"discrete_weight": 0.0, "continuous_weight": 0.0}, "discrete_weight and continuous_weight"),
        ({"scaling_reference": "both"}, "scaling_reference"),
        ({"weight_normalization": "max"}, "weight_normalization"),
        ({"norm_parameters": "some"}, "norm_parameters"),
        ({"measure_every": 0}, "measure_every"),
        ({"monitor_every": -1}, "monitor_every"),
        ({"audit_every": -1}, "audit_every"),
    ],
)
def test_a_wrong_keyword_is_refused_by_name(keywords: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GradientScaling(**keywords)


def test_state_taken_mid_sequence_goes_on_as_if_uninterrupted() -> None:
    case = CASES["sequence_balanced_warmup_4"]
    whole, first, resumed = (build_scaling(**case.keywords) for _ in range(3))
    expected = [push(whole, step.norms) for step in case.steps]
    for step in case.steps[:3]:  # within the warm-up: the count of updates matters too
        push(first, step.norms)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    push(first, (77.0, 77.0))  # what was saved is a copy
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [push(resumed, step.norms) for step in case.steps[3:]] == expected[3:]


# As a stage of the trainer. Three parameters: the first is reached by the discrete loss only, the second by
# both, the third by the continuous loss only.


class Training:
    """Optimizer steps of a stage, counting how often gradients were taken apart."""

    def __init__(self, stage: GradientScaling) -> None:
        self.stage = stage
        self.update = 0
        self.measured: list[int] = []
        module = nn.Module()
        module.weights = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.flat = FlatParameters(module)
        self.shared: Tensor | None = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)

    def step(
        self, norms: Pair = TYPICAL, shared_part: Pair = (0.0, 0.0), update: int | None = None
    ) -> WeightResult:
        """`norms` of the parts that one side has for itself, `shared_part` of the shared one."""
        update = self.update if update is None else update
        (weights,) = self.flat.parameters
        rows = [[norms[0], shared_part[0], 0.0], [0.0, shared_part[1], norms[1]]]
        discrete, continuous = (torch.tensor(rows, dtype=torch.float64) @ weights).unbind()
        sides = SideGradients(self.flat, self.shared, discrete, continuous, torch.zeros(()), update)
        result = self.stage.gradients(sides)
        if sides.measured is not None:
            self.measured.append(update)
        self.update = update + 1
        return result

    def weights(self, *norms: Pair) -> list[Pair]:
        results = [self.step(pair) for pair in norms]
        return [(result.discrete.item(), result.continuous.item()) for result in results]

    def ema(self) -> list[float]:
        return metrics(self.stage, "grad_norm")


def test_as_a_stage_it_follows_the_same_sequence() -> None:
    case = CASES["sequence_balanced_warmup_4"]
    weights = Training(build_scaling(**case.keywords)).weights(*(step.norms for step in case.steps))
    assert torch.tensor(weights) == pytest.approx(torch.tensor([step.weights for step in case.steps]))


def test_measuring_every_third_update() -> None:
    training = Training(build_scaling(measure_every=3, scaling_momentum=0.9))
    weights = training.weights(*[TYPICAL] * 3, *[(2.6, 1.6)] * 3)
    assert training.measured == [0, 3]
    decay = 0.9**3
    assert training.ema() == pytest.approx([decay * 5.2 + (1 - decay) * 2.6, decay * 0.8 + (1 - decay) * 1.6])
    assert weights[:3] == [weights[0]] * 3
    assert weights[0] == pytest.approx(TYPICAL_WEIGHTS)
    assert weights[3:] == [weights[3]] * 3
    assert math.isnan(training.stage.monitoring["balance_ratio"].item())  # of norms that nobody took
    assert training.stage.monitoring["balance_ratio_ema"].item() == pytest.approx(1.0)


def test_warmup_counts_updates_whether_measured_or_not() -> None:
    training = Training(build_scaling(warmup_steps=4, measure_every=3))
    weights, progress = [], []
    for _ in range(6):
        weights += training.weights(TYPICAL)
        progress.append(training.stage.monitoring["warmup_progress"].item())
    assert weights[:4] == [pytest.approx((0.7, 0.3))] * 4
    assert weights[4:] == [pytest.approx(TYPICAL_WEIGHTS)] * 2
    assert progress == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_audited_updates_are_evidence_and_nothing_else() -> None:
    plain, audited = (Training(build_scaling(measure_every=3, audit_every=n)) for n in (0, 2))
    sequence = [(5.2 + i, 0.8 + 0.3 * i) for i in range(9)]
    ratios = []
    for pair in sequence:
        expected = plain.weights(pair)
        assert audited.weights(pair) == expected
        assert audited.ema() == plain.ema()
        ratios.append(audited.stage.monitoring["balance_ratio"].item())
    assert audited.measured == [0, 2, 3, 4, 6, 8]
    assert [i for i, ratio in enumerate(ratios) if not math.isnan(ratio)] == audited.measured
    # Update 2 has the weights of update 0, norms of its own: 0.264·7.2/0.7 ÷ (0.736·1.4/0.3).
    assert ratios[2] == pytest.approx((7.2 / 5.2) / (1.4 / 0.8))


@pytest.mark.parametrize(("monitor_every", "measured"), [(0, []), (4, [0, 4, 8])])
def test_disabled_keeps_the_base_weights_and_only_watches(monitor_every: int, measured: list[int]) -> None:
    training = Training(build_scaling(enable_adaptive_scaling=False, monitor_every=monitor_every))
    assert training.weights(*[TYPICAL] * 10) == [pytest.approx((0.7, 0.3))] * 10
    assert training.measured == measured
    assert training.stage.monitoring["gradient_scaling_active"].item() == 0.0
    if measured:
        assert training.ema() == pytest.approx(TYPICAL)
        training.step(update=12)
        assert training.stage.monitoring["balance_ratio"].item() == pytest.approx(6.5)


def test_norm_of_all_or_of_the_shared_parameters() -> None:
    """Own parts 3 and 12, shared parts 4 and 5: norms 5 and 13, or 4 and 5; the gradients' product is 20."""
    for which, norms in (("all", (5.0, 13.0)), ("shared", (4.0, 5.0)), ("auto", (4.0, 5.0))):
        training = Training(build_scaling(norm_parameters=which))
        training.step((3.0, 12.0), (4.0, 5.0))
        assert training.ema() == pytest.approx(norms)
        assert training.stage.monitoring["gradient_cosine"].item() == pytest.approx(20.0 / (5.0 * 13.0))


def test_without_shared_parameters_auto_takes_all() -> None:
    training = Training(build_scaling(norm_parameters="auto"))
    training.shared = None
    training.step((3.0, 12.0))
    assert training.ema() == pytest.approx((3.0, 12.0))


def test_shared_norms_need_shared_parameters() -> None:
    training = Training(build_scaling(norm_parameters="shared"))
    training.shared = None
    with pytest.raises(ValueError, match="norm_parameters = shared: the two surrogates share no parameters"):
        training.step()


def test_figures_say_what_happened() -> None:
    training = Training(build_scaling())
    logged = training.step((15.0, 0.2)).metrics
    assert {tag.removeprefix("gradient_scaling/") for tag in logged} >= {
        *(
            f"{side}_{name}"
            for side in SIDES
            for name in ("weight_used", "grad_norm", "scale", "clamped", "effective_norm", "unusable_norms")
        ),
        "gradient_scaling_active",
        "warmup_progress",
        "balance_ratio",
        "balance_ratio_before",
        "balance_ratio_ema",
        "gradient_cosine",
    }
    assert metrics(training.stage, "clamped") == [1.0, 0.0]
    assert logged["gradient_scaling/balance_ratio"].reduction == "geometric_mean"
    logged = training.step((0.0, INF)).metrics
    for side in SIDES:
        unusable = logged[f"gradient_scaling/{side}_unusable_norms"]
        assert (unusable.value.item(), unusable.reduction) == (1.0, "sum")
    assert training.ema() == pytest.approx([15.0, 0.2])


ONE_SIDED = (
    "env=gymnasium",
    "env.num_envs=4",
    "batch=debugging",
    "device=cpu",
    "trainer.stages=[gradient_scaling]",
)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_a_space_with_one_side_gets_weight_one_and_no_figures(env: str, tmp_path: Path) -> None:
    trainer = build(compose([*ONE_SIDED, f"env.id={env}"]), tmp_path)
    before = trainer.policy.state_dict()["value_head.bias"].clone()
    logged = trainer.iterate()
    assert not [tag for tag in logged if tag.startswith("gradient_scaling/")]
    assert trainer.learner.state_dict()["weights"].tolist() == [1.0, 1.0]
    assert summarize(trainer).balance_ratio is None
    assert summarize(trainer).discrete_weight_used is None
    assert not torch.equal(before, trainer.policy.state_dict()["value_head.bias"])


def test_the_example_of_somebody_elses_loop_runs() -> None:
    command = [sys.executable, "-m", "examples.own_training_loop"]
    root = Path(__file__).parents[2]
    printed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    lines = [
        {name: float(number) for name, number in re.findall(r"([a-z ]+?) +([+-]?\d+\.?\d*)", line)}
        for line in printed.splitlines()
    ]
    numbers = [{name.strip(): number for name, number in line.items()} for line in lines]
    assert [line["update"] for line in numbers] == [1, 50, 100, 150, 200, 250, 300]
    for line in numbers:
        assert line["discrete weight"] + line["continuous weight"] == pytest.approx(1.0, abs=2e-3)
        if line["update"] <= 50:  # the warm-up
            assert line["discrete weight"] == 0.7
            assert not 0.5 < line["balance ratio"] < 2.0
        else:
            assert abs(line["discrete weight"] - 0.7) > 0.1
            assert line["balance ratio"] == 1.0
    assert numbers[-1]["reward"] > numbers[0]["reward"] + 1.0


def test_the_signal_is_balanced_where_that_is_asked_for() -> None:
    """Scales follow the signals 4 and 1, whatever the minibatches' norms are: 0.7·½ to 0.3·2."""
    scaling = GradientScaling(balance_on="signal", warmup_steps=0)
    scaling.observe_signal(torch.tensor([4.0, 1.0]))
    for norms in ([1.0, 100.0], [50.0, 2.0]):
        weights = scaling._weigh(torch.tensor(norms, dtype=torch.float64), learn=False, decay=0.9)
        assert weights.tolist() == pytest.approx([0.35 / 0.95, 0.6 / 0.95])
    scaling.observe_signal(torch.tensor([-40.0, 1.0]))  # noise: 0.9·16 − 0.1·1600 < 0 says nothing of a norm
    assert scaling._weigh(None, learn=False, decay=0.9).tolist() == pytest.approx([0.35 / 0.95, 0.6 / 0.95])
    other = GradientScaling(balance_on="signal", warmup_steps=0)
    other.load_state_dict(scaling.state_dict())
    scaling.observe_signal(torch.tensor([60.0, 1.0]))
    other.observe_signal(torch.tensor([60.0, 1.0]))
    assert other._weigh(None, learn=False, decay=0.9).equal(scaling._weigh(None, learn=False, decay=0.9))
    plain = GradientScaling(warmup_steps=0)
    plain.observe_signal(torch.tensor([4.0, 1.0]))
    assert plain._weigh(None, learn=False, decay=0.9).tolist() == pytest.approx([0.7, 0.3])
