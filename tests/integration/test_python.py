"""`import equipoise`: three lines of Python from an environment to actions, for somebody who knows no Hydra."""

from __future__ import annotations

import enum
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import hydra
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hydra.core.global_hydra import GlobalHydra

import equipoise
from equipoise import ConfigError
from tests.toy_env import ToyEnv

ROOT = Path(__file__).parents[2]
TINY: Mapping[str, Any] = {
    "total_env_steps": 64,
    "num_envs": 4,
    "rollout_steps": 8,
    "update_epochs": 1,
    "num_minibatches": 1,
    "eval_every": 0,
    "final_eval_episodes": 2,
    "device": "cpu",
    "hidden_sizes": [8],
}


OPEN = {"drive": None, "switches": None, "level": None}
"""A mask of the other heads, for which everything is valid."""


class Crane(gymnasium.Env[Any, Any]):
    """Every kind of observation and action, with masks and components; asserts that actions are its own."""

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (2, 3), np.uint8),
            "gear": spaces.Discrete(3, start=-1),
            "arm": spaces.Tuple((spaces.Box(-1.0, 1.0, (), np.float64), spaces.MultiDiscrete([2, 3]))),
        }
    )
    action_space = spaces.Dict(
        {
            "mode": spaces.Discrete(3, start=5),
            "drive": spaces.Tuple(
                (
                    spaces.Box(0.1, 0.7, (2,), np.float64),
                    spaces.MultiDiscrete(np.array([[2, 3]])),
                    spaces.Box(-1.0, 2.0, (), np.float32),
                )
            ),
            "switches": spaces.MultiBinary(2),
            "level": spaces.Box(0, 200, (1,), np.int32),
        }
    )

    def __init__(self, length: int = 4, masked: bool = False, render_mode: str | None = None) -> None:
        self.length, self.masked, self.render_mode = length, masked, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), self._info()

    def step(self, action: Any) -> Any:
        assert action in self.action_space, action
        if self.masked:
            assert action["mode"] != 6
        self.steps += 1
        ended = self.steps == self.length
        return self.observation_space.sample(), float(action["drive"][0][0]), ended, False, self._info()

    def _info(self) -> dict[str, Any]:
        return {"action_mask": {**OPEN, "mode": np.array([1, 0, 1], np.int8)}} if self.masked else {}


def train(environment: Any, folder: Path, **settings: Any) -> equipoise.Run:
    return equipoise.train(environment, folder=folder, progress=False, **{**TINY, **settings})


@pytest.fixture(scope="module")
def crane(tmp_path_factory: pytest.TempPathFactory) -> equipoise.Run:
    return train(Crane, tmp_path_factory.mktemp("crane") / "run")


