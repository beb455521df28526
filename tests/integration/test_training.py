"""Whole runs: what they write, that they repeat, that they resume bit for bit, and that they learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from equipoise.trainer.build import build
from equipoise.trainer.configuration.checking import check
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.loop import Trainer
from equipoise.trainer.stages.protocol import LossState
from equipoise.trainer.system import checkpoint

MakeConfig = Callable[..., Config]

SUMMARY = {
    "status",
    "env",
    "preset",
    "seed",
    "device",
    "env_steps",
    "iterations",
    "seconds",
    "cpu_seconds",
    "steps_per_second",
    "return_mean",
    "return_std",
    "normalized_score",
    "success_rate",
    "decision_accuracy",
    "spawn_parameter_error",
    "balance_ratio_before",
    "balance_ratio",
    "discrete_weight_used",
    "continuous_weight_used",
    "clamped_fraction",
    "versions",
    "git_revision",
}


def tensors(state: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a state by its path, but the clock."""
    if isinstance(state, dict):
        items = list(state.items())
    elif isinstance(state, list | tuple):
        items = list(enumerate(state))
    else:
        return {} if path in ("/seconds", "/cpu_seconds") else {path: state}
    return {name: leaf for key, part in items for name, leaf in tensors(part, f"{path}/{key}").items()}


def assert_same(left: Any, right: Any) -> None:
    """Two states are equal bit for bit."""
    ours, theirs = tensors(left), tensors(right)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        other = theirs[path]
        if isinstance(value, Tensor):
            assert value.dtype == other.dtype, path
            assert torch.equal(value.nan_to_num(nan=-777.0), other.nan_to_num(nan=-777.0)), path
        else:
            assert value == other or (value != value and other != other), path  # NaN equals NaN here


def run(trainer: Trainer, iterations: int) -> list[dict[str, float]]:
    """Figures of some iterations, without those of the clock."""
    metrics = [trainer.iterate() for _ in range(iterations)]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in metrics]


def test_a_run_writes_everything(tiny_topology: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    summary = build(tiny_topology("seed=3"), folder).train()
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "summary.json",
        "metrics.jsonl",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
    } <= written
    assert any("tfevents" in name for name in written)
    assert not any(name.endswith(".tmp") for name in written)
    on_disk = json.loads((folder / "summary.json").read_text())
    assert on_disk.keys() >= SUMMARY
    assert (on_disk["status"], on_disk["seed"], on_disk["env"]) == ("finished", 3, "topology_spawn")
    assert (on_disk["iterations"], on_disk["env_steps"]) == (2, 256)
    assert on_disk["return_mean"] == pytest.approx(summary.return_mean)
    assert on_disk["balance_ratio"] > 0
    assert on_disk["normalized_score"] is not None
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    for tag in ("loss/discrete", "loss/continuous", "loss/value", "optimizer/gradient_norm", "loss/kl"):
        assert all(tag in line for line in lines), tag
    config = check(yaml.safe_load((folder / "config.yaml").read_text()))
    assert config == tiny_topology("seed=3")
    assert check(checkpoint.load(folder / "checkpoints" / "last.pt")["config"]) == config


def test_the_same_seed_gives_the_same_parameters_and_another_one_does_not(
    tiny_topology: MakeConfig, tmp_path: Path
) -> None:
    states = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trainer = build(tiny_topology(f"seed={seed}"), tmp_path / name)
        run(trainer, 2)
        states.append(trainer.state_dict())
    assert_same(states[0], states[1])
    with pytest.raises(AssertionError):
        assert_same(states[0]["policy"], states[2]["policy"])


