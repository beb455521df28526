"""Rollout and update queue work for the device and never wait for it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.loop import Trainer
from equipoise.trainer.targets import prepare

ROOT = Path(__file__).parents[2]
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "_unique2")
"""Operations whose result, or its shape, the host has to wait for."""
ON_THE_CPU_ALONE = {
    ("environment.py", "advance"),  # whether anything moves
    ("targets.py", "_final_values"),  # which steps truncated an episode
    ("diagnosis.py", "check_targets"),  # elsewhere the loop asks, after the update
    ("diagnosis.py", "record"),
    ("living.py", "__init__"),  # which nodes or entities exist
    ("head_after_head.py", "_valid"),  # whether choices leave any to others
    ("advantage_weighting.py", "_learn"),  # the step count of torch's Adam, which stays on the host
}
"""Reads that the code makes where looking is free, or of numbers that never leave the host."""
ENVS = (
    "topology_spawn",
    "synthetic",
    "platform",
    "goal",
    "moving",
    "hard_move",
    "catch_point",
    "switched_lqr",
    "inventory",
)


def learn(trainer: Trainer) -> None:
    """What an iteration does before it reads its metrics."""
    rollout, _ = trainer.collector.collect()
    _, samples = prepare(
        rollout, trainer.policy, trainer.learner.pipeline, trainer.config.trainer, trainer.log
    )
    trainer.learner.learn(samples, 0.1, trainer.log)
    trainer.policy.update_normalizer(rollout.observations)


class Reads(TorchDispatchMode):
    """Notes who reads a tensor's value: (file, function)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, str]] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = function._schema.name == "aten::index" and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or function._schema.name.removeprefix("aten::") in READS:
            frames = [frame for frame in traceback.extract_stack() if self._ours(Path(frame.filename))]
            self.found.add((Path(frames[-1].filename).name, frames[-1].name))
        return function(*args, **(kwargs or {}))

    @staticmethod
    def _ours(path: Path) -> bool:
        path = path.resolve()  # equipoise/ links to the folders
        return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("envs", "trainer")


@pytest.mark.parametrize("env", ENVS)
def test_nobody_reads_a_value_but_where_looking_is_free(env: str, tmp_path: Path) -> None:
    """On the CPU; what would be read on a GPU too would be missing in `ON_THE_CPU_ALONE`."""
    config = compose([f"env={env}", "env.num_envs=16", "policy.hidden_sizes=[8]", "device=cpu", "threads=1"])
    trainer = build(config, tmp_path)
    with Reads() as reads:
        learn(trainer)
    assert reads.found <= ON_THE_CPU_ALONE
    assert ("diagnosis.py", "record") in reads.found  # the test sees reads


@pytest.mark.parametrize("distribution", ["beta", "squashed"])
def test_nor_for_other_distributions_and_a_rate_that_follows_the_kl(
    distribution: str, tmp_path: Path
) -> None:
    chosen = (f"policy.distribution={distribution}", "optimizer=adam_kl")
    trainer = build(compose(["env=moving", "env.num_envs=16", *chosen, "device=cpu", "threads=1"]), tmp_path)
    with Reads() as reads:
        learn(trainer)
    assert reads.found <= ON_THE_CPU_ALONE


@pytest.mark.parametrize("env", ["moving", "BatchedPairs", "FunctionPairs"])
@pytest.mark.parametrize("conditioning", ["choices", "autoregressive"])
def test_nor_where_choices_are_seen_or_masks_depend_on_them(
    env: str, conditioning: str, tmp_path: Path
) -> None:
    named = f"env._target_=tests.envs.pairs.{env}" if env[0].isupper() else f"env={env}"
    settings = (
        "policy=mlp",
        "env.num_envs=16",
        f"policy.conditioning={conditioning}",
        "device=cpu",
        "threads=1",
    )
    trainer = build(compose([named, *settings]), tmp_path)
    with Reads() as reads:
        learn(trainer)
    assert reads.found <= ON_THE_CPU_ALONE


@pytest.mark.parametrize(
    "settings",
    [
        ("env.make=tests.integration.test_combinations:Sampled", "env.kwargs={sees: mixed, masked: true}"),
        ("env.make=tests.envs.squad:Squad", "policy=entities"),
    ],
)
def test_nor_for_pictures_sets_and_entities(settings: tuple[str, ...], tmp_path: Path) -> None:
    chosen = ("env=gymnasium", *settings, "trainer.batch.rollout_steps=16", "device=cpu", "threads=1")
    trainer = build(compose([*chosen]), tmp_path)
    with Reads() as reads:
        learn(trainer)
    assert reads.found <= ON_THE_CPU_ALONE


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("env", ENVS)
def test_the_host_never_waits_for_the_device(env: str, tmp_path: Path) -> None:
    trainer = build(compose([f"env={env}", "device=cuda"]), tmp_path)
    trainer.iterate()  # allocations and libraries' first calls may wait
    with waiting_is_an_error():
        learn(trainer)
    assert trainer.log.read()["optimizer/skipped"] == 0.0
