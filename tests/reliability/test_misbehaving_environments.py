"""Environments that would take the run's signals, its gradients, its end or its evaluation away."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import Timestep
from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.data import Term
from equipoise.trainer.diagnosis import NoGradientError
from equipoise.trainer.monitor import endless
from equipoise.trainer.stages.protocol import LossState
from equipoise.trainer.system import torch_switches
from tests.reliability.disturbed import fires
from tests.reliability.processes import Run, run, state, summary, toy
from tests.toy_env import ToyEnv

MakeConfig = Callable[..., Config]
HERE = "tests.reliability.test_misbehaving_environments"


# --- signals -----------------------------------------------------------------------------------------


class Signalling(ToyEnv):
    """Handles SIGTERM itself, as simulators do; sends it after its first episodes have ended.

    `meaning`: what it then means: something to the environment, nothing, or what it does by itself, which is to
    end the process at once.
    """

    def __init__(
        self, num_envs: int, device: torch.device, marker: str, meaning: str, sent_in: int = 0
    ) -> None:
        super().__init__(num_envs, device)
        self.marker, self.sent_in, self.steps = marker, sent_in, 0
        meanings: dict[str, Any] = {"default": signal.SIG_DFL, "ignored": signal.SIG_IGN}
        self.handler = meanings.get(meaning, lambda number, frame: None)

    def reset(self, seed: int | None = None) -> tuple[Tensor, Tensor | None]:
        signal.signal(signal.SIGTERM, self.handler)
        return super().reset(seed)

    def step(self, action: Any) -> Timestep:
        self.steps += 1
        if self.steps == self.sent_in:
            os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGTERM, self.handler)
        return super().step(action)


class Terminating:
    """Sends SIGTERM in its third minibatch: after the environments have been stepped."""

    def __init__(self, marker: str) -> None:
        self.marker, self.minibatches = marker, 0

    def losses(self, state: LossState) -> LossState:
        self.minibatches += 1
        if self.minibatches == 3 and fires(self.marker):
            os.kill(os.getpid(), signal.SIGTERM)
        return state


@pytest.mark.parametrize("meaning", ["own", "default", "ignored"])
def test_an_environment_with_signal_handlers_of_its_own_does_not_take_the_runs(
    tmp_path: Path, meaning: str
) -> None:
    marker = tmp_path / "marker"
    marker.touch()
    ended = run(
        tmp_path,
        *toy(tmp_path / "run", env=f"{HERE}.Signalling"),
        f"env.marker={marker}",
        f"env.meaning={meaning}",
        f"trainer.terminating._target_={HERE}.Terminating",
        f"trainer.terminating.marker={marker}",
        "trainer.stages=[reward_normalization,advantage_weighting,terminating,gradient_scaling]",
    )
    assert ended.code == 128 + signal.SIGTERM, ended.output
    assert (summary(tmp_path / "run")["status"], state(tmp_path / "run")["iteration"]) == ("interrupted", 1)
    assert ended.output.count("other code replaced the handlers of SIGTERM; they were put back") == 1


def test_a_signal_between_two_steps_reaches_the_run(tmp_path: Path) -> None:
    overrides = toy(tmp_path / "run", env=f"{HERE}.Signalling")
    more = ("env.marker=none", "env.meaning=own", "env.sent_in=30", "trainer.batch.rollout_steps=32")
    ended = run(tmp_path, *overrides, *more)
    assert ended.code == 128 + signal.SIGTERM, ended.output
    assert (summary(tmp_path / "run")["status"], state(tmp_path / "run")["iteration"]) == ("interrupted", 1)


def hang_up(tmp_path: Path, *overrides: str, prepare: Callable[[], None] | None = None) -> Run:
    """A long run whose terminal goes away after its first checkpoint."""
    endless_run = toy(tmp_path / "run", "trainer.eval_every=0", *overrides)
    process = Run(tmp_path, *endless_run, prepare=prepare)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoints" / "last.pt").exists():
        assert process.process.is_alive(), process.output
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGHUP)
    return process


def test_a_terminal_that_is_closed_ends_a_run_like_any_other_signal(tmp_path: Path) -> None:
    ended = hang_up(tmp_path, "trainer.total_env_steps=1_000_000").end()
    assert ended.code == 128 + signal.SIGHUP, ended.output
    assert summary(tmp_path / "run")["status"] == "interrupted"
    assert "Traceback" not in ended.output


def ignore_hang_ups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_under_nohup_a_run_goes_on(tmp_path: Path) -> None:
    ended = hang_up(tmp_path, "trainer.total_env_steps=2_560", prepare=ignore_hang_ups).end()
    assert ended.code == 0, ended.output
    assert summary(tmp_path / "run")["status"] == "finished"


# --- PyTorch's switches ------------------------------------------------------------------------------


class Switching(ToyEnv):
    """Flips a switch of PyTorch's for the whole process, when it is made or in its third step."""

    def __init__(self, num_envs: int, device: torch.device, switch: str, when: str = "made") -> None:
        super().__init__(num_envs, device)
        self.switch, self.when, self.steps = switch, when, 0
        if when == "made":
            self.flip()

    def step(self, action: Any) -> Timestep:
        self.steps += 1
        if self.when == "stepped" and self.steps == 3:
            self.flip()
        return super().step(action)

    def flip(self) -> None:
        match self.switch:
            case "gradients":
                torch.set_grad_enabled(False)
            case "dtype":
                torch.set_default_dtype(torch.float64)
            case "threads":
                torch.set_num_threads(3)
            case "deterministic":
                torch.use_deterministic_algorithms(True)


