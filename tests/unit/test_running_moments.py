from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.trainer.running_moments import RunningMoments

CPU = torch.device("cpu")


def test_moments_worked_out_by_hand() -> None:
    moments = RunningMoments((2,), CPU)
    moments.update(torch.tensor([[1.0, 10.0], [3.0, 10.0]]))
    moments.update(torch.tensor([[[5.0, 10.0]], [[7.0, 14.0]]]))  # leading dimensions are all samples
    assert moments.count == 4
    assert moments.mean.tolist() == [4.0, 11.0]
    assert moments.var.tolist() == [5.0, 3.0]  # (9 + 1 + 1 + 9) / 4 and (1 + 1 + 1 + 9) / 4


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 2**16))
def test_batches_give_what_all_samples_at_once_give(sizes: list[int], seed: int) -> None:
    samples = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed)) * 7 + 100
    moments = RunningMoments((3,), CPU)
    for batch in samples.split(sizes):
        moments.update(batch)
    expected = samples.double()
    torch.testing.assert_close(moments.mean, expected.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(moments.var, expected.var(0, correction=0), rtol=1e-10, atol=1e-12)


def test_a_small_spread_far_from_zero_survives() -> None:
    """E[x²] − E[x]² loses it: at 1e9 the squares are 1e18, and float64 carries 16 digits."""
    samples = torch.tensor([1e9 - 1, 1e9 + 1], dtype=torch.float64).repeat(500)
    moments = RunningMoments((), CPU)
    for batch in samples.split(100):
        moments.update(batch)
    assert moments.std.item() == pytest.approx(1.0, rel=1e-9)
    with_repeats = samples + torch.tensor([0.1, 0.3], dtype=torch.float64).repeat(500)
    naive = with_repeats.square().mean() - with_repeats.mean().square()
    assert naive.item() != pytest.approx(1.1**2, rel=1e-2)


def test_before_the_first_sample_it_changes_nothing() -> None:
    moments = RunningMoments((2,), CPU)
    assert moments.mean.tolist() == [0, 0]
    assert moments.std.tolist() == [1, 1]


def test_state_continues_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = RunningMoments((3,), CPU), RunningMoments((3,), CPU)
    first.update(torch.randn(50, 3, generator=generator))
    second.load_state_dict(first.state_dict())
    batch = torch.randn(20, 3, generator=generator)
    first.update(batch)
    second.update(batch)
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.var, second.var)
    assert second.count == 70


@pytest.mark.parametrize("shape", [(3,), (4, 2), (0, 3)])
def test_samples_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected samples of shape \[\.\.\., \(3,\)\]"):
        RunningMoments((3,), CPU).update(torch.zeros(shape))


def test_the_state_of_another_shape_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for mean"):
        RunningMoments((3,), CPU).load_state_dict(RunningMoments((2,), CPU).state_dict())
