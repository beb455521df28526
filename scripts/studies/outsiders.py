"""One environment of others: a throw-away virtual environment, and the commands run in it one by one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from equipoise.commands import child
from equipoise.scripts.studies import alone
from equipoise.scripts.studies.packages import Package
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.monitor.summary import git_revision

INSTALL_SECONDS = 600.0
CONSTRAINTS = (f"torch=={metadata.version('torch').partition('+')[0]}", "gymnasium>=0.29", "numpy>=1.26")
"""What this package needs; else a package of others may bring versions of its own."""
NUMBERS = ("random_return_mean", "return_mean", "sampled_return_mean", "steps_per_second")
"""What is kept of a run's summary."""
COMMANDS = ("look", "train", "evaluate", "play", "export")
ALONE = "Gymnasium alone"
"""Tried first, without any code of this project: what fails there, no trainer can run."""
AS_PUBLISHED = "Gymnasium alone, with what the package requires"
"""The same, before `Package.besides` is installed."""


@dataclass
class Outcome:
    """What came of a package; the fields that it did not get to are empty."""

    package: dict[str, Any]
    commands: dict[str, str] = field(default_factory=dict)
    """Command -> `ok`, or what it said when it failed."""
    look: list[str] = field(default_factory=list)
    """The lines of the first look."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Of the run: `NUMBERS`."""
    seconds: float = 0.0
    commit: str = ""
    """Of this source tree, when it was tried."""

    @property
    def failed(self) -> dict[str, str]:
        """Command -> what it said."""
        return {name: said for name, said in self.commands.items() if said != "ok"}

    @property
    def verdict(self) -> str:
        failed = self.failed
        return "; ".join(f"{name}: {said}" for name, said in failed.items()) or "ok"

    @property
    def runs(self) -> bool:
        """Whether it trained."""
        return self.commands.get("train") == "ok"

    @property
    def by_itself(self) -> bool:
        """Whether it runs without this project, installed with what it requires: not what fails with
        Gymnasium alone in whole episodes; what could not be installed here counts as if it did, and so does
        what dislikes early resets only."""
        said = [self.commands.get(name, "ok") for name in (AS_PUBLISHED, ALONE)]
        return all(each == "ok" or each.startswith(alone.EARLIER) for each in said)

    @property
    def incomplete(self) -> bool:
        """Whether it runs without this project only once something is installed that it does not require."""
        rest = {name: said for name, said in self.commands.items() if name != AS_PUBLISHED}
        return not self.by_itself and replace(self, commands=rest).by_itself


