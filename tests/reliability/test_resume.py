"""A run that was interrupted, or extended, and one that never was are the same run, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from equipoise.trainer.build import build
from equipoise.trainer.configuration.checking import check
from equipoise.trainer.configuration.compose import CONFIG_DIR, compose
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.loop import Trainer
from equipoise.trainer.system import checkpoint
from tests.conftest import TINY, TOY
from tests.integration.test_training import assert_same
from tests.reliability.disturbed import AT_REST
from tests.reliability.processes import assert_curves_are_whole, lines, points, run, state, summary, toy

PRESETS = sorted(path.stem for path in (CONFIG_DIR / "preset").glob("*.yaml"))
EVERYTHING = (
    "trainer.total_env_steps=1_024",
    "trainer.eval_every=0",
    "trainer.normalize_values=true",
    "trainer.advantage_weighting.enable_learnable_weights=true",
    "trainer.reward_normalization.scaling_warmup_episodes=4",
    "trainer.gradient_scaling.warmup_steps=5",
    "trainer.gradient_scaling.measure_every=3",
    "optimizer.anneal=true",
)
GYMNASIUM = ("env=gymnasium", "env.id=CartPole-v1", "policy=mlp", "optimizer=adam", *TINY)


def metrics(trainer: Trainer, iterations: int) -> list[dict[str, float]]:
    rows = [trainer.iterate() for _ in range(iterations)]
    return [{tag: x for tag, x in row.items() if not tag.startswith("time/")} for row in rows]


def assert_resumes_exactly(config: Config, folder: Path, half: int = 2) -> list[dict[str, float]]:
    """Iterations of which the whole is the sum of two halves, with a file in between; returns their metrics."""
    whole = build(config, folder / "whole")
    expected = metrics(whole, 2 * half)
    first = build(config, folder / "first")
    found = metrics(first, half)
    checkpoint.save(folder / "half.pt", first.state_dict())
    first.close()
    saved = checkpoint.load(folder / "half.pt")
    second = build(check(saved["config"]), folder / "second", saved)
    found += metrics(second, half)
    assert found == expected
    assert_same(second.state_dict(), whole.state_dict())
    assert all(bool(p.isfinite().all()) for p in whole.policy.parameters())
    whole.close()
    second.close()
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset(toy: Callable[..., Config], tmp_path: Path, preset: str) -> None:
    assert_resumes_exactly(toy(f"preset={preset}", *EVERYTHING), tmp_path)


def test_gradients_through_the_simulator(tmp_path: Path) -> None:
    gradients = "trainer.continuous_gradient=auto", "trainer.pathwise_horizon=3"
    assert_resumes_exactly(compose(["env=catch_point", *TOY[:-2], *EVERYTHING, *gradients]), tmp_path)


def test_a_derivative_at_rest(tmp_path: Path) -> None:
    """After the seventh of fourteen iterations: the second of four that are not differentiated."""
    auto = "trainer.continuous_gradient=auto", "trainer.batch.rollout_steps=8"
    found = assert_resumes_exactly(compose([*TOY, *AT_REST, *auto]), tmp_path, half=7)
    assert ["pathwise/agreement" in of for of in found] == [True] * 5 + [False] * 4 + [True] + [False] * 4


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_gymnasium_environment(tmp_path: Path, vectorization: str) -> None:
    small = ("env.num_envs=2", f"env.vectorization={vectorization}")
    assert_resumes_exactly(compose([*GYMNASIUM, *EVERYTHING, *small]), tmp_path)


@pytest.mark.parametrize(
    "env",
    [
        ("env._target_=tests.reliability.disturbed.DrawingEnv",),
        ("env=gymnasium", "env.id=tests.envs.reported:reported/GlobalRandom-v0"),
    ],
)
def test_what_is_drawn_from_the_generators_of_the_process(
    toy: Callable[..., Config], tmp_path: Path, env: tuple[str, ...]
) -> None:
    assert_resumes_exactly(compose([*env, *TOY[:-2], *EVERYTHING]), tmp_path)


def test_a_gymnasium_environment_that_hides_its_state_begins_new_episodes_and_says_so(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    opaque = ("env.id=tests.envs.misbehaving:test/Opaque-v0", "env.num_envs=2", "env.check_bounds=false")
    short = ("env.kwargs.max_episode_steps=20", "trainer.batch.rollout_steps=24", "trainer.eval_every=0")
    started = run(tmp_path, *GYMNASIUM, *opaque, *short, f"hydra.run.dir={run_dir}")
    assert started.code == 0, started.output
    resumed = run(tmp_path, f"resume={run_dir}", "trainer.total_env_steps=480")
    assert resumed.code == 0, resumed.output
    assert "episodes begin anew: Opaque.engine is a builtins.object" in resumed.output
    rows = lines(run_dir)
    assert [row["iteration"] for row in rows] == list(range(1, 11))
    # 24 steps an iteration, 20 an episode: the sixth iteration ends 4 steps into the eighth episode. Anew
    # from there, the seventh sees exactly one whole episode of 20, and none of 24.
    assert rows[6]["episode/length"] == 20
    assert "resume: episodes would begin anew: Opaque.engine" in started.output


def test_a_finished_run_goes_on_when_it_is_extended(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert run(tmp_path, *toy(run_dir, "trainer.total_env_steps=192")).code == 0
    before = lines(run_dir)
    extended = run(tmp_path, f"resume={run_dir}", "trainer.total_env_steps=384")
    assert extended.code == 0, extended.output
    assert lines(run_dir)[:3] == before
    assert_curves_are_whole(run_dir)
    assert [step for step, _ in points(run_dir, "loss/value")] == list(range(64, 385, 64))
    assert (summary(run_dir)["status"], summary(run_dir)["env_steps"]) == ("finished", 384)
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["trainer"]["total_env_steps"] == 384
    again = run(tmp_path, f"resume={run_dir / 'checkpoints' / 'last.pt'}")
    assert again.code == 0
    assert len(lines(run_dir)) == 6


def test_from_an_earlier_checkpoint_what_came_after_it_is_written_anew(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert run(tmp_path, *toy(run_dir, "trainer.keep_every=2")).code == 0
    whole, rows = state(run_dir), lines(run_dir)
    resumed = run(tmp_path, f"resume={run_dir / 'checkpoints' / 'iteration_00000002.pt'}")
    assert resumed.code == 0, resumed.output
    assert_same(state(run_dir), whole)
    assert lines(run_dir) == rows
    assert_curves_are_whole(run_dir)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["seed=2", "trainer.gamma=0.5", "device=cpu"], "seed, trainer.gamma cannot be changed"),
        (["preset=debug"], "preset cannot be changed"),
        (["trainer.eval_every=-1"], "trainer.eval_every = -1"),
        (["-m"], "no flags"),
        (["resume=elsewhere"], "no second resume="),
    ],
)
def test_what_cannot_be_changed_is_refused_by_name(
    tmp_path: Path, toy: Callable[..., Config], arguments: list[str], expected: str
) -> None:
    trainer = build(toy(), tmp_path / "run")
    checkpoint.save(tmp_path / "run" / "checkpoints" / "last.pt", trainer.state_dict())
    refused = run(tmp_path, f"resume={tmp_path / 'run'}", *arguments)
    assert refused.code == 2
    assert len(refused.output.splitlines()) == 1, refused.output
    assert expected in refused.output
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda saved: saved["policy"].update({"value_head.bias": torch.zeros(7)}), "value_head.bias"),
        (lambda saved: saved.pop("iteration"), "KeyError: 'iteration'"),
        (lambda saved: saved.update(balance=None), "TypeError"),
        (lambda saved: saved["generators"].update(torch=b"abc"), "RNG state size"),
    ],
    ids=["policy", "iteration", "balance", "generator"],
)
def test_a_checkpoint_that_no_longer_fits_is_refused_with_the_reason(
    tmp_path: Path, toy: Callable[..., Config], change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    trainer = build(toy(), tmp_path / "run")
    saved = trainer.state_dict()
    change(saved)
    checkpoint.save(tmp_path / "run" / "checkpoints" / "last.pt", saved)
    refused = run(tmp_path, f"resume={tmp_path / 'run'}")
    assert refused.code == 1
    assert "the checkpoint does not fit" in refused.output
    assert reason in refused.output
    assert "Traceback" not in refused.output


def test_the_same_seed_gives_the_same_run_twice_and_in_a_sweep(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("once", "twice")]
    for folder in folders:
        assert run(tmp_path, *toy(folder, "seed=2")).code == 0
    sweep = [argument for argument in toy(tmp_path) if not argument.startswith("hydra.run.dir")]
    assert run(tmp_path, "-m", *sweep, "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}").code == 0
    jobs = [path.parent for path in (tmp_path / "sweep").rglob("summary.json")]
    assert sorted(summary(job)["seed"] for job in jobs) == [1, 2]
    (second,) = [job for job in jobs if summary(job)["seed"] == 2]
    for other in (folders[1], second):
        assert_same(state(other), state(folders[0]))
        assert lines(other) == lines(folders[0])
    assert (
        lines(folders[0])[-1]["loss/value"] != lines(next(j for j in jobs if j != second))[-1]["loss/value"]
    )


def test_resume_in_a_configuration_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nresume: runs/some\n")
    refused = run(
        tmp_path, f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", *toy(tmp_path / "run")
    )
    assert refused.code == 2
    assert "resume: give it on the command line" in refused.output
