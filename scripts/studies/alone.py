"""One environment with Gymnasium alone, in a process that imports nothing of this project: whose fault it is
that an environment does not train shows there. The last line printed is `ok`, or what went wrong where.

    python scripts/studies/alone.py '{"id": "CartPole-v1", "kwargs": {"render_mode": "rgb_array"}}'
    python scripts/studies/alone.py '{"make": "module:callable", "before": "module:register_envs"}'

`before` is called first, as the README of a package may ask for. Random actions are taken in whole episodes,
and then in a second environment whose episodes are left before their end, as an evaluation may do.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium
import numpy as np

STEPS = 1000
"""In whole episodes."""
LEFT = 300
"""Steps of the second environment, and"""
EARLY = 30
"""after how many of them an episode is left."""
EARLIER = "with resets before the end"
"""How a message begins that the first environment did not cause."""
SECONDS = 60
"""That one call of the environment may take; making it counts as one."""


class FoundError(Exception):
    """What the environment did, and where."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = json.loads((sys.argv[1:] if arguments is None else arguments)[0])
    try:
        play(given, leave=None)
        play(given, leave=EARLY)
    except FoundError as error:
        print(" ".join(str(error).split()))
        return 1
    print("ok")
    return 0


def play(given: Mapping[str, Any], leave: int | None) -> None:
    """Make it and take random steps; with `leave`, no episode is longer than that.

    Raises:
        FoundError: it cannot be made, raises, takes too long or gives observations of a shape not declared.
    """
    when = "" if leave is None else f"{EARLIER}, each {leave} steps: "
    with _named("making it"):
        env = made(given)
    if not isinstance(env, gymnasium.Env):
        raise FoundError(f"it makes a {type(env).__name__}, which is no gymnasium.Env")
    env.action_space.seed(0)
    with _named(f"{when}reset"):
        observation, info = env.reset(seed=0)
    taken = 0
    for step in range(STEPS if leave is None else LEFT):
        _agree(env.observation_space, observation, f"step {step}")  # no reset excuses another shape
        with _named(f"{when}step {step}"):
            observation, _, terminated, truncated, info = env.step(_action(env, info))
        taken += 1
        if terminated or truncated or taken == leave:
            with _named(f"{when}reset after step {step}"):
                observation, info = env.reset()
            taken = 0


def made(given: Mapping[str, Any]) -> Any:
    kwargs = objects(given.get("kwargs") or {})
    if given.get("before"):
        found_at(given["before"])()
    return found_at(given["make"])(**kwargs) if given.get("make") else gymnasium.make(given["id"], **kwargs)


def objects(value: Any) -> Any:
    """What a `{_target_: module.callable, …}` stands for, as a configuration of this project may have it."""
    if isinstance(value, list):
        return [objects(part) for part in value]
    if not isinstance(value, dict):
        return value
    parts = {name: objects(part) for name, part in value.items()}
    if "_target_" not in parts:
        return parts
    call = pkgutil.resolve_name(parts.pop("_target_"))
    arguments, bind = parts.pop("_args_", []), parts.pop("_partial_", False)
    return partial(call, *arguments, **parts) if bind else call(*arguments, **parts)


def found_at(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def _action(env: gymnasium.Env[Any, Any], info: Mapping[str, Any]) -> Any:
    """A random one; a valid one where the environment says which choices are valid."""
    masks = getattr(env.unwrapped, "action_masks", None)
    given = info.get("action_mask", masks() if callable(masks) else None)
    if not isinstance(env.action_space, gymnasium.spaces.Discrete) or given is None:
        return env.action_space.sample()
    mask = np.asarray(given).astype(np.int8)  # a tensor, as it may be, has no such `any`
    return env.action_space.sample(mask if mask.any() else None)


def _agree(space: gymnasium.Space[Any], observation: Any, where: str) -> None:
    if isinstance(space, gymnasium.spaces.Dict):
        for name, part in space.spaces.items():
            if name not in observation:
                raise FoundError(f"{where}: the observation lacks {name!r}, which its space declares")
            _agree(part, observation[name], where)
    elif isinstance(space, gymnasium.spaces.Tuple):
        for part, value in zip(space.spaces, observation, strict=True):
            _agree(part, value, where)
    elif space.shape and np.shape(observation) != space.shape:
        raise FoundError(f"{where}: an observation of shape {np.shape(observation)}, declared {space.shape}")


@contextmanager
def _named(where: str) -> Iterator[None]:
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        yield
    except (Exception, SystemExit) as error:  # other people's code: may raise anything
        raise FoundError(f"{where}: {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)


def _late(*_: object) -> None:
    raise TimeoutError(f"not done after {SECONDS} seconds")


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # threads of other people's code may never end
