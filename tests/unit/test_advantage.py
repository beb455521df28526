"""Generalised advantage estimation: golden numbers, and every kind of ending worked out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equipoise.trainer.advantage import compute_gae

REWARDS = [
    0.37482930852964413,
    -0.676969071746257,
    -0.7669828668006252,
    0.27437228209290604,
    -1.425393729509207,
    -0.17791971281352417,
    0.8394677687405641,
    -0.09846528703577945,
]
VALUES = [
    2.512734604301895,
    -1.3355672491971335,
    0.6433992134804959,
    -0.22262074465449921,
    1.2820580526455974,
    -0.9493897418581397,
    0.6897664159482652,
    -0.4404310177469378,
]
FINAL_VALUES = [
    0.5642876832608765,
    -0.30900473756661595,
    -0.4157553639744124,
    1.6331829546267647,
    0.5526676555664691,
    -0.2778634009732881,
    1.1497798142673632,
    -1.8395601795277907,
]
LAST_VALUE = 0.4
# Where it terminated, where it was truncated, advantages, returns; at step 3 of the second both are set.
GOLDEN = {
    "ends inside": (
        (2,),
        (5,),
        [
            -3.4891792137966244,
            -0.03090094770782703,
            -1.410382080281121,
            -1.2250272001279545,
            -3.180497287607125,
            0.4963852620810604,
            0.40773141495667503,
            0.7379657307111585,
        ],
        [
            -0.9764446094947292,
            -1.3664681969049606,
            -0.7669828668006252,
            -1.4476479447824537,
            -1.8984392349615278,
            -0.45300447977707936,
            1.0974978309049401,
            0.2975347129642206,
        ],
    ),
    "done at the end": (
        (3,),
        (3, 7),
        [
            -3.270673531709357,
            0.20142832617549833,
            -1.1633546758331408,
            0.49699302674740525,
            -3.7633687724428015,
            -0.12336113327851028,
            -1.6775118704007532,
            -1.4791988470213542,
        ],
        [
            -0.7579389274074617,
            -1.1341389230216352,
            -0.5199554623526449,
            0.27437228209290604,
            -2.481310719797204,
            -1.07275087513665,
            -0.9877454544524881,
            -1.9196298647682921,
        ],
    ),
}


def flags(where: tuple[int, ...], steps: int) -> Tensor:
    return torch.tensor([[step in where] for step in range(steps)])


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers(name: str) -> None:
    terminated, truncated, advantages, returns = GOLDEN[name]
    columns = (torch.tensor(c, dtype=torch.float64).unsqueeze(-1) for c in (REWARDS, VALUES, FINAL_VALUES))
    rewards, values, final_values = columns
    last = torch.tensor([LAST_VALUE], dtype=torch.float64)
    ours = compute_gae(
        rewards, values, last, flags(terminated, 8), flags(truncated, 8), final_values, 0.99, 0.95
    )
    assert ours[0][:, 0].tolist() == pytest.approx(advantages, rel=1e-12)
    assert ours[1][:, 0].tolist() == pytest.approx(returns, rel=1e-12)


def by_hand(terminated: bool, truncated: bool) -> tuple[list[float], list[float]]:
    """Two steps with rewards 1 and 2, values 3 and 4, final values 10 and 20, last value 8, γ = λ = ½."""
    advantages, returns = compute_gae(
        torch.tensor([[1.0], [2.0]]),
        torch.tensor([[3.0], [4.0]]),
        torch.tensor([8.0]),
        torch.tensor([[terminated], [False]]),
        torch.tensor([[truncated], [False]]),
        torch.tensor([[10.0], [20.0]]),
        0.5,
        0.5,
    )
    return advantages[:, 0].tolist(), returns[:, 0].tolist()


def test_the_end_of_the_batch_bootstraps_from_the_last_value() -> None:
    # step 1: 2 + ½·8 − 4 = 2. step 0: 1 + ½·4 − 3 = 0, and ¼ of what came after: 0.5.
    assert by_hand(terminated=False, truncated=False) == ([0.5, 2.0], [3.5, 6.0])


def test_a_terminated_episode_has_no_value_after_its_end() -> None:
    # step 0: 1 + 0 − 3 = −2; nothing reaches it from the next episode.
    assert by_hand(terminated=True, truncated=False) == ([-2.0, 2.0], [1.0, 6.0])


def test_a_truncated_episode_bootstraps_from_its_final_observation() -> None:
    # step 0: 1 + ½·10 − 3 = 3; nothing reaches it from the next episode.
    assert by_hand(terminated=False, truncated=True) == ([3.0, 2.0], [6.0, 6.0])


def test_terminated_wins_where_both_are_set() -> None:
    assert by_hand(terminated=True, truncated=True) == by_hand(terminated=True, truncated=False)


def test_final_values_are_read_only_where_an_episode_was_truncated() -> None:
    advantages, _ = compute_gae(
        torch.ones(3, 1),
        torch.zeros(3, 1),
        torch.zeros(1),
        flags((0,), 3),
        flags((1,), 3),
        torch.tensor([[torch.nan], [4.0], [torch.nan]]),
        0.5,
        0.5,
    )
    assert advantages[:, 0].tolist() == [1.0, 3.0, 1.0]


def test_every_component_and_environment_by_itself() -> None:
    draw = torch.Generator().manual_seed(0)
    rewards, values, final = (torch.randn(7, 5, 3, generator=draw) for _ in range(3))
    last = torch.randn(5, 3, generator=draw)
    terminated, truncated = (torch.rand(7, 5, generator=draw) < 0.2 for _ in range(2))
    together = compute_gae(rewards, values, last, terminated, truncated, final, 0.9, 0.8)
    for k in range(3):
        alone = compute_gae(
            rewards[..., k], values[..., k], last[..., k], terminated, truncated, final[..., k], 0.9, 0.8
        )
        assert torch.equal(together[0][..., k], alone[0])
        assert torch.equal(together[1][..., k], alone[1])
    one = slice(2, 3)
    env = compute_gae(
        rewards[:, one],
        values[:, one],
        last[one],
        terminated[:, one],
        truncated[:, one],
        final[:, one],
        0.9,
        0.8,
    )
    assert torch.equal(together[0][:, one], env[0])


@given(st.integers(0, 2**20), st.floats(0.0, 1.0))
def test_with_lambda_one_returns_are_the_discounted_rewards_and_values_cancel(
    seed: int, gamma: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    rewards, values = (torch.randn(6, 1, generator=draw, dtype=torch.float64) for _ in range(2))
    nothing = torch.zeros(6, 1, dtype=torch.bool)
    last = torch.zeros(1, dtype=torch.float64)
    _, returns = compute_gae(rewards, values, last, nothing, nothing, values, gamma, 1.0)
    discounted = sum(gamma**step * float(reward) for step, reward in enumerate(rewards))
    assert float(returns[0]) == pytest.approx(discounted, abs=1e-9)


def test_inputs_are_left_alone() -> None:
    rewards, values = torch.ones(3, 2), torch.full((3, 2), 2.0)
    nothing = torch.zeros(3, 2, dtype=torch.bool)
    compute_gae(rewards, values, torch.zeros(2), nothing, nothing, values, 0.9, 0.9)
    assert torch.equal(rewards, torch.ones(3, 2))
    assert torch.equal(values, torch.full((3, 2), 2.0))
