"""Conditioning × memory × encoder × distribution × masks: each composes, or is refused with one message."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from equipoise.envs.dependent_masks import DependentMask, MaskTable
from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.envs.protocol import Timestep
from equipoise.trainer.build import make_trainer
from equipoise.trainer.configuration.checking import check
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.recorder import Recorder
from tests.conftest import composed

ENVS, CHOICES, LASTS = 4, 3, 3
CAMERA = spaces.Box(0, 255, (5, 5, 2), np.uint8)
UNITS = {"units": spaces.Box(-9, 9, (2, 3)), "units_mask": spaces.MultiBinary(2)}
OBSERVATIONS = {
    "vector": spaces.Box(-9, 9, (3,)),
    "picture": CAMERA,
    "parts": spaces.Dict(camera=CAMERA, speed=spaces.Box(-9, 9, (2,)), gear=spaces.Discrete(1100), **UNITS),
    "entities": spaces.Dict(wind=spaces.Box(-9, 9, (2,)), **UNITS),
    "node_set": spaces.Box(0, 1, (2, 3)),
}
SETS = ("entities", "node_set")
"""Those of which each thing has an action of its own; the policies are called so, too."""
MASKS = ("none", "own", "dependent")


class Sampled:
    """Observations at random, two choices and two numbers to answer with. Episodes last three steps.

    Choice 0 is never valid of the first decision, nor the same choice of the second where masks depend.
    """

    action_space = spaces.Dict(choice=spaces.MultiDiscrete([CHOICES] * 2), number=spaces.Box(-1, 1, (2, 1)))
    reward_names, reward_weights, relevance = ("right", "near"), (1.0, 0.5), None

    def __init__(self, num_envs: int, device: torch.device, sees: str, masks: str) -> None:
        self.num_envs, self.device, self.masks = num_envs, device, masks
        layout = ObservationLayout(OBSERVATIONS[sees])
        self.observation_layout = layout.describe()
        self.observation_space = spaces.Box(-np.inf, np.inf, OBSERVATIONS[sees].shape or (layout.width,))
        space = deepcopy(OBSERVATIONS[sees])
        space.seed(0)
        self.rows = torch.from_numpy(np.stack([layout.row(space.sample())[0] for _ in range(16)]))
        self.clock = torch.zeros(num_envs, dtype=torch.int64)

    def look(self) -> Tensor:
        return self.rows[(torch.arange(self.num_envs) * 5 + self.clock) % len(self.rows)]

    def mask(self) -> Any:
        if self.masks == "none":
            return None
        own = torch.ones(self.num_envs, 2, CHOICES, dtype=torch.bool)
        own[:, 0, 0] = False
        other = ~torch.eye(CHOICES, dtype=torch.bool).expand(self.num_envs, -1, -1)
        return own if self.masks == "own" else DependentMask(own, (MaskTable(1, (0,), other),))

    def reset(self, seed: int | None = None) -> tuple[Tensor, Any]:
        self.clock = torch.arange(self.num_envs) % LASTS
        return self.look(), self.mask()

    def step(self, action: Any) -> Timestep:
        choice, number = action["choice"], action["number"]
        assert self.masks == "none" or bool((choice[:, 0] > 0).all())
        assert self.masks != "dependent" or bool((choice[:, 0] != choice[:, 1]).all())
        rewards = torch.stack([(choice == 1).float().mean(1), -number.square().mean((1, 2))], 1)
        self.clock = self.clock + 1
        final, over = self.look(), self.clock == LASTS
        self.clock = self.clock.masked_fill(over, 0)
        even = torch.arange(self.num_envs) % 2 == 0
        return Timestep(self.look(), rewards, over & even, over & ~even, final, self.mask(), {})

    def state_dict(self) -> dict[str, Any]:
        return {"clock": self.clock.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.clock = state["clock"].clone()

    def render(self, index: int = 0) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


SHORT = (
    f"env._target_={__name__}.Sampled",
    f"env.num_envs={ENVS}",
    "optimizer=adam",
    "trainer.batch.rollout_steps=4",
    "trainer.batch.update_epochs=1",
    "trainer.batch.num_minibatches=1",
    "trainer.total_env_steps=64",
    "trainer.eval_every=0",
    "trainer.stages=[entropy_regularization,gradient_scaling]",  # the others know nothing of a policy
    "trainer.gradient_scaling.measure_every=1",
    "device=cpu",
)
SIZES = {"hidden_sizes": [6], "activation": "tanh"}
PICTURE = {"picture": {"layers": [[4, 3, 1]], "width": 6}}
EVERY = list(
    product(
        ("none", "choices", "autoregressive"), ("none", "one"), OBSERVATIONS, ("gaussian", "beta", "squashed"), MASKS
    )
)  # fmt: skip


@cache
def written(policy: str) -> dict[str, Any]:
    """The configuration of a policy as a plain dictionary."""
    return composed((*SHORT, f"policy={policy}", "env.sees=vector", "env.masks=none"), Path.cwd()).plain()


def config(conditioning: str, memory: str, sees: str, distribution: str, masks: str) -> Config:
    raw = deepcopy(written(sees if sees in SETS else "auto"))
    raw["env"] |= {"sees": sees, "masks": masks}
    policy = raw["policy"]
    policy |= {"conditioning": conditioning, "distribution": distribution}
    policy["encoder"] |= SIZES | (PICTURE if sees in ("picture", "parts") else {})
    if sees in SETS:
        policy["critic_encoder"] |= SIZES
    if memory != "none":  # one kind or the other, each beside everything else
        kind = "LSTM" if (masks == "own") != (distribution == "beta") else "GRU"
        policy["memory"] = {"_target_": f"equipoise.trainer.policy.memory.{kind}", "hidden_size": 5}
    return check(raw)


def refusal(conditioning: str, memory: str, sees: str) -> str | None:
    """What the message begins with."""
    if sees in SETS and memory != "none":
        return "policy.memory: remembers a row of features"
    if sees in SETS and conditioning == "autoregressive":
        return "policy.conditioning = autoregressive: nodes of a set have no order"
    return None


@pytest.mark.parametrize(
    "case", [case for case in EVERY if refusal(*case[:3]) and case[3:] == ("beta", "own")]
)
def test_what_does_not_compose_is_refused_with_one_message(case: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"^{refusal(*case[:3])}") as error:
        make_trainer(config(*case), Recorder())
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("sees", OBSERVATIONS)
def test_an_update_of_every_combination(sees: str) -> None:
    """Resumes and exports of some of them: `test_combinations.py`."""
    for case in EVERY:
        if case[2] != sees or refusal(*case[:3]):
            continue
        trainer = make_trainer(config(*case), Recorder())
        before = trainer.learner.flat.vector.clone()
        metrics = trainer.iterate()
        after = trainer.learner.flat.vector
        assert metrics["optimizer/skipped"] == 0, case
        assert bool(after.isfinite().all()), case
        assert not torch.equal(before, after), case
