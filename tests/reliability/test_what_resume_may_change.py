"""What a message tells the user to change can be changed when a run goes on, and what is no longer exact is said."""

from __future__ import annotations

import multiprocessing
import shutil
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from equipoise.trainer import continuation
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.system import checkpoint
from equipoise.trainer.system.run_folder import RunFolder
from tests.conftest import TINY
from tests.integration.test_training import assert_same
from tests.reliability.processes import assert_curves_are_whole, lines, run, state, summary

HERE = "tests.reliability.test_what_resume_may_change"
BASE = (
    "env=gymnasium",
    *TINY,
    f"env.make={HERE}:Lift",
    "env.name=lift",
    "env.num_envs=4",
    "policy.hidden_sizes=[8]",
    "optimizer.learning_rate=0.01",
    "trainer.batch.rollout_steps=8",
    "trainer.total_env_steps=64",
    "trainer.eval_every=0",
    "trainer.final_eval_episodes=2",
)
LONGER = "trainer.total_env_steps=128"


class Lift(gymnasium.Env[Any, Any]):
    """Pays its level in every step, for `length` steps."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (1,))))

    def __init__(self, level: float = 1.0, length: int = 5) -> None:
        self.level, self.length = level, length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self._seen(), self.level, self.steps >= self.length, False, {}

    def _seen(self) -> Any:
        return self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations."""
    folder = tmp_path_factory.mktemp("begun")
    started = run(folder, *BASE, f"hydra.run.dir={folder / 'run'}")
    assert started.code == 0, started.output
    return folder / "run"


@pytest.fixture(scope="module")
def unchanged(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gone_on(begun, tmp_path_factory.mktemp("unchanged"))[0]


def forking() -> None:
    """Environments in processes of their own begin as they do where a user types the command."""
    multiprocessing.set_start_method("fork", force=True)


def gone_on(begun: Path, where: Path, *changes: str) -> tuple[Path, list[str]]:
    """The run, gone on for two more iterations, and what was said of it."""
    shutil.copytree(begun, where / "run")
    ended = run(where, f"resume={where / 'run'}", LONGER, *changes, prepare=forking)
    assert ended.code == 0, ended.output
    return where / "run", [line for line in ended.output.splitlines() if line.startswith("resume: ")]


@pytest.mark.parametrize(
    "changes",
    [
        (
            "env.check_bounds=false",
            "env.timeout=90",
            "trainer.max_bad_updates=3",
            "trainer.eval_max_steps=7",
            "trainer.on_save_error=warn",
        ),
        ("env.vectorization=async",),
    ],
    ids=["limits", "vectorization"],
)
def test_what_computes_the_same_goes_on_exactly(
    begun: Path, unchanged: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    run_dir, said = gone_on(begun, tmp_path, *changes)
    assert_same(state(run_dir), state(unchanged))
    assert lines(run_dir) == lines(unchanged)
    assert not [line for line in said if "changed" in line]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (["env.num_envs=8"], "env.num_envs 4 -> 8; all episodes begin anew"),
        (["env.num_envs=2"], "env.num_envs 4 -> 2; all episodes begin anew"),
        (
            ["env.kwargs.level=3", "env.kwargs.length=3"],
            "env.kwargs.level unset -> 3, env.kwargs.length unset -> 3; all episodes begin anew",
        ),
        (
            ["optimizer.learning_rate=0.002", "trainer.max_grad_norm=0.1"],
            "trainer.max_grad_norm 0.5 -> 0.1, optimizer.learning_rate 0.01 -> 0.002",
        ),
        (
            ["trainer.batch.rollout_steps=16", "trainer.batch.num_minibatches=4"],
            "trainer.batch.rollout_steps 8 -> 16, trainer.batch.num_minibatches 2 -> 4",
        ),
    ],
    ids=["more environments", "fewer", "arguments", "rate", "batch"],
)
def test_what_makes_it_another_run_is_said_in_a_line(
    begun: Path, unchanged: Path, tmp_path: Path, changes: list[str], line: str
) -> None:
    run_dir, said = gone_on(begun, tmp_path, *changes)
    assert [text for text in said if "changed" in text] == [f"resume: changed from here on: {line}"]
    assert lines(run_dir)[:2] == lines(unchanged)[:2]
    assert lines(run_dir)[2:] != lines(unchanged)[2:]
    assert_curves_are_whole(run_dir)
    assert summary(run_dir)["env_steps"] == 128


