"""What is not finite and what misbehaves: found, named, and never let into the parameters."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.diagnosis import DivergenceError, NonFiniteError
from equipoise.trainer.loop import Trainer
from tests.integration.test_training import assert_same, tensors
from tests.reliability.processes import run, summary

FAULTY_ENV = "env._target_=tests.reliability.disturbed.FaultyEnv"
MakeConfig = Callable[..., Config]
NUMBERS = [math.nan, math.inf, -math.inf]


def losses(where: str, number: float, first: int, last: int, stage: str = "FaultyLosses") -> list[str]:
    return [
        f"trainer.faulty._target_=tests.reliability.disturbed.{stage}",
        f"trainer.faulty.where={where}",
        f"trainer.faulty.value={number}",
        *(
            [f"trainer.faulty.first={first}", f"trainer.faulty.last={last}"]
            if stage == "FaultyLosses"
            else []
        ),
    ]


LOSS_STAGES = "trainer.stages=[advantage_weighting,value_clipping,faulty,gradient_scaling]"
REWARD_STAGES = "trainer.stages=[faulty,advantage_weighting,value_clipping,gradient_scaling]"


def floats(trainer: Trainer) -> dict[str, Tensor]:
    """All that is learned or kept for learning: parameters, normalisers, moments of every optimizer."""
    state = trainer.state_dict()
    update = state["learner"]
    # The gradient stage's average is NaN before its first norm.
    stages = {name: kept for name, kept in update["stages"].items() if name != "gradient_scaling"}
    kept = {"policy": state["policy"], "moments": update["optimizer"]["state"], "stages": stages}
    return {
        path: leaf
        for path, leaf in tensors(kept).items()
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    }


def assert_all_finite(trainer: Trainer) -> None:
    for path, tensor in floats(trainer).items():
        assert bool(tensor.isfinite().all()), path


# --- observations and rewards ------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("field", "at", "expected"),
    [
        (
            "observation",
            5,
            r"observation \[1\] is {} in environment 2, step 5 of the rollout that began at 0",
        ),
        ("observation", 16, r"observation after the last step \[1\] is {} in environment 2, step 16"),
        ("final_observation", 10, r"final observation \[1\] is {} in environment 2, step 9"),
        ("rewards", 5, r"reward 'skill' is {} in environment 2, step 4 of the rollout that began at 0"),
        ("rewards", 21, r"reward 'skill' is {} in environment 2, step 4 of the rollout that began at 128"),
    ],
)
def test_a_number_from_the_environment_that_is_not_finite_ends_the_run_before_anything_learns(
    toy: MakeConfig, tmp_path: Path, number: float, field: str, at: int, expected: str
) -> None:
    overrides = [FAULTY_ENV, f"env.field={field}", "env.value=0.0", f"env.at={at}"]
    trainer = build(toy(*overrides, "trainer.eval_every=0"), tmp_path)
    trainer.collector.env.value = number  # type: ignore[attr-defined]
    for _ in range((at - 1) // 16):
        trainer.iterate()
    before = {path: tensor.clone() for path, tensor in floats(trainer).items()}
    with pytest.raises(NonFiniteError, match=expected.format(re.escape(str(number)))):
        trainer.train()
    assert_same(floats(trainer), before)
    assert summary(tmp_path)["status"] == "failed"
    assert "environment 2" in summary(tmp_path)["error"]
    assert "Traceback" in (tmp_path / "failure.txt").read_text()


def test_where_the_environment_chokes_on_the_action_the_observation_is_named(
    toy: MakeConfig, tmp_path: Path
) -> None:
    trainer = build(toy(FAULTY_ENV, "env.picky=true"), tmp_path)
    trainer.collector.env.value = math.nan  # type: ignore[attr-defined]
    with pytest.raises(NonFiniteError, match=r"observation \[1\] is nan in environment 2, step 5"):
        trainer.iterate()


# --- losses, gradients and log-probabilities ---------------------------------------------------------

INJECTED = [  # what, the stage that does it, the first thing that the message names
    ("value", "FaultyLosses", r"update 1: term value, component 'skill': 1 of 64 samples"),
    ("discrete", "FaultyLosses", r"update 1: term discrete, decision 0: 1 of 64 samples"),
    ("gradient", "FaultyLosses", r"update 1: gradient of .*: \d+ of \d+ entries"),
    ("log_prob", "FaultyRollout", r"update \d+: minibatch continuous_log_prob, decision 0: 1 of 64 samples"),
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(("where", "stage", "expected"), INJECTED, ids=[row[0] for row in INJECTED])
def test_an_update_that_is_not_finite_is_located_skipped_and_counted(
    toy: MakeConfig, tmp_path: Path, where: str, stage: str, expected: str, optimizer: str, number: float,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    stages = LOSS_STAGES if stage == "FaultyLosses" else REWARD_STAGES
    config = toy(
        *losses(where, 0.0, 1, 1, stage), stages, f"optimizer={optimizer}", "trainer.total_env_steps=128"
    )
    trainer = build(config, tmp_path)
    faulty: Any = trainer.learner.pipeline.stages["faulty"]
    faulty.value = number
    trainer.train()
    (line,) = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # Four updates; the bad log-probability is in one minibatch of each of the two epochs.
    assert line["optimizer/skipped"] == (2 if where == "log_prob" else 1)
    assert re.search(
        f"WARNING: iteration 1: [12] updates skipped, not finite: {expected}", capsys.readouterr().out
    )
    assert_all_finite(trainer)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_skipped_update_changes_neither_parameters_nor_moments(
    toy: MakeConfig, tmp_path: Path, optimizer: str
) -> None:
    """The first of four updates is bad; the other three are what they are without it, on the same data."""

    def step(value: float) -> dict[str, Tensor]:
        config = toy(*losses("value", 0.0, 1, 4), LOSS_STAGES, f"optimizer={optimizer}")
        trainer = build(config, tmp_path / str(value))
        faulty: Any = trainer.learner.pipeline.stages["faulty"]
        faulty.value = value
        before = {path: tensor.clone() for path, tensor in floats(trainer).items()}
        trainer.iterate()
        after = floats(trainer)
        return {p: after[p] - before[p] for p in after if (p in before and "optimizer" in p) or "_head" in p}

    still = step(math.nan)
    moved = step(0.0)
    # Value normalisation moves the value head by itself, without any update.
    changing = [path for path in moved if "value" not in path and bool(moved[path].any())]
    assert changing
    assert not any(bool(still[path].any()) for path in changing)


@pytest.mark.parametrize("number", NUMBERS)
def test_too_many_in_a_row_end_the_run_with_a_report(toy: MakeConfig, tmp_path: Path, number: float) -> None:
    config = toy(
        *losses("value", 0.0, 6, 1_000),
        LOSS_STAGES,
        "trainer.max_bad_updates=5",
        "trainer.total_env_steps=2_560",
    )
    trainer = build(config, tmp_path)
    faulty: Any = trainer.learner.pipeline.stages["faulty"]
    faulty.value = number
    # Updates 6 to 12 are bad: 5 in a row are full within the third iteration of four updates each.
    with pytest.raises(DivergenceError, match=r"7 updates in a row .*max_bad_updates = 5.*, iteration 3\."):
        trainer.train()
    assert summary(tmp_path)["status"] == "failed"
    assert summary(tmp_path)["iterations"] == 2
    report = (tmp_path / "failure.txt").read_text()
    assert "update 12: term value, component 'skill': 1 of 64 samples" in report
    assert_all_finite(trainer)
    saved = torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)["state"]
    assert saved["iteration"] <= 2


def test_rewards_that_a_stage_made_infinite_never_reach_the_normaliser(
    toy: MakeConfig, tmp_path: Path
) -> None:
    trainer = build(toy(*losses("rewards", 0.0, 1, 1, "FaultyRollout"), REWARD_STAGES), tmp_path)
    faulty: Any = trainer.learner.pipeline.stages["faulty"]
    faulty.value = math.inf
    with pytest.raises(NonFiniteError, match="targets of component 'skill' are not finite.*reach inf"):
        trainer.train()
    assert_all_finite(trainer)


def test_finite_rewards_whose_sum_is_not(toy: MakeConfig, tmp_path: Path) -> None:
    """float32 ends at 3.4e38: the returns of such rewards cannot be told."""
    trainer = build(toy(FAULTY_ENV, "env.fault=none", "env.scale=4e37"), tmp_path)
    with pytest.raises(NonFiniteError, match="targets of component"):
        trainer.train()
    assert_all_finite(trainer)


def test_parameters_that_overflow_end_the_run(toy: MakeConfig, tmp_path: Path) -> None:
    trainer = build(toy("trainer.eval_every=0", "trainer.checkpoint_every=1"), tmp_path)
    with torch.no_grad():
        trainer.policy.log_std[0] = math.inf  # type: ignore[index]
    with pytest.raises(DivergenceError, match=r"parameters overflow \(optimizer.learning_rate = "):
        trainer.train()
    assert not (tmp_path / "checkpoints").exists()  # nothing that could not be gone on from


@pytest.mark.parametrize("scale", [1e12, 1e-12])
def test_rewards_of_any_size_train(toy: MakeConfig, tmp_path: Path, scale: float) -> None:
    """The test `test_it_learns` with other units."""
    overrides = [
        FAULTY_ENV,
        "env.fault=none",
        f"env.scale={scale}",
        "env.num_envs=16",
        "trainer.batch.update_epochs=4",
        "trainer.total_env_steps=5_120",
        "optimizer.learning_rate=1e-2",
        "trainer.entropy_regularization.entropy_coeff_start=0.01",
    ]
    trainer = build(toy(*overrides), tmp_path)
    before = trainer.evaluator.run(16, seed=1)
    best = scale * sum(before.lengths) / len(before.lengths)
    for _ in range(20):
        assert trainer.iterate()["optimizer/skipped"] == 0
    after = trainer.evaluator.run(16, seed=1)
    assert before.return_mean < 0.5 * best
    assert after.return_mean > 0.8 * best
    assert_all_finite(trainer)


# --- environments that misbehave, through the whole command -------------------------------------------

BATCHED = [
    ("fault=constructor", r"cannot be made: OSError: no map found"),
    ("fault='raise on reset'", r"FaultyEnv: step 0: reset raised OSError: no map found"),
    ("fault=raise", r"FaultyEnv: step 15: step raised RuntimeError: the simulator lost contact"),
    (
        "fault=shape",
        r"step 15: observation is \[8, 1\] torch.float32 on cpu; it must be \[8, 2\] torch.float32",
    ),
    ("fault=shape,field=rewards", r"step 15: rewards is \[8, 1\]"),
    ("fault=dtype,field=rewards", r"step 15: rewards is \[8, 2\] torch.float64"),
    ("fault=list,field=terminated", r"step 15: terminated is a list; it must be a tensor"),
    (
        "fault='not a number',field=rewards",
        r"reward 'wage' is nan in environment 0, step 6 of the rollout that began at 64",
    ),
]


def arguments(run_dir: Path, *overrides: str) -> list[str]:
    from tests.reliability.processes import toy

    return toy(run_dir, "trainer.eval_every=0", *overrides)


@pytest.mark.parametrize(("fault", "expected"), BATCHED, ids=[fault for fault, _ in BATCHED])
def test_a_batched_environment_that_misbehaves(tmp_path: Path, fault: str, expected: str) -> None:
    overrides = [f"env.{part}" for part in fault.split(",")]
    # At step 15: the first look at an environment takes 11.
    ended = run(tmp_path, *arguments(tmp_path / "run", FAULTY_ENV, "env.at=15", *overrides))
    assert ended.code == 1, ended.output
    assert re.search(f"The run ended with an error. .*{expected}", ended.output), ended.output
    assert "Traceback" not in ended.output


GYMNASIUM = [
    ("raise", r"environment \d, step 3: step raised RuntimeError: the simulator lost contact"),
    ("raise on reset", "reset raised OSError: no map found"),
    ("shape", r"environment \d, step 3: observation"),
    ("outside", r"environment \d, step 3: observation"),
    ("observation nan", r"environment \d, step 3: observation"),
    ("reward inf", r"environment \d, step 3: reward"),
    ("hang", "no answer to step within 1"),
    ("die", "died in step, exit code 7"),
]


@pytest.mark.parametrize(("fault", "expected"), GYMNASIUM, ids=[fault for fault, _ in GYMNASIUM])
def test_a_gymnasium_environment_that_misbehaves_leaves_no_process_behind(
    tmp_path: Path, fault: str, expected: str
) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    overrides = [
        "env.id=tests.reliability.disturbed:test/Traced-v0",
        "env.vectorization=async",
        "env.check_bounds=strict",
        "env.timeout=1.0",
        f"env.kwargs.folder={pids}",
        f"env.kwargs.fault='{fault}'",
    ]
    batch = ["trainer.batch.num_minibatches=1", "env.num_envs=2", "trainer.batch.rollout_steps=8"]
    ended = run(
        tmp_path,
        "env=gymnasium",
        "policy=mlp",
        "device=cpu",
        *batch,
        *overrides,
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert ended.code == 1, ended.output
    assert re.search(expected, ended.output), ended.output
    assert "The run ended with an error" in ended.output
    assert ended.output.count("Traceback") == 0, ended.output
    started = [int(path.name) for path in pids.iterdir()]
    assert len(started) >= 3  # two workers, and the run itself, which looks at the spaces
    assert not [pid for pid in started if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_environment_may_report_a_figure_only_now_and_then(tmp_path: Path) -> None:
    """Success comes with the end of an episode, in the first step of a rollout too."""
    scores = ["env.id=tests.envs.misbehaving:test/Scores-v0", "env.kwargs.length=3", "env.num_envs=2"]
    ended = run(
        tmp_path, "env=gymnasium", "policy=mlp", "device=cpu", *scores,
        "trainer.batch.num_minibatches=1", "trainer.batch.rollout_steps=4",
        "trainer.total_env_steps=32", "trainer.final_eval_episodes=2", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert ended.code == 0, ended.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("episode/success") for row in rows] == [1.0, 1.0, 1.0, 1.0]


# --- nobody reads, nowhere to write ------------------------------------------------------------------


@pytest.mark.parametrize("module", ["trainer.run", "trainer.evaluate"])
def test_help_that_nobody_reads_to_its_end(module: str) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=Path(__file__).parents[2],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs a path under which no folder can be")
def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = run(tmp_path, *arguments(tmp_path / "file" / "run"))
    assert ended.code != 0
    assert "Traceback" not in ended.output, ended.output
    assert str(tmp_path / "file") in ended.output
