"""Graphs, as far as a CPU can tell and without a compiler.

For CUDA graphs `Replayed` repeats recorded operations as one does, and nothing else; for compiled ones the
graph of `trainer.compilation.tape` runs operation by operation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from equipoise.trainer import loop
from equipoise.trainer.build import build
from equipoise.trainer.compilation import compiled_graphs, cuda_graphs, graphs
from equipoise.trainer.compilation.graphs import EAGER_CALLS, Graphed, Kind
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.data import Minibatch, Targets
from equipoise.trainer.loop import Trainer
from equipoise.trainer.monitor.outcome import summarize
from equipoise.trainer.policy import encoders
from equipoise.trainer.stages.gradient_scaling import GradientScaling
from equipoise.trainer.stages.protocol import LossState, Sides, WeightResult
from equipoise.trainer.targets import prepare

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")


class Replayed(TorchDispatchMode):
    """Records operations with the tensors that they were given, which is all that a CUDA graph knows.

    As there, recording changes nothing (what was written to is put back), and reading a value is an error.
    """

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self._born: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.namespace == "profiler":
            return function(*args, **kwargs)
        if function._schema.name in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        for written in _written(function, args, kwargs):
            place = written.untyped_storage().data_ptr()
            if place not in self._born:
                whole = torch.empty(0, dtype=written.dtype).set_(written.untyped_storage())
                self._before.setdefault(place, (whole, whole.clone()))
        result = function(*args, **kwargs)
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        self._born |= {t.untyped_storage().data_ptr() for t in tree_leaves(result) if t is not None} - given
        self._operations.append((function, args, kwargs, result))
        return result

    @torch.inference_mode()
    def forget(self) -> None:
        for whole, before in self._before.values():
            whole.copy_(before)

    @torch.inference_mode()
    def replay(self) -> None:
        for function, args, kwargs, result in self._operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if old is not None and old.data_ptr() != new.data_ptr():  # else a view, or written in place
                    old.copy_(new)


def _written(function: Any, args: Any, kwargs: Any) -> list[Tensor]:
    given = dict(zip((a.name for a in function._schema.arguments), args, strict=False)) | kwargs
    names = [a.name for a in function._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [t for name in names for t in tree_leaves(given.get(name)) if isinstance(t, Tensor)]


def record(function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    with Replayed() as tape:
        result = function()
    tape.forget()
    return result, tape.replay


@pytest.fixture(params=["default", "cudagraphs"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    monkeypatch.setattr(cuda_graphs, "record", record)
    monkeypatch.setattr(cuda_graphs, "obstacle", lambda device: None)
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: graph)
    monkeypatch.setattr(encoders, "is_recording", lambda: False)  # the same operations, for the same bits
    return request.param


CPU = torch.device("cpu")


class Keeper:
    """State in all the ways in which it is kept."""

    def __init__(self) -> None:
        self.total = torch.zeros(2)
        self.pair = (torch.zeros(2), torch.ones(2))
        self.metrics: dict[str, Tensor] = {"last": torch.zeros(())}
        self.inner = Inner()
        self.name = "constant"

    def add(self, number: Tensor) -> Tensor:
        self.inner.count = self.inner.count + 1
        self.pair = (self.pair[1], self.pair[0] + number)  # what is written back lies where it is written to
        self.total = self.total + number * self.inner.count
        self.metrics = {"last": number.sum()}
        return self.total * 2 + self.pair[0]


class Inner:
    def __init__(self) -> None:
        self.count = torch.zeros((), dtype=torch.int64)


def test_state_that_is_replaced_lasts_from_replay_to_replay(kind: Kind) -> None:
    eager, keeper = Keeper(), Keeper()
    graphed = Graphed(kind, "adding", keeper.add, [keeper], CPU)
    homes = None
    for i in range(8):
        number = torch.tensor([1.0, i])
        assert torch.equal(graphed(None, number), eager.add(number)), i
        for mine, theirs in zip(_state(keeper), _state(eager), strict=True):
            assert torch.equal(mine, theirs), i
        if i == EAGER_CALLS:
            homes = [t.data_ptr() for t in _state(keeper)]
    assert graphed.compiling.notice is None
    assert homes == [t.data_ptr() for t in _state(keeper)]
    assert graphed.compiling.news().startswith("compiled adding in")


def _state(keeper: Keeper) -> list[Tensor]:
    return [keeper.total, *keeper.pair, keeper.metrics["last"], keeper.inner.count]


def test_without_writing_back_the_replays_would_start_from_the_same_state(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_put_back", lambda slots: None)
    eager, keeper = Keeper(), Keeper()
    graphed = Graphed(kind, "adding", keeper.add, [keeper], CPU)
    number = torch.ones(2)
    results = [(graphed(None, number).clone(), eager.add(number)) for _ in range(6)]
    if kind == "default":  # what is recorded is checked
        assert graphed.compiling.notice is not None
        assert torch.equal(*results[-1])
    else:
        assert not torch.equal(*results[-1])


def test_what_somebody_puts_there_between_two_replays_counts(kind: Kind) -> None:
    eager, keeper = Keeper(), Keeper()
    graphed = Graphed(kind, "adding", keeper.add, [keeper], CPU)
    for i in range(6):
        if i == 4:
            for one in (eager, keeper):
                one.total = torch.full((2,), 100.0)
        assert torch.equal(graphed(None, torch.ones(2)), eager.add(torch.ones(2))), i


def test_what_somebody_puts_there_must_fit(kind: Kind) -> None:
    eager, keeper = Keeper(), Keeper()
    graphed = Graphed(kind, "adding", keeper.add, [keeper], CPU)
    for i in range(6):
        if i == 4:
            for one in (eager, keeper):
                one.total = torch.zeros(1)  # broadcasts, so that a copy would hide it
        assert torch.equal(graphed(None, torch.ones(2)), eager.add(torch.ones(2))), i
    assert "Keeper.total" in graphed.compiling.notice


class Counting(Keeper):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def add(self, number: Tensor) -> Tensor:
        self.calls += 1
        return super().add(number) * self.calls


class Reading(Keeper):
    def add(self, number: Tensor) -> Tensor:
        result = super().add(number)
        return result * float(result.sum())


class Growing(Keeper):
    def add(self, number: Tensor) -> Tensor:
        self.total = torch.cat([self.total, number])
        return self.total.sum()


@pytest.mark.parametrize(
    ("keeps", "reason"),
    [
        (Counting, ["Counting.calls"]),
        (Reading, ["not permitted", "looks at values"]),
        (Growing, ["Growing.total"]),
    ],
)
def test_what_cannot_be_recorded_goes_on_without_a_graph(
    kind: Kind, keeps: type[Keeper], reason: list[str]
) -> None:
    eager, keeper = keeps(), keeps()
    graphed = Graphed(kind, "adding", keeper.add, [keeper], CPU)
    for i in range(6):
        assert torch.equal(graphed(None, torch.ones(2)), eager.add(torch.ones(2))), i
    news = graphed.compiling.news()
    assert news.startswith(f"WARNING: trainer.compile = {kind}: adding: not compiled")
    assert any(each in news for each in reason)
    assert graphed.compiling.news() is None, "said once"


def test_each_key_has_a_graph_of_its_own(kind: Kind) -> None:
    switch = {"sign": 1.0}
    graphed = Graphed(kind, "scaling", lambda number: number * switch["sign"], [], CPU)
    for i in range(10):
        switch["sign"] = -1.0 if i % 2 else 1.0
        assert float(graphed(i % 2, torch.tensor(3.0))) == (-3.0 if i % 2 else 3.0)


class Delayed(Keeper):
    def add(self, number: Tensor) -> Tensor:
        before, self.total = self.total, self.total + number
        return before


class InDict(Keeper):
    def add(self, number: Tensor) -> Tensor:
        self.metrics["last"] = self.metrics["last"] + number.sum()
        return self.metrics["last"] * 2


class InDeque(Keeper):
    def __init__(self) -> None:
        super().__init__()
        self.latest = deque([torch.zeros(2), torch.zeros(2)], maxlen=2)

    def add(self, number: Tensor) -> Tensor:
        self.latest.append(number * 2)
        return self.latest[0] + 0.0


class Views(Keeper):
    def __init__(self) -> None:
        super().__init__()
        self.whole = torch.zeros(2, 2)
        self.first = self.whole[0]

    def add(self, number: Tensor) -> Tensor:
        self.first += number
        self.whole = self.whole * 1.5
        self.first = self.whole[0]
        return self.whole.sum()


class Deleting(Keeper):
    def add(self, number: Tensor) -> Tensor:
        if hasattr(self, "plan"):
            del self.plan
        else:
            self.plan = number
        return super().add(number)


class Schedule:
    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> int:
        self.asked += 1
        return self.asked


class Asking(Keeper):
    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule()

    def add(self, number: Tensor) -> Tensor:
        return number * self.schedule()


class Expanding(Keeper):
    def add(self, number: Tensor) -> Tensor:
        return super().add(number).sum().expand(3)


class Told(Keeper):
    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def add(self, number: Tensor) -> Tensor:
        return number * self.factor


@pytest.mark.parametrize("keeps", [Delayed, InDict, InDeque, Views, Deleting, Asking, Expanding, Told])
def test_however_state_is_kept_results_are_those_of_ordinary_calls(kind: Kind, keeps: type[Any]) -> None:
    """Recorded or refused."""
    eager, keeper = keeps(), keeps()
    graphed = Graphed(kind, "adding", keeper.add, [keeper], CPU)
    for i in range(12):
        if i == 8:
            eager.factor = keeper.factor = 5.0
        number = torch.tensor([1.0, i])
        assert torch.equal(graphed(None, number), eager.add(number)), i
    if keeps in (Delayed, Expanding):
        assert graphed.compiling.notice is None


class Slotted:
    __slots__ = ("count",)


def test_state_that_cannot_be_seen_stands_in_the_way() -> None:
    graphed = Graphed("default", "adding", lambda number: number, [Slotted()], CPU)
    assert "Slotted has no __dict__" in graphed.compiling.notice


def test_a_state_that_is_loaded_later_counts(kind: Kind, toy: Callable[..., Config], tmp_path: Path) -> None:
    """The optimizer's moments lie elsewhere then."""
    overrides = ("trainer.total_env_steps=2560", "optimizer=adam")
    graphs, eager = (
        build(toy(*overrides, f"trainer.compile={compiling}"), tmp_path / compiling)
        for compiling in (kind, "none")
    )
    for trainer in graphs, eager:
        for _ in range(4):
            trainer.iterate()
        state = deepcopy(trainer.state_dict())
        for _ in range(2):
            trainer.iterate()
        trainer.load_state_dict(state)
        for _ in range(4):
            trainer.iterate()
    assert {work.notice for work in graphs.compiling} == {None}
    assert torch.equal(graphs.learner.flat.vector, eager.learner.flat.vector)


