"""The dashboard command: finds the runs, stays on this machine, ends cleanly."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import unquote

import pytest

from equipoise.scripts import dashboard


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.1.host.2.0").touch()
    return folder


def test_runs_are_found_at_any_depth(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "env-debug" / "s1"), make_run(tmp_path / "sweep" / "env" / "s2")]
    (tmp_path / "empty").mkdir()
    assert dashboard.find_runs(tmp_path) == runs


def test_runs_of_each_environment_have_a_page_of_their_own(tmp_path: Path) -> None:
    """The pages choose runs by a regular expression, as TensorBoard's box for it does."""

    def names(env: str, *places: str) -> list[str]:
        for place in places:
            make_run(tmp_path / place)
            (tmp_path / place / "config.yaml").write_text(f"env: {{name: {env}}}")
        return list(places)

    goal = names("goal", "goal-balanced/s1", "goal.balanced/s+2", "mixed/goal")
    cart = names("CartPole-v1", "goal_balanced/s1", "mixed/cart")
    every = [run.relative_to(tmp_path).as_posix() for run in dashboard.find_runs(tmp_path)]
    pages = dashboard.pages(tmp_path, dashboard.find_runs(tmp_path))
    chosen = {env: unquote(page.partition("&regexInput=")[2]) for env, page in pages.items()}
    for env, mine in {"goal": goal, "CartPole-v1": cart}.items():
        assert {run for run in every if re.search(chosen[env], run)} == set(mine)
    assert dashboard.pages(tmp_path, [tmp_path / run for run in goal]) == {}


@pytest.mark.parametrize("name", [".", "missing"])
def test_without_runs_it_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert dashboard.main(["--runs", str(tmp_path / name)]) == 1
    assert "train one first" in capsys.readouterr().out


def test_a_port_in_use_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "run")
    with socket.socket() as taken:
        taken.bind((dashboard.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert dashboard.main(["--runs", str(tmp_path), "--port", str(port)]) == 1
    assert f"port {port} cannot be used" in capsys.readouterr().out


def test_it_serves_on_localhost_until_ctrl_c(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    command = [sys.executable, "-m", "scripts.dashboard", "--runs", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(dashboard.__file__).parents[1]
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        match = re.search(r"1 run: http://127\.0\.0\.1:(\d+)/#custom_scalars ", line)
        assert match, line
        with urllib.request.urlopen(f"http://127.0.0.1:{match[1]}/", timeout=30) as page:
            assert b"TensorBoard" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(match[1]))) != 0
    finally:
        process.terminate()  # not kill: it is to end its TensorBoard too
        process.wait()
        process.stdout.close()


def test_what_goes_on_after_sigterm_is_ended_all_the_same() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(99)"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    dashboard.end(process, patience=0.1)
    assert process.returncode == -signal.SIGKILL
