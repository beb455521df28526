"""`python -m trainer.export`: what it writes acts like the trainer's own policy, and needs no trainer."""

from __future__ import annotations

import importlib.util
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import equipoise
from equipoise.trainer import export
from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.policy.encoders import MLP, NodeSet
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.restore import restore
from equipoise.trainer.system import checkpoint

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNT = 10_000
TORCH_ALONE = """
import sys, torch
inputs = torch.load(sys.argv[2])
torch.save(torch.export.load(sys.argv[1]).module()(**inputs), sys.argv[3])
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"trainer", "envs", "gymnasium", "pydantic"}, loaded
"""
# Only the example's file is there to be imported, as when somebody has copied it.
EXAMPLE = """
import pathlib, pickle, sys
sys.path.insert(0, sys.argv[1])
from exported_policy import ExportedPolicy
observations = pickle.load(open(sys.argv[3], "rb"))
policy = ExportedPolicy(pathlib.Path(sys.argv[2]))
pickle.dump([policy.act(observation) for observation in observations], open(sys.argv[4], "wb"))
assert not [name for name in sys.modules if name.startswith("equipoise")]
"""
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime")),
    reason="onnxscript and onnxruntime are not installed: pip install -e '.[export]'",
)


@pytest.fixture(params=["node_set", "mlp", "without masks", "beta", "squashed"])
def trained(
    request: pytest.FixtureRequest,
    tiny_topology: Callable[..., Config],
    toy: Callable[..., Config],
    tmp_path: Path,
) -> Path:
    """A checkpoint whose policy is no longer near its mild beginnings: it is sure of some choices, and wants
    parameters beyond their bounds."""
    if request.param in ("node_set", "mlp"):
        config = tiny_topology(f"policy={request.param}")
    else:
        config = toy(*([] if request.param == "without masks" else [f"policy.distribution={request.param}"]))
    build(config, tmp_path / "run").train()
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")
    for name in ("discrete_head.weight", "continuous_head.weight"):
        state["policy"][name] *= 100.0
    checkpoint.save(tmp_path / "policy.pt", state)
    return tmp_path / "policy.pt"


def inputs_for(policy: Policy) -> dict[str, Tensor]:
    """`COUNT` of them; without those in which rounding decides between two choices."""
    noise = torch.Generator().manual_seed(1)
    space, masked, size = policy.space, policy.space.num_heads > 1, COUNT + 2_000
    observation = torch.randn(size, policy.observation_width, generator=noise)
    if policy.normalizer is not None:
        observation = policy.normalizer.mean + 3.0 * policy.normalizer.std * observation
    if isinstance(policy.discrete_trunk, NodeSet):
        nodes = observation.view(size, space.num_heads, -1)
        nodes[..., 0] = nodes[..., 0] > 0
    valid = space.valid_choices.expand(size, -1, -1)
    mask = torch.rand(valid.shape, generator=noise) > 0.4 if masked else valid.clone()
    mask[..., 0] = True
    with torch.inference_mode():
        log_probs = policy.distribution(policy.normalize(observation), mask).log_probs
    first, second = log_probs.topk(2).values.unbind(-1)
    clear = (first - second > 1e-4).all(-1).nonzero().flatten()[:COUNT]
    assert len(clear) == COUNT
    return {"observation": observation[clear], **({"action_mask": mask[clear]} if masked else {})}


def leaves(action: Any) -> list[Any]:
    if not isinstance(action, dict | tuple):
        return [action]
    return [
        leaf for part in (action.values() if isinstance(action, dict) else action) for leaf in leaves(part)
    ]


