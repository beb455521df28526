"""How much of the simulator's derivative is believed: `trainer.continuous_gradient=auto`."""

from __future__ import annotations

import pytest
import torch
from test_pathwise import collecting, known

from equipoise.envs.catch_point import CatchPoint
from equipoise.envs.switched_lqr import SwitchedLQR
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.data import Pathwise
from equipoise.trainer.estimators import EstimatorMix
from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.pathwise_rollout import PathwiseCollector
from equipoise.trainer.stages.pipeline import Pipeline
from equipoise.trainer.targets import prepare
from tests.conftest import TOY


def mix_for(collector: PathwiseCollector, steps: int) -> EstimatorMix:
    settings = compose([*TOY, f"trainer.batch.rollout_steps={steps}"]).trainer
    return EstimatorMix(collector.policy, FlatParameters(collector.policy), settings)


def mixed(disturb: float, kept: float = 1.0) -> Pathwise:
    """After two measurements, as one is not enough to know a standard error, with noise added to `kept` times
    the derivatives."""
    env = SwitchedLQR(512, dimension=8, modes=2, max_steps=3)
    collector = collecting(env, steps=3, horizon=3, log_std_init=-2.0)
    collector.judged(known())
    rollout, _ = collector.collect()
    mix = mix_for(collector, steps=3)
    _, samples = prepare(rollout, collector.policy, Pipeline({}), mix._settings, MetricLog())
    assert samples.pathwise is not None
    gradient = samples.pathwise.gradient
    torch.manual_seed(1)
    gradient = kept * gradient + disturb * gradient.std() * torch.randn_like(gradient)
    samples = samples._replace(pathwise=samples.pathwise._replace(gradient=gradient))
    for _ in range(2):
        mixed_samples = mix.mix(samples, MetricLog())
    assert mixed_samples.pathwise is not None
    return mixed_samples.pathwise


def share(disturb: float, kept: float = 1.0) -> float:
    return float(mixed(disturb, kept).share[0, 0])


def test_auto_believes_what_has_little_noise_and_points_the_same_way() -> None:
    assert share(disturb=0.0) > 0.7
    assert share(disturb=300.0) < 0.1
    assert share(disturb=0.0, kept=0.01) > 0.7
    assert share(disturb=0.0, kept=-0.01) == 0.0
    assert share(disturb=float("nan")) == 0.0
    left = mixed(disturb=float("nan")).gradient
    assert left.eq(0.0).all(), "0 · NaN would still be NaN in the loss"


Halves = tuple[tuple[float, ...], ...]


def mixing(monkeypatch: pytest.MonkeyPatch, *rollouts: Halves) -> tuple[list[float], float]:
    """The shares of `rollouts`, each s₁, s₂, p₁ and p₂, and what the last one's derivatives are multiplied with."""
    collector = collecting(CatchPoint(4), steps=2, horizon=2)
    mix = mix_for(collector, steps=2)
    _, samples = prepare(collector.collect()[0], collector.policy, Pipeline({}), mix._settings, MetricLog())
    found = []
    for rollout in rollouts:
        s1, s2, p1, p2 = (torch.tensor(x) for x in rollout)
        halves = iter([(s1, p1), (s2, p2)])
        monkeypatch.setattr(mix, "_gradients", lambda half, halves=halves: next(halves))
        result = mix.mix(samples, MetricLog()).pathwise
        assert result is not None
        assert samples.pathwise is not None
        found.append(float(result.share[0, 0]))
    return found, float((result.gradient / samples.pathwise.gradient).nanmedian())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((0.0, 0.1), 0.0),  # of no use; a mean squared error likes it, as it is but short: 0.5 / (0.5 + 1.01)
        ((0.1, 0.0), 1.0),  # exact, if short
        ((-0.1, 0.0), 0.0),
        ((0.6, 0.8), 0.249),
    ],
)
def test_the_share_is_that_of_the_best_direction(
    monkeypatch: pytest.MonkeyPatch, path: tuple[float, float], expected: float
) -> None:
    """E s = (1, 0, 0, 0) with noise of variance 1/2 in a rollout and 1 in its halves; p has none."""
    s1, s2, p = (1.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 1.0), (*path, 0.0, 0.0)
    shares, length = mixing(monkeypatch, *[(s1, s2, p, p)] * 2)
    assert shares[-1] == pytest.approx(expected, abs=1e-3)
    as_long = length * torch.tensor(path)
    assert as_long.norm() == pytest.approx(2**0.5)  # as halves of s are

    def towards(share: float) -> float:
        mean = share * as_long + (1 - share) * torch.tensor([1.0, 0.0])
        return float(mean[0] / (mean.square().sum() + (1 - share) ** 2 / 2).sqrt())

    assert all(towards(shares[-1]) >= towards(k / 50) - 1e-5 for k in range(50))


def test_what_may_agree_by_chance_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    same = (1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0)
    other = *same[:2], (-0.9, 0.0), (-0.9, 0.0)
    assert mixing(monkeypatch, same)[0] == [0.0]
    shares, _ = mixing(monkeypatch, same, other, same, other, same)
    assert shares == [0.0] * 5  # a mean above 0, but not by its standard error
    noise = (1.0, 0.0), (0.3, 1.0), (1.0, 0.0), (-0.1, 1.0)
    assert mixing(monkeypatch, *[noise] * 3)[0] == [0.0] * 3  # steady agreement with what has no signal