@pytest.fixture
def _switches() -> Any:
    before = torch_switches.state()
    yield
    torch_switches.restore(before)
    torch_switches.take_remarks()


CALLS = {
    "gradients": "torch.set_grad_enabled(False)",
    "dtype": "torch.set_default_dtype(torch.float64)",
    "threads": "torch.set_num_threads(3)",
    "deterministic": "torch.use_deterministic_algorithms(True)",
}


@pytest.mark.usefixtures("_switches")
@pytest.mark.parametrize("switch", CALLS)
def test_what_an_environment_switches_when_it_is_made_is_undone_and_named(
    toy: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], switch: str
) -> None:
    before = torch_switches.state()
    plain = build(toy(), tmp_path / "plain")
    plain.train()
    expected = plain.policy.state_dict()
    trainer = build(toy(f"env._target_={HERE}.Switching", f"env.switch={switch}"), tmp_path / "switched")
    assert torch_switches.state() == before
    trainer.train()
    assert (
        f"WARNING: toy has called {CALLS[switch]}, for the whole process; this was undone"
        in capsys.readouterr().out
    )
    found = trainer.policy.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.usefixtures("_switches")
@pytest.mark.parametrize("switch", ["threads", "deterministic", "gradients"])
def test_what_it_switches_in_a_step_does_not_reach_the_update(
    toy: MakeConfig, tmp_path: Path, switch: str
) -> None:
    before = torch_switches.state()
    trainer = build(
        toy(f"env._target_={HERE}.Switching", f"env.switch={switch}", "env.when=stepped"), tmp_path
    )
    metrics = trainer.iterate()
    assert metrics["optimizer/gradient_norm"] > 0.0
    assert torch_switches.state() == before


@pytest.mark.usefixtures("_switches")
def test_another_dtype_in_the_middle_of_a_rollout_ends_it_and_is_named(
    toy: MakeConfig, tmp_path: Path
) -> None:
    config = toy(f"env._target_={HERE}.Switching", "env.switch=dtype", "env.when=stepped")
    trainer = build(config, tmp_path)
    with pytest.raises(
        EnvError, match=r"Switching called torch.set_default_dtype\(torch.float64\), for the whole"
    ):
        trainer.iterate()
    assert torch.get_default_dtype() is torch.float32


class Detaching:
    def losses(self, state: LossState) -> LossState:
        terms = {name: Term(term.values.detach(), term.mask) for name, term in state.terms.items()}
        for name, term in terms.items():
            state = state.with_term(name, term)
        return state


def test_a_loss_that_reaches_no_parameter_ends_the_run_with_the_reason(
    toy: MakeConfig, tmp_path: Path
) -> None:
    stages = "trainer.stages=[reward_normalization,advantage_weighting,detaching]"
    trainer = build(toy(stages, f"trainer.detaching._target_={HERE}.Detaching"), tmp_path)
    with pytest.raises(NoGradientError, match="update 1: the loss does not depend on any parameter"):
        trainer.train()
    assert summary(tmp_path)["status"] == "failed"


def test_that_is_one_message_of_the_command(tmp_path: Path) -> None:
    stages = "trainer.stages=[reward_normalization,advantage_weighting,detaching]"
    ended = run(tmp_path, *toy(tmp_path / "run", stages, f"trainer.detaching._target_={HERE}.Detaching"))
    assert ended.code == 1
    assert "The run ended with an error. update 1: the loss does not depend on any parameter" in ended.output
    assert "Traceback" not in ended.output


class Crashing(ToyEnv):
    """Ends the process as a fault in a simulator's machine code does."""

    def step(self, action: Any) -> Timestep:
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().step(action)


def test_a_crash_of_the_whole_process_says_where_it_was(tmp_path: Path) -> None:
    ended = run(tmp_path, *toy(tmp_path / "run", env=f"{HERE}.Crashing"))
    assert ended.code == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in ended.output
    assert re.search(r"test_misbehaving_environments.py\", line \d+ in step", ended.output)


# --- episodes without an end -------------------------------------------------------------------------


