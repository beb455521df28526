"""What two real processes compute is what one computes that sees the data of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_advantage_weighting as weighting
import test_entropy_regularization as entropy
import test_reward_normalization as normalization
import test_surrogate_size as size
import torch
import torch.distributed as dist

from equipoise.trainer.data import Term
from equipoise.trainer.stages.entropy_regularization import EntropyRegularization
from equipoise.trainer.stages.protocol import reduce_term
from tests.forked import in_two_processes

ENTROPIES = {"spread": ([0.01], [0.17] * 3), "collapsed": ([0.01], [0.05] * 3), "nothing": ([], [])}
"""Of the active decisions of either process. Means 0.13 and 0.04: the threshold of 0.1 lies between."""


WARM_UP = 15
"""Episodes: 10 end in the first rollout of each process, so that they are warm together and neither alone."""


def normalised(rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    stage = normalization.stage_of(3, 3, scaling_warmup_episodes=WARM_UP)
    half = slice(3 * rank, 3 * rank + 3)
    results = []
    for seed in range(4):
        rollout = normalization.random_rollout(seed)
        part = normalization.rollout_of(rollout.rewards[:, half], rollout.done[:, half])
        results.append(stage.rewards(part)[:2])
    return results


def weights(rank: int) -> list[float]:
    stage = weighting.stage_of([1.0, 1.0, 1.0])
    probe = weighting.FixedCosines([0.8, 0.0, 0.0] if rank == 0 else [0.2, 0.2, -0.4])
    for seed in range(10):
        half = weighting.random_targets(seed).advantages[:, 2 * rank : 2 * rank + 2]
        result = stage.advantages(weighting.targets_of(half), probe)
    return weighting.weights_of(result)


def entropy_figures(rank: int) -> dict[str, dict[str, float]]:
    metrics = {}
    for case, values in ENTROPIES.items():
        active = values[rank]
        # Three heads at most; those that are missing have one valid choice.
        mask = torch.tensor([True, False]).repeat(3, 1, 1)
        mask[: len(active)] = True
        logits = torch.zeros(3, 1, 2, dtype=torch.float64)
        for row, value in enumerate(active):
            logits[row, 0] = entropy.logits_of_entropy(value)
        state = EntropyRegularization().losses(entropy.state_of(logits, torch.zeros(3, 2), mask=mask))
        metrics[case] = {
            "bonus": reduce_term(state.terms["entropy_discrete"]).item(),
            "guard": reduce_term(state.terms["entropy_discrete_guard"]).item(),
            "active": state.metrics["entropy/discrete_guard_active"].value.item(),
            "mean": state.metrics["entropy/discrete"].value.item(),
        }
    return metrics


SURROGATES = ([[1.0], [2.0], [-3.0]], [[-4.0]])
"""Of either process; the mean size of all four is 2.5."""


def unit_size(values: list[list[float]]) -> tuple[float, float]:
    """The reduced surrogate after the stage, and the size that was found."""
    state = size.through(Term(torch.tensor(values), torch.ones(len(values), 1, dtype=torch.bool)), size.SOME)
    return reduce_term(state.terms["discrete"]).item(), state.metrics["loss/size_discrete"].value.item()


def work(rank: int, rendezvous: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    found = (normalised(rank), weights(rank), entropy_figures(rank), unit_size(SURROGATES[rank]))
    torch.save(found, f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """`(normalised, weights, entropy_figures, unit_size)` of either process."""
    folder: Path = tmp_path_factory.mktemp("processes")
    in_two_processes(work, (folder / "rendezvous").as_uri(), str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_reward_normalization_merges_its_statistics(both: list[Any]) -> None:
    stage = normalization.stage_of(3, 6, scaling_warmup_episodes=WARM_UP)
    for seed in range(4):
        alone = stage.rewards(normalization.random_rollout(seed))
        rewards = torch.cat([process[0][seed][0] for process in both], 1)
        torch.testing.assert_close(rewards, alone.rewards, rtol=1e-6, atol=1e-6)
        for process in both:
            torch.testing.assert_close(process[0][seed][1], alone.factor, rtol=1e-6, atol=0)
    for tier in ("reward_std", "factor"):  # both were at work
        metrics = [alone.metrics[f"reward_normalization/{tier}/{name}"].value for name in "abc"]
        assert max(abs(metric - 1.0) for metric in metrics) > 0.5, tier


def test_advantage_weights_stay_the_same_everywhere(both: list[Any]) -> None:
    """The processes find cosines whose means are those that the single process finds."""
    stage = weighting.stage_of([1.0, 1.0, 1.0])
    probe = weighting.FixedCosines([0.5, 0.1, -0.2])
    for seed in range(10):
        alone = weighting.weights_of(stage.advantages(weighting.random_targets(seed), probe))
    assert both[0][1] == both[1][1]
    assert both[0][1] == pytest.approx(alone, abs=1e-6)
    assert max(alone) > 0.35


def test_collapse_is_judged_over_all_processes(both: list[Any]) -> None:
    first, second = (process[2] for process in both)

    def together(case: str, metric: str) -> float:
        return (first[case][metric] + second[case][metric]) / 2  # what averaging the gradients does

    assert together("spread", "guard") == 0  # though the first process alone is at 0.01
    assert together("spread", "bonus") == pytest.approx(-0.1 * 0.13)
    assert first["spread"]["mean"] == second["spread"]["mean"] == pytest.approx(0.13)
    assert together("collapsed", "guard") == pytest.approx(3 * (0.1 - 0.04))
    assert together("collapsed", "active") == 1
    assert together("nothing", "guard") == together("nothing", "active") == 0


def test_the_size_of_a_surrogate_is_that_over_all_processes(both: list[Any]) -> None:
    alone, found = unit_size([*SURROGATES[0], *SURROGATES[1]])
    assert [process[3][1] for process in both] == [found, found] == [2.5, 2.5]
    assert sum(process[3][0] for process in both) / 2 == pytest.approx(alone)
