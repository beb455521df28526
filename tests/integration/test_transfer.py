"""`init_from`: a new run from the weights of another one, in another environment or with more to decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import equipoise
from equipoise import ConfigError
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.policy.protocol import Heads, Policy
from equipoise.trainer.system import checkpoint
from tests.conftest import TINY
from tests.reliability.processes import lines, run, summary

HERE = "tests.integration.test_transfer"
GYMNASIUM = ("env=gymnasium", *TINY, "env.num_envs=4", "trainer.eval_every=0", "policy.hidden_sizes=[8]")


class Arm(gymnasium.Env[Any, Any]):
    """Four numbers to see, a mode and two joints to decide, two kinds of reward."""

    observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space: ClassVar[spaces.Space[Any]] = spaces.Dict(
        {"mode": spaces.Discrete(3), "wrist": spaces.Box(-1.0, 1.0, (2,))}
    )

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        info = {"speed": float(action["wrist"][0]), "care": float(action["mode"] == 1)}
        return self.observation_space.sample(), self.sign * info["speed"], self.steps == 5, False, info


class BiggerArm(Arm):
    """One head, one choice, and one joint more; what it shares with `Arm` stands in other places."""

    action_space = spaces.Dict(
        {
            "brake": spaces.Discrete(2),
            "mode": spaces.Discrete(4, start=-1),
            "elbow": spaces.Box(-1.0, 1.0, (1,)),
            "wrist": spaces.Box(-1.0, 1.0, (2,)),
        }
    )


class Wider(Arm):
    observation_space = spaces.Box(-1.0, 1.0, (6,), np.float32)


class Other(Wider):
    action_space = spaces.Dict({"wrist": spaces.Box(-1.0, 1.0, (1, 2)), "kind": spaces.Discrete(2)})


class Mirrored(Arm):
    """The same spaces, another task."""


def settings(env: str, *overrides: str) -> list[str]:
    return [*GYMNASIUM, f"env.make={HERE}:{env}", f"env.name={env}", *overrides]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with numbers of its own everywhere: in statistics, spreads and both critics."""
    folder = tmp_path_factory.mktemp("source") / "run"
    components = "env.reward_components={speed:1.0,care:0.5}"
    trainer = build(compose(settings("Arm", components, "optimizer.learning_rate=0.02")), folder)
    trainer.train()
    trainer.close()
    return folder


def started(folder: Path, source: Path, env: str, *overrides: str) -> Policy:
    """The policy with which a new run begins."""
    trainer = build(compose(settings(env, f"init_from={source}", *overrides)), folder / "new")
    trainer.close()
    return trainer.policy


def trained(source: Path) -> Policy:
    """The policy with which the source ended."""
    state = checkpoint.load(source / "checkpoints" / "last.pt")
    trainer = build(
        compose(settings("Arm", "env.reward_components={speed:1.0,care:0.5}")), source.parent / "again"
    )
    trainer.policy.load_state_dict(state["policy"])
    trainer.close()
    return trainer.policy


