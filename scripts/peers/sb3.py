"""Stable-Baselines3's PPO (Raffin et al., JMLR 2021): discrete or continuous actions, not both.

`MlpPolicy` is two tanh layers of 64 with a critic of its own; environments come from `make_vec_env`, which
steps them one after the other and monitors episodes. `reach` uses the settings of RL Baselines3 Zoo for
CartPole-v1: 8 environments, 32 steps, one minibatch of 256, 20 epochs, gamma 0.98, lambda 0.8, learning rate
0.001 and clip 0.2, both falling to 0 over 100,000 steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from equipoise.scripts.peers.task import Goal, Task

PACKAGES = ("stable-baselines3", "torch", "numpy", "gymnasium")
ZOO_STEPS = 100_000


def build(task: Task, processes: type[VecEnv] | None = None) -> Callable[[], None]:
    """`processes`: what steps the environments; None: one after the other."""
    model = PPO(
        "MlpPolicy",
        make_vec_env(task.env, n_envs=task.envs, seed=1, vec_env_cls=processes),
        n_steps=task.steps,
        batch_size=task.minibatch,
        n_epochs=task.epochs,
        learning_rate=task.learning_rate,
        gamma=task.gamma,
        gae_lambda=task.gae_lambda,
        clip_range=task.clip,
        ent_coef=task.entropy_coefficient,
        vf_coef=task.value_coefficient,
        max_grad_norm=task.max_grad_norm,
        seed=1,
        device="cpu",
    )
    return lambda: model.learn(task.samples, reset_num_timesteps=False) and None


class StopAt(BaseCallback):
    """Ends the training once the goal is reached; looked at after each rollout."""

    def __init__(self, goal: Goal) -> None:
        super().__init__()
        self.goal, self.reached = goal, False

    def _on_step(self) -> bool:
        return not self.reached

    def _on_rollout_end(self) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer]
        full = len(returns) == self.goal.episodes
        self.reached = full and bool(np.mean(returns) >= self.goal.mean_return)


def reach(seed: int, goal: Goal) -> int | None:
    """Environment steps until the goal is reached."""
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=seed),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
        learning_rate=lambda left: 0.001 * left,
        clip_range=lambda left: 0.2 * left,
        stats_window_size=goal.episodes,
        seed=seed,
        device="cpu",
    )
    stop = StopAt(goal)
    model.learn(ZOO_STEPS, callback=stop)
    return model.num_timesteps if stop.reached else None
