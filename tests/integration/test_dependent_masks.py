"""A forbidden pair is never played: while training, in evaluations, films and by exported files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import equipoise
import equipoise.testing
from equipoise.envs.checked import CheckedEnv
from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.random_numbers import StreamPerEnv
from equipoise.envs.references import random_action
from equipoise.trainer import export
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.first_look import look_at
from equipoise.trainer.monitor.film import film_episode
from equipoise.trainer.restore import restore
from equipoise.trainer.targets import prepare
from tests.envs.pairs import BatchedPairs, FunctionPairs, Pairs
from tests.reliability.test_resume import assert_resumes_exactly

SMALL = (
    "policy=mlp",
    "policy.hidden_sizes=[16]",
    "env.num_envs=4",
    "device=cpu",
    "threads=1",
    "trainer.batch.rollout_steps=16",
    "trainer.batch.num_minibatches=4",
    "trainer.total_env_steps=320",
    "trainer.eval_episodes=4",
    "trainer.final_eval_episodes=4",
)
PAIRS = ("env=gymnasium", "env.id=tests.envs.pairs:test/Pairs-v0", *SMALL)
EVERY = ("none", "choices", "autoregressive")


@pytest.mark.parametrize("conditioning", EVERY)
def test_a_run_and_what_it_leaves_never_play_a_forbidden_pair(
    conditioning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(compose([*PAIRS, f"policy.conditioning={conditioning}"]), tmp_path / "run")
    first = trainer.iterate()
    assert first["loss/kl"] < 0.1
    trainer.train()  # and evaluates, deterministic and sampled
    mask = trainer.collector.rollout.action_mask
    assert 1 <= int(mask[..., 1, :].sum(-1).min()) < int(mask[..., 1, :].sum(-1).max()), (
        "as they were resolved"
    )
    path = tmp_path / "run" / "checkpoints" / "last.pt"

    policy = equipoise.load(path, allow=["tests"])
    monkeypatch.setattr(sys, "argv", ["export", f"checkpoint={path}", "allow=[tests]"])
    assert export.main() == 0
    exported = _example().ExportedPolicy(next(path.parent.glob("*.pt2")))
    env = Pairs()
    observation, info = env.reset(seed=5)
    for step in range(40):
        action = policy.act(observation, info["action_mask"], deterministic=step % 3 > 0)
        if step % 3:
            mask = info["action_mask"]
            theirs = exported.act(observation, [mask["unit"], mask["target"]])
            assert (action["unit"], action["target"]) == (theirs["unit"], theirs["target"])
            np.testing.assert_allclose(action["aim"], theirs["aim"], atol=1e-5)
        observation, _, _, truncated, info = env.step(action)
        if truncated:
            observation, info = env.reset()
    restored = restore(path, "cpu", ["tests"], overrides={"env.render_mode": "rgb_array"})
    film = film_episode(restored.policy, restored.make_env(1), 0, "pairs", deterministic=False)
    assert film.steps == 8


def _example() -> Any:
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    try:
        import exported_policy
    finally:
        sys.path.pop(0)
    return exported_policy


def test_what_is_exported_as_onnx_takes_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    trainer = build(compose([*PAIRS, "policy.conditioning=autoregressive"]), tmp_path / "run")
    trainer.train()
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    monkeypatch.setattr(sys, "argv", ["export", f"checkpoint={path}", "allow=[tests]", "format=onnx"])
    assert export.main() == 0
    exported = _example().ExportedPolicy(next(path.parent.glob("*.onnx")))
    policy, env = equipoise.load(path, allow=["tests"]), Pairs()
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        mask = info["action_mask"]
        theirs = exported.act(observation, [mask["unit"], mask["target"]])
        action = policy.act(observation, mask)
        assert (action["unit"], action["target"]) == (theirs["unit"], theirs["target"])
        env.step(theirs)


@pytest.mark.parametrize("conditioning", EVERY)
@pytest.mark.parametrize("env", [BatchedPairs, FunctionPairs])
def test_a_batched_environment_may_give_a_tensor_or_a_function(
    conditioning: str, env: type[Any], tmp_path: Path
) -> None:
    target = f"env._target_=tests.envs.pairs.{env.__name__}"
    trainer = build(compose([target, *SMALL, f"policy.conditioning={conditioning}"]), tmp_path / "run")
    metrics = [trainer.iterate() for _ in range(3)]
    assert [row["episode/forbidden"] for row in metrics] == [0.0] * 3
    assert bool(trainer.collector.rollout.action_mask[:, :, 1].sum(-1).eq(2).all())
    assert trainer.evaluator.run(4, 0).metrics["forbidden"] == 0.0


def test_both_ways_to_say_it_are_the_same_run(tmp_path: Path) -> None:
    parameters = []
    for env in (BatchedPairs, FunctionPairs):
        target = f"env._target_=tests.envs.pairs.{env.__name__}"
        config = compose([target, *SMALL, "policy.conditioning=autoregressive"])
        trainer = build(config, tmp_path / env.__name__)
        trainer.iterate()
        parameters.append(trainer.learner.flat.vector.detach().clone())
    assert torch.equal(*parameters)


@pytest.mark.parametrize(
    "env", [PAIRS[:2], ("env._target_=tests.envs.pairs.BatchedPairs",), ("env._target_=tests.envs.pairs.FunctionPairs",)]
)  # fmt: skip
def test_a_resumed_run_goes_on_exactly(env: tuple[str, ...], tmp_path: Path) -> None:
    settings = ("policy.conditioning=autoregressive", "trainer.eval_every=0")
    assert_resumes_exactly(compose([*env, *SMALL, *settings]), tmp_path)


@pytest.mark.parametrize("form", ["dict", "numbers"])
def test_random_actions_keep_to_what_is_valid(form: str) -> None:
    env = GymnasiumEnv(make=Pairs, num_envs=3, kwargs={"form": form})
    checked, stream = CheckedEnv(env), StreamPerEnv(3, env.device, 0)
    _, mask = checked.reset(0)
    for _ in range(100):
        mask = checked.step(random_action(env, mask, stream)).action_mask
    said = look_at(env, 0, max_steps=3).lines()[0]
    assert (
        said == "masks: 100% of the choices are valid on average; what is valid of head 1 depends on head 0"
    )
    env.close()


def test_check_env_plays_such_an_environment() -> None:
    assert equipoise.testing.check_env(Pairs, steps=30) == []


def test_the_order_that_the_masks_need_is_said(tmp_path: Path) -> None:
    wanted = (
        r"policy.order = \[target,unit\]: the mask of target depends on unit, which must come before it: "
        r"policy.order=\[unit,target\]"
    )
    with pytest.raises(ValueError, match=wanted):
        build(compose([*PAIRS, "env.kwargs.reverse=true"]), tmp_path / "a")
    trainer = build(
        compose([*PAIRS, "env.kwargs.reverse=true", "policy.order=[unit,target]"]), tmp_path / "b"
    )
    trainer.iterate()
    trainer.close()


def masks_of(form: str, mask: Any = None) -> None:
    class Odd(Pairs):
        def _info(self) -> dict[str, Any]:
            return super()._info() if mask is None else {"action_mask": mask}

    env = GymnasiumEnv(make=lambda: Odd(form=form), num_envs=2)  # type: ignore[arg-type]
    try:
        checked, stream = CheckedEnv(env), StreamPerEnv(2, env.device, 0)
        _, masks = checked.reset(0)
        for _ in range(3):
            masks = checked.step(random_action(env, masks, stream)).action_mask
    finally:
        env.close()


@pytest.mark.parametrize(
    ("form", "given", "table", "message"),
    [
        ("empty", None, None, "leaves target no valid choice once unit = 1"),
        ("late", None, None, r"of target depends on \[0\] in copy 0; must always be on the same decisions, .* none"),
        ("dict", "aim", np.ones((3, 4)), "of target has 'given': 'aim'; allowed are other decisions: unit"),
        ("dict", "target", np.ones((4, 4)), "allowed are other decisions: unit"),
        ("dict", 2, np.ones((3, 4)), "allowed are other decisions: unit"),
        ("dict", "unit", np.ones((4, 3)), r"of target must be 0/1 or bool of shape \[3, 4\], the choices of unit first"),
        ("dict", "unit", np.full((3, 4), 2), "must be 0/1 or bool"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_said(form: str, given: Any, table: Any, message: str) -> None:
    mask = None if table is None else {"unit": None, "target": {"given": given, "mask": table}, "aim": None}
    with pytest.raises(EnvError, match=message):
        masks_of(form, mask)


def test_a_mask_that_two_choices_leave_empty_is_found_when_they_are_made(tmp_path: Path) -> None:
    """What cannot be seen beforehand: the mask of the second depends on the first, that of the third on both."""
    space = gymnasium.spaces.MultiDiscrete([2, 2, 2])
    table = np.ones((2, 2, 2), np.int8)
    table[1, 1] = 0
    mask = [None, {"given": 0, "mask": np.eye(2, dtype=np.int8)}, {"given": [0, 1], "mask": table}]

    class Three(gymnasium.Env[Any, Any]):
        observation_space, action_space = gymnasium.spaces.Discrete(2), space

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
            super().reset(seed=seed)
            return 0, {"action_mask": mask}

        def step(self, action: Any) -> Any:
            return 0, 0.0, False, False, {"action_mask": mask}

    from equipoise.trainer.policy.actor_critic import ActorCritic
    from equipoise.trainer.spaces import HybridSpace

    env = GymnasiumEnv(make=Three, num_envs=64)
    observation, given = CheckedEnv(env).reset(0)
    policy = ActorCritic(HybridSpace(space), (2,), 1)
    with pytest.raises(
        EnvError,
        match="leaves head 2 of action no valid choice once head 0 of action = 1, head 1 of action = 1",
    ):
        policy.acting(observation, given).draw()
    env.close()


@pytest.mark.parametrize("conditioning", EVERY)
@pytest.mark.parametrize("distribution", ["gaussian", "beta", "squashed"])
def test_the_first_update_finds_the_probabilities_that_were_acted_by(
    conditioning: str, distribution: str, tmp_path: Path
) -> None:
    target = "env._target_=tests.envs.pairs.BatchedPairs"
    chosen = (f"policy.conditioning={conditioning}", f"policy.distribution={distribution}")
    trainer = build(compose([target, *SMALL, *chosen, "policy.state_dependent_std=true"]), tmp_path / "run")
    trainer.iterate()  # away from the beginning, where all choices are alike
    rollout, _ = trainer.collector.collect()
    _, samples = prepare(
        rollout, trainer.policy, trainer.learner.pipeline, trainer.config.trainer, trainer.log
    )
    choices, parameters = samples.actions
    logits, mean, log_std, _ = trainer.policy(samples.inputs, choices)
    now = trainer.policy.as_distribution(logits, mean, log_std, samples.action_mask)
    torch.testing.assert_close(
        now.discrete_log_prob(choices), samples.discrete_log_prob, atol=1e-5, rtol=1e-5
    )
    continuous = now.continuous_log_prob(parameters, now.relevant(choices))
    torch.testing.assert_close(continuous, samples.continuous_log_prob, atol=1e-4, rtol=1e-4)
    others = choices.roll(1, 0)
    other = trainer.policy(samples.inputs, others)
    assert bool((other.mean != mean).any()) is (conditioning != "none")
