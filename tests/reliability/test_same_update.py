"""Two real processes with half of the data each make the update that one makes with all of it.

Everything is real but the environment's randomness: rollouts of TopologySpawn are recorded once, turned into
float64, and learned from by the trainer's own `Learner` with all stages.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from equipoise.trainer.build import build, make_optimizer
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.data import Actions, Rollout
from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.loop import Trainer
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.targets import prepare
from tests.conftest import TINY_TOPOLOGY

ENVS, STEPS, EPOCHS, MINIBATCHES, ITERATIONS = 8, 16, 2, 2, 5
SETTINGS = (
    *TINY_TOPOLOGY,
    f"env.num_envs={ENVS}",
    "trainer.normalize_values=true",
    "trainer.total_env_steps=100_000",
    "trainer.gradient_scaling.warmup_steps=3",
    "trainer.gradient_scaling.measure_every=3",
    "trainer.reward_normalization.scaling_warmup_episodes=4",
    # High enough that the guard is at work, which is not linear.
    "trainer.entropy_regularization.min_entropy_threshold=2.0",
    "optimizer.learning_rate=1e-2",
)
VARIANTS = {
    "default": (),
    "active divisors and z-scores": (
        "optimizer=adam",
        "trainer.reduction=active",
        "trainer.reward_normalization.normalization_method=zscore",
        "policy=mlp",
        "policy.state_dependent_std=true",
    ),
}


def config_of(variant: str) -> Config:
    return compose([*SETTINGS, *VARIANTS[variant]])


def in_float64(trainer: Trainer) -> Trainer:
    """The same run in double precision: what is built anew is what refers to the float32 parameters."""
    update, policy = trainer.learner, trainer.policy.double()
    update.flat = FlatParameters(policy)
    update.optimizer = make_optimizer(trainer.config.optimizer, update.flat, trainer.policy)
    return trainer


def half(rollout: Rollout, rank: int) -> Rollout:
    """The environments of one of two processes."""
    chosen = slice(rank * ENVS // 2, (rank + 1) * ENVS // 2)

    def part(value: object) -> object:
        if isinstance(value, Actions):
            return Actions(*(tensor[:, chosen].clone() for tensor in value))
        if isinstance(value, Tensor) and value.dim() > 1:
            return value[:, chosen].clone() if value.shape[0] == STEPS else value[chosen].clone()
        return value

    fields = {field.name: part(getattr(rollout, field.name)) for field in dataclasses.fields(rollout)}
    return Rollout(**fields)  # type: ignore[arg-type]


def recorded(trainer: Trainer) -> list[Rollout]:
    def double(value: object) -> object:
        if isinstance(value, Actions):
            return Actions(*(double(tensor) for tensor in value))  # type: ignore[arg-type]
        if isinstance(value, Tensor):
            return value.double() if value.is_floating_point() else value.clone()
        return value

    rollouts = []
    for _ in range(ITERATIONS):
        rollout, _ = trainer.collector.collect()
        fields = {f.name: double(getattr(rollout, f.name)) for f in dataclasses.fields(rollout)}
        rollouts.append(copy.deepcopy(Rollout(**fields)))  # type: ignore[arg-type]
    return rollouts


def learned(trainer: Trainer, rollouts: list[Rollout]) -> tuple[Tensor, dict[str, float]]:
    """`[updates, n]` the parameters after each optimizer step, and the last iteration's metrics."""
    history: list[Tensor] = []
    update = trainer.learner
    update.optimizer.inner.register_step_post_hook(
        lambda *_: history.append(update.flat.vector.detach().clone())  # type: ignore[arg-type]
    )
    for number, rollout in enumerate(rollouts):
        log = MetricLog()
        _, samples = prepare(rollout, trainer.policy, update.pipeline, trainer.settings, log)
        update.learn(samples, number / ITERATIONS, log)
        trainer.policy.update_normalizer(rollout.observations)
    return torch.stack(history), log.read()


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    place = Path(folder)
    dist.init_process_group("gloo", init_method=(place / "rendezvous").as_uri(), rank=rank, world_size=2)
    for variant in VARIANTS:
        trainer = in_float64(build(config_of(variant), place / "run"))
        rollouts = torch.load(place / f"{variant}.pt", weights_only=False)
        result = learned(trainer, [half(rollout, rank) for rollout in rollouts])
        torch.save(result, place / f"{variant}-{rank}.pt")
    dist.destroy_process_group()


def orders_of_both() -> Iterator[Tensor]:
    """For the single process: in each minibatch the samples that the two have in theirs."""
    generators = [torch.Generator().manual_seed(1_000 + 2 + 2 * rank) for rank in range(2)]
    samples, share = STEPS * ENVS // 2, ENVS // 2
    for _ in range(EPOCHS * ITERATIONS):
        halves = [torch.randperm(samples, generator=generator) for generator in generators]
        whole = [(own // share) * ENVS + own % share + rank * share for rank, own in enumerate(halves)]
        yield torch.stack([own.view(MINIBATCHES, -1) for own in whole], 1).flatten()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all processes found, `<variant>-<rank>.pt`, and the recorded rollouts, `<variant>.pt`."""
    place = tmp_path_factory.mktemp("processes")
    for variant in VARIANTS:
        torch.save(recorded(build(config_of(variant), place / "alone")), place / f"{variant}.pt")
    mp.start_processes(
        work, (str(place),), nprocs=2, start_method="forkserver"
    )  # that of other tests has torch
    return place


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_learn_what_one_does(
    folder: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = torch.load(folder / f"{variant}.pt", weights_only=False)
    trainer = in_float64(build(config_of(variant), folder / "alone"))
    orders = iter(list(orders_of_both()))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randperm", lambda *_, **__: next(orders))
        alone, metrics = learned(trainer, rollouts)
    (first, first_metrics), (second, second_metrics) = (
        torch.load(folder / f"{variant}-{rank}.pt") for rank in range(2)
    )
    assert len(alone) == EPOCHS * MINIBATCHES * ITERATIONS == 20
    assert torch.equal(first, second)
    distance = (first - alone).abs().amax(1)
    print(f"{variant}: {distance[0]:.1e} after one update, {distance.max():.1e} at most in 20")
    assert distance[0] <= 1e-12
    assert distance.max() <= 1e-6
    assert (alone[-1] - alone[0]).abs().max() > 1e-2  # it did learn
    assert first_metrics == second_metrics
    assert set(first_metrics) == set(metrics)
    for tag in (
        "loss/discrete",
        "loss/entropy_discrete_guard",
        "optimizer/gradient_norm",
        "entropy/discrete",
    ):
        assert first_metrics[tag] == pytest.approx(metrics[tag], rel=1e-6), tag
    assert metrics["gradient_scaling/gradient_scaling_active"] > 0
    assert metrics["entropy/discrete_guard_active"] > 0
