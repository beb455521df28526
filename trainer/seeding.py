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
    """Of the environments of a process, where they cannot be numbered across all processes."""
    return seed + process * _PROCESS_STRIDE


def changed_seed(seed: int, changes: int) -> int:
    """Of the training environments after so many changes of their arguments."""
    return seed + changes * _CHANGE_STRIDE


def evaluation_seed(seed: int) -> int:
    """Of the episodes that are run every now and then, by which `best.pt` is chosen."""
    return seed + _EPISODE_STRIDE


def final_evaluation_seed(seed: int) -> int:
    """Of the closing evaluation, which must not see the episodes by which `best.pt` was chosen."""
    return seed + 2 * _EPISODE_STRIDE


def fresh_seed(seed: int) -> int:
    """Of the episodes that `trainer.evaluate` and `trainer.play` run, which no training ever uses."""
    return seed + 3 * _EPISODE_STRIDE


def noise_generator(device: torch.device, seed: int, process: int) -> torch.Generator:
    """For a process's exploration noise; that of process 0 is that of a run in a single process."""
    return _generator(device, seed, 1 + 2 * process)


def shuffling_generator(device: torch.device, seed: int, process: int) -> torch.Generator:
    """For the order in which a process takes its samples."""
    return _generator(device, seed, 2 + 2 * process)


def _generator(device: torch.device, seed: int, stream: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed * _STREAMS + stream)
