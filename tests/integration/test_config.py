"""The configuration: what composes, what wins over what, and what a user reads when something is wrong."""

from __future__ import annotations

import collections
import functools
from pathlib import Path

import pytest
import torch
import yaml

from equipoise.trainer.configuration.checking import check
from equipoise.trainer.configuration.compose import CONFIG_DIR, admit, compose, compose_run, values
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.resuming import resumed
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.continuation import Plan, begun
from equipoise.trainer.run import main, parse
from equipoise.trainer.session import train
from equipoise.trainer.system.lock import FolderLock
from equipoise.trainer.system.run_folder import RunFolder
from tests.forked import Command, Ended

OPTIONS = sorted(path.relative_to(CONFIG_DIR).with_suffix("") for path in CONFIG_DIR.glob("*/*.yaml"))
ROOT = Path(__file__).parents[2]


def scaling(*overrides: str) -> dict[str, object]:
    return compose(overrides).stages["gradient_scaling"].keywords


def encoder(config: Config) -> str:
    target: str = config.policy.keywords["encoder"]["_target_"]
    return target.rpartition(".")[2]


def message(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        compose(overrides)
    return str(error.value)


# --- what composes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_of_every_group_composes_and_survives_a_round_trip(option: Path) -> None:
    needed = ["env.id=CartPole-v1"] if str(option) in ("env/gymnasium", "env/vector") else []
    config = compose([f"{option.parent}={option.name}", *needed])
    assert check(yaml.safe_load(yaml.safe_dump(config.plain()))) == config


PRESETS = {  # target, momentum, bounds
    "balanced": (1.0, 0.9, 0.1, 10.0),
    "conservative": (0.5, 0.95, 0.2, 5.0),
    "aggressive": (2.0, 0.8, 0.05, 20.0),
    "maximum_performance": (1.5, 0.8, 0.1, 10.0),
    "converting": (0.5, 0.95, 0.1, 10.0),
    "new_project": (1.0, 0.9, 0.1, 10.0),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_documented_numbers(preset: str) -> None:
    keywords = scaling(f"preset={preset}")
    names = ("gradient_norm_target", "scaling_momentum", "min_scaling_factor", "max_scaling_factor")
    assert tuple(keywords[name] for name in names) == PRESETS[preset]
    assert keywords["enable_adaptive_scaling"] is True
    assert compose([f"preset={preset}"]).preset == preset


def test_the_debug_preset_differs_from_balanced_in_the_switch_alone() -> None:
    assert scaling("preset=debug") == scaling("preset=balanced") | {"enable_adaptive_scaling": False}


def test_a_preset_touches_gradient_scaling_only() -> None:
    def rest(preset: str) -> dict[str, object]:
        plain = compose([f"preset={preset}"]).plain()
        del plain["preset"], plain["trainer"]["gradient_scaling"]
        return plain

    assert all(rest(preset) == rest("balanced") for preset in [*PRESETS, "debug"])


def test_the_default_run() -> None:
    config = compose()
    assert (config.env.label, config.preset, encoder(config)) == ("topology_spawn", "balanced", "NodeSet")
    assert compose(["env=topology_spawn", "preset=balanced"]) == config


def test_stages_come_in_the_order_of_the_list() -> None:
    config = compose(["trainer.stages=[gradient_scaling,value_clipping]"])
    assert list(config.stages) == ["gradient_scaling", "value_clipping"]
    assert "entropy_regularization" in config.trainer.sections


def test_base_weights_reach_the_stage() -> None:
    keywords = scaling("trainer.policy_loss_weights.discrete_weight=0.6")
    assert (keywords["discrete_weight"], keywords["continuous_weight"]) == (0.6, 0.3)


def test_exponents_are_whole_numbers_too() -> None:
    assert compose(["trainer.total_env_steps=2e6"]).trainer.total_env_steps == 2_000_000
    warmup = scaling("trainer.gradient_scaling.warmup_steps=1e2")["warmup_steps"]
    assert warmup == 100
    assert type(warmup) is int


def test_gymnasium_arguments_need_no_plus() -> None:
    config = compose(
        ["env=gymnasium", "env.id=ns:My/Env-v0", "env.kwargs.gravity=2", "env.kwargs.deep.er=[1]"]
    )
    assert config.env.keywords["kwargs"] == {"gravity": 2, "deep": {"er": [1]}}
    assert config.env.label == "ns-My-Env-v0"  # names a folder
    assert compose(["env=gymnasium", "env.make=rockets:Falcon"]).env.label == "rockets-Falcon"
    assert encoder(config) == "Automatic"


# --- what wins over what -----------------------------------------------------------------------------


@pytest.fixture
def experiment(tmp_path: Path) -> list[str]:
    """Overrides that choose an experiment of the test's own."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - override /env: gymnasium\n"
        "  - override /preset: aggressive\n"
        "experiment: mine\n"
        "env: {id: CartPole-v1}\n"
        "trainer: {gradient_scaling: {scaling_momentum: 0.5}, batch: {update_epochs: 7}}\n"
    )
    return [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"]


def test_the_preset_beats_the_file_of_the_defaults_list() -> None:
    # `_self_` stands first there: last, the file's own values would win over every group.
    assert scaling("preset=conservative")["scaling_momentum"] == 0.95


def test_the_environment_beats_the_file_of_the_defaults_list_and_chooses_groups() -> None:
    config = compose(["env=topology_spawn"])
    assert config.stages["entropy_regularization"].keywords["entropy_coeff_start"] == 0.005
    assert config.optimizer.learning_rate == 5e-3


def test_a_group_on_the_command_line_beats_the_choice_of_the_environment() -> None:
    config = compose(["optimizer=sgd", "policy=mlp"])
    assert (config.optimizer.target, encoder(config)) == ("torch.optim.SGD", "MLP")


def test_the_experiment_beats_preset_and_groups(experiment: list[str]) -> None:
    config = compose([*experiment, "batch=high_quality"])
    assert (config.experiment, config.env.label, encoder(config)) == ("mine", "CartPole-v1", "Automatic")
    assert config.trainer.batch.update_epochs == 7
    assert config.preset == "aggressive"
    keywords = config.stages["gradient_scaling"].keywords
    assert (keywords["scaling_momentum"], keywords["gradient_norm_target"]) == (0.5, 2.0)


def test_the_command_line_beats_the_experiment(experiment: list[str]) -> None:
    overrides = [
        *experiment,
        "preset=conservative",
        "trainer.batch.update_epochs=3",
        "policy.activation=relu",
    ]
    config = compose(["trainer.gradient_scaling.max_scaling_factor=7", *overrides])
    assert (
        config.preset,
        config.trainer.batch.update_epochs,
        config.policy.keywords["encoder"]["activation"],
    ) == (
        "conservative",
        3,
        "relu",
    )
    keywords = config.stages["gradient_scaling"].keywords
    assert keywords["max_scaling_factor"] == 7
    assert keywords["scaling_momentum"] == 0.5  # of the experiment, not of the preset chosen beside it


# --- what a user reads -------------------------------------------------------------------------------

SCALING = "trainer.gradient_scaling"
# Where Hydra gives up, or where the mistake is seen only once the rest is right: one at a time.
ALONE = [
    ("preset=debgu", ["preset=debgu", "did you mean debug?", "conservative"]),
    ("preset=zzz", ["preset=zzz", "aggressive, balanced"]),
    ("preset=3", ["preset=3", "aggressive, balanced"]),
    ("experiment=cartpol", ["experiment=cartpol", "no such option"]),
    ("env=null", ["env=null", "no such option"]),
    ("env=[null]", ["env=[null]", "one option"]),
    ("=1", ["'=1'", "key=value"]),
    ("seed=a'b", ["seed=a'b", "in quotes"]),
    ("sead=1,2", ["sead=1,2", "--multirun"]),
    ("seed", ["'seed'", "key=value"]),
    ("seed=[1", ["seed=[1"]),
    ("seed=${sed}", ["sed"]),
    ("hydra.rn.dir=x", ["hydra.rn.dir"]),
    ("trainer.stages=[gradient_scalng]", ["'gradient_scalng'", "did you mean gradient_scaling?"]),
    ("trainer.stages=[value_clipping,value_clipping]", ["value_clipping is listed twice"]),
    ("trainer.own.key=1", ["trainer.own", "unknown key"]),
    ("trainer.gradient_scalng.warmup_steps=1", ["did you mean trainer.gradient_scaling?"]),
    (f"{SCALING}=null", [f"{SCALING} = null"]),
    (f"{SCALING}.min_scaling_factor=11", [f"{SCALING}.min_scaling_factor = 11", "10.0"]),
    (f"{SCALING}.measure_every=8", [f"{SCALING}.measure_every = 8", "the next that is: 9"]),
    ("trainer.batch.num_minibatches=7", ["num_minibatches = 7", "4096", "4, 8"]),
    ("optimizer.kind=rmsprop", ["optimizer.kind", "optimizer=adam", "optimizer._target_"]),
    ("policy.log_std_init=3", ["policy.log_std_init = 3", "log_std_max (2.0)"]),
    ("policy.shared_critic=true", ["policy.shared_critic = true", "critic_encoder"]),
    ("policy.hidden_sizes=[x]", ["policy.hidden_sizes = ['x']", "each a whole number ≥ 1"]),
    ("env=gymnasium", ["env.id is missing"]),
    ("env.max_nodes=1", ["max_nodes is 1", "at least 2"]),
    (
        "env._target_=equipoise.envs.topology_spawn.TopologySpwn",
        ["has no class TopologySpwn", "TopologySpawn"],
    ),
]

# The others are reported together, so that one composition serves many of them.
TOGETHER = [
    ("seed=-1", ["seed = -1", "≥ 0"]),
    ("seed=abc", ["seed = 'abc'", "a whole number"]),
    ("seed=1e30", ["seed = 1e+30", "≤ 1000000000000000"]),
    ("seed=1.5", ["seed = 1.5", "a whole number"]),
    ("threads=5000", ["threads = 5000", "≤ 1024"]),
    ("threads=true", ["threads = true", "a whole number"]),
    ("presets=debug", ["presets", "did you mean preset?"]),
    ("device=gpu", ["device = 'gpu'", "auto or cpu or cuda"]),
    ("trainer.checkpoint_every=1e30", ["trainer.checkpoint_every = 1e+30", "≤ 1000000000000000"]),
    (
        "trainer.gradient_scaling.warmup_steps=1e30",
        ["trainer.gradient_scaling.warmup_steps = 1e+30", "≥ 0 and ≤ 1000000000000000"],
    ),
    (
        "trainer.policy_loss_weights.discrete_weight=1e308",
        ["trainer.policy_loss_weights.discrete_weight = 1e+308", "≤ 1e+30"],
    ),
    ("trainer.gama=0.9", ["trainer.gama", "did you mean trainer.gamma?"]),
    ("trainer.gamma=1.01", ["trainer.gamma = 1.01", "≥ 0 and ≤ 1"]),
    ("trainer.gamma=nan", ["trainer.gamma = nan"]),
    ("trainer.clip_epsilon='0.2'", ["trainer.clip_epsilon = '0.2'", "a number > 0"]),
    ("trainer.max_grad_norm=1e39", ["trainer.max_grad_norm = 1e+39", "≤ 1e+30"]),
    ("trainer.target_kl=0", ["trainer.target_kl = 0", "a number > 0 or null"]),
    ("trainer.total_env_steps=0", ["trainer.total_env_steps = 0", "≥ 1"]),
    ("trainer.batch=debugging", ["trainer.batch = 'debugging'", "rollout_steps"]),
    ("trainer.stages=[]", ["trainer.stages = []", "at least 1"]),
    (f"{SCALING}.scaling_momentm=0.5", [f"did you mean {SCALING}.scaling_momentum?"]),
    (f"{SCALING}.scaling_momentum=1.0", [f"{SCALING}.scaling_momentum = 1.0", "< 1"]),
    (f"{SCALING}.scaling_momentum=high", [f"{SCALING}.scaling_momentum = 'high'", "a number"]),
    (f"{SCALING}.warmup_steps=-1", [f"{SCALING}.warmup_steps = -1", "≥ 0"]),
    (f"{SCALING}.scaling_reference=Relative", ["relative or absolute"]),
    (f"{SCALING}.parameters=[]", [f"{SCALING}.parameters", "unknown key"]),
    ("trainer.policy_loss_weights.discrete_weight=-0.1", ["discrete_weight = -0.1", "≥ 0"]),
    ("trainer.own._target_=subprocess.Popen", ["subprocess.Popen", "rewards or advantages"]),
    ("trainer.own._target_=no.such.Thing", ["trainer.own._target_", "no.such"]),
    ("optimizer.momentum=0.9", ["optimizer.momentum", "unknown key"]),
    ("policy.hidden_sizes=[]", ["policy.hidden_sizes = []", "at least 1"]),
    ("policy.hidden_sizes=[8,0]", ["policy.hidden_sizes = [8, 0]", "≥ 1"]),
    ("env.num_envs=0", ["env.num_envs = 0", "≥ 1"]),
    ("env.max_nods=12", ["did you mean env.max_nodes?"]),
]


@pytest.mark.parametrize(("override", "expected"), ALONE, ids=[override for override, _ in ALONE])
def test_a_mistake_is_named_with_its_value_and_what_is_allowed(override: str, expected: list[str]) -> None:
    text = message(override)
    assert all(part in text for part in expected), text
    assert text.startswith("Configuration error: "), text  # this mistake and no other
    assert "+" not in text or "hydra." in override, text  # no advice to use Hydra's +


@functools.cache
def report(nth: int) -> list[str]:
    """One message for the nth mistake of every key in TOGETHER, by lines."""
    overrides, seen = [], collections.Counter[str]()
    for override, _ in TOGETHER:
        key = override.partition("=")[0]
        overrides += [override] if seen[key] == nth else []
        seen[key] += 1
    lines = message(*overrides).splitlines()
    assert len(overrides) == max(1, len(lines) - 1), lines  # a line for each mistake and no other
    return lines


@pytest.mark.parametrize(("override", "expected"), TOGETHER, ids=[override for override, _ in TOGETHER])
def test_mistakes_are_reported_together_a_line_for_each(override: str, expected: list[str]) -> None:
    key = override.partition("=")[0]
    same = [other for other, _ in TOGETHER if other.partition("=")[0] == key]
    lines = report(same.index(override))
    assert any(all(part in line for part in expected) for line in lines), lines


def test_bounds_of_actions_are_two_numbers_or_these_by_name() -> None:
    wanted = "must be two numbers [low, high] or {name: [low, high]} or null"
    text = message("env=gymnasium", "env.id=Pendulum-v1", "env.action_bounds=none")
    assert text == f"Configuration error: env.action_bounds = 'none': {wanted}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none() -> None:
    assert "device = 'cuda'" in message("device=cuda")


def test_both_base_weights_zero() -> None:
    weights = "trainer.policy_loss_weights"
    text = message(f"{weights}.discrete_weight=0", f"{weights}.continuous_weight=0")
    assert f"{weights}: both weights are 0" in text


# --- sections of one's own ---------------------------------------------------------------------------

OWN_STAGE = """
from __future__ import annotations
from typing import Annotated
from pydantic import Field

class Bonus:
    def __init__(self, strength: Annotated[float, Field(gt=0)], gamma: float, steps: tuple[int, ...] = ()):
        raise AssertionError("a check must not build the stage")

    def losses(self, state):
        return state
"""


@pytest.fixture
def own_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_stage.py").write_text(OWN_STAGE)
    monkeypatch.syspath_prepend(tmp_path)
    return "trainer.bonus._target_=own_stage.Bonus"


def test_a_section_of_ones_own_is_checked_against_its_constructor(own_stage: str) -> None:
    config = compose([own_stage, "trainer.bonus.strength=2", "trainer.stages=[bonus]"])
    assert config.stages["bonus"].keywords == {"strength": 2}
    assert "trainer.bonus.strength is missing: must be a number > 0" in message(own_stage)
    assert "did you mean trainer.bonus.strength?" in message(own_stage, "trainer.bonus.strengh=2")
    text = message(own_stage, "trainer.bonus.strength=0", "trainer.bonus.steps=[1,x]")
    assert "trainer.bonus.strength = 0: must be a number > 0" in text
    assert "trainer.bonus.steps = [1, 'x']" in text


def test_what_the_trainer_supplies_is_no_key(own_stage: str) -> None:
    assert "trainer.bonus.gamma" in message(own_stage, "trainer.bonus.strength=2", "trainer.bonus.gamma=0.9")


# --- going on with a run -----------------------------------------------------------------------------


def test_a_resumed_run_keeps_its_configuration_but_for_what_may_change() -> None:
    before = compose(["seed=3", "preset=debug"])
    after = resumed(
        before.plain(), values(["trainer.total_env_steps=5e6", "device=cpu"]), "runs/a/checkpoints/last.pt"
    )
    changed = before.plain() | {"resume": "runs/a/checkpoints/last.pt", "device": "cpu"}
    changed["trainer"]["total_env_steps"] = 5_000_000
    assert after.plain() == changed
    assert before.trainer.total_env_steps == compose().trainer.total_env_steps


def test_what_cannot_change_is_refused_by_name() -> None:
    plain = compose().plain()
    with pytest.raises(ConfigError, match=r"seed, trainer\.gamma cannot be changed"):
        resumed(plain, {"seed": 2, "trainer.gamma": 0.5, "device": "cpu"}, "x.pt")
    with pytest.raises(ConfigError, match=r"trainer\.eval_every = -1"):
        resumed(plain, {"trainer.eval_every": -1}, "x.pt")


# --- the command itself ------------------------------------------------------------------------------

WITNESS = """
from pathlib import Path

class Witness:
    def __init__(self, num_envs: int, device: object) -> None:
        Path("built").touch()
        raise ValueError("the environment was built")

    def step(self, action): ...
"""


def command(cwd: Path, *arguments: str) -> Ended:
    (cwd / "witness.py").write_text(WITNESS)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return Command(cwd, "trainer.run", *arguments, environment=environment).end()


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (f"{SCALING}.scaling_momentum=1.0", "scaling_momentum = 1.0"),
        ("preset=balancd", "did you mean balanced?"),
        ("device=cuda", "device = 'cuda'"),
    ],
)
def test_the_command_ends_with_one_message_before_anything_is_built(
    tmp_path: Path, argument: str, expected: str
) -> None:
    result = command(tmp_path, "env._target_=witness.Witness", argument)
    assert result.code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert expected in result.stderr
    assert not (tmp_path / "built").exists()
    assert not (tmp_path / "runs").exists()


MISSPELLED = [
    (["--seed", "3"], "--seed 3: settings have no dashes; write seed=3"),
    (["--lr=0.1"], "--lr 0.1: settings have no dashes; write optimizer.learning_rate=0.1"),
    (["--rollout-steps", "64"], "write trainer.batch.rollout_steps=64"),
    (["--env", "CartPole-v1"], "write env=gymnasium env.id=CartPole-v1"),
    (["--env=goal"], "write env=goal"),
    (["--preset", "debug"], "write preset=debug"),
    (["--mutirun", "seed=1,2"], "there is no such flag; did you mean --multirun?"),
    (["--no-such-thing"], "settings are key=value without dashes"),
    (["seed", "3"], "cannot read the argument 'seed' (arguments are key=value)"),
    (["learning_rate=0.1"], "learning_rate = 0.1: unknown key; did you mean optimizer.learning_rate?"),
    (["policy.hidden_sizes=64,64"], "a list is written policy.hidden_sizes=[64,64]; several runs"),
    (["preset=debug,balanced"], "preset=debug,balanced: several runs, one for each value, need the flag -m"),
    (["seed=range(1,3)"], "seed=range(1,3): several runs, one for each value, need the flag -m"),
    (["-m", "--cfg", "job"], "--cfg and --multirun: only one of them can be given"),
    (["--config-dir", "nowhere"], "--config-dir nowhere: there is no such folder"),
    (["seed", "=", "3"], "cannot read the argument 'seed' (arguments are key=value, without spaces)"),
    (
        ["env.id=CartPole-v1"],
        "env.id = 'CartPole-v1': unknown key; Gymnasium's environments need env=gymnasium, too",
    ),
    (["resume="], "resume = '': must be a run folder, a checkpoint, auto or null"),
    (["resume=runs/x", "-m"], "no flags, no second resume="),
    (["resume=runs/x", "resume=runs/y"], "no flags, no second resume="),
]


@pytest.mark.parametrize(("arguments", "expected"), MISSPELLED, ids=[" ".join(row[0]) for row in MISSPELLED])
def test_a_misspelled_argument_is_answered_with_the_right_spelling(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["trainer.run", *arguments])
    assert main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in printed.err
    assert len(printed.err.splitlines()) == 1, printed.err


def test_resume_null_resumes_nothing() -> None:
    for argument in ("resume=null", "+resume=null"):
        assert parse(["seed=3", argument]).resume is None
    request = parse(["resume=null", "resume='runs/a b'", "device=cpu"])
    assert (request.resume, request.overrides) == ("runs/a b", ["device=cpu"])
    assert parse(["resume=auto"]).overrides == ["resume=auto"]


def test_flags_may_stand_anywhere() -> None:
    assert admit(["preset=debug", "--config-dir=conf"]) == ["--config-dir=conf", "preset=debug"]
    assert admit(["preset=debug", "-m", "seed=1,2", "--cfg", "job"]) == [
        "-m",
        "--cfg",
        "job",
        "preset=debug",
        "++seed=1,2",
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["checkpoints/last.pt"], "already holds a run; continue it with resume="),
        ([], "holds a run that ended before its first checkpoint; start it again with resume=auto"),
        (["letter.txt"], "is not empty"),
    ],
)
def test_a_run_folder_that_is_in_use(tmp_path: Path, files: list[str], expected: str) -> None:
    if "letter.txt" not in files:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(compose().plain()))
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    with (
        pytest.raises(ConfigError, match=f"hydra.run.dir: .* {expected}"),
        begun(compose(), RunFolder(tmp_path)),
    ):
        pass


def test_a_run_that_is_named_by_the_second_may_take_another_name() -> None:
    assert compose_run().dated
    assert compose_run(["hydra.run.dir=runs/${now:%H}"]).dated
    assert not compose_run(["hydra.run.dir=runs/mine"]).dated


def test_a_run_that_is_refused_leaves_the_claim_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FolderLock(tmp_path)
    monkeypatch.setattr("sys.argv", ["run", f"hydra.run.dir={tmp_path}"])
    assert main() == 2
    assert lock.is_held()
    lock.release()


def test_a_run_that_does_not_fit_into_the_memory(tmp_path: Path) -> None:
    config = compose(["trainer.batch.rollout_steps=1000000000", "device=cpu"])  # some 150 TB
    with pytest.raises(ConfigError, match=r"of memory.*available; lower env.*trainer\.batch\.rollout_steps"):
        train(Plan(config, RunFolder(tmp_path)))


def test_the_witness_tells_when_an_environment_is_built(tmp_path: Path) -> None:
    result = command(tmp_path, "env._target_=witness.Witness")
    assert (tmp_path / "built").exists(), result.stderr
    assert (result.code, result.stderr) == (2, "Configuration error: the environment was built\n")


def test_help_names_groups_and_keys(tmp_path: Path) -> None:
    result = command(tmp_path, "--help")
    assert result.code == 0
    for expected in (
        "preset=aggressive|balanced",
        "trainer.gamma = 0.99",
        f"{SCALING}.scaling_momentum = 0.9",
        "env.max_nodes = 10",
        "policy.encoder.activation = 'relu'",
        "a number ≥ -20 and ≤ 20: upper bound of log σ",
        "optimizer.betas = [0.9, 0.999]",
        "> 0 and ≤ 1e+30: bounds of a side's scale",
    ):
        assert expected in result.stdout


def test_a_sweep_runs_every_combination_in_a_folder_of_its_own(tmp_path: Path) -> None:
    small = ["env.num_envs=4", "env.max_steps=4"]
    small += ["trainer.total_env_steps=64", "trainer.final_eval_episodes=4"]
    result = command(tmp_path, "-m", "preset=balanced,conservative", "seed=1,2", *small)
    assert result.code == 0, result.stderr
    ranked = result.stdout.partition("ranking, topology_spawn")[2]
    assert all(f"│ preset={preset} " in ranked for preset in ("balanced", "conservative"))
    assert ranked.count("2/2") == 2
    page = Path(ranked.partition("report: ")[2].splitlines()[0])
    assert "4 runs in 2 groups" in (tmp_path / page).read_text()
    configs = [yaml.safe_load(path.read_text()) for path in tmp_path.glob("runs/*/*/config.yaml")]
    found = {(config["preset"], config["seed"]) for config in configs}
    assert found == {(preset, seed) for preset in ("balanced", "conservative") for seed in (1, 2)}
    assert len(configs) == 4
