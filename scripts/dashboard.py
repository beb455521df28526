"""Open TensorBoard over the runs: `python -m scripts.dashboard [--runs runs] [--port 0]`."""

from __future__ import annotations

import argparse
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote

from equipoise.commands import typed
from equipoise.trainer.configuration.schema import env_label
from equipoise.trainer.monitor.summary import read_config

HOST = "127.0.0.1"  # never beyond this machine: TensorBoard asks nobody for a password
PAGE = "#custom_scalars"  # the charts that answer questions; TensorBoard's own first page has none of them
_START_SECONDS = 180.0  # a second on an idle machine, minutes on an overloaded one


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Open TensorBoard over the runs, on this machine only.")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--port", type=int, default=0, help="port on localhost (default: 0, any free one)")
    options = parser.parse_args(arguments)
    runs = find_runs(options.runs)
    if not runs:
        print(
            f"no runs in {options.runs}: train one first ({typed('train')}), "
            "or name another folder: --runs FOLDER"
        )
        return 1
    try:
        port = free_port(options.port)
    except (OSError, OverflowError) as error:
        print(f"port {options.port} cannot be used: {error}; leave --port out for a free one")
        return 1
    # A plain `kill` ends TensorBoard too, by the same way out as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryFile("w+") as log:
        return serve(options.runs, runs, port, log)


def find_runs(folder: Path) -> list[Path]:
    """The folders at any depth below `folder` that hold an event file."""
    return sorted({file.parent for file in folder.rglob("events.out.tfevents.*")})


def free_port(port: int) -> int:
    """`port` if it can be bound on localhost, any free one for 0; raises `OSError`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        number: int = probe.getsockname()[1]
        return number


def pages(folder: Path, runs: Sequence[Path]) -> dict[str, str]:
    """Environment -> the page of charts with its runs alone; none where there is only one environment.

    Returns of unrelated environments squash each other on one axis.
    """
    names: dict[str, list[str]] = {}
    for run in runs:
        env = env_label(read_config(run).get("env") or {})
        names.setdefault(env, []).append(run.relative_to(folder).as_posix())
    if len(names) < 2:
        return {}
    return {env: f"{PAGE}&regexInput={quote(_only(mine, names))}" for env, mine in sorted(names.items())}


def _only(mine: Sequence[str], names: Mapping[str, Sequence[str]]) -> str:
    """A regular expression of these runs' names: by the folders above them, if no other run is there."""
    above = {name.rpartition("/")[0] for name in mine}
    others = {name.rpartition("/")[0] for several in names.values() for name in several if name not in mine}
    if above & others:
        return f"^({'|'.join(map(re.escape, mine))})$"
    return f"^({'|'.join(map(re.escape, sorted(above)))})/"


def serve(folder: Path, runs: Sequence[Path], port: int, log: IO[str]) -> int:
    """Run TensorBoard until Ctrl-C. Its own output goes to `log`, which is shown if it fails."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
    command += ["--host", HOST, "--port", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        if wait_until_open(process, port):
            count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
            print(f"TensorBoard over {count}: http://{HOST}:{port}/{PAGE}  (Ctrl-C ends it)", flush=True)
            for env, page in pages(folder, runs).items():
                print(f"  {env} alone: http://{HOST}:{port}/{page}", flush=True)
            process.wait()
    except KeyboardInterrupt:
        print("\nTensorBoard ended")
        return 0
    finally:
        end(process)
    log.seek(0)
    print(f"TensorBoard failed (exit code {process.returncode}):\n{log.read()}")
    return 1


def end(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """By SIGTERM, after `patience` seconds by SIGKILL: TensorBoard 2.21.0 was seen to go on after a SIGTERM
    (its handler raises `SystemExit` wherever the program is, and that can get lost)."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until_open(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether TensorBoard answers on `port` before it ends and within `_START_SECONDS`."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return True
        time.sleep(0.1)
    return False


if __name__ == "__main__":
    sys.exit(main())
