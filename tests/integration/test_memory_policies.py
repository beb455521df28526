"""Policies with a memory from end to end: exact resume, acting, export, processes, compiled code."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import equipoise
from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.envs.gymnasium_adapter.adapter import seed_of
from equipoise.trainer import export
from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.evaluation import evaluate
from equipoise.trainer.policy.player import Player
from equipoise.trainer.system import checkpoint

Toy = Callable[..., Config]


class Parity(gymnasium.Env[Any, Any]):
    """Pays 1 for the sum, modulo 2, of the bits shown so far. An episode is four steps long."""

    observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = spaces.Dict(answer=spaces.Discrete(2), sure=spaces.Box(-1.0, 1.0, (1,), np.float32))

    def _shown(self) -> Any:
        self.bit = int(self.np_random.integers(2))
        return np.array([self.bit, self.clock / 4], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.clock, self.sum = 0, 0
        return self._shown(), {}

    def step(self, action: Any) -> Any:
        self.sum = (self.sum + self.bit) % 2
        self.clock += 1
        reward = float(action["answer"] == self.sum)
        return self._shown(), reward, False, self.clock == 4, {}


@pytest.fixture(scope="module", params=["gru", "lstm"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> equipoise.Run:
    """Weights far from their mild beginnings, so that what is remembered decides."""
    trained = equipoise.train(
        Parity,
        policy=request.param,
        folder=tmp_path_factory.mktemp("run") / "run",
        total_env_steps=256,
        num_envs=4,
        rollout_steps=8,
        num_minibatches=2,
        eval_every=0,
        final_eval_episodes=2,
        hidden_sizes=[8],
        progress=False,
    )
    path = trained.folder / "checkpoints" / "last.pt"
    state = checkpoint.load(path)
    torch.manual_seed(0)
    for name, tensor in state["policy"].items():
        if name.endswith(("weight_ih", "weight_hh", "discrete_head.weight", "continuous_head.weight")):
            tensor.normal_(std=2.0)
    checkpoint.save(path, state)
    return trained


def episodes(count: int) -> list[list[Any]]:
    """Observations of episodes with random actions."""
    env = Parity()
    found = []
    for seed in range(count):
        observations = [env.reset(seed=seed)[0]]
        for _ in range(3):
            observations.append(env.step({"answer": 0, "sure": np.zeros(1)})[0])
        found.append(observations)
    return found


def answers(policy: Any, observations: list[Any], **keywords: Any) -> list[tuple[int, float]]:
    actions = [policy.act(observation, **keywords) for observation in observations]
    return [(int(action["answer"]), float(action["sure"][0])) for action in actions]


def test_act_remembers_an_episode_until_it_is_told_to_forget(run: equipoise.Run) -> None:
    policy, (one, two) = run.load(), episodes(2)
    fresh = [answers(run.load(), [observation])[0] for observation in two]
    alone = answers(run.load(), two)
    assert alone[0] == fresh[0]
    assert alone[1:] != fresh[1:]  # what came before counts
    answers(policy, one)
    assert answers(policy, two) != alone  # nobody said that the episode was over
    policy.reset()
    assert answers(policy, two) == alone
    assert [answers(policy, [observation], done=i == 0)[0] for i, observation in enumerate(two)] == alone
    assert answers(policy, two, done=True) == fresh


def test_act_keeps_the_episodes_of_a_batch_apart(run: equipoise.Run) -> None:
    """Of different lengths: the second one begins anew after two steps."""
    policy, found = run.load(), episodes(3)
    together = [np.stack([found[0][i], found[1 + i // 2][i % 2], found[2][i]]) for i in range(4)]
    done = np.array([False, True, False])
    actions = [policy.act(row, done=done if i == 2 else None) for i, row in enumerate(together)]
    for column, parts in enumerate([[found[0]], [found[1][:2], found[2][:2]], [found[2]]]):
        alone = [answer for part in parts for answer in answers(run.load(), part)]
        mine = [(int(a["answer"][column]), float(a["sure"][column][0])) for a in actions]
        assert [answer for answer, _ in mine] == [answer for answer, _ in alone]
        assert [sure for _, sure in mine] == pytest.approx([sure for _, sure in alone], abs=1e-5)


def test_a_batch_of_another_size_and_flags_that_do_not_fit_are_refused(run: equipoise.Run) -> None:
    policy, (one, two) = run.load(), episodes(2)
    policy.act(np.stack([one[0], two[0]]))
    with pytest.raises(ValueError, match=r"1 observations follow 2, .*policy\.reset\(\) lets it begin anew"):
        policy.act(one[1])
    with pytest.raises(ValueError, match=r"done has shape \(3,\); must be one flag, or one for each of 2"):
        policy.act(np.stack([one[1], two[1]]), done=np.zeros(3))
    policy.act(one[0], done=True)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_an_exported_policy_takes_and_gives_its_state(
    run: equipoise.Run, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "onnx" and any(
        importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime")
    ):
        pytest.skip("onnxscript and onnxruntime are not installed: pip install -e '.[export]'")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    from exported_policy import ExportedPolicy

    output = tmp_path / f"policy.{'pt2' if kind == 'torch' else 'onnx'}"
    arguments = [
        "export",
        f"checkpoint={run.folder}",
        f"format={kind}",
        f"output={output}",
        f"allow=[{__name__}]",
    ]
    monkeypatch.setattr("sys.argv", arguments)
    assert export.main() == 0
    described = json.loads(output.with_name(f"{output.name}.json").read_text())
    assert [entry["name"] for entry in described["inputs"]] == ["observation", "state"]
    assert described["outputs"][-1]["name"] == "next_state"
    assert described["outputs"][-1]["shape"] == described["inputs"][-1]["shape"]
    policy, ours = ExportedPolicy(output), run.load()
    for observations in episodes(5):
        policy.reset()
        ours.reset()
        theirs = answers(policy, observations)
        mine = answers(ours, observations)
        assert [answer for answer, _ in theirs] == [answer for answer, _ in mine]
        assert [sure for _, sure in theirs] == pytest.approx([sure for _, sure in mine], abs=1e-4)


def test_evaluation_forgets_at_the_end_of_an_episode(run: equipoise.Run) -> None:
    """Its returns are those of `act` in the same episodes."""
    policy, env, returns = run.load(), Parity(), []
    observation, _ = env.reset(seed=seed_of(3, 0))
    for _ in range(8):
        total, ended, done = 0.0, False, True
        while not ended:
            action = policy.act(observation, done=done)
            observation, reward, _, ended, _ = env.step(action)
            total, done = total + reward, False
        returns.append(total)
        observation, _ = env.reset()
    measured = evaluate(policy._network, GymnasiumEnv(num_envs=1, make=Parity), 8, seed=3)
    assert measured.returns == returns
    assert len(set(returns)) > 1


@pytest.mark.parametrize("policy", ["gru", "lstm"])
def test_a_resumed_run_goes_on_bit_for_bit(toy: Toy, tmp_path: Path, policy: str) -> None:
    config = toy(f"policy={policy}", "trainer.total_env_steps=512")
    trainer = build(config, tmp_path / "whole")
    trainer.iterate()
    state = deepcopy(trainer.state_dict())
    assert bool(state["collector"]["state"].any())
    lines = [trainer.iterate() for _ in range(2)]
    other = build(config, tmp_path / "resumed", state)
    for line in lines:
        again = other.iterate()
        assert {tag: again[tag] for tag in again if not tag.startswith("time/")} == pytest.approx(
            {tag: line[tag] for tag in line if not tag.startswith("time/")}, rel=0, abs=0, nan_ok=True
        )
    assert torch.equal(trainer.learner.flat.vector, other.learner.flat.vector)


def test_minibatches_that_would_cut_sequences_are_refused(toy: Toy, tmp_path: Path) -> None:
    message = r"trainer\.batch\.num_minibatches = 16; allowed is a divisor of 8, .*: 1, 2, 4, 8$"
    with pytest.raises(ValueError, match=message):
        build(toy("policy=gru", "trainer.batch.num_minibatches=16"), tmp_path)


def test_sets_of_nodes_have_no_memory(tiny_topology: Toy, tmp_path: Path) -> None:
    config = tiny_topology("policy.memory={_target_: equipoise.trainer.policy.memory.GRU}")
    with pytest.raises(ValueError, match=r"policy\.memory: remembers a row of features; NodeSet gives"):
        build(config, tmp_path)


def test_a_player_forgets_where_it_is_told(run: equipoise.Run) -> None:
    network = run.load()._network
    player, (one, two) = Player(network), episodes(2)
    rows = torch.from_numpy(np.stack([one[0], two[0]]))
    player.acting(rows, None)
    player.forget(torch.tensor([True, False]))
    assert player.state is not None
    assert player.state.any(1).tolist() == [False, True]