class Showing:
    """What it shows of every other call is a constant that it keeps as well."""

    def __init__(self) -> None:
        self.nothing = torch.full((2,), float("nan"))
        self.shown = {"number": self.nothing}

    def show(self, number: Tensor, wanted: bool) -> Tensor:
        self.shown = {"number": number * 2 if wanted else self.nothing}
        return self.shown["number"] + 0.0


def test_nothing_is_written_back_to_memory_that_somebody_else_has_too(kind: Kind) -> None:
    eager, showing = Showing(), Showing()
    graphs = {
        wanted: Graphed(kind, "showing", partial(showing.show, wanted=wanted), [showing], CPU)
        for wanted in (False, True)
    }
    graphed = Graphed(kind, "showing", lambda number: showing.show(number, wanted), [showing], CPU)
    for i in range(12):
        wanted = i % 2 == 0
        number = torch.tensor([1.0, i])
        expected = eager.show(number, wanted)
        torch.testing.assert_close(graphed(wanted, number), expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(graphs[wanted](None, number), expected, rtol=0, atol=0, equal_nan=True)
        assert showing.nothing.isnan().all()
    assert all(graph.compiling.notice is None for graph in (graphed, *graphs.values()))


SMALL = (
    "policy.hidden_sizes=[8]",
    "env.num_envs=8",
    "device=cpu",
    "threads=1",
    "trainer.batch.rollout_steps=4",
)
ENVS = ("topology_spawn", "synthetic", "platform", "moving", "sliding", "hard_move", "catch_point")
ITERATIONS = 6


def trained(overrides: list[str], folder: Path) -> tuple[Trainer, list[dict[str, float]]]:
    trainer = build(compose(overrides), folder)
    metrics = [trainer.iterate() for _ in range(ITERATIONS)]
    return trainer, [{k: v for k, v in f.items() if not k.startswith("time/")} for f in metrics]


@pytest.mark.parametrize("env", ENVS)
def test_a_run_of_graphs_is_the_run_without(kind: Kind, env: str, tmp_path: Path) -> None:
    """Bit for bit, metrics too; `measure_every` 3 of 4 × 2 updates, and audits, need several graphs."""
    audit_every = 5 if env in ("synthetic", "moving") else 0
    overrides = [f"env={env}", *SMALL, "trainer.batch.num_minibatches=2", "trainer.batch.update_epochs=4"]
    overrides += [
        f"trainer.gradient_scaling.{key}"
        for key in ("measure_every=3", f"audit_every={audit_every}", "warmup_steps=9")
    ]
    graphs, metrics = trained([*overrides, f"trainer.compile={kind}"], tmp_path / "graphs")
    assert {work.notice for work in graphs.compiling} == {None}
    assert summarize(graphs).compile_seconds > 0.0
    eager, expected = trained(overrides, tmp_path / "eager")
    assert eager.compiling == []
    assert metrics == expected
    assert torch.equal(graphs.learner.flat.vector, eager.learner.flat.vector)
    mine, theirs = graphs.state_dict(), eager.state_dict()
    for part in ("collector", "learner"):
        for one, other in zip(tree_leaves(mine[part]), tree_leaves(theirs[part]), strict=True):
            assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def test_epochs_end_early_where_they_do_without_graphs(kind: Kind, tmp_path: Path) -> None:
    """A divergence that the next replay wrote over would end them elsewhere."""
    overrides = ["env=moving", *SMALL, "trainer.batch.num_minibatches=4", "trainer.batch.update_epochs=4"]
    overrides += [
        "optimizer.learning_rate=0.01",
        "trainer.target_kl=0.01",
        "trainer.gradient_scaling.measure_every=3",
    ]
    graphs, metrics = trained([*overrides, f"trainer.compile={kind}"], tmp_path / "graphs")
    eager, expected = trained(overrides, tmp_path / "eager")
    assert graphs.learner.updates == eager.learner.updates < ITERATIONS * 16
    assert metrics == expected


def test_what_made_updates_bad_is_found_as_without_graphs(
    kind: Kind, toy: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squares of value targets of 1e30 are infinite in float32."""

    def spoilt(*arguments: Any) -> tuple[Targets, Minibatch]:
        targets, samples = prepare(*arguments)
        return targets, samples._replace(returns=samples.returns * 1e30)

    def found(name: str, *overrides: str) -> tuple[float, list[str], Tensor]:
        trainer = build(toy("trainer.total_env_steps=2560", *overrides), tmp_path / name)
        for _ in range(4):
            trainer.iterate()
        with monkeypatch.context() as patch:
            patch.setattr(loop, "prepare", spoilt)
            metrics = trainer.iterate()
        return metrics["optimizer/skipped"], trainer.bad_updates, trainer.learner.flat.vector.detach()

    skipped, lines, parameters = found("graphs", f"trainer.compile={kind}")
    expected_skipped, expected_lines, expected = found("eager")
    assert (skipped, lines) == (expected_skipped, expected_lines)
    assert skipped == 4.0
    assert "term value" in lines[0]
    assert torch.equal(parameters, expected)


class CountingStage:
    """A loss stage whose weight depends on how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def losses(self, state: LossState) -> LossState:
        self.asked += 1
        return state


class WithoutTurn:
    def __init__(self) -> None:
        self.scaling = GradientScaling()

    def gradients(self, sides: Sides) -> WeightResult:
        return self.scaling.gradients(sides)


@pytest.mark.parametrize(
    ("stage", "moment", "reason"),
    [(CountingStage, "value_clipping", "CountingStage.asked"), (WithoutTurn, "gradient_scaling", "turn()")],
)
def test_a_stage_that_cannot_be_recorded_is_named(
    kind: Kind, stage: type, moment: str, reason: str, toy: Callable[..., Config], tmp_path: Path
) -> None:
    config = toy(f"trainer.compile={kind}")
    section = config.trainer.sections[moment].model_copy(
        update={"target": f"{__name__}.{stage.__name__}", "keywords": {}}
    )
    sections = {**config.trainer.sections, moment: section}
    config = config.model_copy(update={"trainer": config.trainer.model_copy(update={"sections": sections})})
    trainer = build(config, tmp_path)
    for _ in range(3):
        trainer.iterate()
    assert reason in trainer.learner.compiling[0].notice
    assert {work.notice for work in trainer.collector.compiling} == {None}


def test_on_the_cpu_the_run_goes_on_and_says_why(
    toy: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = build(toy("trainer.compile=cudagraphs"), tmp_path / "graphs")
    assert trainer.train().status == "finished"
    out = capsys.readouterr().out
    assert "WARNING: trainer.compile = cudagraphs: the update: not compiled" in " ".join(out.split())
    assert "CUDA graphs need cuda" in " ".join(out.split())
    eager = build(toy(), tmp_path / "eager")
    eager.train()
    assert torch.equal(trainer.learner.flat.vector, eager.learner.flat.vector)


def test_several_processes_stand_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equipoise.trainer.system.distributed.world_size", lambda: 2)
    assert cuda_graphs.obstacle(torch.device("cuda")) == "there are several processes"
    assert compiled_graphs.obstacle(CPU) == "there are several processes"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("env", [*ENVS, "goal"])
def test_on_cuda_graphs_teach_the_same(env: str, tmp_path: Path) -> None:
    overrides = [f"env={env}", *SMALL[:2], "device=cuda", "trainer.batch.num_minibatches=2"]
    graphs, metrics = trained([*overrides, "trainer.compile=cudagraphs"], tmp_path / "graphs")
    assert {work.notice for work in graphs.compiling} == {None}
    eager, expected = trained(overrides, tmp_path / "eager")
    torch.testing.assert_close(graphs.learner.flat.vector, eager.learner.flat.vector, rtol=1e-3, atol=1e-4)
    assert metrics[-1].keys() == expected[-1].keys()
