"""TopologySpawn's rules, by cases worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from equipoise.envs.protocol import Timestep
from equipoise.envs.topology_spawn.environment import TopologySpawn
from equipoise.envs.topology_spawn.rules import DELETE, REST, SPAWN, TopologyRules

SLOPE = 0.5  # intensity = 1 + 0.5·x
Node = tuple[float, float, int]
"""x, y, slot of the parent (its own: none)."""
FULL = {"crowded_nodes": 99}


def colony(*nodes: Node | None, steps: int = 0, **rules: Any) -> TopologySpawn:
    """One environment with these nodes in its first slots, None for an empty slot; no landing noise."""
    env = TopologySpawn(1, noise_scale=0.0, **rules)
    env.reset(0)
    state = env.state_dict()
    slots = env.rules.max_nodes
    filled = [*nodes, *[None] * (slots - len(nodes))]
    xs, ys, parents = zip(*(node or (0.0, 0.0, i) for i, node in enumerate(filled)), strict=True)
    alive = torch.tensor([[node is not None for node in filled]])
    x, y = torch.tensor([xs]), torch.tensor([ys])
    state["colony"] |= {
        "alive": alive,
        "parent": torch.tensor([parents]),
        "nodes": torch.stack((x, y, (1 + SLOPE * x) * alive), 1),
        "substrate": torch.tensor([[SLOPE]]),
        "steps": torch.tensor([float(steps)]),
    }
    env.load_state_dict(state)
    return env


def step(
    env: TopologySpawn, *choices: int, gamma: float = 2.5, alpha: float = 1.5, theta: float = 0.0
) -> Timestep:
    """The choices of the first slots (the others rest); the same spawn parameters for all."""
    nodes = env.rules.max_nodes
    topology = torch.tensor([[*choices, *[REST] * (nodes - len(choices))]])
    spawn = torch.tensor([gamma, alpha, 0.05, theta]).expand(1, nodes, 4)
    with torch.inference_mode():
        return env.step({"topology": topology, "spawn": spawn})


def now(env: TopologySpawn) -> dict[str, Tensor]:
    """The first (and only) row of each tensor of the colony."""
    return {name: tensor[0] for name, tensor in env.state_dict()["colony"].items()}


def part(result: Timestep, name: str) -> float:
    return float(result.rewards[0, TopologySpawn.reward_names.index(name)])


# --- spawning ----------------------------------------------------------------------------------------


def test_a_child_lands_where_the_hill_equation_says() -> None:
    # I = 1 + 0.5·4 = 3; distance = 2.5 / (1 + (1.5/3)²) = 2.5 / 1.25 = 2, upwards.
    env = colony((4, 10, 0), (4, 5, 1), (4, 6, 2), root_tolerance=2.0)
    result = step(env, SPAWN, theta=math.pi / 2)
    after = now(env)
    assert after["alive"].tolist() == [True] * 4 + [False] * 6
    assert after["nodes"][:, 3].tolist() == pytest.approx([4.0, 12.0, 3.0], abs=1e-5)
    assert after["parent"][3] == 0
    # No gain at all: |0 − 1| / 1.
    error = result.metrics["spawn_parameter_error"][0]
    assert float(error[0]) == pytest.approx(1.0, abs=1e-5)
    assert error[1:].isnan().all()


def test_a_gain_of_delta_intensity_is_worth_most() -> None:
    # To the right the same 2 lengths gain 0.5·2 = 1 = delta_intensity: both peaks at their top.
    exact = step(colony((4, 10, 0), (4, 5, 1), (4, 6, 2)), SPAWN)
    assert part(exact, "spawn") == pytest.approx(0.3 + 0.2 - 0.2)
    assert float(exact.metrics["spawn_parameter_error"][0, 0]) == pytest.approx(0.0, abs=1e-6)
    # gamma 3 -> 2.4 lengths -> gain 1.2, one width of the narrow peak: 0.3·e^(-1/2) + 0.2·e^(-1/50) − 0.2.
    long = step(colony((4, 10, 0), (4, 5, 1), (4, 6, 2)), SPAWN, gamma=3.0)
    assert part(long, "spawn") == pytest.approx(0.3 * 0.606531 + 0.2 * 0.980199 - 0.2, abs=1e-5)
    assert float(long.metrics["spawn_parameter_error"][0, 0]) == pytest.approx(0.2, abs=1e-5)


@pytest.mark.parametrize(("gamma", "gain"), [(3.74, 1.496), (3.76, 1.504), (1.24, 0.496)])
def test_a_child_takes_root_only_near_the_wanted_gain(gamma: float, gain: float) -> None:
    # gamma / 1.25 lengths to the right, half of that in intensity; up to 0.5 off is near enough.
    env = colony((4, 10, 0), (4, 5, 1), (4, 6, 2))
    result = step(env, SPAWN, gamma=gamma)
    rooted = abs(gain - 1) <= 0.5
    assert now(env)["alive"].tolist() == [True] * 3 + [rooted] + [False] * 6
    # Tried is paid for, and counted, either way.
    error = gain - 1
    worth = 0.3 * math.exp(-0.5 * (error / 0.2) ** 2) + 0.2 * math.exp(-0.5 * error**2) - 0.2
    assert part(result, "spawn") == pytest.approx(worth, abs=1e-5)
    assert float(result.metrics["spawn_parameter_error"][0, 0]) == pytest.approx(abs(error), abs=1e-5)


def test_a_child_that_takes_no_root_leaves_its_slot_to_others() -> None:
    # Intensities 3 and 11 under gamma 3.75: gains 1.5 and 1.84; only the first takes root.
    env = colony((20, 8, 0), (4, 10, 1), None, max_nodes=3, start_nodes=2, **FULL)
    step(env, SPAWN, SPAWN, gamma=3.7)
    assert now(env)["parent"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(("steps", "spawns"), [(0, True), (1, False), (7, False), (8, True)])
def test_out_of_season_nobody_spawns_and_the_mask_says_so(steps: int, spawns: bool) -> None:
    env = colony((4, 10, 0), (4, 5, 1), (4, 6, 2), steps=steps, spawn_every=8, root_tolerance=2.0)
    before = colony((4, 10, 0), (4, 5, 1), (4, 6, 2), steps=steps - 1, spawn_every=8)
    mask = step(before, REST, REST, REST).action_mask  # of the state one step later
    assert mask is not None
    assert mask[0, 0].tolist() == [True, spawns, True]
    assert bool((env.expert_action()["topology"] == SPAWN).any()) is spawns
    result = step(env, SPAWN)
    assert now(env)["alive"].sum() == 3 + spawns
    assert (part(result, "spawn") != 0.0) is spawns


def test_landing_noise_scatters_children_by_the_noise_parameter() -> None:
    env = TopologySpawn(2000, start_nodes=1, start_x=(4, 4), start_y=(10, 10), slope=(SLOPE, SLOPE))
    env.reset(0)
    spawn = torch.tensor([2.5, 1.5, 0.1, 0.0]).expand(2000, 10, 4)
    topology = torch.zeros(2000, 10, dtype=torch.int64)
    topology[:, 0] = SPAWN
    step = env.step({"topology": topology, "spawn": spawn})
    landed = env.state_dict()["colony"]["nodes"][:, 0, 1]
    assert float(landed.mean()) == pytest.approx(6.0, abs=0.01)
    assert float(landed.std()) == pytest.approx(0.1, rel=0.1)
    assert float(step.metrics["spawn_parameter_error"][:, 0].max()) < 1e-5, "the error is without the noise"


def test_several_spawners_fill_the_free_slots_in_order_until_none_is_left() -> None:
    # Slots 1 and 3 of 5 are free, the spawners are 0, 2 and 4: 0 -> slot 1, 2 -> slot 3, 4 gets none.
    env = colony((4, 8, 0), None, (6, 10, 2), None, (8, 12, 4), max_nodes=5, start_nodes=3, **FULL)
    result = step(env, SPAWN, SPAWN, SPAWN, SPAWN, SPAWN)  # empty slots may say what they like
    after = now(env)
    assert after["alive"].all()
    assert after["parent"].tolist() == [0, 0, 2, 2, 4]
    assert after["nodes"][1].tolist() == pytest.approx([8, 8, 10, 10, 12])
    assert result.metrics["spawn_parameter_error"][0].isnan().tolist() == [False, True, False, True, True]
    # Node 2: I = 4, 2.5 / (1 + (1.5/4)²) = 2.191781 lengths, gain 1.095890; node 4 is not charged for it.
    error = 0.095890
    second = 0.3 * math.exp(-0.5 * (error / 0.2) ** 2) + 0.2 * math.exp(-0.5 * error**2) - 0.2
    assert part(result, "spawn") == pytest.approx(0.3 + second, abs=1e-5)


def test_deletions_make_room_for_the_spawns_of_the_same_step() -> None:
    env = colony((4, 8, 0), (4, 10, 1), (4, 12, 2), max_nodes=3, start_nodes=3, **FULL)
    step(env, SPAWN, DELETE, REST)
    after = now(env)
    assert after["alive"].all()
    assert after["nodes"][0].tolist() == pytest.approx([4, 6, 4])
    assert after["parent"].tolist() == [0, 0, 2]


# --- deleting ----------------------------------------------------------------------------------------


def test_children_go_to_the_nearest_surviving_ancestor() -> None:
    # 0 <- 1 <- 2 <- 3: parent and grandparent of 3 go at once.
    env = colony((4, 10, 0), (5, 10, 0), (6, 10, 1), (7, 10, 2))
    step(env, REST, DELETE, DELETE, REST)
    after = now(env)
    assert after["alive"].tolist() == [True, False, False, True] + [False] * 6
    assert after["parent"].tolist() == [0, 1, 2, 0, 4, 5, 6, 7, 8, 9]
    assert after["nodes"][:, 1:3].eq(0).all(), "an empty slot holds zeros"


def test_children_of_a_deleted_root_become_roots() -> None:
    env = colony((4, 10, 0), (5, 10, 0), (6, 10, 1), (7, 10, 2))
    step(env, DELETE, DELETE, REST, REST)
    assert now(env)["parent"][2:4].tolist() == [2, 2]


def test_the_longest_possible_line_of_descent_is_followed_to_its_end() -> None:
    line = [(4 + i / 4, 10, max(i - 1, 0)) for i in range(10)]
    env = colony(*line, **FULL)
    step(env, REST, *[DELETE] * 8, REST)
    assert now(env)["parent"][9] == 0


def test_a_newborn_in_a_slot_just_freed_is_no_heir() -> None:
    # 1 is deleted, its slot goes to the child of 3; 2 was a child of 1 and must now hang on 0.
    env = colony((4, 10, 0), (5, 10, 0), (6, 10, 1), (4, 8, 3))
    step(env, REST, DELETE, REST, SPAWN)
    assert now(env)["parent"][:4].tolist() == [0, 3, 0, 3]


def test_laggards_should_go_and_others_stay() -> None:
    # Intensities 3, 4, 5 and laggard_gap 1.5: only the first lags behind.
    nodes = (4, 10, 0), (6, 10, 1), (8, 10, 2)
    assert part(step(colony(*nodes), REST, REST, REST), "delete") == pytest.approx(-0.02)
    assert part(step(colony(*nodes), DELETE, REST, REST), "delete") == pytest.approx(0.1)
    assert part(step(colony(*nodes), REST, DELETE, REST), "delete") == pytest.approx(-0.4 - 0.02)
    assert part(step(colony(*nodes), DELETE, DELETE, REST), "delete") == pytest.approx(0.1 - 0.4)


# --- the other components ----------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "reward"), [(1, -0.2), (2, -0.1), (3, 0.05), (8, 0.05), (9, -0.1)])
def test_graph_wants_three_to_eight_nodes(size: int, reward: float) -> None:
    env = colony(*[(4.0, 6.0 + i, i) for i in range(size)])
    assert part(step(env), "graph") == pytest.approx(reward)


def test_edge_is_the_mean_cosine_of_the_links_to_the_right() -> None:
    # Links (3, 4): cosine 0.6, and (-1, 0): cosine -1; the root has none. 0.05·(0.6 − 1)/2.
    env = colony((4, 8, 0), (7, 12, 0), (6, 12, 1))
    assert part(step(env), "edge") == pytest.approx(0.05 * -0.2)
    assert part(step(colony((4, 8, 0), (7, 12, 1), (6, 12, 2))), "edge") == 0


def test_a_link_counts_from_the_step_in_which_it_is_made() -> None:
    assert part(step(colony((4, 10, 0), (4, 5, 1), (4, 6, 2)), SPAWN), "edge") == pytest.approx(0.05)


def test_progress_is_the_centroid_s_way_over_the_width() -> None:
    # x 4, 5, 9 -> centroid 6; without the first 7: 10·1/30.
    env = colony((4, 10, 0), (5, 10, 1), (9, 10, 2))
    assert part(step(env, DELETE), "progress") == pytest.approx(10 / 30)
    assert part(step(env), "progress") == pytest.approx(0, abs=1e-6)


def test_the_goal_pays_more_the_earlier_it_is_reached() -> None:
    # x 21 and 25, centroid 23; without the first 25. After this step 48 − 11 = 37 steps are left.
    result = step(colony((21, 10, 0), (25, 10, 1), steps=10), DELETE)
    assert result.terminated.tolist() == [True]
    assert part(result, "termination") == pytest.approx(10 + 37)
    assert result.metrics["success"].tolist() == [1.0]


ANYWHERE = {"root_tolerance": 9.0}
LOST = {
    "nobody left": (colony((4, 10, 0), steps=10), DELETE),
    "out at the right": (colony((29, 10, 0), (4, 10, 1), steps=10, **ANYWHERE), SPAWN),
    "crowded": (colony(*[(4, 5 + i, i) for i in range(9)], steps=10, **ANYWHERE), SPAWN),
    "out, although the centroid is at the goal": (
        colony((29, 10, 0), (29, 12, 1), steps=10, **ANYWHERE),
        SPAWN,
    ),
}


@pytest.mark.parametrize(("env", "choice"), LOST.values(), ids=LOST.keys())
def test_a_lost_colony_pays_for_the_time_it_would_have_had(env: TopologySpawn, choice: int) -> None:
    state = env.state_dict()
    result = step(env, choice)
    env.load_state_dict(state)
    assert result.terminated.tolist() == [True]
    assert result.truncated.tolist() == [False]
    assert part(result, "termination") == pytest.approx(-5 - 0.25 * 37)
    assert result.metrics["success"].tolist() == [0.0]


@pytest.mark.parametrize("theta", [math.pi, math.pi / 2, -math.pi / 2])
def test_every_edge_of_the_domain_is_deadly(theta: float) -> None:
    y = 10 + 9.5 * math.sin(theta)
    env = colony((1, y, 0), (4, 10, 1), root_tolerance=9.0)
    assert step(env, SPAWN, gamma=5.0, theta=theta).terminated.all()


def test_the_last_step_truncates_without_reward_and_ending_wins_over_truncation() -> None:
    nodes = (4, 10, 0), (5, 10, 1), (6, 10, 2)
    assert not step(colony(*nodes, steps=46)).truncated.any()
    last = step(colony(*nodes, steps=47))
    assert last.truncated.tolist() == [True]
    assert last.terminated.tolist() == [False]
    assert part(last, "termination") == 0
    assert last.metrics["success"].tolist() == [0.0]
    lost = step(colony((4, 10, 0), steps=47), DELETE)
    assert lost.terminated.tolist() == [True]
    assert lost.truncated.tolist() == [False]


def test_the_final_observation_is_the_ended_episode_s_and_the_next_one_has_begun() -> None:
    env = colony((4, 10, 0), (5, 12, 1), (6, 8, 2), steps=47)
    result = step(env)
    final = result.final_observation.view(10, -1)
    assert final[:, 0].tolist() == [1] * 3 + [0] * 7
    assert final[:3, 1].tolist() == pytest.approx([4 / 30, 5 / 30, 6 / 30])
    assert final[:3, 2].tolist() == pytest.approx([0.5, 0.6, 0.4])
    assert final[:3, 12].tolist() == [0, 0, 0]  # no steps left
    first = result.observation.view(10, -1)
    assert first[:, 0].tolist() == [1] * 5 + [0] * 5
    assert first[:5, 12].tolist() == [1] * 5
    assert result.action_mask is not None
    assert result.action_mask[0].tolist() == [[True] * 3] * 5 + [[True, False, False]] * 5
    assert now(env)["steps"] == 0
    assert not step(env).truncated.any()


def test_features_of_a_small_colony() -> None:
    # Intensities 3 and 5, node 1 is the child of node 0.
    env = colony((4, 10, 0), (8, 13, 0), steps=11)
    nodes = step(env).observation.view(10, -1)
    centroid_to_goal, size, left = (24 - 6) / 30, 2 / 10, 36 / 48
    shared = [0.5, 0, (1 / 0.5) / 5]
    colony_wide = [centroid_to_goal, size, left]
    assert nodes[0].tolist() == pytest.approx(
        [1, 4 / 30, 0.5, 0.3, 2, -1, *shared, 0.1, *colony_wide, 0, 0], abs=1e-6
    )
    assert nodes[1].tolist() == pytest.approx(
        [1, 8 / 30, 0.65, 0.5, 0, 1, *shared, 0, *colony_wide, 0.8, 0.6], abs=1e-6
    )
    assert nodes[2:].eq(0).all()


# --- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_steps": 0}, "max_steps is 0; allowed: at least 1"),
        ({"slope": (0.6, 0.25)}, "slope is (0.6, 0.25); allowed: a pair (low, high)"),
        ({"slope": (0.0, 0.25)}, "slope is (0.0, 0.25); allowed: greater than 0"),
        ({"substrate": "cubic"}, "substrate is 'cubic'; allowed: one of linear, exponential, random"),
        ({"goal_x": 31.0}, "goal_x is 31.0; allowed: right of start_x"),
        ({"goal_reward": math.nan}, "goal_reward is nan; allowed: finite and not negative"),
        ({"delta_intensity": -1.0}, "delta_intensity is -1.0; allowed: finite and not negative"),
        ({"start_nodes": 10}, "crowded_nodes is 10; allowed: more than start_nodes (10)"),
        ({"num_envs": 0}, "num_envs is 0; allowed: at least 1"),
    ],
)
def test_a_wrong_number_is_named_with_what_is_allowed(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="TopologySpawn") as caught:
        TopologySpawn(**rules)
    assert message in str(caught.value)


def test_lists_of_a_configuration_file_do_for_ranges() -> None:
    assert TopologyRules(slope=[0.3, 0.4]) == TopologyRules(slope=(0.3, 0.4))  # type: ignore[arg-type]


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alive is torch.bool \(1, 10\).* needs torch.bool \(2, 10\)"):
        TopologySpawn(2).load_state_dict(TopologySpawn(1).state_dict())
