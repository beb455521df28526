"""The discount where `trainer.gamma` is null: by the time limit of the environment's episodes."""

from __future__ import annotations

from equipoise.envs.protocol import BatchedEnv, TimeLimitedEnv
from equipoise.trainer.configuration.schema import USUAL_DISCOUNT, TrainerConfig

SHORTEST = 0.9


def time_limit(env: BatchedEnv) -> int | None:
    return env.time_limit if isinstance(env, TimeLimitedEnv) else None


def with_discount(settings: TrainerConfig, env: BatchedEnv) -> TrainerConfig:
    """`settings` with a number for `gamma`.

    Its horizon, 1 / (1 - γ), is half the time limit, as that is how many steps lie ahead on average, between
    10 steps and the usual 100. At γ = 0.99 an advantage in an episode of 20 steps holds the noise of all that
    comes later.
    """
    limit = time_limit(env)
    if settings.gamma is not None or limit is None:
        return settings
    return settings.model_copy(update={"gamma": min(max(SHORTEST, 1.0 - 2.0 / limit), USUAL_DISCOUNT)})
