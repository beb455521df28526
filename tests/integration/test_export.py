"""`python -m trainer.export`: what it writes acts like the trainer's own policy, and needs no trainer."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from equipoise.trainer import export
from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.policy.encoders import MLP, NodeSet
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.restore import restore
from equipoise.trainer.system import checkpoint

COUNT = 10_000
TORCH_ALONE = """
import sys, torch
inputs = torch.load(sys.argv[2])
torch.save(torch.export.load(sys.argv[1]).module()(**inputs), sys.argv[3])
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"trainer", "envs", "gymnasium", "pydantic"}, loaded
"""
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime")),
    reason="onnxscript and onnxruntime are not installed: pip install -e '.[export]'",
)


@pytest.fixture(params=["node_set", "mlp", "mlp without masks"])
def trained(
    request: pytest.FixtureRequest,
    tiny_topology: Callable[..., Config],
    toy: Callable[..., Config],
    tmp_path: Path,
) -> Path:
    """A checkpoint whose policy is no longer near its mild beginnings: it is sure of some choices, and wants
    parameters beyond their bounds."""
    config = toy() if request.param == "mlp without masks" else tiny_topology(f"policy={request.param}")
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


def leaves(action: Any) -> list[Tensor]:
    if isinstance(action, Tensor):
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
    expected = leaves(policy.space.to_native(actions))
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
