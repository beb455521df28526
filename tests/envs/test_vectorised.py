"""Environments that step all copies at once: right final observations, and nothing learned from steps without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import equipoise
from equipoise.envs.checked import CheckedEnv
from equipoise.envs.dependent_masks import DependentMask
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.vectorised import VectorisedEnv
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.episodes import LENGTH
from equipoise.trainer.restore import restore

MODES = pytest.mark.parametrize("mode", list(AutoresetMode))


class Clock(gymnasium.Env[Any, Any]):
    """Its observation is (number of the episode, steps of it); pays the step's number; lasts `length` steps."""

    observation_space: Any = spaces.Box(0.0, 99.0, (2,), np.float32)
    action_space = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (1,))))

    def __init__(self, length: int) -> None:
        self.length, self.episode = length, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return self._observe(), {"action_mask": np.array([1, 1])}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self.steps += 1
        ended = self.steps == self.length
        info = {"action_mask": np.array([1, 0]), "is_success": True}
        return self._observe(), float(self.steps), ended and self.length > 2, ended and self.length == 2, info

    def _observe(self) -> Any:
        return np.array([self.episode, self.steps], np.float32)


def clocks(
    num_envs: int, mode: str = "SameStep", lengths: tuple[int, ...] = (2, 3)
) -> SyncVectorEnv[Any, Any]:
    makes = [lambda length=length: Clock(length) for length in lengths[:num_envs]]
    return SyncVectorEnv(makes, autoreset_mode=AutoresetMode(mode))


def steps(env: VectorisedEnv, count: int) -> list[Any]:
    action = torch.zeros(env.num_envs, dtype=torch.int64), torch.zeros(env.num_envs, 1)
    return [env.step(action) for _ in range(count)]


@MODES
def test_ends_have_the_last_observation_and_what_follows_is_the_next_episode(mode: AutoresetMode) -> None:
    # With the number of rewards stated no episode is begun to see how many there are.
    env = VectorisedEnv(make=clocks, num_envs=2, kwargs={"mode": mode.value}, reward_weights=[1])
    assert env.reset(0)[0].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    first, second, third, fourth = steps(env, 4)
    assert first.observation.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert (second.truncated.tolist(), second.terminated.tolist()) == ([True, False], [False, False])
    assert second.final_observation[0].tolist() == [1.0, 2.0]
    assert second.rewards.tolist() == [[2.0], [2.0]]
    assert second.metrics["success"][0] == 1.0
    assert third.terminated.tolist() == [False, True]
    assert third.final_observation[1].tolist() == [1.0, 3.0]
    idle = env.take_idle()
    if mode == AutoresetMode.NEXT_STEP:
        assert idle is not None
        assert idle.tolist() == [[False, False], [False, False], [True, False], [False, True]]
        assert third.observation[0].tolist() == [2.0, 0.0]
        assert third.rewards[0].tolist() == [0.0]
        assert fourth.observation.tolist() == [[2.0, 1.0], [2.0, 0.0]]
    else:
        assert idle is None
        assert second.observation.tolist() == [[2.0, 0.0], [1.0, 2.0]]
        assert third.observation.tolist() == [[2.0, 1.0], [2.0, 0.0]]
    env.close()


def test_masks_and_bounds_are_read() -> None:
    env = VectorisedEnv(make=clocks, num_envs=2)
    mask = env.reset(0)[1]
    assert mask is not None
    assert mask.tolist() == [[[True, True]]] * 2
    assert steps(env, 1)[0].action_mask.tolist() == [[[True, False]]] * 2


def test_a_reward_in_the_step_of_a_reset_does_not_count() -> None:
    """Environments in JAX pay 1 there (Gymnasium 1.4)."""

    class Paying(SyncVectorEnv[Any, Any]):
        def step(self, actions: Any) -> Any:
            observation, rewards, *rest = super().step(actions)
            return observation, rewards + 100.0, *rest

    def make(num_envs: int) -> Any:
        makes = [lambda: Clock(2)] * num_envs
        return Paying(makes, autoreset_mode=AutoresetMode.NEXT_STEP)

    env = VectorisedEnv(make=make, num_envs=2)
    env.reset(0)
    assert [step.rewards[0].item() for step in steps(env, 4)] == [101.0, 102.0, 0.0, 101.0]


def overrides(make: str, *more: str) -> list[str]:
    return [
        "env=vector", f"env.make={make}", "env.num_envs=2", "policy.hidden_sizes=[8]", "device=cpu",
        "trainer.batch.rollout_steps=8", "trainer.batch.num_minibatches=1", "trainer.batch.update_epochs=1",
        "trainer.total_env_steps=32", "trainer.eval_every=0", "trainer.final_eval_episodes=2", *more,
    ]  # fmt: skip


