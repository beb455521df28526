"""Episodes of the deterministic and the sampled policy: how many, of whom, and what they say."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import Act, Timestep
from equipoise.envs.references import References
from equipoise.trainer import footage
from equipoise.trainer.evaluation import evaluate, normalized_score
from equipoise.trainer.evaluator import Evaluator
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.encoders import MLP
from equipoise.trainer.spaces import HybridSpace
from tests.toy_env import ToyEnv

CPU = torch.device("cpu")


def wages(num_envs: int = 3) -> ToyEnv:
    """Environment i ends after 3 + i steps with a return of (i + 1)·(3 + i): 3, 8, 15."""
    return ToyEnv(num_envs, CPU, reward_weights=(1.0, 0.0))


def policy() -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(HybridSpace(ToyEnv.action_space), (2,), 2, encoder=partial(MLP, hidden_sizes=(8,)))


def test_every_environment_contributes_equally_many_episodes() -> None:
    result = evaluate(policy(), wages(), episodes=6, seed=0)
    # Environment 0 could have finished three while environment 2 was at its second.
    assert sorted(result.returns) == [3, 3, 8, 8, 15, 15]
    assert sorted(result.lengths) == [3, 3, 4, 4, 5, 5]
    assert result.return_mean == pytest.approx(52 / 6)
    assert result.return_std == pytest.approx((((3**2 + 8**2 + 15**2) / 3) - (26 / 3) ** 2) ** 0.5)


@pytest.mark.parametrize("episodes", [1, 2, 4, 5])
def test_no_more_episodes_than_asked_for(episodes: int) -> None:
    result = evaluate(policy(), wages(), episodes, seed=0)
    assert len(result.returns) == len(result.lengths) == episodes
    assert set(result.returns) <= {3, 8, 15}


def test_metrics_are_means_over_the_counted_episodes_only() -> None:
    result = evaluate(policy(), wages(), episodes=3, seed=0)
    # Clocks 1–3, 1–4 and 1–5; the second episode that environment 0 begins meanwhile does not count.
    assert result.metrics == {"clock": pytest.approx((6 + 10 + 15) / 12)}
    assert result.success_rate == pytest.approx(2 / 3)  # environments 0 and 2 terminate


def test_what_an_environment_does_not_report_is_absent() -> None:
    class Silent(ToyEnv):
        def step(self, action: Any) -> Timestep:
            nothing = torch.full((self.num_envs,), torch.nan)
            return super().step(action)._replace(metrics={"success": nothing, "error": nothing})

    result = evaluate(policy(), Silent(3, CPU), episodes=3, seed=0)
    assert result.success_rate is None
    assert result.metrics == {}
    assert result.score is None


def test_the_policy_acts_deterministically() -> None:
    acting = policy()
    first, again = (evaluate(acting, ToyEnv(3, CPU), episodes=3, seed=seed) for seed in (0, 1))
    assert first.returns == again.returns  # the environment has no luck either


def test_the_score_puts_the_mean_return_between_random_and_expert() -> None:
    result = evaluate(
        policy(), wages(), episodes=3, seed=0, references=References(random=26 / 3 - 4, expert=26 / 3 + 4)
    )
    assert result.score == pytest.approx(0.5)
    assert normalized_score(12.0, References(random=2.0, expert=7.0)) == pytest.approx(2.0)
    assert normalized_score(-3.0, References(random=2.0, expert=7.0)) == pytest.approx(-1.0)
    assert normalized_score(1.0, None) is None
    assert normalized_score(1.0, References(random=0.0, expert=None)) is None
    assert normalized_score(1.0, References(random=2.0, expert=2.0)) is None


def test_frames_are_of_the_first_episode_of_the_first_environment() -> None:
    result = evaluate(policy(), wages(), episodes=6, seed=0, render=True)
    assert [int(frame[0, 0, 0]) for frame in result.frames] == [0, 1, 2]
    assert evaluate(policy(), wages(), episodes=3, seed=0).frames == []


def test_an_environments_diagnosis_is_among_the_figures_and_sees_the_policy() -> None:
    class Diagnosed(ToyEnv):
        def diagnose(self, act: Act) -> Mapping[str, float]:
            choice, parameters = act(self._observe(), None)
            assert isinstance(choice, torch.Tensor)
            return {"shape": float(choice.shape[0] + len(parameters))}

    result = evaluate(policy(), Diagnosed(3, CPU), episodes=3, seed=0)
    assert result.metrics["shape"] == 3 + 2


class Endless(ToyEnv):
    """Environment 1 never ends; 0 and 2 last 3 and 5 steps."""

    taken = 0

    def step(self, action: Any) -> Timestep:
        self.taken += 1
        assert self.taken < 100, "the evaluation hangs"
        self._clock[1] = 1.0
        return super().step(action)


def test_an_episode_without_an_end_counts_as_it_is_when_the_steps_are_used_up() -> None:
    env = Endless(3, CPU, reward_weights=(1.0, 0.0))
    # The others' episodes end again and again, which must not hide the one that does not.
    result = evaluate(policy(), env, episodes=6, seed=0, max_steps=20)
    assert env.taken == 20
    assert result.unfinished == 1
    assert sorted(result.lengths) == [3, 3, 5, 5, 20]
    assert result.returns[result.lengths.index(20)] == 20 * 2  # so far


def test_an_environment_that_has_done_its_share_may_go_on() -> None:
    class Lasting(ToyEnv):
        def step(self, action: Any) -> Timestep:
            if self._clock[2] == 4:  # as long as the limit, but no episode of this environment counts
                self._clock[2] = 3.0
            return super().step(action)

    result = evaluate(policy(), Lasting(3, CPU), episodes=2, seed=0, max_steps=4)
    assert (result.lengths, result.unfinished) == ([3, 4], 0)


def test_the_longest_episode_that_is_allowed() -> None:
    for most, lengths, unfinished in ((5, [3, 4, 5], 0), (4, [3, 4, 4], 1)):
        result = evaluate(policy(), wages(), episodes=3, seed=0, max_steps=most)
        assert sorted(result.lengths) == lengths
        assert result.unfinished == unfinished


class Filmed(ToyEnv):
    """Long episodes, and pictures that are wider than a film."""

    pictures = 0

    def __init__(self, length: int, seconds: float = 0.0) -> None:
        super().__init__(1, CPU)
        self.left, self._length, self._seconds = length, length, seconds

    def reset(self, seed: int | None = None) -> tuple[Tensor, Tensor | None]:
        self.left = self._length
        return super().reset(seed)

    def step(self, action: Any) -> Timestep:
        self.left -= 1
        step = super().step(action)
        return step._replace(terminated=torch.tensor([self.left <= 0]), truncated=torch.tensor([False]))

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        self.pictures += 1
        time.sleep(self._seconds)
        return np.full((24, 960, 3), (self._length - self.left) % 256, np.uint8)


@pytest.mark.parametrize("length", [100, 700, 2_000])
def test_a_film_has_few_pictures_all_over_the_episode_and_small_ones(length: int) -> None:
    env = Filmed(length)
    frames = evaluate(policy(), env, 1, seed=0, render=True).frames
    assert len(frames) <= footage.MOST
    assert env.pictures <= 2 * footage.MOST + length // 4
    assert {frame.shape for frame in frames} == {(12, 480, 3)}
    shown = [int(frame[0, 0, 0]) for frame in frames]
    every = 1 if length < 300 else 4 if length < 1_200 else 8
    assert shown == [step % 256 for step in range(0, length, every)]


def test_slow_rendering_ends_the_film_and_not_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footage, "SECONDS", 0.05)
    env = Filmed(200, seconds=0.02)
    result = evaluate(policy(), env, 1, seed=0, render=True)
    assert 1 <= len(result.frames) <= 4
    assert result.lengths == [200]


class Watched(ToyEnv):
    """Keeps the parameters of choice 1, `[N]` for each step."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs, CPU, reward_weights=(1.0, 0.0))
        self.seen: list[Tensor] = []

    def step(self, action: Any) -> Timestep:
        self.seen.append(action[1][1][:, 0].clone())
        return super().step(action)


