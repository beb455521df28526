"""`equipoise tune`: several real workers, one of them killed; all trials are accounted for, and none is done twice."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.scripts import tune
from equipoise.scripts.tuning.space import held
from equipoise.trainer.configuration.compose import compose
from tests.conftest import TOY
from tests.forked import Command
from tests.reliability.processes import lines, summary

optuna = pytest.importorskip("optuna", reason="needs: pip install -e '.[tune]'")

SPACE = {
    "optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "policy.hidden_sizes": ["[4]", "[8]"],
    "trainer.batch.update_epochs": {"low": 1, "high": 2},
}
SMALL = (
    *(a for a in TOY if not a.startswith(("trainer.eval_every", "policy.hidden", "trainer.batch.update"))),
    "trainer.batch.rollout_steps=8",
    "trainer.total_env_steps=1280",
    "trainer.eval_episodes=8",
    "trainer.final_eval_episodes=8",
)


def arguments(cwd: Path, *more: str) -> list[str]:
    (cwd / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return ["study=toy", "space=space.yaml", "evaluations=5", "finalists=1", "confirm=0", *SMALL, *more]


def start(cwd: Path, arguments: list[str]) -> Command:
    return Command(cwd, "equipoise.scripts.tune", *arguments, merged=True)


def studied(storage: Any) -> Any:
    return optuna.load_study(study_name="toy", storage=storage)


def journal(path: Path) -> Any:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_two_workers_of_which_one_is_killed(tmp_path: Path, storage: str) -> None:
    given = arguments(tmp_path, "trials=8", *(["storage=toy.db"] if storage == "sqlite" else []))
    first, second = start(tmp_path, given), start(tmp_path, given)
    folder = tmp_path / "runs" / "tune" / "toy"
    deadline = time.monotonic() + 120
    begun = lambda: [p for p in folder.glob("trial-*") if (p / "checkpoints" / "last.pt").exists()]  # noqa: E731
    while len(begun()) < 2 and time.monotonic() < deadline and first.process.is_alive():
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    killed, other = first.end(), second.end(240)
    assert (killed.code, other.code) == (-signal.SIGKILL, 0), killed.output + other.output
    third = start(tmp_path, given).end(240)  # nothing is left to do, or what the killed one left last
    assert third.code == 0, third.output
    study = studied(
        f"sqlite:///{tmp_path / 'toy.db'}" if storage == "sqlite" else journal(folder / "journal.log")
    )
    states = [trial.state.name for trial in study.trials]
    assert len(states) == 8
    assert set(states) <= {"COMPLETE", "PRUNED"}, states
    for trial in study.trials:
        run_dir = folder / f"trial-{trial.number:05d}"
        found, rows = summary(run_dir), lines(run_dir)
        assert found["status"] == "finished"
        assert [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))
        if trial.state.name == "COMPLETE":
            assert (len(rows), trial.value) == (20, found["return_mean"])
            assert sorted(trial.intermediate_values) == [1, 2, 3, 4, 5]
        else:
            assert found["stopped"].startswith("Pruning: after part")
            assert len(rows) == 4 * len(trial.intermediate_values)
    told = killed.output + other.output + third.output
    told_of = [line.split()[1] for line in told.splitlines() if line.startswith("trial ")]
    assert len(told_of) == len(set(told_of))
    assert "8 trials:" in (folder / "report.md").read_text()
    best = compose([f"hydra.searchpath=[file://{folder}]", *SMALL, "experiment=toy"])
    assert best.optimizer.learning_rate == study.best_params["optimizer.learning_rate"]


def test_a_worker_that_hangs_is_taken_over_and_harms_nothing_when_it_wakes(tmp_path: Path) -> None:
    given = arguments(tmp_path, "trials=2", "hung=5")
    first = start(tmp_path, given)
    folder = tmp_path / "runs" / "tune" / "toy"
    deadline = time.monotonic() + 120
    while not list(folder.glob("trial-*/checkpoints/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)
    stopped_at = summary_rows(folder / "trial-00000")
    other = start(tmp_path, given).end(240)
    assert other.code == 0, other.output
    done = {path.name: (path / "summary.json").read_bytes() for path in folder.glob("trial-*")}
    assert len(done) == 2
    os.kill(first.pid, signal.SIGCONT)
    woken = first.end(240)
    assert woken.code == 0, woken.output
    assert stopped_at < 20, "the first trial was on its way"
    told = [
        line.split()[1] for line in (other.output + woken.output).splitlines() if line.startswith("trial ")
    ]
    assert sorted(told) == ["0", "1"]
    for name, before in done.items():
        assert (folder / name / "summary.json").read_bytes() == before
        rows = [row["iteration"] for row in lines(folder / name)]
        assert rows == list(range(1, len(rows) + 1))
    assert {t.state.name for t in studied(journal(folder / "journal.log")).trials} <= {"COMPLETE", "PRUNED"}


def summary_rows(run_dir: Path) -> int:
    return len(lines(run_dir)) if (run_dir / "metrics.jsonl").exists() else 0


def test_a_trial_that_fails_is_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments(tmp_path, "trials=2", "storage=toy.log")
    given = [a.replace("tests.toy_env.ToyEnv", "tests.reliability.disturbed.FaultyEnv") for a in given]
    assert tune.main([*given, "env.fault=raise", "env.at=3"]) == 0
    study = studied(journal(tmp_path / "toy.log"))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]
    assert "none is complete" in capsys.readouterr().out


def test_it_ends_with_the_best_settings_against_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments(tmp_path, "trials=2", "storage=toy.log", "confirm=2")
    assert tune.main(given) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told[2:6]] == [
        f"{a}, seed {s}" for s in (101, 102) for a in ("default", "tuned")
    ]
    folder = tmp_path / "runs" / "tune" / "toy"
    report = (folder / "report.md").read_text()
    assert "| default (baseline) | the study's own settings |" in report
    assert "steps to" not in report, "the toy has no expert, of whose score the threshold would be a share"
    best = studied(journal(tmp_path / "toy.log")).best_trial
    configs = {
        p.name: yaml.safe_load((p / "config.yaml").read_text()) for p in (folder / "confirm").iterdir()
    }
    assert set(configs) == {
        f"{arm}-s{seed}" for seed in (101, 102) for arm in ("default", f"trial-{best.number:05d}")
    }
    for name, config in configs.items():
        assert config["seed"] == int(name[-3:])
        rate, sizes = best.params["optimizer.learning_rate"], best.params["policy.hidden_sizes"]
        same = config["optimizer"]["learning_rate"] == rate
        # The first trial begins at the default's rate; its layers are never the default's.
        same &= config["policy"]["encoder"]["hidden_sizes"] == yaml.safe_load(sizes)
        assert same == name.startswith("trial-")
    page = (folder / "report.html").read_text()
    assert f"trial {best.number}" in page
    assert str(rate) not in page.partition("Is it learning?")[0], "groups have short names"
    assert (folder / "confirmed.png").exists()
    assert (folder / "trials.png").exists()
    assert tune.main(given) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if "seed 10" in line], (
        "nothing is done twice"
    )


def test_the_finalist_with_the_best_mean_is_named_and_not_the_luckiest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments(tmp_path, "trials=3", "storage=toy.log", "finalists=2")
    assert tune.main(given) == 0
    study, folder = studied(journal(tmp_path / "toy.log")), tmp_path / "runs" / "tune" / "toy"
    first, second = sorted((t for t in study.trials if t.value is not None), key=lambda t: -t.value)[:2]
    runs = {path.name: path for path in (folder / "finalists").iterdir()}
    assert set(runs) == {f"trial-{t.number:05d}-s{seed}" for t in (first, second) for seed in (51, 52)}
    config = yaml.safe_load((runs[f"trial-{first.number:05d}-s52"] / "config.yaml").read_text())
    assert config["optimizer"]["learning_rate"] == first.params["optimizer.learning_rate"]
    for trial, score in ((first, 0.0), (second, 1.0)):  # as if the best trial had been lucky
        for seed in (51, 52):
            path = runs[f"trial-{trial.number:05d}-s{seed}"] / "summary.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "return_mean": score}))
    capsys.readouterr()
    assert tune.main(given) == 0
    assert f"Best: trial {second.number} with {(second.value + 2.0) / 3:.4g}" in capsys.readouterr().out
    experiment = yaml.safe_load((folder / "experiment" / "toy.yaml").read_text())
    assert experiment["optimizer"]["learning_rate"] == second.params["optimizer.learning_rate"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["storage=postgresql://nobody@127.0.0.1:1/x"], "storage = postgresql://"),
        (["space=spce.yaml"], "space = spce.yaml: no file that can be read"),
        (["trials=0"], "trials = '0': must be"),
        (["storage=/proc/none/x.log"], "storage = /proc/none/x.log: "),
        (["folder=space.yaml/x"], "folder = space.yaml/x: space.yaml is no folder that can be written to"),
        (["loggers=[tensorbord]"], "there is no such logger; did you mean tensorboard?"),
        (["trainer.eval_every=3"], "use folder=, trials= and evaluations="),
        (["study=../other"], "study = '../other': must be letters, digits, . _ and -"),
        (["trainer.gama=0.9"], "did you mean trainer.gamma?"),
        (["trails=3"], "trails = '3': unknown key; did you mean trials?"),
    ],
)
def test_mistakes_are_one_message_before_the_first_trial(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tune.main(arguments(tmp_path, *more)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("trial-*"))


def test_without_optuna_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "find_spec", lambda name: None)
    assert tune.main(arguments(tmp_path)) == 2
    assert "[tune]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"optimizer.learning_rte": [0.1]}, "did you mean optimizer.learning_rate?"),
        ({"trainer.gamma": {"low": 0.9}}, "{low, high} with log or step, or a list of choices"),
        ({"trainer.gamma": {"low": "1e-4", "high": 1.0}}, "YAML reads 1e-4 as text"),
        ({"trainer.gamma": {"low": 0.0, "high": 1.0, "log": True}}, "above 0 where log is true"),
        (
            {"trainer.gamma": {"low": 0.5, "high": 1.0, "log": True, "step": 0.1}},
            "and without step",
        ),
        ({"trainer.gamma": {"low": 0.5, "high": 1.0, "log": "yes"}}, "or log is false"),
        ({"trainer.gamma": {"low": 0.5, "high": 1.0, "step": 0}}, "with a step above 0"),
        ({"trainer.gamma": {"low": False, "high": True}}, "a range of numbers"),
        ({"trainer.total_env_steps": [64, 128]}, "all its keys are typed"),
        ({"policy.hidden_sizes": [[8, 8]]}, "numbers or text, as one types them"),
        ({"trainer.gamma": {"low": 0.5, "high": 7.0}}, "trainer.gamma = 7.0: must be"),
        ({"trainer.gamma": [0.5, 7.0, 0.9]}, "trainer.gamma = 7.0: must be"),
    ],
)
def test_a_wrong_space_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    entry: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments(tmp_path)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(entry))
    assert tune.main(given) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("steps", "said"), [([16, 14], "[tune]"), ([16, 8], "num_minibatches = 7")])
def test_a_choice_that_only_fits_beside_others_is_not_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    steps: list[int],
    said: str,
) -> None:
    """Seven minibatches divide a rollout of 8 × 14 steps, and not one of the default or of 8 × 16."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "find_spec", lambda name: None)  # what comes after the space
    space = {"trainer.batch.rollout_steps": steps, "trainer.batch.num_minibatches": [2, 7, 1]}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    assert tune.main(["study=toy", "space=space.yaml", "env.num_envs=8"]) == 2
    assert said in capsys.readouterr().err


