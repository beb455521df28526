"""The comparison with other libraries: what is not installed is n/a, what fails too, and all others are timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from equipoise.scripts import benchmark_workers
from equipoise.scripts.benchmark_peers import DISCRETE, HYBRID, Plan, main, run
from equipoise.scripts.peers import cleanrl, cleanrl_compiled, equipoise
from equipoise.scripts.peers.task import Episodes, Goal, Task, synthetic
from equipoise.scripts.peers.worker import cpu_seconds
from equipoise.scripts.speed.peers_report import sheets

TINY = Task("synthetic", 4, 8)
LEARNING = Task("synthetic", 16, 64, learning_rate=3e-3)
GOAL = Goal(mean_return=475.0, episodes=100)


def plan(*peers: str, task: Task = TINY) -> Plan:
    return Plan({"tiny": (task, peers)}, rounds=2, warmup=1, seeds=0)


@pytest.mark.usefixtures("forked")
def test_a_peer_that_is_not_installed_is_not_available_and_the_others_are_timed(tmp_path: Path) -> None:
    if find_spec("ray"):
        pytest.skip("RLlib is installed")
    larger = replace(TINY, steps=32, envs=32)
    run(plan("cleanrl", "rllib", task=larger), {}, 120, tmp_path, "a test")
    result = json.loads((tmp_path / "peers.json").read_text())
    found = result["tasks"]["tiny"]["peers"]
    assert len(found["cleanrl"]["cpu"]) == len(found["cleanrl"]["wall"]) == 2
    assert found["cleanrl"]["steps"] == 4096, "a turn is as many iterations as make this many steps"
    assert found["cleanrl"]["versions"]["torch"] == torch.__version__
    assert found["rllib"] == {"error": "ModuleNotFoundError: No module named 'ray'"}
    assert (
        "| RLlib | n/a: ModuleNotFoundError: No module named 'ray' |" in (tmp_path / "peers.md").read_text()
    )


@pytest.mark.usefixtures("forked")
def test_a_peer_that_cannot_start_or_fails_is_not_available(tmp_path: Path) -> None:
    impossible = replace(TINY, env="NoSuchEnv-v0")
    run(plan("cleanrl", "sb3", task=impossible), {"sb3": "/no/such/python"}, 120, tmp_path, "a test")
    found = json.loads((tmp_path / "peers.json").read_text())["tasks"]["tiny"]["peers"]
    assert "NoSuchEnv" in found["cleanrl"]["error"]
    assert found["sb3"] == {"error": "/no/such/python: No such file or directory"}


def test_a_wrong_interpreter_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--python", "ray=/usr/bin/python3"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "ray=/usr/bin/python3" in error
    assert "rllib" in error


def test_the_hand_made_hybrid_agent_learns_both_sides() -> None:
    torch.manual_seed(0)
    agent = cleanrl.PPO(LEARNING, cleanrl.Tensors(LEARNING.envs))

    def skill() -> tuple[float, float]:
        """Share of right choices, and mean squared distance from the best parameters."""
        env = synthetic(512)
        observation, _ = env.reset(seed=3)
        with torch.no_grad():
            outputs = agent.agent.actor(observation)
        right = outputs[:, :6].argmax(1) == observation[:, 4:10].argmax(1)
        return right.float().mean().item(), (outputs[:, 6:] - observation[:, :4]).square().mean().item()

    hits, distance = skill()
    for _ in range(40):
        agent()
    assert skill()[0] > hits + 0.2
    assert skill()[1] < distance - 0.05


def test_what_is_compiled_is_the_hand_made_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)  # which takes a minute
    found = []
    for module in (cleanrl, cleanrl_compiled):
        np.random.seed(0)
        agent = module.build(LEARNING)
        for _ in range(2):
            agent()
        found.append((agent.agent.state_dict(), agent.figures))
    (plain, figures), (compiled, others) = found
    assert others == pytest.approx(figures, rel=1e-3)
    for name, parameter in plain.items():
        torch.testing.assert_close(compiled[name], parameter, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_loop_in_jax_takes_the_task_s_steps_and_learns() -> None:
    pytest.importorskip("jax")
    from equipoise.scripts.peers import jax_loop

    loop = jax_loop.Loop(LEARNING)
    loop()
    assert int(loop.state.count) == LEARNING.epochs * LEARNING.minibatches
    before = loop.reward
    for _ in range(40):
        loop()
    assert loop.reward > before + 0.2


def test_advantages_of_the_hand_made_agent_stop_at_the_end_of_an_episode() -> None:
    agent = cleanrl.PPO(replace(TINY, steps=2, envs=1, gamma=0.5, gae_lambda=0.5), cleanrl.Tensors(1))
    for layer in agent.agent.critic:  # the value of the last observation is then 8
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.constant_(layer.bias, 8.0 if layer.out_features == 1 else 0.0)
    agent.rewards[:, 0] = torch.tensor([1.0, 2.0])
    agent.values[:, 0] = torch.tensor([3.0, 5.0])
    # δ1 = 2 + 4 − 5 = 1 and δ0 = 1 + 2.5 − 3 = 0.5: A0 = 0.5 + 0.25 · 1
    assert agent.advantages()[:, 0].tolist() == [0.75, 1.0]
    agent.dones[0] = 1.0  # A0 = 1 − 3
    assert agent.advantages()[:, 0].tolist() == [-2.0, 1.0]


@pytest.mark.parametrize("task", [TINY, Task("CartPole-v1", 8, 4, epochs=5), Task("CartPole-v1", 8, 4)])
def test_our_own_loop_runs_with_the_task_s_sizes(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loop = equipoise.build(task)
    loop()
    trainer = loop.trainer  # type: ignore[attr-defined]
    assert trainer.env_steps == task.samples
    assert trainer.learner.updates == task.epochs * task.minibatches


def test_episodes_count_once_there_are_enough_of_them() -> None:
    episodes = Episodes(2, Goal(mean_return=2.5, episodes=2))
    one = torch.ones(2)
    episodes.add(one, torch.tensor([False, False]))
    episodes.add(one, torch.tensor([True, False]))  # a return of 2
    assert not episodes.reached
    episodes.add(one, torch.tensor([False, True]))  # a return of 3
    assert episodes.reached
    episodes.add(one, torch.tensor([True, True]))  # of 2 and 1
    assert not episodes.reached


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_cpu_time_of_children_counts_and_that_of_others_does_not() -> None:
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    before = cpu_seconds()
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        own = time.process_time()
        assert cpu_seconds() - own >= 0.45
        child.communicate(b"\n")
    assert cpu_seconds() - before < 0.45, f"children of {os.getpid()} that have ended are gone"


def test_ratios_are_of_the_same_round_and_against_ours() -> None:
    peers = {
        "equipoise": {"steps": 100, "cpu": [1.0, 10.0, 2.0], "wall": [1.0, 10.0, 2.0]},
        "cleanrl": {"steps": 100, "cpu": [2.0, 20.0, 4.0], "wall": [4.0, 40.0, 8.0]},
        "rllib": {"error": "ModuleNotFoundError: No module named 'ray'"},
    }
    (sheet,) = sheets({"tasks": {"a": {"peers": peers}}, "reach": {}})
    assert sheet.rows[0][1:] == ["50", "30 – 75", "50", "1.00 (1.00 – 1.00)"]
    assert sheet.rows[1][1:] == ["25", "15 – 38", "12", "2.00 (2.00 – 2.00)"]
    assert sheet.rows[2] == ["RLlib", "n/a: ModuleNotFoundError: No module named 'ray'"]


def test_a_run_that_does_not_reach_the_goal_counts_as_the_longest() -> None:
    runs = [
        {"seed": seed, "steps": steps, "cpu": 1.0, "process": 2.0, "wall": 3.0}
        for seed, steps in enumerate((1000, None, 3000))
    ]
    found = {"tasks": {}, "goal": {"mean_return": 475.0, "episodes": 100}, "reach": {"sb3": {"runs": runs}}}
    (sheet,) = sheets(found)
    assert sheet.rows[1][2] == "not reached"
    assert sheet.rows[3][1:3] == ["median, 2 of 3 reached it", "3,000"]


def test_every_peer_has_a_file_of_its_own() -> None:
    folder = Path(cleanrl.__file__).parent
    assert all((folder / f"{name}.py").exists() for name in {*HYBRID, *DISCRETE})


def test_environments_in_processes_are_compared_by_the_clock_on_the_wall() -> None:
    peers = {
        benchmark_workers.OURS: {"steps": 100, "wall": [1.0, 4.0, 2.0]},
        "equipoise_process_each": {"steps": 100, "wall": [3.0, 16.0, 6.0]},
        "sb3_processes": {"error": "ModuleNotFoundError: No module named 'stable_baselines3'"},
    }
    rows = benchmark_workers.sheet("a", peers).rows
    assert [row[1:] for row in rows[:2]] == [["50", "1.00 (1.00 – 1.00)"], ["17", "3.00 (3.00 – 3.50)"]]
    assert rows[2][1] == "n/a: ModuleNotFoundError: No module named 'stable_baselines3'"
    folder = Path(cleanrl.__file__).parent
    assert all((folder / f"{name}.py").exists() for name in benchmark_workers.NAMES)
