"""Configurations at random: what is valid runs an update, what is not gives one message and exit code 2.

`EQUIPOISE_CONFIGURATIONS=500 pytest tests/reliability/test_random_configurations.py` tries more.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import CONFIG_DIR, compose
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Config
from tests.reliability.processes import run

EXAMPLES = int(os.environ.get("EQUIPOISE_CONFIGURATIONS", "25"))
OPTIONS = {
    group: sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
    for group in ("preset", "optimizer", "policy", "env")
}
STAGES = (
    "reward_normalization", "advantage_weighting", "value_clipping", "entropy_regularization", "gradient_scaling",
)  # fmt: skip


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Both ends, and all magnitudes in between."""
    inside = st.floats(math.log(max(low, 1e-30)), math.log(high)).map(math.exp)
    return st.one_of(st.just(high), st.just(low), inside.map(lambda x: min(max(x, low), high)))


FLAG = st.sampled_from(["true", "false"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 2**31),
    "policy.activation": st.sampled_from(["tanh", "relu", "silu", "elu"]),
    "policy.hidden_sizes": st.sampled_from(["[1]", "[8]", "[8,4]", "[3,5,3]"]),
    "policy.state_dependent_std": FLAG,
    "policy.normalize_observations": FLAG,
    "optimizer.learning_rate": numbers(1e-30, 1e-1),
    "optimizer.anneal": FLAG,
    "trainer.gamma": numbers(0.0, 1.0),
    "trainer.gae_lambda": numbers(0.0, 1.0),
    "trainer.clip_epsilon": numbers(1e-30, 1e30),
    "trainer.value_coefficient": numbers(0.0, 100.0),
    "trainer.max_grad_norm": numbers(1e-30, 1e30),
    "trainer.ratio": st.sampled_from(["per_decision", "per_type"]),
    "trainer.reduction": st.sampled_from(["common", "active"]),
    "trainer.target_kl": st.one_of(st.just("null"), numbers(1e-10, 1e10)),
    "trainer.normalize_values": FLAG,
    "trainer.batch.update_epochs": st.integers(1, 3),
    "trainer.policy_loss_weights.discrete_weight": numbers(1e-9, 1e9),
    "trainer.reward_normalization.enable_per_episode_norm": FLAG,
    "trainer.reward_normalization.enable_cross_episode_scaling": FLAG,
    "trainer.reward_normalization.normalization_method": st.sampled_from(
        ["scale", "zscore", "minmax", "adaptive"]
    ),
    "trainer.reward_normalization.min_episode_length": st.integers(1, 20),
    "trainer.reward_normalization.scaling_warmup_episodes": st.integers(0, 5),
    "trainer.reward_normalization.preserve_task": FLAG,
    "trainer.advantage_weighting.enable_learnable_weights": FLAG,
    "trainer.advantage_weighting.enable_attention_weighting": FLAG,
    "trainer.advantage_weighting.objective": st.sampled_from(["alignment", "surrogate"]),
    "trainer.value_clipping.enable_value_clipping": FLAG,
    "trainer.value_clipping.value_clip_epsilon": numbers(1e-6, 1e3),
    "trainer.entropy_regularization.enable_adaptive_entropy": FLAG,
    "trainer.entropy_regularization.entropy_coeff_start": numbers(0.0, 10.0),
    "trainer.entropy_regularization.scale_with_side": FLAG,
    "trainer.gradient_scaling.norm_parameters": st.sampled_from(["auto", "all"]),
    "trainer.gradient_scaling.enable_adaptive_scaling": FLAG,
    "trainer.gradient_scaling.scaling_momentum": numbers(0.0, 0.999),
    "trainer.gradient_scaling.warmup_steps": st.integers(0, 10),
    "trainer.gradient_scaling.weight_normalization": st.sampled_from(["sum", "none"]),
    "trainer.gradient_scaling.scaling_reference": st.sampled_from(["relative", "absolute"]),
}
NAMED = {
    "gymnasium": ["env.id=CartPole-v1"],
    "vector": ["env.id=CartPole-v1"],
    "on_device": ["env.make=tests.envs.test_on_device:Lab"],
}
"""What an environment that is not one by itself wants."""
POLICIES = ["own", "auto", "gru", "lstm"]
CONDITIONING = ["none", "choices", "autoregressive"]
BATCHES = [(8, 1, 1), (4, 2, 8), (1, 4, 2), (16, 3, 6), (2, 1, 2)]
"""Steps, environments, minibatches that divide their product."""


