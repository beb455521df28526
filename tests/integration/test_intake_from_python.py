"""Environments as others publish them: trained, loaded and asked for an action as they are."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import equipoise
from equipoise.trainer import play

TINY: dict[str, Any] = {
    "total_env_steps": 32,
    "num_envs": 2,
    "rollout_steps": 8,
    "update_epochs": 1,
    "num_minibatches": 1,
    "eval_every": 0,
    "final_eval_episodes": 1,
    "device": "cpu",
    "hidden_sizes": [4],
}


def train(environment: Any, folder: Path, *overrides: str) -> equipoise.Run:
    return equipoise.train(environment, folder=folder, progress=False, overrides=list(overrides), **TINY)


class Quest(gymnasium.Env[Any, Any]):
    """Tells its mission in words, counts a step too far and has numbers where arrays belong."""

    observation_space = spaces.Dict(
        mission=spaces.Text(20),
        place=spaces.Box(-1.0, 1.0, (1,), np.float32),
        seen=spaces.Tuple((spaces.Sequence(spaces.Discrete(3)), spaces.Discrete(4))),
    )
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def observe(self) -> Any:
        return {"mission": "go there", "place": float(self.np_random.uniform(-1, 1)), "seen": ((1,), self.t)}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.observe(), [float(action)], self.t == 4, False, {}


def test_a_quest_is_refused_with_the_words_that_make_it_run(tmp_path: Path) -> None:
    with pytest.raises(equipoise.ConfigError) as refusal:
        train(Quest, tmp_path / "refused")
    proposed = str(refusal.value).partition("env.ignore=")[2].partition(" leaves")[0]
    run = train(Quest, tmp_path / "run", f"env.ignore={proposed}")
    assert run.summary["status"] == "finished"
    policy = equipoise.load(run.folder)
    observation, _ = Quest().reset(seed=1)
    action = policy.act(observation)
    assert action in Quest.action_space
    del observation["mission"]
    assert policy.act(observation) == action  # what it never saw may be absent
    many = gymnasium.vector.SyncVectorEnv([Quest] * 3, copy=False)
    batch = {
        "mission": ("go", "stay", "a longer one"),
        "place": np.full((3, 1), observation["place"]),
        "seen": (((1,), (), (2, 2)), np.zeros(3, int)),
    }
    assert policy.act(batch).tolist() == [action] * 3
    many.close()
    assert equipoise.evaluate(run, 1)["return_mean"] is not None


class Unclosing(Quest):
    """Fails in `close`, and in the third picture."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.pictures, self.t = render_mode, 0, -1

    def observe(self) -> Any:
        return np.zeros(1, np.float32)

    def render(self) -> Any:
        self.pictures += 1
        if self.pictures == 3:
            raise OSError("no display")
        return np.zeros((4, 6, 3), np.uint8)

    def close(self) -> None:
        raise OSError("the socket is gone")


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_failing_close_or_picture_is_worded_and_takes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, vectorization: str
) -> None:
    run = train(Unclosing, tmp_path / "run", f"env.vectorization={vectorization}")
    said = r"WARNING: .*Unclosing: environment \d, step \d+: close raised OSError: the socket is gone"
    assert re.search(said, capsys.readouterr().err)
    assert run.summary["status"] == "finished"
    assert equipoise.evaluate(run, 1)["return_mean"] is not None
    monkeypatch.setattr(sys, "argv", ["play", f"checkpoint={run.folder}", f"allow=[{__name__}]"])
    capsys.readouterr()
    assert play.main() == 2
    failed = capsys.readouterr().err
    assert re.search(r"Unclosing: environment 0, step \d+: render raised OSError: no display\n$", failed)


class WantsNumbers(Quest):
    """Its boxes have one entry, and it takes no arrays, as pyRDDLGym's environments."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Dict(kind=spaces.Discrete(2), push=spaces.Box(-1.0, 1.0, (1,), np.float32))

    def observe(self) -> Any:
        return 0.5

    def step(self, action: Any) -> Any:
        if isinstance(action["push"], np.ndarray):
            raise ValueError("received an array where a scalar value is required")
        return super().step(action["push"])


def test_a_policy_sends_numbers_where_its_environment_took_no_arrays(tmp_path: Path) -> None:
    policy = train(WantsNumbers, tmp_path / "run").load()
    env = WantsNumbers()
    observation, _ = env.reset(seed=0)
    assert env.step(policy.act(observation))[2] is False
