"""What a GPU makes of this project, in seven parts and ten minutes at most; without a GPU the CPU is used.

    python -m scripts.check_gpu                    all parts: a table to read, and to send
    python -m scripts.check_gpu machine speed      these alone

Each part is a process of its own, so that one that fails, or loses the device, leaves the others alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

PARTS = {"machine": 60, "waits": 70, "tests": 150, "same": 110, "speed": 220, "floor": 50, "run": 110}
"""In their order, and the seconds that each may take."""
BUDGET = 570.0
"""Seconds for all of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 if a part failed or there was no time for it."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if wrong := [part for part in options.parts if part not in PARTS]:
        parser.error(f"{wrong[0]!r}: the parts are {', '.join(PARTS)}")
    if options.inside:
        from equipoise.scripts.speed import gpu_parts

        getattr(gpu_parts, options.inside)()
        return 0
    began, status = time.monotonic(), 0
    for part in options.parts or PARTS:
        left = options.seconds - (time.monotonic() - began)
        print(f"== {part} ({time.monotonic() - began:.0f} s)", flush=True)
        said = "no time left" if left < 10 else _in_process(part, min(PARTS[part], left))
        if said:
            print(f"   {part}: {said}", flush=True)
            status = 1
    print(f"== done, {time.monotonic() - began:.0f} s")
    return status


def _in_process(part: str, seconds: float) -> str | None:
    """Run it; what went wrong, if anything."""
    command = [sys.executable, "-m", "equipoise.scripts.check_gpu", "--inside", part]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | os.environ
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, errors = process.communicate(timeout=seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return f"not done after {seconds:.0f} s"
    last = errors.strip().splitlines()[-1:] or ["no message"]
    return None if process.returncode == 0 else f"exit status {process.returncode}: {last[0]}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument(
        "--seconds", type=float, default=BUDGET, help="for all of them (default: %(default)s)"
    )
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
