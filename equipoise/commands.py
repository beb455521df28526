"""The commands of this package: what `equipoise NAME` runs, and how to spell one for the user to copy."""

from __future__ import annotations

import difflib
import importlib
import os
import shlex
import sys
from typing import Any, NamedTuple

from equipoise import __version__
from equipoise.prerequisites import IN_CLONE, ROOT, require


class Command(NamedTuple):
    module: str
    """Below `equipoise`; its `main()` reads `sys.argv` and returns the exit status."""
    summary: str


COMMANDS = {
    "train": Command("trainer.run", "train a policy, resume a run, sweep over settings"),
    "look": Command("trainer.look", "a first look at an environment, with random actions"),
    "evaluate": Command("trainer.evaluate", "measure a trained policy on fresh episodes"),
    "play": Command("trainer.play", "film a trained policy"),
    "export": Command("trainer.export", "write a policy that runs without this package"),
    "clone": Command("trainer.clone", "teach a policy what an expert or another policy does"),
    "compare": Command("scripts.compare", "train variants over several seeds and report on them"),
    "tune": Command("scripts.tune", "search for good settings, with any number of workers"),
    "report": Command("scripts.report", "one page of HTML that shows how runs went and compares them"),
    "dashboard": Command("scripts.dashboard", "open TensorBoard over the runs"),
}

_STARTED_AS = "EQUIPOISE_STARTED_AS"
"""Environment variable through which a command's child processes learn how the user started it."""


def main() -> int:
    """`equipoise NAME …`: run a command; return its exit status, or 2 if there is no such command."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if name in ("-V", "--version"):
        print(f"equipoise {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"equipoise: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    require()
    if "" not in sys.path and os.getcwd() not in sys.path:
        # The user's own modules; last, so that a file that happens to lie there is not taken for a package.
        sys.path.append(os.getcwd())
    os.environ.setdefault(_STARTED_AS, "equipoise")
    sys.argv = [f"equipoise {name}", *arguments]
    status: int = loaded(name).main()
    return status


def typed(name: str, *arguments: str) -> str:
    """The command `name`, spelled the way the user started this program, ready to paste into a shell."""
    prefix = _started_as()
    command = f"equipoise {name}" if prefix == "equipoise" else f"{prefix}{COMMANDS[name].module}"
    return " ".join([command, shlex.join(arguments)]).rstrip()


def loaded(name: str) -> Any:
    """The module of the command `name`: how one command ends with another."""
    return importlib.import_module(f"equipoise.{COMMANDS[name].module}")


def module(name: str) -> str:
    """The module of the command `name`, spelled the way the user started this program: for `torchrun -m`."""
    package = "" if _started_as() == "python -m " else "equipoise."
    return f"{package}{COMMANDS[name].module}"


def spelled(text: str) -> str:
    """`text` with each `python -m trainer.…` in it spelled the way the user started this program."""
    for name, command in COMMANDS.items():
        text = text.replace(f"python -m {command.module}", typed(name))
    return text


def child(name: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a process that is to run the command `name` in the current folder."""
    environment = {**os.environ, _STARTED_AS: _started_as()}
    if IN_CLONE:  # a clone need not be installed
        path = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        environment["PYTHONPATH"] = os.pathsep.join(path)
    return [sys.executable, "-m", f"equipoise.{COMMANDS[name].module}", *arguments], environment


def _started_as() -> str:
    """What comes before the name of a command (`equipoise`) or of its module (`python -m `)."""
    if told := os.environ.get(_STARTED_AS):
        return told
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name if spec is not None else ""
    for package in ("", "equipoise."):
        if module.startswith((f"{package}trainer.", f"{package}scripts.")):
            return f"python -m {package}"
    return "equipoise"


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    listed = [f"  {name:{width}}{command.summary}" for name, command in COMMANDS.items()]
    lines = [
        "Hybrid-action PPO that keeps discrete decisions and continuous parameters in balance.",
        "",
        "  equipoise COMMAND [key=value ...]      equipoise COMMAND --help explains each",
        "",
        *listed,
        "",
        "  equipoise train env=gymnasium env.id=CartPole-v1",
        "  equipoise train env=mine               with your own conf/env/mine.yaml in the current folder",
    ]
    return "\n".join(lines)
