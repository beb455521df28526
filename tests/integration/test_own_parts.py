"""An encoder, a policy and an optimizer from outside of the package: a Python file and a YAML file each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from equipoise.trainer import evaluate, run
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.system import checkpoint

ENCODER = '''
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn


class Residual(nn.Module):
    """Residual blocks of one width; its first layer may be an encoder of its own, and is frozen."""

    def __init__(
        self,
        observation_shape: Sequence[int],
        width: Annotated[int, Ge(1)],
        blocks: int = 1,
        first: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.first = None if first is None else first(observation_shape=observation_shape)
        inputs = math.prod(observation_shape) if self.first is None else self.first.width
        self.inputs = nn.Linear(inputs, width).requires_grad_(False)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.inputs(inputs if self.first is None else self.first(inputs)).tanh()
        for block in self.blocks:
            features = features + block(features).tanh()
        return features


class Narrow(Residual):
    """Not as wide as it says."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)[:, 1:]
'''

OPTIMIZER = '''
import torch


class SignMomentum(torch.optim.Optimizer):
    """Steps of one size along the sign of the momentum."""

    def __init__(self, params, lr: float = 1e-3, momentum: float = 0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1.0 - group["momentum"])
                p.sub_(group["lr"] * mean.sign())
'''

POLICY = '''
from torch import nn
from equipoise.trainer.policy.protocol import Policy


class Straight(Policy):
    """Everything is linear in the observation."""

    def __init__(self, space, observation_shape, num_values, gain: float = 1.0):
        super().__init__(space, observation_shape, num_values)
        width, self.gain = self.observation_width, gain
        self.logits = nn.Linear(width, space.num_heads * space.max_choices)
        self.mean = nn.Linear(width, space.num_continuous)
        self.log_std = nn.Linear(width, space.num_continuous)
        self.value_head = nn.Linear(width, num_values)

    def actor(self, inputs, log_std=None):
        shape = len(inputs), self.space.num_heads, self.space.max_choices
        return self.gain * self.logits(inputs).view(shape), self.mean(inputs), self.log_std(inputs).tanh()

    def critic(self, inputs):
        return self.value_head(inputs)
