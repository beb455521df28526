"""Loggers: each is read back by its own library, after a run that was killed and resumed: one curve, no step twice.

Those whose package is not installed are skipped; nothing here needs a network.
"""

from __future__ import annotations

import csv
import importlib
import json
import math
import signal
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import equipoise
from equipoise import ConfigError
from equipoise.trainer.build import build
from equipoise.trainer.configuration.checking import check
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.monitor.run_log import LoggerError
from tests.integration.test_python import TINY
from tests.reliability.processes import lines, run, summary, toy
from tests.reliability.test_run_folders import SIGNALLING

Points = dict[str, list[tuple[int, float]]]


def of_csv(folder: Path, _: Path) -> Points:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tags = [tag for tag in rows[0] if tag not in ("iteration", "env_steps")]
    return {tag: [(int(row["env_steps"]), float(row[tag])) for row in rows if row[tag]] for tag in tags}


def leveldb_records(content: bytes, block: int = 32_768) -> Iterator[bytes]:
    position, data = 7, b""
    while position + 7 <= len(content):
        if (left := block - position % block) < 7:  # the rest of a block that no header fits into
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        data += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield data
            data = b""


def of_wandb(folder: Path, _: Path) -> Points:
    """Of every session's file what `wandb sync` would send: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    points: Points = {}
    ids = set()
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            items = {
                item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item
            }
            for tag, x in items.items():
                if isinstance(x, int | float) and not tag.startswith("_"):
                    points.setdefault(tag, []).append((int(items["env_steps"]), x))
    assert len(ids) == 1  # all sessions are one run
    return points


def of_mlflow(folder: Path, cwd: Path) -> Points:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{cwd}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'toy'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.params["trainer.gamma"] == "0.99"
    assert found.info.status == "FINISHED"
    return {
        tag: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, tag)]
        for tag in found.data.metrics
    }


def of_trackio(folder: Path, cwd: Path) -> Points:
    trackio = importlib.import_module("trackio")
    (name,) = trackio.SQLiteStorage.get_runs("toy")
    points: Points = {}
    for row in trackio.SQLiteStorage.get_logs("toy", name):
        for tag, x in row.items():
            if isinstance(x, int | float) and tag != "step":
                points.setdefault(tag, []).append((row["step"], x))
    return points


READERS: dict[str, Callable[[Path, Path], Points]] = {
    "csv": of_csv, "wandb": of_wandb, "mlflow": of_mlflow, "trackio": of_trackio,
}  # fmt: skip
SECTIONS = {"wandb": "{_target_:equipoise.trainer.loggers.wandb.Wandb,mode:offline}"}


@pytest.fixture(params=READERS)
def logger(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name != "csv":
        pytest.importorskip(name, reason=f"needs: pip install -e '.[{name}]'")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if name == "trackio":
        for module in ("trackio.utils", "trackio.sqlite_storage"):
            monkeypatch.setattr(importlib.import_module(module), "TRACKIO_DIR", tmp_path / "trackio")
    return name


def test_a_killed_and_resumed_run_is_one_curve(logger: str, tmp_path: Path) -> None:
    """Killed in the sixth iteration, saved after the third: the fourth and the fifth come again."""
    folder, marker = tmp_path / "run", tmp_path / "marker"
    marker.touch()
    kill = ("env.signal=SIGKILL", "env.at=43", f"env.marker={marker}", "trainer.checkpoint_every=3")
    wanted = f"loggers=[jsonl,{SECTIONS.get(logger, logger)}]"
    killed = run(tmp_path, *toy(folder, *kill, wanted, env=SIGNALLING))
    assert killed.code == -signal.SIGKILL, killed.output
    assert len(lines(folder)) == 5
    resumed = run(tmp_path, f"resume={folder}")
    assert resumed.code == 0, resumed.output
    assert "WARNING: logger" not in killed.output + resumed.output
    points, rows = READERS[logger](folder, tmp_path), lines(folder)
    assert len(rows) == 6
    for tag in ("loss/value", "evaluation/return"):
        expected = [(row["env_steps"], row[tag]) for row in rows if tag in row]
        found = points[tag]
        assert [step for step, _ in found] == [step for step, _ in expected], tag
        assert all(math.isclose(x, y, rel_tol=1e-6) for (_, x), (_, y) in zip(found, expected, strict=True))
    assert not list(folder.glob("events*"))  # which was not in the list


def test_two_runs_of_a_process_are_two(logger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [{"_target_": "equipoise.trainer.loggers.wandb.Wandb", "mode": "offline"}]
    for seed in (1, 2):
        folder = tmp_path / f"run-{seed}"
        loggers = ["jsonl", *(names if logger == "wandb" else [logger])]
        equipoise.train("CartPole-v1", folder=folder, loggers=loggers, seed=seed, progress=False, **TINY)
    if logger == "csv":
        assert all(len(of_csv(tmp_path / f"run-{seed}", tmp_path)["loss/value"]) == 2 for seed in (1, 2))
    else:
        first, second = (json.loads((tmp_path / f"run-{s}" / f"{logger}.json").read_text()) for s in (1, 2))
        assert first["run"] != second["run"]
    if logger == "wandb":
        assert all(len(of_wandb(tmp_path / f"run-{seed}", tmp_path)["loss/value"]) == 2 for seed in (1, 2))


def test_settings_that_change_what_was_sent_begin_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs: pip install -e '.[mlflow]'")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    loggers = ["jsonl", "mlflow"]
    equipoise.train("CartPole-v1", folder=folder, loggers=loggers, keep_every=1, checkpoint_every=1, progress=False, **TINY)  # fmt: skip
    first = json.loads((folder / "mlflow.json").read_text())["run"]
    earlier = folder / "checkpoints" / "iteration_00000001.pt"
    same = run(tmp_path, f"resume={earlier}")
    assert same.code == 0, same.output
    assert json.loads((folder / "mlflow.json").read_text())["run"] == first
    earlier.touch()
    other = run(tmp_path, f"resume={earlier}", "optimizer.learning_rate=0.1")
    assert other.code == 0, other.output
    assert json.loads((folder / "mlflow.json").read_text())["run"] != first


class Broken:
    """A logger of somebody's, without the base class, whose service is down."""

    def __init__(self, at: str = "scalars") -> None:
        self.at = at

    def start(self, run: Any) -> None:
        self._maybe("start")

    def scalars(self, metrics: Mapping[str, float], iteration: int, env_steps: int) -> None:
        self._maybe("scalars")

    def _maybe(self, hook: str) -> None:
        if hook == self.at:
            raise RuntimeError("no connection")


