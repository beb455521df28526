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
    # Ray gives way to other programs otherwise, on a busy machine for ever.
    environment = {**os.environ, "PYTHONPATH": str(pages.ROOT), "RAY_worker_niceness": "0"}
    command = [sys.executable, pages.ROOT / "examples" / "ray_tune.py", "CartPole-v1", "out", "2", "2048"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = [path.parent for path in (tmp_path / "out").glob("*/config.yaml")]
    assert len(runs) == 2
    ended = [json.loads(file.read_text()) for run in runs for file in run.glob("summary.json")]
    assert "finished" in [summary["status"] for summary in ended], "ASHA ends one at most"
    assert float(done.stdout.splitlines()[-1].split()[0]) > 0
