"""The files of docs/cluster.md, as far as they can be run without a cluster."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.scripts.tune import TuneArguments
from equipoise.trainer.configuration.compose import compose
from tests import pages
from tests.conftest import TINY_TOPOLOGY

FILES = pages.ROOT / "examples" / "cluster"


def command(folder: Path, name: str, script: str) -> None:
    """A program on the PATH."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / "bin" / name).chmod(0o755)


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", **more}


@pytest.mark.parametrize("file", sorted([*FILES.glob("*.slurm"), *FILES.glob("*.sh")]), ids=lambda f: f.name)
def test_a_script_can_be_parsed(file: Path) -> None:
    subprocess.run(["bash", "-n", file], check=True)


@pytest.mark.slow
def test_a_preempted_task_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    """With SLURM's variables, and a stand-in for `scontrol`."""
    command(tmp_path, "scontrol", f'echo "$@" >> {tmp_path}/scontrol.log')
    command(tmp_path, "equipoise", f'exec {sys.executable} -m equipoise "$@"')
    task = {"SLURM_JOB_NAME": "mine", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    variables = environment(tmp_path, PYTHONPATH=str(pages.ROOT), **task)
    settings = [*TINY_TOPOLOGY, "trainer.total_env_steps=100_000_000", "trainer.checkpoint_every=1"]
    script = ["bash", FILES / "train.slurm", *settings]
    process = subprocess.Popen(script, cwd=tmp_path, env=variables)
    run = tmp_path / "runs" / "mine-3"
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7_3\n"
    found = json.loads((run / "summary.json").read_text())
    assert (found["status"], found["seed"]) == ("interrupted", 3)
    steps = found["env_steps"]
    script[-2] = f"trainer.total_env_steps={2 * steps}"
    subprocess.run(script, cwd=tmp_path, env=variables, check=True, timeout=240)
    found = json.loads((run / "summary.json").read_text())
    assert found["status"] == "finished"
    rows = [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, len(rows) + 1)), "it went on"
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7_3\n"


def test_a_task_that_fails_is_not_queued_again(tmp_path: Path) -> None:
    command(tmp_path, "scontrol", f"touch {tmp_path}/called")
    command(tmp_path, "equipoise", "exit 2")
    variables = environment(tmp_path, SLURM_JOB_NAME="m", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    assert subprocess.run(["bash", FILES / "train.slurm"], cwd=tmp_path, env=variables).returncode == 2
    assert not (tmp_path / "called").exists()


def test_workers_start_on_every_machine_with_the_arguments_as_they_were(tmp_path: Path) -> None:
    """With a stand-in for `ssh`, which gives the command to a shell as the real one does."""
    (tmp_path / "a study").mkdir()
    command(tmp_path, "ssh", 'echo "$1" >> hosts; shift; exec bash -c "$*"')
    command(tmp_path, "equipoise", 'printf "%s\\n" "$PWD" "$@"')
    typed = ["env=goal", "study=it's", "policy.hidden_sizes=[64, 64]"]
    script = ["bash", FILES / "workers.sh", tmp_path / "a study", "node1 node2", "2", *typed]
    told = subprocess.run(
        script, cwd=tmp_path, env=environment(tmp_path), check=True, capture_output=True, text=True
    )
    names = [f"worker-{node}-{worker}" for node in ("node1", "node2") for worker in (1, 2)]
    assert told.stdout.splitlines() == [f"{tmp_path}/a study/{name}.log" for name in names]
    assert (tmp_path / "hosts").read_text().split() == ["node1", "node1", "node2", "node2"]
    for name in names:
        log = tmp_path / "a study" / f"{name}.log"
        deadline = time.monotonic() + 30
        while len(log.read_text().splitlines() if log.exists() else ()) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert log.read_text().splitlines() == [str(tmp_path / "a study"), "tune", *typed]
        assert int((tmp_path / "a study" / f"{name}.pid").read_text()) > 0


JOB = {"parallelism", "completions", "completionMode", "backoffLimit", "template"}
POD = {"restartPolicy", "terminationGracePeriodSeconds", "containers", "volumes"}
CONTAINER = {"name", "image", "workingDir", "command", "args", "env", "resources", "volumeMounts"}


@pytest.mark.parametrize("name", ["train.yaml", "tune.yaml"])
def test_a_kubernetes_job_has_the_fields_of_batch_v1(name: str) -> None:
    job: dict[str, Any] = yaml.safe_load((FILES / name).read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["spec"].keys() <= JOB
    pod = job["spec"]["template"]["spec"]
    assert pod.keys() <= POD
    assert pod["restartPolicy"] in ("OnFailure", "Never"), "a Job takes no other"
    (container,) = pod["containers"]
    assert container.keys() <= CONTAINER
    assert all(isinstance(variable["value"], str) for variable in container["env"])
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    ours = container["args"]
    if name == "tune.yaml":
        assert container["command"] == ["equipoise", "tune"]
        options, overrides = TuneArguments.parse_with_overrides(ours)
        assert (options.study, options.trials) == ("goal", 200)
    else:
        words = shlex.split(ours[0].replace("$JOB_COMPLETION_INDEX", "4"))
        assert words[:3] == ["exec", "equipoise", "train"]
        assert job["spec"]["completionMode"] == "Indexed", "else no pod has a number"
        overrides = tuple(words[3:])
    assert compose(list(overrides)).env.label == "goal"
