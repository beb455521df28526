"""Callbacks: named in the configuration or given from Python, they stop a run, film it, make it harder, and fail well."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import equipoise
from equipoise import ConfigError
from equipoise.trainer.build import build
from equipoise.trainer.callbacks import Curriculum, SaveVideos, StopAfter, StopAtScore, StopWithoutImprovement
from equipoise.trainer.calling import CallbackError
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.system import checkpoint
from tests.integration.test_python import TINY
from tests.integration.test_training import assert_same
from tests.reliability.processes import lines, run, state, summary, toy
from tests.reliability.test_resume import assert_resumes_exactly
from tests.toy_env import ToyEnv

OURS = "equipoise.trainer.callbacks"
EVALUATED: Mapping[str, Any] = {**TINY, "eval_every": 1, "eval_episodes": 2, "progress": False}


class Recording(equipoise.Callback):
    """Notes every call; counts, so that it has a state."""

    def __init__(self, stop_at: int = 0, fail_at: int = 0, when: str = "on_iteration") -> None:
        self.stop_at, self.fail_at, self.when = stop_at, fail_at, when
        self.calls: list[str] = []
        self.count = 0

    def on_start(self, run: Any) -> None:
        self._called("on_start")

    def on_iteration(self, metrics: Mapping[str, float]) -> str | None:
        self.count += 1
        assert metrics["iteration"] == self.count
        self._called("on_iteration")
        return "enough" if self.count == self.stop_at else None

    def on_evaluation(self, metrics: Mapping[str, float]) -> str | None:
        assert "evaluation/return" in metrics
        self._called("on_evaluation")
        return None

    def on_end(self, summary: Any) -> None:
        self._called("on_end")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.when and self.fail_at and self.count >= self.fail_at - (name == "on_start"):
            raise ValueError("it broke")

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


class Watch:
    """Has one hook and no base class."""

    def on_iteration(self, metrics: Mapping[str, float]) -> str | None:
        return "twice" if metrics["iteration"] == 2 else None


def test_every_hook_is_called_in_its_place(tmp_path: Path) -> None:
    callback = Recording()
    equipoise.train("CartPole-v1", folder=tmp_path / "run", callbacks=[callback], **EVALUATED)
    once = ["on_iteration", "on_evaluation"]
    assert callback.calls == ["on_start", *once, *once, "on_end"]


def test_a_stop_keeps_its_reason_ends_with_it_and_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**TINY, "total_env_steps": 640}
    run = equipoise.train("CartPole-v1", folder=tmp_path / "run", callbacks=[Watch()], **settings)
    assert (run.summary["status"], run.summary["iterations"]) == ("finished", 2)
    assert run.summary["stopped"] == "Watch: twice"
    assert run.summary["return_mean"] is not None
    assert capsys.readouterr().out.splitlines()[-1] == "stopped early: Watch: twice"
    assert run.load().act(np.zeros(4, np.float32)) in (0, 1)


def test_the_callbacks_of_a_configuration_and_resuming_what_was_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stop = f"callbacks=[{{_target_:{OURS}.StopAtScore,score:-1000,times:2}}]"
    first = run(tmp_path, *toy(folder, stop))
    assert first.code == 0, first.output
    assert summary(folder)["stopped"].startswith("StopAtScore: evaluation/return = ")
    assert summary(folder)["iterations"] == 4  # the second evaluation
    again = run(tmp_path, f"resume={folder}")
    assert "stopped early" in again.output
    assert len(lines(folder)) == 4
    automatic = run(tmp_path, *toy(folder, stop, "resume=auto"))
    assert "the run is finished" in automatic.output
    further = run(tmp_path, f"resume={folder}", "callbacks=[]")
    assert further.code == 0, further.output
    assert "changed from here on: callbacks" in further.output
    assert (len(lines(folder)), summary(folder)["stopped"]) == (6, None)


def test_a_killed_stop_is_the_same_run(tmp_path: Path, toy: Callable[..., Config]) -> None:
    """Counters go on: stopped by the fifth iteration, with or without a break after the third."""
    config = toy("trainer.eval_every=0", "trainer.total_env_steps=1_280")
    whole, callback = (
        build(config, tmp_path / "whole", callbacks=[Recording(stop_at=5)]),
        Recording(stop_at=5),
    )
    whole.train()
    first = build(config, tmp_path / "first", callbacks=[Recording(stop_at=3)])
    first.train()
    half = checkpoint.load(tmp_path / "first" / "checkpoints" / "last.pt")
    half["callbacks"]["stopped"] = None
    second = build(config, tmp_path / "second", half, callbacks=[callback])
    second.train()
    assert (callback.count, second.iteration) == (5, 5)
    assert_same(second.state_dict(), whole.state_dict() | {"seconds": second.seconds})


@pytest.mark.parametrize("hook", ["on_start", "on_iteration", "on_evaluation"])
def test_an_error_is_the_callbacks_and_loses_nothing(tmp_path: Path, hook: str) -> None:
    folder = tmp_path / "run"
    settings = {**EVALUATED, "checkpoint_every": 100}
    bad = Recording(fail_at=1 if hook == "on_start" else 2, when=hook)
    with pytest.raises(CallbackError, match=f"^callback Recording: {hook} raised ValueError: it broke$"):
        equipoise.train("CartPole-v1", folder=folder, callbacks=[bad], **settings)
    assert summary(folder)["status"] == "failed"
    assert "callback Recording" in (folder / "failure.txt").read_text()
    if hook == "on_start":
        return
    assert state(folder)["iteration"] == 2
    run = equipoise.Run(folder).resume(progress=False, callbacks=[Recording()])
    assert (run.summary["status"], len(run.metrics["iteration"])) == ("finished", 2)


def test_an_error_does_not_lose_the_best_policy(tmp_path: Path) -> None:
    """A resumed run counts the first evaluation as seen, so nothing worse would be kept in its place."""
    bad = Recording(fail_at=1, when="on_evaluation")
    with pytest.raises(CallbackError):
        equipoise.train("CartPole-v1", folder=tmp_path / "run", callbacks=[bad], **EVALUATED)
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt")["iteration"] == 1


def test_a_stop_before_the_first_iteration(tmp_path: Path) -> None:
    class Never(equipoise.Callback):
        def on_start(self, run: Any) -> str:
            return f"after {run.env_steps} steps"

    run = equipoise.train("CartPole-v1", folder=tmp_path / "run", callbacks=[Never()], **EVALUATED)
    assert (run.summary["status"], run.summary["iterations"]) == ("finished", 0)
    assert run.summary["stopped"].endswith("Never: after 0 steps")
    again = run.resume(callbacks=[], progress=False)
    assert (again.summary["status"], again.summary["iterations"]) == ("finished", 2)


def test_an_error_at_the_end_is_told_and_the_run_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Recording(fail_at=1, when="on_end")
    run = equipoise.train("CartPole-v1", folder=tmp_path / "run", callbacks=[bad], **TINY)
    assert run.summary["status"] == "finished"
    assert "callback Recording: on_end raised ValueError: it broke" in capsys.readouterr().out


def test_a_state_that_no_checkpoint_holds_and_a_wrong_answer_show_at_once(tmp_path: Path) -> None:
    class Bad(equipoise.Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"best": np.float64(1.0)}

    class Eager(equipoise.Callback):
        def on_iteration(self, metrics: Mapping[str, float]) -> Any:
            return True  # "go on" elsewhere

    for callback, message in ((Bad(), "cannot hold the state\\['best'\\]"), (Eager(), "it returned True")):
        with pytest.raises(CallbackError, match=message):
            equipoise.train("CartPole-v1", folder=tmp_path / type(callback).__name__, callbacks=[callback], **TINY)  # fmt: skip


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ("[{_target_:equipoise.trainer.callbacks.StopAtScor}]", "has no class StopAtScor"),
        ("[{_target_:equipoise.trainer.callbacks.StopAtScore}]", "callbacks[0].score is missing"),
        (
            "[{_target_:equipoise.trainer.callbacks.StopAtScore,scoer:1}]",
            "did you mean callbacks[0].score?",
        ),
        (
            "[{_target_:equipoise.trainer.callbacks.StopAfter}]",
            "callbacks[0].minutes = 0.0: must be above 0, or hours or seconds",
        ),
        ("[{_target_:collections.OrderedDict}]", "a class with a method on_start or"),
        ("[stop]", "callbacks = ['stop']: must be a list of sections with a _target_"),
        ("stop", "must be a list of sections"),
        ("[{_target_:equipoise.trainer.callbacks.Curriculum,stages:[{at:2,kwargs:{}}]}]", "each at a later"),
    ],
)
def test_bad_sections_are_refused_before_anything_is_built(callbacks: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose([f"callbacks={callbacks}"])
    assert message in str(refused.value)


def test_bad_callbacks_from_python_are_refused(tmp_path: Path) -> None:
    for bad in ([StopAtScore], ["StopAtScore"], "StopAtScore", [print]):
        with pytest.raises(ConfigError, match="callbacks"):
            equipoise.train("CartPole-v1", folder=tmp_path / "run", callbacks=bad, **TINY)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_may_not_name_foreign_callbacks(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    mine = [{"_target_": f"{__name__}.Watch"}]
    equipoise.train("CartPole-v1", folder=folder, callbacks=mine, **{**TINY, "progress": False})
    with pytest.raises(ConfigError, match="allow="):
        equipoise.Run(folder).resume(total_env_steps=640)


# What comes with us.


@pytest.mark.parametrize("every", [0, 1])
def test_who_waits_for_evaluations_that_never_come_is_told(
    every: int, toy: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = "{_target_: equipoise.trainer.callbacks.StopAtScore, score: 1e9}"
    hours = "{_target_: equipoise.trainer.callbacks.StopAfter, hours: 9}"
    build(toy(f"callbacks=[{score}, {hours}]", f"trainer.eval_every={every}"), tmp_path / "run").train()
    told = " ".join("".join(capsys.readouterr()).split())
    assert ("WARNING: StopAtScore: trainer.eval_every = 0" in told) is (every == 0)
    assert "WARNING: StopAfter" not in told


def test_without_improvement() -> None:
    callback = StopWithoutImprovement(patience=2, by_at_least=0.5)
    found = [callback.on_evaluation({"evaluation/return": x}) for x in (1.0, 1.4, 1.6, 2.0, 2.1)]
    assert found[:4] == [None, None, None, None]  # 1.4 waits, 1.6 is better by 0.6, 2.0 waits
    assert found[4] == "evaluation/return has not risen above 1.6 for 2 evaluations"
    other = StopWithoutImprovement(patience=2)
    other.load_state_dict({"best": 3.0, "waited": 1})
    assert (
        other.on_evaluation({"evaluation/return": 9.0, "evaluation/score": 2.0}) is not None
    )  # by the score


def test_after_a_time_over_all_sessions() -> None:
    callback = StopAfter(minutes=1)
    assert callback.on_iteration({}) is None
    callback.load_state_dict({"seconds": 59.0})
    assert 59.0 <= callback.state_dict()["seconds"] < 60.0
    callback.load_state_dict({"seconds": 60.0})
    assert callback.on_iteration({}) == "60 s of 60 s are over"


def test_a_metric_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CallbackError, match="evaluation/sore: evaluations have no such metric; .*return"):
        equipoise.train(
            "CartPole-v1", folder=tmp_path / "run", callbacks=[StopAtScore(1.0, by="evaluation/sore")], **EVALUATED
        )  # fmt: skip


def test_videos_after_every_second_evaluation(toy: Callable[..., Config], tmp_path: Path) -> None:
    config = toy("trainer.total_env_steps=512", f"callbacks=[{{_target_:{OURS}.SaveVideos,every:2}}]")
    build(config, tmp_path).train()
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == [
        f"steps_{steps:09d}.gif" for steps in (256, 512)
    ]


def test_films_that_cannot_be_had_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**EVALUATED, "progress": True}
    equipoise.train("CartPole-v1", folder=tmp_path / "run", callbacks=[SaveVideos()], **settings)
    told = capsys.readouterr().out
    assert told.count("draws no pictures") == 1
    hint = told.partition("(Gymnasium: ")[2].partition(")")[0]
    assert compose(["env=gymnasium", "env.id=CartPole-v1", hint]).env.keywords["render_mode"] == "rgb_array"


class Levels(ToyEnv):
    """Pays `level` more in each step."""

    def __init__(self, num_envs: int, device: torch.device, level: int = 1, wide: bool = False) -> None:
        super().__init__(num_envs, device)
        self.level = level
        if wide:
            self.action_space = spaces.Discrete(3)

    def step(self, action: Any) -> Any:
        step = super().step(action)
        return step._replace(
            metrics={**step.metrics, "level": torch.full((self.num_envs,), float(self.level))}
        )


class Lesson(gymnasium.Env[Any, Any]):
    observation_space = spaces.Box(0.0, 9.0, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, level: int = 9) -> None:
        self.level, self.steps = level, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.array([self.np_random.uniform(0, 9)], np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        seen = np.array([self.np_random.uniform(0, 9)], np.float32)
        return seen, float(self.level), self.steps == 3, False, {}


LEVELS = "callbacks=[{_target_:equipoise.trainer.callbacks.Curriculum,stages:[{at:0.0,kwargs:{level:2}},{at:0.5,kwargs:{level:5}}]}]"


def test_a_curriculum_changes_training_and_not_evaluation(tmp_path: Path) -> None:
    stages = [{"at": 0.0, "kwargs": {"level": 2}}, {"at": 0.5, "kwargs": {"level": 5}}]
    settings = {**EVALUATED, "total_env_steps": 128}
    run = equipoise.train(Lesson, folder=tmp_path / "run", callbacks=[Curriculum(stages)], **settings)
    assert list(run.metrics["episode/return"]) == [6, 6, 15, 15]  # three steps of the level
    assert list(run.metrics["evaluation/return"]) == [27, 27, 27, 27]


def test_a_curriculum_resumes_exactly(toy: Callable[..., Config], tmp_path: Path) -> None:
    """Killed between the change and the end: the copies of the second level go on."""
    config = toy(
        LEVELS,
        f"env._target_={__name__}.Levels",
        "trainer.total_env_steps=768",
        "trainer.keep_every=1",
        "trainer.checkpoint_every=1",
        "trainer.keep_max=9",
    )
    whole = build(config, tmp_path / "whole")
    whole.train()
    rows = [json.loads(row) for row in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["episode/level"] for row in rows] == [2, 2, 2, 5, 5, 5]
    for iteration in (2, 4):
        saved = checkpoint.load(tmp_path / "whole" / "checkpoints" / f"iteration_{iteration:08d}.pt")
        second = build(config, tmp_path / f"second-{iteration}", saved)
        second.train()
        assert_same(second.state_dict() | {"seconds": 0.0}, whole.state_dict() | {"seconds": 0.0})


def test_callbacks_do_not_disturb_an_exact_resume(toy: Callable[..., Config], tmp_path: Path) -> None:
    assert_resumes_exactly(
        toy(LEVELS, f"env._target_={__name__}.Levels", "trainer.total_env_steps=1_024"), tmp_path
    )


@pytest.mark.parametrize(
    ("kwargs", "message"), [("levle:2", "levle"), ("wide:true", "the action_space would change")]
)
def test_a_curriculum_that_cannot_work_shows_before_the_training(
    toy: Callable[..., Config], tmp_path: Path, kwargs: str, message: str
) -> None:
    stages = f"stages:[{{at:0.9,kwargs:{{{kwargs}}}}}]"
    config = toy(f"callbacks=[{{_target_:{OURS}.Curriculum,{stages}}}]", f"env._target_={__name__}.Levels")
    trainer = build(config, tmp_path)
    with pytest.raises(CallbackError, match=message):
        trainer.train()
    assert trainer.iteration == 0
