"""The wheel, installed apart from the clone and used from a folder with an `envs`, a `trainer`, a `scripts` and a
`conf` of its own: every command works, finds the user's modules and files, and never takes one for another."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

ENVIRONMENT = """
import gymnasium
import numpy as np
from gymnasium import spaces


class Mine(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (1,))))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(action[0]), self.steps == 8, False, {}

    def render(self):
        return np.zeros((32, 32, 3), np.uint8)


gymnasium.register("Mine-v0", Mine)
"""
MINE = """
# @package _global_
env:
  _target_: equipoise.envs.gymnasium_adapter.GymnasiumEnv
  id: envs.mine:Mine-v0
  name: mine
  num_envs: 4
"""
FOREIGN = "raise AssertionError('a module of the user was taken for one of Equipoise')\n"
SHORT = (
    "trainer.total_env_steps=128",
    "trainer.batch.rollout_steps=16",
    "trainer.eval_every=0",
    "trainer.final_eval_episodes=2",
    "policy.hidden_sizes=[8]",
    "device=cpu",
)


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    """What the command prints. It sees no clone: neither in its folder nor on `PYTHONPATH`."""
    result = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    return checked(command, result.returncode, result.stdout + result.stderr, status)


def environment() -> dict[str, str]:
    hidden = ("PYTHONPATH", "EQUIPOISE_STARTED_AS")
    rest = {name: value for name, value in os.environ.items() if name not in hidden}
    return rest | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"}


def checked(command: object, code: int, output: str, status: int) -> str:
    assert code == status, f"{command}: {output}"
    assert "Traceback" not in output, output
    return output


SERVER = """
import gc, json, multiprocessing, os, runpy, sys
import gymnasium, hydra, matplotlib.pyplot, pydantic, rich, tensorboard, torch, torch.utils.tensorboard

def run(command, folder, output):
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    sys.argv, sys.path[0] = command, os.path.dirname(command[0])
    runpy.run_path(command[0], run_name="__main__")

gc.freeze()
for line in sys.stdin:
    child = multiprocessing.get_context("fork").Process(target=run, kwargs=json.loads(line))
    child.start()
    child.join()
    print(child.exitcode, flush=True)
"""
"""Runs console commands without importing PyTorch for each: it has other people's packages, and forks."""


