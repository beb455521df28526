"""Soak test: runs the real command at full speed and checks that memory and open files stay flat.

python -m scripts.soak --minutes 20 [key=value ...]      # needs Linux's /proc

Also says how large the run's files have become. Writes soak.json into --out.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from equipoise.commands import child

POLL_SECONDS = 5.0
SETTLED = 0.1
"""Fraction of the time in which buffers, caches and the allocator reach their size."""
ENDLESS = "trainer.total_env_steps=1_000_000_000"


class Sample(NamedTuple):
    seconds: float
    resident_bytes: int
    open_files: int
    threads: int
    event_bytes: int
    """Of the TensorBoard files."""


def sample(pid: int, run_dir: Path, began: float) -> Sample:
    """What the process holds now."""
    process = Path("/proc") / str(pid)
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Sample(
        seconds=time.monotonic() - began,
        resident_bytes=1024 * int(status["VmRSS"].split()[0]),
        open_files=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
        event_bytes=event_bytes(run_dir),
    )


def event_bytes(run_dir: Path) -> int:
    return sum(path.stat().st_size for path in run_dir.glob("events.out.tfevents.*"))


def soak(run_dir: Path, minutes: float, overrides: Sequence[str]) -> list[Sample]:
    """Train into `run_dir` for `minutes` from the first iteration on, then send SIGTERM as a scheduler would.

    Raises `RuntimeError` if the run ends by itself, or does not end as a run that was asked to.
    """
    command, environment = child("train", ENDLESS, f"hydra.run.dir={run_dir}", *overrides)
    began: float | None = None
    samples: list[Sample] = []
    with subprocess.Popen(command, env=environment) as process:
        while began is None or time.monotonic() - began < 60 * minutes:
            time.sleep(min(POLL_SECONDS, 60 * minutes / 4))
            if process.poll() is not None:
                raise RuntimeError(f"the run ended by itself with exit code {process.returncode}")
            if began is not None:
                samples.append(sample(process.pid, run_dir, began))
            elif (run_dir / "metrics.jsonl").exists():
                began = time.monotonic()
        process.terminate()
        if process.wait() != 128 + signal.SIGTERM:
            raise RuntimeError(f"after SIGTERM the run ended with exit code {process.returncode}")
    return samples


def report(samples: Sequence[Sample], run_dir: Path) -> dict[str, object]:
    """What is flat and what grows, after the first part of the time."""
    settled = [s for s in samples if s.seconds >= SETTLED * samples[-1].seconds]
    minutes = np.array([s.seconds for s in settled]) / 60
    rows = (run_dir / "metrics.jsonl").read_text().splitlines()
    flushes = np.diff([s.event_bytes for s in samples])
    return {
        "minutes": samples[-1].seconds / 60,
        "iterations": len(rows),
        "env_steps": json.loads(rows[-1])["env_steps"],
        "resident_bytes_first": settled[0].resident_bytes,
        "resident_bytes_last": settled[-1].resident_bytes,
        "resident_bytes_per_minute": float(np.polyfit(minutes, [s.resident_bytes for s in settled], 1)[0]),
        "open_files": sorted({s.open_files for s in settled}),
        "threads": sorted({s.threads for s in settled}),
        "event_bytes": event_bytes(run_dir),
        "event_bytes_per_iteration": event_bytes(run_dir) / len(rows),
        "largest_flush_bytes": int(flushes.max()),
        "metrics_bytes": (run_dir / "metrics.jsonl").stat().st_size,
        "folder_bytes": sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file()),
        "files": sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="a folder that is not there yet")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the run")
    arguments = parser.parse_args()
    if not arguments.minutes >= 0.01:
        parser.error(f"argument --minutes: must be 0.01 or more, not {arguments.minutes}")
    try:
        samples = soak(arguments.out / "run", arguments.minutes, arguments.overrides)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    found = report(samples, arguments.out / "run")
    series = {"samples": [s._asdict() for s in samples]}
    (arguments.out / "soak.json").write_text(json.dumps({**found, **series}, indent=1))
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
