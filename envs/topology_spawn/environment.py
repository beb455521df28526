"""TopologySpawn: a colony of nodes climbs a substrate whose intensity rises to the right.

In every step each living node rests, spawns or deletes itself, all at once:

1. Deletions. The children of a deleted node are linked to its nearest surviving ancestor, or to none.
2. Spawns, into slots that are now free: the spawner with the lowest index gets the free slot with the
   lowest index, and so on. A spawn for which no slot is left does not happen and costs nothing. A child
   takes root only where the gain of intensity is near `delta_intensity`; else there is none, and no slot is
   used. It lands at distance `gamma / (1 + (alpha / I)²) + noise_scale·noise·ε` in direction `theta`, where
   I is the intensity under the parent (a Hill function of I with exponent 2) and ε is standard normal.
3. The episode is lost when no node lives, a node is out of bounds, or the colony is crowded; won when its
   centroid reaches the goal column; cut off after `max_steps`. Lost goes before won, won before cut off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from equipoise.envs.protocol import Act, NativeAction, Relevance, Timestep
from equipoise.envs.random_numbers import StreamPerEnv
from equipoise.envs.topology_spawn.expert import ExpertParameters, decision_accuracy, expert_action
from equipoise.envs.topology_spawn.render import Plan, draw
from equipoise.envs.topology_spawn.rules import DELETE, PARAMETER_BOUNDS, SPAWN, Colony, TopologyRules
from equipoise.envs.topology_spawn.substrate import make_substrate

_DIAGNOSIS_ENVS, _DIAGNOSIS_STEPS, _DIAGNOSIS_SEED = 32, 16, 2_024


def _features(rules: TopologyRules) -> tuple[tuple[str, float, float], ...]:
    """Name, scale and offset of each feature of a node, in their order: offset + scale · raw value."""
    unit, reach = 1 / rules.delta_intensity, 1 / dict(PARAMETER_BOUNDS)["gamma"][1]
    return (
        ("alive", 1, 0),
        ("x", 1 / rules.width, 0),
        ("y", 1 / rules.height, 0),
        ("intensity", 0.1, 0),
        ("best living intensity minus own", unit, 0),
        ("own intensity minus the mean of the living", unit, 0),
        ("slope of the substrate to the right", unit, 0),
        ("slope of the substrate upwards", unit, 0),
        ("distance to the right that this slope needs for delta_intensity", reach / unit, 0),
        ("living nodes with a greater intensity", 1 / rules.max_nodes, 0),
        ("way from the centroid to the goal", -1 / rules.width, rules.goal_x / rules.width),
        ("colony size", 1 / rules.max_nodes, 0),
        ("steps left", -1 / rules.max_steps, 1),
        ("x of the link from the parent", reach, 0),
        ("y of the link from the parent", reach, 0),
    )


class TopologySpawn:
    """See the module; `envs.protocol.BatchedEnv`, with a scripted expert and a diagnosis.

    `rules` are the keywords of `TopologyRules`; a ValueError names the one that is out of range.
    Reward components: graph, spawn, delete, edge, progress, termination; all have weight 1.
    Metrics of a step: `success` `[N]` (1 goal reached, 0 not; NaN where no episode ended),
    `spawn_parameter_error` `[N, M]` (|gain without noise − delta_intensity| / delta_intensity of each node
    that spawned, NaN elsewhere), `colony_size` `[N]`.
    """

    reward_names = ("graph", "spawn", "delete", "edge", "progress", "termination")
    reward_weights = (1.0,) * 6
    choice_names = ("rest", "spawn", "delete")
    parameter_names = tuple(name for name, _ in PARAMETER_BOUNDS)
    keyword_class = TopologyRules
    """What takes the other keywords, so that a configuration can be checked without building a colony."""

    def __init__(self, num_envs: int = 1, device: str | torch.device = "cpu", **rules: Any) -> None:
        if num_envs < 1:
            raise ValueError(f"TopologySpawn: num_envs is {num_envs!r}; allowed: at least 1")
        self.rules = TopologyRules(**rules)
        self.num_envs = num_envs
        self.first_env = 0
        self.device = torch.device(device)
        self.expert = ExpertParameters(
            size=min(self.rules.graph_bounds[1] + 1, self.rules.crowded_nodes - 1, self.rules.max_nodes)
        )
        nodes, features = self.rules.max_nodes, _features(self.rules)
        self.observation_space = gymnasium.spaces.Box(-math.inf, math.inf, (nodes, len(features)), np.float32)
        low, high = np.tile(np.array([b for _, b in PARAMETER_BOUNDS], np.float32).T[:, None], (1, nodes, 1))
        self.action_space = gymnasium.spaces.Dict(  # Dict sorts its keys: spawn, topology
            spawn=gymnasium.spaces.Box(low, high, dtype=np.float32),
            topology=gymnasium.spaces.MultiDiscrete([3] * nodes),
        )
        self.relevance: Relevance = [[[], list(range(4 * i, 4 * i + 4)), []] for i in range(nodes)]
        self._substrate = make_substrate(self.rules)
        self._random = StreamPerEnv(num_envs, self.device)
        self._slots = torch.arange(nodes, device=self.device).expand(num_envs, nodes)
        self._weights = torch.tensor(self.reward_weights, device=self.device)
        start, size = (
            torch.tensor(pair, device=self.device)[..., None]
            for pair in ((self.rules.start_x, self.rules.start_y), (self.rules.width, self.rules.height))
        )
        self._start_low, self._start_range = start[:, 0], start[:, 1] - start[:, 0]
        self._middle = (size / 2).repeat(1, nodes)
        scale = torch.tensor([feature[1:] for feature in features], device=self.device)
        self._feature_scale, self._feature_offset = scale[:, :1], scale[:, 1:]
        self.colony = self._draw()[1]
        """The present state of all environments."""
        self._decisions: tuple[Colony, Tensor] | None = None

    # --- the episode -------------------------------------------------------------------------------

    def reset(self, seed: int | None = None) -> tuple[Tensor, Tensor]:
        if seed is not None:
            self._random.seed(seed, self.first_env)
        self.colony, self._decisions = self._draw()[1], None
        return self._observe(self.colony), self._mask(self.colony)

    def step(self, action: NativeAction) -> Timestep:
        assert isinstance(action, dict)
        before, choice, spawn = self.colony, action["topology"], action["spawn"]
        assert isinstance(choice, Tensor)
        assert isinstance(spawn, Tensor)
        noise, fresh = self._draw()
        children, intended = self._children(before, spawn, noise)
        error = self._error(before, children[:, 2])
        after, attempted = self._grow(before, choice, children, error)
        rewards, terminated, won = self._reward(before, after, choice, attempted, error)
        after = after._replace(earned=before.earned + (rewards * self._weights).sum(1))
        truncated = (after.steps >= self.rules.max_steps) & ~terminated
        done = terminated | truncated
        self.colony, self._decisions = fresh.where(done, after), (before, choice)
        observation, final = self._observe(self.colony.stacked(after)).chunk(2)
        intended_error = self._error(before, intended)
        return Timestep(
            observation=observation,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            final_observation=final,
            action_mask=self._mask(self.colony),
            metrics={
                "success": torch.where(done, won.float(), math.nan),
                "spawn_parameter_error": torch.where(attempted, intended_error.abs(), math.nan),
                "colony_size": after.size(),
            },
        )

    def _error(self, colony: Colony, intensity: Tensor) -> Tensor:
        """`[N, M]`: how far the gain of a child at `intensity` is from the wanted one, relative to that."""
        return (intensity - colony.intensity) / self.rules.delta_intensity - 1

    def _draw(self) -> tuple[Tensor, Colony]:
        """All luck of a step at once: `[N, M]` landing noise, and an episode's first state for each
        environment, which those take that need one."""
        nodes, rules = self.rules.max_nodes, self.rules
        u = self._random.uniform(2 * nodes + 2 * rules.start_nodes + self._substrate.draws)
        radius, turn, u = u[:, :nodes], u[:, nodes : 2 * nodes], u[:, 2 * nodes :]
        # Box and Muller's normal numbers.
        noise = (torch.log1p(-radius) * (-2.0 * rules.noise_scale**2)).sqrt() * (turn * (2.0 * math.pi)).cos()
        return noise, self._first(u)

    def _first(self, u: Tensor) -> Colony:
        rules, start = self.rules, self.rules.start_nodes
        substrate = self._substrate.parameters(u[:, 2 * start :])
        place = self._start_low + self._start_range * u[:, : 2 * start].reshape(-1, 2, start)
        intensity = self._substrate.intensity(substrate, place[:, 0], place[:, 1])
        nodes = torch.cat((place, intensity[:, None]), 1)
        nodes = torch.nn.functional.pad(nodes, (0, rules.max_nodes - start))
        zeros = torch.zeros_like(u[:, 0])
        return Colony(self._slots < start, self._slots, nodes, substrate, zeros, zeros)

    def _children(self, colony: Colony, spawn: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The child that each node would have: `[N, 3, M]` x, y, intensity; and `[N, M]` the intensity where
        it would land without the noise."""
        gamma, alpha, spread, theta = spawn.unbind(-1)
        # Where nothing is, 1 instead of 0: a derivative by what nobody looks at must be finite all the same.
        own = torch.where(colony.alive, colony.intensity, 1.0)
        intended = gamma / (1 + (alpha / own).square())
        distances = torch.stack((intended + spread * noise, intended), 1)
        directions = torch.stack((theta.cos(), theta.sin()), 1)
        # [N, xy, with and without noise, M]
        place = colony.nodes[:, :2, None] + directions[:, :, None] * distances[:, None]
        x, y = place.flatten(2).unbind(1)
        intensity = self._substrate.intensity(colony.substrate, x, y).view(self.num_envs, 2, -1)
        return torch.cat((place[:, :, 0], intensity[:, :1]), 1), intensity[:, 1]

    def _grow(self, colony: Colony, choice: Tensor, children: Tensor, error: Tensor) -> tuple[Colony, Tensor]:
        """The colony after deletions and spawns, and `[N, M]`: the nodes that tried to spawn and had room."""
        nodes, slots = self.rules.max_nodes, self._slots
        survives = colony.alive & (choice != DELETE)
        attempts = colony.alive & (choice == SPAWN) & self.rules.season(colony)
        spawns = attempts & (error.abs() <= self.rules.root_tolerance)

        # Where a deleted node hands its children: up the tree, doubling the stride, until it stands still.
        heir = torch.where(survives, slots, colony.parent)
        for _ in range(math.ceil(math.log2(nodes))):
            heir = heir.gather(1, heir)
        parent = heir.gather(1, colony.parent)
        linked = survives & survives.gather(1, parent)  # a root that is deleted leaves roots behind

        rank = spawns.cumsum(1) - 1
        free_rank = (~survives).cumsum(1) - 1
        spawned = spawns & (rank <= free_rank[:, -1:])
        born = ~survives & (free_rank <= rank[:, -1:])
        # spawner_of[rank] = node; whoever does not spawn is written to one more column that nobody reads.
        spawner_of = slots.new_zeros(self.num_envs, nodes + 1)
        spawner_of = spawner_of.scatter(1, torch.where(spawns, rank, nodes), slots)
        source = spawner_of.gather(1, free_rank.clamp(min=0))

        alive = survives | born
        placed = children.gather(2, source[:, None].expand_as(children))
        return Colony(
            alive=alive,
            parent=torch.where(born, source, torch.where(linked, parent, slots)),
            nodes=torch.where(born[:, None], placed, colony.nodes) * alive[:, None],
            substrate=colony.substrate,
            steps=colony.steps + 1,
            earned=colony.earned,
        ), attempts & (spawned | ~spawns)

    # --- rewards -----------------------------------------------------------------------------------

    def _reward(
        self, before: Colony, after: Colony, choice: Tensor, attempted: Tensor, error: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`[N, K]` components, `[N]` terminated, `[N]` won."""
        rules = self.rules
        size = after.size()
        outside = (size - size.clamp(*rules.graph_bounds)).abs()
        graph = (outside == 0) * rules.graph_reward - outside * rules.graph_penalty

        square = error.square()
        peak = rules.spawn_peak * torch.exp(square * (-0.5 / rules.spawn_peak_width**2))
        slope = rules.spawn_slope * torch.exp(square * (-0.5 / rules.spawn_slope_width**2))
        spawn = ((peak + slope - rules.spawn_cost) * attempted).sum(1)

        gap = before.best_intensity() - before.intensity
        laggard = gap > rules.laggard_gap * rules.delta_intensity
        merit = torch.where(laggard, rules.delete_reward + rules.laggard_penalty, -rules.delete_penalty)
        merit = merit * (choice == DELETE) - rules.laggard_penalty * laggard
        delete = (merit * before.alive).sum(1)

        dx, dy = after.links().unbind(1)
        cosine = dx / (dx.square() + dy.square()).clamp(min=1e-12).sqrt()  # a root's derivative is 0, not NaN
        links = (after.parent != self._slots).sum(1)
        edge = rules.edge_reward * cosine.sum(1) / links.clamp(min=1)

        centroid = after.centroid_x()
        progress = (size > 0) * (centroid - before.centroid_x()) * (rules.progress_reward / rules.width)

        inside = ((after.nodes[:, :2] - self._middle).abs() <= self._middle).flatten(1).all(1)
        lost = ~inside | (size == 0) | (size >= rules.crowded_nodes)
        won = ~lost & (centroid >= rules.goal_x)
        left = rules.max_steps - after.steps
        termination = won * (rules.goal_reward + rules.goal_reward_per_step * left) - lost * (
            rules.failure_penalty + rules.failure_penalty_per_step * left
        )
        return torch.stack((graph, spawn, delete, edge, progress, termination), 1), lost | won, won

    # --- what the policy sees ----------------------------------------------------------------------

    def _observe(self, colony: Colony) -> Tensor:
        """`[B, M·F]` for `B` colonies: the features of `_features`."""
        # B is innermost until the end, because the CPU is quick with long rows only: [M, B], [M, .., B].
        alive, nodes = colony.alive.t().float(), colony.nodes.permute(2, 1, 0).contiguous()
        intensity, size = nodes[:, 2], colony.size()
        # Summed along rows and not over `nodes`: only that rounds in the same order whatever B is.
        mean = colony.intensity.sum(1) / size.clamp(min=1)
        to_right, upwards = self._substrate.gradient(colony.substrate, colony.x, colony.y)
        ahead = (intensity[None] > intensity[:, None]).sum(1)
        features = torch.cat(
            (
                alive[:, None],
                nodes,
                (intensity.amax(0) - intensity)[:, None],
                (intensity - mean)[:, None],
                torch.stack((to_right, upwards, to_right.reciprocal())).permute(2, 0, 1),
                ahead[:, None],
                torch.stack((colony.centroid_x(), size, colony.steps)).expand(self.rules.max_nodes, -1, -1),
                colony.links().permute(2, 1, 0),
            ),
            1,
        )
        features = (self._feature_offset + features * self._feature_scale) * alive[:, None]
        return features.flatten(0, 1).t().contiguous()

    def _mask(self, colony: Colony) -> Tensor:
        """`[N, M, 3]`: an empty slot can only rest, and out of season nobody can spawn."""
        always = torch.ones_like(colony.alive)
        return torch.stack((always, colony.alive & self.rules.season(colony), colony.alive), 2)

    # --- expert, diagnosis, state, picture ---------------------------------------------------------

    def expert_action(self) -> dict[str, Tensor]:
        return expert_action(self.rules, self._substrate, self.colony, self.expert)

    def diagnose(self, act: Act) -> dict[str, float]:
        """`decision_accuracy`: mean recall over rest, spawn and delete against the expert's choice, in the
        same few hundred states that the expert visits, whatever this environment is doing."""
        observation, mask, expert = self.expert_states
        action = act(observation, mask)
        assert isinstance(action, dict)
        choice = action["topology"]
        assert isinstance(choice, Tensor)
        return {"decision_accuracy": decision_accuracy(choice, expert, mask[:, :, DELETE])}

    @cached_property
    def expert_states(self) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, O]` observations, `[B, M, 3]` masks and `[B, M]` the expert's choices."""
        env = TopologySpawn(_DIAGNOSIS_ENVS, self.device, **asdict(self.rules))
        observation, mask = env.reset(_DIAGNOSIS_SEED)
        states = []
        for _ in range(_DIAGNOSIS_STEPS):
            action = env.expert_action()
            states.append((observation, mask, action["topology"]))
            observation, mask = env.step({**action}).observation, env._mask(env.colony)
        observations, masks, choices = zip(*states, strict=True)
        return torch.cat(observations), torch.cat(masks), torch.cat(choices)

    def detach(self) -> None:
        """See `envs.protocol.DifferentiableEnv`."""
        self.colony = Colony(*(tensor.detach() for tensor in self.colony))
        if self._decisions is not None:
            before, choice = self._decisions
            self._decisions = Colony(*(tensor.detach() for tensor in before)), choice

    def state_dict(self) -> dict[str, Any]:
        return {"colony": self.colony._asdict(), "random": self._random.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        colony = Colony(**state["colony"])
        for name, mine, theirs in zip(Colony._fields, self.colony, colony, strict=True):
            if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
                raise ValueError(
                    f"TopologySpawn: the state's {name} is {theirs.dtype} {tuple(theirs.shape)}; "
                    f"this environment needs {mine.dtype} {tuple(mine.shape)}"
                )
        self.colony = Colony(*(tensor.to(self.device) for tensor in colony))
        self._random.load_state_dict(state["random"])
        self._decisions = None

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """`[360, 640, 3]`: environment `index` now, with what was spawned and deleted in the last step."""
        decisions = (
            None if self._decisions is None else (self._decisions[0].row(index), self._decisions[1][index])
        )
        return draw(self.rules, self._substrate, self.colony.row(index), decisions)

    def render_action(self, action: NativeAction, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """`[360, 640, 3]`: environment `index` now, and what `action` wants of each node: an arrow to where
        its child would land without the noise, green if it took root there; a cross if it deletes itself."""
        assert isinstance(action, dict)
        colony, choice, spawn = self.colony, action["topology"], action["spawn"]
        assert isinstance(choice, Tensor)
        assert isinstance(spawn, Tensor)
        children, _ = self._children(colony, spawn, torch.zeros_like(colony.x))
        roots = self._error(colony, children[:, 2]).abs() <= self.rules.root_tolerance
        plan = Plan(choice[index].cpu(), children[index, :2].cpu(), roots[index].cpu())
        return draw(self.rules, self._substrate, colony.row(index), plan=plan)

    def close(self) -> None:
        pass
