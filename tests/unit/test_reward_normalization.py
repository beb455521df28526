from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from equipoise.trainer.data import Actions, Rollout
from equipoise.trainer.stages.protocol import RewardStage
from equipoise.trainer.stages.reward_normalization import RewardNormalization, balancing_factors

CPU = torch.device("cpu")
METHODS = ("scale", "zscore", "minmax", "adaptive")
EPISODE = [
    5.304815371013236,
    2.804472880033438,
    -0.6450885709153518,
    5.88645045734841,
    0.5875219886105549,
    -4.843085799610041,
    2.5498245975784126,
    -1.5718446123764522,
    5.612597503292433,
]
ZSCORE = [
    1.0282075309883998,
    0.30645091086752774,
    -0.6893101989476341,
    1.1961041193843684,
    -0.3335010109751119,
    -1.9011171021979727,
    0.23294334767273445,
    -0.9568304728999625,
    1.1170528761076508,
]
MINMAX = [
    0.9457912185200023,
    0.7127576156596508,
    0.391256166917014,
    1.0,
    0.5061363005972109,
    0.0,
    0.6890242243595488,
    0.3048818801569437,
    0.9744767203821717,
]
SCALED_BY_2_5 = [
    2.1219261484052945,
    1.1217891520133754,
    -0.2580354283661407,
    2.354580182939364,
    0.23500879544422199,
    -1.9372343198440163,
    1.0199298390313651,
    -0.6287378449505809,
    2.245039001316973,
]


def rollout_of(rewards: Tensor, done: Tensor) -> Rollout:
    """`[T, N, K]` and `[T, N]`; every other ending is a truncation, which must make no difference."""
    steps, envs, components = rewards.shape
    empty = torch.zeros(steps, envs, 0)
    truncated = done & (torch.arange(steps) % 2 == 0).unsqueeze(-1)
    return Rollout(
        observations=empty,
        actions=Actions(empty.long(), empty),
        action_mask=empty.unsqueeze(-1).bool(),
        discrete_log_prob=empty,
        continuous_log_prob=empty,
        rewards=rewards,
        terminated=done & ~truncated,
        truncated=truncated,
        final_observations=empty,
        last_observation=empty[0],
        reward_weights=torch.ones(components),
    )


def stage_of(components: int = 1, envs: int = 1, **keywords: Any) -> RewardNormalization:
    names = tuple("abcdef"[:components])
    settings: dict[str, Any] = {"gamma": 0.99, "device": CPU, **keywords}
    return RewardNormalization(reward_names=names, num_envs=envs, **settings)


def one_episode(values: list[float]) -> Rollout:
    done = torch.zeros(len(values), 1, dtype=torch.bool)
    done[-1] = True
    return rollout_of(torch.tensor(values).view(-1, 1, 1), done)


def random_rollout(seed: int, steps: int = 32, envs: int = 6, components: int = 3) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([20.0, 1.0, 0.05])[:components]
    rewards = torch.randn(steps, envs, components, generator=generator) * spread + 0.3
    return rollout_of(rewards, torch.rand(steps, envs, generator=generator) < 0.1)


# -- tier 1 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "expected"), [("zscore", ZSCORE), ("minmax", MINMAX), ("adaptive", ZSCORE)]
)
def test_golden_episode(method: Any, expected: list[float]) -> None:
    result = stage_of(normalization_method=method).rewards(one_episode(EPISODE))
    torch.testing.assert_close(result.rewards.flatten(), torch.tensor(expected), rtol=0, atol=1e-5)


def test_golden_episode_divided_by_a_running_std() -> None:
    stage = stage_of()
    stage.rewards(one_episode([-2.5, 2.5]))  # population std 2.5
    result = stage.rewards(one_episode(EPISODE))
    torch.testing.assert_close(result.rewards.flatten(), torch.tensor(SCALED_BY_2_5), rtol=0, atol=1e-5)
    assert result.factor.tolist() == pytest.approx([0.4])


@pytest.mark.parametrize("method", ["zscore", "minmax", "adaptive"])
def test_golden_short_stretch_is_divided_by_the_running_std(method: Any) -> None:
    stage = stage_of(normalization_method=method)
    stage.rewards(one_episode([-2.0, 2.0]))
    assert stage.rewards(one_episode([1.0, 2.0, 4.0])).rewards.flatten().tolist() == [0.5, 1.0, 2.0]


