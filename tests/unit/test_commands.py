"""The console command: what it runs, how it is spelled in what is printed, and what it needs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from equipoise import commands, prerequisites
from equipoise.commands import COMMANDS, child, spelled, typed

ROOT = Path(__file__).parents[2]


def start(monkeypatch: pytest.MonkeyPatch, module: str | None) -> None:
    """Have `__main__` look as under `python -m MODULE`; None: as under the console command."""
    spec = None if module is None else ModuleSpec(module, None)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)


@pytest.mark.parametrize(
    ("module", "train", "compare"),
    [
        (None, "equipoise train", "equipoise compare"),
        ("equipoise.__main__", "equipoise train", "equipoise compare"),
        ("trainer.evaluate", "python -m trainer.run", "python -m scripts.compare"),
        ("scripts.ablate", "python -m trainer.run", "python -m scripts.compare"),
        ("equipoise.trainer.run", "python -m equipoise.trainer.run", "python -m equipoise.scripts.compare"),
        ("somebody.trainer.run", "equipoise train", "equipoise compare"),
    ],
)
def test_commands_are_spelled_as_the_user_started(
    monkeypatch: pytest.MonkeyPatch, module: str | None, train: str, compare: str
) -> None:
    start(monkeypatch, module)
    assert typed("train", "resume=runs/a b", "seed=3") == f"{train} 'resume=runs/a b' seed=3"
    assert typed("compare") == compare
    assert spelled("  python -m trainer.run seed=3\n") == f"  {train} seed=3\n"


def test_a_process_that_a_command_starts_spells_as_its_user_did(monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, "scripts.compare")
    _, environment = child("train", "seed=3")
    start(monkeypatch, "equipoise.trainer.run")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert typed("train") == "python -m trainer.run"


def test_each_command_is_a_module_with_a_main(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, command in COMMANDS.items():
        assert callable(importlib.import_module(f"equipoise.{command.module}").main), name
        monkeypatch.setattr(f"equipoise.{command.module}.main", lambda: 7)
        monkeypatch.setattr(sys, "argv", ["equipoise", name, "--flag"])
        assert commands.main() == 7
        assert sys.argv == [f"equipoise {name}", "--flag"]


def test_an_unknown_command_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, hint in (("evalute", "did you mean evaluate?"), ("xyz", "there are train, look, evaluate")):
        monkeypatch.setattr(sys, "argv", ["equipoise", given])
        assert commands.main() == 2
        assert hint in capsys.readouterr().err


# --- what has to be installed -------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["trainer.run", "trainer.play", "scripts.compare", "equipoise"])
def test_a_bare_interpreter_is_told_about_make_setup(module: str) -> None:
    # -S: without the folder that packages are installed into.
    command = [sys.executable, "-S", "-m", module, "train"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "lacks (torch, numpy, " in result.stderr
    assert f"run `make setup` in {ROOT}" in result.stderr


def test_what_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prerequisites.complaint() is None
    monkeypatch.setattr(prerequisites, "version", lambda package: "2.5.1+cpu")
    assert "needs PyTorch 2.6 or newer" in str(prerequisites.complaint())
    assert f"{sys.executable} has 2.5: run `make setup`" in str(prerequisites.complaint())
    monkeypatch.setattr(sys, "version_info", (3, 10, 9, "final", 0))
    assert "needs Python 3.11 or newer" in str(prerequisites.complaint())
    assert "has 3.10.9: run `make setup PYTHON=python3.11`" in str(prerequisites.complaint())
    monkeypatch.setattr(prerequisites, "IN_CLONE", False)
    assert "install it with a newer one" in str(prerequisites.complaint())


def test_what_is_checked_is_what_the_package_depends_on() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [dependency.partition(">=") for dependency in project["dependencies"]]
    assert {name for name, _, _ in needed} == set(prerequisites.PACKAGES.values())
    versions = {name: version for name, _, version in needed}
    assert versions["torch"] == ".".join(map(str, prerequisites.TORCH))
    assert project["requires-python"] == ">=" + ".".join(map(str, prerequisites.PYTHON))


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "9"}, "None")],
)
@pytest.mark.parametrize("package", ["trainer", "scripts", "equipoise.commands"])
def test_threads_wait_asleep_unless_the_user_has_said_how(
    package: str, given: dict[str, str], found: str
) -> None:
    """Before anything imports PyTorch, which reads it once."""
    code = f"import os, sys, {package}; print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    if "." not in package:  # as `python -m` imports it, before the command's own module
        code = f"import {package}, equipoise.prerequisites; " + code
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {name: value for name, value in os.environ.items() if name not in ours} | given
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, text=True, capture_output=True, check=True
    )
    assert shown.stdout.split() == [found, "False"]


SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if "argparse" in path.read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """argparse reads a lone per cent sign in a help text as a format, and only when help is asked for."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"equipoise.scripts.{name}").main()
    assert "usage: " in capsys.readouterr().out
