"""The study of weightings: what its arms and tasks configure, and what its tables say."""

from __future__ import annotations

from pathlib import Path

from test_regret import result

from equipoise.scripts.balance import ARMS, DISTURBED, REFERENCES, TASKS, UNDISTURBED, body
from equipoise.scripts.studies.tasks import jobs_of


def test_every_arm_is_what_its_name_says(tmp_path: Path) -> None:
    jobs = jobs_of([task for task in TASKS if task.name == UNDISTURBED], ARMS, [1], tmp_path)
    trainers = {job.arm.name: job.config["trainer"] for job in jobs}
    for name, trainer in trainers.items():
        assert trainer["surrogate_size"]["enable_unit_size"] is name.startswith("unit")
        adaptive = name not in (*REFERENCES, "unit", "unit_even")
        assert trainer["gradient_scaling"]["enable_adaptive_scaling"] is adaptive
        assert trainer["gradient_scaling"]["scaling_exponent"] == (0.5 if name == "unit_half" else 1.0)
        assert trainer["gradient_scaling"]["balance_on"] == ("signal" if name == "signal" else "norm")
        even = name in ("fixed_0.5", "unit_even")
        assert trainer["policy_loss_weights"]["discrete_weight"] == (0.5 if even else 0.7)


def test_a_wrong_factor_comes_before_the_stage_that_takes_it_away(tmp_path: Path) -> None:
    for job in jobs_of(DISTURBED, {"unit": ARMS["unit"]}, [1], tmp_path):
        stages = job.config["trainer"]["stages"]
        assert stages.index("discrete_loss_factor") < stages.index("surrogate_size")
        assert stages.index("surrogate_size") < stages.index("entropy_regularization")


def test_tasks_compose_with_their_own_environments(tmp_path: Path) -> None:
    jobs = jobs_of(TASKS, {"fixed_0.7": ARMS["fixed_0.7"]}, [1], tmp_path)
    ids = {job.env: job.config["env"].get("id") for job in jobs}
    assert ids["gripper"].endswith("suite/Gripper-v0")
    assert len({str(job.config) for job in jobs}) == len(TASKS)


def test_what_is_better_and_what_is_the_same_is_said() -> None:
    """Ten runs that win every pair are better; with a factor the same runs are the same."""
    runs = []
    for seed in range(10):
        for arm, score in (("fixed_0.7", 0.2), ("unit", 0.8)):
            for task in (UNDISTURBED, *(task.name for task in DISTURBED)):
                runs.append(result(task, arm, seed, score + 0.001 * seed))
    text = body(runs, [], "balance")
    tasks = ", ".join([UNDISTURBED, *(task.name for task in DISTURBED)])
    assert f"| unit | fixed_0.7 | 4 of 4 | {tasks} | – |" in text
    assert "| unit | +0.000, p 0.000 |" in text
    worse = body([r for r in runs if r.env == UNDISTURBED or r.arm == "unit"], [], "balance")
    assert "| fixed_0.7 |" not in worse.partition("## A factor")[2]