def test_a_server_that_cannot_be_reached_is_one_message(
    toy: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mlflow", reason="needs: pip install -e '.[mlflow]'")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    section = "{_target_:equipoise.trainer.loggers.mlflow.Mlflow,tracking_uri:'http://127.0.0.1:9'}"
    with pytest.raises(LoggerError, match="logger Mlflow cannot begin: MlflowException"):
        build(toy(f"loggers=[{section}]"), tmp_path).train()
    assert "WARNING" not in capsys.readouterr().out


def test_a_logger_that_fails_later_is_told_once_and_the_run_goes_on(
    toy: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(toy(f"loggers=[jsonl,{{_target_:{__name__}.Broken}}]"), tmp_path).train()
    assert capsys.readouterr().out.count("logger Broken: scalars raised RuntimeError: no connection") == 1
    assert len(lines(tmp_path)) == 2


def test_a_logger_that_cannot_begin_ends_the_run_before_it_begins(
    toy: Callable[..., Config], tmp_path: Path
) -> None:
    trainer = build(toy(f"loggers=[jsonl,{{_target_:{__name__}.Broken,at:start}}]"), tmp_path)
    with pytest.raises(LoggerError, match="logger Broken cannot begin: RuntimeError: no connection"):
        trainer.train()
    assert trainer.iteration == 0
    assert summary(tmp_path)["status"] == "failed"


@pytest.mark.parametrize(
    ("loggers", "message"),
    [
        ("[tensorbord]", "there is no such logger; did you mean tensorboard?"),
        ("wandb", "loggers = 'wandb': must be a list, such as"),
        ("[csv,csv]", "'csv' is listed twice"),
        (
            "[{_target_:equipoise.trainer.loggers.csv.Csv,file:x}]",
            "loggers[0].file = 'x': unknown key",
        ),
        ("[{_target_:collections.OrderedDict}]", "a class with a method scalars"),
    ],
)
def test_bad_loggers_are_refused_before_anything_is_built(loggers: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose([f"loggers={loggers}"])
    assert message in str(refused.value)


def test_a_package_that_is_missing_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("equipoise.trainer.configuration.loggers")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"loggers = mlflow: the package mlflow is missing; .*\[mlflow\]"):
        compose(["loggers=[jsonl,mlflow]"])


def test_names_stay_names_and_older_configurations_get_the_default() -> None:
    plain = compose(["loggers=[jsonl,csv]"]).plain()
    assert plain["loggers"] == ["jsonl", "csv"]
    del plain["loggers"]
    assert check(plain).plain()["loggers"] == ["tensorboard", "jsonl"]
