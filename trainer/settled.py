"""Explains the settings that a run has chosen because of its environment, a line each.

The rules are also in docs/configuration.md. Settings that were typed, or come from an experiment, are not
explained.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.envs.gymnasium_adapter.workers import cores
from equipoise.envs.protocol import BatchedEnv
from equipoise.envs.vectorised import VectorisedEnv
from equipoise.trainer.configuration.schema import USUAL_DISCOUNT, Config
from equipoise.trainer.discount import time_limit, with_discount
from equipoise.trainer.policy.protocol import Policy

FEW = 32
"""Most environments for which a rollout of `FOR_FEW` steps is meant."""
FOR_FEW = {"rollout_steps": 128, "update_epochs": 4, "num_minibatches": 8}
RATE, MULTIPLIER, BONUS, STEPS, EVEN = 2e-3, 4.0, 0.01, 400_000, "even"
"""What conf/env/gymnasium.yaml and conf/env/vector.yaml choose, and the length in conf/config.yaml. Values
from the user's own files have reasons that this package does not know."""


class Settled(NamedTuple):
    """One setting."""

    key: str
    """What to type to change it."""
    text: str
    because: str
    also: tuple[str, ...] = ()
    """Groups and keys that also decide it, if they are typed."""

    def __str__(self) -> str:
        return f"setting: {self.text}, because {self.because} ({self.key})"


def settled(config: Config, env: BatchedEnv, policy: Policy) -> list[str]:
    """The settings for people, one a line."""
    typed = {argument.lstrip("+~").partition("=")[0] for argument in config.typed}
    found = [*_of_episodes(config, env), *_of_spaces(config, env, policy), *_of_the_machine(config)]
    if isinstance(env, GymnasiumEnv | VectorisedEnv) and config.experiment is None:
        found = [*_of_few_environments(config, policy), *found]
    return [str(setting) for setting in found if not _typed((setting.key, *setting.also), typed)]


def _typed(keys: tuple[str, ...], typed: set[str]) -> bool:
    """Whether one of the keys, or a section around it, was typed."""
    return any(key == other or key.startswith(f"{other}.") for key in keys for other in typed)


def _of_few_environments(config: Config, policy: Policy) -> Iterator[Settled]:
    trainer, envs = config.trainer, config.env.num_envs
    batch, samples = trainer.batch, trainer.batch.rollout_steps * envs
    if batch.model_dump() == FOR_FEW:
        few = f"{envs} environments are few: {samples:,} samples an iteration"
        many = f"few environments need that; {envs} give {samples:,} samples an iteration; batch=balanced: 16"
        yield Settled(
            "trainer.batch.rollout_steps",
            f"rollout of {batch.rollout_steps} steps",
            few if envs <= FEW else many,
            ("batch",),
        )
        updates = batch.update_epochs * batch.num_minibatches
        yield Settled(
            "trainer.batch.num_minibatches",
            f"{updates} updates an iteration, of {samples // batch.num_minibatches} samples each",
            "fewer move the policy too little",
            ("batch", "trainer.batch.update_epochs"),
        )
    if config.optimizer.learning_rate == RATE:
        why = "in so few updates a rate of 3e-4 leaves the policy, and σ, where they are"
        yield Settled("optimizer.learning_rate", f"learning rate {RATE:g}", why, ("optimizer",))
    if config.optimizer.log_std_multiplier == MULTIPLIER and policy.spread_parameters():
        text, why = f"steps of log σ {MULTIPLIER:g} times as long", "in so few updates σ stays wide otherwise"
        yield Settled("optimizer.log_std_multiplier", text, why, ("optimizer",))
    entropy = config.stages.get("entropy_regularization")
    if entropy is not None and entropy.keywords.get("entropy_coeff_start") == BONUS:
        key = "trainer.entropy_regularization.entropy_coeff_start"
        yield Settled(key, f"entropy bonus from {BONUS:g}", "a larger one outweighs ordinary rewards")
    clipping = config.stages.get("value_clipping")
    if clipping is not None and not clipping.keywords.get("enable_value_clipping", True):
        why = "a clipped critic learns too slowly what a rare failure costs"
        yield Settled("trainer.value_clipping.enable_value_clipping", "values not clipped", why)


def _of_episodes(config: Config, env: BatchedEnv) -> Iterator[Settled]:
    if config.trainer.gamma is not None:
        return
    discount, limit = with_discount(config.trainer, env).discount, time_limit(env)
    differ = "max_episode_steps" in (config.env.keywords.get("kwargs_each") or {})
    whose = " of the first copy" if differ else ""
    if limit is None:
        why = f"nothing says after how many steps episodes{whose} end at the latest"
    elif discount == USUAL_DISCOUNT:
        why = f"episodes{whose} may have {limit:,} steps"
    else:
        why = f"half an episode{whose} of at most {limit:,} steps lies ahead on average"
    yield Settled("trainer.gamma", f"discount {discount:.4g}", why)


def _of_spaces(config: Config, env: BatchedEnv, policy: Policy) -> Iterator[Settled]:
    choices = max(policy.space.table.choices, default=0) > 1
    if "gradient_scaling" in config.stages and not (choices and policy.space.num_continuous):
        alone = "choices" if choices else "numbers"
        also = ("preset", "trainer.policy_loss_weights")
        yield Settled(
            "trainer.gradient_scaling", "no weights of two sides", f"actions are {alone} alone", also
        )
    elif config.preset == EVEN:
        why = "weights that adapt to the gradients are level or slower on tasks of others"
        yield Settled("preset", "both sides weigh 0.5", why, ("trainer.policy_loss_weights",))
    if "advantage_weighting" in config.stages and len(env.reward_names) == 1:
        yield Settled("trainer.advantage_weighting", "no weights of reward components", "there is one")
    if policy.normalizer is not None:
        why = "nobody knows their sizes beforehand"
        text = "observations normalised by running mean and deviation"
        yield Settled("policy.normalize_observations", text, why, ("policy",))


def _of_the_machine(config: Config) -> Iterator[Settled]:
    keywords = config.env.keywords
    if keywords.get("vectorization") == "async" and keywords.get("num_workers") is None:
        count = min(cores(), config.env.num_envs)
        why = f"there are {cores()} cores for {config.env.num_envs} environments"
        yield Settled("env.num_workers", f"{count} processes of environments", why)
    if config.trainer.total_env_steps == STEPS and config.experiment is None:
        yield Settled("trainer.total_env_steps", f"{STEPS:,} steps", "no length was given")
