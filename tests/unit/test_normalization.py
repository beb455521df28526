"""Running statistics of observations, and value targets that move without moving the values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from equipoise.trainer.policy.normalization import ObservationNormalizer, ValueNormalizer

SCALES = [1e-12, 1e-3, 1.0, 1e6, 1e12]


def samples(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- observations ---------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.floats(-1e3, 1e3),
    st.floats(1e-2, 1e4),
    st.integers(0, 2**20),
)
def test_moments_of_batches_are_the_moments_of_everything(
    sizes: list[int], shift: float, scale: float, seed: int
) -> None:
    everything = shift + scale * samples(sum(sizes) + 1, 3, seed=seed)
    normalizer = ObservationNormalizer(3)
    for batch in everything.split([*sizes, 1]):
        normalizer.update(batch)
    exact = everything.double()
    assert float(normalizer.moments.count) == len(everything)
    torch.testing.assert_close(normalizer.mean.double(), exact.mean(0), rtol=1e-6, atol=1e-6 * scale)
    torch.testing.assert_close(normalizer.std.double(), exact.std(0, unbiased=False), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("scale", SCALES)
def test_any_scale_becomes_mean_0_and_std_1(scale: float) -> None:
    observations = scale * (3.0 + samples(16, 500, 2))
    normalizer = ObservationNormalizer(2)
    normalizer.update(observations)
    normalized = normalizer(observations).flatten(0, 1)
    torch.testing.assert_close(normalized.mean(0), torch.zeros(2), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(normalized.std(0, unbiased=False), torch.ones(2), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("constant", [0.0, 0.3, -1.7e6, 1e-12])
def test_a_feature_that_never_varies_becomes_zero_and_keeps_small_changes_small(constant: float) -> None:
    normalizer = ObservationNormalizer(1)
    for _ in range(3):
        normalizer.update(torch.full((7, 1), constant))
    assert float(normalizer(torch.tensor([[constant]]))) == pytest.approx(0.0, abs=1e-6)
    assert normalizer.std.tolist() == [1.0]


def test_before_the_first_update_observations_pass_and_outliers_are_clipped() -> None:
    normalizer = ObservationNormalizer(1)
    assert normalizer(torch.tensor([[3.5], [-1e9], [11.0]])).tolist() == [[3.5], [-10.0], [10.0]]


def test_using_a_normalizer_does_not_move_it() -> None:
    observations, values = ObservationNormalizer(2), ValueNormalizer(2)
    observations.update(samples(50, 2))
    values.update(samples(50, 2), nn.Linear(3, 2))
    before = {**observations.state_dict(), "m": values.mean.clone(), "s": values.std.clone()}
    before = {name: tensor.clone() for name, tensor in before.items()}
    observations(100.0 + samples(50, 2))
    values.denormalize(values.normalize(100.0 + samples(50, 2)))
    after = {**observations.state_dict(), "m": values.mean, "s": values.std}
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- value targets --------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(-3, 3)), min_size=1, max_size=5),
    st.integers(0, 2**20),
)
def test_values_in_reward_units_stay_when_the_statistics_move(
    moves: list[tuple[float, float]], seed: int
) -> None:
    torch.manual_seed(seed)
    head, normalizer = nn.Linear(5, 2), ValueNormalizer(2)
    features = samples(20, 5, seed=seed)
    before = normalizer.denormalize(head(features)).detach()
    for shift, exponent in moves:
        normalizer.update(10.0**exponent * (shift + samples(30, 2, seed=seed)), head)
        after = normalizer.denormalize(head(features)).detach()
        unit = before.abs() + normalizer.mean.abs() + normalizer.std  # float32 resolves no more than this
        assert float(((after - before).abs() / unit).max()) < 1e-5


@pytest.mark.parametrize("scale", SCALES)
def test_the_first_targets_become_mean_0_and_std_1_in_each_component(scale: float) -> None:
    returns = torch.stack([scale * (2.0 + samples(1000)), 5.0 - samples(1000, seed=1)], dim=-1)
    normalizer = ValueNormalizer(2)
    normalizer.update(returns.view(10, 100, 2), nn.Linear(1, 2))
    targets = normalizer.normalize(returns)
    torch.testing.assert_close(targets.mean(0), torch.zeros(2), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(targets.std(0, unbiased=False), torch.ones(2), rtol=1e-3, atol=0.0)
    torch.testing.assert_close(normalizer.denormalize(targets), returns, rtol=1e-4, atol=1e-5 * scale)


def test_old_targets_fade_with_the_momentum() -> None:
    normalizer, head = ValueNormalizer(1, momentum=0.5), nn.Linear(1, 1)
    normalizer.update(torch.zeros(4, 1), head)
    normalizer.update(torch.full((4, 1), 4.0), head)
    # Weights ½·½ and ½, so a third and two thirds: mean 8/3, variance 32/3 − 64/9 = 32/9.
    assert normalizer.mean.tolist() == pytest.approx([8 / 3])
    assert normalizer.std.tolist() == pytest.approx([(32 / 9) ** 0.5])


def test_a_component_that_is_constant_is_only_shifted() -> None:
    normalizer = ValueNormalizer(1)
    normalizer.update(torch.full((50, 1), 0.7), nn.Linear(1, 1))
    assert normalizer.normalize(torch.tensor([0.7, 1.7])).tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


def test_without_an_update_nothing_is_changed() -> None:
    values = samples(4, 2)
    assert torch.equal(ValueNormalizer(2).normalize(values), values)
    assert torch.equal(ValueNormalizer(2).denormalize(values), values)