def exported(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    return export.main()


def assert_acts_alike(policy: Policy, inputs: dict[str, Tensor], outputs: list[Tensor]) -> None:
    actions = policy.act(inputs["observation"], inputs.get("action_mask"))
    assert (actions.continuous.abs() > 1.0).float().mean() > 0.01, "some have to be clamped"
    assert actions.discrete.float().std() > 0.1
    expected = leaves(policy.to_native(actions))
    assert len(outputs) == len(expected)
    for ours, theirs in zip(expected, outputs, strict=True):
        assert theirs.dtype == ours.dtype
        torch.testing.assert_close(theirs, ours, atol=1e-5 if ours.is_floating_point() else 0.0, rtol=0.0)


def test_torch_alone_acts_like_the_trainer(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = restore(trained, "cpu", allow=["tests"]).policy
    if isinstance(policy.discrete_trunk, MLP):
        assert policy.normalizer is not None
        assert (policy.normalizer.mean.abs() > 0.01).any()
        assert (policy.normalizer.std - 1.0).abs().max() > 0.1
    output = tmp_path / "policy.pt2"
    assert exported(monkeypatch, f"checkpoint={trained}", f"output={output}", "allow=[tests]") == 0
    inputs, results = inputs_for(policy), tmp_path / "results.pt"
    torch.save(inputs, tmp_path / "inputs.pt")
    command = [sys.executable, "-c", TORCH_ALONE, str(output), str(tmp_path / "inputs.pt"), str(results)]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    outputs = torch.load(results)
    description = json.loads((tmp_path / "policy.pt2.json").read_text())
    assert [entry["name"] for entry in description["outputs"]] == list(outputs)
    assert [(entry["name"], entry["dtype"]) for entry in description["inputs"]] == [
        (name, str(tensor.dtype).removeprefix("torch.")) for name, tensor in inputs.items()
    ]
    for entry in (*description["inputs"], *description["outputs"]):
        assert entry["shape"] == ["batch", *{**inputs, **outputs}[entry["name"]].shape[1:]]
    numbers = [entry["meaning"] for entry in description["outputs"] if "low" in entry]
    assert numbers
    assert all(meaning.endswith(f", {policy.family.deterministic} in native units") for meaning in numbers)
    assert_acts_alike(policy, inputs, list(outputs.values()))


@needs_onnx
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_onnx_acts_like_the_trainer(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    assert exported(monkeypatch, f"checkpoint={trained}", "format=onnx", "allow=[tests]") == 0
    policy = restore(trained, "cpu", allow=["tests"]).policy
    inputs = inputs_for(policy)
    session = onnxruntime.InferenceSession(trained.with_name("policy-policy.onnx"))
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    outputs = [torch.from_numpy(array) for array in session.run(None, arrays)]
    described = json.loads(trained.with_name("policy-policy.onnx.json").read_text())
    assert [o.name for o in session.get_outputs()] == [entry["name"] for entry in described["outputs"]]
    assert_acts_alike(policy, inputs, outputs)
    one = session.run(None, {name: array[:1] for name, array in arrays.items()})
    assert all(len(array) == 1 for array in one)


class Parts(gymnasium.Env[Any, Any]):
    """Observations of every kind, and actions whose names differ in punctuation only."""

    observation_space = spaces.Dict(
        gear=spaces.Discrete(3, start=-1),
        arm=spaces.Tuple(
            (spaces.Box(-np.inf, 3.0, (2, 2), np.float64), spaces.MultiDiscrete([[2, 3]], start=[[5, 6]]))
        ),
        lamps=spaces.MultiBinary(3),
        camera=spaces.Box(0, 255, (2, 3), np.uint8),
    )
    action_space = spaces.Dict(
        {
            "left-arm": spaces.Box(-0.1, 0.7, (2,), np.float64),
            "left_arm": spaces.Box(np.array([5.0, 0.1]), np.array([6.0, 0.1]), dtype=np.float64),
            "a": spaces.Dict({"b": spaces.Discrete(3, start=2)}),
            "a.b": spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.Box(0, 200, (1,), np.int16))),
            "one": spaces.OneOf(
                (
                    spaces.Box(0.0, 2.0, (2,), np.float64),
                    spaces.Tuple((spaces.Discrete(2, start=3), spaces.Box(-1.0, 0.0, (1,), np.float32))),
                )
            ),
            "+": spaces.Box(0.0, 1.0, (), np.float32),
            "-": spaces.Box(0.0, 1.0, (1,), np.float32),
        }
    )

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return (
            self.observation_space.sample(),
            float(action["+"]),
            bool(self.np_random.random() < 0.2),
            False,
            {},
        )


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("form", ["torch", pytest.param("onnx", marks=needs_onnx)])
def test_a_policy_without_choices_acts_as_the_trainer_s(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny: dict[str, Any] = {
        "num_envs": 2,
        "rollout_steps": 8,
        "num_minibatches": 1,
        "hidden_sizes": [8],
        "eval_every": 0,
    }
    tiny |= {"total_env_steps": 16, "final_eval_episodes": 1, "eval_max_steps": 4}
    run = equipoise.train("Pendulum-v1", folder=tmp_path / "run", **tiny)
    file = tmp_path / {"torch": "policy.pt2", "onnx": "policy.onnx"}[form]
    assert exported(monkeypatch, f"checkpoint={run.folder}", f"format={form}", f"output={file}") == 0
    if form == "torch":
        observation = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -2.0]])
        (action,) = torch.export.load(file).module()(observation=observation).values()
        expected = run.load().act(observation[0].numpy())
        assert np.allclose(action[0], expected, atol=1e-6)