def test_adaptive_takes_min_max_where_the_spread_is_tiny() -> None:
    values = [0.5, 0.5001, 0.5002, 0.5003, 0.5004]
    adaptive = stage_of(normalization_method="adaptive").rewards(one_episode(values)).rewards
    torch.testing.assert_close(adaptive.flatten(), torch.linspace(0, 1, 5), rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["zscore", "minmax", "adaptive"])
@pytest.mark.parametrize("value", [0.3, 1.7, -1.7, 0.0, 1e12])
@pytest.mark.parametrize("length", [9, 2048])
def test_a_constant_stretch_becomes_zeros(method: Any, value: float, length: int) -> None:
    result = stage_of(normalization_method=method).rewards(one_episode([value] * length))
    assert not result.rewards.any()


@pytest.mark.parametrize("method", ["zscore", "minmax", "adaptive"])
def test_a_spread_within_rounding_is_constant_and_a_small_one_is_not(method: Any) -> None:
    """The limit is relative: 1000 and its neighbour in float32 are one number, 1e-9 and 2e-9 are two."""
    stage = stage_of(normalization_method=method)
    assert not stage.rewards(one_episode([1000.0, 1000.0001] * 4)).rewards.any()
    tiny = stage.rewards(one_episode([1e-9, 2e-9] * 4)).rewards
    assert tiny.flatten().tolist() == pytest.approx([-1.0 if method == "zscore" else 0.0, 1.0] * 4)


def test_adaptive_takes_the_z_score_above_a_std_of_a_thousandth() -> None:
    result = stage_of(normalization_method="adaptive").rewards(one_episode([0.5, 0.504] * 4))  # std 0.002
    assert result.rewards.flatten().tolist() == pytest.approx([-1.0, 1.0] * 4, rel=1e-3)


def test_the_plain_formula_blows_rounding_up() -> None:
    """Why constancy is a test of its own: in float32 a mean of equal numbers is not always that number."""
    largest = 0.0
    for value, length in ((value, length) for value in (0.3, 1.7) for length in range(5, 100)):
        rewards = torch.full((length,), value)
        deviation = rewards - rewards.cumsum(0)[-1] / length
        plain = deviation / (deviation.square().mean().sqrt() + 1e-8)
        largest = max(largest, plain.abs().max().item())
    assert largest > 0.5


def test_every_stretch_of_every_component_is_normalised_by_itself() -> None:
    """Env 0: an episode of 2 and the beginning of the next; env 1: one unbroken stretch of 4."""
    first = torch.tensor([[1.0, 0.0], [3.0, 0.0], [10.0, 4.0], [30.0, 4.0]])
    rewards = torch.stack([first, first * 100], -1)
    done = torch.tensor([[False, False], [True, False], [False, False], [False, False]])
    stage = stage_of(2, 2, normalization_method="zscore", min_episode_length=2)
    expected = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    result = stage.rewards(rollout_of(rewards, done)).rewards
    torch.testing.assert_close(result, expected.unsqueeze(-1).expand(4, 2, 2))


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), size=st.sampled_from([1e-3, 1e3]))
def test_zscore_does_not_see_the_size_of_a_component(seed: int, size: float) -> None:
    rollout = random_rollout(seed, steps=40)
    bigger = rollout_of(rollout.rewards * size, rollout.done)
    keywords: dict[str, Any] = {"normalization_method": "zscore", "enable_cross_episode_scaling": False}
    # One episode per environment is long enough whatever the random endings are.
    plain = stage_of(3, 6, min_episode_length=1, **keywords).rewards(rollout).rewards
    scaled = stage_of(3, 6, min_episode_length=1, **keywords).rewards(bigger).rewards
    assert (plain - scaled).abs().max() < 1e-4
    assert plain.abs().max() > 1


