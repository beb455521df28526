"""`scripts.try_environments` on a package made here: installed, taken through the commands, reported, removed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from equipoise.scripts import try_environments
from equipoise.scripts.studies import alone
from equipoise.scripts.studies.environments import MESSAGE, NEW, PACKAGES, README, Package
from equipoise.scripts.studies.outsiders import ALONE, Outcome, attempt, keep, read

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

gymnasium.register("Shift-v0", Shift)
"""
METADATA = "Metadata-Version: 2.1\nName: shift-env\nVersion: 1.5\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def shift(id: str = "shift_env:Shift-v0", version: str = "1.5") -> Package:
    return Package("shift-env", version, id, "hybrid", ("env.num_envs=2",))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    files = {"shift_env.py": MODULE, "METADATA": METADATA, "WHEEL": WHEEL}
    names = {name: name if name.endswith(".py") else f"shift_env-1.5.dist-info/{name}" for name in files}
    record = "".join(f"{name},,\n" for name in names.values())
    with zipfile.ZipFile(tmp_path / "shift_env-1.5-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(names[name], text)
        wheel.writestr("shift_env-1.5.dist-info/RECORD", record)
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
def test_what_does_not_train_is_tried_with_gymnasium_alone(registry: Path) -> None:
    outcome = attempt(shift("shift_env:Shifty-v0"), registry / "out", steps=512, timeout=120.0)
    assert not outcome.runs
    assert "Environment `Shifty` doesn't exist" in outcome.commands[ALONE]


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
    assert (
        "**2 of 3 train**, 1 of them with nothing typed but what names the environment; 2 export, 1 can be filmed."
        in text
    )
    row = (
        "| shift-env 1.5 | `shift_env:Shift-v0` | hybrid | `env.num_envs=2` |  | -2 | 1.25 | 1 | 2,000 | – |"
    )
    assert row in text
    assert "- **third**: train: `no such space`" in text
    assert "- **shift-env**: play: `no 'render'`" in text


def test_new_ones_are_counted_by_whether_they_can_be_made_and_by_where_what_is_typed_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained, failed = Outcome({}, {"train": "ok"}), Outcome({}, {"train": "no"})
    new = [
        shift()._replace(name="a", found=README),
        shift()._replace(name="b", found=README, mended=True),
        shift()._replace(name="c", found=MESSAGE),
        shift()._replace(name="d", cannot=True, note="it wants a download"),
    ]
    monkeypatch.setattr(try_environments, "NEW", tuple(new))
    found = [(shift()._replace(name="known before"), trained), (new[3], failed)]
    text = try_environments.report(found + [(package, trained) for package in new[:3]], 4000)
    assert "**Of the 4 that nobody here had tried before, 3 train (75%); of the 3" in text
    assert "can be made here at all, 3 train (100%).**" in text
    assert "2 train (50%) of all and 2 train (67%) of those that can be made, 1 of them since" in text
    assert "- **d**: it wants a download" in text


def test_the_page_can_be_written_again_from_what_is_kept(tmp_path: Path) -> None:
    page, kept = tmp_path / "page.md", tmp_path / "kept.json"
    kept.write_text(Path("docs/results/environments.json").read_text())
    options = ["--report-only", "--steps", "3000", "--out", str(tmp_path), "--kept", str(kept)]
    assert try_environments.main([*options, "--report", str(page)]) == 0
    body = page.read_text().partition("Each package was installed")[2]
    assert body
    assert body == Path("docs/results/environments.md").read_text().partition("Each package was installed")[2]
    assert kept.read_text() == Path("docs/results/environments.json").read_text()


class Shrinking(gymnasium.Env[Any, Any]):
    observation_space = spaces.Dict({"digits": spaces.MultiBinary(4)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        return {"digits": np.ones(4, np.int8)}, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return {"digits": np.ones(3, np.int8)}, 0.0, False, False, {}


def test_alone_says_whose_fault_it_is() -> None:
    assert alone.main(["env.id=CartPole-v1", "env.kwargs={render_mode: rgb_array}"]) == 0
    with pytest.raises(AssertionError, match=r"step 1: an observation of shape \(3,\), declared \(4,\)"):
        alone.main([f"env.make={__name__}:Shrinking"])


def test_every_package_is_named_once() -> None:
    names = [package.name for package in PACKAGES]
    assert len(names) == len(set(names))
    assert len(names) >= 30
    assert len(NEW) >= 10
