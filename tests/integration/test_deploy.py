"""docs/deploy.md: an exported policy in JavaScript acts as in Python, and the loop of a game runs as it is printed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equipoise
from equipoise.trainer import export
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.system import checkpoint
from tests import pages
from tests.conftest import TINY_TOPOLOGY
from tests.integration.test_export import Parts

for name in ("onnxscript", "onnxruntime"):
    pytest.importorskip(name, reason="needs: pip install -e '.[export]'")
MODULES = Path(os.environ.get("EQUIPOISE_NODE_MODULES", pages.ROOT / "examples" / "node_modules"))
needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (MODULES / "onnxruntime-web").exists(),
    reason="needs Node, and in examples/: npm install onnxruntime-web",
)
SHORT: dict[str, Any] = {
    "num_envs": 4,
    "rollout_steps": 8,
    "num_minibatches": 1,
    "hidden_sizes": [8],
    "eval_every": 0,
    "total_env_steps": 64,
    "final_eval_episodes": 1,
}
RUNTIME = os.environ.get("EQUIPOISE_ONNXRUNTIME")
needs_headers = pytest.mark.skipif(
    shutil.which("g++") is None or RUNTIME is None,
    reason="needs g++, and in EQUIPOISE_ONNXRUNTIME a folder with ONNX Runtime's include and lib",
)


def exported(run: Path, output: Path) -> Path:
    """The policy of a run as ONNX, made sure of its choices."""
    state = checkpoint.load(run / "checkpoints" / "last.pt")
    for name in ("discrete_head.weight", "continuous_head.weight"):
        state["policy"][name] *= 100.0
    checkpoint.save(output.with_suffix(".pt"), state)
    with pytest.MonkeyPatch.context() as patch:
        arguments = [
            f"checkpoint={output.with_suffix('.pt')}",
            "format=onnx",
            f"output={output}",
            "allow=[tests]",
        ]
        patch.setattr(sys, "argv", ["export", *arguments])
        assert export.main() == 0
    return output


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    run = equipoise.train(Parts, folder=folder / "run", **SHORT)
    return exported(run.folder, folder / "policy.onnx")


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remembering")
    run = equipoise.train(Parts, folder=folder / "run", policy="gru", **SHORT)
    return exported(run.folder, folder / "policy.onnx")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    build(compose([*TINY_TOPOLOGY]), folder / "run").train()
    return exported(folder / "run", folder / "policy.onnx")


def plain(value: Any) -> Any:
    """As JSON has it; arrays flat."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    array = np.asarray(value)
    return array.ravel().tolist() if array.ndim else array.item()


def assert_alike(ours: Any, theirs: Any) -> None:
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            assert_alike(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_alike(one, other)
    else:
        assert ours == pytest.approx(theirs, abs=1e-4)


def in_javascript(policy: Path, given: list[Any], place: Path) -> list[Any]:
    shutil.copy(pages.ROOT / "examples" / "exported_policy.mjs", place)
    (place / "node_modules").symlink_to(MODULES.absolute())
    (place / "given.json").write_text(json.dumps(given))
    command = ["node", place / "exported_policy.mjs", policy, place / "given.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program, source = tmp_path_factory.mktemp("cpp") / "act", pages.ROOT / "examples" / "exported_policy.cpp"
    where = [f"-I{RUNTIME}/include", f"-L{RUNTIME}/lib", f"-Wl,-rpath,{RUNTIME}/lib", "-lonnxruntime"]
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", source, *where, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def in_cpp(program: Path, policy: Path, rows: list[Any]) -> list[dict[str, list[float]]]:
    """The outputs of each row, by their names."""
    given = "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in rows)
    done = subprocess.run([program, policy], input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    actions = done.stdout.strip().split("\n\n")
    return [
        {name: [*map(float, values)] for name, *values in map(str.split, a.splitlines())} for a in actions
    ]


def in_python(policy: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(pages.ROOT / "examples")
    from exported_policy import ExportedPolicy

    return ExportedPolicy(policy)


@needs_node
def test_javascript_acts_as_python_does_on_parts_of_every_kind(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    player, space = in_python(parts, monkeypatch), Parts.observation_space
    space.seed(1)
    observations = [space.sample() for _ in range(20)]
    actions = in_javascript(parts, [plain(o) for o in observations], tmp_path)
    for observation, action in zip(observations, actions, strict=True):
        assert_alike(plain(player.act(observation)), action)


@needs_node
def test_javascript_keeps_to_masks_as_python_does(
    masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    player, rng = in_python(masked, monkeypatch), np.random.default_rng(0)
    heads, choices = player.inputs["action_mask"]["shape"][1:]
    given = []
    for _ in range(20):
        masks = rng.random((heads, choices)) > 0.5
        masks[:, 0] = True
        given.append(
            (rng.normal(size=player.inputs["observation"]["shape"][1]).astype(np.float32), list(masks))
        )
    pairs = [{"observation": o.tolist(), "masks": [m.tolist() for m in ms]} for o, ms in given]
    taken = []
    for (observation, masks), action in zip(given, in_javascript(masked, pairs, tmp_path), strict=True):
        assert_alike(plain(player.act(observation, masks)), action)
        taken += [(masks[head][choice]) for head, choice in enumerate(action["topology"])]
    assert all(taken)


@needs_headers
@pytest.mark.parametrize("kind", ["parts", "masked", "remembering"])
def test_cpp_gives_what_python_gives(
    kind: str, compiled: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = request.getfixturevalue(kind)
    player, rng = in_python(policy, monkeypatch), np.random.default_rng(0)
    called, outputs = player._call, []
    player._call = lambda inputs: outputs.append(called(inputs)) or outputs[-1]
    rows = []
    Parts.observation_space.seed(1)
    for _ in range(20):
        if kind == "masked":
            observation = rng.normal(size=player.inputs["observation"]["shape"][1]).astype(np.float32)
            masks = rng.random(player.inputs["action_mask"]["shape"][1:]) > 0.5
            masks[:, 0] = True
            player.act(observation, list(masks))
            rows.append([*observation, *masks.ravel()])
        else:
            observation = Parts.observation_space.sample()
            player.act(observation)
            rows.append(player._row(observation)[0])
    assert kind != "remembering" or np.ptp([o["next_state"] for o in outputs], axis=0).max() > 0
    for action, expected in zip(in_cpp(compiled, policy, rows), outputs, strict=True):
        expected.pop("next_state", None)
        assert set(action) == set(expected)
        for name, values in expected.items():
            assert action[name] == pytest.approx(values.ravel(), abs=1e-4), name


def test_the_loop_of_a_game_runs_as_the_page_prints_it(
    masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(pages.ROOT / "examples" / "exported_policy.py", tmp_path)
    for file in (masked, masked.with_name(f"{masked.name}.json")):
        shutil.copy(file, tmp_path)
    (block,) = (
        b.text
        for b in pages.blocks(pages.ROOT / "docs" / "deploy.md")
        if "from exported_policy import" in b.text
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found: dict[str, Any] = {"__name__": "game"}
    exec(block, found)
    assert found["steps"] > 0
