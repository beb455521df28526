"""The study of gradients through the simulator: what it configures, and what its tables say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from test_regret import result

from equipoise.scripts.pathwise import ARMS, TASKS, body
from equipoise.scripts.studies.adding import without
from equipoise.scripts.studies.results import Result, as_written, read_csv, write_csv
from equipoise.scripts.studies.tasks import jobs_of


def test_arms_differ_in_the_gradient_alone(tmp_path: Path) -> None:
    jobs = jobs_of([task for task in TASKS if task.name in ("lqr_2", "catch_point_25")], ARMS, [1], tmp_path)
    for job in jobs:
        assert job.config["trainer"].pop("continuous_gradient") == job.arm.name
    configs = {(job.env, str(job.config["trainer"]), str(job.config["env"])) for job in jobs}
    assert {env for env, *_ in configs} == {"lqr_2", "catch_point_25"}
    assert len(configs) == 2


def test_what_is_better_is_said_and_known_runs_are_not_repeated(tmp_path: Path) -> None:
    runs = [
        result("lqr_2", arm, seed, score + 0.001 * seed)
        for seed in range(10)
        for arm, score in (("score", 0.2), ("pathwise", 0.8))
    ]
    text = body(runs, [])
    assert "## lqr_2" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| pathwise |")]
    assert "**1.00" in row
    jobs = jobs_of([task for task in TASKS if task.name == "lqr_2"], ARMS, [1, 20], tmp_path)
    left = {(job.arm.name, job.seed) for job in without(jobs, runs)}
    assert left == {("auto", 1), ("score", 20), ("pathwise", 20), ("auto", 20)}


def test_pairs_of_one_seed_show_what_runs_of_all_seeds_hide() -> None:
    """Seeds differ far more than the arms do; one of them has no partner, and must not count."""
    runs = [
        result("lqr_2", arm, seed, 0.1 * seed + more + 0.001 * (seed % 2 and more > 0))
        for seed in range(1, 8)
        for arm, more in (("score", 0.0), ("auto", 0.02))
    ]
    text = body([*runs, result("lqr_2", "auto", 99, 50.0)], [])
    (pairs,) = [line for line in text.splitlines() if line.startswith("| lqr_2 | **+0.02")]
    assert "(7), p < 0.001" in pairs
    (ranks,) = [line for line in text.splitlines() if line.startswith("| auto |")]
    assert "**" not in ranks


def test_a_score_is_the_same_from_a_run_and_from_the_csv(tmp_path: Path) -> None:
    """Ranks would tell 0.9999999, of a run of today, from the 1 that a known one has become."""
    run = result("platform", "auto", 1, 0.99999988)
    write_csv(tmp_path / "runs.csv", [run])
    assert read_csv(tmp_path / "runs.csv")[0].final == as_written(run.final) == 1.0


def test_what_a_step_costs_is_told_by_runs_of_one_commit() -> None:
    """Machines and commits differ; a run whose twin is another commit's says nothing."""

    def run(arm: str, seed: int, cpu: float | None, commit: str = "a") -> Result:
        one = result("lqr_2", arm, seed, 0.5)
        numbers = {"cpu_seconds": cpu, "env_steps": 50_000, "git_revision": commit}
        return replace(one, summary=replace(one.summary, **numbers))

    runs = [run("score", seed, cpu) for seed, cpu in ((1, 10.0), (2, 20.0), (3, 30.0))]
    others = [run("auto", 1, 15.0), run("auto", 2, 30.0), run("auto", 3, 900.0, "b"), run("auto", 4, None)]
    assert "| lqr_2 | 40 (3) |  | 1.50 (2) |" in body([*runs, *others], [])
    assert "| lqr_2 | 40 (3) |" not in body([*runs, run("auto", 3, 900.0, "b")], [])
