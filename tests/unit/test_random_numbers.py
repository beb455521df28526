"""One independent, reproducible stream of random numbers for each environment."""

from __future__ import annotations

import pytest
import torch

from equipoise.envs.random_numbers import StreamPerEnv

CPU = torch.device("cpu")
# The first outputs of SplitMix64 from the state 1234567, as published with the reference implementation.
SPLITMIX64 = (
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
)


def test_the_generator_is_splitmix64() -> None:
    stream = StreamPerEnv(1, CPU)
    stream.load_state_dict({"keys": torch.tensor([1234567]), "drawn": 0})
    assert stream.uniform(5)[0].tolist() == [(number >> 40) / 2**24 for number in SPLITMIX64]


def test_an_environment_draws_the_same_whatever_its_neighbours() -> None:
    few, many = StreamPerEnv(3, CPU, seed=7), StreamPerEnv(50, CPU, seed=7)
    assert torch.equal(few.uniform(4, 2), many.uniform(4, 2)[:3])
    assert torch.equal(few.normal(5), many.normal(5)[:3])


def test_draws_depend_on_how_many_came_before_not_on_their_shape() -> None:
    whole, parts = StreamPerEnv(4, CPU, seed=1), StreamPerEnv(4, CPU, seed=1)
    expected = whole.uniform(6)
    assert torch.equal(torch.cat([parts.uniform(2), parts.uniform(1), parts.uniform(3)], dim=1), expected)


def test_rows_and_seeds_share_no_numbers() -> None:
    numbers = torch.cat([StreamPerEnv(8, CPU, seed=seed).uniform(64).flatten() for seed in range(-4, 4)])
    # 4096 numbers of 24 bits: by chance 4096² / 2^25 = 0.5 pairs are equal; a shifted stream has 63.
    assert len(numbers) - len(numbers.unique()) <= 3


def test_uniform_numbers_are_uniform_in_every_row() -> None:
    numbers = StreamPerEnv(20, CPU, seed=3).uniform(10_000)
    assert float(numbers.min()) >= 0.0
    assert float(numbers.max()) < 1.0
    counts = torch.stack([torch.histc(row, 10, 0.0, 1.0) for row in numbers])
    chi_square = ((counts - 1000.0).square() / 1000.0).sum(-1)  # 9 degrees of freedom: 27.9 at p = 0.001
    assert float(chi_square.max()) < 33.7  # p = 1e-4, for 20 rows
    correlations = torch.corrcoef(numbers) - torch.eye(20)
    assert float(correlations.abs().max()) < 0.05  # five standard deviations of 1/√10000


def test_normal_numbers_are_standard_normal_and_finite() -> None:
    numbers = StreamPerEnv(100, CPU, seed=5).normal(2_000).flatten()
    assert bool(numbers.isfinite().all())
    assert float(numbers.mean()) == pytest.approx(0.0, abs=0.01)  # standard error 0.0022
    assert float(numbers.std()) == pytest.approx(1.0, abs=0.01)  # standard error 0.0016
    within = (numbers.abs() < 1.0).float().mean()
    assert float(within) == pytest.approx(0.6827, abs=0.005)


def test_seeding_again_starts_again() -> None:
    stream = StreamPerEnv(2, CPU, seed=9)
    first = stream.uniform(3)
    stream.seed(10)
    assert not torch.equal(stream.uniform(3), first)
    stream.seed(9)
    assert torch.equal(stream.uniform(3), first)


def test_a_stream_continues_from_its_state() -> None:
    stream, other = StreamPerEnv(3, CPU, seed=2), StreamPerEnv(3, CPU, seed=99)
    stream.uniform(7)
    state = stream.state_dict()
    other.load_state_dict(state)
    assert torch.equal(stream.normal(4), other.normal(4))
    with pytest.raises(ValueError, match="4 environments"):
        StreamPerEnv(4, CPU).load_state_dict(state)
