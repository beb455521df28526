"""TopologySpawn's expert is hard to beat, and the task needs decisions and parameters alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equipoise.envs.protocol import NativeAction
from equipoise.envs.references import episode_returns, reference_returns
from equipoise.envs.topology_spawn.environment import TopologySpawn
from equipoise.envs.topology_spawn.expert import decision_accuracy, hill_parameters
from equipoise.envs.topology_spawn.rules import DELETE, REST, SPAWN
from equipoise.scripts.reference_scores import scores, search_expert

EPISODES = 256


@pytest.fixture(scope="module")
def score() -> dict[str, float]:
    returns = {name: float(values.mean()) for name, values in scores(EPISODES, 0, {}).items()}
    zero, one = returns["random"], returns["expert"]
    return {name: (value - zero) / (one - zero) for name, value in returns.items()}


def test_neither_side_alone_solves_the_task(score: dict[str, float]) -> None:
    assert score["expert decisions, random parameters"] <= 0.6
    assert score["random decisions, expert parameters"] <= 0.6


def test_resting_for_ever_is_worth_little(score: dict[str, float]) -> None:
    assert score["rest for ever"] <= 0.3


def test_precise_parameters_pay(score: dict[str, float]) -> None:
    noisy = [score[f"expert, noise {scale} on the parameters"] for scale in (0.05, 0.1, 0.2, 0.4)]
    assert noisy == sorted(noisy, reverse=True)
    assert noisy[0] > 0.95
    assert noisy[-1] < 0.8


def test_the_expert_reaches_what_a_search_over_its_parameters_finds() -> None:
    references = reference_returns(TopologySpawn, EPISODES)
    assert references.expert is not None
    _, found = search_expert({}, seed=0, rounds=5, candidates=48, episodes=12)
    assert found > 60, "the search found nothing of use, so it proves nothing"
    assert references.expert >= 0.95 * found


def test_dying_at_once_is_as_bad_as_playing_at_random_and_far_worse_than_resting() -> None:
    def delete_all(env: object, mask: Tensor | None) -> NativeAction:
        return {"topology": torch.full((8, 10), DELETE), "spawn": torch.ones(8, 10, 4)}

    references = reference_returns(TopologySpawn, EPISODES)
    died = float(episode_returns(TopologySpawn(8), delete_all, 0).mean())
    assert references.expert is not None
    assert (died - references.random) / (references.expert - references.random) < 0.05


@pytest.mark.parametrize("substrate", ["linear", "exponential", "random"])
def test_the_expert_s_children_gain_what_they_should(substrate: str) -> None:
    env = TopologySpawn(64, substrate=substrate)
    env.reset(0)
    errors = []
    for _ in range(8):
        error = env.step({**env.expert_action()}).metrics["spawn_parameter_error"]
        errors.append(error[~error.isnan()])
    assert env.expert.gain == 1
    assert torch.cat(errors).numel() > 500
    # On the random substrate a few hollows are too wide for the largest gamma.
    assert float(torch.cat(errors).quantile(0.99)) < 1e-3


def test_hill_parameters_give_the_distance_or_come_as_near_as_they_can() -> None:
    intensity = torch.tensor([3.0, 1.5, 20.0, 20.0, 3.0])
    distance = torch.tensor([2.0, 4.0, 0.49, 0.1, 9.0])
    gamma, alpha, noise, theta = hill_parameters(distance, intensity).unbind(-1)
    reached = gamma / (1 + (alpha / intensity) ** 2)
    # The last two are out of reach: at least 0.5 / (1 + (3/20)²), at most 5 / (1 + (0.5/3)²).
    assert reached.tolist() == pytest.approx([2.0, 4.0, 0.49, 0.488998, 4.864865], abs=1e-5)
    assert noise.tolist() == pytest.approx([0.05] * 5)
    assert theta.tolist() == [0.0] * 5


def test_the_expert_s_own_decisions_are_the_right_ones() -> None:
    env = TopologySpawn(1)
    _, _, expert = env.expert_states

    def as_expert(observation: Tensor, action_mask: Tensor | None) -> NativeAction:
        return {"topology": expert}

    assert env.diagnose(as_expert) == {"decision_accuracy": 1.0}
    counts = expert.flatten().bincount(minlength=3)
    assert counts.min() > 100, "every choice is asked for"


def test_resting_gets_a_third_of_the_decisions_right() -> None:
    def rest(observation: Tensor, action_mask: Tensor | None) -> NativeAction:
        return {"topology": torch.zeros(len(observation), 10, dtype=torch.int64)}

    assert TopologySpawn(1).diagnose(rest)["decision_accuracy"] == pytest.approx(1 / 3)


def test_decision_accuracy_is_the_mean_recall_of_living_nodes() -> None:
    expert = torch.tensor([[REST, REST, SPAWN, DELETE, REST]])
    choice = torch.tensor([[REST, SPAWN, SPAWN, REST, SPAWN]])
    alive = torch.tensor([[True, True, True, True, False]])
    # rest 1 of 2, spawn 1 of 1, delete 0 of 1
    assert decision_accuracy(choice, expert, alive) == pytest.approx((0.5 + 1 + 0) / 3)
