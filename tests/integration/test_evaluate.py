"""`python -m trainer.evaluate` as a user types it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.evaluate import main
from equipoise.trainer.restore import restore


@pytest.fixture
def checkpoint(tiny_topology: Callable[..., Config], tmp_path: Path) -> Path:
    build(tiny_topology(), tmp_path / "run").train()
    return tmp_path / "run" / "checkpoints" / "last.pt"


def evaluate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer.evaluate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_checkpoint_alone_is_evaluated_and_filmed(checkpoint: Path) -> None:
    alone = checkpoint.parents[2] / "moved.pt"
    checkpoint.rename(alone)
    result = evaluate(f"checkpoint={alone}", "episodes=5", "render=gif")
    assert result.returncode == 0, result.stderr
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


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["checkpoint=nowhere.pt"], "nowhere.pt"),
        (["checkpoint=pyproject.toml"], "not a checkpoint"),
        (["checkpoint=x", "episodes=0"], "episodes"),
        (["checkpoint=x", "epsodes=3"], "episodes"),
        ([], "checkpoint"),
    ],
)
def test_bad_arguments_end_with_one_message(arguments: list[str], complaint: str) -> None:
    result = evaluate(*arguments)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_an_environment_that_misbehaves_ends_with_one_message(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("equipoise.trainer.evaluation.EPISODE_LIMIT", 1)
    monkeypatch.setattr(sys, "argv", ["evaluate", f"checkpoint={checkpoint}", "episodes=2", "device=cpu"])
    assert main() == 2
    assert (
        "TopologySpawn: environment 0: an episode of the evaluation has not ended" in capsys.readouterr().err
    )
