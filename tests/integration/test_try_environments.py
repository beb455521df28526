"""`scripts.try_environments` on a package made here: installed, taken through the commands, reported, removed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from equipoise.scripts import try_environments
from equipoise.scripts.studies import alone
from equipoise.scripts.studies.environments import NEW, PACKAGES
from equipoise.scripts.studies.fresh import FRESH
from equipoise.scripts.studies.outsiders import (
    ALONE,
    AS_PUBLISHED,
    CONSTRAINTS,
    Outcome,
    attempt,
    attempt_alone,
    keep,
    read,
)
from equipoise.scripts.studies.packages import MESSAGE, README, SOURCE, Package

MODULE = """
import gymnasium
import numpy as np
from gymnasium import spaces

class Shift(gymnasium.Env):
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Tuple((spaces.Discrete(2), spaces.Box(0.0, 1.0, (1,), np.float32)))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), float(action[0]), bool(self.np_random.random() < 0.2), False, {}

class Hungry(Shift):
    def __init__(self):
        import shift_extra

gymnasium.register("Shift-v0", Shift)
gymnasium.register("Hungry-v0", Hungry)
"""
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def shift(id: str = "shift_env:Shift-v0", version: str = "1.5") -> Package:
    return Package("shift-env", version, id, "hybrid", ("env.num_envs=2",))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    for name, module in ("shift_env", MODULE), ("shift_extra", ""):
        folder = f"{name}-1.5.dist-info"
        files = {
            f"{name}.py": module,
            f"{folder}/METADATA": METADATA.format(name=name),
            f"{folder}/WHEEL": WHEEL,
        }
        record = "".join(f"{path},,\n" for path in (*files, f"{folder}/RECORD"))
        with zipfile.ZipFile(tmp_path / f"{name}-1.5-py3-none-any.whl", "w") as wheel:
            for path, text in {**files, f"{folder}/RECORD": record}.items():
                wheel.writestr(path, text)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


@pytest.mark.slow
def test_a_package_is_installed_tried_and_removed(registry: Path) -> None:
    package, out, kept = shift(), registry / "out", registry / "kept.json"
    assert read(package, out, kept) is None
    outcome = attempt(package, out, steps=512, timeout=120.0)
    assert outcome.runs, outcome.verdict
    assert {name for name, said in outcome.commands.items() if said == "ok"} >= {
        "install",
        ALONE,
        "look",
        "evaluate",
        "export",
    }
    assert "render" in outcome.commands["play"], "it has no pictures"
    assert outcome.look[0] == "observations: 2 numbers: 2"
    assert 0 < outcome.summary["random_return_mean"] < 10
    assert not (out / "shift-env" / "venv").exists()
    assert read(package, out, kept) == outcome
    assert read(shift("shift_env:Shift-v1"), out, kept) is None, "another environment is another attempt"
    keep([outcome], kept)
    assert read(package._replace(note="seen"), registry / "elsewhere", kept) == outcome


@pytest.mark.slow
def test_what_fails_with_gymnasium_alone_is_nothing_that_a_trainer_could_run(registry: Path) -> None:
    package = shift("shift_env:Shifty-v0")
    outcome = attempt(package, registry / "out", steps=512, timeout=120.0, names=("train",))
    assert not outcome.runs
    assert not outcome.by_itself
    assert outcome.commands[ALONE].startswith("making it: NameNotFound: Environment `Shifty` doesn't exist")


@pytest.mark.slow
def test_what_gymnasium_alone_says_is_added_to_what_is_known(registry: Path) -> None:
    package, out, kept = shift(), registry / "out", registry / "kept.json"
    known = Outcome({name: list(v) if isinstance(v, tuple) else v for name, v in package._asdict().items()})
    known.commands["train"] = "no such space"
    attempt_alone(package, known, out, timeout=60.0)
    assert known.commands == {"train": "no such space", ALONE: "ok"}
    assert known.by_itself, "that it does not train here is this project's own affair"
    assert read(package, out, kept) == known


@pytest.mark.slow
def test_what_lacks_a_package_that_it_does_not_require_does_not_run_by_itself(registry: Path) -> None:
    package = shift("shift_env:Hungry-v0")._replace(besides=("shift-extra",))
    known = Outcome({})
    attempt_alone(package, known, registry / "out", timeout=60.0)
    assert "No module named 'shift_extra'" in known.commands[AS_PUBLISHED]
    assert known.commands[ALONE] == "ok"
    assert known.incomplete
    assert not known.by_itself


def test_what_cannot_be_installed_says_why(registry: Path) -> None:
    outcome = attempt(shift(version="1.6"), registry / "out", steps=512, timeout=120.0)
    assert list(outcome.commands) == ["install"]
    assert "shift-env==1.6" in outcome.verdict
    assert not outcome.runs


def test_the_report_counts_and_names_what_failed() -> None:
    done = dict.fromkeys(("install", "look", "train", "evaluate", "play", "export"), "ok")
    numbers = {
        "random_return_mean": -2.0,
        "return_mean": 1.25,
        "sampled_return_mean": 1.0,
        "steps_per_second": 2e3,
    }
    found = [
        (shift(), Outcome({}, {**done, "play": "no `render`"}, ["masks: none"], numbers)),
        (shift()._replace(name="other", typed=()), Outcome({}, done, ["masks: none"], numbers)),
        (
            shift()._replace(name="third"),
            Outcome({}, {"install": "ok", "look": "no", "train": "no such space"}),
        ),
    ]
    text = try_environments.report(found, 4000)
    assert "With those that had been tried before, 2 of 3 train, 1 of them with nothing typed" in text
    assert "2 export, 1 can be filmed." in text
    row = "| shift-env 1.5 | `shift_env:Shift-v0` | hybrid | `env.num_envs=2` |  |  |  | -2 | 1.25 | 1 | 2,000 | – |"
    assert row in text
    assert "- **third**: train: `no such space`" in text
    assert "- **shift-env**: play: `no 'render'`" in text


def test_new_ones_are_counted_with_and_without_what_gymnasium_alone_cannot_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained, failed = Outcome({}, {ALONE: "ok", "train": "ok"}), Outcome({}, {ALONE: "ok", "train": "no"})
    broken = Outcome({}, {ALONE: "step 8: an observation of shape (3,), declared (4,)", "train": "no"})
    only_here = Outcome({}, {ALONE: "step 1: TypeError: no array", "train": "ok"})
    refused = Outcome({}, {"install": "conflicting versions"})
    new = [
        (shift()._replace(name="a", found=SOURCE), trained),
        (shift()._replace(name="b", found=README, mended=True), only_here),
        (shift()._replace(name="c", found=MESSAGE, first="nothing"), trained),
        (shift()._replace(name="d", note="it shrinks"), broken),
        (shift()._replace(name="e"), failed),
        (shift()._replace(name="f"), refused),
        (shift()._replace(name="g"), Outcome({}, {ALONE: f"{alone.EARLIER}, each 30 steps: step 31: no"})),
        (shift()._replace(name="h", found=README, mended=True), trained),
        (
            shift()._replace(name="i", found=MESSAGE, first="alone"),
            Outcome({}, {AS_PUBLISHED: "making it: ModuleNotFoundError", ALONE: "ok", "train": "ok"}),
        ),
    ]
    waiting = shift()._replace(name="again", found=MESSAGE)
    monkeypatch.setattr(try_environments, "NEW", tuple(package for package, _ in new))
    monkeypatch.setattr(try_environments, "FRESH", (*(package for package, _ in new[2:]), shift(), waiting))
    text = try_environments.report([(shift()._replace(name="known before"), trained), *new], 4000)
    assert "**The last list: 9 packages" in text
    assert "2 of them cannot run by themselves, without any code of this project. Of the other 6 that" in text
    lacks = "1 of those that cannot run by themselves lack but a package that they do not require; were they"
    assert f"{lacks} counted too, these would be 1 (14.3%)." in text
    assert (
        "were tried, 2 (33.3%) train, 1 (16.7%) with what one would type at first: 0 (0.0%) as this" in text
    )
    assert "1 since it was mended for what they showed. 1 of those" in text
    assert "(14.3%). 1 failed at first and wait for another try. 1 have not been tried yet.**" in text
    assert "All 9 packages that nobody here had tried" in text
    assert "3 of them cannot run by themselves, without any code of this project (1 of these train" in text
    assert (
        "Of the other 6 that were tried, 3 (50.0%) train, 2 (33.3%) with what one would type at first: 1 (16.7%)"
        in text
    )
    assert "was found: for 1 in the source, for 0 nobody noted it, else in the README." in text
    assert "| `env.num_envs=2` | nothing | message | runs |" in text
    assert "- **d**: it shrinks" in text
    assert "- **d**: Gymnasium alone: `step 8: an observation of shape (3,), declared (4,)`" in text


def test_the_page_can_be_written_again_from_what_is_kept(tmp_path: Path) -> None:
    page, kept = tmp_path / "page.md", tmp_path / "kept.json"
    kept.write_text(Path("docs/results/environments.json").read_text())
    options = ["--report-only", "--steps", "3000", "--out", str(tmp_path), "--kept", str(kept)]
    assert try_environments.main([*options, "--report", str(page)]) == 0
    body = page.read_text().partition("**The last list")[2]
    assert body
    assert body == Path("docs/results/environments.md").read_text().partition("**The last list")[2]
    assert kept.read_text() == Path("docs/results/environments.json").read_text()


class Shrinking(gymnasium.Env[Any, Any]):
    observation_space = spaces.Dict({"digits": spaces.MultiBinary(4)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        return {"digits": np.ones(4, np.int8)}, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return {"digits": np.ones(3, np.int8)}, 0.0, False, False, {}


class Leaving(Shrinking):
    """Waits after a reset in the middle of an episode, which has ten steps."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    left, steps = False, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        self.left, self.steps = 0 < self.steps < 10, 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        time.sleep(30 * self.left)
        self.steps += 1
        return np.zeros(2, np.float32), 0.0, self.steps == 10, False, {}