'''

FILES = {
    "my_encoder.py": ENCODER,
    "my_optimizer.py": OPTIMIZER,
    "my_policy.py": POLICY,
    "conf/policy/residual.yaml": "encoder:\n  _target_: my_encoder.Residual\n  width: 12\n  blocks: 2\n",
    "conf/policy/straight.yaml": "_target_: my_policy.Straight\n",
    "conf/optimizer/sign.yaml": "_target_: my_optimizer.SignMomentum\nlearning_rate: 3.0e-3\nmomentum: 0.8\n",
}
SHORT = (
    "env=catch_point",
    "env.num_envs=4",
    "batch=debugging",
    "trainer.batch.rollout_steps=4",
    "trainer.checkpoint_every=1",
    "trainer.eval_every=0",
    "trainer.final_eval_episodes=1",
    "device=cpu",
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's, in which the commands are started."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


def command(main: object, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    assert callable(main)
    status: int = main()
    return status


def rows(run_dir: str) -> list[dict[str, float]]:
    lines = Path(run_dir, "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


@pytest.mark.parametrize(
    ("policy", "module"), [("residual", "my_encoder"), ("straight", "my_policy")], ids=["encoder", "policy"]
)
def test_it_trains_resumes_and_is_evaluated(
    policy: str, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = (f"policy={policy}", "optimizer=sign", "optimizer.anneal=false")
    for folder, steps in (("whole", 64), ("half", 32)):
        arguments = (*SHORT, *parts, f"trainer.total_env_steps={steps}", f"hydra.run.dir={folder}")
        assert command(run.main, monkeypatch, *arguments) == 0
    allow = f"allow=[{module},my_optimizer]"
    longer = "trainer.total_env_steps=64"
    assert command(run.main, monkeypatch, "resume=half", longer) == 2
    assert f"add {allow}" in capsys.readouterr().err
    assert command(run.main, monkeypatch, "resume=half", longer, allow) == 0
    assert [row["iteration"] for row in rows("half")] == [row["iteration"] for row in rows("whole")]
    assert command(evaluate.main, monkeypatch, "checkpoint=half", "episodes=1", f"allow={module}") == 0
    assert "return mean" in capsys.readouterr().out


def test_the_optimizer_is_the_one_that_steps(tmp_path: Path) -> None:
    config = compose([*SHORT, "policy=residual", "optimizer=sign", "optimizer.learning_rate=0.5"])
    trainer = build(config, tmp_path / "run")
    head = trainer.policy.get_parameter("discrete_head.weight")
    frozen = trainer.policy.get_parameter("discrete_trunk.inputs.weight")
    before, inputs = head.detach().clone(), frozen.clone()
    trainer.iterate()
    batch = config.trainer.batch
    steps = (head.detach() - before).abs() / 0.5
    assert float((steps - steps.round()).abs().max()) < 1e-3  # whole steps of one size
    assert 0 < float(steps.max()) < batch.update_epochs * batch.num_minibatches + 0.1
    assert torch.equal(frozen, inputs)


@pytest.mark.parametrize("policy", ["residual", "straight"])
def test_it_goes_on_bit_for_bit(policy: str, tmp_path: Path) -> None:
    config = compose([*SHORT, f"policy={policy}", "optimizer=sign", "trainer.total_env_steps=64"])
    whole, half = (build(config, tmp_path / name) for name in ("whole", "half"))
    for trainer in (whole, whole, half):
        trainer.iterate()
    checkpoint.save(tmp_path / "half.pt", half.state_dict())
    again = build(config, tmp_path / "again", checkpoint.load(tmp_path / "half.pt"))
    again.iterate()
    assert torch.equal(whole.learner.flat.vector, again.learner.flat.vector)
    ours, theirs = (trainer.learner.optimizer.state_dict()["state"] for trainer in (whole, again))
    assert len(ours) == len(theirs) > 1  # one for each parameter that is trained
    assert all(torch.equal(ours[key]["mean"], theirs[key]["mean"]) for key in ours)


def test_an_encoder_may_be_made_of_others() -> None:
    inner = "{_target_: equipoise.trainer.policy.encoders.MLP, hidden_sizes: [5]}"
    config = compose([*SHORT, "policy=residual", f"policy.encoder.first={inner}", "policy.encoder.width=3"])
    trainer = build(config, "run")
    assert [module.width for module in trainer.policy.modules() if hasattr(module, "width")][:2] == [3, 5]
    trainer.iterate()


def test_critic_and_actor_may_have_encoders_of_their_own(tmp_path: Path) -> None:
    own = "{_target_: my_encoder.Residual, width: 7}"
    policy = build(compose([*SHORT, "policy=mlp", f"policy.critic_encoder={own}"]), tmp_path / "run").policy
    assert (policy.value_head.in_features, policy.get_submodule("discrete_trunk").width) == (7, 64)


MISTAKES = [
    ("policy=residual policy.encoder.widht=3", "did you mean policy.encoder.width?"),
    ("policy=residual policy.encoder.width=0", "policy.encoder.width = 0: must be a whole number ≥ 1"),
    ("policy=residual policy.encoder.observation_shape=[3]", "unknown key; the trainer supplies it"),
    ("policy=residual policy.encoder=mlp", "policy.encoder = 'mlp': must be a section with a _target_"),
    ("policy=residual policy.encoder._target_=json.JSONDecoder", "must be a class with a method forward"),
    ("policy=residual policy.encoder._target_=my_encoder.Residuum", "its classes: Residual, Narrow"),
    ("policy=residual policy.hidden_sizes=[8]", "policy.hidden_sizes = [8]: unknown key"),
    ("policy=mlp policy.hidden_size=[8]", "did you mean policy.hidden_sizes?"),
    ("policy=mlp policy.kind=mlp", "unknown key; choose policy=mlp, policy=node_set or your own"),
    ("policy=straight policy.space=1", "policy.space = 1: unknown key; the trainer supplies it"),
    ("policy=straight policy.gian=2", "did you mean policy.gain?"),
    ("policy=mlp policy.shared_critic=true policy.critic_encoder={_target_: my_encoder.Residual, width: 3}",
     "policy.critic_encoder gives the critic one of its own"),
    ("optimizer=sign optimizer.momentm=0.5", "did you mean optimizer.momentum?"),
    ("optimizer=sign optimizer.momentum=high", "optimizer.momentum = 'high': must be a number"),
    ("optimizer=sign optimizer.lr=0.5", "unknown key; write optimizer.learning_rate"),
    ("optimizer=sign optimizer.maximize=true", "unknown key; the trainer supplies it"),
    ("optimizer=sign optimizer.kind=adam", "choose optimizer=adam, optimizer=sgd or any"),
    ("optimizer._target_=torch.optim.SGD", "optimizer.eps = 1e-05: unknown key; optimizer has"),
    ("optimizer._target_=torch.optim.SGD", "(~optimizer.eps leaves it out)"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_keys_are_checked_like_our_own(arguments: str, expected: str) -> None:
    overrides = (
        arguments.replace(", width", ",width").replace("_: ", "_:").replace("width: ", "width:").split()
    )
    with pytest.raises(ConfigError) as error:
        compose([*SHORT, *overrides])
    assert expected in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["policy=residual", "policy.encoder._target_=my_encoder.Narrow"],
         r"policy.encoder = Narrow: gives \(2, 11\) .* must be \(2, 12\)"),
        (["optimizer._target_=torch.optim.LBFGS", "~optimizer.eps"],
         "optimizer._target_ = torch.optim.LBFGS: its step computes the loss several times"),
    ],
)  # fmt: skip
def test_what_breaks_the_contract_is_named_before_training(overrides: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        build(compose([*SHORT, *overrides]), "run")
    assert not Path("run", "metrics.jsonl").exists()
