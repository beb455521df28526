"""The numbers of TopologySpawn's rules, and a batch of colonies that lives by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Range = tuple[float, float]

PARAMETER_BOUNDS: tuple[tuple[str, Range], ...] = (
    ("gamma", (0.5, 5.0)),
    ("alpha", (0.5, 3.0)),
    ("noise", (0.05, 0.1)),
    ("theta", (-math.pi, math.pi)),
)
"""The four spawn parameters of a node, in the order of the action, with their native bounds."""

REST, SPAWN, DELETE = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class TopologyRules:
    """Lengths are in the domain's units, times in steps, rewards in the task's units."""

    max_nodes: int = 10
    max_steps: int = 48
    width: float = 30.0
    height: float = 20.0
    goal_x: float = 24.0
    """The episode is won when the colony's centroid reaches this column."""
    crowded_nodes: int = 10
    """A colony that has grown to this size is lost; `max_nodes + 1`: never."""

    start_nodes: int = 5
    start_x: Range = (3.0, 6.0)
    start_y: Range = (8.0, 12.0)

    substrate: Literal["linear", "exponential", "random"] = "linear"
    base_intensity: float = 1.0
    """At the left edge (of the random substrate: on average)."""
    slope: Range = (0.25, 0.6)
    """Intensity per length at the left edge, drawn for each episode."""
    steepening: Range = (1.5, 3.0)
    """Exponential substrate: slope at the right edge over slope at the left edge, drawn for each episode."""
    roughness: float = 0.7
    """Random substrate: how much of the slope the waves can take away or add, 0 to 1 (exclusive)."""
    wavelength: Range = (6.0, 20.0)
    """Random substrate: drawn for each wave of each episode."""

    delta_intensity: float = 1.0
    """The gain of intensity, child over parent, that is worth most."""
    root_tolerance: float = 0.5
    """A child takes root only where its gain is this near to `delta_intensity`, relative to it; else there is
    none. Without the rule the fastest way to the goal is a few leaps as long as the bounds allow."""
    spawn_every: int = 1
    """Spawns are possible in one of so many steps, the season, the first step of an episode included."""
    noise_scale: float = 1.0
    """The landing noise is this times the `noise` parameter times a standard normal."""
    laggard_gap: float = 1.5
    """A laggard is further than this many `delta_intensity` behind the best living node."""

    graph_bounds: tuple[int, int] = (3, 8)
    """The colony sizes, both inclusive, that are well."""
    graph_reward: float = 0.05
    graph_penalty: float = 0.1
    """For each node outside the bounds."""
    spawn_peak: float = 0.3
    spawn_peak_width: float = 0.2
    """Of the narrow peak, relative to `delta_intensity`: it pays precision."""
    spawn_slope: float = 0.2
    spawn_slope_width: float = 1.0
    """Of the wide peak, relative to `delta_intensity`: it leads to the narrow one."""
    spawn_cost: float = 0.2
    """For each attempt, whether the child takes root or not."""
    delete_reward: float = 0.1
    """For each laggard removed."""
    delete_penalty: float = 0.4
    """For each other node removed. More than a good spawn earns, or spawning and deleting would be a job."""
    laggard_penalty: float = 0.02
    """For each laggard kept."""
    edge_reward: float = 0.05
    """Times the mean cosine between the links and the direction to the right."""
    progress_reward: float = 10.0
    """Times the way the centroid moved to the right, as a fraction of the width."""
    goal_reward: float = 10.0
    goal_reward_per_step: float = 1.0
    """For each step left at the goal. More than a step earns otherwise, so that faster is better."""
    failure_penalty: float = 5.0
    failure_penalty_per_step: float = 0.25
    """For each step left at a failure, so that dying early does not pay."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                value = tuple(value)  # a list of a configuration file
                object.__setattr__(self, field.name, value)
            _check(field.name, value)
        _require(self.max_nodes >= 2, "max_nodes", self.max_nodes, "at least 2")
        for name in ("max_steps", "spawn_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("width", "height", "base_intensity", "delta_intensity", "spawn_peak_width"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "greater than 0")
        _require(self.spawn_slope_width > 0, "spawn_slope_width", self.spawn_slope_width, "greater than 0")
        _require(1 <= self.start_nodes <= self.max_nodes, "start_nodes", self.start_nodes, "1 to max_nodes")
        _require(
            self.start_nodes < self.crowded_nodes,
            "crowded_nodes",
            self.crowded_nodes,
            f"more than start_nodes ({self.start_nodes})",
        )
        for name, size in (("start_x", self.width), ("start_y", self.height)):
            low, high = getattr(self, name)
            _require(low >= 0 and high <= size, name, (low, high), f"inside the domain, 0 to {size}")
        _require(
            self.start_x[1] < self.goal_x <= self.width,
            "goal_x",
            self.goal_x,
            f"right of start_x {self.start_x} and at most width ({self.width})",
        )
        kinds = ("linear", "exponential", "random")
        _require(self.substrate in kinds, "substrate", self.substrate, "one of " + ", ".join(kinds))
        for name in ("slope", "wavelength"):
            _require(getattr(self, name)[0] > 0, name, getattr(self, name), "greater than 0")
        _require(self.steepening[0] >= 1, "steepening", self.steepening, "at least 1")
        _require(0 <= self.roughness < 1, "roughness", self.roughness, "0 to 1, 1 excluded")

    def season(self, colony: Colony) -> Tensor:
        """`[N, 1]` bool: whether this is a step in which nodes can spawn."""
        return colony.steps.unsqueeze(1) % self.spawn_every == 0


def _check(name: str, value: object) -> None:
    """Every number is finite and not negative, every range is a pair in order."""
    if isinstance(value, str):
        return
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        usable = isinstance(number, int | float) and not isinstance(number, bool)
        _require(usable and 0 <= number < math.inf, name, value, "finite and not negative")
    if isinstance(value, tuple):
        _require(len(value) == 2 and value[0] <= value[1], name, value, "a pair (low, high)")


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"TopologySpawn: {name} is {value!r}; allowed: {allowed}")


class Colony(NamedTuple):
    """`N` colonies of up to `M` nodes. Slots without a node hold zeros and are their own parent."""

    alive: Tensor
    """`[N, M]` bool."""
    parent: Tensor
    """`[N, M]` int64: the slot of a node's parent; its own where it has none."""
    nodes: Tensor
    """`[N, 3, M]`: x, y and the intensity of the substrate there."""
    substrate: Tensor
    """`[N, S]`: the parameters of each episode's substrate."""
    steps: Tensor
    """`[N]`, whole numbers as float32: steps taken in this episode."""
    earned: Tensor
    """`[N]`: the task return of the episode so far."""

    @property
    def x(self) -> Tensor:
        """`[N, M]`."""
        return self.nodes[:, 0]

    @property
    def y(self) -> Tensor:
        """`[N, M]`."""
        return self.nodes[:, 1]

    @property
    def intensity(self) -> Tensor:
        """`[N, M]`."""
        return self.nodes[:, 2]

    def best_intensity(self) -> Tensor:
        """`[N, 1]`: of the best living node; 0 where none lives."""
        return self.intensity.amax(1, keepdim=True)  # empty slots hold 0, intensities are positive

    def size(self) -> Tensor:
        """`[N]` float32: the number of living nodes."""
        return self.alive.sum(1, dtype=torch.float32)

    def centroid_x(self) -> Tensor:
        """`[N]`: of the living nodes; 0 where none lives."""
        return self.x.sum(1) / self.size().clamp(min=1)

    def links(self) -> Tensor:
        """`[N, 2, M]`: the way from each node's parent to the node; 0 where it has none."""
        place = self.nodes[:, :2]
        return place - place.gather(2, self.parent[:, None].expand_as(place))

    def where(self, condition: Tensor, other: Colony) -> Colony:
        """These colonies where `condition` `[N]` is true, `other` elsewhere."""
        conditions = (condition, condition[:, None], condition[:, None, None])
        pairs = zip(self, other, strict=True)
        return Colony(*(torch.where(conditions[mine.dim() - 1], mine, theirs) for mine, theirs in pairs))

    def row(self, index: int) -> Colony:
        """Colony `index` alone, on the CPU: `N` is 1."""
        return Colony(*(tensor[index : index + 1].cpu() for tensor in self))

    def stacked(self, other: Colony) -> Colony:
        """`[2N]` colonies, these first."""
        return Colony(*(torch.cat(pair) for pair in zip(self, other, strict=True)))
