"""Every `python -m …` of this project that README.md and docs/ name, in a block or in a sentence, is run, with
reduced sizes. docs/results/ records what was run."""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY, TINY_TOPOLOGY

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"python -m (?:trainer|scripts)\.[\w.]+[^`#\n]*")  # pip would change what runs the tests

SMALLER = ((r"episodes([= ])\d+", r"episodes\g<1>2"), (r"trainer\.total_env_steps=\d+", ""))
REDUCED = {
    "scripts.compare": ("--steps=4096", "--seeds=1"),
    "scripts.benchmark_suite": ("--share=0.001", "--seeds=1", "--arms=adaptive"),
    "scripts.benchmark_peers": ("--quick", "--seeds=0", "--only=hybrid 128"),
    "scripts.scaling": ("--steps=4096", "--seeds=1", "--parts=trunk", "--report=scaling.md"),
    "scripts.reference_scores": (),
}
"""What makes a script small."""
COMPLETED = {
    "python -m trainer.play": ("checkpoint=runs/example/checkpoints/best.pt",),
    "python -m trainer.run env=gymnasium": ("env.id=CartPole-v1",),
}
"""What a sentence leaves out."""
EXTRAS = {
    "hydra/launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "sweep"),
    "format=onnx": ("onnxscript", "export"),
}
NOT_HERE = {
    "hydra/launcher=submitit_slurm": "needs a cluster; tests/integration/test_sweep.py has its local twin",
    "env=tank": "needs the files that the page shows",
}


def commands() -> list[str]:
    pages = [re.sub(r"<details>.*?</details>", "", page.read_text(), flags=re.DOTALL) for page in PAGES]
    return sorted({found.strip() for page in pages for found in COMMAND.findall(page)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a finished run in `runs/example`."""
    folder = tmp_path_factory.mktemp("newcomer")
    result = run(folder, "trainer.run", *TINY_TOPOLOGY, "hydra.run.dir=runs/example")
    assert result.returncode == 0, result.stderr
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=400, check=False
    )


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.removeprefix("python -m "))
def test_a_command_runs(folder: Path, command: str) -> None:
    for part, reason in NOT_HERE.items():
        if part in command:
            pytest.skip(reason)
    for part, (plugin, extra) in EXTRAS.items():
        if part in command:
            pytest.importorskip(plugin, reason=f"needs: pip install -e '.[{extra}]'")
    added = COMPLETED.get(command, ())
    for large, small in SMALLER:
        command = re.sub(large, small, command)
    module, *arguments = [*shlex.split(command.replace("runs/<run>", "runs/example"))[2:], *added]
    if module == "scripts.dashboard":
        serves_until_interrupted(folder, arguments)
        return
    if module == "trainer.run" and not ("--help" in arguments or "resume=" in command):
        arguments += TINY if "env=" in command else TINY_TOPOLOGY
    elif module.startswith("scripts."):
        arguments += REDUCED[module]
    result = run(folder, module, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_python_of_the_readme_trains(folder: Path) -> None:
    """The block that builds and trains, with a smaller run."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)
    code = next(block for block in blocks if "import build" in block)
    assert code.count("compose([") == 1
    code = code.replace("compose([", f"compose([*{TINY_TOPOLOGY!r}, ")
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nassert summary.status == 'finished', summary"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def serves_until_interrupted(folder: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "scripts.dashboard", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_the_tree_of_the_readme_has_every_file_with_the_first_line_of_its_docstring() -> None:
    shown = (ROOT / "README.md").read_text().partition("Every file in a line")[2].partition("</details>")[0]
    folders = (
        "envs",
        "trainer",
        "trainer/stages",
        "trainer/policy",
        "trainer/monitor",
        "scripts",
        "scripts/peers",
    )
    expected = ["```"]
    for folder in folders:
        expected.append(f"{folder}/")
        for path in sorted((ROOT / folder).glob("[!_]*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
            expected.append(f"  {path.name:26}{docstring.splitlines()[0]}")
    assert shown.split("\n")[2:-2] == [*expected, "```"]
