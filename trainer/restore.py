"""A trained policy from a checkpoint alone: it holds the configuration that everything is built from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from equipoise.envs.protocol import BatchedEnv
from equipoise.envs.references import References
from equipoise.trainer.build import environment_maker, find_device, find_references, make_policy
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Config, check
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.system.checkpoint import CheckpointError, newest


@dataclass(frozen=True)
class Restored:
    config: Config
    policy: Policy
    make_env: Callable[[int], BatchedEnv]
    references: References | None
    path: Path
    """Of the checkpoint."""


def restore(location: Path, device: str = "auto", allow: Collection[str] = ()) -> Restored:
    """The policy of a checkpoint, or of the newest one of a run folder, and the environment it is for.

    The checkpoint is data: of the code that it names only this package's and Gymnasium's own environments
    are imported and called, and what `allow` names. Where an older checkpoint stands in for a damaged one,
    stderr says so.

    Args:
        location: a checkpoint, or a run folder.
        device: to act on; `auto`: a GPU, if there is one.
        allow: modules of the user's that the checkpoint may name, with all that is in them.

    Raises:
        ConfigError: there is no whole checkpoint of this trainer; the configuration in it names other code;
            it, or its environment, does not fit this version of the trainer.
    """
    try:
        found = newest(location)
        config = check({**found.config, "device": device}, allow, acting=True)
        where = torch.device(find_device(config.device))
        make_env = environment_maker(config.env, where)
        env = make_env(1)
        policy = _trained(config, env, found.state.get("policy"))
        references = find_references(env, make_env)
        env.close()
    except ConfigError:
        raise
    except (CheckpointError, ValueError) as error:
        raise ConfigError(str(error)) from error
    if found.notice:
        print(found.notice, file=sys.stderr)
    return Restored(config, policy, make_env, references, found.path)


def _trained(config: Config, env: BatchedEnv, weights: Any) -> Policy:
    """The policy with the weights of a checkpoint. Raises ValueError where they are no weights of it."""
    try:
        policy = make_policy(config.policy, env, num_values=len(weights["value_head.bias"]))
        policy.load_state_dict(weights)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).replace("\n\t", " ") if isinstance(error, RuntimeError) else "no policy is in it"
        raise ValueError(f"the weights in the checkpoint do not fit its configuration: {reason}") from error
    return policy