def test_nothing_is_learned_from_a_step_whose_action_was_not_used(tmp_path: Path) -> None:
    """The same parameters follow, whatever was drawn there; a learner that does not look learns from it."""
    from equipoise.trainer.metric_log import MetricLog
    from equipoise.trainer.targets import prepare

    config = compose(overrides(f"{__name__}:clocks", "env.kwargs.mode=NextStep"))
    trainer = build(config, tmp_path / "run")
    rollout, _ = trainer.collector.collect()
    idle = rollout.idle
    assert idle is not None
    assert idle.sum() == 4
    learner = trainer.learner
    _, samples = prepare(rollout, trainer.policy, learner.pipeline, config.trainer, MetricLog())
    flat = idle.flatten()
    assert (samples.advantages[flat] == 0).all()
    assert (samples.advantages[~flat] != 0).all()
    assert torch.equal(samples.returns[flat], samples.values[flat])
    trainer.close()


@MODES
def test_an_episode_is_as_long_in_every_mode(mode: AutoresetMode, tmp_path: Path) -> None:
    """With NEXT_STEP there is a step between two, which is of neither."""
    config = compose(
        overrides(f"{__name__}:clocks", f"env.kwargs.mode={mode.value}", "trainer.eval_episodes=6")
    )
    trainer = build(config, tmp_path / "run")
    rollouts = [trainer.collector.collect()[1] for _ in range(3)]
    lengths = torch.cat([found[LENGTH].value[:, 1] for *_, found in rollouts])
    assert set(lengths[~lengths.isnan()].tolist()) == {3.0}
    result = trainer.evaluator.run(6, 0)
    trainer.close()
    assert result.lengths == [2.0] * 6  # of the first copy


def test_a_vector_environment_of_gymnasium_s_own_is_trained(tmp_path: Path) -> None:
    sizes = overrides("null", "env.id=CartPole-v1")
    trainer = build(compose(sizes), tmp_path / "run")
    trainer.train()
    assert trainer.env_steps == 32
    env = VectorisedEnv("CartPole-v1", 3)  # Gymnasium gives its own vectorised one, with NEXT_STEP
    first = env.reset(3)[0]
    state = env.state_dict()
    assert not state["exact"]
    other = VectorisedEnv("CartPole-v1", 3)
    assert torch.equal(other.reset(3)[0], first)
    other.load_state_dict(state)
    assert other.notice is not None
    assert "begin anew" in other.notice


def test_a_run_that_is_resumed_twice_at_once_does_not_see_the_same_episodes_twice() -> None:
    env = VectorisedEnv("CartPole-v1", 3)
    env.reset(3)
    env.step(torch.zeros(3, dtype=torch.int64))
    starts = []
    for _ in range(2):
        state = env.state_dict()
        env = VectorisedEnv("CartPole-v1", 3)
        env.load_state_dict(state)
        env.step(torch.zeros(3, dtype=torch.int64))
        starts.append(env.step(torch.zeros(3, dtype=torch.int64)).observation)
        assert env.state_dict()["steps"] == state["steps"] + 2
    assert not torch.equal(*starts)


# --- parallel environments of PettingZoo -------------------------------------------------------------------


