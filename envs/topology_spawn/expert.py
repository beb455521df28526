"""The scripted expert of TopologySpawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.envs.topology_spawn.rules import DELETE, PARAMETER_BOUNDS, REST, SPAWN, Colony, TopologyRules
from equipoise.envs.topology_spawn.substrate import Substrate

Number = float | Tensor


@dataclass(frozen=True)
class ExpertParameters:
    """Gaps and gains are in `delta_intensity`. Each may be a tensor `[N, 1]`, one number per environment."""

    size: Number
    """How large the colony may grow."""
    least_room: Number = 1.0
    """How many spawns there must be room for."""
    delete_gap: Number = 1.5
    """Nodes further behind the best are deleted."""
    spawn_gap: Number = 1.5
    """Nodes further behind the best that has room to spawn do not spawn."""
    gain: Number = 1.0
    """The gain of intensity that is aimed at."""
    margin: Number = 0.3
    """No child is sent nearer to the right edge."""
    sacrifice: Number = 1.0
    """How many nodes, laggards not counted, may be deleted to bring the centroid over the goal column now."""


def expert_action(
    rules: TopologyRules, substrate: Substrate, colony: Colony, parameters: ExpertParameters
) -> dict[str, Tensor]:
    """Let the best nodes spawn straight to the right, all at the distance of the wanted gain, and delete
    the laggards to make room; in the end delete whoever keeps the centroid from the goal column.

    Where the foremost nodes have no room left before the edge, those behind catch up.
    """
    alive, intensity = colony.alive, colony.intensity
    gap = (colony.best_intensity() - intensity) / rules.delta_intensity
    distance = _distance_for_gain(substrate, colony, parameters.gain * rules.delta_intensity)
    laggard = alive & (gap > parameters.delete_gap)
    # Where too few slots would be left for the next generation, the hindmost go as well.
    worse = (alive[:, None, :] & (intensity[:, None, :] < intensity[:, :, None])).sum(2)
    laggard = laggard | (
        alive & (worse < alive.sum(1, keepdim=True) + parameters.least_room - parameters.size)
    )
    able = alive & ~laggard & rules.season(colony) & (colony.x + distance <= rules.width - parameters.margin)
    able_intensity = intensity * able
    able_gap = (able_intensity.amax(1, keepdim=True) - intensity) / rules.delta_intensity
    able = able & (able_gap <= parameters.spawn_gap)
    # The rank counts the able nodes that are better; of equals all or none spawn.
    rank = (able_intensity[:, None, :] > intensity[:, :, None]).sum(2)
    room = parameters.size - (alive & ~laggard).sum(1, keepdim=True)
    spawn = able & (rank < room)
    delete = laggard | _sacrificed(rules, colony, laggard, spawn, distance, parameters.sacrifice)
    choice = torch.where(delete, DELETE, torch.where(spawn, SPAWN, REST))
    return {"topology": choice, "spawn": hill_parameters(distance, intensity)}


def _sacrificed(
    rules: TopologyRules, colony: Colony, laggard: Tensor, spawn: Tensor, distance: Tensor, most: Number
) -> Tensor:
    """`[N, M]`: the hindmost nodes, as few as bring the centroid over the goal column in this step; nobody
    where more than `most` would have to go."""
    stays = colony.alive & ~laggard
    x, order = torch.where(stays, colony.x, -1.0).sort(1, descending=True)
    counted, spawns = stays.gather(1, order), spawn.gather(1, order)
    total = (counted * x + spawns * (x + distance.gather(1, order))).cumsum(1)
    centroid = total / (counted.long() + spawns.long()).cumsum(1).clamp(min=1)  # of the foremost 1, 2, …
    enough = counted & (centroid >= rules.goal_x + 0.1)
    kept = (enough * torch.arange(1, enough.shape[1] + 1, device=enough.device)).amax(1, keepdim=True)
    gone = stays.sum(1, keepdim=True) - kept
    place = torch.empty_like(order).scatter(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return stays & (place >= kept) & (kept > 0) & (gone <= most)


def hill_parameters(distance: Tensor, intensity: Tensor) -> Tensor:
    """`[..., 4]`: gamma, alpha, the smallest noise and theta = 0 for `distance = gamma / (1 + (alpha/I)²)`.

    The smallest alpha, which makes the distance least sensitive to the intensity, unless gamma would have
    to leave its bounds for it. What is out of reach comes as near as the bounds allow.
    """
    (_, (gamma_low, gamma_high)), (_, (alpha_low, alpha_high)), (_, (noise, _)), _ = PARAMETER_BOUNDS
    gamma = (distance * (1 + (alpha_low / intensity).square())).clamp(gamma_low, gamma_high)
    alpha = (intensity * (gamma / distance - 1).clamp(min=0).sqrt()).clamp(alpha_low, alpha_high)
    return torch.stack((gamma, alpha, torch.full_like(gamma, noise), torch.zeros_like(gamma)), -1)


def _distance_for_gain(substrate: Substrate, colony: Colony, gain: Number) -> Tensor:
    """`[N, M]`: how far to the right of each node the intensity is greater by `gain` (Newton's method)."""
    x, y, par = colony.x, colony.y, colony.substrate
    target = substrate.intensity(par, x, y) + gain
    distance = gain / substrate.gradient(par, x, y)[0]
    for _ in range(8):
        error = substrate.intensity(par, x + distance, y) - target
        distance = (distance - error / substrate.gradient(par, x + distance, y)[0]).clamp(min=1e-3)
    return distance


def decision_accuracy(choice: Tensor, expert: Tensor, alive: Tensor) -> float:
    """Mean recall over the expert's choices rest, spawn and delete, all `[B, M]`; empty slots do not count.

    NaN where the expert makes none of the choices.
    """
    recalls = []
    for wanted in (REST, SPAWN, DELETE):
        asked = alive & (expert == wanted)
        if asked.any():
            recalls.append((choice == wanted)[asked].float().mean())
    return torch.stack(recalls).mean().item() if recalls else math.nan