def outputs(policy: Policy, width: int = 4) -> Heads:
    seen = torch.rand(16, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        heads: Heads = policy(policy.normalize(seen))
    return heads._replace(values=policy.value_normalizer.denormalize(heads.values))


def test_another_environment_of_the_same_spaces_begins_with_the_same_policy(
    source: Path, tmp_path: Path
) -> None:
    new = outputs(started(tmp_path, source, "Mirrored", "env.reward_components=[speed,care]", "seed=9"))
    for mine, theirs in zip(new, outputs(trained(source)), strict=True):
        assert torch.equal(mine, theirs)


def test_more_heads_more_choices_and_more_parameters_keep_those_of_the_same_name(
    source: Path, tmp_path: Path
) -> None:
    new = outputs(started(tmp_path, source, "BiggerArm", "env.reward_components=[care,speed]"))
    old = outputs(trained(source))
    assert torch.equal(new.logits[:, 1, 1:], old.logits[:, 0])  # choices 0, 1, 2 of -1, 0, 1, 2
    assert torch.equal(new.mean[:, 1:], old.mean)
    assert torch.equal(new.log_std[1:], old.log_std)
    assert torch.equal(new.values[:, [1, 0]], old.values[:, [0, 1]])
    fresh = compose(settings("BiggerArm", "env.reward_components=[care,speed]"))
    untrained = build(fresh, tmp_path / "fresh")
    untrained.close()
    assert torch.equal(new.log_std[0], outputs(untrained.policy).log_std[0])
    assert new.mean[:, 0].abs().max() < 0.1


def told(cwd: Path, *arguments: str) -> list[str]:
    """What a command says of `init_from`, without the path."""
    ended = run(cwd, *arguments)
    assert ended.code == 0, ended.output
    said = [line for line in ended.output.splitlines() if line.startswith("init_from:")]
    return [line.partition("last.pt: ")[2] for line in said]


def test_a_line_says_what_was_taken_what_not_and_why(source: Path, tmp_path: Path) -> None:
    components = "env.reward_components=[speed,care]"
    (said,) = told(tmp_path, *settings("BiggerArm", components, f"init_from={source}"))
    assert said == (
        "9 of 9 layers taken; in part: log_std (2 parameters of 3 here), discrete_head (3 choices of 6 here), "
        "continuous_head (2 parameters of 3 here)"
    )
    (said,) = told(
        tmp_path, *settings("Wider", components, f"init_from={source}", "policy.shared_critic=true")
    )
    assert said == (
        "5 of 8 layers taken; begin anew: normalizer ([4] there, [6] here), "
        "normalizer.moments ([4] there, [6] here), discrete_trunk.layers.0 ([8, 4] there, [8, 6] here); "
        "not in this policy: value_trunk.layers.0"
    )


def test_where_nothing_fits_the_run_does_not_begin(source: Path, tmp_path: Path) -> None:
    arguments = settings("Other", f"init_from={source}", "policy.hidden_sizes=[12]")
    refused = run(tmp_path, *arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert refused.code == 2
    assert len(refused.output.splitlines()) == 1
    assert refused.output.startswith(f"Configuration error: init_from: nothing in {source}/")
    assert "discrete_head (none of its choices is in the checkpoint)" in refused.output
    assert "discrete_trunk.layers.0 ([8, 4] there, [12, 6] here)" in refused.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["nowhere", "empty", "no_policy.pt"])
def test_what_holds_no_policy_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    checkpoint.save(tmp_path / "no_policy.pt", {"policy": {"value_head.bias": torch.zeros(1)}})
    refused = run(tmp_path, *settings("Arm", f"init_from={place}"))
    assert refused.code == 2
    assert len(refused.output.splitlines()) == 1
    assert refused.output.startswith("Configuration error: init_from: ")
    assert place in refused.output
    assert not (tmp_path / "runs").exists()


def test_a_run_from_weights_goes_on_like_any_other(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = settings("Mirrored", f"init_from={source}", f"hydra.run.dir={folder}", "resume=auto")
    assert run(tmp_path, *command).code == 0
    first = lines(folder)
    longer = run(tmp_path, *command, "trainer.total_env_steps=512")
    assert longer.code == 0, longer.output
    assert "init_from:" not in longer.output
    assert lines(folder)[: len(first)] == first
    assert summary(folder)["env_steps"] == 512
    other = run(tmp_path, f"resume={folder}", f"init_from={source}")
    assert other.code == 2
    assert "init_from cannot be changed when a run goes on" in other.output


def test_from_python(source: Path, tmp_path: Path) -> None:
    tiny = {"total_env_steps": 32, "rollout_steps": 8, "hidden_sizes": [8], "progress": False, "num_envs": 4}
    new = equipoise.train(Mirrored, init_from=source, folder=tmp_path / "new", learning_rate=1e-30, **tiny)
    observation = np.full(4, 0.3, np.float32)
    before = equipoise.load(source, env=Arm).act(observation)
    after = new.load().act(observation)
    assert after["mode"] == before["mode"]
    with pytest.raises(ConfigError, match="init_from: "):
        equipoise.train(Mirrored, init_from=tmp_path / "none", folder=tmp_path / "no", **tiny)
