"""One run of the first-try study in a process of its own: TASK LEARNER SEED STEPS EPISODES FILE."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import equipoise
from equipoise.scripts.suite import cleanrl_hybrid
from equipoise.scripts.suite.episodes import Act, Found, binned, play
from equipoise.scripts.suite.tasks import TASKS, Task
from equipoise.trainer.monitor.summary import git_revision

Learned = tuple[Act, list[float], list[float]]
"""How the policy acts, and at which steps training episodes ended with which (mean) returns."""


def main(name: str, learner: str, seed: str, steps: str, episodes: str, file: str) -> None:
    torch.set_num_threads(1)
    task = next(task for task in TASKS if task.name == name)
    began = time.process_time()
    act, at, returns = LEARNERS[learner](task, int(seed), int(steps), Path(file).parent)
    seconds = time.process_time() - began
    env = gymnasium.make(task.id)
    env.action_space.seed(0)
    sampled, deterministic = (play(env, act, mode, int(episodes)) for mode in (False, True))
    untrained = play(env, lambda *_: env.action_space.sample(), False, int(episodes))
    curve, commit = binned(at, returns, int(steps)), git_revision() or ""
    found = Found(curve, sampled, deterministic, untrained, seconds, commit)
    unfinished = Path(f"{file}.part")
    unfinished.write_text(json.dumps(found._asdict()))
    unfinished.rename(file)


def ours(task: Task, seed: int, steps: int, folder: Path) -> Learned:
    """`equipoise.train` with its defaults; only what is measured in between is left out."""
    run = equipoise.train(
        task.id,
        folder=folder / f"run-s{seed}",
        seed=seed,
        total_env_steps=steps,
        eval_every=0,
        final_eval_episodes=1,
        progress=False,
        resume="auto",
    )
    policy = run.load()
    returns = run.metrics["episode/return"]
    known = ~np.isnan(returns)

    def act(observation: Any, info: dict[str, Any], deterministic: bool) -> Any:
        return policy.act(observation, info.get("action_mask"), deterministic=deterministic)

    return act, list(run.metrics["env_steps"][known]), list(returns[known])


def cleanrl(task: Task, seed: int, steps: int, folder: Path) -> Learned:
    return cleanrl_hybrid.learn(lambda: gymnasium.make(task.id), seed, steps)


def sb3(task: Task, seed: int, steps: int, folder: Path) -> Learned:
    """Stable-Baselines3's PPO with its defaults (Raffin et al., JMLR 2021): one environment, 2,048 steps."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.monitor import Monitor

    env = Monitor(gymnasium.make(task.id))
    model = PPO("MlpPolicy", env, seed=seed, device="cpu").learn(steps)

    def act(observation: Any, info: dict[str, Any], deterministic: bool) -> Any:
        return model.predict(observation, deterministic=deterministic)[0]

    return act, list(np.cumsum(env.get_episode_lengths())), env.get_episode_rewards()


LEARNERS: dict[str, Callable[[Task, int, int, Path], Learned]] = {
    "equipoise": ours,
    "cleanrl_hybrid": cleanrl,
    "sb3": sb3,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
