"""Observations of as many things as there happen to be: told what to type, then sets with a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.envs.sequences import PadSequences
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.policy.encoders import Parts

SHIPS = spaces.Sequence(spaces.Box(1.0, 9.0, (2,), np.float32))


class Harbour(gymnasium.Env[Any, Any]):
    """None to four ships; choose how many."""

    action_space = spaces.Discrete(5)

    def __init__(self, kind: str = "dict") -> None:
        forms = {"dict": {"ships": SHIPS, "wind": spaces.Box(-1, 1, (1,))}, "stacked": {"ships": stacked()}}
        self.observation_space = SHIPS if kind == "alone" else spaces.Dict(forms[kind])
        self.kind = kind

    def look(self) -> Any:
        self.ships = self.np_random.uniform(1, 9, (self.np_random.integers(5), 2)).astype(np.float32)
        if self.kind == "stacked":
            return {"ships": self.ships}
        ships = tuple(self.ships)
        return ships if self.kind == "alone" else {"ships": ships, "wind": np.zeros(1, np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {}

    def step(self, action: Any) -> Any:
        reward, self.t = float(action == len(self.ships)), self.t + 1
        return self.look(), reward, False, self.t == 8, {}


def stacked() -> Any:
    return spaces.Sequence(spaces.Box(1.0, 9.0, (2,), np.float32), stack=True)


@pytest.mark.parametrize("kind", ["dict", "stacked", "alone"])
def test_things_become_a_set_with_a_mask(kind: str) -> None:
    env = PadSequences(Harbour(kind), longest=6)
    layout, counts = ObservationLayout(env.observation_space), set()
    for seed in range(40):
        shown, _ = env.reset(seed=seed)
        assert shown in env.observation_space
        layout.row(shown)
        found = shown if kind == "alone" else shown["ships"]
        ships = env.unwrapped.ships  # type: ignore[attr-defined]
        np.testing.assert_array_equal(found["things"][: len(ships)], ships)
        assert not found["things"][len(ships) :].any()
        assert found["things_mask"].tolist() == [1] * len(ships) + [0] * (6 - len(ships))
        counts.add(len(ships))
    assert counts == {0, 1, 2, 3, 4}


def test_what_does_not_fit_is_one_message() -> None:
    env = PadSequences(Harbour(), longest=1)
    with pytest.raises(ValueError, match=r"observation\['ships'\] holds \d things; .* room for longest = 1"):
        [env.reset(seed=seed) for seed in range(9)]
    with pytest.raises(ValueError, match="longest = 0: must be a whole number, at least 1"):
        PadSequences(Harbour(), longest=0)
    with pytest.raises(ValueError, match="no Sequence of Box in the observation space"):
        PadSequences(gymnasium.make("CartPole-v1"), longest=3)


def test_a_run_is_told_what_to_type_and_then_learns_from_all_of_them(tmp_path: Path) -> None:
    """The features do not change with what stands where nothing is."""
    short = "env.num_envs=2", "trainer.batch.rollout_steps=8", "trainer.batch.num_minibatches=1", "device=cpu"
    made = "env=gymnasium", f"env.make={__name__}:Harbour", *short
    with pytest.raises(ValueError, match=r"env\.wrappers=.*PadSequences, longest: 16}\] makes sets") as error:
        build(compose([*made]), tmp_path / "refused")
    typed = str(error.value).partition("env.wrappers=")[2].partition(" makes")[0]
    trainer = build(compose([*made, f"env.wrappers={typed}"]), tmp_path / "run")
    assert trainer.iterate()["optimizer/skipped"] == 0
    encoder = trainer.policy.discrete_trunk
    assert isinstance(encoder, Parts)
    assert encoder.masks == {"ships.things": "ships.things_mask"}
    rows = torch.zeros(2, 16 * 3 + 1)
    rows[:, 32:34] = 1.0  # two ships
    rows[1, 8:32] = 7.0
    torch.testing.assert_close(*encoder(rows))
    trainer.close()
