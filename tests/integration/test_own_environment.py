"""The example of docs/own-environment.md, run as it is written there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.forked import Command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own-environment.md").read_text()
_FENCED = re.findall(r"^```(python|yaml|bash)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS = dict(reversed(_FENCED))  # the first of each language
FILES = {"python": "tank.py", "yaml": "conf/env/tank.yaml"}
SMALL = (
    "trainer.total_env_steps=4096",
    "trainer.eval_episodes=4",
    "trainer.final_eval_episodes=8",
    "hydra.run.dir=run",
)


def test_the_example_trains_as_written(tmp_path: Path) -> None:
    for language, name in FILES.items():
        assert f"`{name}`" in PAGE
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(BLOCKS[language])
    (typed,) = (text for language, text in _FENCED if language == "bash" and "env=tank" in text)
    equipoise, train, *command = typed.split()
    assert (equipoise, train) == ("equipoise", "train")
    # Its YAML file stays out of this clone's conf/, which is searched besides.
    command += [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", *SMALL]
    ended = Command(tmp_path, "trainer.run", *command, environment={"OMP_NUM_THREADS": "1"}).end()
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith(
        "observations: 2 numbers: 2\nactions: action[0] = head 0; action[1] = parameter 0\n"
        "relevant by choice of head 0: 0 -> none; 1 -> 0; 2 -> 0\nmasks: none\nrandom actions: return "
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["env_steps"] == 4096
    assert 0.0 <= summary["success_rate"] <= 1.0
    # Both components, weighted as the YAML file says, and both sides of the action are learned.
    weights = yaml.safe_load(BLOCKS["yaml"])["env"]["reward_components"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for name in weights:
        assert f"value/explained_variance/{name}" in lines[-1]
    assert lines[-1]["gradient_scaling/continuous_norm_raw"] > 0
    assert lines[-1]["gradient_scaling/discrete_norm_raw"] > 0


def test_the_example_is_short() -> None:
    assert len((BLOCKS["python"] + BLOCKS["yaml"]).splitlines()) == pytest.approx(40, abs=5)
