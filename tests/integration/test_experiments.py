"""Studies of tiny real runs: what they train, skip, resume, refuse and report."""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from equipoise.scripts import ablate, compare
from equipoise.scripts.reporting.ending import Job, conclude
from equipoise.scripts.studies.experiments import (
    Arm,
    environments,
    integers,
    plan,
    state_of,
    without_repetition,
)
from equipoise.scripts.studies.parallel import run
from equipoise.scripts.studies.results import load
from equipoise.trainer.configuration.errors import ConfigError
from tests.forked import Command, popen

SMALL = (
    "env.num_envs=8",
    "env.max_steps=12",
    "policy.hidden_sizes=[8]",
    "trainer.batch.update_epochs=1",
    "trainer.batch.num_minibatches=1",
    "trainer.gradient_scaling.measure_every=1",
    "trainer.eval_every=1",
    "trainer.eval_episodes=4",
    "trainer.final_eval_episodes=4",
)
ITERATION = 8 * 16  # environment steps
DIVERGES = ("optimizer.learning_rate=1e30", "trainer.max_bad_updates=1")


def arm_option(name: str, *overrides: str) -> str:
    return f"--arm={name}={','.join([*SMALL, *overrides])}"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], int]:
    """Two arms that train and one that cannot: (folder of the runs, command, exit status)."""
    out = tmp_path_factory.mktemp("study")
    command = [
        arm_option("adaptive"),
        arm_option("fixed", "preset=debug"),
        arm_option("broken", *DIVERGES),
        "--seeds=1",
        f"--steps={3 * ITERATION}",
        f"--out={out}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        return out, command, compare.main(command)


def test_a_failed_run_is_listed_with_its_reason_and_stops_nothing(study: tuple[Path, list[str], int]) -> None:
    out, _, status = study
    assert status == 1
    report = (out / "report" / "report.md").read_text()
    failed = report.partition("## Failed")[2]
    assert "topology_spawn broken s1" in failed
    assert "The run ended with an error" in failed
    for arm in ("adaptive", "fixed"):
        assert json.loads((out / "topology_spawn" / arm / "s1" / "summary.json").read_text())["status"] == (
            "finished"
        )


def test_the_report_holds_table_pictures_and_raw_numbers(study: tuple[Path, list[str], int]) -> None:
    out, _, _ = study
    folder = out / "report"
    report = (folder / "report.md").read_text()
    for name in ("learning_curves", "sample_efficiency", "balance_ratio", "scores_topology_spawn"):
        assert f"({name}.png)" in report
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{name}.svg").read_text()
    page = (folder / "report.html").read_text()
    assert "3 runs in 3 groups · 2 finished, 1 failed" in page
    assert "NonFiniteError" in page
    rows = {row["arm"]: row for row in csv.DictReader((folder / "runs.csv").open())}
    assert rows.keys() == {"adaptive", "fixed"}
    summary = json.loads((out / "topology_spawn" / "adaptive" / "s1" / "summary.json").read_text())
    assert float(rows["adaptive"]["final_score"]) == pytest.approx(summary["normalized_score"], rel=1e-4)
    table_line = next(line for line in report.splitlines() if line.startswith("| adaptive (baseline) |"))
    assert f"{summary['normalized_score']:.3f}, range " in table_line  # of one run


def test_finished_runs_are_not_trained_again(study: tuple[Path, list[str], int]) -> None:
    out, _, _ = study
    jobs = plan([Arm("adaptive", SMALL)], ["topology_spawn"], [1], 3 * ITERATION, out)
    assert [state_of(job) for job in jobs] == ["finished"]
    before = (jobs[0].folder / "summary.json").stat().st_mtime_ns
    assert run(jobs, console=Console(quiet=True)) == []
    assert (jobs[0].folder / "summary.json").stat().st_mtime_ns == before


def test_a_run_of_another_configuration_is_left_alone_and_named(study: tuple[Path, list[str], int]) -> None:
    out, _, _ = study
    jobs = plan([Arm("adaptive", (*SMALL, "trainer.gamma=0.9"))], ["topology_spawn"], [1], 3 * ITERATION, out)
    failures = run(jobs, console=Console(quiet=True))
    assert [state_of(job) for job in jobs] == ["different"]
    assert "another configuration" in failures[0].reason
    assert (jobs[0].folder / "summary.json").exists()


def test_a_report_leaves_out_runs_of_another_configuration_and_says_so(
    study: tuple[Path, list[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _, _ = study
    where = ["--seeds=1", f"--steps={3 * ITERATION}", f"--out={out}", f"--report={out / 'other'}"]
    assert compare.main([arm_option("adaptive", "trainer.gamma=0.9"), *where, "--report-only"]) == 1
    said = capsys.readouterr()
    assert "topology_spawn adaptive s1: " in said.out
    assert "another configuration" in said.out
    assert "no finished runs" in said.err
    assert not (out / "other").exists()


def test_the_learning_curve_is_the_runs_own(
    study: tuple[Path, list[str], int],
) -> None:
    result = load(study[0] / "topology_spawn" / "adaptive" / "s1", "adaptive")
    assert result is not None
    np.testing.assert_array_equal(result.steps, [ITERATION, 2 * ITERATION, 3 * ITERATION])
    assert len(result.balance) == 3
    assert result.skipped == 0


def test_ranking_puts_the_best_first_and_lists_what_failed(study: tuple[Path, list[str], int]) -> None:
    folders = {arm: study[0] / "topology_spawn" / arm / "s1" for arm in ("broken", "adaptive", "fixed")}
    scores = {
        arm: json.loads((folders[arm] / "summary.json").read_text())["normalized_score"]
        for arm in ("adaptive", "fixed")
    }
    console = Console(record=True, width=100, file=io.StringIO())
    jobs = [Job(arm, f"{arm} s1", folder) for arm, folder in folders.items()]
    conclude(jobs, study[0] / "ranked.html", "the study", console=console)
    text = console.export_text()
    order = sorted(scores, key=lambda arm: -scores[arm])
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert [row.split()[1:4] for row in rows[:2]] == [[arm, "│", "1/1"] for arm in order]
    assert rows[2].split()[1:4] == ["broken", "│", "0/1"]
    assert all(f"{score:.3f}" in text for score in scores.values())
    assert "failed: broken s1\n  NonFiniteError" in text
    assert str(folders["broken"]) in text.replace("\n", "")


def test_ranking_shows_names_as_they_were_typed_and_how_killed_runs_go_on(tmp_path: Path) -> None:
    """`[32,32]` is no markup; a killed run has no `summary.json`, and perhaps no checkpoint."""
    names = ("policy.hidden_sizes=[32,32]", "env.path=[/data]")
    for number, name in enumerate(("a b", "c")):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        config = "{seed: 1, env: {name: toy}, policy: {}, optimizer: {}, trainer: {}}"
        (tmp_path / name / "config.yaml").write_text(config)
        if number == 0:
            (tmp_path / name / "checkpoints" / "last.pt").touch()
    console = Console(record=True, width=200, file=io.StringIO())
    jobs = [
        Job(names[0], "#0", tmp_path / "a b", "stopped", [names[0]]),
        Job(names[1], "#1", tmp_path / "c", "stopped", [names[1]]),
    ]
    conclude(jobs, tmp_path / "report.html", "the study", console=console)
    text = console.export_text()
    assert all(f"│ {name}" in text for name in names)
    assert f"failed: #0\n  stopped\n  resume with: equipoise train 'resume={tmp_path}/a b'" in text
    assert "failed: #1\n  stopped\n  start again with: equipoise train 'env.path=[/data]'" in text


@pytest.mark.parametrize("option", ["--out", "--report"])
def test_a_place_that_cannot_be_written_to_is_refused_before_anything_runs(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        compare.main(["presets", option, str(tmp_path / "file" / "x")])
    assert f"{tmp_path}/file is no folder that can be written to" in capsys.readouterr().err


@pytest.mark.usefixtures("forked")
def test_an_interrupted_study_goes_on_where_it_was(tmp_path: Path) -> None:
    iterations = 40
    arm = arm_option("long", "trainer.eval_every=20")
    command = [arm, "--seeds=1", f"--steps={iterations * ITERATION}", f"--out={tmp_path}"]
    process = Command(tmp_path, "equipoise.scripts.compare", *command)
    folder = tmp_path / "topology_spawn" / "long" / "s1"
    metrics = folder / "metrics.jsonl"
    while process.process.is_alive() and not (metrics.exists() and metrics.read_text().count("\n") > 2):
        time.sleep(0.02)
    process.interrupt()
    assert process.end().code == 130
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    first = metrics.read_text().splitlines()
    assert 2 < len(first) < iterations

    assert compare.main(command) == 0
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    lines = metrics.read_text().splitlines()
    assert lines[: len(first)] == first  # not trained again
    assert [json.loads(line)["iteration"] for line in lines] == list(range(1, iterations + 1))


@pytest.mark.usefixtures("forked")
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again_and_loses_no_file(
    tmp_path: Path,
) -> None:
    (job,) = plan([Arm("short", SMALL)], ["topology_spawn"], [1], ITERATION, tmp_path)
    job.folder.mkdir(parents=True)
    (job.folder / "run.lock").write_text("")  # killed in its first second
    assert state_of(job) == "new"
    (job.folder / "config.yaml").write_text(yaml.safe_dump(job.config))
    (job.folder / "notes.txt").write_text("mine")
    assert state_of(job) == "unfinished"
    (job.folder / "run.lock").unlink()
    assert run([job], console=Console(quiet=True)) == []
    assert state_of(job) == "finished"
    assert (job.folder / "notes.txt").read_text() == "mine"


def test_seeds_and_arms_are_read_as_typed() -> None:
    assert integers("1-3,7,10-11") == [1, 2, 3, 7, 10, 11]
    arm = compare.parse_arm("a.b=trainer.stages=[x,y],preset=debug,env.kwargs={a: 1, b: 2}")
    assert arm.name == "a.b"
    assert arm.overrides == ("trainer.stages=[x,y]", "preset=debug", "env.kwargs={a: 1, b: 2}")
    assert compare.parse_arm("default=").overrides == ()


@pytest.mark.parametrize("wrong", ["3-1", "a", "1-", "-1", ""])
def test_seeds_that_are_none_are_refused(wrong: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=repr(wrong) if wrong else "none are named"):
        integers(wrong)


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ("../up=preset=debug", r"\.\./up"),
        ("..=preset=debug", r"'\.\.'"),
        ("nothing", "nothing"),
        ("a=seed=3", "seed cannot differ between arms: use --seeds"),
        ("a=+env=goal", "use --env"),
        ("a=trainer.total_env_steps=10", "use --steps"),
        ("a=hydra.run.dir=x", r"hydra\.run\.dir cannot differ"),
    ],
)
def test_arms_that_are_no_variant_are_refused(arm: str, says: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        compare.parse_arm(arm)


def test_the_environments_of_gymnasium_can_be_compared_too(tmp_path: Path) -> None:
    """Which one it is only the arm knows."""
    (job,) = plan([Arm("a", ("env.id=CartPole-v1",))], environments("gymnasium"), [1], 4096, tmp_path)
    assert job.config["env"]["id"] == "CartPole-v1"


def test_a_misspelt_override_ends_the_study_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gamma"):
        plan([Arm("wrong", ("trainer.gama=0.9",))], ["topology_spawn"], [1], 4096, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_arm_of_the_ablation_is_a_configuration_and_each_choice_has_its_default_in_it() -> None:
    kept, same = without_repetition(ablate.ARMS, "topology_spawn_hard", 150_000)
    assert {arm.name for arm in ablate.SYSTEMS} < {arm.name for arm in kept}
    assert set(same.values()) == {ablate.BASELINE}
    assert {"ratio_per_decision", "objective_alignment"} & same.keys()
    assert "document" not in same