@pytest.mark.parametrize("form", ["torch", pytest.param("onnx", marks=needs_onnx)])
def test_the_json_is_enough_to_act(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By somebody who has the two files and the example, on observations in the environment's structure."""
    tiny = {"num_envs": 4, "rollout_steps": 8, "num_minibatches": 1, "hidden_sizes": [8], "eval_every": 0}
    run = equipoise.train(Parts, folder=tmp_path / "run", total_env_steps=64, final_eval_episodes=1, **tiny)
    state = checkpoint.load(run.folder / "checkpoints" / "last.pt")
    for name in ("discrete_head.weight", "continuous_head.weight"):
        state["policy"][name] *= 1000.0
    for name, tensor in state["policy"].items():  # untrained, what is common to all pictures would decide
        if ".last." in name:
            tensor *= 0.05
    checkpoint.save(tmp_path / "policy.pt", state)
    files = {"torch": "policy-policy.pt2", "onnx": "policy-policy.onnx"}
    arguments = [f"checkpoint={tmp_path / 'policy.pt'}", f"format={form}", f"allow=[{__name__}]"]
    assert exported(monkeypatch, *arguments) == 0
    space = Parts.observation_space
    space.seed(3)
    observations = [space.sample() for _ in range(50)]
    (tmp_path / "observations").write_bytes(pickle.dumps(observations))
    paths = [EXAMPLES, tmp_path / files[form], tmp_path / "observations", tmp_path / "actions"]
    subprocess.run([sys.executable, "-c", EXAMPLE, *map(str, paths)], check=True, cwd=tmp_path, timeout=120)
    actions = pickle.loads((tmp_path / "actions").read_bytes())
    policy = equipoise.load(tmp_path / "policy.pt")
    for observation, action in zip(observations, actions, strict=True):
        assert action in Parts.action_space
        for ours, theirs in zip(leaves(policy.act(observation)), leaves(action), strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-5)
    drives = [float(number) for action in actions for number in action["left-arm"]]
    assert any(min(drive + 0.1, 0.7 - drive) < 1e-7 for drive in drives), "some are at a bound"
    described = json.loads((tmp_path / f"{files[form]}.json").read_text())["outputs"]
    options = ["action.one[0]", "action.one[1][0]", "action.one[1][1][0]", "action.one[1][1][1]"]
    names = ["action.+", "action.-", "action.a.b", r"action.a\.b[0]", r"action.a\.b[1]"]
    assert [entry["name"] for entry in described] == [*names, "action.left-arm", "action.left_arm", *options]
    assert {action["one"][0] for action in actions} == {0, 1}, "both options are taken"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["checkpoint=nowhere.pt"], "nowhere.pt"),
        (["checkpoint=x", "format=tflite"], "format"),
        (["checkpoint=x", "output=policy.onnx"], "must end in .pt2"),
    ],
)
def test_bad_arguments_end_with_one_message(
    arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(monkeypatch, *arguments) == 2
    assert complaint in capsys.readouterr().err


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert exported(monkeypatch, "checkpoint=x", "format=onnx") == 2
    assert "[export]" in capsys.readouterr().err