def test_the_first_rollout_is_its_own_measure_and_no_later_one() -> None:
    rollout = random_rollout(1)
    stage = stage_of(3, 6)
    result = stage.rewards(rollout)
    torch.testing.assert_close(result.rewards.std((0, 1), correction=0), torch.ones(3))
    torch.testing.assert_close(result.rewards / result.factor, rollout.rewards)
    state = stage.state_dict()
    factors = []
    for other in (rollout, rollout_of(rollout.rewards * 50, rollout.done)):
        stage.load_state_dict(state)
        factors.append(stage.rewards(other).factor)
    assert torch.equal(factors[0], factors[1])
    torch.testing.assert_close(factors[0], 1 / rollout.rewards.std((0, 1), correction=0))


def test_scale_leaves_a_component_alone_that_has_never_varied() -> None:
    stage = stage_of()
    for _ in range(2):
        result = stage.rewards(one_episode([-0.01] * 9))
    assert result.rewards.flatten().tolist() == pytest.approx([-0.01] * 9)
    assert result.factor.tolist() == [1]


def test_a_spread_within_rounding_is_not_a_unit() -> None:
    stage = stage_of()
    rounding = [1000.0, 1000.0001] * 3  # one unit in the last place of float32
    for _ in range(2):
        result = stage.rewards(one_episode(rounding))
    assert result.factor.tolist() == [1]


# -- tier 2 ---------------------------------------------------------------------------------------


def test_golden_factors() -> None:
    std = torch.tensor([3.0, 0.5, 1.0, 40.0, 0.02, 2.0])
    torch.testing.assert_close(balancing_factors(std), torch.tensor([0.5, 3.0, 1.5, 0.1, 10.0, 0.75]))


def test_the_median_of_an_even_count_is_the_mean_of_the_middle_two() -> None:
    lower_of_the_two = torch.tensor([1.0, 2.0, 4.0, 8.0]).median()
    torch.testing.assert_close(
        balancing_factors(torch.tensor([1.0, 2.0, 4.0, 8.0])), torch.tensor([3.0, 1.5, 0.75, 0.375])
    )
    assert lower_of_the_two != 3


def test_a_component_that_never_came_has_no_say_in_the_median() -> None:
    assert balancing_factors(torch.tensor([0.0, 0.0, 0.0, 2.0, 6.0])).tolist() == pytest.approx(
        [1, 1, 1, 2, 2 / 3]
    )
    assert balancing_factors(torch.zeros(3)).tolist() == [1, 1, 1]


def test_discounted_returns_straddle_rollouts_and_stop_at_the_end_of_an_episode() -> None:
    """γ = ½, rewards 1, an episode of 3 over two rollouts: returns 1, 1.5 | 1.75, then 1 again."""
    stage = stage_of(gamma=0.5, enable_per_episode_norm=False)
    ones = torch.ones(2, 1, 1)
    stage.rewards(rollout_of(ones, torch.zeros(2, 1, dtype=torch.bool)))
    stage.rewards(rollout_of(ones, torch.tensor([[True], [False]])))
    returns = stage.state_dict()["returns"]
    assert returns["mean"].item() == pytest.approx((1 + 1.5 + 1.75 + 1) / 4)
    assert stage.state_dict()["discounted"].item() == 0.5  # γ · 1, carried into the next rollout


def test_where_a_rollout_is_cut_makes_no_difference_to_the_returns() -> None:
    whole = random_rollout(2, steps=24)
    at_once = stage_of(3, 6, enable_per_episode_norm=False)
    in_parts = stage_of(3, 6, enable_per_episode_norm=False)
    at_once.rewards(whole)
    for part in range(0, 24, 4):
        in_parts.rewards(rollout_of(whole.rewards[part : part + 4], whole.done[part : part + 4]))
    for metric in ("mean", "squares"):
        torch.testing.assert_close(
            at_once.state_dict()["returns"][metric], in_parts.state_dict()["returns"][metric]
        )
    torch.testing.assert_close(at_once.state_dict()["discounted"], in_parts.state_dict()["discounted"])


def test_the_unit_of_the_rewards_never_reaches_tier_2() -> None:
    """Raw returns of the first rollout would weigh in for ever against all that are normalised."""
    plain, large = stage_of(3, 6), stage_of(3, 6)
    for seed in range(3):
        rollout = random_rollout(seed)
        plain.rewards(rollout)
        large.rewards(rollout_of(rollout.rewards * 1e12, rollout.done))
    torch.testing.assert_close(
        large.state_dict()["returns"], plain.state_dict()["returns"], rtol=1e-5, atol=1e-9
    )


