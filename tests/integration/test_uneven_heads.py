"""One head of very many choices beside small ones: memory follows the choices that there are."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.utils._python_dispatch import TorchDispatchMode

import equipoise
from equipoise.envs.action_table import ActionTable
from equipoise.trainer import export
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.system import checkpoint
from tests.conftest import TINY
from tests.integration.test_no_synchronisation import learn
from tests.reliability.test_resume import EVERYTHING, assert_resumes_exactly

ROOT = Path(__file__).parents[2]
WIDE, SMALL = 600, 7
CHOICES = WIDE + 3 * SMALL
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime")),
    reason="onnxscript and onnxruntime are not installed: pip install -e '.[export]'",
)


class Depot(gymnasium.Env[Any, Any]):
    """Picks a place among many, of which the lamps tell the tens; only every third place is free."""

    observation_space = spaces.Box(0.0, 1.0, (4,), np.float32)
    action_space = spaces.Tuple(
        (spaces.MultiDiscrete([3] * SMALL), spaces.Discrete(WIDE), spaces.Box(-1.0, 1.0, (2,), np.float32))
    )

    def _see(self) -> tuple[Any, dict[str, Any]]:
        self._free = np.arange(WIDE) % 3 == self.np_random.integers(3)
        return self.np_random.random(4, np.float32), {"action_mask": (None, self._free.astype(np.int8), None)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._see()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        small, place, (first, _) = action
        assert self._free[place], "a place that is taken"
        reward = float(np.mean(small == 1) + place / WIDE - abs(first))
        ended = bool(self.np_random.random() < 0.2)
        return (
            *self._see()[:1],
            reward,
            ended,
            False,
            {"action_mask": (None, self._free.astype(np.int8), None)},
        )


class Free(Depot):
    """Every place is free."""

    def _see(self) -> tuple[Any, dict[str, Any]]:
        self._free = np.ones(WIDE, np.bool_)
        return self.np_random.random(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return *super().step(action)[:4], {}


class Padding(ActorCritic):
    """Somebody's own policy, which knows of `[B, H, C]` alone."""

    def actor(self, inputs: torch.Tensor, log_std: torch.Tensor | None = None) -> Any:
        logits, mean, log_std = super().actor(inputs, log_std)
        rows = torch.split(logits, list(self.space.choice_counts), 1)
        padded = [torch.nn.functional.pad(row, (0, WIDE - row.shape[1]), value=7.0) for row in rows]
        return torch.stack(padded, 1), mean, log_std


gymnasium.register("test/Depot-v0", Depot)
gymnasium.register("test/FreeDepot-v0", Free)
OVERRIDES = ("env=gymnasium", f"env.id={__name__}:test/Depot-v0", "policy=mlp", "optimizer=adam", *TINY)
FREE = ("env=gymnasium", f"env.id={__name__}:test/FreeDepot-v0", "policy=mlp", "optimizer=adam", *TINY)


