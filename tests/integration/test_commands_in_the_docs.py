"""Every command and every Python block of README.md, CONTRIBUTING.md and docs/ is run, with reduced sizes.

All of it runs in this process, in a folder where a newcomer would stand: a finished run in `runs/example`, and
beside it the files that the page shows. What cannot be run here is listed with the reason.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from equipoise import commands, training
from equipoise.scripts import list_files
from equipoise.scripts.studies import parallel
from equipoise.scripts.studies.experiments import Job
from equipoise.trainer.build import build
from equipoise.trainer.configuration import compose as composing
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.keywords import configure
from tests import pages
from tests.conftest import TINY, TINY_TOPOLOGY
from tests.forked import Command

TANK = pages.ROOT / "docs" / "own-environment.md"
"""Its files are there for every page: others speak of them."""
SMALL = tuple(setting for setting in TINY if not setting.startswith("policy."))
SMALLER = (
    (r"episodes([= ])\d+", r"episodes\g<1>2"),
    (r"total_env_steps=[\d_]+", "total_env_steps=256"),
    (r"samples=[\d_]+", "samples=640"),
    (r"<run>", "example"),
    (r"report runs/presets", "report runs/example"),
    (r"<name>", "topology_spawn"),
)
REDUCED = {
    "scripts.compare": ("--steps=4096", "--seeds=1"),
    "scripts.benchmark_suite": ("--share=0.001", "--seeds=1", "--arms=adaptive", "--tasks=catch_point"),
    "scripts.scaling": ("--steps=4096", "--seeds=1", "--parts=trunk", "--report=scaling.md"),
    "scripts.ablate": ("--steps=4096", "--seeds=1", "--arms=no_value_clipping", "--report=ablation.md"),
    "scripts.regret": ("--share=0.001", "--seeds=1", "--tasks=catch_point", "--report=regret.md"),
    "scripts.first_try": (
        "--quick",
        "--tasks=Order",
        "--episodes=2",
        "--out=first_try",
        "--report=first_try.md",
    ),
    "scripts.tune": (
        "trials=1",
        "confirm=1",
        "env.num_envs=8",
        "trainer.total_env_steps=256",
        "trainer.eval_episodes=2",
        "trainer.final_eval_episodes=2",
    ),
    "scripts.zoo": ("names=cartpole", "share=0.02", "episodes=2"),
    "scripts.check_gpu": ("machine",),
    "scripts.failures": ("--steps=1024", "--episodes=2", "--picture=failures"),
    "scripts.list_files": ("--check",),
    "scripts.draw_diagrams": ("--out=images",),
}
"""What makes a script small, or keeps it from writing into the clone."""
EXTRAS = {
    "hydra/launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "sweep"),
    "format=onnx": ("onnxscript", "export"),
    "scripts.zoo": ("safetensors", "hub"),
    "format=safetensors": ("safetensors", "hub"),
    "mlflow]": ("mlflow", "mlflow"),
    "Wandb": ("wandb", "wandb"),
    "equipoise tune": ("optuna", "tune"),
}
NOT_HERE = {
    "hydra/launcher=submitit_slurm": "needs a cluster; tests/integration/test_sweep.py has its local twin",
    "hydra/sweeper=optuna": "needs a plugin; tests/integration/test_sweep.py has a sweeper of its own",
    "hf auth login": "needs an account",
    "push=": "needs the hub; tests/integration/test_publish.py has a stand-in for it",
    "torchrun": "needs several processes; tests/reliability/test_several_processes.py has them",
    "scripts.benchmark": "measures for a while; tests/integration/test_benchmark*.py have small ones",
    "scripts.soak": "watches a run for minutes",
    ".venv/bin/": "would change, or start again, what runs the tests",
    "pip install": "would change what runs the tests",
    "pip wheel": "tests/integration/test_wheel.py builds it",
    ". .venv/bin/activate": "an interactive shell's",
}


RUN = subprocess.run
TINY_STUDY = (
    "env.num_envs=8",
    "trainer.total_env_steps=256",
    "trainer.eval_every=1",
    "trainer.eval_episodes=2",
    "trainer.final_eval_episodes=2",
)


def reduced(command: str) -> str:
    for large, small in SMALLER:
        command = re.sub(large, small, command)
    return command


def cases() -> Iterator[object]:
    """Every command once; those of a page with files of its own, once for that page."""
    seen = set()
    for page in pages.PAGES:
        for command in pages.commands(page):
            case = (page if pages.files(page) else None, reduced(command))
            if case not in seen:
                seen.add(case)
                yield pytest.param(page, case[1], id=f"{page.stem}: {command}")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("example") / "run"
    build(compose([*TINY_TOPOLOGY]), folder).train()
    return folder


@pytest.fixture
def newcomer(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """The folder in which a page is read, as the current one; studies train in this process."""
    page: Path = request.node.callspec.params["page"]
    shutil.copytree(example, tmp_path / "runs" / "example")
    for name, text in (pages.files(TANK) | pages.files(page)).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EQUIPOISE_STARTED_AS", "equipoise")
    monkeypatch.setattr(parallel, "run", train_here)
    monkeypatch.setattr(subprocess, "run", learn_forked)
    known = dict(gymnasium.registry)
    yield tmp_path
    for name in (*pages.files(TANK), *pages.files(page)):
        sys.modules.pop(Path(name).stem, None)
    gymnasium.registry.clear()
    gymnasium.registry.update(known)


def learn_forked(command: Sequence[str], *arguments: Any, **keywords: Any) -> Any:
    """`subprocess.run`, but the runs of `scripts.first_try` need not import PyTorch anew."""
    if command[1:3] != ["-m", "equipoise.scripts.suite.worker"]:
        return RUN(command, *arguments, **keywords)
    ended = Command(Path.cwd(), command[2], *command[3:], environment=keywords["env"]).end()
    return subprocess.CompletedProcess(command, ended.code)


def train_here(jobs: Sequence[Job], *_: object) -> list[object]:
    for job in jobs:
        short = ["env.max_steps=12"] if job.env.startswith("topology_spawn") else []
        build(compose([*job.overrides, *TINY_STUDY, *short]), job.folder).train()
    return []


@pytest.mark.parametrize(("page", "command"), list(cases()))
def test_a_command_runs(
    page: Path,
    command: str,
    newcomer: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for part, reason in NOT_HERE.items():
        if part in command:
            pytest.skip(reason)
    for part, (plugin, extra) in EXTRAS.items():
        if part in command:
            pytest.importorskip(plugin, reason=f"needs: pip install -e '.[{extra}]'")
    words = shlex.split(command)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):.*##", (pages.ROOT / "Makefile").read_text(), re.MULTILINE)
        assert all(word in targets for word in words[1:] if word not in ("&&", "make"))
        return
    assert words[0] == "equipoise" or words[:2] == ["python", "-m"], "a command that this test does not know"
    name = commands.COMMANDS[words[1]].module if words[0] == "equipoise" and words[1][0] != "-" else words[-1]
    module = name if words[0] == "equipoise" else words[2]
    words += added(module, command)
    if module == "scripts.dashboard":
        serves_until_interrupted(newcomer)
        return
    status = run(words, monkeypatch)
    assert status == 0, "".join(capsys.readouterr())


def added(module: str, command: str) -> tuple[str, ...]:
    """Arguments that make a command small."""
    if module != "trainer.run":
        return REDUCED.get(module, ())
    if "--help" in command or re.search(r"resume=(?!auto)", command):
        return ()
    return SMALL if re.search(r"\b(env|experiment)=", command) else TINY_TOPOLOGY


def run(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of `equipoise …` or `python -m …`."""
    try:
        if words[0] == "equipoise":
            monkeypatch.setattr(sys, "argv", list(words))
            return commands.main()
        monkeypatch.setattr(sys, "argv", list(words[2:]))
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@pytest.mark.parametrize("page", [page for page in pages.PAGES if pages.programs(page)], ids=lambda p: p.stem)
def test_the_python_of_a_page_runs(page: Path, newcomer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page, one after the other, as somebody would type them into one file."""

    def shorter(environment: Any, overrides: Any, settings: dict[str, Any]) -> Any:
        return configure(environment, overrides, {"eval_every": 0, "final_eval_episodes": 2, **settings})

    monkeypatch.setattr(training, "configure", shorter)
    monkeypatch.setattr(composing, "compose", lambda overrides: compose([*TINY_TOPOLOGY, *overrides]))
    code = reduced("\n".join(pages.programs(page)))
    exec(compile(code, page.name, "exec"), {"__name__": page.stem})


def serves_until_interrupted(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(pages.ROOT)}
    command = [sys.executable, "-m", "scripts.dashboard"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_the_page_of_files_has_every_file_with_the_first_line_of_its_docstring() -> None:
    assert list_files.main(["--check"]) == 0
    shown = (pages.ROOT / "docs" / "files.md").read_text()
    for folder in ("envs", "envs/goal", "trainer", "trainer/stages", "scripts", "scripts/peers"):
        for path in sorted((pages.ROOT / folder).glob("[!_]*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
            assert f"[`{path.name}`](../{folder}/{path.name}) | {docstring.splitlines()[0]} |" in shown


def test_the_index_of_results_lists_every_file() -> None:
    folder = pages.ROOT / "docs" / "results"
    index = (folder / "README.md").read_text()
    for file in folder.iterdir():
        assert file.name == "README.md" or f"]({file.name})" in index, (
            f"docs/results/README.md lacks {file.name}"
        )


def test_the_first_page_of_the_site_leads_to_all_others() -> None:
    first = (pages.ROOT / "docs" / "index.md").read_text()
    assert [
        page.name for page in pages.PAGES[2:] if page.stem != "index" and f"]({page.name})" not in first
    ] == []


def test_the_front_page_is_short() -> None:
    assert len((pages.ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, heading = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-") for title in titles]
            assert heading in anchors, f"{page.name}: {target} is none of {anchors}"