def test_both_policies_act_side_by_side_each_in_its_half() -> None:
    env, acting = Watched(3), policy()
    generator = torch.get_rng_state()
    result = evaluate(acting, env, episodes=2, seed=0, acting="both")
    assert torch.equal(torch.get_rng_state(), generator), "noise comes from a generator of its own"
    assert result.sampled is not None
    assert (sorted(result.returns), result.sampled.returns) == ([3, 8], [15, 15])
    alone = Watched(3)
    evaluate(policy(), alone, episodes=6, seed=0)
    pairs = list(zip(env.seen, alone.seen, strict=False))
    assert all(torch.equal(both[:2], one[:2]) for both, one in pairs), "the first two are deterministic"
    assert all(both[2] != one[2] for both, one in pairs), "and the third is not"


def test_a_single_environment_is_used_twice() -> None:
    result = evaluate(policy(), wages(1), episodes=2, seed=0, acting="both")
    assert result.sampled is not None
    assert result.returns == result.sampled.returns == [3, 3]
    assert result.named().keys() >= {"return", "sampled_return", "success", "sampled_success"}


@pytest.mark.parametrize(("best_by", "best"), [("deterministic", 5.5), ("sampled", 15.0)])
def test_the_best_policy_is_the_one_that_best_by_names(best_by: Any, best: float) -> None:
    judge = Evaluator(policy(), wages, 3, None, 1, 2, 2, 1_000, best_by)
    metrics: dict[str, float] = {}
    assert judge.interim(metrics)
    assert (metrics["evaluation/return"], metrics["evaluation/sampled_return"]) == (5.5, 15.0)
    assert judge.best_return == best
    assert not judge.interim({}), "no better than before"
    other = Evaluator(policy(), wages, 3, None, 1, 2, 2, 1_000, "sampled")
    other.load_state_dict(judge.state_dict())
    assert other.best_return == (best if best_by == "sampled" else -float("inf"))


def evaluator(make_env: Callable[[int], ToyEnv], num_envs: int = 3) -> Evaluator:
    return Evaluator(policy(), make_env, num_envs, None, 1, 3, 3, 1_000)


def test_the_first_look_makes_the_environment_once_and_draws_nothing() -> None:
    made: list[Filmed] = []

    class Drawing(Filmed):
        def reset(self, seed: int | None = None) -> tuple[Tensor, Tensor | None]:
            torch.rand(3), np.random.rand(3), random.random()
            return super().reset(seed)

    def make(num_envs: int) -> ToyEnv:
        made.append(Drawing(10))
        return made[-1]

    ready = evaluator(make, num_envs=1)  # a policy draws its weights
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    ready.look()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert random.getstate() == before[2]
    assert [env.left for env in made] == [0], "one, played to its end"


def test_what_goes_wrong_at_the_first_look_names_the_environment_for_evaluations() -> None:
    def make(num_envs: int) -> ToyEnv:
        raise ValueError("all seats taken")

    with pytest.raises(
        EnvError, match="all seats taken .in the environment for evaluations, which exists beside "
    ):
        evaluator(make).look()
