"""The Gymnasium adapter against real environments, good ones and faulty ones."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from misbehaving import FAULTS

from equipoise.envs.gymnasium_adapter.adapter import GymnasiumEnv, seed_of
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.envs.protocol import BatchedEnv, Timestep

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")  # workers' tracebacks
BOTH = pytest.mark.parametrize("vectorization", ["sync", "async"])


@pytest.fixture(autouse=True)
def no_process_lingers() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def stepped(env: GymnasiumEnv, actions: list[int]) -> Timestep:
    return env.step(torch.tensor(actions))


# ---------------------------------------------------------------- episodes


@BOTH
def test_time_limit_gives_the_final_observation_and_starts_anew(vectorization: Any) -> None:
    env: BatchedEnv = GymnasiumEnv("test/Counter-v0", 2, vectorization=vectorization, kwargs={"length": 2})
    observation, mask = env.reset(0)
    assert observation.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert mask is None
    first = env.step(torch.tensor([5, 7]))
    last = env.step(torch.tensor([6, 6]))
    assert first.observation.tolist() == [[1.0, -1.0], [1.0, -1.0]]
    assert first.rewards.tolist() == [[5.0], [7.0]]  # native actions arrive as they are, `start` included
    assert not (first.terminated | first.truncated).any()
    assert last.observation.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    # The environment reuses one array for ever: the reset must not have overwritten the final observation.
    assert last.final_observation.tolist() == [[2.0, -2.0], [2.0, -2.0]]
    assert last.truncated.tolist() == [True, True]
    assert last.terminated.tolist() == [False, False]
    assert first.observation.tolist() == [[1.0, -1.0], [1.0, -1.0]]  # earlier results stay
    env.close()


def test_termination_and_truncation_are_kept_apart() -> None:
    env = GymnasiumEnv("CartPole-v1", 1, kwargs={"max_episode_steps": 5})
    env.reset(0)
    assert [stepped(env, [k % 2]).truncated.item() for k in range(5)] == [False] * 4 + [True]
    env = GymnasiumEnv("CartPole-v1", 1)
    env.reset(0)
    step = stepped(env, [1])
    while not step.terminated.item():
        step = stepped(env, [1])
    assert not step.truncated.item()
    assert abs(step.final_observation[0, 2]) > 12 * 2 * np.pi / 360 > abs(step.observation[0, 2])


def test_environments_agree_whatever_their_number_and_with_gymnasium_itself() -> None:
    few, many = GymnasiumEnv("CartPole-v1", 2), GymnasiumEnv("CartPole-v1", 5, vectorization="async")
    a, b = few.reset(7)[0], many.reset(7)[0]
    assert torch.equal(a, b[:2])
    assert not torch.equal(b[0], b[1])
    part = GymnasiumEnv("CartPole-v1", 2)
    part.first_env = 3  # as the second of two processes has it
    assert torch.equal(part.reset(7)[0], b[3:])
    for k in range(60):
        actions = torch.tensor([k % 2, (k // 2) % 2, 0, 1, 1])
        one, other = few.step(actions[:2]), many.step(actions)
        assert torch.equal(one.observation, other.observation[:2])
    alone = gymnasium.make("CartPole-v1")
    assert np.array_equal(alone.reset(seed=seed_of(7, 1))[0], a[1].numpy())
    many.close()


# ---------------------------------------------------------------- spaces


leaf_spaces = st.one_of(
    st.builds(lambda n, s: spaces.Discrete(n, start=s), st.integers(1, 4), st.integers(-3, 3)),
    st.builds(spaces.MultiBinary, st.integers(1, 3)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 3), min_size=1, max_size=3)),
    st.builds(
        lambda shape, dtype: spaces.Box(0, 9, shape, dtype),
        st.sampled_from([(), (2,), (2, 1, 3)]),
        st.sampled_from([np.float32, np.float64, np.uint8, np.int64]),
    ),
)
any_space = st.recursive(
    leaf_spaces,
    lambda part: st.one_of(
        st.lists(part, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("zab"), part, min_size=1).map(spaces.Dict),
    ),
    max_leaves=4,
)


@given(any_space, st.integers(0, 1000))
def test_flattening_agrees_with_gymnasium(space: spaces.Space[Any], seed: int) -> None:
    space.seed(seed)
    observation = space.sample()
    layout = ObservationLayout(space)
    row, outside = layout.row(observation)
    assert outside is None
    assert np.array_equal(row, spaces.flatten(space, observation).astype(np.float32))
    assert layout.width == spaces.flatdim(space)
    assert np.array_equal(layout.rows(observation, 1)[0], [row])


@BOTH
def test_nested_spaces_pass_through(vectorization: Any) -> None:
    env = GymnasiumEnv("test/Structured-v0", 2, vectorization=vectorization)
    observation, mask = env.reset(3)
    assert observation.shape == (2, 6 + 3 + 2 + 5)
    assert observation[:, 6:9].sum(1).tolist() == [1.0, 1.0]
    assert mask is not None
    expected = [[True, False, True, True], [True, True, True, False], [True, True, False, False]]
    assert mask.tolist() == [expected, expected]
    step = env.step(
        {
            "aim": (torch.tensor([-1, 2]), torch.tensor([[0.5, 0.0], [-2.0, 1.0]])),
            "gears": torch.tensor([[2, 1], [0, 0]]),
        }
    )
    assert step.rewards.tolist() == [[-1000 + 200 + 10 + 0.5], [2000 - 2.0]]
    assert step.action_mask is not None
    assert step.action_mask.sum().item() == 2 * 9
    assert env.relevance == [[[], [0], [1], [0, 1]], [[], [], []], [[], []]]
    with pytest.raises(ValueError, match=r"action\['gears'\] must be a tensor"):
        env.step({"aim": (torch.zeros(2), torch.zeros(2, 2)), "gears": torch.zeros(2, 3)})
    env.close()


def test_continuous_actions_and_bounds_of_the_flat_space() -> None:
    env = GymnasiumEnv("Pendulum-v1", 3)
    env.reset(1)
    step = env.step(torch.tensor([[0.5], [-2.0], [2.0]]))
    assert step.rewards.shape == (3, 1)
    assert env.observation_space == spaces.Box(np.float32([-1, -1, -8]), np.float32([1, 1, 8]))


def test_rounding_to_float32_never_leaves_the_bounds_of_a_float64_box() -> None:
    env = GymnasiumEnv("test/Strict-v0", 1)
    env.reset(0)
    assert env.step(torch.tensor([[0.1, -0.1]])).rewards.item() == np.float32(0.1)
    assert env.step(torch.tensor([[-0.1, 0.0625]])).rewards.item() == -np.float32(0.1)


def test_a_relevance_table_may_be_an_array_and_is_overridden_even_by_an_empty_one() -> None:
    def relevance(stated: Any, **given: Any) -> Any:
        return GymnasiumEnv("test/Says-v0", 1, kwargs={"relevance": stated}, **given).relevance

    assert relevance(np.array([[[0], [1], [0]]])) == [[[0], [1], [0]]]
    assert relevance([[np.arange(2), (), [np.int64(1)]]]) == [[[0, 1], [], [1]]]
    assert relevance([[[0], [], []]], relevance=[]) == []
    assert relevance([[[0], [], []]], relevance=[[[], [0], []]]) == [[[], [0], []]]
    assert relevance([[[0], [], []]]) == [[[0], [], []]]
    assert relevance(None) is None


# ---------------------------------------------------------------- what `info` says


@BOTH
def test_components_masks_and_success_come_from_info(vectorization: Any) -> None:
    env = GymnasiumEnv(
        "test/Scores-v0",
        2,
        vectorization=vectorization,
        kwargs={"length": 2},
        reward_components={"near": 2.0, "far": 0.5},
    )
    assert (env.reward_names, env.reward_weights) == (("near", "far"), (2.0, 0.5))
    _, mask = env.reset(0)
    assert mask is not None
    assert mask.tolist() == [[[True, False, False]]] * 2
    first, last = stepped(env, [5, 5]), stepped(env, [5, 5])
    assert first.rewards.tolist() == [[1.5, -1.0]] * 2
    assert last.rewards.tolist() == [[2.5, -2.0]] * 2  # of the step that ended, not of the reset after it
    assert first.action_mask is not None
    assert last.action_mask is not None
    assert first.action_mask.tolist() == [[[True, True, False]]] * 2
    assert last.action_mask.tolist() == [[[True, False, False]]] * 2  # of the reset
    assert "success" not in first.metrics
    assert last.metrics["success"].tolist() == [1.0, 1.0]
    env.close()


def test_a_component_called_reward_is_read_from_info_as_any_other() -> None:
    kwargs = {"info": {"reward": 0.25}}
    env = GymnasiumEnv("test/Says-v0", 1, kwargs=kwargs, reward_components=["reward"])
    env.reset(0)
    assert stepped(env, [6]).rewards.tolist() == [[0.25]]
    env = GymnasiumEnv("test/Says-v0", 1, kwargs=kwargs)
    env.reset(0)
    assert stepped(env, [6]).rewards.tolist() == [[6.0]]


@pytest.mark.parametrize("key", ["is_success", "success"])
@pytest.mark.parametrize(
    ("value", "expected"), [(True, 1), (np.False_, 0), (np.array([True]), 1), (np.array([[0.25]]), 0.25)]
)
def test_success_is_one_bool_or_number(key: str, value: Any, expected: float) -> None:
    env = GymnasiumEnv("test/Says-v0", 1, kwargs={"info": {key: value}})
    env.reset(0)
    assert stepped(env, [5]).metrics["success"].tolist() == [expected]


@pytest.mark.parametrize("value", [None, "yes", [True], np.array([True, False]), np.array(["yes"])])
def test_any_other_success_is_named(value: Any) -> None:
    env = GymnasiumEnv("test/Says-v0", 1, kwargs={"info": {"success": value}})
    env.reset(0)
    expected = f"environment 0, step 1: info['success'] is {value!r}; allowed is one bool or number"
    with pytest.raises(EnvError, match=re.escape(expected)):
        stepped(env, [5])


@BOTH
def test_where_no_episode_ended_success_is_nan_and_all_else_goes_on(vectorization: Any) -> None:
    env = GymnasiumEnv(
        "test/Scores-v0",
        3,
        vectorization=vectorization,
        kwargs={"length": 2, "long": seed_of(0, 1)},
        reward_components=["near", "far"],
    )
    env.reset(0)
    stepped(env, [5, 5, 5])
    step = stepped(env, [5, 5, 5])
    success = step.metrics["success"]
    assert success.isnan().tolist() == [False, True, False]
    assert success[[0, 2]].tolist() == [1.0, 1.0]
    assert step.truncated.tolist() == [True, False, True]
    assert step.observation[:, 0].tolist() == [0.0, 2.0, 0.0]
    assert step.rewards.tolist() == [[2.5, -2.0]] * 3
    assert step.final_observation[[0, 2], 0].tolist() == [2.0, 2.0]
    env.close()


BRANCHES = spaces.Dict(
    {
        "size": spaces.Box(0, 1, (2,)),
        "where": spaces.Dict({"x": spaces.Discrete(3), "y": spaces.MultiDiscrete([2, 2])}),
        "what": spaces.Discrete(2),
    }
)


def masked(mask: Any) -> GymnasiumEnv:
    info = {"action_mask": mask}
    return GymnasiumEnv("test/Says-v0", 1, kwargs={"info": info, "action_space": BRANCHES})


@pytest.mark.parametrize("more", [{}, {"size": None}])  # None as Gymnasium's own `sample(mask)` has it
def test_a_mask_may_be_a_dict_like_the_actions(more: dict[str, Any]) -> None:
    # Heads are counted in the order of the space, whose keys are sorted, not in the order of the mask.
    mask = masked({"where": {"y": ([0, 1], [1, 1]), "x": np.array([1, 0, 1])}, "what": [1, 0], **more})
    expected = [[True, False, False], [True, False, True], [False, True, False], [True, True, False]]
    assert mask.reset(0)[1].tolist() == [expected]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "mask",
    [
        {"what": [1, 0]},
        {"what": [1, 0], "where": [1, 1, 1, 1]},
        {"what": [1, 0], "where": {"x": [1, 1, 1], "y": [[1, 1], [1, 1]]}, "how": [1]},
        {"what": "10", "where": {"x": [1, 1, 1], "y": [[1, 1], [1, 1]]}},
    ],
)
def test_a_dict_of_masks_that_does_not_fit_is_refused(mask: Any) -> None:
    with pytest.raises(EnvError, match=r"info\['action_mask'\] must mask heads of \[2, 3, 2, 2\]"):
        masked(mask).reset(0)


def test_masks_of_an_environment_of_gymnasium() -> None:
    env = GymnasiumEnv("Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3", 2)
    observation, mask = env.reset(0)
    assert observation.shape == (2, 500)
    assert mask is not None
    assert mask.shape == (2, 1, 6)
    expected = [e.unwrapped.action_mask(e.unwrapped.s) for e in env.envs.group.envs]  # type: ignore[union-attr]
    assert torch.equal(mask[:, 0], torch.tensor(np.stack(expected)).bool())


@pytest.mark.parametrize(
    ("key", "field"), [("far", "reward component 'far'"), ("action_mask", "'action_mask'")]
)
def test_a_key_missing_in_info_is_an_error(key: str, field: str) -> None:
    env = GymnasiumEnv("test/Scores-v0", 2, kwargs={"forget": key}, reward_components=["near", "far"])
    env.reset(0)
    stepped(env, [5, 5])
    with pytest.raises(EnvError, match=f"Scores-v0: environment 0, step 2: info lacks .*{field}"):
        stepped(env, [5, 5])


# ---------------------------------------------------------------- misbehaviour

FIELD = {
    "raise": "step raised RuntimeError: the simulator lost contact",
    "exit": "step raised SystemExit: 3",
    "four values": "step must return",
    "shape": r"observation has shape \(3,\), expected \(2,\) of float32",
    "ragged": r"observation has the value \[\[0.0\], \[0.0, 1.0\]\], expected \(2,\) of float32",
    "dtype": "observation has dtype <U1",
    "complex": "observation has dtype complex64",
    "outside": r"observation\[1\] is 101.0, outside",
    "observation nan": r"observation\[1\] is nan",
    "observation inf": r"observation\[0\] is inf",
    "observation -inf": r"observation\[0\] is -inf",
    "reward nan": "reward component 'reward' is nan",
    "reward inf": "reward component 'reward' is inf",
    "reward -inf": "reward component 'reward' is -inf",
    "reward too large": "reward component 'reward' is inf",
    "reward shape": r"reward is a ndarray of shape \(2,\)",
    "reward text": "reward is a str",
    "flag": "terminated is 2 of type int, expected a bool, or 0 or 1",
    "flag of a fraction": "terminated is 1.0 of type float, expected a bool",
    "flag text": "terminated is 'False' of type str, expected a bool",
}
assert set(FIELD) | {"hang", "die", "flags as integers", ""} == set(FAULTS)
IN_ASYNC_TOO = ["raise", "exit", "shape", "dtype", "observation nan", "reward inf", "flag"]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(
    ("vectorization", "fault"), [("sync", f) for f in FIELD] + [("async", f) for f in IN_ASYNC_TOO]
)
@pytest.mark.parametrize("length", [3, 2])  # the faulty step is an ordinary one, or the last of an episode
def test_a_fault_is_named_with_index_and_step(vectorization: Any, fault: str, length: int) -> None:
    env = GymnasiumEnv(
        "test/OnlyOne-v0",
        3,
        vectorization=vectorization,
        kwargs={"culprit": seed_of(0, 1), "fault": fault, "length": length},
        check_bounds="strict",
    )
    env.reset(0)
    stepped(env, [5, 5, 5])
    final = (
        "final " if length == 2 and fault in ("outside", *(f for f in FIELD if "observation " in f)) else ""
    )
    with pytest.raises(EnvError, match=f"test/OnlyOne-v0: environment 1, step 2: {final}{FIELD[fault]}"):
        stepped(env, [5, 5, 5])
    assert multiprocessing.active_children() == []
    env.close()


@BOTH
def test_flags_may_be_0_and_1(vectorization: Any) -> None:
    kwargs = {"fault": "flags as integers", "at": 2}
    env = GymnasiumEnv("test/Counter-v0", 1, vectorization=vectorization, kwargs=kwargs)
    env.reset(0)
    assert not stepped(env, [5]).terminated.any()
    step = stepped(env, [5])
    assert step.terminated.tolist() == [True]
    assert step.truncated.tolist() == [False]
    env.close()


@BOTH
def test_reset_that_raises(vectorization: Any) -> None:
    env = GymnasiumEnv("test/Counter-v0", 2, vectorization=vectorization, kwargs={"fault": "raise on reset"})
    with pytest.raises(
        EnvError, match=r"environment \d, step 0: reset raised OSError: no map found"
    ) as caught:
        env.reset(0)
    if vectorization == "sync":
        assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("hang", r"environment 1, step 2: no answer to step within 0.5 s"),
        ("die", r"environment 1, step 2: its process died in step, exit code 7"),
    ],
)
@pytest.mark.parametrize("workers", [3, 1])
def test_an_environment_that_hangs_or_dies_is_named_and_all_are_gone(
    fault: str, message: str, workers: int
) -> None:
    env = GymnasiumEnv(
        "test/OnlyOne-v0",
        3,
        vectorization="async",
        num_workers=workers,
        kwargs={"culprit": seed_of(0, 1), "fault": fault},
        timeout=0.5,
    )
    env.reset(0)
    stepped(env, [5, 5, 5])
    with pytest.raises(EnvError, match=f"test/OnlyOne-v0: {message}"):
        stepped(env, [5, 5, 5])
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("envs", "workers", "processes"), [(5, 2, 2), (2, 7, 2), (3, None, None), (3, 3, 3)])
def test_as_many_processes_as_asked_for_and_never_more_than_environments(
    envs: int, workers: int | None, processes: int | None
) -> None:
    env = GymnasiumEnv("CartPole-v1", envs, vectorization="async", num_workers=workers)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert len(multiprocessing.active_children()) == (processes or min(usable, envs))
    env.close()


def test_several_environments_to_a_process_are_the_same_environments() -> None:
    """Whatever of them is where: observations, ends, masks and random streams."""
    kwargs = {"max_episode_steps": 13}
    alone = GymnasiumEnv("CartPole-v1", 7, kwargs=kwargs)
    for workers in (1, 3, 7):
        env = GymnasiumEnv("CartPole-v1", 7, vectorization="async", num_workers=workers, kwargs=kwargs)
        assert torch.equal(env.reset(3)[0], alone.reset(3)[0])
        for k in range(40):
            actions = torch.arange(7).add(k // 2).remainder(2)
            found, expected = env.step(actions), alone.step(actions)
            ended = expected.terminated | expected.truncated
            assert torch.equal(found.observation, expected.observation)
            assert torch.equal(found.truncated, expected.truncated)
            assert torch.equal(found.final_observation[ended], expected.final_observation[ended])
        env.close()


def test_workers_end_with_close_and_with_the_object() -> None:
    env = GymnasiumEnv("CartPole-v1", 2, vectorization="async", num_workers=2)
    assert len(multiprocessing.active_children()) == 2
    env.close()
    assert multiprocessing.active_children() == []
    env = GymnasiumEnv("CartPole-v1", 2, vectorization="async")
    del env
    assert multiprocessing.active_children() == []
    env = GymnasiumEnv("CartPole-v1", 2, vectorization="async")
    env.close()
    with pytest.raises(EnvError, match="CartPole-v1: its processes have ended"):
        env.reset(0)


def test_workers_ignore_what_asks_the_run_to_stop() -> None:
    env = GymnasiumEnv("CartPole-v1", 2, vectorization="async")
    env.reset(0)
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGHUP)
    assert stepped(env, [0, 1]).observation.isfinite().all()
    env.close()


LEAVING = """
import multiprocessing, sys, torch
sys.path[:0] = {path}
import misbehaving
from equipoise.envs.gymnasium_adapter.adapter import GymnasiumEnv
faulty = dict(culprit={culprit}, fault="hang", at=1)
env = GymnasiumEnv("test/OnlyOne-v0", 3, vectorization="async", num_workers={workers}, kwargs=faulty)
env.reset(0)
env.envs.exchange.actions[0][:] = 5
env.envs.begin_step()
print(*[p.pid for p in multiprocessing.active_children()], flush=True)
{ending}
"""


@pytest.mark.parametrize(
    ("ending", "count"),
    [("", 3), ("", 1), ("import os; os.kill(os.getpid(), 9)", 2)],
    ids=["exit", "exit, one", "kill -9"],
)
def test_no_process_outlives_its_trainer(ending: str, count: int) -> None:
    here = Path(__file__).parent
    path, culprit = [str(here), str(here.parents[1])], seed_of(0, 1)
    script = LEAVING.format(path=path, culprit=culprit, workers=count, ending=ending)
    started = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    workers = [int(pid) for pid in started.stdout.readline().split()]
    assert len(workers) == count
    started.wait(timeout=20)
    started.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in workers if _alive(pid)] == []


def _alive(pid: int) -> bool:
    """Whether the process still runs; one that ended but was not collected by init does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---------------------------------------------------------------- state


