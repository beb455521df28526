"""A trained policy from a checkpoint alone: it holds the configuration that everything is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from equipoise.envs.protocol import BatchedEnv
from equipoise.envs.references import References
from equipoise.trainer.build import build_policy, environment_maker, find_device, find_references
from equipoise.trainer.configuration.schema import Config, check
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.system.checkpoint import newest


@dataclass(frozen=True)
class Restored:
    config: Config
    policy: ActorCritic
    make_env: Callable[[int], BatchedEnv]
    references: References | None
    path: Path
    notice: str | None
    """What the user should know: set where an older checkpoint stands in for a damaged one."""


def restore(location: Path, device: str = "auto") -> Restored:
    """The policy of a checkpoint, or of the newest one of a run folder, and the environment it is for.

    Raises:
        CheckpointError: where there is no whole checkpoint of this trainer.
        ConfigError: where the configuration in it does not fit this version of the trainer.
    """
    found = newest(location)
    config = check({**found.config, "device": device})
    where = torch.device(find_device(config))
    make_env = environment_maker(config, where)
    env = make_env(1)
    weights = found.state["policy"]
    policy = build_policy(config, env, num_values=len(weights["value_head.bias"])).to(where)
    policy.load_state_dict(weights)
    references = find_references(env, make_env)
    env.close()
    return Restored(config, policy, make_env, references, found.path, found.notice)
