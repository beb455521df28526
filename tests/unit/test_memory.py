"""Memories: what they compute, and that all of an iteration sees the states that belong to its steps."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from equipoise.trainer import rollout as collecting
from equipoise.trainer.advantage import compute_gae
from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.data import Minibatch, Sequences, Targets
from equipoise.trainer.loop import Trainer
from equipoise.trainer.minibatches import minibatches
from equipoise.trainer.policy.memory import GRU, LSTM, Memory
from equipoise.trainer.policy.memory.contract import make_memory
from equipoise.trainer.targets import prepare

KINDS: dict[type[Memory], type[nn.Module]] = {GRU: nn.GRU, LSTM: nn.LSTM}
Toy = Callable[..., Config]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def memory(request: pytest.FixtureRequest) -> Memory:
    torch.manual_seed(0)
    made: Memory = request.param(4, 5).double()
    for parameter in made.parameters():  # biases that are not 0
        nn.init.normal_(parameter, std=0.5)
    return made


def sequences(memory: Memory, steps: int = 7, count: int = 6, ends: float = 0.3) -> tuple[Tensor, Sequences]:
    """Features, and states that are not 0; half of the sequences have ends of episodes in them."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(steps, count, 4, generator=generator, dtype=torch.float64)
    state = 0.5 * torch.randn(count, memory.state_size, generator=generator, dtype=torch.float64)
    begins = torch.rand(steps, count, generator=generator) < ends
    begins[:, : count // 2] = False
    return features, Sequences(state, begins)


def test_within_an_episode_it_is_torch_s(memory: Memory) -> None:
    features, given = sequences(memory, ends=0.0)
    theirs = KINDS[type(memory)](4, 5).double()
    theirs.load_state_dict({f"{name}_l0": weight for name, weight in memory.cell.state_dict().items()})
    first = given.state.unsqueeze(0)
    expected, _ = theirs(features, first if isinstance(memory, GRU) else first.chunk(2, -1))
    torch.testing.assert_close(memory(features, given)[0], expected, rtol=0, atol=1e-12)


def test_gradients_are_those_of_its_formula(memory: Memory) -> None:
    """Numerically, of features, first states and weights, with episodes that end."""
    features, given = sequences(memory, steps=4, count=3, ends=0.5)
    weights = list(memory.parameters())

    def outputs(features: Tensor, state: Tensor, *_: Tensor) -> Tensor:
        return memory(features, Sequences(state, given.begins))[0]

    assert bool(given.begins.any())
    inputs = features.requires_grad_(), given.state.requires_grad_(), *weights
    assert torch.autograd.gradcheck(outputs, inputs)


def test_whole_sequences_are_its_steps_one_after_the_other(memory: Memory) -> None:
    features, given = sequences(memory)
    whole, by_step = memory(features, given), Memory.forward(memory, features, given)
    for ours, theirs in zip(whole, by_step, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    gradients = [
        torch.autograd.grad(each[0].square().sum(), list(memory.parameters())) for each in (whole, by_step)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_behind_see_what_it_remembers_and_leave_that_alone(kind: type[Memory]) -> None:
    plain, deep = (kind(4, 5, **more).double() for more in ({}, {"layers": [3, 2]}))
    plain.load_state_dict(deep.state_dict(), strict=False)
    features, given = sequences(plain)
    (remembered, states), (seen, same) = plain(features, given), deep(features, given)
    first, second = deep.layers[0], deep.layers[2]
    by_hand = (remembered @ first.weight.t() + first.bias).tanh() @ second.weight.t() + second.bias
    torch.testing.assert_close(seen, by_hand.tanh(), rtol=0, atol=1e-12)
    assert torch.equal(states, same)
    assert deep.width == 2
    by_step = Memory.forward(deep, features, given)
    torch.testing.assert_close(seen, by_step[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_sequence_cut_anywhere_gives_the_same(memory: Memory, cut: int) -> None:
    features, given = sequences(memory)
    whole, states = memory(features, given)
    first, between = memory(features[:cut], Sequences(given.state, given.begins[:cut]))
    second, last = memory(features[cut:], Sequences(between[-1], given.begins[cut:]))
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat([between, last]), states, rtol=0, atol=1e-12)


def test_nothing_goes_over_the_end_of_an_episode(memory: Memory) -> None:
    features, given = sequences(memory)
    before, begins = features.clone(), given.begins.clone()
    begins[3] = True
    before[:3] += 1.0
    ours, theirs = (memory(each, Sequences(given.state, begins))[0] for each in (features, before))
    assert torch.equal(ours[3:], theirs[3:])
    assert not torch.equal(ours[:3], theirs[:3])


class Iteration:
    """What an iteration of a run has collected, and learns from."""

    def __init__(self, trainer: Trainer, iterations: int = 2) -> None:
        self.trainer, self.policy = trainer, trainer.policy
        for _ in range(iterations - 1):  # states at the start that are not 0, weights that have learned
            trainer.iterate()
        self.rollout, _ = trainer.collector.collect()
        found: tuple[Targets, Minibatch] = prepare(
            self.rollout, self.policy, trainer.learner.pipeline, trainer.settings, trainer.log
        )
        self.targets, self.samples = found

    def error(self) -> tuple[float, float]:
        """How far the first update's ratios are from 1, and its values from those before."""
        worst, generator = torch.zeros(2), torch.Generator().manual_seed(0)
        for batch in minibatches(self.samples, 2, generator):
            with torch.no_grad():
                inputs = self.policy.recall(batch.inputs, batch.sequences)
                heads = self.policy(inputs, batch.actions.discrete)
                given = self.policy.as_distribution(*heads[:3], action_mask=batch.action_mask)
                relevant = given.relevant(batch.actions.discrete)
                continuous = given.continuous_log_prob(batch.actions.continuous, relevant)
                changes = (
                    given.discrete_log_prob(batch.actions.discrete) - batch.discrete_log_prob,
                    continuous - batch.continuous_log_prob,
                )
            ratio = max(float(change.abs().max()) for change in changes)
            error = float((heads.values - batch.values).abs().max())
            worst = torch.maximum(worst, torch.tensor([ratio, error]))
        return float(worst[0]), float(worst[1])


VARIANTS = [
    ("policy=gru",),
    ("policy=lstm", "env.masked=true"),
    ("policy=gru", "policy.shared_critic=true", "trainer.normalize_values=false"),
    ("policy=lstm", "policy.shared_trunk=false", "policy.state_dependent_std=true"),
    ("policy=gru", "policy.distribution=beta", "env.masked=true"),
    ("policy=gru", "policy.conditioning=autoregressive"),
    ("policy=lstm", "policy.conditioning=choices", "policy.shared_trunk=false"),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=" ".join)
def test_the_first_update_sees_what_acted(toy: Toy, tmp_path: object, variant: tuple[str, ...]) -> None:
    found = Iteration(build(toy(*variant), tmp_path))
    assert bool(found.rollout.done[:-1].any())
    assert found.rollout.sequences is not None
    assert bool(found.rollout.sequences.state.any(1).any())
    ratio, value = found.error()
    assert ratio < 1e-5
    assert value < 1e-4


@pytest.mark.parametrize("wrong", ["kept", "always forgotten"])
def test_a_wrong_reset_is_noticed(
    toy: Toy, tmp_path: object, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """What the test before this one is worth."""
    forget = {"kept": lambda state, _: state, "always forgotten": lambda state, _: torch.zeros_like(state)}
    monkeypatch.setattr(collecting, "forget", forget[wrong])
    assert Iteration(build(toy("policy=gru"), tmp_path)).error()[0] > 1e-3


def test_values_are_those_of_a_walk_through_the_episodes(toy: Toy, tmp_path: object) -> None:
    """Step by step, also behind a truncation and behind the rollout's end."""
    trainer = build(toy("policy=lstm"), tmp_path)
    trainer.iterate()
    policy, state = deepcopy(trainer.policy).requires_grad_(False), trainer.collector._now.state
    found = Iteration(trainer, iterations=1)
    rollout, settings = found.rollout, trainer.settings

    def value(observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        features, state = policy.remember(policy.normalize(observation), state)
        return policy.value_normalizer.denormalize(policy.critic(features)), state

    values, final = [], []
    for observation, last, done in zip(
        rollout.observations, rollout.final_observations, rollout.done, strict=True
    ):
        worth, state = value(observation, state)
        values.append(worth)
        final.append(value(last, state)[0])
        state = torch.where(done[:, None], 0.0, state)
    assert bool(rollout.truncated.any())
    assert not bool(rollout.done[-1].all())
    _, returns = compute_gae(
        found.targets.rewards,
        torch.stack(values),
        value(rollout.last_observation, state)[0],
        rollout.terminated,
        rollout.truncated,
        torch.stack(final),
        settings.gamma,
        settings.gae_lambda,
    )
    torch.testing.assert_close(found.targets.values, torch.stack(values), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.targets.returns, returns, rtol=0, atol=1e-5)


def test_minibatches_are_whole_sequences_of_environments(toy: Toy, tmp_path: object) -> None:
    found = Iteration(build(toy("policy=gru"), tmp_path), iterations=1)
    steps, num_envs = found.rollout.done.shape
    index = torch.arange(steps * num_envs, dtype=torch.float32)
    samples = found.samples._replace(advantages=index)
    seen = []
    for batch in minibatches(samples, 4, torch.Generator().manual_seed(0)):
        rows = batch.advantages.view(steps, -1)
        envs = rows[0].long()
        assert torch.equal(rows, index.view(steps, num_envs)[:, envs])
        assert batch.sequences is not None
        assert torch.equal(batch.sequences.begins, found.rollout.sequences.begins[:, envs])
        seen += envs.tolist()
    assert sorted(seen) == list(range(num_envs))
    assert seen != sorted(seen)


class Forgetful(Memory):
    """One's own, by `step` alone."""

    def __init__(self, width: int, fault: str = "") -> None:
        super().__init__()
        self.width, self.state_size, self.fault = width, width if fault != "size" else 0, fault

    def step(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if self.fault == "raises":
            raise KeyError("x")
        state = 0.5 * state + features
        return (state[:, :1] if self.fault == "shape" else state), state


def test_one_s_own_memory_needs_a_step_alone(toy: Toy, tmp_path: object) -> None:
    key = f"policy.memory={{_target_: {__name__}.Forgetful}}"
    ratio, value = Iteration(build(toy(key), tmp_path)).error()
    assert ratio < 1e-5
    assert value < 1e-4


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("size", "policy.memory = Forgetful: its `state_size` = 0; must be a number >= 1"),
        ("raises", "policy.memory = Forgetful: step fails on two sequences of zeros: KeyError"),
        (
            "shape",
            "policy.memory = Forgetful: step gives [(2, 1), (2, 3)] for two sequences of zeros; must be",
        ),
    ],
)
def test_a_memory_that_breaks_its_contract_is_refused(fault: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_memory(partial(Forgetful, fault=fault), 3)