def attempt(
    package: Package,
    out: Path,
    steps: int,
    timeout: float,
    eval_steps: int = 1000,
    names: Sequence[str] = COMMANDS,
) -> Outcome:
    """Install `package` and take it through the commands; kept in `out`, and the installation removed."""
    folder, began, outcome = (out / package.name).absolute(), time.monotonic(), Outcome(_plain(package))
    outcome.commit = git_revision() or ""
    with _venv(folder) as python:
        outcome.commands = _installed(python, package, folder, timeout)
        if outcome.commands["install"] == "ok":
            _commands(package, python, folder, outcome, steps, timeout, eval_steps, names)
    outcome.seconds = time.monotonic() - began
    (folder / "outcome.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    return outcome


def attempt_alone(package: Package, known: Outcome, out: Path, timeout: float) -> None:
    """Add to what is `known` of a package how it does with Gymnasium alone."""
    folder = (out / package.name).absolute()
    with _venv(folder) as python:
        found = _installed(python, package, folder, timeout)
    known.commands |= {name: said for name, said in found.items() if name != "install"}
    (folder / "outcome.json").write_text(json.dumps(asdict(known), indent=2) + "\n")


def read(package: Package, out: Path, kept: Path) -> Outcome | None:
    """What an earlier attempt at the same version and settings came to, in `out` or among those in the file
    `kept`; None if there was none."""
    for path in (out / package.name / "outcome.json", kept):
        try:
            given = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        for each in given if path == kept else [given]:
            known = Outcome(**each)
            if known.package.items() >= _plain(package).items():
                return known
    return None


def keep(outcomes: Sequence[Outcome], path: Path) -> None:
    """All in one file, from which the report can be written again."""
    path.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")


def _plain(package: Package) -> dict[str, Any]:
    """What an attempt depends on, as JSON has it."""
    plain = {name: getattr(package, name) for name in ("name", "version", "id", "typed", "besides")}
    return json.loads(json.dumps(plain))  # type: ignore[no-any-return]


@contextmanager
def _venv(folder: Path) -> Iterator[Path]:
    """The interpreter of a new virtual environment in `folder`; removed afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    venv = folder / "venv"
    try:
        yield _make(venv)
    finally:
        shutil.rmtree(venv, ignore_errors=True)


def _installed(python: Path, package: Package, folder: Path, timeout: float) -> dict[str, str]:
    """What the installation said, and Gymnasium alone: with what the package requires, and with what it
    needs besides."""
    needs = [f"{package.name}=={package.version}"]
    found = {"install": _pip(python, needs)}
    if found["install"] == "ok" and package.besides:
        found[AS_PUBLISHED] = _alone(python, package, folder, timeout)
        found["install"] = _pip(python, [*needs, *package.besides])
    if found["install"] == "ok":
        found[ALONE] = _alone(python, package, folder, timeout)
    return found


def _make(venv: Path) -> Path:
    """A virtual environment that sees what is installed in this one, PyTorch with its gigabyte for one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = next((venv / "lib").glob("python*")) / "site-packages"
    here = sysconfig.get_paths()["purelib"]
    (site / "project.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    return venv / "bin" / "python"


def _pip(python: Path, wanted: Sequence[str]) -> str:
    constraints = python.parent / "constraints.txt"
    constraints.write_text("\n".join(CONSTRAINTS))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    code, said = _run([*command, "-c", str(constraints), *wanted], python.parent, {}, INSTALL_SECONDS)
    return "ok" if code == 0 else _reason(said, r"^ERROR: ")


def _commands(
    package: Package,
    python: Path,
    folder: Path,
    outcome: Outcome,
    steps: int,
    timeout: float,
    eval_steps: int,
    names: Sequence[str],
) -> None:
    settings = [package.environment, *package.typed]
    short = [
        f"trainer.total_env_steps={steps}", "trainer.eval_every=0", "trainer.final_eval_episodes=10",
        f"trainer.eval_max_steps={eval_steps}", f"hydra.run.dir={folder / 'run'}",
    ]  # fmt: skip
    module, colon, _ = package.id.removeprefix("make=").partition(":")
    allow = [f"allow=[{module}]"] if colon else []
    trained = [f"checkpoint={folder / 'run'}", *allow]
    for name, arguments in (
        ("look", settings),
        ("train", ["env=gymnasium", *settings, *short]),
        ("evaluate", [*trained, "episodes=5"]),
        ("play", trained),
        ("export", trained),
    ):
        if name not in names:
            continue
        command, environment = child(name, *arguments)
        code, said = _run([str(python), *command[1:]], folder, environment, timeout)
        (folder / f"{name}.log").write_text(said)
        outcome.commands[name] = "ok" if code == 0 else _reason(said)
        if name == "look":
            known = (
                r"(observations|actions|relevant|always|constant|and so on|masks|reward|speed|resume|random)"
            )
            outcome.look = [line for line in said.splitlines() if re.match(known, line)]
        if name == "train":
            if code != 0:
                return
            summary = json.loads((folder / "run" / "summary.json").read_text())
            outcome.summary = {number: summary.get(number) for number in NUMBERS}


def _alone(python: Path, package: Package, folder: Path, timeout: float) -> str:
    known = compose(["env=gymnasium", package.environment, *package.typed]).env.keywords
    given = {"id": known.get("id"), "make": known.get("make"), "kwargs": dict(known.get("kwargs") or {})}
    command = [
        str(python),
        "-P",
        str(Path(alone.__file__).absolute()),
        json.dumps(given | {"before": package.before}),
    ]
    code, said = _run(command, folder, {}, timeout)
    (folder / "alone.log").write_text(said)
    return "ok" if code == 0 else said.strip().rpartition("\n")[2][:400] or "nothing was said"


def _run(command: Sequence[str], cwd: Path, environment: dict[str, str], timeout: float) -> tuple[int, str]:
    """Exit status and all that was printed, `cwd` as a dot; what is left of its processes after `timeout` is
    ended."""
    quiet = {"PYTHONWARNINGS": "ignore", "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    process = subprocess.Popen(
        command, cwd=cwd, env={**os.environ, "MPLBACKEND": "Agg", **environment, **quiet},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        start_new_session=True, text=True, errors="replace",
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        code, said = 124, f"{said}\nnot done after {timeout:.0f} seconds"
    return code, said.replace(str(cwd), ".")


def _reason(said: str, pattern: str = "") -> str:
    """The line that says why a command failed: the first that fits, else the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["nothing was said"]
    wanted = pattern or r"Configuration error: |The run ended with an error|Fatal Python error|not done after"
    line = next((line for line in lines if re.search(wanted, line)), lines[-1])
    return re.sub(wanted, "", line)[:400] if pattern else line[:400]
