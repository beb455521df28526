"""`python -m trainer.evaluate` as a user types it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from equipoise.envs.topology_spawn import TopologySpawn
from equipoise.trainer import evaluation
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.evaluate import main, measure
from equipoise.trainer.restore import restore
from equipoise.trainer.system.checkpoint import load, save
from tests.conftest import TINY
from tests.forked import Command, Ended

Evaluate = Callable[..., Ended]


@pytest.fixture
def checkpoint(tiny_topology: Callable[..., Config], tmp_path: Path) -> Path:
    build(tiny_topology(), tmp_path / "run").train()
    return tmp_path / "run" / "checkpoints" / "last.pt"


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    return lambda *arguments: Command(tmp_path, "trainer.evaluate", *arguments).end()


def test_a_checkpoint_alone_is_evaluated_and_filmed(evaluate: Evaluate, checkpoint: Path) -> None:
    alone = checkpoint.parents[2] / "moved.pt"
    checkpoint.rename(alone)
    result = evaluate(f"checkpoint={alone}", "episodes=5", "render=gif")
    assert result.code == 0, result.stderr
    for metric in ("return mean", "normalized score", "success rate", "decision accuracy"):
        assert metric in result.stdout
    assert alone.with_suffix(".gif").read_bytes().startswith(b"GIF89a")


def test_the_restored_policy_is_the_one_that_was_saved(
    tiny_topology: Callable[..., Config], tmp_path: Path
) -> None:
    trainer = build(tiny_topology(), tmp_path / "run")
    trainer.train()
    restored = restore(tmp_path / "run")
    env = restored.make_env(3)
    observation, mask = env.reset(7)
    theirs, ours = (policy.act(observation, mask) for policy in (trainer.policy, restored.policy))
    assert theirs.discrete.equal(ours.discrete)
    assert theirs.continuous.equal(ours.continuous)


def test_it_computes_with_the_threads_of_training(
    tiny_topology: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tiny_topology(), tmp_path / "run").train()
    seen: list[int] = []
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        measure(restore(tmp_path / "run"), 1, 0)
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)


def test_a_checkpoint_without_the_settings_of_later_releases_is_read(checkpoint: Path) -> None:
    state = load(checkpoint)
    for later in (
        "target_kl",
        "pathwise_clip",
        "pathwise_horizon",
        "continuous_gradient",
        "pathwise_cross_term",
    ):
        del state["config"]["trainer"][later]
    save(checkpoint, state)
    settings = restore(checkpoint).config.trainer
    assert (settings.target_kl, settings.pathwise_clip, settings.continuous_gradient) == (None, 0.5, "score")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["checkpoint=nowhere.pt"], "nowhere.pt"),
        ([f"checkpoint={__file__}"], "not a checkpoint"),
        (["checkpoint=x", "episodes=0"], "episodes"),
        (["checkpoint=x", "epsodes=3"], "episodes"),
        ([], "checkpoint"),
        (["--checkpoint", "x"], "--checkpoint x: arguments have no dashes; write checkpoint=x"),
        (["checkpoint=x", "--episode=3"], "--episode 3: arguments have no dashes; write episodes=3"),
    ],
)
def test_bad_arguments_end_with_one_message(evaluate: Evaluate, arguments: list[str], complaint: str) -> None:
    result = evaluate(*arguments)
    assert result.code == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_an_environment_that_misbehaves_ends_with_one_message(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: TopologySpawn, action: object) -> None:
        raise RuntimeError("lost contact")

    monkeypatch.setattr(TopologySpawn, "step", fail)
    monkeypatch.setattr(sys, "argv", ["evaluate", f"checkpoint={checkpoint}", "episodes=2", "device=cpu"])
    assert main() == 2
    monkeypatch.setattr(TopologySpawn, "reference_returns", (0.0, 1.0), raising=False)
    assert "playing random actions and the expert's failed: RuntimeError" in capsys.readouterr().err
    assert main() == 2
    assert "TopologySpawn: step 1: step raised RuntimeError: lost contact" in capsys.readouterr().err


def test_under_other_settings_of_the_environment(evaluate: Evaluate, checkpoint: Path) -> None:
    result = evaluate(f"checkpoint={checkpoint}", "episodes=4", "env.max_steps=1", "device=cpu")
    assert result.code == 0, result.stderr
    assert re.search(r"episode length\s*│\s*1 │\s*1 │", result.stdout), result.stdout
    refused = evaluate(f"checkpoint={checkpoint}", "env.max_stps=3", "device=cpu")
    assert refused.code == 2
    assert "env.max_stps" in refused.stderr
    assert "did you mean env.max_steps?" in refused.stderr


def test_under_other_arguments_of_a_gymnasium_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pole = ["env=gymnasium", "env.id=CartPole-v1", "policy.hidden_sizes=[8]"]
    build(compose([*pole, *TINY, "env.kwargs.max_episode_steps=5"]), tmp_path / "run").train()
    for more, length in ([], 5), (["env.kwargs.max_episode_steps=3"], 3):
        monkeypatch.setattr(sys, "argv", ["evaluate", f"checkpoint={tmp_path / 'run'}", "episodes=2", *more])
        assert main() == 0
        assert re.search(rf"episode length\s*│\s*{length} │", capsys.readouterr().out)


def test_one_of_the_two_policies_alone(evaluate: Evaluate, checkpoint: Path) -> None:
    result = evaluate(f"checkpoint={checkpoint}", "episodes=4", "deterministic=false", "device=cpu")
    assert result.code == 0, result.stderr
    assert "4 sampled episodes" in " ".join(result.stdout.split())
    assert re.search(r"return mean\s*│\s*-?[\d.]+ │\n", result.stdout), result.stdout


def test_episodes_that_do_not_end_are_cut_off_and_named(
    evaluate: Evaluate, checkpoint: Path, tmp_path: Path
) -> None:
    state = load(checkpoint)
    state["config"]["trainer"]["eval_max_steps"] = 2
    save(tmp_path / "impatient.pt", state)
    result = evaluate(f"checkpoint={tmp_path / 'impatient.pt'}", "episodes=4", "device=cpu")
    assert result.code == 0, result.stderr
    pattern = r"episodes without an end in 2 steps\s*│\s*[1-4] │\s*[1-4] │"
    assert re.search(pattern, result.stdout), result.stdout