def test_what_is_typed_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tune.main(arguments(tmp_path, "trials=1", "optimizer.learning_rate=0.004", "storage=toy.log")) == 0
    (trial,) = studied(journal(tmp_path / "toy.log")).trials
    assert set(trial.params) == {*SPACE} - {"optimizer.learning_rate"}
    (run,) = (tmp_path / "runs" / "tune" / "toy").glob("trial-*")
    assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["learning_rate"] == 0.004


def test_a_study_of_another_space_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tune.main(arguments(tmp_path, "trials=1")) == 0
    given = arguments(tmp_path, "trials=1")
    other = {**SPACE, "trainer.batch.update_epochs": {"low": 1, "high": 3}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(other))
    assert tune.main(given) == 2
    told = capsys.readouterr().err
    assert "study = toy: it was begun with space = {'trainer.batch.update_epochs': {'high': 2, " in told
    assert "policy.hidden_sizes" not in told, "what is the same need not be read"


def test_the_first_trial_is_what_one_has_without_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments(tmp_path, "trials=1", "policy.hidden_sizes=[8]", "trainer.batch.update_epochs=3")
    (tmp_path / "space.yaml").write_text(
        yaml.safe_dump(
            {
                "optimizer.learning_rate": {"low": 1e-6, "high": 1.0},
                "trainer.gamma": [0.5, "null", 0.99],
                "trainer.clip_epsilon": {"low": 0.5, "high": 0.9},  # without the default
            }
        )
    )
    assert tune.main(given) == 0
    (trial,) = studied(journal(tmp_path / "runs/tune/toy/journal.log")).trials
    default = compose(list(SMALL))
    assert trial.state.name == "COMPLETE"
    assert trial.params["optimizer.learning_rate"] == default.optimizer.learning_rate
    assert trial.params["trainer.gamma"] == default.trainer.gamma
    assert 0.5 <= trial.params["trainer.clip_epsilon"] <= 0.9


def test_the_settings_that_a_space_holds_are_found_as_it_writes_them() -> None:
    config = compose([*TOY, "trainer.gamma=null", "policy.hidden_sizes=[8,4]"])
    space = {
        "trainer.gamma": [0.9, "null"],
        "policy.hidden_sizes": ["[4]", "[8, 4]"],
        "trainer.batch.update_epochs": {"low": 2, "high": 9},
        "trainer.batch.num_minibatches": {"low": 8, "high": 9},
        "trainer.gae_lambda": [0.5],
    }
    assert held(space, config) == {
        "trainer.gamma": "null",
        "policy.hidden_sizes": "[8, 4]",
        "trainer.batch.update_epochs": 2,
    }


def test_the_space_that_comes_with_us_fits_the_default() -> None:
    """All lowest and all highest values together, and every choice by itself."""
    from equipoise.scripts.tuning.space import examples, read

    space = read("ppo")
    each = [
        [f"{key}={choice}"] for key, entry in space.items() if isinstance(entry, list) for choice in entry
    ]
    for overrides in [*(first for first, *_ in examples(space)), *each]:
        compose(overrides)
