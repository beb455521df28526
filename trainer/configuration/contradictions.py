"""Keys that are fine by themselves and wrong together, or on this machine."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from equipoise.trainer.configuration.errors import Problem, bad_value, missing, nearest
from equipoise.trainer.configuration.schema import (
    BatchConfig,
    Config,
    OptimizerConfig,
    PolicyLossWeights,
    TrainerConfig,
)


def contradictions(config: Config, bad: Collection[str]) -> Iterator[Problem]:
    """What does not go together; `bad` are the keys that are not fine by themselves."""
    keywords = config.env.keywords
    if {"id", "make"} <= keywords.keys() and keywords["id"] is None and keywords["make"] is None:
        yield missing("env.id", "given, as gymnasium.make takes it, or env.make=module:callable")
    trainer, batch = config.trainer, config.trainer.batch
    weights = trainer.policy_loss_weights
    if weights.discrete_weight == weights.continuous_weight == 0:
        yield Problem("trainer.policy_loss_weights", ": both weights are 0; at least one must be > 0")
    yield from _learning_rate(config.optimizer)
    yield from _stage_list(trainer, bad)
    samples = batch.rollout_steps * config.env.num_envs
    if samples < 2:
        why = f"at least 2 with num_envs = {config.env.num_envs}: advantages are compared with each other"
        yield bad_value("trainer.batch.rollout_steps", batch.rollout_steps, why)
    if samples % batch.num_minibatches:
        fits = ", ".join(map(str, _nearest_divisors(samples, batch.num_minibatches)))
        product = f"rollout_steps * num_envs ({batch.rollout_steps} * {config.env.num_envs} = {samples})"
        yield bad_value(
            "trainer.batch.num_minibatches", batch.num_minibatches, f"a divisor of {product}: {fits}"
        )
    for name, section in trainer.sections.items():
        if not any(key.startswith(f"trainer.{name}.") for key in bad):
            yield from _scaling(f"trainer.{name}", section.keywords, batch)
            yield from _base_weights(f"trainer.{name}", section.keywords, weights)
            unshared = config.policy.keywords.get("shared_trunk") is False
            if section.keywords.get("norm_parameters") == "shared" and unshared:
                why = "all: policy.shared_trunk = false leaves no parameters that both sides share"
                yield bad_value(f"trainer.{name}.norm_parameters", "shared", why)


def _learning_rate(optimizer: OptimizerConfig) -> Iterator[Problem]:
    if optimizer.desired_kl is None:
        return
    if optimizer.anneal:
        why = "false with optimizer.desired_kl, which sets the learning rate"
        yield bad_value("optimizer.anneal", True, why)
    low, high = optimizer.learning_rate_min, optimizer.learning_rate_max
    if not low <= optimizer.learning_rate <= high:
        why = f"between learning_rate_min ({low:g}) and learning_rate_max ({high:g})"
        yield bad_value("optimizer.learning_rate", optimizer.learning_rate, why)


def device_problems(config: Config) -> Iterator[Problem]:
    if config.device == "cuda":
        import torch  # not needed, and slow to load, for any other check

        if not torch.cuda.is_available():
            yield bad_value("device", "cuda", "auto or cpu: PyTorch finds no usable CUDA device here")


def _stage_list(trainer: TrainerConfig, bad: Collection[str]) -> Iterator[Problem]:
    for name in dict.fromkeys(trainer.stages):
        if trainer.stages.count(name) > 1:
            yield bad_value(
                "trainer.stages", list(trainer.stages), f"without repetition; {name} is listed twice"
            )
        if name not in trainer.sections and f"trainer.{name}" not in bad:
            match = nearest(name, trainer.sections)
            hint = f"; did you mean {match}?" if match else ""
            names = ", ".join(trainer.sections)
            yield bad_value("trainer.stages", name, f"a section of trainer with a _target_: {names}{hint}")


def _base_weights(key: str, keywords: Mapping[str, Any], weights: PolicyLossWeights) -> Iterator[Problem]:
    """The stage's base weights are those that the loss starts from: two sources would contradict silently."""
    for name in ("discrete_weight", "continuous_weight"):
        given, meant = keywords.get(name), getattr(weights, name)
        if given is not None and given != meant:
            yield bad_value(
                f"{key}.{name}", given, f"left to trainer.policy_loss_weights.{name}, now {meant}"
            )


def _scaling(key: str, keywords: Mapping[str, Any], batch: BatchConfig) -> Iterator[Problem]:
    low, high = keywords.get("min_scaling_factor"), keywords.get("max_scaling_factor")
    if low is not None and high is not None and low > high:
        yield bad_value(f"{key}.min_scaling_factor", low, f"≤ max_scaling_factor, which is {high}")
    updates = batch.update_epochs * batch.num_minibatches
    product = f"update_epochs * num_minibatches ({batch.update_epochs} * {batch.num_minibatches})"
    for name in ("measure_every", "audit_every"):
        every = keywords.get(name)
        if every and math.gcd(every, updates) > 1:
            # A common divisor would measure the same few minibatches of every iteration, for ever.
            good = next(k for k in range(every + 1, every + updates + 2) if math.gcd(k, updates) == 1)
            yield bad_value(f"{key}.{name}", every, f"coprime to {product}; the next that is: {good}")


def _nearest_divisors(number: int, wanted: int) -> list[int]:
    """The largest divisor of `number` below `wanted` and the smallest above it."""
    below = next(d for d in range(min(wanted, number), 0, -1) if number % d == 0)
    above = next((d for d in range(wanted + 1, number + 1) if number % d == 0), None)
    return [below] if above is None else [below, above]