@pytest.mark.parametrize(("env", "optimizer"), [("tiny_topology", "adam"), ("toy", "sgd")])
def test_a_run_that_was_saved_and_built_anew_continues_bit_for_bit(
    env: str, optimizer: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    make: MakeConfig = request.getfixturevalue(env)
    # A short warm-up and an annealed rate: everything that depends on the count of updates is on the way.
    config = make(
        f"optimizer={optimizer}",
        "optimizer.anneal=true",
        "trainer.total_env_steps=768",
        "trainer.gradient_scaling.warmup_steps=5",
        "trainer.reward_normalization.scaling_warmup_episodes=2",
    )
    whole = build(config, tmp_path / "whole")
    expected = run(whole, 6)

    first = build(config, tmp_path / "first")
    metrics = run(first, 3)
    checkpoint.save(tmp_path / "half.pt", first.state_dict())
    torch.rand(100)  # what happens elsewhere in the process must not matter
    state = checkpoint.load(tmp_path / "half.pt")
    second = build(check(state["config"]), tmp_path / "second", state)
    assert_same(second.state_dict(), first.state_dict())
    metrics += run(second, 3)
    assert metrics == expected
    assert_same(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("env", ["tiny_topology", "toy"])
def test_the_only_minibatch_of_an_iteration_has_ratio_1(
    env: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    make: MakeConfig = request.getfixturevalue(env)
    one = ("trainer.batch.update_epochs=1", "trainer.batch.num_minibatches=1")
    trainer = build(make(*one), tmp_path / "one")
    for metrics in run(trainer, 3):  # statistics move in between
        assert metrics["loss/kl"] == pytest.approx(0.0, abs=1e-6)
        assert metrics["loss/clip_fraction_discrete"] == metrics["loss/clip_fraction_continuous"] == 0.0
        clipped = [value for tag, value in metrics.items() if tag.startswith("value/clipped_fraction/")]
        assert set(clipped) == {0.0}
    several = run(
        build(make("trainer.batch.update_epochs=8", "optimizer.learning_rate=0.01"), tmp_path / "8"), 2
    )
    assert several[-1]["loss/kl"] > 1e-4


def test_evaluating_in_between_changes_nothing(toy: MakeConfig, tmp_path: Path) -> None:
    plain, watched = (build(toy(), tmp_path / name) for name in ("plain", "watched"))
    run(plain, 2)
    for _ in range(2):
        run(watched, 1)
        watched.evaluator.run(4, seed=1)
    assert_same(plain.state_dict(), watched.state_dict())


def test_the_rate_is_annealed_and_the_progress_is_handed_on(toy: MakeConfig, tmp_path: Path) -> None:
    trainer = build(toy("optimizer.anneal=true", "trainer.total_env_steps=512"), tmp_path)
    seen: list[float] = []
    pipeline = trainer.learner.pipeline
    losses = pipeline.losses

    def watched(state: LossState) -> LossState:
        seen.append(float(state.progress))
        return losses(state)

    pipeline.losses = watched  # type: ignore[method-assign]
    rates = [metrics["optimizer/learning_rate"] for metrics in run(trainer, 4)]
    start = trainer.config.optimizer.learning_rate
    assert rates == pytest.approx([start, 0.75 * start, 0.5 * start, 0.25 * start])
    assert seen == [quarter / 4 for quarter in range(4) for _ in range(4)]  # two epochs of two minibatches


@pytest.mark.parametrize("stages", [None, "[gradient_scaling]"])
def test_it_learns(toy: MakeConfig, tmp_path: Path, stages: str | None) -> None:
    """The best return of an episode is its length; random choices at parameter 0 earn a quarter of that."""
    overrides = [
        "env.num_envs=16",
        "trainer.batch.update_epochs=4",
        "trainer.total_env_steps=5_120",
        "optimizer.learning_rate=1e-2",
        "trainer.entropy_regularization.entropy_coeff_start=0.01",
        *([f"trainer.stages={stages}"] if stages else []),
    ]
    trainer = build(toy(*overrides), tmp_path)
    before = trainer.evaluator.run(16, seed=1)
    best = sum(before.lengths) / len(before.lengths)
    run(trainer, 20)
    after = trainer.evaluator.run(16, seed=1)
    assert before.return_mean < 0.5 * best
    assert after.return_mean > 0.8 * best


def test_from_python_the_run_folder_may_be_text_or_left_out(
    toy: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build(toy("seed=3"))
    build(toy(), "of my own")
    (run_dir,) = tmp_path.glob("runs/*/*")
    assert run_dir.parent.name == "toy-balanced"
    assert run_dir.name.endswith("-s3")
    assert (run_dir / "config.yaml").exists()
    assert (tmp_path / "of my own" / "config.yaml").exists()
