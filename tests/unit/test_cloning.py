"""Teachers: what is recorded of them, what a policy makes of it, and how it fades beside its own experience."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces

from equipoise.envs.catch_point import CatchPoint
from equipoise.envs.inventory import Inventory
from equipoise.envs.synthetic import Synthetic
from equipoise.envs.topology_spawn.environment import TopologySpawn
from equipoise.trainer import clone as command
from equipoise.trainer.cloning import clone, imitation_loss
from equipoise.trainer.data import Actions
from equipoise.trainer.demonstrations import Demonstrations, Recording, expert, record
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.continuous import FAMILIES
from equipoise.trainer.policy.encoders import MLP
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.stages.imitation import Imitation
from equipoise.trainer.stages.protocol import LossState

CPU = torch.device("cpu")
NESTED = spaces.Dict(
    unit=spaces.Discrete(3, start=5),
    switches=spaces.MultiBinary(2),
    aim=spaces.Box(-3.0, 7.0, (2, 2)),
    count=spaces.Box(0, 4, (1,), dtype="int64"),
    fixed=spaces.Box(2.0, 2.0, (1,)),
)


def test_what_a_native_action_means_is_what_it_was_made_of() -> None:
    space = HybridSpace(NESTED)
    torch.manual_seed(0)
    discrete = torch.stack([torch.randint(count, (64,)) for count in space.choice_counts], 1)
    continuous = torch.rand(64, space.num_continuous) * 2 - 1
    native = space.to_native(Actions(discrete, continuous))
    found = space.from_native(native)
    assert found.discrete.equal(discrete)
    again = space.to_native(found)
    for one, other in zip(space.table.take_apart(native), space.table.take_apart(again), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="action must be a dict"):
        space.from_native((torch.zeros(2),))


def test_a_oneof_is_read_back() -> None:
    space = HybridSpace(spaces.OneOf([spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,))]))
    discrete = torch.arange(space.choice_counts[0])[:, None]
    continuous = torch.rand(len(discrete), space.num_continuous) * 2 - 1
    found = space.from_native(space.to_native(Actions(discrete, continuous)))
    assert found.discrete.equal(discrete)
    torch.testing.assert_close(found.continuous, continuous)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_number_in_the_range_has_a_sample(name: Any) -> None:
    family = FAMILIES[name]()
    inside = torch.linspace(-0.99, 0.99, 21)
    torch.testing.assert_close(family.in_range(family.from_range(inside)), inside, rtol=1e-5, atol=1e-6)
    assert family.from_range(torch.tensor([-1.0, 1.0])).isfinite().all()


def policy_for(env: Any, **keywords: Any) -> ActorCritic:
    torch.manual_seed(0)
    space, shape = HybridSpace(env.action_space, env.relevance), env.observation_space.shape
    return ActorCritic(space, shape, 1, encoder=partial(MLP, hidden_sizes=(32,)), **keywords)


def test_the_spread_is_not_learned_and_irrelevant_numbers_count_nothing() -> None:
    env = CatchPoint(1)
    policy = policy_for(env)
    actions = Actions(torch.tensor([[0], [1]]), torch.tensor([[0.3], [0.9]]))
    distribution = policy.distribution(torch.zeros(2, 4), None, actions.discrete)
    loss = imitation_loss(distribution, actions)
    expected = -distribution.discrete_log_prob(actions.discrete)[:, 0]
    z = (0.3 - distribution.mean[0, 0]) / distribution.log_std.exp()[0]
    move = expected[0] + 0.5 * z**2 + distribution.log_std[0] + 0.9189385
    torch.testing.assert_close(loss, torch.stack([move, expected[1]]))  # catching has no number
    loss.sum().backward()
    assert policy.log_std is not None
    assert policy.log_std.grad is None or not policy.log_std.grad.any()


def test_detours_are_taken_and_the_teacher_is_recorded() -> None:
    """In an inventory the expert's action is known from the observation alone: labels stay its own."""
    env = Inventory(16, products=1)
    space = HybridSpace(env.action_space, env.relevance)
    straight = record(env, space, expert(env), 400, 1, detours=0.0)
    winding = record(env, space, expert(env), 400, 1, detours=0.5)
    assert len(straight) == len(winding) == 400
    assert not torch.equal(straight.observations, winding.observations)
    for shown in (straight, winding):
        left = (shown.observations[:, 1] * env.max_steps).round().long().numpy()
        wanted, _ = env._plan.best(shown.observations[:, :1].double().numpy(), left)
        assert (shown.actions.discrete.numpy() == wanted).all()


