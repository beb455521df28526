"""The real command in two processes: one run folder, exact resume, and no process that outlives another.

Only the last test starts them with `torchrun`, which takes seconds; the others are given its environment.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pytest
import torch

from equipoise.trainer.stages.protocol import LossState
from tests.integration.test_training import assert_same
from tests.reliability.disturbed import AT_REST, FaultyEnv, SignallingEnv
from tests.reliability.processes import (
    Ended,
    Run,
    assert_curves_are_whole,
    lines,
    points,
    run,
    state,
    summary,
    toy,
)

SHARED = "env._target_=equipoise.envs.synthetic.Synthetic"


def torchrun_would(rank: int, port: int, late: float) -> None:
    time.sleep(late if rank == 0 else 0.0)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )


def start(cwd: Path, *arguments: str, late: float = 0.0) -> list[Run]:
    """The command in two processes that know each other; `late`: seconds by which the first one is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        Run(cwd, *arguments, prepare=functools.partial(torchrun_would, rank, port, late)) for rank in range(2)
    ]


def both(cwd: Path, *arguments: str) -> list[Ended]:
    return [process.end() for process in start(cwd, *arguments)]


def refused(cwd: Path, *arguments: str) -> list[Ended]:
    """As under `torchrun`: the first to end ends the other. The first in rank is the last to begin."""
    processes = start(cwd, *arguments, late=1.0)
    connection.wait([process.process.sentinel for process in processes])
    for process in processes:
        process.process.terminate()
    return [process.end() for process in processes]


class SecondFaultyEnv(FaultyEnv):
    """All is well but in the second process."""

    def __init__(self, num_envs: int, device: torch.device, **keywords: Any) -> None:
        if os.environ.get("RANK") != "1":
            keywords["fault"] = "none"
        super().__init__(num_envs, device, **keywords)


class SecondSignallingEnv(SignallingEnv):
    """The signal goes to the second process."""

    def __init__(self, num_envs: int, device: torch.device, **keywords: Any) -> None:
        super().__init__(num_envs, device, **keywords)
        self.mine = self.mine and os.environ.get("RANK") == "1"


class Wandering:
    """Changes the policy of its own process by the smallest step there is, in minibatch 6."""

    def __init__(self) -> None:
        self.minibatches = 0

    def losses(self, state: LossState) -> LossState:
        self.minibatches += 1
        if self.minibatches == 6 and os.environ.get("RANK") == "1":
            weight = state.distribution.mean.grad_fn
            assert weight is not None
            for parameter in _parameters(weight):
                parameter.data.view(-1)[0] += 1e-7
        return state


