"""Pictures and entities beside Stable-Baselines3: the same steps, and the same settings or each its own.

    python -m scripts.pictures --task breakout --arms sb3 same default --seeds 1 2 3 --out runs/pictures

Needs stable-baselines3, and minatar or mobile-env. A run that is there is not made again; a table at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import equipoise

EPISODES = 50
SAME: Mapping[str, Any] = {
    "preset": "debug",
    "env.num_envs": 8,
    "trainer.batch.rollout_steps": 128,
    "trainer.batch.update_epochs": 4,
    "trainer.batch.num_minibatches": 4,
    "optimizer.learning_rate": 1e-3,
    "optimizer.anneal": False,
    "policy.shared_critic": True,
    "trainer.normalize_values": False,
    "trainer.value_clipping.enable_value_clipping": False,
    "trainer.reward_normalization.enable_per_episode_norm": False,
    "trainer.reward_normalization.enable_cross_episode_scaling": False,
    "trainer.entropy_regularization.enable_adaptive_entropy": False,
    "trainer.entropy_regularization.entropy_coeff_start": 0.01,
    "trainer.entropy_regularization.entropy_coeff_end": 0.01,
}
"""As SB3 below: PPO's settings of MinAtar are not those of Atari, whose rate is a quarter."""
CONVOLUTION = {"policy.encoder.picture": {"layers": [[16, 3, 1]], "width": 128}}
"""The network of Young and Tian, "MinAtar", 2019."""
ENTITIES = {"policy": "entities", "env.wrappers": [{"_target_": "gymnasium.wrappers.ReshapeObservation"}]}


def breakout() -> gymnasium.Env[Any, Any]:
    from minatar.gym import register_envs

    register_envs()
    return gymnasium.make("MinAtar/Breakout-v1")


def mobile() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("mobile_env:mobile-small-central-v0")


TASKS: Mapping[str, Mapping[str, Any]] = {
    "breakout": {
        "make": breakout,
        "steps": 61_440,
        "default": {},
        "same": {**SAME, **CONVOLUTION},
    },
    "mobile": {
        "make": mobile,
        "steps": 20_480,
        "default": {},
        "entities": ENTITIES,
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, default="breakout")
    parser.add_argument("--arms", nargs="+", default=["sb3", "default"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, help="instead of the task's")
    parser.add_argument("--out", type=Path, default=Path("runs/pictures"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for seed in options.seeds:
        for arm in options.arms:
            place = options.out / f"{options.task}-{arm}-s{seed}.json"
            if not place.exists():
                begun = time.process_time()
                run: Callable[..., dict[str, float]] = sb3 if arm == "sb3" else ours
                found = run(
                    options.task, arm, seed, options.steps or TASKS[options.task]["steps"], options.out
                )
                place.write_text(json.dumps({"cpu_seconds": time.process_time() - begun, **found}))
    print("\n".join(table(options.out, options.task, options.arms)))
    return 0


def ours(task: str, arm: str, seed: int, steps: int, out: Path) -> dict[str, float]:
    settings = {"total_env_steps": steps, "seed": seed, "device": "cpu", "eval_every": 0, **TASKS[task][arm]}
    settings = wrapped(task, settings)
    run = equipoise.train(
        TASKS[task]["make"], folder=out / f"{task}-{arm}-s{seed}", progress=False,
        final_eval_episodes=EPISODES, **settings,
    )  # fmt: skip
    summary = run.summary
    return {"sampled": summary["sampled_return_mean"], "deterministic": summary["return_mean"]}


def wrapped(task: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A flat observation of things of one kind as `[things, features]`, one for each number of the action."""
    if "env.wrappers" in settings:
        env = TASKS[task]["make"]()
        shape = [env.action_space.shape[0], -1]
        shape[1] = int(np.prod(env.observation_space.shape)) // shape[0]
        settings["env.wrappers"] = [{**settings["env.wrappers"][0], "shape": shape}]
    return settings


def sb3(task: str, arm: str, seed: int, steps: int, out: Path) -> dict[str, float]:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Small(BaseFeaturesExtractor):  # type: ignore[misc]
        def __init__(self, space: gymnasium.spaces.Box) -> None:
            super().__init__(space, 128)
            rows, columns, channels = space.shape
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(channels, 16, 3),
                torch.nn.ReLU(),
                torch.nn.Flatten(),
                torch.nn.Linear(16 * (rows - 2) * (columns - 2), 128),
                torch.nn.ReLU(),
            )

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.layers(observations.permute(0, 3, 1, 2))
            return features

    envs = make_vec_env(TASKS[task]["make"], 8, seed=seed)
    if task == "breakout":
        network = {"features_extractor_class": Small, "net_arch": []}
        settings = {"n_steps": 128, "n_epochs": 4, "batch_size": 256, "learning_rate": 1e-3, "ent_coef": 0.01}
        model = PPO("CnnPolicy", envs, seed=seed, device="cpu", policy_kwargs=network, **settings)
    else:
        model = PPO("MlpPolicy", envs, n_steps=128, seed=seed, device="cpu")
    model.learn(steps)
    found = {}
    for name, deterministic in (("sampled", False), ("deterministic", True)):
        tests = make_vec_env(TASKS[task]["make"], 8, seed=10_000 + seed)
        found[name] = float(evaluate_policy(model, tests, EPISODES, deterministic=deterministic)[0])
    return found


def table(out: Path, task: str, arms: Sequence[str]) -> list[str]:
    lines = [
        "| arm | return, sampled | return, deterministic | CPU seconds | runs |",
        "|---|---|---|---|---|",
    ]
    for arm in arms:
        rows = [json.loads(path.read_text()) for path in sorted(out.glob(f"{task}-{arm}-s*.json"))]
        cells = [[row[key] for row in rows] for key in ("sampled", "deterministic", "cpu_seconds")]
        means = " | ".join(f"{np.mean(cell):.2f} ({', '.join(f'{x:.1f}' for x in cell)})" for cell in cells)
        lines.append(f"| {arm} | {means} | {len(rows)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
