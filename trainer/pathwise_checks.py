"""What can be in the way of derivatives through an environment, told where it is found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from equipoise.envs.protocol import BatchedEnv, DifferentiableEnv
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import TrainerConfig
from equipoise.trainer.diagnosis import NonFiniteError
from equipoise.trainer.policy.continuous import Gaussian, Squashed
from equipoise.trainer.policy.protocol import Policy

_DEPTH = 3
"""How deep tensors are looked for: an attribute, what it holds, and what that holds."""
ROLLOUTS = 3
"""With derivatives of 0 alone, after which there is nothing to be hoped for."""


def check_differentiable(env: BatchedEnv, policy: Policy, settings: TrainerConfig) -> None:
    """Raises ConfigError where nothing can be differentiated; the message says what is in the way."""
    name, family = type(env).__name__, type(policy.family).__name__.lower()
    obstacle = None
    if not isinstance(env, DifferentiableEnv):
        obstacle = f"{name} cannot be differentiated (an environment in PyTorch with a method detach() can)"
    elif not policy.space.num_continuous:
        obstacle = f"the actions of {name} have no continuous parameters"
    elif not isinstance(policy.family, Gaussian | Squashed):
        obstacle = f"policy.distribution = {family} has no sample that is mean + σ · noise; gaussian has"
    elif policy.state_size:
        obstacle = "what a memory knows is not differentiated (policy.memory = null is)"
    elif _hides_units(settings):
        method = settings.sections["reward_normalization"].keywords["normalization_method"]
        obstacle = (
            f"trainer.reward_normalization.normalization_method = {method} hides the units of the task "
            "(scale does not)"
        )
    elif settings.compile == "cudagraphs":
        obstacle = "trainer.compile = cudagraphs keeps no graph to differentiate (default and none do)"
    if obstacle is not None:
        raise ConfigError(
            f"trainer.continuous_gradient = {settings.continuous_gradient}: {obstacle}; score always works"
        )


def _hides_units(settings: TrainerConfig) -> bool:
    """Whether our own rewards stage multiplies rewards with more than one number, or moves them. Of others
    that is seen once they have done it."""
    if "reward_normalization" not in settings.stages:
        return False
    keywords = settings.sections["reward_normalization"].keywords
    by_episode = keywords.get("enable_per_episode_norm", True)
    return bool(by_episode) and keywords.get("normalization_method", "scale") != "scale"


class Watch:
    """Looks whether derivatives are of use, and says so where they are not.

    Args:
        name: of the environment.
        alone: whether numbers learn from nothing else, so that derivatives of no use end the run. Else such
            rollouts are left to PPO's estimate, which is told once.
    """

    def __init__(self, name: str, alone: bool) -> None:
        self._name, self._alone = name, alone
        self.without = 0
        """Rollouts in which the critic counted and all derivatives were 0; above `ROLLOUTS` once there was
        another one."""
        self._told: set[type[Exception]] = set()
        self._remarks: list[str] = []

    def look_at(self, gradient: Tensor, anywhere: bool, critic_counts: bool) -> None:
        """`gradient` `[T, N, P]`: of a rollout, whose values are read; `anywhere`: whether any process has
        one that is not 0, so that all decide alike.

        Raises, if `alone`:
            NonFiniteError: one of them is not finite.
            ConfigError: all were 0 for a while, though a critic that looks at the observations had a say.
        """
        if (wrong := _not_finite(gradient)) is not None:
            self._tell(NonFiniteError, f"the derivative through {self._name} {wrong}")
        if self.undecided and critic_counts:
            self.without = ROLLOUTS + 1 if anywhere else self.without + 1
            if self.without == ROLLOUTS:
                what = f"nothing that {self._name} returns depends on the parameters of its actions"
                self._tell(ConfigError, f"trainer.continuous_gradient: {what} by a derivative")

    @property
    def undecided(self) -> bool:
        """Whether all derivatives may still turn out to be 0."""
        return self.without < ROLLOUTS

    def take_remarks(self) -> list[str]:
        """What is to be told since the last call."""
        remarks, self._remarks = self._remarks, []
        return remarks

    def _tell(self, kind: type[Exception], what: str) -> None:
        if self._alone:
            raise kind(f"{what} (docs/pathwise.md says what an environment needs); score always works")
        if kind not in self._told:
            self._told.add(kind)
            self._remarks.append(f"{what}; such rollouts are left to PPO's estimate")


def _not_finite(gradient: Tensor) -> str | None:
    """The first of the derivatives that is not finite; None: all are."""
    if bool(gradient.sum().isfinite()):
        return None
    bad = (~gradient.isfinite()).nonzero()
    if not len(bad):
        return None  # a sum that overflowed
    step, env, column = (int(index) for index in bad[0])
    value = float(gradient[step, env, column])
    return f"is {value} in environment {env}, step {step} of a rollout, parameter {column}"


def still_attached(env: BatchedEnv) -> list[str]:
    """Where `env` holds on to the graph that it was to forget, as `_state.velocity`: its attributes, and what
    these hold."""
    held = _tensors(env, "", _DEPTH)
    return [place.removeprefix(".") for place, tensor in held if tensor.requires_grad and not tensor.is_leaf]


def _tensors(value: Any, place: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif depth and not isinstance(value, type | ModuleType):
        for name, part in _parts(value):
            yield from _tensors(part, f"{place}.{name}", depth - 1)


def _parts(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple | list):
        return list(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    return list(getattr(value, "__dict__", {}).items())  # those with slots alone have none
