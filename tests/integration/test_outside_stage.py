"""A stage from outside the package: one new Python file and a configuration section, and no other edit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from equipoise.trainer.build import build
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Config
from tests.forked import Command

CENTRED_MEANS = '''
from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge

from equipoise.trainer.data import Metric, Term
from equipoise.trainer.stages.protocol import LossState, Sides, WeightResult


class CentredMeans:
    """Pull the means of all parameters towards the middle of their range."""

    def __init__(self, strength: Annotated[float, Ge(0)] = 0.1) -> None:
        self.strength = strength
        self.minibatches = torch.zeros(())

    def losses(self, state: LossState) -> LossState:
        self.minibatches = self.minibatches + 1
        size = state.distribution.mean.square()
        metrics = {"centred_means/size": Metric(size.detach().mean())}
        return state.with_term("centred_means", Term(self.strength * size), metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"minibatches": self.minibatches.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.minibatches = state["minibatches"]


class HalfAndHalf:
    """Equal weights, whatever the gradients are."""

    def gradients(self, sides: Sides) -> WeightResult:
        return WeightResult(torch.tensor(0.5), torch.tensor(0.5))
'''

SECTION = ("trainer.centred_means._target_=centred_means.CentredMeans",)
FIRST = "trainer.stages=[centred_means,value_clipping,gradient_scaling]"


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the new file in it."""
    folder = tmp_path / "somewhere_else"
    folder.mkdir()
    (folder / "centred_means.py").write_text(CENTRED_MEANS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "centred_means", raising=False)
    return folder


def size_of_means(config: Config, run_dir: Path) -> float:
    build(config, run_dir).train()
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    size: float = json.loads(lines[-1])["centred_means/size"]
    return size


def test_it_trains_logs_and_is_in_the_checkpoint(
    toy: Callable[..., Config], outside: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    build(toy(*SECTION, FIRST), run_dir).train()
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2
    for line in metrics:
        assert line["loss/centred_means"] == pytest.approx(0.1 * line["centred_means/size"])
        assert "gradient_scaling/balance_ratio" in line
    state = torch.load(run_dir / "checkpoints" / "last.pt", weights_only=True)
    assert "_target_: centred_means.CentredMeans" in (run_dir / "config.yaml").read_text()
    assert "minibatches" in str(state)


def test_it_does_what_it_is_for(toy: Callable[..., Config], outside: Path, tmp_path: Path) -> None:
    sizes = [
        size_of_means(
            toy(
                *SECTION,
                FIRST,
                f"trainer.centred_means.strength={strength}",
                "trainer.total_env_steps=2048",
                "trainer.eval_every=0",
                "optimizer.learning_rate=0.01",
            ),
            tmp_path / str(strength),
        )
        for strength in (0.0, 10.0)
    ]
    assert sizes[1] < 0.2 * sizes[0]


def test_its_keys_and_its_place_are_checked_like_our_own(toy: Callable[..., Config], outside: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.centred_means\.strenth.*strength"):
        toy(*SECTION, FIRST, "trainer.centred_means.strenth=1.0")
    with pytest.raises(ConfigError, match=r"trainer\.centred_means\.strength.*-1"):
        toy(*SECTION, FIRST, "trainer.centred_means.strength=-1.0")


def test_it_may_take_the_place_of_gradient_scaling(
    toy: Callable[..., Config], outside: Path, tmp_path: Path
) -> None:
    half = "trainer.half._target_=centred_means.HalfAndHalf"
    trainer = build(toy(half, "trainer.stages=[half]"), tmp_path / "run")
    trainer.iterate()
    assert trainer.learner.state_dict()["weights"].tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="'half' and 'gradient_scaling' both act on the gradients"):
        build(toy(half, "trainer.stages=[half,gradient_scaling]"), tmp_path / "other")


def test_from_the_command_line_with_a_yaml_file_of_its_own(outside: Path, tmp_path: Path) -> None:
    """The section as a file of the group `experiment`, in a folder of the user's."""
    config = outside / "conf" / "experiment"
    config.mkdir(parents=True)
    (config / "centred.yaml").write_text(
        "# @package trainer\n"
        "stages: [centred_means, value_clipping, gradient_scaling]\n"
        "centred_means:\n"
        "  _target_: centred_means.CentredMeans\n"
        "  strength: 0.2\n"
    )
    run_dir = tmp_path / "run"
    overrides = [
        "experiment=centred",
        f"hydra.searchpath=[{config.parent}]",
        f"hydra.run.dir={run_dir}",
        "env._target_=tests.toy_env.ToyEnv",
        "env.num_envs=4",
        "policy=mlp",
        "batch=debugging",
        "trainer.total_env_steps=16",
        "trainer.final_eval_episodes=4",
        "device=cpu",
    ]
    done = Command(tmp_path, "trainer.run", *overrides, environment={"PYTHONPATH": str(outside)}).end()
    assert done.code == 0, done.stderr
    assert "loss/centred_means" in (run_dir / "metrics.jsonl").read_text()