class Team:
    """Two agents, of which `a` lives for two steps and `b` for three."""

    metadata: dict[str, Any] = {"name": "team"}
    possible_agents = ["a", "b"]

    def observation_space(self, agent: str) -> Any:
        return spaces.Box(0.0, 99.0, (2,), np.float32)  # a new one whenever it is asked

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.agents, self.steps = ["a", "b"], 0
        return {agent: self._observe(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        assert list(actions) == self.agents
        self.steps += 1
        seen = {agent: self._observe(agent) for agent in self.agents}
        paid = {agent: float(actions[agent]) for agent in self.agents}
        ended = {agent: self.steps == (2 if agent == "a" else 3) for agent in self.agents}
        cut = dict.fromkeys(self.agents, False)
        infos: dict[str, Any] = {agent: {} for agent in self.agents}
        self.agents = [agent for agent in self.agents if not ended[agent]]
        return seen, paid, ended, cut, infos

    def _observe(self, agent: str) -> Any:
        return np.array([self.possible_agents.index(agent), self.steps], np.float32)

    def close(self) -> None: ...


@pytest.mark.parametrize("make", [Team, lambda **_: Team()])
def test_each_agent_is_an_environment_and_idle_when_it_has_ended(make: Callable[..., Any]) -> None:
    env = VectorisedEnv(make=make, num_envs=4)
    assert env.reset(0)[0].tolist() == [[0.0, 0.0], [1.0, 0.0]] * 2
    first, second, third, fourth = (env.step(torch.tensor([1, 2, 0, 1])) for _ in range(4))
    assert first.rewards[:, 0].tolist() == [1.0, 2.0, 0.0, 1.0]
    assert second.terminated.tolist() == [True, False, True, False]
    assert second.final_observation[0].tolist() == [0.0, 2.0]
    assert third.terminated.tolist() == [False, True, False, True]
    assert third.final_observation[1].tolist() == [1.0, 3.0]
    assert third.observation.tolist() == [[0.0, 0.0], [1.0, 0.0]] * 2
    assert fourth.observation.tolist() == [[0.0, 1.0], [1.0, 1.0]] * 2
    idle = env.take_idle()
    assert idle is not None
    assert idle.int().sum(1).tolist() == [0, 0, 2, 0]
    assert idle[2].tolist() == [True, False, True, False]


class MaskedTeam(Team):
    """Its masks stand in the observations, as PettingZoo has them; an agent that is over has no choice left."""

    def observation_space(self, agent: str) -> Any:
        place = super().observation_space(agent)
        return spaces.Dict(observation=place, action_mask=spaces.Box(0, 1, (3,), np.int8))

    def _observe(self, agent: str) -> Any:
        mask = [0, 0, 0] if self.steps == (2 if agent == "a" else 3) else [0, 1, self.steps == 1]
        return {"observation": super()._observe(agent), "action_mask": np.array(mask, np.int8)}


class InformedTeam(Team):
    """The same masks in the infos."""

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        seen, infos = super().reset(seed)
        return seen, {agent: {"action_mask": np.array([0, 1, 0])} for agent in infos}

    def step(self, actions: dict[str, Any]) -> Any:
        *others, infos = super().step(actions)
        return *others, {agent: {"action_mask": np.array([0, 1, self.steps == 1])} for agent in infos}


@pytest.mark.parametrize("make", [MaskedTeam, InformedTeam])
def test_masks_of_agents_are_read_from_infos_and_observations_until_the_agent_is_over(make: Any) -> None:
    env = VectorisedEnv(make=make, num_envs=2)
    _, begun = env.reset(0)
    assert begun is not None
    assert begun[:, 0].tolist() == [[False, True, False]] * 2
    told = "action masks are read from observation['action_mask'], which is an input of the policy, too; one "
    told += "that forbids all forbids nothing"
    assert env.take_remarks() == ([told] if make is MaskedTeam else [])
    assert env.mask_in_observation == (make is MaskedTeam)
    masks = [env.step(torch.tensor([1, 1])).action_mask for _ in range(3)]
    assert [mask[1, 0].tolist() for mask in masks if mask is not None] == [
        [False, True, True],
        [False, True, False],
        [False, True, False],
    ]
    assert masks[1] is not None
    assert masks[1][0, 0].tolist() == [True, True, True]  # whatever it chooses is ignored


class Depot(gymnasium.Env[Any, Any]):
    """Its masks are a dict, as its actions are; `slot` is free, or depends on what is done."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Dict(do=spaces.Discrete(3), slot=spaces.Discrete(2))

    def __init__(self, number: int, table: bool = False) -> None:
        self.number, self.table, self.steps = number, table, 0

    def _seen(self) -> Any:
        do = np.array([1, self.number == 1, self.steps % 2], np.int8)
        slot = {"given": "do", "mask": np.array([[1, 1], [1, 0], [0, 1]])} if self.table else None
        return np.zeros(1, np.float32), {"action_mask": {"do": do, "slot": slot}}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.steps = 0
        return self._seen()

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self.steps += 1
        observation, info = self._seen()
        return observation, 0.0, self.steps == 3, False, info


@MODES
@pytest.mark.parametrize("table", [False, True])
def test_masks_that_are_dicts_are_read_as_each_copy_gave_them(mode: AutoresetMode, table: bool) -> None:
    makes = [lambda number=number: Depot(number, table) for number in (0, 1)]
    env = VectorisedEnv(make=lambda num_envs: SyncVectorEnv(makes, autoreset_mode=mode), num_envs=2)
    nothing = {"do": torch.zeros(2).long(), "slot": torch.zeros(2).long()}
    masks = [env.reset(0)[1], *(env.step(nothing).action_mask for _ in range(2))]
    for steps, mask in enumerate(masks):
        own = mask.own if isinstance(mask, DependentMask) else mask
        assert own is not None
        for copy in range(2):
            assert own[copy].tolist() == [[True, copy == 1, steps % 2 == 1], [True, True, False]]
        assert isinstance(mask, DependentMask) == table
        if isinstance(mask, DependentMask):
            (found,) = mask.tables
            assert isinstance(found.valid, torch.Tensor)
            assert found.valid.tolist() == [[[True, True], [True, False], [False, True]]] * 2


class MaskedClock(Clock):
    """Its mask stands in the observation, and leaves nothing where the episode has ended."""

    observation_space = spaces.Dict(time=Clock.observation_space, action_mask=spaces.MultiBinary(2))

    def _observe(self) -> Any:
        mask = [0, 0] if self.steps == self.length else [0, 1]
        return {"time": super()._observe(), "action_mask": np.array(mask, np.int8)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        return super().reset(seed=seed)[0], {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return *super().step(action)[:4], {}


@MODES
def test_masks_in_observations_are_read_in_every_mode(mode: AutoresetMode) -> None:
    makes = [lambda length=length: MaskedClock(length) for length in (2, 3)]
    env = VectorisedEnv(make=lambda num_envs: SyncVectorEnv(makes, autoreset_mode=mode), num_envs=2)
    _, begun = env.reset(0)
    assert begun is not None
    masks = [begun, *(step.action_mask for step in steps(env, 4))]
    ignored = mode == AutoresetMode.NEXT_STEP
    for after, mask in enumerate(masks):
        assert mask is not None
        for copy in range(2):
            over = ignored and after == (2, 3)[copy]
            assert mask[copy, 0].tolist() == [over, True]


def test_a_run_of_agents_is_evaluated_in_whole_teams(tmp_path: Path) -> None:
    run = equipoise.train(
        "vector",
        make=f"{__name__}:Team",
        num_envs=4,
        total_env_steps=64,
        rollout_steps=8,
        num_minibatches=1,
        device="cpu",
        folder=tmp_path / "run",
        progress=False,
    )
    assert restore(run.folder, "cpu", allow=[__name__]).make_env(3).num_envs == 4
    assert equipoise.evaluate(run, 3)["episode_length"] is not None


def test_an_agent_that_comes_later_is_named() -> None:
    class Late(Team):
        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            seen, infos = super().reset(seed, options)
            return {"a": seen["a"]}, infos

    env = VectorisedEnv(make=Late, num_envs=2)
    with pytest.raises(ValueError, match="no observation of b; all of possible_agents must be there when an"):
        env.reset(0)


def test_agents_that_are_not_equal_are_refused() -> None:
    class Odd(Team):
        def action_space(self, agent: str) -> Any:
            return spaces.Discrete(2 if agent == "a" else 3)

    with pytest.raises(ValueError, match="b has another action space than a; agents that share"):
        VectorisedEnv(make=Odd, num_envs=2)
    with pytest.raises(ValueError, match="num_envs is 3; allowed is a multiple of 2"):
        VectorisedEnv(make=Team, num_envs=3)


# --- the libraries themselves, where they are installed ------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_envpool_s_own() -> None:
    pytest.importorskip("envpool")
    kwargs = {"task_id": "CartPole-v1", "max_episode_steps": 5}
    env = VectorisedEnv(make="envpool:make_gymnasium", num_envs=3, kwargs=kwargs)
    first, again, other = (env.reset(seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    found = [env.step(torch.tensor([0, 1, 0])) for _ in range(7)]
    assert [step.truncated[0].item() for step in found] == [False] * 4 + [True, False, False]
    assert [step.rewards[0].item() for step in found] == [1.0] * 5 + [0.0, 1.0]
    idle = env.take_idle()
    assert idle is not None
    assert idle[:, 0].tolist() == [False] * 5 + [True, False]
    env.close()


def test_pettingzoo_s_own() -> None:
    pytest.importorskip("mpe2")
    env = VectorisedEnv(make="mpe2.simple_spread_v3:parallel_env", num_envs=6, kwargs={"max_cycles": 4})
    assert env.reset(0)[0].shape == (6, 18)
    found = [env.step(torch.ones(6, dtype=torch.int64)) for _ in range(5)]
    assert [step.truncated.all().item() for step in found] == [False, False, False, True, False]
    assert env.take_idle() is None
    env.close()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"id": "NoSuchEnv-v0"}, "'NoSuchEnv-v0' could not be made"),
        (
            {"make": lambda num_envs: clocks(2), "num_envs": 3},
            "gives a SyncVectorEnv of 2 environments, not 3",
        ),
        ({"make": clocks, "autoreset": "never"}, "autoreset is 'never'; allowed are same_step"),
        ({}, "give one of them"),
    ],
)
def test_what_is_wrong_is_named(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorisedEnv(**{"num_envs": 2, **keywords})


def test_misbehaviour_is_named_with_environment_and_step() -> None:
    class Broken(SyncVectorEnv[Any, Any]):
        def step(self, actions: Any) -> Any:
            observation, *rest = super().step(actions)
            observation[1, 0] = np.nan
            return observation, *rest

    env = VectorisedEnv(make=lambda num_envs: Broken([lambda: Clock(5)] * num_envs), num_envs=2)
    env.reset(0)
    with pytest.raises(EnvError, match=r"environment 1, step 1: observation\[0\] is nan as float32"):
        steps(env, 1)


def test_a_failing_step_has_the_environment_s_own_name() -> None:
    class Fails(SyncVectorEnv[Any, Any]):
        def step(self, actions: Any) -> Any:
            raise OSError("gone")

    def pool(num_envs: int) -> Any:
        return Fails([lambda: Clock(5)] * num_envs)

    env = CheckedEnv(VectorisedEnv(make=pool, num_envs=2))
    env.reset(0)
    with pytest.raises(EnvError, match="^pool: step 1: step raised OSError: gone"):
        env.step((torch.zeros(2, dtype=torch.int64), torch.zeros(2, 1)))


class Two(SyncVectorEnv[Any, Any]):
    """Each reward is two numbers."""

    def step(self, actions: Any) -> Any:
        observation, rewards, *rest = super().step(actions)
        return observation, np.stack([rewards, -rewards], 1), *rest


def test_rewards_that_are_vectors_become_components_by_number() -> None:
    env = VectorisedEnv(make=lambda num_envs: Two([lambda: Clock(5)] * num_envs), num_envs=2)
    assert (env.reward_names, env.reward_weights) == (("reward_0", "reward_1"), (1.0, 1.0))
    env.reset(0)
    (step,) = steps(env, 1)
    assert torch.equal(step.rewards[:, 0], -step.rewards[:, 1])
    assert step.rewards[:, 0].any()


class Paying(Clock):
    """Pays two numbers."""

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        observation, reward, *rest = super().step(action)
        return observation, np.array([reward, 1.0]), *rest  # type: ignore[return-value]


@pytest.mark.parametrize("weights", [None, [1, 0.5]])
def test_where_gymnasium_takes_one_number_of_a_reward_the_way_out_is_named(weights: Any) -> None:
    def make(num_envs: int) -> Any:
        return SyncVectorEnv([lambda: Paying(5)] * num_envs)

    with pytest.raises(
        ValueError, match="a reward holds 2 numbers, .* SyncVectorEnv takes one; env=gymnasium"
    ):
        VectorisedEnv(make=make, num_envs=2, reward_weights=weights)


def test_rewards_of_another_size_than_the_weights_are_named() -> None:
    env = VectorisedEnv(
        make=lambda num_envs: Two([lambda: Clock(5)] * num_envs), num_envs=2, reward_weights=[1]
    )
    env.reset(0)
    with pytest.raises(EnvError, match=r"shape \(2, 2\), not 1 each; env.reward_weights=\[1,1\] takes each"):
        steps(env, 1)


class Turns(gymnasium.Env[Any, Any]):
    """Only choice `t % 3` is valid, which a method says; begins anew after 4 steps."""

    observation_space = spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def action_masks(self) -> Any:
        return np.arange(3) == self.t % 3

    def step(self, action: Any) -> Any:
        assert action == self.t % 3
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, False, self.t == 4, {}


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_masks_of_a_method_are_obeyed_and_told_once(kind: Any, mode: Any) -> None:
    def make(num_envs: int) -> Any:
        return kind([Turns] * num_envs, autoreset_mode=mode)

    env = VectorisedEnv(make=make, num_envs=2)
    for seed in (0, None):
        observation, mask = env.reset(seed)
        for _ in range(11):
            assert mask is not None
            assert mask.sum().item() == 2 or mode is AutoresetMode.NEXT_STEP
            assert torch.equal(
                mask[:, 0].int().argmax(1), (observation[:, 0] % 3).long() * (observation[:, 0] != 4)
            )
            step = env.step(mask[:, 0].int().argmax(1))
            observation, mask = step.observation, step.action_mask
    assert env.take_remarks() == ["action masks are read from action_masks()"]
    env.close()
