"""Stable-Baselines3's PPO with its `SubprocVecEnv`: a process for each environment."""

from __future__ import annotations

from functools import partial

from stable_baselines3.common.vec_env import SubprocVecEnv

from equipoise.scripts.peers import sb3

PACKAGES = sb3.PACKAGES
build = partial(sb3.build, processes=SubprocVecEnv)