class Endless(ToyEnv):
    def step(self, action: Any) -> Timestep:
        never = torch.zeros(self.num_envs, dtype=torch.bool)
        return super().step(action)._replace(terminated=never, truncated=never)


def test_episodes_without_an_end_are_noticed_while_collecting_and_the_run_finishes(
    toy: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endless, "STEPS", 32)
    config = toy(f"env._target_={HERE}.Endless", "trainer.eval_max_steps=40", "trainer.total_env_steps=640")
    summary = build(config, tmp_path).train()
    output = capsys.readouterr().out
    (warning,) = [line for line in output.splitlines() if "no episode has ended" in line]
    assert re.search(
        r"WARNING: .* in (32|48) steps of each .*max_episode_steps.*TimeLimit.*eval_max_steps", warning
    )
    assert output.count("4 episodes of an evaluation had not ended after trainer.eval_max_steps = 40") == 1
    assert "4 episodes of the closing evaluation had not ended after trainer.eval_max_steps = 40" in output
    assert summary.status == "finished"
    assert (tmp_path / "checkpoints" / "best.pt").exists()


def test_where_episodes_end_nothing_is_said(
    toy: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endless, "STEPS", 16)
    monkeypatch.setattr(endless, "SECONDS", 0.0)
    build(toy(), tmp_path).train()
    assert "no episode has ended" not in capsys.readouterr().out


def test_slow_environments_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    watch = endless.EndlessEpisodes(start=10)
    found = []
    for steps, elapsed in ((10, 50.0), (20, 100.0), (30, 150.0), (40, 200.0)):
        monkeypatch.setattr(endless.time, "monotonic", lambda then=now + elapsed: then)
        found.append((watch.found(steps, {}), str(watch)[:35]))
    assert [said for said, _ in found] == [False, False, True, False]
    assert found[2][1] == "no episode has ended in 20 steps of"


# --- evaluation, and what comes after everything else ---------------------------------------------------


class Scarce(ToyEnv):
    """Of which few may exist."""

    alive = 0
    allowed = 1

    def __init__(self, num_envs: int, device: torch.device) -> None:
        if Scarce.alive >= Scarce.allowed:
            raise ValueError("all seats taken")
        super().__init__(num_envs, device)
        Scarce.alive += 1

    def close(self) -> None:
        Scarce.alive -= 1


def test_an_environment_that_cannot_exist_twice_is_found_out_before_training(tmp_path: Path) -> None:
    ended = run(tmp_path, *toy(tmp_path / "run", "trainer.eval_every=0", env=f"{HERE}.Scarce"))
    assert ended.code == 1
    assert "(in the environment for evaluations, which exists beside the one for training)" in ended.output
    assert "all seats taken" in ended.output
    assert "Traceback" not in ended.output
    assert "iteration 1 " not in ended.output


class Exiting(ToyEnv):
    """Leaves the process, or tries to."""

    def __init__(self, num_envs: int, device: torch.device, when: str) -> None:
        super().__init__(num_envs, device)
        self.when = when
        if when == "made":
            sys.exit(3)

    def step(self, action: Any) -> Timestep:
        if self.when == "stepped":
            raise GeneratorExit
        return super().step(action)


@pytest.mark.parametrize(
    ("when", "expected"), [("made", "SystemExit: 3"), ("stepped", "step raised GeneratorExit")]
)
def test_an_environment_that_leaves_ends_the_run_with_a_message(
    tmp_path: Path, when: str, expected: str
) -> None:
    ended = run(tmp_path, *toy(tmp_path / "run", f"env.when={when}", env=f"{HERE}.Exiting"))
    assert ended.code == 1
    assert expected in ended.output
    assert "Traceback" not in ended.output


class Unrenderable(ToyEnv):
    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        raise OSError("no display\ud800")


def test_a_film_that_fails_costs_nothing_else(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    ended = run(tmp_path, *toy(run_dir, env=f"{HERE}.Unrenderable"))
    assert ended.code == 0, ended.output
    assert "no film of the policy: OSError: no display" in ended.output
    assert summary(run_dir)["status"] == "finished"
    assert (run_dir / "checkpoints" / "best.pt").exists()


class HangingRender(ToyEnv):
    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        for _ in range(6000):  # a signal just before it begins does not wake a single long sleep
            time.sleep(0.1)
        raise AssertionError


def test_rendering_comes_last_and_a_signal_ends_it(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = Run(tmp_path, *toy(run_dir, "trainer.eval_every=0", env=f"{HERE}.HangingRender"))
    deadline = time.monotonic() + 60
    while not (run_dir / "summary.json").exists():
        assert process.process.is_alive(), process.output
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "finished"
    assert (run_dir / "checkpoints" / "best.pt").exists()
    os.kill(process.pid, signal.SIGTERM)
    ended = process.end()
    assert ended.code == 0, ended.output  # the run is complete
    assert summary(run_dir)["status"] == "finished"
