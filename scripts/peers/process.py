"""A peer in a process of its own, seen from the benchmark."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from equipoise.scripts.peers.task import Task

ROOT = Path(__file__).parents[3]
SINGLE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class PeerError(RuntimeError):
    """The peer is not installed, has failed, or does not answer."""


class Peer:
    """Args:
    folder: where it runs and writes; `output.txt` takes what it prints.
    timeout: seconds that an answer may take.
    """

    def __init__(self, peer: str, task: Task, python: str, folder: Path, timeout: float) -> None:
        self.timeout = timeout
        self._connection, theirs = multiprocessing.Pipe()
        command = [
            python,
            "-m",
            "equipoise.scripts.peers.worker",
            peer,
            json.dumps(asdict(task)),
            str(theirs.fileno()),
        ]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, **dict.fromkeys(SINGLE, "1")}
        try:
            folder.mkdir(parents=True)
            with (folder / "output.txt").open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs.fileno()],
                )
        except OSError as error:
            raise PeerError(f"{python}: {error.strerror}") from None
        finally:
            theirs.close()

    def answer(self) -> dict[str, Any]:
        """To the last question; the first answer, unasked, is which versions are at work."""
        try:
            if not self._connection.poll(self.timeout):
                raise PeerError(f"no answer within {self.timeout:.0f} s")
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError):
            raise PeerError(f"ended with exit status {self._process.wait()}") from None
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        try:
            self._connection.send_bytes(json.dumps({"do": what, **arguments}).encode())
        except ConnectionError:
            raise PeerError(f"ended with exit status {self._process.wait()}") from None
        return self.answer()

    def close(self) -> None:
        self._connection.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
