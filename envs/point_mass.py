"""The body of Hard Move and Catch Point: a damped point mass, pushed about an open plane.

Dynamics and constants of OpenAI's multi-agent particle environments (github.com/openai/
multiagent-particle-envs, core.py), on which HyAR built both tasks: unit mass, damping 0.25, dt 0.1, so a
steady force of 2 leads to a speed of 0.8. Agent and target start anywhere in [-1, 1]²; nothing holds the
agent there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FIELD = 1.0
FORCE = 2.0
DAMPING = 0.25
DT = 0.1


class Placed(NamedTuple):
    """A body at rest and its target, each `[N, 2]`."""

    position: Tensor
    velocity: Tensor
    target: Tensor


def placed(u: Tensor) -> Placed:
    """From uniform numbers `[N, 4]` in [0, 1)."""
    position = FIELD * (2 * u[:, 0:2] - 1)
    return Placed(position, torch.zeros_like(position), FIELD * (2 * u[:, 2:4] - 1))


def pushed(position: Tensor, velocity: Tensor, force: Tensor) -> tuple[Tensor, Tensor]:
    """Position and velocity one step later, all `[N, 2]`."""
    velocity = velocity * (1 - DAMPING) + force * DT
    return position + velocity * DT, velocity
