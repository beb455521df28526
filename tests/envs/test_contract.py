"""What every batched environment must keep to, whatever it is about. One line per environment."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import load_env_creator
from gymnasium.utils.env_checker import check_env
from torch import Tensor

from equipoise.envs import ENVIRONMENTS
from equipoise.envs.catch_point import CatchPoint
from equipoise.envs.checked import CheckedEnv
from equipoise.envs.goal.environment import Goal
from equipoise.envs.gymnasium_adapter.adapter import GymnasiumEnv
from equipoise.envs.hard_move import HardMove, HardMovePerActuator
from equipoise.envs.inventory import Inventory
from equipoise.envs.moving import Moving, Sliding
from equipoise.envs.platform.environment import Platform
from equipoise.envs.protocol import BatchedEnv, DiagnosticEnv, NativeAction, ScriptedEnv, SharedEnv, Timestep
from equipoise.envs.random_numbers import StreamPerEnv
from equipoise.envs.references import random_action, reference_returns
from equipoise.envs.switched_lqr import SwitchedLQR
from equipoise.envs.synthetic import Synthetic
from equipoise.envs.topology_spawn.environment import TopologySpawn
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.spaces import HybridSpace

CPU = torch.device("cpu")
STEPS = 60

FACTORIES: dict[str, Callable[[int], BatchedEnv]] = {
    "topology_spawn": lambda n: TopologySpawn(n),
    "topology_spawn, short": lambda n: TopologySpawn(n, max_steps=3, crowded_nodes=11),
    "topology_spawn, seasons": lambda n: TopologySpawn(n, spawn_every=3),
    "topology_spawn, exponential": lambda n: TopologySpawn(n, substrate="exponential"),
    "topology_spawn, random": lambda n: TopologySpawn(n, substrate="random", max_nodes=7, crowded_nodes=7),
    "moving": lambda n: Moving(n, max_steps=50),
    "sliding": lambda n: Sliding(n, max_steps=50),
    "hard_move": lambda n: HardMove(n),
    "hard_move, per actuator": lambda n: HardMove(n, form="actuator"),
    "catch_point": lambda n: CatchPoint(n),
    "platform": lambda n: Platform(n),
    "goal": lambda n: Goal(n, max_substeps=50),
    "hard goal": lambda n: Goal(n, max_substeps=50, hard=True, published_features=True),
    "synthetic": lambda n: Synthetic(n),
    "switched_lqr": lambda n: SwitchedLQR(n, dimension=3),
    "inventory": lambda n: Inventory(n),
}
make_env = pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES.keys())


def play(env: BatchedEnv, steps: int, stream: StreamPerEnv, mask: Tensor | None) -> list[Timestep]:
    """Random actions, under inference mode as the trainer has it."""
    taken = []
    with torch.inference_mode():
        for _ in range(steps):
            taken.append(env.step(random_action(env, mask, stream)))
            mask = taken[-1].action_mask
    return taken


def started(
    make: Callable[[int], BatchedEnv], num_envs: int, seed: int = 5, first: int = 0
) -> tuple[Any, list[Timestep]]:
    env, stream = make(num_envs), StreamPerEnv(num_envs, CPU)
    assert isinstance(env, SharedEnv)
    env.first_env = first
    observation, mask = env.reset(seed)
    stream.seed(1, first)
    return observation, play(env, STEPS, stream, mask)


def rows(step: Timestep, count: int, first: int = 0) -> dict[str, Tensor]:
    done = step.terminated | step.truncated
    tensors = {**step._asdict(), **step.metrics, "final": step.final_observation * done[:, None]}
    del tensors["metrics"], tensors["final_observation"]
    return {name: tensor[first : first + count] for name, tensor in tensors.items() if tensor is not None}


def assert_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0, equal_nan=True, msg=name)


IMPOSSIBLE: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (kind, {name: value})
    for kind, settings in {
        Moving: {
            "max_turn": [0.0, -1.0],
            "max_acceleration": [0.0, -1.0],
            "dt": [0.0, -0.1],
            "max_steps": [0, -5],
            "step_cost": [-0.1, math.nan],
            "brake": [0.0, -1.0],
        },
        Sliding: {"max_steps": [0]},
        HardMove: {
            "n": [1, 13],
            "form": ["both"],
            "max_steps": [0],
            "target_radius": [0.0, -1.0],
            "goal_reward": [-1.0, math.inf],
        },
        HardMovePerActuator: {"n": [1]},
        CatchPoint: {
            "max_steps": [0, -1],
            "max_misses": [-1, -5],
            "catch_radius": [0.0, -0.2],
            "catch_reward": [-1.0],
        },
        Platform: {"max_steps": [0]},
        Goal: {"max_steps": [0], "max_substeps": [0, -1]},
        Synthetic: {
            "observation_width": [0, 9],
            "choices": [0],
            "parameters": [0],
            "components": [0],
            "max_steps": [0],
        },
        SwitchedLQR: {"dimension": [0, 101], "modes": [0], "growth": [0.0], "max_steps": [0]},
        Inventory: {"products": [0], "suppliers": [0, 11], "shortage_cost": [0.0], "holding_cost": [0.0]},
        TopologySpawn: {"max_steps": [0], "slope": [(-1.0, 1.0)], "goal_reward": [-1.0]},
    }.items()
    for name, values in settings.items()
    for value in values
]


@pytest.mark.parametrize(("kind", "setting"), IMPOSSIBLE)
def test_an_impossible_setting_is_refused_by_name(kind: Callable[..., Any], setting: dict[str, Any]) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=rf"(?s){name}\b.*{re.escape(str(value))}"):
        kind(1, **setting)


def test_the_smallest_possible_settings_are_accepted() -> None:
    kinds = [Moving, Sliding, HardMove, CatchPoint, Platform, Goal, Synthetic, TopologySpawn]
    kinds += [SwitchedLQR, Inventory]
    smallest: dict[Any, dict[str, Any]] = {
        Moving: {"step_cost": 0.0},
        HardMove: {"n": 2, "goal_reward": 0.0},
        CatchPoint: {"max_misses": 0, "catch_reward": 0.0},
        Goal: {"max_substeps": 1},
        SwitchedLQR: {"dimension": 1, "modes": 1},
        Inventory: {"products": 1, "suppliers": 1, "fixed_cost": 0.0},
        Synthetic: {"observation_width": 2, "choices": 1, "parameters": 1, "components": 1},
    }
    for kind in kinds:
        env: Any = kind(1, max_steps=1, **smallest.get(kind, {}))
        observation, mask = env.reset(0)
        step = play(env, 2, StreamPerEnv(1, CPU), mask)[0]
        assert observation.isfinite().all()
        assert step.rewards.isfinite().all()


def test_a_configuration_says_what_is_allowed() -> None:
    for overrides, complaint in (
        (["env=hard_move", "env.target_radius=-1"], "env.target_radius = -1: must be a number > 0"),
        (["env=moving", "env.max_steps=0"], "env.max_steps = 0: must be a whole number ≥ 1"),
    ):
        with pytest.raises(ConfigError, match=re.escape(complaint)):
            compose(overrides)


@make_env
def test_shapes_and_dtypes_are_those_of_the_spaces(make: Callable[[int], BatchedEnv]) -> None:
    env = make(4)
    observation, mask = env.reset(0)
    width, components = int(np.prod(env.observation_space.shape)), len(env.reward_names)
    step = play(env, 1, StreamPerEnv(4, env.device), mask)[0]
    for tensor in (observation, step.observation, step.final_observation):
        assert tensor.shape == (4, width)
        assert tensor.dtype == torch.float32
    assert step.rewards.shape == (4, components)
    assert step.terminated.dtype == step.truncated.dtype == torch.bool
    assert step.terminated.shape == step.truncated.shape == (4,)
    assert len(env.reward_weights) == components
    assert all(weight >= 0 for weight in env.reward_weights)
    assert (mask is None) == (step.action_mask is None)
    if mask is not None:
        assert mask.dtype == torch.bool
        assert mask.any(2).all(), "every head needs a valid choice"
    assert env.render(3).dtype == np.uint8
    assert env.render(3).shape[2] == 3


@make_env
def test_neighbours_make_no_difference(make: Callable[[int], BatchedEnv]) -> None:
    (few_start, few), (many_start, many) = started(make, 3), started(make, 8)
    assert torch.equal(few_start, many_start[:3])
    assert any((step.terminated | step.truncated)[:3].any() for step in few), "no restart was seen"
    for step, other in zip(few, many, strict=True):
        assert_same(rows(step, 3), rows(other, 3))


@make_env
def test_a_part_of_a_batch_goes_through_what_it_does_in_the_whole(make: Callable[[int], BatchedEnv]) -> None:
    """As several processes have it, of which each simulates some of the environments."""
    (start, part), (whole_start, whole) = started(make, 3, first=5), started(make, 8)
    assert torch.equal(start, whole_start[5:])
    for step, other in zip(part, whole, strict=True):
        assert_same(rows(step, 3), rows(other, 3, first=5))


@make_env
def test_a_seed_repeats_everything_and_another_one_does_not(make: Callable[[int], BatchedEnv]) -> None:
    (_, first), (_, again), (_, other) = started(make, 4), started(make, 4), started(make, 4, seed=6)
    for step, repeated in zip(first, again, strict=True):
        assert_same(rows(step, 4), rows(repeated, 4))
    assert any(not torch.equal(a.observation, b.observation) for a, b in zip(first, other, strict=True))


@make_env
def test_a_saved_state_continues_bit_for_bit(make: Callable[[int], BatchedEnv]) -> None:
    env, other = make(4), make(4)
    stream, again = StreamPerEnv(4, env.device, 3), StreamPerEnv(4, env.device, 3)
    mask = play(env, 7, stream, env.reset(2)[1])[-1].action_mask
    state = env.state_dict()
    again.load_state_dict(stream.state_dict())
    rest = play(env, STEPS, stream, mask)
    other.load_state_dict(state)  # the state is what it was, although `env` has gone on
    for step, continued in zip(rest, play(other, STEPS, again, mask), strict=True):
        assert_same(rows(step, 4), rows(continued, 4))


@make_env
def test_steps_leave_earlier_results_alone(make: Callable[[int], BatchedEnv]) -> None:
    env = make(4)
    observation, mask = env.reset(0)
    stream = StreamPerEnv(4, env.device)
    first = play(env, 1, stream, mask)[0]
    kept = observation.clone(), first.observation.clone(), first.rewards.clone()
    play(env, 5, stream, first.action_mask)
    for now, before in zip((observation, first.observation, first.rewards), kept, strict=True):
        assert torch.equal(now, before)


@make_env
def test_relevance_names_existing_parameters_once(make: Callable[[int], BatchedEnv]) -> None:
    env = make(1)
    if env.relevance is None:
        pytest.skip("derived from the action space")
    owners = [parameter for head in env.relevance for parameter in {p for choice in head for p in choice}]
    assert len(owners) == len(set(owners))
    boxes = [leaf for leaf in leaves(env.action_space) if isinstance(leaf, gymnasium.spaces.Box)]
    assert max(owners) < sum(int(np.prod(box.shape)) for box in boxes)


def leaves(space: gymnasium.Space[Any]) -> list[gymnasium.Space[Any]]:
    if isinstance(space, gymnasium.spaces.Dict):
        return [leaf for part in space.spaces.values() for leaf in leaves(part)]
    if isinstance(space, gymnasium.spaces.Tuple):
        return [leaf for part in space.spaces for leaf in leaves(part)]
    return [space]


@make_env
def test_the_expert_beats_random_actions(make: Callable[[int], BatchedEnv]) -> None:
    if not isinstance(make(1), ScriptedEnv):
        pytest.skip("no scripted expert")
    references = reference_returns(make, episodes=64)
    assert references == reference_returns(make, episodes=64)
    assert references.expert is not None
    assert references.expert > references.random


@make_env
def test_a_diagnosis_is_repeatable_and_leaves_the_episodes_alone(make: Callable[[int], BatchedEnv]) -> None:
    env, undisturbed = make(3), make(3)
    if not isinstance(env, DiagnosticEnv):
        pytest.skip("no diagnosis")

    def act(observation: Tensor, action_mask: Tensor | None) -> NativeAction:
        space = make(len(observation))
        return random_action(space, action_mask, StreamPerEnv(len(observation), env.device, 4))

    masks = env.reset(1)[1], undisturbed.reset(1)[1]
    assert env.diagnose(act) == env.diagnose(act)
    streams = StreamPerEnv(3, env.device), StreamPerEnv(3, env.device)
    both = (play(e, 5, s, m)[-1] for e, s, m in zip((env, undisturbed), streams, masks, strict=True))
    assert_same(rows(next(both), 3), rows(next(both), 3))


@pytest.mark.parametrize("code", ["import envs; make('TopologySpawn-v0')", "make('envs:TopologySpawn-v0')"])
def test_gymnasium_knows_it_by_name(code: str) -> None:
    """In a process of its own: here something else may have made it known."""
    command = [sys.executable, "-c", f"from gymnasium import make; {code}.reset(seed=0)"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is")
def test_gymnasium_accepts_it(name: str) -> None:
    env = gymnasium.make(name, render_mode="rgb_array")
    check_env(env.unwrapped)
    observation, _ = env.reset(seed=3)
    repeated, _ = env.reset(seed=3)
    assert np.array_equal(observation, repeated)
    _, reward, *_, info = env.step(env.action_space.sample())
    batched = env.unwrapped.batched  # type: ignore[attr-defined]
    components = [info[part] for part in batched.reward_names]
    assert reward == pytest.approx(np.dot(components, batched.reward_weights))
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.dtype == np.uint8
    env.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_adapter_keeps_its_relevance_and_its_state(
    name: str, vectorization: Literal["sync", "async"]
) -> None:
    def make() -> GymnasiumEnv:
        return GymnasiumEnv(f"envs:{name}", 2, vectorization=vectorization, kwargs={"max_steps": 20})

    env = make()
    batched = load_env_creator(ENVIRONMENTS[name])(num_envs=1)
    assert env.relevance is not None
    space, own = (HybridSpace(e.action_space, e.relevance) for e in (env, batched))
    assert torch.equal(space.relevance, own.relevance)
    stream, again = StreamPerEnv(2, CPU, 3), StreamPerEnv(2, CPU, 3)
    mask = play(env, 7, stream, env.reset(2)[1])[-1].action_mask
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    again.load_state_dict(stream.state_dict())
    rest = play(env, STEPS, stream, mask)
    env.close()
    other = make()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.notice is None
    repeated = play(other, STEPS, again, mask)
    other.close()
    assert any((step.terminated | step.truncated).any() for step in rest), "no restart was seen"
    for step, same in zip(rest, repeated, strict=True):
        assert_same(rows(step, 2), rows(same, 2))


class OtherTimestep(NamedTuple):
    """As `Timestep` is where its module has been imported by another name."""

    observation: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observation: Tensor
    action_mask: Tensor | None
    metrics: dict[str, Tensor]


def test_a_timestep_of_the_same_module_imported_again_is_one() -> None:
    class Again(Moving):
        def step(self, action: NativeAction) -> Any:
            return OtherTimestep(*super().step(action))

    env = CheckedEnv(Again(2, torch.device("cpu")))
    _, mask = env.reset(0)
    taken = env.step(random_action(env.env, mask, StreamPerEnv(2, torch.device("cpu"), 0)))
    assert type(taken) is Timestep
    assert OtherTimestep._fields == Timestep._fields
