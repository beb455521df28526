"""The estimate of what a run needs, by hand; what is said of it, and of what the system has left."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.envs.observation_parts import parts_of
from equipoise.trainer.build import build, make_policy
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.environments import space_of
from equipoise.trainer.memory_needed import check_memory, needed, wide_part
from equipoise.trainer.system.host_memory import available_memory

RESIZE = r"env\.wrappers=\[\{_target_: gymnasium\.wrappers\.ResizeObservation, shape: \[64, 64\]\}\]"


class Scan(gymnasium.Env[Any, Any]):
    """A picture, a speed, and a scan: too much beside the others for one layer over all of them."""

    def __init__(self, shape: tuple[int, ...] = (5_000,), ships: bool = False) -> None:
        one = spaces.Box(-1, 1, (3, 2)) if ships else spaces.Box(0, 255, (8, 8), np.uint8)
        self.observation_space = spaces.Dict(
            screen=one, speed=spaces.Box(-1, 1, (2,)), arm=spaces.Dict(scan=spaces.Box(-1, 1, shape))
        )
        self.action_space = spaces.MultiDiscrete([2] * 3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return {name: part.sample() for name, part in self.observation_space.items()}, {}

    def step(self, action: Any) -> Any:
        return self.reset()[0], 0.0, False, False, {}


def scan(*more: str, **kwargs: Any) -> tuple[GymnasiumEnv, Any]:
    env = GymnasiumEnv(make=lambda: Scan(**kwargs), num_envs=2, ignore=["speed"])
    parts = parts_of(env)
    settings = config(f"env.make={__name__}:Scan", *more)
    return env, make_policy(settings.policy, space_of(env), env.observation_space.shape, 1, parts)


class Pictures(gymnasium.Env[Any, Any]):
    action_space = spaces.Discrete(2)

    def __init__(self, shape: tuple[int, ...] = (80, 120, 3), named: bool = False) -> None:
        self.shape, self.named = shape, named
        box = spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = spaces.Dict(screen=box, speed=spaces.Box(-1, 1, (2,))) if named else box

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        picture = np.zeros(self.shape, np.uint8)
        return ({"screen": picture, "speed": np.zeros(2, np.float32)} if self.named else picture), {}

    def step(self, action: Any) -> Any:
        return self.reset()[0], 0.0, False, False, {}


def config(*more: str) -> Config:
    return compose(["env=gymnasium", f"env.make={__name__}:Pictures", "env.num_envs=2", "device=cpu", *more])


def pictures(*shape: int, named: bool = False) -> GymnasiumEnv:
    return GymnasiumEnv(make=lambda: Pictures(shape, named), num_envs=2)


def test_what_is_needed_by_hand() -> None:
    settings = config("trainer.batch.rollout_steps=16", "policy.hidden_sizes=[10,20]")
    need = needed(settings, width=1_000, num_envs=2)
    assert need.samples == 4 * 16 * 2 * 1_000 * 4  # four copies of 32 rows of float32
    assert need.layers == 4 * 2 * 10 * 1_000 * 4  # actor and critic, with gradient and two moments
    shared = config("policy.shared_critic=true", "policy.hidden_sizes=[10,20]")
    assert needed(shared, 1_000, 2).layers == need.layers / 2
    assert needed(config("policy=node_set"), 1_000, 2).layers == 0  # its layers have the size of a node


def test_a_run_that_cannot_fit_is_refused_before_it_begins_with_the_sizes_and_the_way_out(
    tmp_path: Path,
) -> None:
    sizes = r"28,800 numbers need [\d,.]+ GiB of memory, [\d,.]+ GiB for rollouts of 100000000 steps in 2 env.* and"
    rest = "are available; " + RESIZE + ".*; lower env.num_envs or trainer.batch.rollout_steps"
    with pytest.raises(ValueError, match=f"{sizes} .*{rest}"):
        build(config("trainer.batch.rollout_steps=100_000_000"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_wide_observations_are_told_with_a_way_out_that_fits_them() -> None:
    assert check_memory(config("policy=mlp"), pictures(64, 64)) is None  # 4,096 numbers
    for env, way in (
        (pictures(65, 65), "policy=auto has convolutions"),
        (pictures(64, 64, 3, named=True), "policy=auto has convolutions"),
        (pictures(5_000), "smaller observations"),
    ):
        assert re.search(way, check_memory(config("policy=mlp"), env) or "")
    assert check_memory(config(), pictures(65, 65)) is None  # convolutions
    assert check_memory(config(), pictures(5_000)) is not None
    assert check_memory(config("policy=node_set"), pictures(5_000)) is None


def test_large_pictures_are_told_with_what_makes_them_smaller() -> None:
    short = "trainer.batch.rollout_steps=4"
    assert check_memory(config(short), pictures(210, 160, 3)) is None
    told = check_memory(config(short), pictures(211, 160, 3)) or ""
    assert re.search(f"of 211 x 160 x 3 have 8 times the pixels of 64 x 64, .* as much more; {RESIZE}", told)
    told = check_memory(config(short), pictures(256, 256, 3, named=True)) or ""
    assert told.startswith("screen: pictures of 256 x 256 x 3 have 16 times the pixels")
    assert "env.ignore=[screen] leaves out" in told


def test_a_wide_part_beside_others_is_told_with_ways_out_that_work() -> None:
    def told(*more: str, **kwargs: Any) -> str:
        env, policy = scan(*more, **kwargs)
        return wide_part(policy, env) or ""

    assert told(shape=(4_096,)) == ""
    said = told("policy.hidden_sizes=[32,8]")
    assert said.startswith("arm.scan, 5,000 numbers of the observation, ")
    assert "160,000 weights" in said
    assert "policy.encoder.parts.arm.scan._target_=module.Class" in said
    assert "env.ignore=[speed,arm.scan]" in said
    assert "a set" not in said
    assert "320,000 weights" in told("policy.encoder.combine=attend", "policy.hidden_sizes=[32,8]")
    assert "35,000 weights" in told("policy.encoder.parts.arm.scan.hidden_sizes=[7]")
    rows = told(shape=(2_500, 2))
    assert "policy.encoder.masks.arm.scan=null takes its rows for a set" in rows
    assert told("policy.encoder.masks.arm.scan=null", shape=(2_500, 2)) == ""
    ships = told("policy=entities", "policy.entities=screen", ships=True)
    assert "policy.encoder" not in ships
    assert "env.ignore=[speed,arm.scan]" in ships


def test_a_run_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(f"env.make={__name__}:Scan", "trainer.total_env_steps=1", "loggers=[]")
    trainer = build(settings, tmp_path / "run")
    with trainer.recorder.session(trainer):
        pass
    trainer.close()
    assert capsys.readouterr().out.count("is wide for a multilayer perceptron") == 1


def test_the_smallest_of_the_system_s_limits_counts(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None  # of another system

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:  5000 kB\nSwapFree: 1000 kB\n")
    assert available_memory(tmp_path) == 6000 * 1024
    write("proc/self/cgroup", "3:cpu:/x\n0::/a/b\n")
    write("sys/fs/cgroup/a/b/memory.max", "max\n")
    write("sys/fs/cgroup/a/b/memory.current", "7\n")
    write("sys/fs/cgroup/a/b/memory.stat", "anon 5\ninactive_file 2\n")
    assert available_memory(tmp_path) == 6000 * 1024
    write("sys/fs/cgroup/a/b/memory.max", "1000\n")
    assert available_memory(tmp_path) == 995  # 1000 - 7 + 2
    write("proc/self/cgroup", "4:memory:/elsewhere\n")
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "500\n")
    write("sys/fs/cgroup/memory/memory.usage_in_bytes", "100\n")
    write("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 50\n")
    assert available_memory(tmp_path) == 450