class Raising(Leaving):
    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        raise KeyError("goal")


class Tensors(Raising):
    """Has masks that are tensors of PyTorch, and allows one choice of two."""

    def action_masks(self) -> torch.Tensor:
        return torch.tensor([False, True])

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        assert action == 1
        return np.zeros(2, np.float32), 0.0, False, False, {}


def no_environment() -> list[int]:
    return []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ("Shrinking", "step 1: an observation of shape (3,), declared (4,)"),
        (
            "Leaving",
            "with resets before the end, each 3 steps: step 3: TimeoutError: not done after 1 seconds",
        ),
        ("Raising", "step 0: KeyError: 'goal'"),
        ("no_environment", "it makes a list, which is no gymnasium.Env"),
        ("lost", f"making it: AttributeError: module '{__name__}' has no attribute 'lost'"),
    ],
)
def test_alone_says_whose_fault_it_is(
    make: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "SECONDS", 1)
    monkeypatch.setattr(alone, "EARLY", 3)
    assert alone.main([json.dumps({"make": f"{__name__}:{make}"})]) == 1
    assert capsys.readouterr().out.strip() == said


def test_alone_takes_a_mask_that_is_a_tensor(capsys: pytest.CaptureFixture[str]) -> None:
    assert alone.main([json.dumps({"make": f"{__name__}:Tensors"})]) == 0
    assert capsys.readouterr().out.strip() == "ok"


