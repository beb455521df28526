"""Checks that everything needed is installed, with the standard library alone, in the syntax of old Pythons.

A command calls this before it imports anything else, so that a bare interpreter ends in one sentence instead
of a traceback.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PYTHON = (3, 11)
TORCH = (2, 6)
PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "gymnasium": "gymnasium",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "pydantic": "pydantic",
    "annotated_types": "annotated-types",
    "yaml": "pyyaml",
    "tensorboard": "tensorboard",
    "rich": "rich",
    "PIL": "pillow",
    "matplotlib": "matplotlib",
}
"""Module to import -> package that provides it, as in `pyproject.toml`."""

ROOT = Path(__file__).absolute().parents[1]
IN_CLONE = (ROOT / "pyproject.toml").exists()
"""Whether this is a clone of the project, not an installed wheel."""


def complaint() -> str | None:
    """What is missing and how to get it, in one sentence; None if everything needed is there."""
    remedy = f"run `{sys.executable} -m pip install --upgrade equipoise`"
    if IN_CLONE:
        remedy = f"run `make setup` in {ROOT}, then use {ROOT / '.venv/bin/python'}"
    if sys.version_info < PYTHON:
        newer = f"run `make setup PYTHON=python3.11` in {ROOT}" if IN_CLONE else "install it with a newer one"
        return f"Equipoise needs Python {_dotted(PYTHON)} or newer, {_here(sys.version_info[:3])}: {newer}"
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        return f"Equipoise needs packages that {sys.executable} lacks ({', '.join(missing)}): {remedy}"
    torch = _version("torch")
    if torch and torch < TORCH:
        return f"Equipoise needs PyTorch {_dotted(TORCH)} or newer, {_here(torch)}: {remedy}"
    return None


def require() -> None:
    """End the program with exit status 2 and the complaint, if there is one."""
    message = complaint()
    if message is not None:
        print(message, file=sys.stderr)
        raise SystemExit(2)


def extra(name: str) -> str:
    """The command that installs the optional packages `name` of `pyproject.toml`."""
    return f"pip install -e '.[{name}]'" if IN_CLONE else f"pip install 'equipoise[{name}]'"


def _here(found: tuple[int, ...]) -> str:
    return f"and {sys.executable} has {_dotted(found)}"


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _version(package: str) -> tuple[int, ...]:
    """Major and minor version of an installed package; empty if its metadata does not say."""
    try:
        return tuple(int(part) for part in version(package).split(".")[:2] if part.isdigit())
    except PackageNotFoundError:
        return ()