def _parameters(node: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    todo = [node]
    while todo:
        node = todo.pop()
        if hasattr(node, "variable"):
            found.append(node.variable)
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    return found


def test_one_run_folder_and_the_figures_of_all(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    first, second = both(tmp_path, *toy(run_dir, "env.num_envs=8"))
    assert (first.code, second.code) == (0, 0), first.output + second.output
    assert second.output == ""
    found = summary(run_dir)
    assert (found["status"], found["env_steps"], found["iterations"]) == ("finished", 384, 6)
    assert state(run_dir)["processes"] == 2
    assert_curves_are_whole(run_dir)
    assert [step for step, _ in points(run_dir, "loss/value")] == list(range(64, 385, 64))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run"]
    # In either process the episodes of its four environments last 3, 4, 5 and 6 steps: of 8 steps 2, 2, 1, 1.
    assert lines(run_dir)[0]["episode/length"] == pytest.approx((3 + 3 + 4 + 4 + 5 + 6) / 6)


def test_an_interrupted_run_of_two_processes_goes_on_exactly(tmp_path: Path) -> None:
    """The signal comes to the second process alone, which has nothing to write; twice, as by `torchrun`. What
    the policies of both remember of their episodes goes on, too."""
    run_dir, marker, whole = tmp_path / "run", tmp_path / "marker", tmp_path / "whole"
    settings = (
        "env.signal=SIGTERM",
        "env.times=2",
        f"env.at={3 * 8 + 5}",
        f"env.marker={marker}",
        "trainer.advantage_weighting.enable_learnable_weights=true",
        "policy.memory={_target_: equipoise.trainer.policy.memory.GRU, hidden_size: 8}",
    )
    env = "tests.reliability.test_several_processes.SecondSignallingEnv"
    marker.touch()
    for ended in both(tmp_path, *toy(run_dir, *settings, env=env)):
        assert ended.code == 128 + signal.SIGTERM, ended.output
        assert "Traceback" not in ended.output
    assert not marker.exists()
    assert (summary(run_dir)["status"], state(run_dir)["iteration"]) == ("interrupted", 4)
    alone = run(tmp_path, f"resume={run_dir}")
    assert alone.code == 2
    assert alone.output.splitlines() == [
        "Configuration error: resume: a run of 2 processes goes on only with as many, not with 1: "
        "torchrun --nproc-per-node=2 -m equipoise.trainer.run resume=…"
    ]
    for arguments in ([f"resume={run_dir}"], toy(whole, *settings, env=env)):
        for ended in both(tmp_path, *arguments):
            assert ended.code == 0, ended.output
    assert_same(state(run_dir), state(whole))
    assert lines(run_dir) == lines(whole)
    assert_curves_are_whole(run_dir)


@pytest.mark.parametrize(
    ("env", "differentiated"),
    [
        (("env._target_=equipoise.envs.switched_lqr.SwitchedLQR",), [True] * 4),
        (AT_REST, [True] * 5 + [False] * 4 + [True]),  # resumed at rest
    ],
)
def test_derivatives_through_the_simulator_go_on_exactly(
    tmp_path: Path, env: tuple[str, ...], differentiated: list[bool]
) -> None:
    """Each process differentiates its own environments; how far to believe that, they measure together."""
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    steps = len(differentiated) * (512 if env is AT_REST else 64)
    auto = "trainer.continuous_gradient=auto", f"trainer.schedule_steps={steps}", "trainer.eval_every=0"
    for arguments in (
        toy(run_dir, *auto, *env, f"trainer.total_env_steps={steps * 7 // 10}"),
        [f"resume={run_dir}", f"trainer.total_env_steps={steps}"],
        toy(whole, *auto, *env, f"trainer.total_env_steps={steps}"),
    ):
        for ended in both(tmp_path, *arguments):
            assert ended.code == 0, ended.output
    for part in ("policy", "learner", "others"):  # what is reported of the last quarter of a run differs
        assert_same(state(run_dir)[part], state(whole)[part])
    assert lines(run_dir) == lines(whole)
    assert ["pathwise/agreement" in line for line in lines(whole)] == differentiated


def test_a_rate_that_follows_the_kl_is_the_same_in_all(tmp_path: Path) -> None:
    """Each finds another divergence; with rates of their own the parameters would part, and end the run."""
    following = ("optimizer=adam_kl", "optimizer.desired_kl=0.003", "trainer.batch.update_epochs=4")
    measured = "trainer.gradient_scaling.measure_every=1"
    for ended in both(tmp_path, *toy(tmp_path / "run", measured, *following)):
        assert ended.code == 0, ended.output
    rates = {line["optimizer/learning_rate"] for line in lines(tmp_path / "run")}
    assert len(rates) > 2


def test_a_run_of_one_process_is_not_resumed_by_two(tmp_path: Path) -> None:
    """Nor is it said that its environments cannot be shared out, which cannot be changed any more."""
    run_dir = tmp_path / "run"
    odd = ("env.num_envs=9", "trainer.batch.num_minibatches=1", "trainer.gradient_scaling.measure_every=1")
    assert run(tmp_path, *toy(run_dir, *odd)).code == 0
    first, second = refused(tmp_path, f"resume={run_dir}")
    assert (first.code, second.output) == (2, "")
    assert first.output == (
        "Configuration error: resume: a run of 1 processes goes on only with as many, not with 2: "
        "python -m equipoise.trainer.run resume=…\n"
    )


REFUSED = [
    ("env.num_envs=9", "env.num_envs = 9; allowed is a multiple of 2, the number of processes"),
    (
        "trainer.batch.num_minibatches=64",
        "trainer.batch.num_minibatches = 64; allowed is a divisor of 32, the samples of each of 2 processes",
    ),
    ("-m", "-m: a sweep is of runs in one process each"),
]


@pytest.mark.parametrize(("argument", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_shared_out_is_refused_once(tmp_path: Path, argument: str, message: str) -> None:
    measured = "trainer.gradient_scaling.measure_every=1"
    first, second = refused(tmp_path, *toy(tmp_path / "run", measured), argument)
    assert first.code == 2, first.output + second.output
    assert message in first.output
    assert len(first.output.splitlines()) == 1
    assert second.output == ""
    assert not (tmp_path / "run").exists()


def test_an_error_in_one_process_ends_all_and_is_told(tmp_path: Path) -> None:
    env = "tests.reliability.test_several_processes.SecondFaultyEnv"
    arguments = toy(tmp_path / "run", "env.fault='not a number'", "env.field=rewards", "env.at=12", env=env)
    first, second = both(tmp_path, *arguments)
    assert (first.code, second.code) == (1, 1)
    told = "process 1 of 2: NonFiniteError: reward 'wage' is nan in environment 0, step 3 of the rollout"
    assert told in first.output, first.output
    assert "Traceback" not in first.output + second.output
    assert told in summary(tmp_path / "run")["error"]
    assert state(tmp_path / "run")["iteration"] == 1


def test_parameters_that_differ_between_processes_end_the_run(tmp_path: Path) -> None:
    stage = "trainer.wandering._target_=tests.reliability.test_several_processes.Wandering"
    stages = "trainer.stages=[reward_normalization,wandering,gradient_scaling]"
    first, second = both(tmp_path, *toy(tmp_path / "run", stage, stages))
    assert (first.code, second.code) == (1, 1), first.output
    assert "after iteration 2 the processes no longer hold the same parameters" in first.output
    assert state(tmp_path / "run")["iteration"] == 1


def children(pid: int) -> list[int]:
    return [int(line) for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_rank_1(pid: int) -> bool:
    return b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def wait_for_checkpoint(job: subprocess.Popen[bytes], run_dir: Path, output: Path) -> None:
    deadline = time.monotonic() + 120
    while not (run_dir / "checkpoints" / "last.pt").exists():
        assert job.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_a_process_that_is_killed_ends_the_job_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += [
        "-m",
        "trainer.run",
        *toy(run_dir, "trainer.total_env_steps=1_000_000", "trainer.eval_every=0"),
    ]
    with (tmp_path / "output").open("w") as output:
        job = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        try:
            wait_for_checkpoint(job, run_dir, tmp_path / "output")
            workers = children(job.pid)
            second = next(pid for pid in workers if is_rank_1(pid))
            os.kill(second, signal.SIGKILL)
            killed = time.monotonic()
            assert job.wait(60) != 0
        finally:
            job.terminate()  # it ends the others with it
    print(f"{time.monotonic() - killed:.1f} s from kill -9 to the end of the job")
    output_text = (tmp_path / "output").read_text()
    assert "another process of the run has ended" in output_text
    assert "Signal 9 (SIGKILL)" in output_text
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert summary(run_dir)["status"] == "failed"
    longer = f"trainer.total_env_steps={state(run_dir)['env_steps'] + 128}"
    for arguments in ([f"resume={run_dir}", longer], toy(whole, longer, "trainer.eval_every=0")):
        for ended in both(tmp_path, *arguments):
            assert ended.code == 0, ended.output
    assert_same(state(run_dir), state(whole))
    assert lines(run_dir) == lines(whole)


class SecondStops:
    """Only the second process wants to stop."""

    def __init__(self, fail: bool = False) -> None:
        self.fail, self.mine = fail, os.environ.get("RANK") == "1"

    def on_iteration(self, metrics: dict[str, float]) -> str | None:
        if metrics["iteration"] < 3 or not self.mine:
            return None
        if self.fail:
            raise ValueError("it broke here")
        return "it has seen enough"

    def on_evaluation(self, metrics: dict[str, float]) -> str | None:
        assert "evaluation/return" in metrics  # of the first process, which alone measures
        return None


def test_one_process_that_wants_to_stop_stops_all(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    section = "callbacks=[{_target_:tests.reliability.test_several_processes.SecondStops}]"
    first, second = both(tmp_path, *toy(run_dir, section, "env.num_envs=8"))
    assert (first.code, second.code) == (0, 0), first.output + second.output
    assert (summary(run_dir)["status"], summary(run_dir)["iterations"]) == ("finished", 3)
    assert summary(run_dir)["stopped"] == "SecondStops: it has seen enough"


def test_an_error_in_the_callback_of_one_process_ends_all_and_saves(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    section = "callbacks=[{_target_:tests.reliability.test_several_processes.SecondStops,fail:true}]"
    first, second = both(tmp_path, *toy(run_dir, section, "env.num_envs=8", "trainer.checkpoint_every=100"))
    assert (first.code, second.code) == (1, 1)
    assert "callback SecondStops: on_iteration raised ValueError: it broke here" in first.output
    assert state(run_dir)["iteration"] == 3