# --- training ------------------------------------------------------------------------------------------


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, equipoise; print(*{'torch', 'numpy', 'hydra', 'pydantic'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
    assert {"train", "load", "evaluate", "Run", "Policy", "ConfigError"} <= set(dir(equipoise))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        equipoise.trian  # type: ignore[attr-defined]  # noqa: B018


def test_a_run_is_its_folder_its_summary_and_its_metrics(tmp_path: Path) -> None:
    run = train("CartPole-v1", tmp_path / "run", seed=7, learning_rate=1e-3, preset="debug")
    assert run.folder == tmp_path / "run"
    assert run.summary == json.loads((run.folder / "summary.json").read_text())
    assert (run.summary["seed"], run.summary["preset"], run.summary["env_steps"]) == (7, "debug", 64)
    assert list(run.metrics["iteration"]) == [1, 2]
    assert list(run.metrics["env_steps"]) == [32, 64]
    assert run.metrics["optimizer/learning_rate"] == pytest.approx([1e-3, 5e-4])
    with pytest.raises(KeyError, match="there are episode/length"):
        run.metrics["episode/lenght"]
    assert repr(run) == f"<Run {run.folder}: finished, return {run.summary['return_mean']:.4g}>"
    assert equipoise.Run(run.folder).summary == run.summary


def test_trained_twice_in_one_process_it_is_the_same_and_the_caller_keeps_his_torch(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    first = train("topology_spawn", tmp_path / "a", max_steps=6)
    torch.rand(3)
    second = train("topology_spawn", tmp_path / "b", max_steps=6)
    torch.set_rng_state(state)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    for name in ("loss/value", "optimizer/gradient_norm"):
        assert np.array_equal(first.metrics[name], second.metrics[name], equal_nan=True)


def test_new_folders_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [equipoise.train("CartPole-v1", progress=False, **TINY) for _ in range(3)]
    assert len({run.folder for run in runs}) == 3
    assert all(run.folder.parent == Path("runs/CartPole-v1-even") for run in runs)


def test_it_trains_in_a_thread(tmp_path: Path) -> None:
    done: list[equipoise.Run] = []
    thread = threading.Thread(target=lambda: done.append(train("CartPole-v1", tmp_path / "run")))
    thread.start()
    thread.join(120)
    assert done[0].summary["status"] == "finished"


def test_it_trains_inside_a_program_that_uses_hydra(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 3")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        assert train("CartPole-v1", tmp_path / "run").summary["status"] == "finished"
        assert GlobalHydra.instance().hydra is outer
        assert hydra.compose("config") == {"mine": 3}


def test_progress_is_printed_unless_it_is_not_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    equipoise.train("CartPole-v1", folder=tmp_path / "loud", **TINY)
    printed = capsys.readouterr().out
    assert "100%  64 steps" in printed
    assert f"equipoise evaluate checkpoint={tmp_path}/loud/checkpoints/best.pt episodes=100" in printed
    run = train("CartPole-v1", tmp_path / "quiet")
    run.resume(total_env_steps=96, progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_run_goes_on(tmp_path: Path) -> None:
    run = train(lambda: Crane(), tmp_path / "run").resume(total_env_steps=96, progress=False)
    assert list(run.metrics["env_steps"]) == [32, 64, 96]
    assert equipoise.load(run).path == run.folder / "checkpoints/last.pt"
    with pytest.raises(ConfigError, match="seed cannot be changed"):
        run.resume(seed=3, progress=False)
    again = train("CartPole-v1", tmp_path / "auto", resume="auto")
    assert train("CartPole-v1", tmp_path / "auto", resume="auto").summary == again.summary


class Interrupting(Crane):
    def step(self, action: Any) -> Any:
        steps.append(None)
        if len(steps) == 40:  # in the first rollout: before it the environment for evaluations is looked at
            signal.raise_signal(signal.SIGINT)
        return super().step(action)


steps: list[None] = []


def test_ctrl_c_saves_what_was_learned_and_is_raised(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Interrupting, tmp_path / "run", total_env_steps=6400)
    run = equipoise.Run(tmp_path / "run", env=Interrupting, allow=[__name__])
    assert (run.summary["status"], run.summary["env_steps"]) == ("interrupted", 32)
    assert run.resume(total_env_steps=64, progress=False).summary["status"] == "finished"


# --- the environment -----------------------------------------------------------------------------------


def test_a_batched_class_is_an_environment_too(tmp_path: Path) -> None:
    run = train(ToyEnv, tmp_path / "run", masked=True)
    assert run.summary["env"] == "ToyEnv"
    policy = run.load()
    action = policy.act(torch.zeros(3, 2), torch.tensor([[[True, False]]] * 3))
    assert action[0].tolist() == [0, 0, 0]
    assert equipoise.evaluate(run, 4)["return_mean"] == pytest.approx(run.summary["return_mean"], abs=10)


def test_an_environment_without_a_name_must_be_given_again(tmp_path: Path) -> None:
    def make(length: int) -> gymnasium.Env[Any, Any]:
        return Crane(length)

    run = train(make, tmp_path / "run", kwargs={"length": 3})
    assert run.summary["env"] == "make"
    assert equipoise.evaluate(run, 2)["episode_length"] == 3
    assert equipoise.evaluate(run, 2)["sampled_episode_length"] == 3
    assert "sampled_return_mean" not in equipoise.evaluate(run, 2, deterministic=False)
    observation, _ = Crane().reset(seed=1)
    assert equipoise.load(run.folder).act(observation) in Crane.action_space
    with pytest.raises(ConfigError, match=r"was given to equipoise.train as <make>.*give it again"):
        equipoise.evaluate(run.folder, 2)
    assert equipoise.evaluate(run.folder, 2, env=make)["episode_length"] == 3
    with pytest.raises(ConfigError, match=r"as <make>.*give it again"):
        equipoise.Run(run.folder).resume(total_env_steps=96)


def test_a_class_of_a_module_is_found_again_if_its_module_is_allowed(crane: equipoise.Run) -> None:
    assert equipoise.evaluate(crane, 2)["episode_length"] == 4
    with pytest.raises(ConfigError, match=r"allow="):
        equipoise.evaluate(crane.folder, 2)
    assert equipoise.evaluate(crane.folder, 2, allow=[__name__])["episode_length"] == 4
    assert equipoise.evaluate(crane.folder, 2, env=Crane)["episode_length"] == 4


# --- acting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [True, False])
def test_actions_are_the_environments_own_one_or_a_batch(crane: equipoise.Run, deterministic: bool) -> None:
    policy, env = crane.load(), Crane()
    assert (policy.observation_space, policy.action_space) == (env.observation_space, env.action_space)
    env.reset(seed=3)
    observation, _ = env.reset()
    for _ in range(20):
        action = policy.act(observation, deterministic=deterministic)
        assert action in env.action_space
        observation, *_ = env.step(action)
    batch = gymnasium.vector.SyncVectorEnv([Crane] * 5)
    observations, _ = batch.reset(seed=1)
    actions = policy.act(observations, deterministic=deterministic)
    assert actions in batch.action_space
    batch.step(actions)


def test_a_batch_is_its_observations_one_by_one(crane: equipoise.Run) -> None:
    policy = crane.load("best")
    batch = gymnasium.vector.SyncVectorEnv([Crane] * 3)
    observations, _ = batch.reset(seed=1)
    together = list(gymnasium.vector.utils.iterate(batch.action_space, policy.act(observations)))
    one_by_one = [
        policy.act(one) for one in gymnasium.vector.utils.iterate(batch.observation_space, observations)
    ]
    for one, other in zip(together, one_by_one, strict=True):
        assert same(one, other)


class Recording(Crane):
    """Writes down what it was asked to do in what it had shown."""

    taken: ClassVar[list[tuple[Any, Any]]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.shown, info = super().reset(seed=seed)
        return self.shown, info

    def step(self, action: Any) -> Any:
        Recording.taken.append((self.shown, action))
        self.shown, *rest = super().step(action)
        return self.shown, *rest


def test_what_acts_is_what_was_evaluated(tmp_path: Path) -> None:
    run = train(Recording, tmp_path / "run")
    Recording.taken.clear()
    equipoise.evaluate(run, 2, deterministic=True)
    policy = equipoise.load(run.folder)
    two_episodes = Recording.taken[-8:]  # before them: steps that look at the rewards
    for observation, action in two_episodes:
        assert same(policy.act(observation), action)


class Layer(enum.IntEnum):
    WALL = 1
    ROAD = 2


class Mapped(Crane):
    """A dictionary whose keys are members of an Enum."""

    observation_space = spaces.Dict({Layer.WALL: spaces.Box(0, 1, (2,)), Layer.ROAD: spaces.Discrete(2)})  # type: ignore[dict-item]


def test_keys_that_are_no_text_can_be_saved(tmp_path: Path) -> None:
    run = train(Mapped, tmp_path / "run")
    observation = Mapped.observation_space.sample()
    assert set(observation) == {Layer.WALL, Layer.ROAD}
    assert run.load().act(observation) in Mapped.action_space


def same(one: Any, other: Any) -> bool:
    numbers = [spaces.flatten(Crane.action_space, action) for action in (one, other)]
    return bool(np.allclose(*numbers, rtol=1e-6, atol=1e-6))


def mask_of(choices: int) -> np.ndarray[Any, Any]:
    return np.ones(choices, np.int8)


def test_masks_are_obeyed_and_missed(tmp_path: Path) -> None:
    policy = train(lambda: Crane(masked=True), tmp_path / "run").load()
    env = Crane(masked=True)
    observation, _ = env.reset(seed=1)
    for allowed in (0, 1, 2):
        mask = np.eye(3, dtype=np.int8)[allowed]
        nested = (None, (mask_of(2), mask_of(3)), None)
        for form in ({**OPEN, "mode": mask}, {**OPEN, "mode": mask.astype(bool), "drive": nested}):
            for deterministic in (True, False):
                action = policy.act(observation, form, deterministic)
                assert action["mode"] == 5 + allowed
    batch = gymnasium.vector.SyncVectorEnv([lambda: Crane(masked=True)] * 3)
    observations, infos = batch.reset(seed=1)
    assert set(policy.act(observations, infos["action_mask"], False)["mode"]) <= {5, 7}
    with pytest.warns(UserWarning, match="trained with action masks and acts without one"):
        policy.act(observation)
    with pytest.raises(ValueError, match="mask leaves head 2 no valid choice"):
        policy.act(observation, {**OPEN, "mode": np.zeros(3)})
    with pytest.raises(ValueError, match="mask must mask heads of"):
        policy.act(observation, {**OPEN, "moed": np.ones(3)})


def test_an_observation_that_does_not_fit_is_named(crane: equipoise.Run) -> None:
    policy = crane.load()
    observation, _ = Crane().reset(seed=1)
    for key, value, expected in (
        ("camera", np.zeros((3, 3), np.uint8), r"observation\['camera'\] has shape \(3, 3\)"),
        ("gear", 0.5, r"observation\['gear'\] is 0.5, expected integers"),
        ("arm", (np.float64("nan"), np.array([0, 0])), r"observation\['arm'\]\[0\]\[0\] is nan"),
    ):
        with pytest.raises(ValueError, match=expected):
            policy.act({**observation, key: value})
    del observation["arm"]
    with pytest.raises(ValueError, match="observation is a dict of"):
        policy.act(observation)


# --- mistakes ------------------------------------------------------------------------------------------

MISTAKES: list[tuple[Any, Mapping[str, Any], str]] = [
    ("CartPole-v1", {"learning_rat": 1}, "learning_rat = 1: there is no such setting; did you mean learning_rate?"),
    ("CartPole-v1", {"lr": -1}, "optimizer.learning_rate = -1: must be a number > 0"),
    ("CartPole-v1", {"gamma": 2}, "trainer.gamma = 2: must be a number ≥ 0 and ≤ 1"),
    ("CartPole-v1", {"preset": "balancd"}, "preset=balancd: there is no such option; did you mean balanced?"),
    ("CartPole-v1", {"policy": {"hiden_sizes": [8]}}, "did you mean policy.hidden_sizes?"),
    ("CartPole-v1", {"kwargs": {"x": object()}}, "env.kwargs.x = <object object"),
    ("CartPole-v1", {"env": "goal"}, "the environment is the first argument of train()"),
    ("CartPole-v1", {"overrides": ["seed"]}, "overrides: cannot read 'seed': must be 'key=value'"),
    ("CartPole-v1", {"overrides": "seed=1"}, "overrides = 'seed=1': must be a dictionary or a list"),
    ("CartPole-v1", {"overrides": {"trainer.gama": 0.9}}, "did you mean trainer.gamma?"),
    ("CartPole-v1", {"resume": "auto", "folder": None}, "resume = auto: needs a folder that stays the same: folder="),
    ("CartPol-v1", {}, "no environment that Gymnasium knows; the closest known: CartPole-v1"),
    ("topology_span", {}, "topology_span: there is no such environment; did you mean topology_spawn?"),
    (gymnasium.make("CartPole-v1"), {}, "so give `lambda: MyEnv(...)` for an object"),
    (lambda: 3, {}, "which is no gymnasium.Env"),
    (lambda: 1 / 0, {}, "ZeroDivisionError"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "settings", "expected"), MISTAKES, ids=[row[2][:40] for row in MISTAKES]
)
def test_a_mistake_is_one_message(
    tmp_path: Path, environment: Any, settings: Mapping[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        train(environment, **{"folder": tmp_path / "run", **settings})
    assert expected in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_in_use_or_cannot_be_used(crane: equipoise.Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder: .* already holds a run"):
        train("CartPole-v1", crane.folder)
    (tmp_path / "file").touch()
    with pytest.raises((ConfigError, OSError), match="cannot"):
        train("CartPole-v1", tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match="is no run folder"):
        equipoise.Run(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        equipoise.load(tmp_path / "nothing")


def test_settings_by_name() -> None:
    """Whatever way a setting is given, it is the same configuration."""
    from equipoise.trainer.configuration.keywords import configure

    def plain(environment: Any = "CartPole-v1", overrides: Any = (), **settings: Any) -> dict[str, Any]:
        return configure(environment, overrides, settings)[0].config.plain()

    same: list[Callable[[], dict[str, Any]]] = [
        lambda: plain(num_envs=2, gamma=0.9, preset="debug", hidden_sizes=(8, 8)),
        lambda: plain(overrides={"env.num_envs": 2, "trainer.gamma": 0.9, "preset": "debug", "hidden_sizes": [8, 8]}),
        lambda: plain(overrides=["env.num_envs=2", "trainer.gamma=0.9", "preset=debug", "policy.hidden_sizes=[8,8]"]),
        lambda: plain("gymnasium", id="CartPole-v1", num_envs=np.int64(2), trainer={"gamma": 0.9}, preset="debug",
                      policy={"hidden_sizes": np.array([8, 8])}),
    ]  # fmt: skip
    first = same[0]()
    assert all(make() == first for make in same[1:])
    assert plain(discrete_weight=0.5)["trainer"]["gradient_scaling"]["discrete_weight"] == 0.5


# --- a notebook ----------------------------------------------------------------------------------------


def test_in_a_notebook_there_is_a_progress_bar(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    settings = {**TINY, "folder": str(tmp_path / "run")}
    cells = [
        "import gymnasium, equipoise",
        f"run = equipoise.train('CartPole-v1', **{settings})",
        "env = gymnasium.make('CartPole-v1')\nobservation, info = env.reset(seed=1)\n"
        "run.load().act(observation) in env.action_space",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    shown = [output for output in notebook.cells[1].outputs if output.output_type == "display_data"]
    bars = [output.data["text/html"] for output in shown if "100%" in output.data.get("text/html", "")]
    assert len(bars) == 1  # one, redrawn in place
    assert "64 / 64 steps" in bars[0]
    assert notebook.cells[2].outputs[0].data["text/plain"] == "True"