def test_where_the_student_acts_the_teacher_says_what_it_would_do() -> None:
    """From where the recording stood; one step of it is taken by the teacher, the other by the student."""
    env = Inventory(16, products=1)
    space = HybridSpace(env.action_space, env.relevance)
    recording = Recording(env, space, expert(env), 1, detours=0.0)
    first = recording.more(16 * 5)
    idle = space.to_native(Actions(space.first_choices(16), torch.zeros(16, space.num_continuous)))
    shown = recording.more(16 * 5, student=lambda *_: idle)
    assert len(shown) == 160
    assert torch.equal(shown.observations[:80], first.observations)
    alike = Inventory(16, products=1)
    other = record(alike, space, expert(alike), 160, 1, detours=0.0)
    assert torch.equal(shown.observations[:96], other.observations[:96])  # it is the next step that differs
    assert not torch.equal(shown.observations[96:], other.observations[96:])
    left = (shown.observations[:, 1] * env.max_steps).round().long().numpy()
    wanted, _ = env._plan.best(shown.observations[:, :1].double().numpy(), left)
    assert (shown.actions.discrete.numpy() == wanted).all()


def test_a_clone_does_what_its_teacher_does(tmp_path: Path) -> None:
    env = CatchPoint(64)
    policy = policy_for(env)
    shown = record(env, policy.space, expert(env), 6_400, 1)
    shown.save(tmp_path / "demonstrations.pt")
    shown = Demonstrations.load(tmp_path / "demonstrations.pt")
    epochs: list[tuple[int, float, float]] = []
    generator = torch.Generator().manual_seed(0)
    clone(policy, shown, 15, 128, 3e-3, generator, lambda *told: epochs.append(told))
    assert [epoch for epoch, *_ in epochs] == list(range(1, 16))
    assert epochs[-1][1] < epochs[0][1]
    assert epochs[-1][2] > 0.9
    assert policy.normalizer is not None
    torch.testing.assert_close(policy.normalizer.mean, shown.observations.mean(0), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="do not fit an environment of 150, 10 and 40"):
        clone(policy_for(TopologySpawn(1)), shown, 1, 8, 1e-3, generator)


def test_imitation_pulls_to_the_demonstrations_and_fades(tmp_path: Path) -> None:
    env = CatchPoint(8)
    policy = policy_for(env)
    record(env, policy.space, expert(env), 80, 1).save(tmp_path / "demonstrations.pt")
    stage = Imitation(
        demonstrations=str(tmp_path / "demonstrations.pt"), device=CPU, until=0.5, batch_size=30
    )

    def at(progress: float) -> tuple[torch.Tensor, LossState]:
        one, policy_at = torch.ones(()), lambda o, m, c: policy.distribution(policy.normalize(o), m, c)
        state = LossState(None, None, one, {}, torch.tensor(progress), (one, one), {}, policy_at)  # type: ignore[arg-type]
        state = stage.losses(state)
        return state.terms["imitation"].values, state

    first, state = at(0.0)
    assert float(state.metrics["imitation/weight"].value) == 1.0
    assert stage.state_dict()["next"] == 30
    before = float(first.mean())
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        at(0.0)[0].mean().backward()
        optimizer.step()
    assert float(at(0.0)[0].mean()) < before - 0.2
    full, half = float(at(0.0)[1].metrics["imitation/weight"].value), at(0.25)[1].metrics["imitation/weight"]
    assert float(half.value) == full / 2
    assert float(at(0.5)[0].abs().sum()) == 0.0
    assert float(at(0.9)[0].abs().sum()) == 0.0


def test_mistakes_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "demonstrations.pt").write_text("nothing")
    with pytest.raises(ValueError, match=r"demonstrations = .*demonstrations.pt: holds no demonstrations"):
        Demonstrations.load(tmp_path / "demonstrations.pt")
    with pytest.raises(ValueError, match="Synthetic has no scripted expert"):
        expert(Synthetic(1))


def test_the_command_leaves_a_run_from_which_another_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = "env=catch_point", "env.num_envs=16", "policy.hidden_sizes=[16]", "trainer.final_eval_episodes=4"
    teach = "source=expert", "samples=320", "rounds=2", "epochs=2", f"hydra.run.dir={tmp_path / 'taught'}"
    monkeypatch.setattr(sys, "argv", ["clone", *run, *teach])
    assert command.main() == 0
    said = capsys.readouterr()
    assert "160 demonstrations" in said.err + said.out
    assert "320 demonstrations" in said.err + said.out
    assert "epoch 2/2" in said.err + said.out
    assert (tmp_path / "taught" / "demonstrations.pt").exists()
    from equipoise.trainer.transfer import read

    assert read(str(tmp_path / "taught")).weights["value_head.bias"].shape == (3,)  # with one for the task
    for mistake, said_so in {
        "source=nobody": "nobody",
        "sorce=expert": "unknown key; did you mean source?",
        "policy=gru": "policy.memory: what is remembered",
    }.items():
        wrong = "source=expert", mistake, f"hydra.run.dir={tmp_path / said_so[:6]}"
        monkeypatch.setattr(sys, "argv", ["clone", *run, *wrong])
        assert command.main() == 2
        assert said_so in capsys.readouterr().err
