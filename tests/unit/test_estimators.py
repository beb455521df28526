"""How much of the simulator's derivative is believed: `trainer.continuous_gradient=auto`."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_pathwise import collecting, known

from equipoise.envs.catch_point import CatchPoint
from equipoise.envs.switched_lqr import SwitchedLQR
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.data import Pathwise
from equipoise.trainer.estimators import EstimatorMix, Rest, best_share
from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.pathwise_loss import SHARE
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


def test_p_is_believed_until_the_rollouts_speak_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """s has a share of signal of 0.3 with noise beside; p has none."""
    along = (1.0, 0.0, 0.0)
    s1, s2 = (0.55, 0.84, 0.0), (0.55, 0.0, 0.84)

    def shares(*directions: tuple[float, ...]) -> list[float]:
        return mixing(monkeypatch, *[(s1, s2, p, p) for p in directions])[0]

    first = shares(along)[0]
    assert first > 0.9, "of one rollout nobody knows a standard error"
    assert shares(along, along)[1] > 0.9
    away = tuple(-x for x in along)
    assert shares(away) == [0.0], "but its sign"
    unsure = shares(along, away, along, away, along)
    assert unsure[0] > unsure[-1] > 0.1, "a mean of 0 with a wide standard error speaks for nothing"
    assert shares(*[away] * 3)[1:] == [0.0, 0.0]
    noise = (1.0, 0.0), (0.3, 1.0), (1.0, 0.0), (-0.1, 1.0)
    assert mixing(monkeypatch, *[noise] * 3)[0] == [0.0] * 3, "p is noise itself"


def test_p_is_taken_for_noise_where_its_signal_is_within_two_standard_errors_of_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """π is 0.3 on average in both, κ counts as √(σπ); here it comes and goes, there it is the same in every rollout."""
    s1, s2, p1 = (0.6, 0.8, 0.0), (0.6, -0.8, 0.0), (1.0, 0.0, 0.0)

    def last(*halves: tuple[float, float, float]) -> float:
        return mixing(monkeypatch, *[(s1, s2, p1, p2) for p2 in halves])[0][-1]

    assert last((1.0, 0.0, 0.0), (-0.4, 0.0, 0.9165)) == 0.0
    assert last((0.3, 0.0, 0.954), (0.3, 0.0, 0.954)) > 0.1


def test_more_agreement_never_means_a_smaller_share() -> None:
    """Nor where κ is larger than σ and π allow, as it may be by chance."""
    for score, path in itertools.product((-0.1, 0.001, 0.05, 0.3, 0.9), repeat=2):
        found = []
        for both in torch.linspace(-0.5, 1.0, 40).tolist():
            shares = torch.tensor([score, path, both, path**2, both**2 + 0.01], dtype=torch.float64)
            sums = torch.cat([torch.ones(3), shares]).to(torch.float64) * 5.0
            found.append(float(best_share(sums)))
        assert all(0.0 <= less <= more <= 1.0 for less, more in itertools.pairwise(found))
        assert (found[-1] > 0.0) == (path > 0.0)


def test_a_rollout_in_which_p_is_silent_is_one_in_which_it_has_no_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    same, silent = (
        ((1.0, 0.5), (1.0, -0.5), (1.0, 0.0), (1.0, 0.0)),
        ((1.0, 0.5), (1.0, -0.5), (0.0, 0.0), (0.0, 0.0)),
    )
    shares, _ = mixing(monkeypatch, same, silent, same)
    assert shares[1] == 0.0
    assert shares[2] < mixing(monkeypatch, same, same, same)[0][2]


def test_p_is_as_long_as_s_in_the_mean_over_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in each: where it has little to say, a little is not made much of."""

    def rollout(path: float) -> Halves:
        return (2.0, 0.0), (2.0, 0.0), (path, 0.0), (path, 0.0)

    assert mixing(monkeypatch, rollout(1.0))[1] == pytest.approx(2.0)
    _, length = mixing(monkeypatch, rollout(1.0), rollout(0.001))
    assert length == pytest.approx((4.0 * 1.9 / 0.9) ** 0.5, rel=1e-3)


def test_what_has_no_share_is_asked_for_in_one_rollout_of_five() -> None:
    """And in every one again as soon as it has one."""
    rest, differentiated = Rest(), []
    shares = iter([True, False, True, *[False] * 7, *[True] * 3])
    for _ in range(25):
        differentiated.append(not rest.now)
        rest.after(not rest.now, had_a_share=not rest.now and next(shares))
    assert differentiated == [True] * 8 + ([False] * 4 + [True]) * 3 + [True] * 2


def watched() -> PathwiseCollector:
    """A collector after two rollouts, in which derivatives were seen."""
    collector = collecting(CatchPoint(4), steps=3, horizon=2)
    for _ in range(2):
        collector.collect()
        collector.judged(known())
    return collector


def test_at_rest_the_same_is_collected_and_then_differentiated_again() -> None:
    awake, resting = (watched() for _ in range(2))
    for _ in range(5):
        resting.learned({SHARE: 0.0})
    first, second = awake.collect()[0], resting.collect()[0]
    assert first.pathwise is not None
    assert second.pathwise is None
    assert torch.equal(first.actions.continuous, second.actions.continuous)
    assert torch.equal(first.rewards, second.rewards)
    assert resting.judged(known())[SHARE].value == 0.0
    awake.judged(known())
    resting.learned({SHARE: 0.5})  # nothing was differentiated: that says nothing
    assert resting.collect()[0].pathwise is None
    resting.load_state_dict(resting.state_dict() | {"rest": (0, 0)})
    awake.collect()
    after, before = resting.collect()[0].pathwise, awake.collect()[0].pathwise
    assert before is not None
    assert after is not None
    assert torch.equal(before.gradient, after.gradient)
    assert after.gradient.any()


def test_nobody_rests_before_it_is_known_whether_there_are_derivatives() -> None:
    """As it would be told so much later that there are none."""
    collector = collecting(CatchPoint(4), steps=3, horizon=2)
    for _ in range(5):
        collector.learned({SHARE: 0.0})
    for _ in range(2):  # without a critic at first
        assert collector.collect()[0].pathwise is not None
        collector.judged(known())
    assert collector.collect()[0].pathwise is None