def test_tier_2_waits_for_the_warm_up_and_then_balances() -> None:
    stage = stage_of(2, enable_per_episode_norm=False, scaling_warmup_episodes=3, gamma=0.0)
    rewards = torch.tensor([[[3.0, 1.0]], [[-3.0, -1.0]]])  # stds 3 and 1, median 2
    results = [stage.rewards(rollout_of(rewards, torch.tensor([[False], [True]]))) for _ in range(4)]
    for before in results[:3]:
        assert torch.equal(before.rewards, rewards)
    assert results[3].factor.tolist() == pytest.approx([2 / 3, 2])
    torch.testing.assert_close(results[3].rewards, rewards * torch.tensor([2 / 3, 2.0]))


@settings(max_examples=20)
@given(size=st.floats(1e-6, 1e6))
def test_tier_2_alone_scales_with_its_input(size: float) -> None:
    plain, scaled = (stage_of(3, 6, enable_per_episode_norm=False, scaling_warmup_episodes=1) for _ in "ab")
    for seed in range(3):
        rollout = random_rollout(seed)
        expected = plain.rewards(rollout).rewards * size
        result = scaled.rewards(rollout_of(rollout.rewards * size, rollout.done))
        torch.testing.assert_close(result.rewards, expected, rtol=1e-5, atol=1e-5 * size)
    assert result.factor[0] == pytest.approx(0.1)  # the factors were at work, one of them at its bound


def test_a_factor_at_its_bound_is_reported() -> None:
    stage = stage_of(4, enable_per_episode_norm=False, scaling_warmup_episodes=0, gamma=0.0)
    row = torch.tensor([500.0, 1.0, 0.5, 0.02])  # median 0.75
    rewards = torch.stack([row, -row]).unsqueeze(1)
    for _ in range(2):
        metrics = stage.rewards(rollout_of(rewards, torch.tensor([[False], [True]]))).metrics
    metrics = {
        tag.removeprefix("reward_normalization/"): metric.value.item() for tag, metric in metrics.items()
    }
    assert [metrics[f"factor/{name}"] for name in "abcd"] == pytest.approx([0.1, 0.75, 1.5, 10])
    assert [metrics[f"at_bound/{name}"] for name in "abcd"] == [1, 0, 0, 1]
    assert metrics["return_std/a"] == pytest.approx(500)
    assert metrics["episodes"] == 1


# -- both -----------------------------------------------------------------------------------------


def test_tier_2_switched_off_leaves_tier_1_alone() -> None:
    alone = stage_of(3, 6, enable_cross_episode_scaling=False, scaling_warmup_episodes=0)
    for seed in range(3):
        result = alone.rewards(random_rollout(seed))
    for name in "abc":
        assert result.metrics[f"reward_normalization/factor/{name}"].value == 1
    assert not (result.factor == 1).any()


@pytest.mark.parametrize("preserve_task", [True, False])
def test_what_was_applied_is_told_where_it_is_one_number(preserve_task: bool) -> None:
    keywords: dict[str, Any] = {"scaling_warmup_episodes": 1, "preserve_task": preserve_task}
    scale, tier_2 = stage_of(3, 6, **keywords), stage_of(3, 6, enable_per_episode_norm=False, **keywords)
    stretchwise = stage_of(3, 6, normalization_method="zscore", **keywords)
    for seed in range(3):
        rollout = random_rollout(seed)
        for stage in (scale, tier_2):
            result = stage.rewards(rollout)
            assert result.applied is not None
            torch.testing.assert_close(result.rewards / result.applied, rollout.rewards)
        assert stretchwise.rewards(rollout).applied is None


def test_the_factor_undoes_what_scale_did() -> None:
    stage = stage_of(3, 6, scaling_warmup_episodes=1)
    for seed in range(4):
        rollout = random_rollout(seed)
        result = stage.rewards(rollout)
        torch.testing.assert_close(result.rewards / result.factor, rollout.rewards)
    assert (result.factor - 1).abs().min() > 0.005