def pip(*arguments: str | Path, python: str | Path = sys.executable) -> None:
    run(python, "-m", "pip", "-q", *arguments, cwd=Path("/"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheel")


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    """Built by way of a source distribution, from a copy of the clone: nothing is left in the clone."""
    source = folder / "source"
    kept = ("conf", "envs", "equipoise", "scripts", "trainer", "LICENSE", "README.md", "pyproject.toml")
    for name in kept:
        path = ROOT / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(path, source / name)
    run(sys.executable, "-c", "from setuptools.build_meta import *; build_sdist('..')", cwd=source)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    assert not any(path.is_symlink() for path in unpacked.rglob("*"))
    run(sys.executable, "-c", "from setuptools.build_meta import *; build_wheel('..')", cwd=unpacked)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder / "direct", source)
    (built,), (direct,) = folder.glob("*.whl"), (folder / "direct").glob("*.whl")
    assert zipfile.ZipFile(built).namelist() == zipfile.ZipFile(direct).namelist()
    return built


@pytest.fixture(scope="module")
def equipoise(folder: Path, wheel: Path) -> Path:
    """The console command of an environment that borrows the packages that this one has, but for ours."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    Path(site, "borrowed.pth").write_text("\n".join([*borrowed, sysconfig.get_path("purelib")]))
    pip("install", "--no-deps", "--no-index", "--ignore-installed", wheel, python=python)
    return folder / "venv/bin/equipoise"


@pytest.fixture(scope="module")
def command(folder: Path, equipoise: Path, here: Path) -> Iterator[Callable[..., str]]:
    """`command("train", …, status=0)`: what the console command prints, in a new process and in `here`."""
    python, output = equipoise.with_name("python"), folder / "output.txt"
    with subprocess.Popen(
        [python, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd="/",
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def run(*arguments: str, status: int = 0) -> str:
            words = [str(equipoise), *arguments]
            job = {"command": words, "folder": str(here), "output": str(output)}
            print(json.dumps(job), file=server.stdin, flush=True)
            code, printed = int(server.stdout.readline()), output.read_text()
            output.unlink()
            return checked(words, code, printed, status)

        yield run
        server.stdin.close()


@pytest.fixture(scope="module")
def here(folder: Path) -> Path:
    """A user's repository, with every name in it that ours has, too."""
    files = {
        "envs/__init__.py": "",
        "envs/mine.py": ENVIRONMENT,
        "trainer.py": FOREIGN,
        "scripts/__init__.py": FOREIGN,
        "conf/config.yaml": "seed: what another program reads",
        "conf/env/mine.yaml": MINE,
        "elsewhere/env/other.yaml": MINE.replace("name: mine", "name: other"),
    }
    for name, content in files.items():
        path = folder / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder / "here"


@pytest.fixture(scope="module")
def trained(equipoise: Path, here: Path) -> Path:
    """A run folder of `equipoise train env=mine`."""
    output = run(equipoise, "train", "env=mine", *SHORT, "hydra.run.dir=runs/first", cwd=here)
    best = "checkpoint=runs/first/checkpoints/best.pt"
    commands = (f"evaluate {best} 'allow=[envs]' episodes=100", f"play {best} 'allow=[envs]'", "dashboard")
    assert all(f"\n  equipoise {command}\n" in output for command in commands), output
    return here / "runs/first"


def test_the_wheel_holds_one_name_with_everything_inside(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"equipoise"}
    ours = {f"equipoise/{path}" for path in ("py.typed", "conf/config.yaml", "conf/env/goal.yaml")}
    assert ours <= set(names)
    clone = {
        path.relative_to(ROOT)
        for top in ("conf", "envs", "scripts", "trainer")
        for path in (ROOT / top).rglob("*")
    }
    expected = {f"equipoise/{path}" for path in clone if path.suffix in (".py", ".yaml")}
    assert expected <= set(names)


def test_each_command_works_from_a_folder_that_has_all_our_names(
    command: Callable[..., str], here: Path, trained: Path
) -> None:
    by_id = ("env=gymnasium", "env.id=envs.mine:Mine-v0", "env.num_envs=2", "env.vectorization=async")
    few = "trainer.final_eval_episodes=2"
    arms = ("--arm", f"plain={few}", "--arm", f"fixed=preset=debug,{few}")
    study = ("--env", "mine", "--seeds", "1", "--steps", "64", *arms)
    commands: list[tuple[str, ...]] = [
        ("compare", *study),
        ("train", *by_id, *SHORT),
        ("train", "-m", "env=mine", "preset=balanced,debug", *SHORT),
        ("train", "resume=runs/first", "trainer.total_env_steps=192", "allow=[envs]"),
        ("evaluate", "checkpoint=runs/first", "episodes=2", "allow=[envs]"),
        ("play", "checkpoint=runs/first/checkpoints/best.pt", "output=film.gif", "allow=[envs]"),
        ("export", "checkpoint=runs/first/checkpoints/best.pt", "output=policy.pt2", "allow=[envs]"),
    ]
    printed = [command(*words) for words in commands]
    assert printed[0].count("1/1") == 2
    assert "report: runs/comparison/report/report.md" in printed[0]
    assert "Mine-v0-even" in printed[1]
    assert printed[2].count("1/1") == 2
    assert "100%  192 steps" in printed[3]
    assert "return mean" in printed[4]
    assert (here / "film.gif").exists()
    assert (here / "policy.pt2").exists()
    assert (here / "runs/comparison/report/report.md").read_text().count("equipoise compare --env mine") == 1


def test_the_dashboard_opens(equipoise: Path, here: Path, trained: Path) -> None:
    with subprocess.Popen([equipoise, "dashboard"], cwd=here, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert url is not None
            assert urllib.request.urlopen(url[0]).status == 200
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_study_of_memory_runs_the_wheel_too(equipoise: Path, here: Path) -> None:
    python = equipoise.with_name("python")
    run(python, "-m", "equipoise.scripts.soak", "--minutes", "0.03", "env=mine", *SHORT[1:], cwd=here)
    assert (here / "runs/soak/soak.json").exists()


def test_configuration_files_of_ones_own(command: Callable[..., str], here: Path) -> None:
    text = command("train", "--help")
    assert "env=gymnasium|" not in text
    assert "|mine|" in text
    assert "python -m" not in text, text
    assert "equipoise train" in text
    assert "name: other" in command("train", "--config-dir", "elsewhere", "env=other", "--cfg", "job")
    message = command("train", "env=nine", status=2)
    assert "did you mean mine?" in message
    assert "conf/env/nine.yaml" in message
    assert "--config-dir" in message
    (here / "conf/env/goal.yaml").write_text(MINE)
    assert "conf/env/goal.yaml: Equipoise has a env/goal.yaml of its own" in command(
        "train", "env=goal", status=2
    )
    (here / "conf/env/goal.yaml").unlink()


def test_the_command_itself(command: Callable[..., str], equipoise: Path, here: Path) -> None:
    assert re.fullmatch(r"equipoise \d+\.\d+\.\d+\n", run(equipoise, "--version", cwd=here))
    overview = run(equipoise, cwd=here)
    assert all(re.search(rf"^  {name} ", overview, re.M) for name in ("train", "evaluate", "play", "export"))
    assert "did you mean train?" in run(equipoise, "trian", cwd=here, status=2)
    for name in ("evaluate", "play", "export", "compare", "dashboard"):
        text = command(name, "--help")
        assert "python -m" not in text, text
        assert f"equipoise {name}" in text
