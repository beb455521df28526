"""What went wrong in silence elsewhere, or here before: streams, relevance, global state."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
import reported  # registers its environments
import torch
from gymnasium import spaces

from equipoise.envs.gymnasium_adapter.adapter import GymnasiumEnv
from equipoise.trainer.spaces import HybridSpace

BOTH = pytest.mark.parametrize("vectorization", ["sync", "async"])


def resets(id: str, num_envs: int, seed: int = 0, **keywords: Any) -> torch.Tensor:
    """`[N, O]`: the first observations."""
    env = GymnasiumEnv(id, num_envs, **keywords)
    observation = env.reset(seed)[0]
    env.close()
    return observation


# --- random streams --------------------------------------------------------------------------------------


def test_the_parts_of_a_space_draw_numbers_of_their_own() -> None:
    goal, start = resets("reported/SamplesGoal-v0", 64).split(2, dim=1)
    assert not torch.isclose(goal, start).any()
    together = torch.cat([goal, start], dim=1)
    assert (torch.corrcoef(together.T).fill_diagonal_(0.0).abs() < 0.4).all()


def test_what_is_done_without_a_policy_does_not_succeed() -> None:
    """With one seed for goal and start an untrained policy had 100 % success."""
    env = GymnasiumEnv("reported/SamplesGoal-v0", 8)
    env.reset(0)
    stay = torch.zeros(8, dtype=torch.int64), torch.zeros(8, 2)
    outcomes = [env.step(stay).metrics.get("success") for _ in range(60)]
    ended = torch.cat([outcome for outcome in outcomes if outcome is not None])
    assert len(ended[~ended.isnan()]) == 24
    assert ended.nansum() <= 1


def test_no_space_draws_what_another_draws_or_the_environment_s_own_stream() -> None:
    drawn = resets("reported/SamplesThrice-v0", 16)
    assert len(drawn.flatten().unique()) == drawn.numel()


@BOTH
@pytest.mark.parametrize(
    "id", ["reported/SamplesGoal-v0", "reported/SamplesThrice-v0", "reported/NamesStream-v0"]
)
def test_what_an_environment_draws_does_not_depend_on_its_neighbours(id: str, vectorization: Any) -> None:
    few, many = (resets(id, n, 7, vectorization=vectorization) for n in (2, 3))
    assert torch.equal(few, many[:2])
    assert torch.equal(few, resets(id, 2, 7))
    assert not torch.equal(few, resets(id, 2, 8))


def test_spaces_shared_by_all_copies_go_on_drawing_apart() -> None:
    """The space of the class would be one stream: the second episode would depend on the number of copies."""

    def episodes(num_envs: int) -> torch.Tensor:
        env = GymnasiumEnv("reported/SamplesGoal-v0", num_envs)
        env.reset(3)
        stay = torch.zeros(num_envs, dtype=torch.int64), torch.zeros(num_envs, 2)
        return torch.stack([env.step(stay).observation[0] for _ in range(45)])

    assert torch.equal(episodes(1), episodes(3))


@BOTH
def test_what_comes_from_the_generators_of_the_process_is_each_environment_s_own(vectorization: Any) -> None:
    """Forked workers would all begin with one stream, and copies in one process would share it."""

    def episode(num_envs: int, seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        env = GymnasiumEnv("reported/GlobalRandom-v0", num_envs, vectorization=vectorization)
        observations = [env.reset(seed)[0], *(env.step(torch.zeros(num_envs)).observation for _ in range(3))]
        env.close()
        return torch.stack(observations)

    drawn = episode(3, 1)
    assert len(drawn.flatten().unique()) == 3 * 4 + 4 * 3 * 4  # the first half is drawn once
    assert torch.equal(drawn, episode(3, 1))
    assert torch.equal(drawn[:, :2], episode(2, 1))
    again = episode(3, 2)
    assert torch.equal(drawn[..., :4], again[..., :4])
    assert not torch.isclose(drawn[..., 4:], again[..., 4:]).any()


def test_environments_leave_the_generators_of_the_process_alone() -> None:
    def draw() -> list[float]:
        return [np.random.rand(), random.random(), torch.rand(1).item()]

    env = GymnasiumEnv("reported/GlobalRandom-v0", 2)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    expected = [draw() for _ in range(3)]
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    found = [draw()]
    env.reset(0)
    found.append(draw())
    env.step(torch.zeros(2))
    assert [*found, draw()] == expected


@BOTH
@pytest.mark.parametrize("id", ["reported/GlobalRandom-v0", "reported/SharedRandom-v0"])
def test_such_generators_go_on_when_an_environment_does(id: str, vectorization: Any) -> None:
    def observations(env: GymnasiumEnv) -> torch.Tensor:
        return torch.stack([env.step(torch.zeros(2)).observation[:, -4:] for _ in range(4)])

    env, other = (GymnasiumEnv(id, 2, vectorization=vectorization) for _ in range(2))
    env.reset(0)
    env.step(torch.zeros(2))
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.notice is None
    assert torch.equal(observations(other), observations(env))
    env.close()
    other.close()


@BOTH
def test_what_comes_from_a_generator_of_the_module_or_the_class_is_each_environment_s_own(
    vectorization: Any,
) -> None:
    def episode(num_envs: int, seed: int) -> torch.Tensor:
        env = GymnasiumEnv("reported/SharedRandom-v0", num_envs, vectorization=vectorization)
        observations = [env.reset(seed)[0], *(env.step(torch.zeros(num_envs)).observation for _ in range(3))]
        env.close()
        return torch.stack(observations)

    drawn = episode(3, 1)
    assert len(drawn.flatten().unique()) == drawn.numel()
    assert torch.equal(drawn, episode(3, 1))
    assert torch.equal(drawn[:, :2], episode(2, 1))
    assert not torch.isclose(drawn, episode(3, 2)).any()


# --- relevance -------------------------------------------------------------------------------------------


def understood(id: str, **keywords: Any) -> tuple[str, list[str]]:
    env = GymnasiumEnv(id, 1, **keywords)
    return HybridSpace(env.action_space, env.relevance).describe(), env.take_remarks()


def test_what_a_wrapper_says_of_relevance_counts() -> None:
    text, remarks = understood("reported/Wrapped-v0")
    assert text.endswith("relevant by choice of head 0: 0 -> 0-1; 1 -> none")
    assert remarks == []


def test_a_table_is_not_applied_to_another_action_space() -> None:
    text, remarks = understood("reported/WrappedSilently-v0")
    assert text.endswith("always relevant: parameters 0-1")
    assert len(remarks) == 1
    assert "relevance of Inner: does not apply, as Doubling changes the action space" in remarks[0]
    assert "env.relevance" in remarks[0]


def test_a_table_given_by_the_user_comes_first() -> None:
    text, remarks = understood("reported/WrappedSilently-v0", relevance=np.array([[[0], [1]]]))
    assert text.endswith("relevant by choice of head 0: 0 -> 0; 1 -> 1")
    assert remarks == []


def test_wrappers_that_leave_the_actions_alone_leave_the_table_alone() -> None:
    text, _ = understood("reported/Inner-v0")  # within Gymnasium's OrderEnforcing and TimeLimit
    assert text.endswith("relevant by choice of head 0: 0 -> none; 1 -> 0")


def test_all_makes_every_parameter_count() -> None:
    text, _ = understood("reported/Inner-v0", relevance="all")
    assert text.endswith("always relevant: parameters 0")


class SinceTheEpoch(reported.OneStep):
    """Sees seconds since 1970, in float64."""

    observation_space = spaces.Box(0.0, 1e10, (2,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.array([0.5, 1_790_000_000.0]), {}


def test_a_number_of_which_float32_keeps_too_little_is_named_once() -> None:
    env = GymnasiumEnv(make=SinceTheEpoch, num_envs=2)
    env.reset(1)
    (remark,) = env.take_remarks()
    assert remark.startswith("observation[1] is 1790000000, of which float32 tells only steps of 128 apart")
    env.reset(2)
    assert env.take_remarks() == []
    env.close()
