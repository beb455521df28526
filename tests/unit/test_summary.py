"""`metrics.jsonl` and `summary.json`: always valid JSON, never a doubled or a missing line."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path

import pytest

from equipoise.trainer.monitor import summary
from equipoise.trainer.monitor.summary import MetricsFile, Summary, git_revision, versions


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line, parse_constant=refuse_constant) for line in path.read_text().splitlines()]


def write(path: Path, iterations: range, resume_iteration: int | None = None, mark: float = 0.0) -> None:
    file = MetricsFile(path, resume_iteration)
    for iteration in iterations:
        file.write(iteration, 100 * iteration, {"mark": mark})
    file.sync()
    file.close()


def test_one_line_an_iteration_readable_at_once(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "new" / "metrics.jsonl")
    file.write(1, 2048, {"episode/return": -1.5, "loss/kl": math.nan, "a": math.inf, "b": -math.inf})
    assert lines(tmp_path / "new" / "metrics.jsonl") == [
        {"iteration": 1, "env_steps": 2048, "episode/return": -1.5, "loss/kl": None, "a": None, "b": None}
    ]
    file.close()


@pytest.mark.parametrize("torn", ["", '{"iteration": 11, "env_st', '{"iteration": 5}'])
def test_resume_neither_doubles_nor_loses_a_step(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 11))
    with path.open("a") as file:
        file.write(torn)
    write(path, range(7, 13), resume_iteration=6, mark=1.0)
    assert [line["iteration"] for line in lines(path)] == list(range(1, 13))
    assert [line["mark"] for line in lines(path)] == [0.0] * 6 + [1.0] * 6


def test_resume_with_a_torn_line_and_nothing_to_remove(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 4))
    with path.open("a") as file:
        file.write('{"iteration"')
    write(path, range(4, 6), resume_iteration=3)
    assert [line["iteration"] for line in lines(path)] == [1, 2, 3, 4, 5]


def test_a_damaged_line_in_the_middle_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 6))
    path.write_text(path.read_text().replace('{"iteration": 3', '{"iter\x00'))
    write(path, range(5, 6), resume_iteration=4)
    kept = [re.search(r'"iteration": (\d)', line) for line in path.read_text().splitlines()]
    assert [match and int(match[1]) for match in kept] == [1, 2, None, 4, 5]


def test_resume_where_there_is_no_file_and_a_new_run_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 3), resume_iteration=0)
    write(path, range(1, 2), mark=1.0)
    assert lines(path) == [{"iteration": 1, "env_steps": 100, "mark": 1.0}]


def test_the_summary_has_every_key_and_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    Summary.of({"status": "finished", "return_mean": math.nan, "clock": 2.5, "best": math.inf}).write(path)
    written = json.loads(path.read_text(), parse_constant=refuse_constant)
    assert (written.pop("status"), written.pop("clock"), written.pop("versions")) == ("finished", 2.5, {})
    assert {"env_steps", "normalized_score", "balance_ratio", "git_revision", "best"} <= written.keys()
    assert all(value is None for value in written.values())


def test_a_summary_is_read_as_it_was_written(tmp_path: Path) -> None:
    summary = Summary("failed", "OSError: no map", "goal", seed=3, return_mean=1.5, metrics={"clock": 2.5})
    summary.write(tmp_path / "summary.json")
    assert Summary.read(tmp_path / "summary.json") == summary
    assert json.loads((tmp_path / "summary.json").read_text())["clock"] == 2.5


def test_a_metric_of_the_environment_cannot_displace_a_key() -> None:
    assert Summary.of({"status": "finished", "metrics": 7.0}).metrics == {"metrics": 7.0}


def test_runs_are_ranked_by_their_score_or_else_by_their_return() -> None:
    scored, unscored = (
        Summary("finished", normalized_score=0.5, return_mean=9.0),
        Summary("finished", return_mean=9.0),
    )
    assert (scored.score_name, scored.score) == ("normalized_score", 0.5)
    assert (unscored.score_name, unscored.score) == ("return_mean", 9.0)
    sampled = Summary("finished", best_by="sampled", return_mean=9.0, sampled_return_mean=7.0)
    assert (sampled.score_name, sampled.score) == ("sampled_return_mean", 7.0)


def test_the_summary_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    Summary("interrupted").write(path)
    with path.open() as reader:  # opened before, read after
        Summary("finished").write(path)
        assert json.load(reader)["status"] == "interrupted"
    assert json.loads(path.read_text())["status"] == "finished"
    assert os.listdir(tmp_path) == ["summary.json"]


def test_versions_name_what_is_installed_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "_PACKAGES", ("torch", "no-such-package"))
    found = versions()
    assert found["python"] is not None
    assert found["torch"] is not None
    assert found["no-such-package"] is None


def test_git_revision_outside_git_and_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    revision = git_revision()
    assert revision is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", revision)
    outside = tmp_path / "summary.py"
    shutil.copy(summary.__file__, outside)
    with monkeypatch.context() as patch:
        patch.setattr(summary, "__file__", str(outside))
        assert git_revision() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision() is None
