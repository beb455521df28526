"""Gymnasium 0.29, played by ours without what it lacks: published environments insist on it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from gymnasium import spaces

from equipoise.envs.older_gymnasium import OneOfSpace

WITHOUT = """
import gymnasium.envs.classic_control, gymnasium.spaces, gymnasium.vector
del gymnasium.spaces.OneOf, gymnasium.vector.AutoresetMode
import sys
from equipoise.trainer.{module} import main
sys.exit(main())
"""
TASK = ["env=gymnasium", "env.id=CartPole-v1", "env.num_envs=2"]


def test_it_has_what_ours_has() -> None:
    assert OneOfSpace is spaces.OneOf


@pytest.mark.parametrize(
    ("module", "settings", "said"),
    [
        ("look", TASK, "random actions: return"),
        ("run", [*TASK, "trainer.total_env_steps=256", "hydra.run.dir=run"], "return, deterministic"),
        ("look", ["env=topology_spawn", "env.num_envs=2"], "random actions: return"),
    ],
)
def test_what_it_lacks_is_not_missed(module: str, settings: list[str], said: str, tmp_path: object) -> None:
    command = [sys.executable, "-c", WITHOUT.format(module=module), *settings]
    done = subprocess.run(command, capture_output=True, text=True, cwd=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
