"""The last list of environments of others that nobody here had tried, written down before any try.

Taken from a registry for their variety, by what its page shows of them and nothing else: each says that it is
a Gymnasium environment, shows how it is made (an id, a class or a function) and states requirements that fit
this project's. Left out were those that want Gymnasium below 0.29 or a PyTorch of their own, and those whose
page says that they need data of one's own, a screen, another program or a download. None is taken out
afterwards; `typed` is what was written down then; where something else was needed, `first` holds that.
"""

from __future__ import annotations

from equipoise.scripts.studies.packages import MESSAGE, README, Package

JOBS = "[[[1,2,0],[0,2,1]],[[17,12,19],[8,6,2]]]"
STEPS = ",".join(["0.85"] * 50 + ["0.9"] * 50)
MOVER = "{mover_stl_path: beckhoff_apm4220_mover, bumper_stl_path: beckhoff_apm4220_bumper}"


def _array(numbers: str) -> str:
    return f"{{_target_: numpy.array, object: {numbers}}}"


FRESH = (
    Package(
        "ap-gym",
        "0.7.1",
        "ap_gym:CircleSquare-v0",
        "active perception, pictures, dict",
        ("env.action_bounds=[-1,1]",),
        ("aiohttp",),
        MESSAGE,
        note="it imports aiohttp, which it does not require; its predictions are logits without bounds",
        first="nothing, without aiohttp",
    ),
    Package(
        "graph-jsp-env",
        "1.1.1",
        "make=graph_jsp_env.disjunctive_graph_jsp_env:DisjunctiveGraphJspEnv",
        "scheduling, masked",
        (
            f"env.kwargs.jps_instance={_array(JOBS)}",
            "env.kwargs.perform_left_shift_if_possible=true",
            "env.kwargs.normalize_observation_space=true",
            "env.kwargs.flat_observation_space=true",
            "env.kwargs.action_mode=task",
            "env.kwargs.dtype=float32",
        ),
        found=README,
        note=(
            "it wants an array of jobs, which arguments could not be until it was tried; then it calls what "
            "Matplotlib took away in version 3.9, while it allows any"
        ),
    ),
    Package(
        "mpspenv",
        "0.1.5",
        "make=MPSPEnv:Env",
        "logistics, dict, masked",
        ("env.kwargs={R: 8, C: 4, N: 5}",),
        found=README,
        note="it declares neither of its spaces",
    ),
    Package(
        "gym-bullet-chess",
        "0.1.0",
        "gym_bullet_chess:BulletChess-v0",
        "game, dict, pictures, masked",
        ("env.kwargs={initial_seconds: 60.0, increment_seconds: 0.0, include_board_image: true}",),
        found=README,
        note="its pictures have 512 × 512 pixels: not done after 600 seconds of a busy machine",
    ),
    Package(
        "memory-gym",
        "1.0.2",
        "memory_gym:Endless-SearingSpotlights-v0",
        "memory, pictures",
        found=README,
        note=(
            "its `close` ends the one pygame of a process, as that of the look at the head of a run did: "
            "mended since"
        ),
        mended=True,
    ),
    Package(
        "racingenv",
        "2.0.4",
        "racingenv:Racing-features-v2",
        "driving",
        besides=("pygame",),
        found=MESSAGE,
        note=(
            "its README names versions that the package does not register, and it calls what NumPy took away "
            "in version 2, while it allows any"
        ),
        first="`racingenv:racingenv/Racing-features-v1`",
    ),
    Package(
        "dronetsp",
        "1.0.2",
        "gymnasium_env:gymnasium_env/DroneTsp-v1",
        "logistics, dict",
        (
            "env.kwargs={num_customer_nodes: 5, num_charge_nodes: 1, package_weights: 40}",
            "env.kwargs.min_package_weight=1",
            "env.kwargs.max_package_weight=5",
            "env.kwargs.max_energy=-1.0",
            "env.kwargs.max_charge_times=-1",
        ),
        found=MESSAGE,
        note="its README names an argument that its constructor does not take",
        first="the same, with `package_weight`",
    ),
    Package("kraken-crossing", "0.1.2", "kraken_crossing:KrakenCrossing-v0", "game", found=README),
    Package("gym-softrobot", "0.3.0", "gym_softrobot:SoftPendulum-v0", "soft robot", found=README),
    Package(
        "cleaning-robots-gym",
        "0.1.0a1",
        "cleaning_robots_gym:CleaningRobots-v0",
        "robots",
        found=README,
        before="cleaning_robots_gym:register_envs",
    ),
    Package(
        "pyflyt",
        "0.29.0",
        "PyFlyt.gym_envs:PyFlyt/QuadX-Hover-v4",
        "control, aircraft",
        found=MESSAGE,
        note="its README names a version that the package does not register any more",
        first="`PyFlyt.gym_envs:PyFlyt/QuadX-Hover-v2`",
    ),
    Package(
        "magbotsim",
        "1.3.0",
        "magbotsim:StateBasedPushTEnv-v0",
        "robot, goal",
        (
            f"env.kwargs.mover_params={{shape: mesh, mesh: {MOVER}, mass: 0.605, bumper_mass: 0.034}}",
            "env.kwargs.initial_mover_zpos=0.002",
        ),
        found=README,
        note=(
            "it opens a window where it is not told otherwise, which needs a screen, with Gymnasium alone, "
            "too; made without one since"
        ),
        mended=True,
    ),
    # Its README names the arguments, and gives no values.
    Package(
        "hedging-gym",
        "0.0.2",
        "hedging_gym:CallHedgingBSCont-v0",
        "finance",
        ("env.kwargs={s0: 100.0, strike: 100.0, expiry: 1.0, r: 0.0, mu: 0.05, sigma: 0.2, n_steps: 30}",),
        found=README,
        note="it pins a JAX that wants SciPy below 1.13, and that allows any",
    ),
    Package("nephrosim", "0.1.0", "nephrosim:nephrosim/UreaClearing-v0", "medicine", found=README),
    Package(
        "heartpole",
        "1.2",
        "make=heartpole:HeartPole",
        "medicine",
        found=README,
        note="its `reset` takes no seed, which Gymnasium requires since 0.26",
    ),
    Package("peptidegym", "0.1.0", "peptidegym:PeptideGym/AMP-v0", "chemistry", found=README),
    Package(
        "pcgym",
        "0.1.8",
        "make=pcgym:make_env",
        "process control",
        (
            "env.kwargs.env_params={N: 100, tsim: 25, model: cstr}",
            f"env.kwargs.env_params.x0={_array('[0.8,330,0.8]')}",
            f"env.kwargs.env_params.SP={{Ca: [{STEPS}]}}",
            f"env.kwargs.env_params.o_space.low={_array('[0.7,300,0.8]')}",
            f"env.kwargs.env_params.o_space.high={_array('[1,350,0.9]')}",
            f"env.kwargs.env_params.a_space.low={_array('[295]')}",
            f"env.kwargs.env_params.a_space.high={_array('[302]')}",
        ),
        found=MESSAGE,
        note="its README names a model, `cstr_ode`, that the package does not have",
        first="the same, with lists for arrays, and `cstr_ode`",
    ),
    Package("neurogym", "2.3.1", "neurogym:GoNogo-v0", "neuroscience", found=README),
    Package(
        "morality-gym",
        "0.1.0",
        "make=morality_gym:make",
        "moral constraints",
        ("env.kwargs={env_id: SwitchStandard-HumanA-v1, morality_chain_id: Utility}",),
        ("overrides", "tqdm", "pygame"),
        MESSAGE,
        note=(
            "it imports overrides, tqdm and pygame, which it does not require, and the package lacks "
            "files of its own"
        ),
        first="the same, without these three",
    ),
    Package(
        "jsbgym",
        "0.4.3",
        "jsbgym:C172-HeadingControlTask-Shaping.STANDARD-NoFG-v0",
        "control, aircraft",
        found=README,
    ),
    Package(
        "multi-level-maze",
        "1.0.0",
        "multi_level_maze:MultiLevelMaze-v0",
        "maze",
        ("env.kwargs={size: 3, levels: 3, maze_seed: 2, max_steps: 1000, cell_size: 30}",),
        found=README,
    ),
    Package(
        "lerobot-env-so101",
        "0.4.0",
        "lerobot_env_so101:lerobot_env_so101/SO101PickCube-v0",
        "robot",
        found=README,
    ),
    Package(
        "vs050-mujoco",
        "1.1.0",
        "vs050_mujoco:VS050-ReachPose-v0",
        "robot, goal",
        besides=("imageio",),
        found=MESSAGE,
        note="Gymnasium's `MujocoEnv`, which it builds on, imports imageio, which it does not require",
        first="the same, without imageio",
    ),
    Package(
        "qec-diverse-circuits",
        "0.1.0",
        "make=qec_diverse_circuits:DiverseCircuitGenerationEnv",
        "quantum circuits",
        ("env.kwargs={max_qubits: 7, max_gates: 13, target_circuits: 30}",),
        found=README,
    ),
    Package(
        "rubiks-cube-gym",
        "0.5.2",
        "rubiks_cube_gym:rubiks-cube-222-lbl-v0",
        "puzzle",
        found=README,
        note="it fetches a file when it is made, from a place that cannot be reached here",
    ),
    Package("topogym", "0.8.0", "topogym:TopoGym/Dilution-50-v0", "grid world", found=README),
    Package(
        "ev2gym",
        "2.0.0",
        "ev2gym.models.ev2gym_env:EV2Gym-v1",
        "energy, vehicles",
        (
            "env.kwargs.config_file=ev2gym/example_config_files/V2GProfitPlusLoads.yaml",
            "env.kwargs.reward_function={_target_: hydra.utils.get_method, "
            "path: ev2gym.rl_agent.reward.profit_maximization}",
            "env.kwargs.state_function={_target_: hydra.utils.get_method, "
            "path: ev2gym.rl_agent.state.V2G_profit_max}",
        ),
        ("setuptools<82",),
        MESSAGE,
        note=(
            "it imports pkg_resources, which setuptools lacks since version 82, and pandapower, and requires "
            "neither; the files that its README and its configuration name lie where its repository has them"
        ),
        first="the same, without setuptools",
    ),
    Package(
        "gym-locm",
        "2.0.0b1",
        "gym_locm:LOCM-constructed-v0",
        "cards, masked",
        found=README,
        note="the published package lacks a file of its own; tried with Python 3.12, as it wants",
    ),
)
