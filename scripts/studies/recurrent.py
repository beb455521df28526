"""CartPole without velocities, by steps and time: `python -m scripts.studies.recurrent who seed [settings]`.

`who` is `ours`, or `sb3` for the RecurrentPPO of sb3-contrib (Raffin et al., JMLR 2021), which needs nothing
of this project: `python scripts/studies/recurrent.py sb3 1` where that is installed. A line for every 10,000
steps: who, seed, steps, CPU seconds of training, return of 20 deterministic episodes; of 50 at the end.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

STEPS, EVERY, EPISODES, LAST = 60_000, 10_000, 20, 50


Report = Callable[[int, float, float], None]


def ours(seed: int, report: Report, settings: Sequence[str]) -> None:
    """`experiment=cartpole_positions`, its learning rate falling to 0 at the end of these steps."""
    from equipoise.trainer.build import build
    from equipoise.trainer.configuration.compose import compose

    overrides = ["experiment=cartpole_positions", f"seed={seed}", f"trainer.total_env_steps={STEPS}"]
    trainer = build(compose([*overrides, "loggers=[]", *settings]), tempfile.mkdtemp())
    spent, due = 0.0, EVERY
    while trainer.env_steps < trainer.schedule.env_steps:
        began = time.process_time()
        trainer.iterate()
        spent += time.process_time() - began
        if trainer.env_steps >= due:
            episodes = EPISODES if trainer.env_steps < STEPS else LAST
            result = trainer.evaluator.run(episodes, 1, acting="deterministic")
            report(trainer.env_steps, spent, result.return_mean)
            due += EVERY
    trainer.close()


def sb3(seed: int, report: Report, _: Sequence[str]) -> None:
    """The settings that RL Baselines3 Zoo publishes for this task."""
    import gymnasium
    import numpy as np
    import torch
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    class Positions(gymnasium.ObservationWrapper[Any, Any, Any]):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            space = env.observation_space
            self.observation_space = gymnasium.spaces.Box(space.low[[0, 2]], space.high[[0, 2]])

        def observation(self, observation: Any) -> Any:
            return observation[[0, 2]]

    def make(copies: int, seed: int) -> Any:
        return make_vec_env("CartPole-v1", copies, seed, wrapper_class=Positions)

    class Reporting(BaseCallback):  # type: ignore[misc]
        began, spent, due = time.process_time(), 0.0, EVERY

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            if self.num_timesteps < self.due:
                return
            Reporting.spent += time.process_time() - Reporting.began
            test = VecNormalize(make(1, 10_000), training=False, norm_reward=False)
            test.obs_rms = self.training_env.obs_rms
            episodes = EPISODES if self.num_timesteps < STEPS else LAST
            returns, _ = evaluate_policy(self.model, test, episodes, return_episode_rewards=True)
            report(self.num_timesteps, Reporting.spent, float(np.mean(returns)))
            Reporting.due += EVERY
            Reporting.began = time.process_time()

    torch.set_num_threads(1)
    model = RecurrentPPO(
        "MlpLstmPolicy",
        VecNormalize(make(8, seed), gamma=0.98),
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        policy_kwargs={
            "ortho_init": False,
            "activation_fn": torch.nn.ReLU,
            "lstm_hidden_size": 64,
            "enable_critic_lstm": True,
            "net_arch": {"pi": [64], "vf": [64]},
        },
        seed=seed,
        device="cpu",
    )
    Reporting.began = time.process_time()
    model.learn(STEPS, callback=Reporting())


def main() -> int:
    """Train and print."""
    who, seed = sys.argv[1], int(sys.argv[2])

    def report(steps: int, seconds: float, value: float) -> None:
        print(f"{who},{seed},{steps},{seconds:.1f},{value:.1f}", flush=True)

    {"ours": ours, "sb3": sb3}[who](seed, report, sys.argv[3:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
