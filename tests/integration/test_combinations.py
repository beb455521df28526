"""Each encoder beside each distribution, with and without masks: learns, resumes, acts alone, is exported."""

from __future__ import annotations

import os
import sys
from copy import deepcopy
from pathlib import Path
from shutil import which
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import equipoise
from equipoise.trainer import export
from equipoise.trainer.build import build
from equipoise.trainer.configuration.checking import check
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.system import checkpoint

SHORT = (
    "env=gymnasium",
    "env.num_envs=4",
    "trainer.batch.rollout_steps=6",
    "trainer.batch.update_epochs=1",
    "trainer.batch.num_minibatches=2",
    "trainer.total_env_steps=48",
    "trainer.eval_every=0",
    "trainer.final_eval_episodes=1",
    "device=cpu",
)
CAMERA = spaces.Box(0, 255, (7, 7, 3), np.uint8)
OBSERVATIONS = {
    "picture": CAMERA,
    "mixed": spaces.Dict(
        camera=CAMERA,
        speed=spaces.Box(-9, 9, (2,)),
        gear=spaces.Discrete(3),
        units=spaces.Box(-9, 9, (4, 3)),
        units_mask=spaces.MultiBinary(4),
    ),
    "nested": spaces.Tuple([spaces.Dict(camera=CAMERA), spaces.Discrete(2000, start=-7)]),
}


class Sampled(gymnasium.Env[Any, Any]):
    """Observations at random, a choice and a number to answer with."""

    action_space = spaces.Dict(choice=spaces.Discrete(3), number=spaces.Box(-1, 1, (2,)))

    def __init__(self, sees: str, masked: bool) -> None:
        self.observation_space, self.masked = deepcopy(OBSERVATIONS[sees]), masked

    def look(self) -> Any:
        info = {"action_mask": self.np_random.permutation([1, 1, 0]).astype(np.int8)} if self.masked else {}
        return self.observation_space.sample(), info

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.look()

    def step(self, action: Any) -> Any:
        self.t += 1
        reward = float(action["choice"] == 1) - float(np.abs(action["number"]).sum())
        observation, info = self.look()
        return observation, reward, False, self.t == 5, info


CASES = [
    ("picture", "gaussian", False, ("policy=lstm", "policy.conditioning=autoregressive")),
    ("picture", "beta", True, ("policy.conditioning=choices",)),
    ("mixed", "gaussian", True, ("policy=gru", "policy.conditioning=choices", "policy.shared_critic=false")),
    ("mixed", "squashed", False, ("policy.encoder.combine=attend", "policy.shared_trunk=false")),
    ("nested", "beta", False, ("policy=gru", "policy.encoder.parts.0.camera.width=9")),
    ("nested", "gaussian", True, ("policy.conditioning=autoregressive", "policy.activation=relu")),
]


@pytest.mark.parametrize(("sees", "distribution", "masked", "more"), CASES, ids=lambda case: str(case))
def test_it_learns_resumes_acts_and_is_exported(
    sees: str, distribution: str, masked: bool, more: tuple[str, ...], tmp_path: Path, monkeypatch: Any
) -> None:
    made = (f"env.make={__name__}:Sampled", f"env.kwargs={{sees: {sees}, masked: {masked}}}")
    config = compose([*SHORT, *made, f"policy.distribution={distribution}", *more])
    whole, first = build(config, tmp_path / "whole"), build(config, tmp_path / "first")
    expected, found = [whole.iterate() for _ in range(2)], [first.iterate()]
    checkpoint.save(tmp_path / "half.pt", first.state_dict())
    saved = checkpoint.load(tmp_path / "half.pt")
    second = build(check(saved["config"]), tmp_path / "second", saved)
    found.append(second.iterate())
    for ours, theirs in zip(found, expected, strict=True):
        assert {k: v for k, v in ours.items() if not k.startswith("time/")} == {
            k: v for k, v in theirs.items() if not k.startswith("time/")
        }
        assert ours["optimizer/skipped"] == 0
    assert second.policy.storage is not None
    assert second.collector.rollout.observations.dtype == torch.uint8

    checkpoint.save(tmp_path / "policy.pt", second.state_dict())
    policy = equipoise.load(tmp_path / "policy.pt", device="cpu")
    env = Sampled(sees, masked)
    observations = [env.reset(seed=seed)[0] for seed in range(20)]
    mask = np.array([1, 0, 1], np.int8) if masked else None
    # All are first ones of an episode: a memory knows nothing.
    actions = [policy.act(one, mask, done=True) for one in observations]
    path = tmp_path / "policy.pt2"
    command = [f"checkpoint={tmp_path / 'policy.pt'}", f"output={path}", f"allow=[{__name__}]"]
    monkeypatch.setattr(sys, "argv", ["export", *command])
    assert export.main() == 0
    rows = torch.from_numpy(np.stack([second.collector.env._layout.row(one)[0] for one in observations]))
    inputs = {} if mask is None else {"action_mask": torch.tensor(mask, dtype=torch.bool).expand(20, 1, 3)}
    if second.policy.state_size:
        inputs["state"] = torch.zeros(20, second.policy.state_size)
    exported = torch.export.load(path).module()(observation=rows, **inputs)
    assert exported["action.choice"].tolist() == [action["choice"] for action in actions]
    numbers = np.stack([action["number"] for action in actions])
    torch.testing.assert_close(exported["action.number"], torch.from_numpy(numbers), atol=1e-5, rtol=0.0)


def test_stacked_frames_become_channels(tmp_path: Path) -> None:
    made = (f"env.make={__name__}:Sampled", "env.kwargs={sees: picture, masked: false}")
    stack = "env.wrappers=[{_target_: gymnasium.wrappers.FrameStackObservation, stack_size: 2}]"
    trainer = build(compose([*SHORT, *made, stack]), tmp_path / "run")
    assert trainer.policy.discrete_trunk.layers[0].in_channels == 2 * 3
    trainer.iterate()
    assert trainer.collector.rollout.observations.shape == (6, 4, 2 * 147)
    trainer.close()


@pytest.mark.slow
@pytest.mark.skipif(which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler on this machine")
def test_mixed_observations_compiled(tmp_path: Path) -> None:
    made = (f"env.make={__name__}:Sampled", "env.kwargs={sees: mixed, masked: true}")
    metrics = []
    for setting in ("none", "default"):
        more = "policy=gru", "policy.conditioning=autoregressive", "policy.distribution=beta"
        trainer = build(compose([*SHORT, *made, *more, f"trainer.compile={setting}"]), tmp_path / setting)
        metrics.append(trainer.iterate())
        trainer.close()
    eager, compiled = ({k: v for k, v in found.items() if k[:5] != "time/"} for found in metrics)
    assert compiled == pytest.approx(eager, rel=1e-3, abs=1e-4, nan_ok=True)
