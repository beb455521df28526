"""The benchmark: it runs and writes, its floor counts the right products, its phases the right time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from equipoise.scripts import benchmark
from equipoise.scripts.benchmark import ARMS, Plan, Task, flat, run
from equipoise.scripts.speed.floor import Layer, recorded
from equipoise.scripts.speed.memory import addresses
from equipoise.scripts.speed.profiling import profile
from equipoise.scripts.speed.timing import Loop, Phases, interleave, ratios, spread
from equipoise.trainer.policy.encoders import MLP
from equipoise.trainer.policy.encoders import mlp as encoders

SMALL = (*flat(8, 8), "policy.hidden_sizes=[8,8]", "device=cpu")


def test_a_tiny_plan_writes_numbers_and_a_picture(tmp_path: Path) -> None:
    arms = ("off", "exact", "every 5th", "naive", "default")
    tasks = {"tiny": Task(SMALL, arms), "tinier": Task(SMALL, ("off", "exact"))}
    plan = Plan(tasks, {"K": {2: SMALL, 5: (*SMALL, "env.components=5")}}, 2, 1, 1)
    run(plan, "cpu", tmp_path, {"command": "a test"})
    result = json.loads((tmp_path / "benchmark.json").read_text())
    task = result["tasks"]["tiny"]
    assert set(task["seconds"]) == {*arms, "floor", "needed floor"}
    assert all(len(seconds) == 2 for seconds in task["seconds"].values())
    assert task["against_off"]["off"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert sum(task["phases"].values()) == pytest.approx(1.0)
    assert {"environment", "rollout", "GAE", "prepare", "update", "logging"} <= set(task["phases"])
    assert set(result["growth"]["K"]) == {"2", "5"}
    assert result["machine"]["versions"]["torch"] == torch.__version__
    assert (tmp_path / "benchmark.png").stat().st_size > 0


def test_an_arm_that_is_not_compiled_after_all_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no compiler\n/tmp/x.cpp:3:1: error: what is this?")

    monkeypatch.setattr(torch._inductor, "compile", fails)
    plan = Plan({"tiny": Task(SMALL, ("off", "exact", "exact, compiled"))}, {}, 1, 1, 1)
    assert run(plan, "cpu", tmp_path, {}) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "tiny, exact, compiled: the update: not compiled: RuntimeError: no compiler: what is this?" in said


def test_what_is_measured_before_an_interruption_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "compare", Mock(side_effect=[{"first": 1}, KeyboardInterrupt]))
    plan = Plan({"one": Task(SMALL), "two": Task(SMALL)}, {}, 1, 1, 1)
    assert run(plan, "cpu", tmp_path, {}) == 130
    assert json.loads((tmp_path / "benchmark.json").read_text())["tasks"] == {"one": {"first": 1}}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--memory=-1"], "minutes must be 0"),
        (["--memory=nan"], "minutes must be 0"),
        (["--profile=0"], "seconds must be more than 0"),
        (["--quick", "--memory=1"], "not allowed with"),
        (["--out=/dev/null/x"], "cannot make the folder"),
        (["--device=tpu"], "must be cpu or cuda"),
    ],
)
def test_bad_options_are_refused_before_anything_is_measured(
    wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(wrong)
    assert said in capsys.readouterr().err


def test_a_profile_finds_where_the_time_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backward of the trunks that waits, nearly all of it is there."""
    layers = encoders.TanhLayers
    backward = layers.backward

    def slow(ctx: object, *gradients: torch.Tensor) -> object:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return backward(ctx, *gradients)

    slow.__code__ = slow.__code__.replace(co_name="backward", co_filename=encoders.__file__)
    monkeypatch.setattr(layers, "backward", staticmethod(slow))
    found = profile(SMALL, 1.0, warmup=0)
    assert sum(found["places"].values()) == pytest.approx(found["iteration"])
    assert found["places"]["backward of the trunks"] > 0.6 * found["iteration"]


def test_the_floor_knows_which_layers_need_a_gradient_of_their_input() -> None:
    network = MLP((5,), [7, 3], "tanh")
    with recorded(network) as layers:
        network(torch.zeros(2, 4, 5))
    assert layers == [Layer(8, 5, 7, False), Layer(8, 7, 3, True)]
    network(torch.zeros(1, 5))
    assert len(layers) == 2, "nothing is recorded afterwards"


def test_the_naive_way_takes_the_same_steps_as_the_trainer_s_own(tmp_path: Path) -> None:
    # The entropy bonus follows the trainer's own weights, of which the naive stage knows nothing.
    # The document's way measures all parameters that a loss reaches.
    all_of_them = "trainer.gradient_scaling.norm_parameters=all"
    common = (*SMALL, "trainer.entropy_regularization.scale_with_side=false", all_of_them)
    own = Loop([*common, *ARMS["exact"]], tmp_path / "own")
    naive = Loop([*common, *ARMS["naive"]], tmp_path / "naive")
    start = own.trainer.learner.flat.vector.detach().clone()
    for _ in range(8):  # 128 updates: the warm-up of 100 is over
        own()
        naive()
    ours, theirs = (loop.trainer.learner.flat.vector.detach() for loop in (own, naive))
    assert (ours - start).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_buffers_stay_where_they_are(tmp_path: Path) -> None:
    loop = Loop(SMALL, tmp_path)
    places = addresses(loop.trainer.collector.rollout)
    loop()
    loop()
    assert addresses(loop.trainer.collector.rollout) == places


def test_arms_take_turns_and_the_warm_up_does_not_count() -> None:
    time, calls = 0.0, []

    def arm(name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            nonlocal time
            time += seconds
            calls.append(name)

        return work

    seconds = interleave({"a": arm("a", 1.0), "b": arm("b", 2.0)}, 2, 1, lambda: time)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert seconds == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


def test_ratios_are_taken_within_a_round() -> None:
    assert ratios([1.0, 10.0], [2.0, 20.0]) == (0.5, 0.5, 0.5)
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 2.0, 4.0)


def test_a_phase_does_not_count_the_phases_inside_it() -> None:
    class Work:
        time = 0.0

        def outer(self) -> None:
            self.time += 1.0
            self.inner()
            self.time += 2.0

        def inner(self) -> None:
            self.time += 10.0

    work = Work()
    phases = Phases(lambda: work.time)
    phases.watch(work, "outer", "outer")
    phases.watch(work, "inner", "inner")
    work.outer()
    assert phases.seconds == {"outer": 3.0, "inner": 10.0}
    phases.release()
    work.outer()
    assert phases.seconds == {"outer": 3.0, "inner": 10.0}
    assert "outer" not in vars(work)