def rates(run_dir: Path) -> list[float]:
    return [row["optimizer/learning_rate"] for row in lines(run_dir)]


def test_a_longer_run_says_what_becomes_of_its_schedules(
    unchanged: Path, begun: Path, tmp_path: Path
) -> None:
    _, said = gone_on(begun, tmp_path)
    assert said == [
        "resume: 128 steps instead of 64: schedules are stretched over the new length: the learning rate, 0.005 "
        "so far, goes on from 0.005 (trainer.schedule_steps=64 keeps them as they were)"
    ]
    assert rates(unchanged) == pytest.approx([0.01, 0.005, 0.005, 0.0025])


def test_and_keeps_them_as_they_were_where_that_is_chosen(begun: Path, tmp_path: Path) -> None:
    run_dir, said = gone_on(begun, tmp_path, "trainer.schedule_steps=64")
    assert rates(run_dir) == pytest.approx([0.01, 0.005, 0.0, 0.0])
    assert said == ["resume: changed from here on: trainer.schedule_steps unset -> 64"]


def test_a_longer_run_at_a_rate_of_its_own(begun: Path, tmp_path: Path) -> None:
    run_dir, said = gone_on(begun, tmp_path, "optimizer.learning_rate=0.001", "optimizer.anneal=false")
    assert rates(run_dir) == pytest.approx([0.01, 0.005, 0.001, 0.001])
    assert [line for line in said if "changed" in line] == [
        "resume: changed from here on: optimizer.learning_rate 0.01 -> 0.001, optimizer.anneal true -> false"
    ]


def test_what_would_be_another_task_or_another_network_is_refused(begun: Path, tmp_path: Path) -> None:
    keys = {
        "env.make": f"{HERE}:Other",
        "env.reward_components": "[a]",
        "policy.hidden_sizes": "[9]",
        "seed": "2",
    }
    refused = run(tmp_path, f"resume={begun}", LONGER, *(f"{key}={value}" for key, value in keys.items()))
    assert refused.code == 2
    (line,) = refused.output.splitlines()
    assert f"{', '.join(keys)} cannot be changed when a run goes on" in line
    assert "init_from=<checkpoint>" in line


LATER = (
    "policy.distribution",
    "policy.encoder.activation",
    "trainer.gradient_scaling.balance_on",
    "trainer.ratio",
)


@pytest.fixture
def older(begun: Path, tmp_path: Path) -> Path:
    """The run as a release would have left it that did not know some keys."""
    shutil.copytree(begun, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    saved = checkpoint.load(path)
    for key in LATER:
        *sections, name = key.split(".")
        del reduce(getitem, sections, saved["config"])[name]
    checkpoint.save(path, saved)
    return tmp_path / "run"


def test_a_finished_run_of_an_older_release_is_finished_for_today_s_command(older: Path) -> None:
    with continuation.begun(compose([*BASE, "resume=auto"]), RunFolder(older)) as plan:
        assert plan.finished


@pytest.mark.parametrize(
    "typed", ["policy.distribution=beta", "policy.encoder.activation=relu", "trainer.ratio=per_decision"]
)
def test_but_not_where_a_later_key_is_not_at_its_default(older: Path, typed: str) -> None:
    key = typed.partition("=")[0]
    with (
        pytest.raises(ConfigError, match=f": {key} cannot be changed"),
        continuation.begun(compose([*BASE, typed, "resume=auto"]), RunFolder(older)),
    ):
        pass