@st.composite
def valid(draw: st.DrawFn) -> list[str]:
    """Arguments of the command line that are right, each by itself and together."""
    env = draw(st.sampled_from(OPTIONS["env"]))
    steps, envs, minibatches = draw(st.sampled_from(BATCHES))
    arguments = [
        f"env={env}",
        *NAMED.get(env, ()),
        f"preset={draw(st.sampled_from(OPTIONS['preset']))}",
        f"optimizer={draw(st.sampled_from(OPTIONS['optimizer']))}",
        f"env.num_envs={envs}",
        f"trainer.batch.rollout_steps={steps}",
        f"trainer.batch.num_minibatches={minibatches}",
        "trainer.gradient_scaling.measure_every=1",
        "trainer.batch.update_epochs=2",
        "policy.hidden_sizes=[8]",
        "trainer.total_env_steps=1",
        "device=cpu",
    ]
    policy = draw(st.sampled_from(POLICIES))
    if policy == "own":  # that of the environment, which for TopologySpawn has no order of its nodes
        seen = CONDITIONING if "topology" not in env else CONDITIONING[:2]
    else:
        arguments.insert(1, f"policy={policy}")
        seen = CONDITIONING
    if policy in ("gru", "lstm") and envs % minibatches:
        arguments.append("trainer.batch.num_minibatches=1")
    if "CartPole" not in str(NAMED.get(env)):  # which has no parameters
        arguments.append(f"policy.distribution={draw(st.sampled_from(['gaussian', 'beta', 'squashed']))}")
        if env != "on_device":  # which has no choices
            arguments.append(f"policy.conditioning={draw(st.sampled_from(seen))}")
    # A rate that follows the KL has bounds, and no schedule.
    fixed = ("optimizer.anneal", "optimizer.learning_rate") if "optimizer=adam_kl" in arguments else ()
    keys = [key for key in sorted(VALUES) if key not in fixed]
    for key in draw(st.lists(st.sampled_from(keys), max_size=8, unique=True)):
        arguments.append(f"{key}={draw(VALUES[key])}")
    stages = [stage for stage in STAGES if draw(st.integers(0, 4))]
    return [*arguments, f"trainer.stages=[{','.join(stages or STAGES)}]"]


WRONG = {
    "seed": ["-1", "1.5", "abc", "null", "[1]", "{a: 1}", "true"],
    "preset": ["balancd", "null"],
    "device": ["tpu"],
    "threads": ["0", "many"],
    "env": ["topology"],
    "env.num_envs": ["0", "-3", "2.5", "x"],
    "env._target_": ["os.system", "envs.nowhere.Env", "5", "envs", ""],
    "policy.kind": ["cnn"],
    "policy.hidden_sizes": ["[]", "[0]", "8", "[a]"],
    "policy.activation": ["sine", "1"],
    "policy.distribution": ["normal", "null", "1"],
    "policy.conditioning": ["all", "null", "1"],
    "policy.order": ["[nobody]", "[0,0]", "0", "[1.5]"],
    "policy.log_std_init": ["1e9", "nan", "-21"],
    "optimizer.kind": ["rmsprop", "null"],
    "optimizer.learning_rate": ["0", "-1e-3", "inf", "nan", "1e39", "fast"],
    "trainer": ["null", "5", "[]"],
    "trainer.gamma": ["1.0001", "-0.1", "nan", "x"],
    "trainer.max_grad_norm": ["0", "1e39", "-inf"],
    "trainer.batch.rollout_steps": ["0", "-8"],
    "trainer.batch.num_minibatches": ["0", "1000"],
    "trainer.total_env_steps": ["0", "-5", "1.5"],
    "trainer.stages": ["[]", "[gradient]", "gradient_scaling", "null", "[gradient_scaling,value_clipping]"],
    "trainer.gradient_scaling": ["null", "1"],
    "trainer.gradient_scaling.scaling_momentum": ["1.0", "nan", "[0.9]"],
    "trainer.gradient_scaling.min_scaling_factor": ["100", "0", "-1"],
    "trainer.gradient_scaling.measure_every": ["0", "2"],
    "trainer.gradient_scaling._target_": ["equipoise.trainer.loop.Trainer", "builtins.dict"],
    "trainer.no_such_key": ["1", "{_target_: x}"],
    "hydra.run.dir": ["${no_such_key}"],
    "no_such_key": ["1"],
    "init_from": ["no/such/folder"],
    "resume": ["no/such/folder"],
}


