"""`check_env`: a check of your own environment, for your own tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import zip_longest
from typing import Any, TypeAlias

import gymnasium
import torch
from torch import Tensor

from equipoise.envs.dependent_masks import ActionMask, DependentMask
from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.random_numbers import StreamPerEnv
from equipoise.envs.references import random_action
from equipoise.trainer.spaces import HybridSpace

_COPIES = 2
_ALONE = (
    "there was one environment, which cannot be copied: whether copies are alike with one seed, and "
    "independent of each other, is not checked; give the class, or `lambda: MyEnv(...)`, for that"
)
Found: TypeAlias = dict[str, Any]
"""Tensors and masks by the names of `Timestep`'s fields."""
_FIELDS = ("observation", "rewards", "terminated", "truncated", "final_observation", "action_mask")


def check_env(
    env: str | Callable[..., Any] | gymnasium.Env[Any, Any], steps: int = 100, seed: int = 0, **settings: Any
) -> list[str]:
    """Play random valid actions in a Gymnasium environment and check everything that training relies on.

    >>> def test_my_environment():
    ...     equipoise.testing.check_env("CartPole-v1")

    That is: spaces, relevance and masks; that every observation lies in its space and rewards are finite;
    that a seed repeats an episode, in the same environment and in a new one; and that a resumed run continues
    exactly, if the environment's state can be saved.

    Args:
        env: an id, a class, or a function that makes one environment. Or an environment itself, which is left
            open: as it cannot be copied, less can be checked, and a note says what.
        steps: how many in each of two copies; enough for a few episodes.
        seed: of the episodes and of the actions.
        settings: keys of the section `env`: `kwargs`, `reward_components`, `relevance`, `ignore` and so on.

    Returns:
        Notes on what is worth knowing but no fault: that no episode ended, that resuming will not be exact,
        that there was only one environment to check.

    Raises:
        AssertionError: says what is wrong, where, and how to mend it.
    """
    alone = isinstance(env, gymnasium.Env)
    if not (alone or isinstance(env, str) or callable(env)):
        raise AssertionError(
            f"{type(env).__name__} is no gymnasium.Env; give an id, a class, a function that makes an "
            "environment, or one environment"
        )
    named = {"id": env} if isinstance(env, str) else {"make": _LeftOpen.giving(env) if alone else env}
    settings = {"check_bounds": "strict", **named, **settings}
    try:
        one = GymnasiumEnv(num_envs=1 if alone else _COPIES, **settings)
        if alone:
            return [*_check(one, one, steps, seed), _ALONE]
        other = GymnasiumEnv(num_envs=_COPIES, **settings)
        return _check(one, other, steps, seed)
    except (EnvError, ValueError) as error:
        raise AssertionError(str(error)) from error


class _LeftOpen(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The caller's environment, which the caller closes."""

    @classmethod
    def giving(cls, env: Any) -> Callable[[], Any]:
        """What makes it, called as the environment's class is."""
        call = partial(cls, env)
        call.__name__ = type(env.unwrapped).__name__  # type: ignore[attr-defined]
        return call

    def close(self) -> None:
        pass


def _check(one: GymnasiumEnv, other: GymnasiumEnv, steps: int, seed: int) -> list[str]:
    """`other` may be `one` itself."""
    HybridSpace(one.action_space, one.relevance)
    first = _play(one, steps, seed)
    notes = one.take_remarks()
    if other is not one:
        _compare(
            first,
            _play(other, steps, seed),
            "two environments with one seed differ: draw all random numbers from self.np_random, which "
            "super().reset(seed=seed) seeds",
        )
    _compare(
        first,
        _play(one, steps, seed),
        "the same environment differs from before with the same seed: reset must put back everything, and "
        "random numbers come from self.np_random",
    )
    if not any(step["terminated"].any() or step["truncated"].any() for step in first[1:]):
        notes.append(
            f"no episode ended within {steps} steps (register it with max_episode_steps for a limit)"
        )
    notes += _check_resume(one, other, steps, seed)
    one.close()
    other.close()
    return notes


def _check_resume(one: GymnasiumEnv, other: GymnasiumEnv, steps: int, seed: int) -> list[str]:
    """`other` goes on from a state of `one` as `one` did."""
    _, mask = one.reset(seed)
    begun = _go_on(one, mask, max(steps // 4, 1), seed)
    state, mask = one.state_dict(), begun[-1].get("action_mask")
    if not state["exact"]:
        return [f"a resumed run will begin new episodes: {state['reason']}"]
    went_on = _go_on(one, mask, steps, seed)
    other.load_state_dict(state)
    if other.notice is not None:
        return [other.notice]
    _compare(
        went_on,
        _go_on(other, mask, steps, seed),
        "a resumed run would not go on as it was: something that matters is not saved; give the environment "
        "state_dict and load_state_dict that hold all of it",
        1,
    )
    return []


def _play(env: GymnasiumEnv, steps: int, seed: int) -> list[Found]:
    """What a reset and `steps` steps give, by the names of `Timestep`'s fields."""
    observation, mask = env.reset(seed)
    return [_found(observation=observation, action_mask=mask), *_go_on(env, mask, steps, seed)]


def _go_on(env: GymnasiumEnv, mask: ActionMask | None, steps: int, seed: int) -> list[Found]:
    stream, found = StreamPerEnv(env.num_envs, env.device, seed + 1), []
    for _ in range(steps):
        step = env.step(random_action(env, mask, stream))
        mask = step.action_mask
        ended = (step.terminated | step.truncated)[:, None]
        final = torch.where(ended, step.final_observation, 0.0)
        found.append(_found(**{**step._asdict(), "final_observation": final}))
    return found


def _found(**values: Any) -> Found:
    return {name: value for name, value in values.items() if name in _FIELDS and value is not None}


def _compare(one: list[Found], other: list[Found], meaning: str, first: int = 0) -> None:
    """Raise AssertionError where the two differ. `first`: the step of the first entries, 0 for a reset."""
    for step, (before, after) in enumerate(zip(one, other, strict=True), first):
        for name in _FIELDS:
            for a, b in zip_longest(_tensors(before.get(name)), _tensors(after.get(name))):
                if a is None or b is None or not torch.equal(a, b):
                    where = "after reset" if step == 0 else f"after step {step}"
                    raise AssertionError(f"{meaning} ({name} {where}{_shown(a, b)})")


def _tensors(value: ActionMask | None) -> list[Tensor]:
    """All that it holds."""
    if isinstance(value, DependentMask):
        return [value.own, *(table.valid for table in value.tables if isinstance(table.valid, Tensor))]
    return [] if value is None else [value]


def _shown(a: Tensor | None, b: Tensor | None) -> str:
    """The first numbers that differ."""
    if a is None or b is None:
        return " is not always there"
    place = int((a.reshape(-1) != b.reshape(-1)).nonzero()[0])
    return f": {a.reshape(-1)[place].item():g} and {b.reshape(-1)[place].item():g}"
