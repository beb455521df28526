"""RLlib's PPO (Liang et al., ICML 2018) on its new API stack, with native hybrid actions.

The action space is the environment's own `Tuple(Discrete, Box)`; the default module gives it a Categorical
and a DiagGaussian whose log-std depends on the state (a Tuple leaves no other choice). As little overhead
as it allows: no remote env runner, a local learner, one CPU, no dashboard, and one vector environment that
steps all of its copies at once (`vector_entry_point`). It restarts an environment in the step after the last
one, as RLlib's env runner expects; that step is no sample. No KL term, as no other peer has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import ray
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env

from equipoise.scripts.peers.task import HIDDEN, Task, synthetic

PACKAGES = ("ray", "torch", "numpy", "gymnasium")


class SyntheticEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """`envs.synthetic.Synthetic` with arrays; the task's episodes are all cut off, none ends on its own."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs: int) -> None:
        self.num_envs, self.env = num_envs, synthetic(num_envs)
        self.single_observation_space = self.env.observation_space
        self.single_action_space = self.env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.ended = np.zeros(num_envs, bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset()[0].numpy(), {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        choice, parameters = actions
        timestep = self.env.step((torch.as_tensor(choice), torch.as_tensor(parameters)))
        rewards = np.where(self.ended, 0.0, timestep.rewards.sum(1).numpy())
        terminated, self.ended = timestep.terminated.numpy(), timestep.truncated.numpy() & ~self.ended
        return timestep.observation.numpy(), rewards, terminated, self.ended, {}


def build(task: Task) -> Callable[[], None]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    register_env("synthetic", lambda context: SyntheticEnv(context["num_envs"]))
    network = DefaultModelConfig(
        fcnet_hiddens=[HIDDEN, HIDDEN],
        fcnet_activation="tanh",
        head_fcnet_hiddens=[],
        vf_share_layers=False,
    )
    config = (
        PPOConfig()
        .environment("synthetic", env_config={"num_envs": task.envs})
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=task.envs,
            gym_env_vectorize_mode=gymnasium.VectorizeMode.VECTOR_ENTRY_POINT,
        )
        .learners(num_learners=0)
        .rl_module(model_config=network)
        .training(
            train_batch_size_per_learner=task.samples,
            minibatch_size=task.minibatch,
            num_epochs=task.epochs,
            lr=task.learning_rate,
            gamma=task.gamma,
            lambda_=task.gae_lambda,
            clip_param=task.clip,
            vf_loss_coeff=task.value_coefficient,
            entropy_coeff=task.entropy_coefficient,
            grad_clip=task.max_grad_norm,
            grad_clip_by="global_norm",
            use_kl_loss=False,
        )
        .debugging(seed=1, log_level="ERROR")
    )
    algorithm = config.build_algo()
    return lambda: algorithm.train() and None