def trajectory(env: GymnasiumEnv, steps: int) -> list[torch.Tensor]:
    rows = []
    for k in range(steps):
        step = env.step(torch.arange(env.num_envs).add(k // 3).remainder(2))
        rows += [step.observation, step.rewards, step.truncated.float()]
    return rows


@BOTH
def test_cartpole_continues_bit_for_bit(vectorization: Any) -> None:
    def make() -> GymnasiumEnv:
        return GymnasiumEnv("CartPole-v1", 3, vectorization=vectorization, kwargs={"max_episode_steps": 23})

    env = make()
    env.reset(5)
    trajectory(env, 37)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    expected = trajectory(env, 100)
    env.close()
    file.seek(0)
    resumed = make()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.notice is None
    assert all(torch.equal(a, b) for a, b in zip(expected, trajectory(resumed, 100), strict=True))
    resumed.close()


@pytest.mark.parametrize(
    "id",
    [
        "Pendulum-v1",
        "Acrobot-v1",
        "MountainCar-v0",
        "MountainCarContinuous-v0",
        "FrozenLake-v1",
        "Blackjack-v1",
    ],
)
def test_other_environments_continue_bit_for_bit(id: str) -> None:
    env, other = GymnasiumEnv(id, 2), GymnasiumEnv(id, 2)
    env.reset(1)
    env.action_space.seed(0)
    actions: list[Any] = [torch.as_tensor(np.stack([env.action_space.sample()] * 2)) for _ in range(60)]
    for action in actions[:20]:
        env.step(action)
    state = env.state_dict()
    assert state["exact"]
    expected = [env.step(action).observation for action in actions[20:]]
    other.load_state_dict(state)
    assert all(torch.equal(a, other.step(b).observation) for a, b in zip(expected, actions[20:], strict=True))


@BOTH
def test_the_random_streams_of_spaces_go_on(vectorization: Any) -> None:
    def go_on(env: GymnasiumEnv) -> list[list[list[float]]]:
        observations = [stepped(env, [0, 1]).observation.tolist() for _ in range(5)]
        env.close()
        return observations

    env, other, older = (GymnasiumEnv("test/Sampler-v0", 2, vectorization=vectorization) for _ in range(3))
    env.reset(0)
    stepped(env, [0, 1])
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    expected = go_on(env)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.notice is None
    assert go_on(other) == expected
    file.seek(0)
    state = torch.load(file, weights_only=True)
    del state["version"]  # as checkpoints before had it
    older.load_state_dict(state)
    assert older.notice is not None
    assert "another version" in older.notice
    assert go_on(older) != expected


def test_what_a_space_draws_depends_on_the_seed_alone() -> None:
    first, again, other = (GymnasiumEnv("test/Sampler-v0", 2) for _ in range(3))
    seen = [env.reset(seed)[0].tolist() for env, seed in ((first, 3), (again, 3), (other, 4))]
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


def test_a_space_s_stream_under_two_names_is_no_exact_state() -> None:
    env = GymnasiumEnv("test/SharedStream-v0", 1)
    env.reset()  # a seed would give the space a stream of its own
    state = env.state_dict()
    assert not state["exact"]
    assert "np_random shares memory with another attribute" in state["reason"]


def test_an_environment_may_give_its_own_state() -> None:
    env, other = GymnasiumEnv("test/OwnState-v0", 2), GymnasiumEnv("test/OwnState-v0", 2)
    env.reset(0)
    stepped(env, [5, 5])
    other.load_state_dict(env.state_dict())
    assert other.notice is None
    assert stepped(other, [5, 5]).observation.tolist() == [[2.0, -2.0]] * 2


def test_a_state_out_of_reach_is_said_so_and_episodes_begin_anew() -> None:
    env, other = GymnasiumEnv("test/Opaque-v0", 2), GymnasiumEnv("test/Opaque-v0", 2)
    env.reset(0)
    stepped(env, [5, 5])
    state = env.state_dict()
    assert not state["exact"]
    other.load_state_dict(state)
    assert other.notice is not None
    assert "Opaque.engine is a builtins.object" in other.notice
    assert stepped(other, [5, 5]).observation.tolist() == [[1.0, -1.0]] * 2


def test_a_foreign_state_is_refused() -> None:
    env = GymnasiumEnv("CartPole-v1", 2)
    env.reset(0)
    with pytest.raises(ValueError, match="num_envs 2, not 3"):
        GymnasiumEnv("CartPole-v1", 3).load_state_dict(env.state_dict())


# ---------------------------------------------------------------- construction and pictures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": "CartPool-v1"}, r"'CartPool-v1' is no environment .* closest known: CartPole-v1"),
        ({"id": "no_such_module:Thing-v0"}, r"no_such_module:Thing-v0.*ModuleNotFoundError"),
        ({"id": "CartPole-v1", "kwargs": {"gravityy": 1}}, r"CartPole-v1.*gravityy"),
        ({"id": "CartPole-v1", "num_envs": 0}, "num_envs is 0"),
        ({"id": "CartPole-v1", "vectorization": "threads"}, "allowed are 'sync' and 'async'"),
        ({"id": "CartPole-v1", "num_workers": 0}, "num_workers is 0"),
        ({"id": "CartPole-v1", "timeout": 0}, "timeout is 0"),
        ({"id": "CartPole-v1", "reward_components": {"a": -1.0}}, "weight of 'a' is -1.0"),
        ({"id": "CartPole-v1", "reference_returns": [1.0]}, "reference_returns"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GymnasiumEnv(**{"num_envs": 1, **arguments})


def test_id_may_name_the_module_that_registers_it() -> None:
    env = GymnasiumEnv("misbehaving:test/Counter-v0", 1, reference_returns={"random": 0, "expert": None})
    assert env.reset(0)[0].shape == (1, 2)
    assert env.reference_returns == (0.0, None)


@BOTH
def test_render_shows_the_environment_asked_for(vectorization: Any) -> None:
    env = GymnasiumEnv("test/Painter-v0", 2, vectorization=vectorization, render_mode="rgb_array")
    env.reset(0)
    stepped(env, [5, 5])
    assert env.render(1).tolist() == np.ones((4, 6, 3)).tolist()
    env.close()
    with pytest.raises(ValueError, match="without a render_mode"):
        GymnasiumEnv("test/Painter-v0", 1).render()
