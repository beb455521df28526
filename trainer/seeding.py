"""Every seed of a run, made from the one in its configuration.

Episodes for training, for choosing `best.pt`, for the closing evaluation and for the commands afterwards
never coincide, nor do the random numbers of different processes.
"""

from __future__ import annotations

import torch

_PROCESS_STRIDE = 1_000_000_007
_EPISODE_STRIDE = 1_000_003
_CHANGE_STRIDE = 10_000_019
_STREAMS = 1_000
"""Generators that one seed can have."""


def training_seed(seed: int, process: int) -> int:
    """Seed of a process's environments, if they cannot be numbered across all processes."""
    return seed + process * _PROCESS_STRIDE


def changed_seed(seed: int, changes: int) -> int:
    """Seed of the training environments after the given number of changes to their arguments."""
    return seed + changes * _CHANGE_STRIDE


def evaluation_seed(seed: int) -> int:
    """Seed of the episodes during a run by which `best.pt` is chosen."""
    return seed + _EPISODE_STRIDE


def final_evaluation_seed(seed: int) -> int:
    """Seed of the final evaluation, which must not see the episodes by which `best.pt` was chosen."""
    return seed + 2 * _EPISODE_STRIDE


def fresh_seed(seed: int) -> int:
    """Seed of the episodes that `trainer.evaluate` and `trainer.play` run, which no training ever uses."""
    return seed + 3 * _EPISODE_STRIDE


def noise_generator(device: torch.device, seed: int, process: int) -> torch.Generator:
    """Generator of a process's exploration noise; process 0 has that of a run in a single process."""
    return _generator(device, seed, 1 + 2 * process)


def shuffling_generator(device: torch.device, seed: int, process: int) -> torch.Generator:
    """Generator of the order in which a process takes its samples."""
    return _generator(device, seed, 2 + 2 * process)


def _generator(device: torch.device, seed: int, stream: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed * _STREAMS + stream)
