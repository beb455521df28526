"""What TensorBoard serves of a run that was killed and resumed: real servers, asked over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tbparse

from equipoise.scripts.dashboard import HOST, free_port
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.monitor import layout
from equipoise.trainer.monitor.run_log import RunLog
from equipoise.trainer.monitor.tensorboard import TensorBoardLog
from tests.reliability.processes import Run, lines, run, toy

LOADERS = ("--load_fast=auto", "--load_fast=false")
"""The default loader, and the one in Python: the only one where TensorBoard's data server has no binary."""

Ask = Callable[..., Any]


@contextmanager
def server(logdir: Path, *flags: str) -> Iterator[Ask]:
    """`ask(path, key=value, …)`: the JSON that a TensorBoard over `logdir` answers with; with `body`, to a POST."""
    port = free_port(0)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--reload_interval", "1"]
    command += ["--host", HOST, "--port", str(port), "--samples_per_plugin", "scalars=9999,images=99,text=99"]
    process = subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(path: str, body: Any = None, **query: str) -> Any:
        url = f"http://{HOST}:{port}/data/{path}?{urllib.parse.urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    try:
        yield ask
    finally:
        process.terminate()
        process.wait()


def until(find: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """What `find` finds once it is `wanted`, or after a minute; a server that is not there yet has nothing."""
    deadline = time.monotonic() + 60.0
    while True:
        try:
            found = find()
        except OSError:  # not open yet, or a tag that is not loaded yet
            found = None
        if (found and wanted(found)) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def scalars(ask: Ask, tag: str) -> list[tuple[int, float]]:
    return [(step, value) for _, step, value in ask("plugin/scalars/scalars", run="run", tag=tag)]


def all_scalars(ask: Ask, tag: str, last: int) -> dict[str, list[tuple[int, float]]]:
    """Every tag's points, once `tag` has one at the step `last`."""
    until(lambda: scalars(ask, tag), lambda points: points[-1][0] == last)
    return {tag: scalars(ask, tag) for tag in ask("plugin/scalars/tags")["run"]}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above a run that was killed between two checkpoints, resumed, finished, and extended.

    The resumed run makes no evaluations: tags of the dead branch which are not written again must go, too.
    """
    folder = tmp_path_factory.mktemp("runs")
    run_dir = folder / "run"
    steps = ("trainer.total_env_steps=6400", "trainer.checkpoint_every=5", "trainer.eval_every=1")
    killed = Run(folder, *toy(run_dir, *steps))
    until(lambda: len(lines(run_dir)), lambda count: count >= 8 and count % 5 >= 2)
    killed.process.kill()
    killed.process.join()
    assert len(lines(run_dir)) < 100
    for total in (3200, 3520):
        ended = run(folder, f"resume={run_dir}", "trainer.eval_every=0", f"trainer.total_env_steps={total}")
        assert ended.code == 0, ended.output
    return folder


def expected(run_dir: Path) -> dict[str, list[int]]:
    """Tag -> the steps at which `metrics.jsonl` has it; an evaluation comes before and after them, too."""
    steps: dict[str, list[int]] = {}
    for row in lines(run_dir):
        for tag, value in row.items():
            if value is not None:
                steps.setdefault(tag, []).append(row["env_steps"])
    evaluated = {tag: [0, *found, 3520] for tag, found in steps.items() if tag.startswith("evaluation/")}
    return {tag: found for tag, found in (steps | evaluated).items() if tag not in ("iteration", "env_steps")}


@pytest.mark.parametrize("loader", LOADERS)
def test_every_step_is_there_once(resumed: Path, loader: str) -> None:
    with server(resumed, loader) as ask:
        found = all_scalars(ask, "loss/kl", 3520)
        films = [
            image["step"]
            for image in ask("plugin/images/images", run="run", tag="episode/deterministic_policy")
        ]
        texts = [text["step"] for text in ask("plugin/text/text", run="run", tag="run/config")]
    wanted = expected(resumed / "run")
    assert len(wanted["loss/kl"]) == 55
    assert 3 <= len(wanted["evaluation/return"]) < 55
    for tag, steps in wanted.items():
        assert [step for step, _ in found[tag]] == steps, tag
    assert [step for step, _ in found["final/return_mean"]] == [3520]
    assert films == sorted(set(films)) != []
    assert texts == sorted(set(texts)) != []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pandas, about tbparse
def test_tbparse_reads_every_step_once(resumed: Path) -> None:
    table = tbparse.SummaryReader(str(resumed / "run")).scalars
    assert not table.duplicated(["tag", "step"]).any()
    wanted = expected(resumed / "run")
    for tag, steps in wanted.items():
        assert table[table.tag == tag].step.tolist() == steps, tag


@pytest.mark.parametrize("loader", LOADERS)
def test_a_tensorboard_that_is_open_all_the_time_shows_the_new_branch(tmp_path: Path, loader: str) -> None:
    log = TensorBoardLog(tmp_path / "run")
    for step in range(1, 9):
        log.scalars({"a": 1.0}, step)
    log.close()
    with server(tmp_path, loader) as ask:
        until(lambda: scalars(ask, "a"), lambda points: len(points) == 8)
        log = TensorBoardLog(tmp_path / "run", env_steps=5)
        log.scalars({"a": 2.0}, 6)
        log.flush()
        found = until(lambda: scalars(ask, "a"), lambda points: points[-1] == (6, 2.0))
        log.close()
    assert found == [(step, 1.0) for step in range(1, 6)] + [(6, 2.0)]


@pytest.mark.parametrize("loader", LOADERS)
def test_a_band_survives_an_infinite_norm(tmp_path: Path, loader: str) -> None:
    log = TensorBoardLog(tmp_path / "run")
    for step, largest in enumerate([3.0, np.inf, 3.0], 1):
        log.scalars(
            {tag: 1.0 if tag.endswith("_min") else largest for band in layout.BANDS for tag in band}, step
        )
    log.close()
    with server(tmp_path, loader) as ask:
        found = all_scalars(ask, layout.BANDS[0].value, 3)
    for band in layout.BANDS:
        assert [[step for step, _ in found[tag]] for tag in band] == [[1, 3]] * 3


@pytest.mark.parametrize("loader", LOADERS)
def test_what_was_typed_tells_runs_apart_on_the_hparams_page(tmp_path: Path, loader: str) -> None:
    """TensorBoard takes the columns from one of the runs, whichever it reads first."""
    typed = {
        "a": [],
        "b": ["optimizer.learning_rate=1e-3"],
        "c": ["optimizer.learning_rate=3e-4", "policy.encoder.hidden_sizes=[32,32]", "batch=debugging"],
    }
    for name, overrides in typed.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("")
        with RunLog(compose(overrides), folder, 0, 0, 1000, 1) as log:
            log.record(1, 1000, {"evaluation/score": 0.5})
    with server(tmp_path / "runs", loader) as ask:
        until(lambda: ask("runs"), lambda runs: len(runs) == 3)
        everything = {"experimentName": "", "allowedStatuses": ["STATUS_UNKNOWN"], "sliceSize": 9}
        groups = until(
            lambda: ask("plugin/hparams/session_groups", everything)["sessionGroups"],
            lambda found: len(found) == 3,
        )
        columns = [
            info["name"] for info in ask("plugin/hparams/experiment", {"experimentName": ""})["hparamInfos"]
        ]
    values = [group["hparams"] for group in sorted(groups, key=lambda group: group["name"])]
    assert [row["optimizer.learning_rate"] for row in values][1:] == [0.001, 0.0003]
    assert values[2]["policy.encoder.hidden_sizes"] == "[32, 32]"
    assert values[2]["batch"] == "debugging"
    assert {"optimizer.learning_rate", "policy.encoder.hidden_sizes", "seed", "preset"} <= set(columns)
