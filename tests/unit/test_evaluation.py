"""Deterministic episodes: how many, of whom, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch

from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import Act, Timestep
from equipoise.envs.references import References
from equipoise.trainer import evaluation
from equipoise.trainer.evaluation import evaluate, normalized_score
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


def test_an_episode_without_an_end_is_an_error_that_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "EPISODE_LIMIT", 20)
    env = Endless(
        3, CPU
    )  # the others' episodes end again and again, which must not hide the one that does not
    with pytest.raises(
        EnvError, match=r"(?s)Endless: environment 1: .* 20 steps.*max_episode_steps.*TimeLimit"
    ):
        evaluate(policy(), env, episodes=6, seed=0)
    assert env.taken == 20


def test_an_environment_that_has_done_its_share_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "EPISODE_LIMIT", 4)

    class Lasting(ToyEnv):
        def step(self, action: Any) -> Timestep:
            if self._clock[2] == 4:  # as long as the limit, but no episode of this environment counts
                self._clock[2] = 3.0
            return super().step(action)

    assert evaluate(policy(), Lasting(3, CPU), episodes=2, seed=0).lengths == [3, 4]


def test_the_longest_episode_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "EPISODE_LIMIT", 5)
    assert sorted(evaluate(policy(), wages(), episodes=3, seed=0).lengths) == [3, 4, 5]
    monkeypatch.setattr(evaluation, "EPISODE_LIMIT", 4)
    with pytest.raises(EnvError, match="environment 2"):
        evaluate(policy(), wages(), episodes=3, seed=0)
