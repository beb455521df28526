"""Datasets of Minari as demonstrations: Dict and Tuple actions, and what does not fit in one message."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.trainer import minari_demonstrations as reading
from equipoise.trainer.minari_demonstrations import read_minari
from equipoise.trainer.spaces import HybridSpace

SIDES = spaces.Discrete(3, start=5)


class Valve(gymnasium.Env[Any, Any]):
    """Of which only the spaces are used: a clock twice and a colour, a side and two flows."""

    observation_space = spaces.Dict(clock=spaces.Box(0, 9, (2,)), colour=spaces.Discrete(2))

    def __init__(self, kind: str = "dict") -> None:
        flow = spaces.Box(-2.0, 6.0, (2,), np.float32)
        self.action_space = (
            spaces.Dict(side=SIDES, flow=flow) if kind == "dict" else spaces.Tuple([SIDES, flow])
        )


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("minari", "h5py")),
    reason="minari is not installed: pip install -e '.[minari]'",
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of what a dataset for others should say
@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_a_dataset_is_read_as_it_was_played(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer  # the collector itself needs JAX

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    played = []
    for episode in range(2):
        side, flow = np.array([5, 6, 7, 5]), np.tile(np.float32([-2.0, 2.0 + episode]), (4, 1))
        clock = np.arange(5, dtype=np.float32)  # one observation more than there are actions
        played.append(
            EpisodeBuffer(
                id=episode,
                observations={"clock": np.stack([clock, clock], 1), "colour": np.arange(5) % 2},
                actions={"side": side, "flow": flow} if kind == "dict" else (side, flow),
                rewards=[1.0] * 4,
                terminations=[False] * 4,
                truncations=[False] * 3 + [True],
            )
        )
    example = Valve(kind)
    named: Any = {"action_space": example.action_space, "observation_space": example.observation_space}
    minari.create_dataset_from_buffers(f"valve/{kind}-v0", played, data_format="hdf5", **named)
    env = GymnasiumEnv(num_envs=1, make=lambda: Valve(kind))
    space = HybridSpace(env.action_space, env.relevance)
    shown = read_minari(f"minari:valve/{kind}-v0", env, space)
    clock = torch.arange(4.0)
    even = (clock % 2 == 0).float()
    episode = torch.stack([clock, clock, even, 1 - even], 1)
    assert torch.equal(shown.observations, torch.cat([episode, episode]))
    assert shown.actions.discrete[:, 0].tolist() == [0, 1, 2, 0] * 2
    torch.testing.assert_close(shown.actions.continuous, torch.tensor([[-1.0, 0.0]] * 4 + [[-1.0, 0.25]] * 4))
    assert bool(shown.action_mask.all())

    with pytest.raises(ValueError, match=f"source = minari:nobody-v0: .*; there are valve/{kind}-v0"):
        read_minari("minari:nobody-v0", env, space)
    other = GymnasiumEnv(num_envs=1, id="CartPole-v1")
    with pytest.raises(ValueError, match=r"episode 0 does not fit the environment: .*the dataset has Dict"):
        read_minari(f"minari:valve/{kind}-v0", other, HybridSpace(other.action_space))


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading.importlib.util, "find_spec", lambda name: None)
    env = GymnasiumEnv(num_envs=1, make=Valve)
    with pytest.raises(ValueError, match=r"source = minari:x-v0: needs more packages: pip install .*minari"):
        read_minari("minari:x-v0", env, HybridSpace(env.action_space))