def test_alone_makes_the_objects_among_its_arguments() -> None:
    table = {"_target_": "numpy.array", "object": [1, 2]}
    found = alone.objects({"tables": [table], "wait": {"_target_": "time.sleep", "_partial_": True}})
    assert found["tables"][0].tolist() == [1, 2]
    assert found["wait"].func is time.sleep


def test_alone_imports_nothing_of_this_project() -> None:
    given = json.dumps(
        {"id": "CartPole-v1", "kwargs": {"render_mode": "rgb_array"}, "before": "gymnasium:pprint_registry"}
    )
    watched = (
        "import runpy, sys, os; os._exit = sys.exit; sys.argv[0] = 'scripts/studies/alone.py'\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print([name for name in sys.modules if name.split('.')[0] == 'equipoise'])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", watched, given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["ok", "[]"]


def test_what_is_installed_beside_this_project_keeps_what_it_requires() -> None:
    wanted = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    assert {"gymnasium", "numpy"} <= {name.partition(">")[0] for name in set(CONSTRAINTS) & set(wanted)}


def test_every_environment_is_named_once() -> None:
    each = [(package.name, package.id, package.typed) for package in PACKAGES]
    assert len(each) == len(set(each))
    new = {package.name for package in NEW}
    assert len(NEW) == len(new) >= 30
    assert set(FRESH) < set(NEW)
