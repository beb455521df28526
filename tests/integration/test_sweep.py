"""Sweeps: a failed job does not end them, and a ranking of all jobs does, with each launcher."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from equipoise.trainer.monitor.sweep import distinct
from tests.conftest import TINY_TOPOLOGY
from tests.forked import Command, Ended, started_anew

ROOT = Path(__file__).parents[2]
LAUNCHERS = {"basic": "hydra", "joblib": "hydra_plugins.hydra_joblib_launcher"}
# Where there is no cluster, submitit's own stand-in for it: the same plugin, the jobs as local processes.
LAUNCHERS["submitit_local"] = "hydra_plugins.hydra_submitit_launcher"


BROKEN = """
class Env:
    def __init__(self, num_envs, device, **keywords):
        raise ZeroDivisionError

    def step(self, action): ...
"""


# As sweepers for Optuna, Ax and Nevergrad do: one job after the other, by what the ones before were worth.
CLIMBER = """
from dataclasses import dataclass
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

@dataclass
class Defaults:
    _target_: str = "hydra_plugins.climber.Climber"
    direction: str = "minimize"

ConfigStore.instance().store("climber", Defaults, group="hydra/sweeper", provider="test")

class Climber(Sweeper):
    def __init__(self, direction): ...

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments):
        values = []
        for number, rate in enumerate([1e30, 1e-3]):
            job = [*arguments, f"++optimizer.learning_rate={rate}"]
            (done,) = self.launcher.launch([job], initial_job_idx=number)
            values.append(float(done.return_value))
        print("values:", *values)
