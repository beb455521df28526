"""The recipe for Ray Tune, with two trials at once. Outside CI: Ray is large, and takes a minute to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pages

pytest.importorskip("ray", reason="needs: pip install -e '.[ray]'")


@pytest.mark.slow
def test_two_trials_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(pages.ROOT)}
    command = [sys.executable, pages.ROOT / "examples" / "ray_tune.py", "CartPole-v1", "out", "2", "2048"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    summaries = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*/summary.json")]
    finished = [summary for summary in summaries if summary["status"] == "finished"]
    assert len(summaries) == 2
    assert finished, "ASHA may end one"
    assert float(done.stdout.splitlines()[-1].split()[0]) == max(
        summary["return_mean"] for summary in finished
    )