@st.composite
def wrong(draw: st.DrawFn) -> tuple[list[str], str]:
    """A valid configuration with one mistake at its end, and the key that the mistake is in."""
    key = draw(st.sampled_from(sorted(WRONG)))
    return [*draw(valid()), f"{key}={draw(st.sampled_from(WRONG[key]))}"], key


def one_update(config: Config) -> dict[str, float]:
    """What the command does with a configuration, so far."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer = build(config, Path(folder))
        except ValueError as complaint:  # of the environment or a stage; the command words it so too
            raise ConfigError(str(complaint)) from None
        metrics = trainer.iterate()
        parameters = trainer.learner.flat.vector
        assert bool(parameters.isfinite().all())
        trainer.close()
    return metrics


@settings(max_examples=EXAMPLES)
@given(arguments=valid())
def test_every_valid_configuration_runs_an_update(arguments: list[str]) -> None:
    metrics = one_update(compose(arguments))
    assert metrics["optimizer/skipped"] == 0


@settings(max_examples=EXAMPLES)
@given(case=wrong())
def test_every_mistake_is_one_message_about_its_key(case: tuple[list[str], str]) -> None:
    arguments, key = case
    if key in ("resume", "hydra.run.dir"):
        return  # of the command, see below
    with pytest.raises(ConfigError) as error:
        one_update(compose(arguments))
    text = str(error.value)
    assert key.rpartition(".")[2].removesuffix("_target_") in text or key in text, text


SOUP = st.one_of(
    st.sampled_from(
        ["null", "[]", "{}", "-1", "0", "1e400", "nan", "''", "'", "[", "a b", "=", "${x}", "???", "ü"]
    ),
    st.text("abc01.,:=[]{}$'\"\\ -", max_size=8),
)


@settings(max_examples=EXAMPLES)
@given(arguments=valid(), key=st.sampled_from(sorted({*VALUES, *WRONG} - {"hydra.run.dir"})), value=SOUP)
def test_whatever_is_typed_it_runs_or_is_refused(arguments: list[str], key: str, value: str) -> None:
    """Nothing but a `ConfigError` may come out."""
    with contextlib.suppress(ConfigError):
        config = compose([*arguments, f"{key}={value}"])
        if config.resume is None and config.env.num_envs <= 8:
            one_update(config)


@pytest.mark.parametrize(
    "mistake",
    [
        "seed=-1",
        "hydra.run.dir=${no_such_key}",
        "resume=no/such/folder",
        "trainer.stages=[gradient]",
        "[",
        "x y=1",
    ],
)
def test_the_command_says_it_in_one_message_and_ends_with_2(tmp_path: Path, mistake: str) -> None:
    ended = run(tmp_path, f"hydra.run.dir={tmp_path / 'run'}", mistake)
    assert ended.code == 2, ended.output
    assert "Traceback" not in ended.output
    assert len(ended.output.splitlines()) == 1, ended.output
    assert not (tmp_path / "run").exists()
