"""One environment with Gymnasium alone: made, reset, stepped at random; whose fault a failure is shows there.

python -m equipoise.scripts.studies.alone env.id=CartPole-v1 env.kwargs.render_mode=rgb_array
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from equipoise.trainer.configuration.compose import compose

STEPS = 300


def main(settings: Sequence[str] | None = None) -> int:
    env = made(settings if settings is not None else sys.argv[1:])
    steps = played(env)
    print(f"{steps} random steps with Gymnasium alone")
    return 0


def made(settings: Sequence[str]) -> gymnasium.Env[Any, Any]:
    """By `env.id` or `env.make`, with `env.kwargs`; what else is set is this project's own affair."""
    keywords = compose(["env=gymnasium", *settings]).env.keywords
    kwargs = keywords.get("kwargs") or {}
    if keywords.get("make") is None:
        return gymnasium.make(keywords["id"], **kwargs)
    module, _, name = keywords["make"].partition(":")
    call: Any = getattr(importlib.import_module(module), name)
    return call(**kwargs)  # type: ignore[no-any-return]


def played(env: gymnasium.Env[Any, Any]) -> int:
    """How many steps it took; now and then an episode is left before its end, as a trainer may do.

    Raises:
        AssertionError: an observation leaves the shape that the space declares.
    """
    env.action_space.seed(0)
    observation, info = env.reset(seed=0)
    for step in range(STEPS):
        _agree(env.observation_space, observation, step)
        mask = info.get("action_mask")
        usable = mask is not None and np.any(mask) and isinstance(env.action_space, gymnasium.spaces.Discrete)
        action = env.action_space.sample(np.asarray(mask, np.int8)) if usable else env.action_space.sample()
        observation, _, terminated, truncated, info = env.step(action)
        if terminated or truncated or step % 100 == 99:
            observation, info = env.reset()
    env.close()
    return STEPS


def _agree(space: gymnasium.Space[Any], observation: Any, step: int) -> None:
    if isinstance(space, gymnasium.spaces.Dict):
        for name, part in space.spaces.items():
            _agree(part, observation[name], step)
    elif space.shape:
        shape = np.shape(observation)
        assert shape == space.shape, f"step {step}: an observation of shape {shape}, declared {space.shape}"


if __name__ == "__main__":
    sys.exit(main())
