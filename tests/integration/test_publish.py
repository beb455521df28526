"""`format=safetensors`: a folder that acts bit for bit as its checkpoint, in a process that never trained; and the hub."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equipoise
from equipoise.trainer import export
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.schema import Config
from tests.conftest import TOY
from tests.hub import hub
from tests.integration.test_export import Parts, leaves

safetensors = pytest.importorskip("safetensors", reason="needs: pip install -e '.[hub]'")
TINY: dict[str, Any] = {
    "num_envs": 4,
    "rollout_steps": 8,
    "num_minibatches": 1,
    "hidden_sizes": [8],
    "eval_every": 0,
}
ACT = """
import pickle, sys, equipoise
policy = equipoise.load(sys.argv[1])
observations, masks = pickle.load(open(sys.argv[2], "rb"))
both = [[policy.act(o, m) for o, m in zip(observations, masks)], str(policy.observation_space)]
pickle.dump(both, open(sys.argv[3], "wb"))
assert not [name for name in sys.modules if name.startswith("tests")], "the environment is not needed"
"""


def exported(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", *arguments])
        return export.main()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on observations and actions of every kind; its folder `policy` is exported."""
    folder = tmp_path_factory.mktemp("parts")
    equipoise.train(Parts, folder=folder / "run", total_env_steps=64, final_eval_episodes=1, **TINY)
    arguments = ["format=safetensors", f"output={folder / 'policy'}", "episodes=3", "allow=[tests]"]
    assert exported(f"checkpoint={folder / 'run'}", *arguments) == 0
    return folder


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on an environment with masks, that is not made for the export."""
    folder = tmp_path_factory.mktemp("masked")
    build(compose([*TOY]), folder / "run").train()
    arguments = ["format=safetensors", f"output={folder / 'policy'}", "episodes=0"]
    assert exported(f"checkpoint={folder / 'run'}", *arguments) == 0
    return folder


@pytest.mark.parametrize("case", ["parts", "masked"])
def test_it_acts_bit_for_bit_in_a_process_that_never_trained(
    case: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(case)
    policy = equipoise.load(folder / "run", allow=["tests"])
    policy.observation_space.seed(5)
    observations = [policy.observation_space.sample() for _ in range(20)]
    masks: list[Any] = [None] * 20
    if policy.masked:
        valid = policy._network.space.valid_choices.numpy()
        rng = np.random.default_rng(0)
        masks = [valid & (rng.random(valid.shape) > 0.4) for _ in range(20)]
        for mask in masks:
            mask[..., 0] = True
    (tmp_path / "in").write_bytes(pickle.dumps((observations, masks)))
    command = [sys.executable, "-c", ACT, folder / "policy", tmp_path / "in", tmp_path / "out"]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    actions, space = pickle.loads((tmp_path / "out").read_bytes())
    assert space == str(policy.observation_space)
    for observation, mask, action in zip(observations, masks, actions, strict=True):
        for ours, theirs in zip(leaves(policy.act(observation, mask)), leaves(action), strict=True):
            assert np.asarray(ours).dtype == np.asarray(theirs).dtype
            assert np.array_equal(ours, theirs)


def test_it_is_measured_as_its_checkpoint_is_and_says_so(parts: Path) -> None:
    of_checkpoint = equipoise.evaluate(parts / "run", 3, allow=["tests"])
    assert equipoise.evaluate(parts / "policy", 3, allow=["tests"]) == of_checkpoint
    told = json.loads((parts / "policy" / "config.json").read_text())["results"]
    assert told == {"episodes": 3, "seed": 0, **of_checkpoint}
    card = (parts / "policy" / "README.md").read_text()
    assert f"| return mean | {of_checkpoint['return_mean']:.4g} |" in card
    assert "equipoise.load(\"policy\", allow=['tests'])" in card


def test_the_hub_s_library_reads_its_card_and_weights(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("huggingface_hub")
    card = library.ModelCard.load(parts / "policy" / "README.md")
    assert card.data.library_name == "equipoise"
    assert card.data.eval_results[0].metric_type == "mean_reward"
    weights = safetensors.safe_open(parts / "policy" / "model.safetensors", "pt")
    assert weights.get_tensor("policy.value_head.weight").shape[1] == 8


def test_a_run_starts_from_it(masked: Path, toy: Callable[..., Config], tmp_path: Path) -> None:
    trainer = build(toy(f"init_from={masked / 'policy'}"), tmp_path / "run")
    whole = build(toy(f"init_from={masked / 'run'}"), tmp_path / "other")
    for ours, theirs in zip(trainer.policy.parameters(), whole.policy.parameters(), strict=True):
        assert ours.equal(theirs)


def spoiled(folder: Path, tmp_path: Path, change: Callable[[Path], None]) -> Path:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (folder / "policy").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    change(copy)
    return copy


def one_byte(folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


def edited(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        document = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**document, **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_byte, "is damaged, or of another policy"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no exported policy that can be read"),
        (lambda folder: (folder / "config.json").unlink(), "config.json, .* is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "no exported policy that can be read"),
        (edited(format="transformers"), "is of another program"),
        (edited(version=9), "has version 9"),
        (edited(config={"policy": {"_target_": "os.system"}}), "names code that is not Equipoise's"),
    ],
)
def test_what_is_damaged_or_foreign_is_refused(
    masked: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    with pytest.raises(equipoise.ConfigError, match=message):
        equipoise.load(spoiled(masked, tmp_path, change))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=safetensors", "output=policy.pt"], "must be a folder"),
        (["format=onnx", "push=me/policy"], "is for format=safetensors"),
        (["format=safetensors", "episodes=-1"], "episodes = '-1': must be"),
    ],
)
def test_bad_arguments_are_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported("checkpoint=nowhere", *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("hf://me", "must be hf://<user>/<repository>"),
        ("hf://me/policy", "needs the package huggingface_hub"),
    ],
)
def test_a_wrong_place_or_a_missing_library_is_one_message(
    location: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("equipoise.trainer.configuration.hub.find_spec", lambda name: None)
    with pytest.raises(equipoise.ConfigError, match=message):
        equipoise.load(location)


@pytest.fixture
def offline_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the library speak to an address, with an empty cache. It reads its settings when it is imported."""
    library = pytest.importorskip("huggingface_hub", reason="needs: pip install -e '.[hub]'")
    pytest.importorskip("huggingface_hub.constants")  # not an attribute until something imports it

    def speak_to(address: str) -> None:
        monkeypatch.setattr(library.constants, "ENDPOINT", address)
        monkeypatch.setattr(
            library.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(library.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_none")

    return speak_to


def test_to_the_hub_and_back(
    masked: Path,
    tmp_path: Path,
    offline_library: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with hub() as (address, repositories):
        offline_library(address)
        arguments = ["format=safetensors", "episodes=0", "push=me/toy", f"output={tmp_path / 'policy'}"]
        assert exported(f"checkpoint={masked / 'run'}", *arguments) == 0
        assert f"{address}/me/toy" in capsys.readouterr().out
        assert sorted(repositories["me/toy"]) == ["README.md", "config.json", "model.safetensors"]
        assert (
            "equipoise.load(\"hf://me/toy\", allow=['tests'])" in repositories["me/toy"]["README.md"].decode()
        )
        policy = equipoise.load("hf://me/toy")
        with pytest.raises(
            equipoise.ConfigError, match="hf://me/none cannot be loaded: RepositoryNotFoundError"
        ):
            equipoise.load("hf://me/none")
    observation = policy.observation_space.sample()
    action = equipoise.load("hf://me/toy").act(observation)  # from the cache: nobody listens any more
    assert str(action) == str(equipoise.load(masked / "run", allow=["tests"]).act(observation))
    assert exported("checkpoint=hf://me/toy", "allow=[tests]") == 0
    assert (tmp_path / "model-policy.pt2").exists(), "not in the library's cache"
    with pytest.raises(equipoise.ConfigError, match="hf://me/none cannot be loaded: LocalEntryNotFoundError"):
        equipoise.load("hf://me/none")