class Largest(TorchDispatchMode):
    """The size in numbers of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.size = max(self.size, made.numel())
        return made


@pytest.mark.parametrize("overrides", [OVERRIDES, FREE])
def test_nothing_is_larger_than_the_choices_that_there_are(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    with Largest() as largest:
        trainer = build(compose([*overrides]), tmp_path / "run")
        learn(trainer)
    samples = trainer.collector.rollout.done.numel()
    assert largest.size == samples * CHOICES, "heads times the widest one would be eight times as much"
    trainer.close()


@pytest.mark.parametrize("overrides", [OVERRIDES, FREE])
def test_it_resumes_exactly(overrides: tuple[str, ...], tmp_path: Path) -> None:
    assert_resumes_exactly(compose([*overrides, *EVERYTHING, "env.num_envs=2"]), tmp_path)


def test_a_padded_mask_of_an_older_checkpoint_goes_on(tmp_path: Path) -> None:
    trainer = build(compose([*OVERRIDES, "env.num_envs=2"]), tmp_path / "run")
    trainer.iterate()
    state = trainer.collector.state_dict()
    row = state["action_mask"]
    assert row.shape == (2, CHOICES)
    state["action_mask"] = torch.zeros(2, SMALL + 1, WIDE, dtype=torch.bool)
    for head, part in enumerate(torch.split(row, list(trainer.policy.space.choice_counts), 1)):
        state["action_mask"][:, head, : part.shape[1]] = part
    trainer.collector.load_state_dict(state)
    assert torch.equal(trainer.collector.state_dict()["action_mask"], row)
    trainer.iterate()
    trainer.close()


def test_a_policy_that_pads_trains_and_gives_what_one_that_does_not_gives(tmp_path: Path) -> None:
    results = []
    for number, own in enumerate([(), (f"policy._target_={__name__}.Padding",)]):
        trainer = build(compose([*OVERRIDES, *own]), tmp_path / str(number))
        results.append([{k: v for k, v in trainer.iterate().items() if k[:5] != "time/"} for _ in range(2)])
        trainer.close()
    assert results[1] == [pytest.approx(row, rel=1e-5, abs=1e-6) for row in results[0]]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("form", ["torch", pytest.param("onnx", marks=needs_onnx)])
def test_the_exported_file_is_fed_by_its_json(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, Any] = {"num_envs": 4, "rollout_steps": 8, "num_minibatches": 1, "hidden_sizes": [8]}
    run = equipoise.train(
        Depot, folder=tmp_path / "run", total_env_steps=64, eval_every=0, final_eval_episodes=4, **small
    )
    state = checkpoint.load(run.folder / "checkpoints" / "last.pt")
    for name in ("discrete_head.weight", "continuous_head.weight"):
        state["policy"][name] *= 100.0
    checkpoint.save(tmp_path / "policy.pt", state)
    arguments = [f"checkpoint={tmp_path / 'policy.pt'}", f"format={form}", f"allow=[{__name__}]"]
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    assert export.main() == 0
    file = tmp_path / {"torch": "policy-policy.pt2", "onnx": "policy-policy.onnx"}[form]
    _, mask = json.loads(file.with_name(f"{file.name}.json").read_text())["inputs"]
    assert mask["shape"] == ["batch", CHOICES]
    assert "one head's choices after the other's" in mask["meaning"]
    monkeypatch.syspath_prepend(ROOT / "examples")
    from exported_policy import ExportedPolicy  # type: ignore[import-not-found, unused-ignore]

    exported, policy, env = ExportedPolicy(file), equipoise.load(tmp_path / "policy.pt"), Depot()
    observation, info = env.reset(seed=0)
    for _ in range(50):
        free = info["action_mask"][1]
        masks = [np.ones(3 * SMALL), free]
        theirs, ours = exported.act(observation, masks), policy.act(observation, info["action_mask"])
        assert free[theirs[1]]
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(other, mine, atol=1e-5)
        observation, *_, info = env.step(theirs)


def test_random_actions_are_evenly_spread_over_what_is_valid() -> None:
    from equipoise.envs.gymnasium_adapter import GymnasiumEnv
    from equipoise.envs.random_numbers import StreamPerEnv
    from equipoise.envs.references import random_action

    env = GymnasiumEnv(num_envs=2, device=torch.device("cpu"), id=f"{__name__}:test/Depot-v0")
    assert not ActionTable(env.action_space).padded
    mask, stream = torch.zeros(2, CHOICES, dtype=torch.bool), StreamPerEnv(2, torch.device("cpu"), 0)
    mask[:, : 3 * SMALL : 3] = mask[:, 1 : 3 * SMALL : 3] = True  # of every small head 0 and 1
    mask[0, [3 * SMALL + 5, 3 * SMALL + 599]] = mask[1, 3 * SMALL + 17] = True
    drawn = [random_action(env, mask, stream) for _ in range(400)]
    places = torch.stack([action[1] for action in drawn])
    assert set(places[:, 0].tolist()) == {5, 599}
    assert abs(float((places[:, 0] == 5).float().mean()) - 0.5) < 0.1
    assert set(places[:, 1].tolist()) == {17}
    small = torch.stack([action[0] for action in drawn]).float()
    assert small.max() == 1.0
    assert (small.mean((0, 1)) - 0.5).abs().max() < 0.1
    env.close()