def test_what_cannot_be_undone_is_not_in_the_factor() -> None:
    """z-score: tier 2 alone, which is a number per component; without `preserve_task`: nothing."""
    preserving = stage_of(3, 6, normalization_method="zscore", scaling_warmup_episodes=1)
    equalising = stage_of(3, 6, scaling_warmup_episodes=1, preserve_task=False)
    for seed in range(4):
        zscored, equalised = (s.rewards(random_rollout(seed)) for s in (preserving, equalising))
    for k, name in enumerate("abc"):
        assert zscored.factor[k] == zscored.metrics[f"reward_normalization/factor/{name}"].value.float()
    assert zscored.factor.tolist() != [1, 1, 1]
    assert equalised.factor.tolist() == [1, 1, 1]
    assert not torch.equal(equalised.rewards, random_rollout(3).rewards)


def test_both_tiers_off_is_the_identity() -> None:
    stage = stage_of(3, 6, enable_per_episode_norm=False, enable_cross_episode_scaling=False)
    assert isinstance(stage, RewardStage)
    for seed in range(3):
        rollout = random_rollout(seed)
        assert torch.equal(stage.rewards(rollout).rewards, rollout.rewards)


@settings(max_examples=20)
@given(method=st.sampled_from(METHODS), order=st.permutations(range(6)))
def test_the_order_of_the_environments_does_not_matter(method: Any, order: list[int]) -> None:
    plain, shuffled = (
        stage_of(3, 6, normalization_method=method, scaling_warmup_episodes=1) for _ in range(2)
    )
    for seed in range(3):
        rollout = random_rollout(seed)
        expected = plain.rewards(rollout).rewards[:, order]
        result = shuffled.rewards(rollout_of(rollout.rewards[:, order], rollout.done[:, order]))
        torch.testing.assert_close(result.rewards, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e12, 1e-12, 0.0])
def test_huge_and_tiny_rewards_stay_finite(method: Any, size: float) -> None:
    stage = stage_of(3, 6, normalization_method=method, scaling_warmup_episodes=1)
    for seed in range(3):
        rollout = random_rollout(seed)
        result = stage.rewards(rollout_of(rollout.rewards * size, rollout.done))
        assert result.rewards.isfinite().all()
        assert result.factor.isfinite().all()
        assert (result.factor > 0).all()


def test_the_rollout_is_not_written_to() -> None:
    rollout = random_rollout(0)
    before = rollout.rewards.clone()
    stage = stage_of(3, 6, normalization_method="adaptive", scaling_warmup_episodes=0)
    for _ in range(2):
        stage.rewards(rollout)
    assert torch.equal(rollout.rewards, before)


@pytest.mark.parametrize("method", METHODS)
def test_resume_is_exact(method: Any) -> None:
    keywords: dict[str, Any] = {"normalization_method": method, "scaling_warmup_episodes": 5}
    straight, resumed = stage_of(3, 6, **keywords), stage_of(3, 6, **keywords)
    for seed in range(3):
        straight.rewards(random_rollout(seed))
    resumed.load_state_dict(straight.state_dict())
    for seed in range(3, 6):
        expected, result = straight.rewards(random_rollout(seed)), resumed.rewards(random_rollout(seed))
        assert torch.equal(result.rewards, expected.rewards)
        assert torch.equal(result.factor, expected.factor)


def test_the_state_of_another_number_of_components_is_refused() -> None:
    with pytest.raises(ValueError, match=r"for 2 components cannot take the state of 3"):
        stage_of(2, 6).load_state_dict(stage_of(3, 6).state_dict())


def test_the_statistics_go_on_with_another_number_of_environments_whose_episodes_are_new() -> None:
    before = stage_of(3, 6)
    for seed in range(3):
        before.rewards(random_rollout(seed))
    after = stage_of(3, 4)
    after.load_state_dict(before.state_dict())
    old, new = before.state_dict(), after.state_dict()
    assert new["episodes"] == old["episodes"]
    assert torch.equal(new["returns"]["mean"], old["returns"]["mean"])
    assert new["discounted"].shape == (4, 3)
    assert not new["discounted"].any()
    after.rewards(random_rollout(3, envs=4))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min_episode_length", 0),
        ("normalization_method", "z-score"),
        ("scaling_warmup_episodes", -1),
        ("gamma", 1.5),
        ("warmup", 3),
    ],
)
def test_a_wrong_keyword_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        stage_of(**{key: value})
