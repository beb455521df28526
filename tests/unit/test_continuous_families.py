"""The distributions of one bounded number: golden values of SciPy, samples, bounds, gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from torch import Tensor

from equipoise.trainer.policy.continuous import FAMILIES, Beta, Family, FamilyName, Gaussian, Squashed

# mean, log σ, sample: the middle, the edges of log σ (−5, 2), both bounds as near as a float32 can be.
CASES = (
    (0.0, -0.5, 0.0),
    (0.3, -0.5, -0.9),
    (-0.7, -1.5, -0.65),
    (2.5, -5.0, 2.51),
    (0.05, 2.0, -14.0),
    (-4.0, 0.5, 9.0),
    (6.0, -3.0, 6.1),
    (1.0, -2.0, 1.0),
    (-12.0, 2.0, -40.0),
    (8.0, 1.0, 60.0),
)
LOG_PROBS: dict[str, tuple[float, ...]] = {
    "gaussian": (
        -0.4189385332,
        -2.376101411,
        0.5559545337,
        2.979740278,
        -4.726714986,
        -32.50475131,
        0.06392134673,
        1.081061467,
        -10.09866898,
        -184.8922415,
    ),
    "squashed": (
        -0.4189385332,
        -1.656440585,
        0.951677053,
        6.626611522,
        21.88699065,
        -15.89104564,
        10.87763686,
        1.948623128,
        68.51503666,
        -66.27853583,
    ),
    "beta": (
        -0.1958238993,
        -0.9016052627,
        -0.1949366974,
        -1200.145226,
        -0.8094760835,
        -3.689676056,
        4.406685109,
        -2.145223567,
        -0.6749972527,
        -0.5662200802,
    ),
}
"""`scipy.stats.norm(m, σ).logpdf(u)`; of tanh u: that − 2·(log 2 − u − numpy.logaddexp(0, −2u)); of Beta
`scipy.stats.beta(a, b, loc=-1, scale=2).logpdf` at the logit u: (a−1)·special.log_expit(u) +
(b−1)·special.log_expit(−u) − special.betaln(a, b) − log 2, with a = 1 + σ⁻²·special.expit(2m) and b the same
of −m; SciPy 1.17, float64, of the float32 inputs."""
ENTROPIES: dict[str, tuple[float, ...]] = {
    "gaussian": (
        0.9189385332,
        0.9189385332,
        -0.0810614668,
        -3.581061467,
        3.418938533,
        1.918938533,
        -1.581061467,
        -0.5810614668,
        3.418938533,
        2.418938533,
    ),
    "squashed": (
        0.5989038294,
        0.5297889409,
        -0.5672443544,
        -7.20819901,
        -7.074612491,
        -4.742898693,
        -12.19477946,
        -1.456365945,
        -19.86769274,
        -12.20406372,
    ),
    "beta": (
        0.5137750237,
        0.4885281772,
        -0.3605253175,
        -5.393589826,
        0.6931174663,
        0.6488749181,
        -4.309330502,
        -1.024996761,
        0.6929834626,
        0.6854220944,
    ),
}
"""`scipy.stats.norm(m, σ).entropy()`; of tanh u: plus `scipy.integrate.quad` of the logarithm of the slope;
`scipy.stats.beta(a, b, loc=-1, scale=2).entropy()`."""
KLS: dict[str, tuple[float, ...]] = {
    "gaussian": (
        0.122322692,
        12.23729651,
        113319.8206,
        6.554970227,
        11.05983973,
        20715.75625,
        683.0445431,
        5.047839217,
        29.2615847,
        95.02778697,
    ),
    "beta": (
        0.08303015593,
        7.957310204,
        33540.48114,
        6.112047382,
        0.053676906,
        483.4767108,
        25.76587968,
        1.73807555,
        0.01016051285,
        0.2963612682,
    ),
}
"""Of each case from the next one, in closed form with `scipy.special.betaln` and `digamma`; float64."""
SQUASHED_ENTROPY_ERROR = {
    -5.0: 1e-6,
    -3.0: 1e-6,
    -2.0: 1e-6,
    -1.5: 1e-6,
    -0.5: 1e-6,
    0.5: 1e-3,
    1.0: 2e-2,
    2.0: 0.3,
}
"""Nats, by log σ: what its docstring promises, and no less."""


def family(name: str) -> Family:
    return FAMILIES[name]()  # type: ignore[index]


def outputs() -> tuple[Tensor, Tensor, Tensor]:
    """Means, log σ and samples of `CASES`, `[1, P]` each."""
    mean, log_std, sample = (part.unsqueeze(0) for part in torch.tensor(CASES).unbind(-1))
    return mean.requires_grad_(), log_std.requires_grad_(), sample


def assert_near(ours: Tensor, expected: Sequence[float]) -> None:
    """To 1e-6; near 0, where large numbers have cancelled, to a few roundings of 1."""
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours[0].double(), torch.tensor(expected).double(), rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_log_probs_are_those_of_scipy(name: str) -> None:
    mean, log_std, sample = outputs()
    assert_near(family(name).log_prob(sample, mean, log_std), LOG_PROBS[name])


@pytest.mark.parametrize("name", ["gaussian", "beta"])
def test_entropies_are_those_of_scipy(name: str) -> None:
    assert_near(family(name).entropy(*outputs()[:2]), ENTROPIES[name])


def test_the_entropy_of_the_squashed_gaussian_is_as_near_as_it_says() -> None:
    mean, log_std, _ = outputs()
    expected = torch.tensor(ENTROPIES["squashed"])
    error = (Squashed().entropy(mean, log_std)[0] - expected).abs() / expected.abs().clamp(min=1.0)
    for (_, spread, _), wrong in zip(CASES, error.tolist(), strict=True):
        assert wrong < SQUASHED_ENTROPY_ERROR[spread]


@pytest.mark.parametrize("name", FAMILIES)
def test_divergences_are_those_of_scipy(name: str) -> None:
    mean, log_std, _ = outputs()
    kl = family(name).kl(mean, log_std, mean.roll(-1, 1), log_std.roll(-1, 1))
    assert_near(kl, KLS["beta" if name == "beta" else "gaussian"])
    assert bool((family(name).kl(mean, log_std, mean, log_std) == 0).all())


@pytest.mark.parametrize("name", FAMILIES)
def test_everything_is_finite_up_to_the_bounds_with_finite_gradients(name: str) -> None:
    grid = list(
        product((-50.0, -9.0, -1.0, 0.0, 3.0, 50.0), (-5.0, -0.5, 2.0), (-88.0, -17.0, 0.0, 9.0, 88.0))
    )
    mean, log_std, sample = (part.unsqueeze(0) for part in torch.tensor(grid).unbind(-1))
    mean, log_std, chosen = mean.requires_grad_(), log_std.requires_grad_(), family(name)
    other = mean.detach().roll(1), log_std.detach().roll(1)
    for found in (
        chosen.log_prob(sample, mean, log_std),
        chosen.entropy(mean, log_std),
        chosen.kl(mean, log_std, *other),
    ):
        gradients = torch.autograd.grad(found.sum(), (mean, log_std), materialize_grads=True)
        assert all(bool(part.isfinite().all()) for part in (found, *gradients))


@pytest.mark.parametrize("name", FAMILIES)
def test_more_of_an_action_is_made_likelier_by_moving_towards_it(name: str) -> None:
    """The sign of the gradient: towards the sample, and narrower where the sample is the mode."""
    mean, log_std = torch.zeros(1, 2, requires_grad=True), torch.full((2,), -1.0, requires_grad=True)
    chosen = family(name)
    sample = torch.tensor([[0.7, -0.4]])
    (towards,) = torch.autograd.grad(chosen.log_prob(sample, mean, log_std).sum(), mean)
    assert towards[0, 0] > 0 > towards[0, 1]
    mode = chosen.mode(mean, log_std).detach()
    (wider,) = torch.autograd.grad(chosen.log_prob(mode, mean, log_std).sum(), log_std)
    assert bool((wider < 0).all())


SHAPES = ((0.0, -0.5), (1.5, -1.5), (-3.0, 0.3), (0.5, -4.0), (-0.2, 1.5))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("where", "how_wide"), SHAPES)
def test_samples_follow_the_density(name: str, where: float, how_wide: float) -> None:
    """Counts in 20 bins of equal chance, whose edges come from adding up the density."""
    size, chosen = 40_000, family(name)
    mean, log_std = torch.full((size, 1), where), torch.tensor([how_wide])
    noise = torch.randn(size, 1, *chosen.noise, generator=torch.Generator().manual_seed(3))
    samples = chosen.sample(mean, log_std, noise)[:, 0].double()
    places = torch.linspace(float(samples.min()) - 3, float(samples.max()) + 3, 200_001, dtype=torch.float64)
    density = chosen.log_prob(places.unsqueeze(-1).float(), mean[:1], log_std)[:, 0].double().exp()
    if not isinstance(chosen, Gaussian):  # of the number in [-1, 1], not of the sample
        density = density * torch.gradient(chosen.in_range(places), spacing=(places,))[0]
    chance = torch.cumulative_trapezoid(density, places)
    assert float(chance[-1]) == pytest.approx(1.0, abs=2e-3)
    edges = places[torch.searchsorted(chance, torch.linspace(0.05, 0.95, 19, dtype=torch.float64))]
    counts = torch.bincount(torch.bucketize(samples, edges), minlength=20).double()
    assert float(((counts - size / 20).square() / (size / 20)).sum()) < 45.0  # p = 0.001 with 19 degrees
    assert float(chosen.in_range(samples).abs().max()) <= 1.0


def test_the_deterministic_actions_are_mean_median_and_mode() -> None:
    mean, log_std = torch.tensor([[0.4, -0.9, 2.0]]), torch.tensor([-1.0, 0.5, 0.0])
    assert torch.equal(Gaussian().mode(mean, log_std), mean)
    noise = torch.randn(100_001, 3, generator=torch.Generator().manual_seed(1))
    squashed = Squashed()
    median = squashed.in_range(squashed.sample(mean, log_std, noise)).median(0).values
    torch.testing.assert_close(
        squashed.in_range(squashed.mode(mean, log_std))[0], median, atol=0.01, rtol=0.0
    )
    beta = Beta()
    torch.testing.assert_close(beta.in_range(beta.mode(mean, log_std)), mean.tanh())
    places = torch.linspace(-12.0, 12.0, 100_001).unsqueeze(-1)
    likeliest = places[beta.log_prob(places, mean, log_std).argmax(0), 0]
    torch.testing.assert_close(beta.in_range(likeliest), mean.tanh()[0], atol=1e-3, rtol=0.0)


def test_beta_is_wide_and_narrow_as_its_sigma_says() -> None:
    """At mode 0 the variance is 1/(3 + σ⁻²): a Gaussian's where that is narrow, else the uniform's."""
    for log_std in (-4.0, -0.5, 2.0):
        low, high = Beta().interval(torch.zeros(1, 1), torch.tensor([log_std]))
        assert float(high) == pytest.approx((3.0 + math.exp(-2.0 * log_std)) ** -0.5, rel=1e-5)
        assert float(low) == -float(high)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_sigma_for_all_states_is_the_same_as_one_for_each(name: FamilyName) -> None:
    chosen, mean, shared = family(name), torch.randn(7, 3), torch.tensor([-1.0, 0.0, 0.5])
    sample = chosen.sample(mean, shared, torch.randn(7, 3, *chosen.noise))
    each = shared.expand(7, 3)
    torch.testing.assert_close(chosen.log_prob(sample, mean, shared), chosen.log_prob(sample, mean, each))
    torch.testing.assert_close(chosen.entropy(mean, shared), chosen.entropy(mean, each))
    assert chosen.entropy(mean, shared).shape == (7, 3)
