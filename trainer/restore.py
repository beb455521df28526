"""A trained policy from a checkpoint alone: it holds the configuration that everything is built from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch

from equipoise.envs.checked import close
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.envs.observation_parts import ObservationPart, parts_of, read_parts
from equipoise.envs.protocol import BatchedEnv
from equipoise.envs.references import References
from equipoise.envs.space_data import from_data
from equipoise.trainer.build import find_device, make_policy
from equipoise.trainer.configuration.checking import check_policy
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.hub import local
from equipoise.trainer.configuration.resuming import changed
from equipoise.trainer.configuration.schema import ComponentConfig, Config
from equipoise.trainer.environments import environment_maker, find_references, in_whole_teams, space_of
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.system.checkpoint import CheckpointError, Found
from equipoise.trainer.system.portable import find


@dataclass(frozen=True)
class Restored:
    config: Config
    policy: Policy
    make_env: Callable[[int], BatchedEnv]
    references: References | None
    path: Path
    """Of the checkpoint."""


@dataclass(frozen=True)
class Loaded:
    """A policy without its environment."""

    network: Policy
    observation_space: gymnasium.Space[Any]
    """As the environment defines it; the network sees it flattened."""
    ignored: tuple[str, ...]
    """Its parts that the network does not see."""
    masked: bool
    """Whether the environment gave action masks."""
    mask_in_observation: bool
    """Whether they came as the part `action_mask` of its observations."""
    numbers_for_arrays: bool
    """Whether it took plain numbers, not arrays, for boxes of one entry."""
    path: Path
    """Of the checkpoint."""


def restore(
    location: str | Path,
    device: str = "auto",
    allow: Collection[str] = (),
    environment: Callable[..., Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Restored:
    """Load the policy of a checkpoint, or of a run folder's newest one, and make its environment.

    A checkpoint is treated as data: of the code that it names, only this package's and Gymnasium's own
    environments are imported and called, and what `allow` names. If an older checkpoint stands in for a
    damaged one, stderr says so.

    Args:
        location: a checkpoint, a run folder, an exported folder, or `hf://user/repo` on the hub.
        device: to act on; `auto`: a GPU, if there is one.
        allow: the user's modules that the checkpoint may name, with everything in them.
        environment: makes a single Gymnasium environment, in place of the one that the checkpoint names.
        overrides: other settings of the environment, `env.<key> -> value`.

    Raises:
        ConfigError: there is no whole checkpoint of this trainer; the configuration in it names other code;
            it, or its environment, does not fit this version of the trainer.
    """
    with _readable(location) as found:
        raw = {**found.config, "device": device}
        if environment is not None:
            raw["env"] = {**raw["env"], "id": None, "make": None}
        config = changed(raw, overrides or {}, allow, acting=True)
        where = torch.device(find_device(config.device))
        make_env = in_whole_teams(environment_maker(config.env, where, environment))
        env = make_env(1)
        shape = env.observation_space.shape
        policy = _trained(config.policy, space_of(env), shape, parts_of(env), found.state.get("policy"))
        references = find_references(env, make_env)
        close(env)
    return Restored(config, policy, make_env, references, found.path)


def load_policy(location: str | Path, device: str = "auto", allow: Collection[str] = ()) -> Loaded:
    """Load the policy of a checkpoint, or of a run folder's newest one, to act without its environment.

    Nothing of the environment is imported. Arguments and errors are those of `restore`.
    """
    with _readable(location) as found:
        section = check_policy(found.config.get("policy"), allow)
        interface = found.state.get("interface")
        if not isinstance(interface, Mapping):
            raise CheckpointError(f"{found.path} does not say what its policy sees and does")
        where = torch.device(find_device(device))
        space = HybridSpace(from_data(interface["action_space"]), interface["relevance"], where)
        shape = tuple(interface["observation_shape"])
        observation_space, ignored = from_data(interface["observation_space"]), interface.get("ignored", ())
        parts = read_parts(ObservationLayout(observation_space, ignored).describe())
        network = _trained(section, space, shape, parts, found.state.get("policy")).eval()
    return Loaded(
        network,
        observation_space,
        tuple(ignored),
        interface["masked"],
        interface.get("mask_in_observation", False),
        interface.get("numbers_for_arrays", False),
        found.path,
    )


@contextmanager
def _readable(location: str | Path) -> Iterator[Found]:
    """The policy, or the newest checkpoint, there; what is wrong with it becomes a `ConfigError`."""
    try:
        found = find(local(location))
        if found.notice:
            print(found.notice, file=sys.stderr)
        yield found
    except ConfigError:
        raise
    except (CheckpointError, EnvError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _trained(
    section: ComponentConfig,
    space: HybridSpace,
    observation_shape: tuple[int, ...],
    observation_parts: tuple[ObservationPart, ...],
    weights: Any,
) -> Policy:
    """The policy with the weights of a checkpoint. Raises ValueError if they do not fit it."""
    try:
        num_values = len(weights["value_head.bias"])
        policy = make_policy(section, space, observation_shape, num_values, observation_parts)
        policy.load_state_dict(weights)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).replace("\n\t", " ") if isinstance(error, RuntimeError) else "no policy is in it"
        raise ValueError(f"the weights in the checkpoint do not fit its configuration: {reason}") from error
    return policy