"""


def begin(folder: Path, *arguments: str) -> Command:
    return Command(folder, "trainer.run", *given(folder), *arguments, environment=environment(folder))


def given(folder: Path) -> tuple[str, ...]:
    return "-m", *TINY_TOPOLOGY, f"hydra.sweep.dir={folder}"


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(folder)])
    return {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def sweep(folder: Path, *arguments: str) -> Ended:
    # Joblib's workers end with the main process of a program alone; Hydra looks for plugins once.
    if "hydra/launcher=joblib" in arguments or "hydra/sweeper=climber" in arguments:
        every = "trainer.run", *given(folder), *arguments
        return started_anew(folder, *every, environment=environment(folder))
    return begin(folder, *arguments).end(300.0)


@pytest.mark.parametrize(("launcher", "plugin"), LAUNCHERS.items())
def test_a_failed_job_is_listed_and_does_not_end_the_sweep(
    tmp_path: Path, launcher: str, plugin: str
) -> None:
    pytest.importorskip(plugin, reason=f"hydra/launcher={launcher} needs: pip install -e '.[sweep]'")
    broken = "optimizer.learning_rate=1e+30"  # diverges at once; a seed below 0 is no configuration at all
    result = sweep(
        tmp_path,
        f"hydra/launcher={launcher}",
        "trainer.max_bad_updates=1",
        f"{broken},0.001",
        "seed=-1,1",
    )
    assert result.code == 1, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    table, _, listed = result.stdout.partition("ranking, topology_spawn")[2].partition("failed: #0")
    rows = [[cell.strip() for cell in line.split("│")] for line in table.splitlines() if "│" in line]
    best, worst = (row for row in rows if "optimizer.learning_rate=" in row[1])
    assert best[1:3] == ["optimizer.learning_rate=0.001", "1/1"]
    assert worst[1:4] == [broken, "0/1", "n/a"]
    assert f" {broken} seed=-1\n  Configuration error: seed = -1: must be" in listed
    assert re.search(rf"failed: #1 {re.escape(broken)} seed=1\n  (Divergence|NonFinite)Error: ", listed)
    assert "failed: #2 optimizer.learning_rate=0.001 seed=-1\n" in listed
    assert "#3" not in listed
    assert len(list(tmp_path.rglob("checkpoints/best.pt"))) == 1


def test_an_unforeseen_error_is_shown_whole_and_does_not_end_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    result = sweep(tmp_path, "env._target_=broken.Env,equipoise.envs.topology_spawn.TopologySpawn")
    assert result.code == 1
    assert "ZeroDivisionError" in result.stderr
    assert "failed: #0 env._target_=broken.Env" in result.stdout
    assert "1/1" in result.stdout


def test_a_sweeper_that_optimises_gets_the_score_of_every_job(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "climber.py").write_text(CLIMBER)
    climber = ("hydra/sweeper=climber", "trainer.max_bad_updates=1")
    wrong = sweep(tmp_path, *climber)
    assert wrong.code == 2
    assert "hydra.sweeper.direction = 'minimize': must be maximize" in wrong.stderr
    result = sweep(tmp_path, *climber, "hydra.sweeper.direction=maximize")
    (summary,) = tmp_path.rglob("checkpoints/best.pt")
    score = json.loads((summary.parents[1] / "summary.json").read_text())["normalized_score"]
    assert f"values: -inf {score}" in result.stdout
    assert "failed: #0 optimizer.learning_rate=1e+30\n  DivergenceError" in result.stdout


def test_sweeps_that_start_together_rank_each_its_own_jobs(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(lambda preset: sweep(tmp_path, f"preset={preset}"), ("balanced", "debug")))
    assert [result.code for result in ended] == [0, 0]
    assert len(list((tmp_path / "sweeps").iterdir())) == 2
    for result in ended:
        assert "1/1" in result.stdout.partition("ranking, topology_spawn")[2]


def test_an_interrupted_sweep_says_how_to_run_what_it_did_not_begin(tmp_path: Path) -> None:
    process = begin(tmp_path, "preset=balanced,debug", "seed=1,2", "trainer.total_env_steps=10_000_000")
    while process.process.is_alive() and not list(tmp_path.rglob("metrics.jsonl")):
        time.sleep(0.1)
    process.interrupt()
    result = process.end(300.0)
    assert result.code == 130, result.stderr
    assert (
        "interrupted: #0 preset=balanced seed=1\n  resume with: python -m trainer.run resume="
        in result.stdout
    )
    listed = re.findall(r"not begun: #(\d)\n  (.*)", result.stdout)
    assert [number for number, _ in listed] == ["1", "2", "3"]
    for (_, command), own in zip(listed, ("balanced 2", "debug 1", "debug 2"), strict=True):
        preset, seed = own.split()
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "trainer.run"]
        expected = {
            f"preset={preset}",
            f"seed={seed}",
            "trainer.total_env_steps=10000000",
            "env.max_steps=12",
        }
        assert expected <= set(words[3:])


def test_a_sweep_that_cannot_be_is_one_message(tmp_path: Path) -> None:
    result = sweep(tmp_path, "seed=interval(0,1)")
    assert result.code == 2
    assert result.stderr.splitlines() == [
        "Configuration error: BasicSweeper does not support sweep type : INTERVAL_SWEEP"
    ]


def test_with_resume_auto_the_same_sweep_goes_on_in_folders_that_stay_the_same(tmp_path: Path) -> None:
    refused = sweep(tmp_path, "resume=auto", "seed=1,2")
    assert refused.code == 2
    (message,) = refused.stderr.splitlines()
    assert message.startswith("Configuration error: resume = auto: needs folders that stay the same, as with")
    same = message.split()[-1].strip("'").replace("='", "=")
    begun = sweep(tmp_path, "resume=auto", same, "seed=1")
    assert begun.code == 0, begun.stderr
    again = sweep(tmp_path, "resume=auto", same, "seed=1,2")
    assert again.code == 0, again.stderr
    assert re.findall(r"^(.*): the run is finished", again.stderr, re.MULTILINE) == [str(tmp_path / "0")]
    assert json.loads((tmp_path / "1" / "summary.json").read_text())["status"] == "finished"


def test_jobs_are_named_by_what_not_all_of_them_have() -> None:
    assert distinct([["a=1", "b=1", "c=1"], ["a=1", "b=2", "c=1"]]) == [["b=1"], ["b=2"]]
    assert distinct([["a=1"]]) == [["a=1"]]
    assert distinct([]) == []
