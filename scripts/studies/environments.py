"""Published environments of others that `scripts.try_environments` trains; the last list is in `fresh.py`."""

from __future__ import annotations

from equipoise.scripts.studies.fresh import FRESH
from equipoise.scripts.studies.packages import MESSAGE, README, SOURCE, Package

MARS_ROVER = ("env.kwargs.domain=MarsRover_ippc2023", "env.kwargs.instance='0'")
SMALLER = (
    "env.wrappers=[gymnasium.wrappers.GrayscaleObservation,"
    "{_target_: gymnasium.wrappers.ResizeObservation, shape: [84, 84]}]",
)
BUTTONS = ("env.action_bounds=[-1,1]",)

TRIED_BEFORE = (
    Package("hybrid-platform", "0.1.0", "gym_platform:Platform-v0", "hybrid", besides=("numba", "pygame")),
    Package("pyRDDLGym", "2.7", "make=pyRDDLGym:make", "hybrid", MARS_ROVER, ("rddlrepository==2.2",)),
    Package(
        "vizdoom", "1.3.2", "vizdoom.gymnasium_wrapper:VizdoomDeathmatch-v1", "hybrid, pictures", BUTTONS
    ),
    Package("mo-gymnasium", "1.3.2", "mo_gymnasium:deep-sea-treasure-v0", "vector reward"),
    Package("minigrid", "3.2.0", "minigrid:MiniGrid-Empty-5x5-v0", "dict, text", ("env.ignore=[mission]",)),
    Package("highway-env", "1.12.1", "highway_env:parking-v0", "driving, goal"),
    Package("tetris-gymnasium", "0.3.1", "tetris_gymnasium.envs:tetris_gymnasium/Tetris", "game, dict"),
    Package("mobile-env", "2.1.0", "mobile_env:mobile-small-central-v0", "network, multi-discrete"),
    Package("gym-electric-motor", "3.0.3", "gym_electric_motor:Cont-CC-PMSM-v0", "electric motor"),
    Package("flappy-bird-gymnasium", "0.4.0", "flappy_bird_gymnasium:FlappyBird-v0", "game"),
    Package("gym-invmgmt", "0.2.1", "gym_invmgmt:GymInvMgmt/MultiEchelon-v0", "inventory"),
    Package("or-gymnasium", "0.1.0", "or_gymnasium:InvManagement-v1", "inventory, integer box"),
    Package("gymnasium-robotics", "1.4.2", "gymnasium_robotics:PointMaze_UMaze-v3", "goal, dict"),
    Package(
        "pyRDDLGym",
        "2.7",
        "make=pyRDDLGym:make",
        "hybrid, integer box",
        (*MARS_ROVER, "env.kwargs.vectorized=true"),
        ("rddlrepository==2.2",),
    ),
    Package(
        "pyRDDLGym",
        "2.7",
        "make=pyRDDLGym:make",
        "building, no bounds",
        ("env.kwargs.domain=HVAC_ippc2023", "env.kwargs.instance='0'", "env.action_bounds=[0.05,10]"),
        ("rddlrepository==2.2",),
    ),
    Package(
        "vizdoom",
        "1.3.2",
        "vizdoom.gymnasium_wrapper:VizdoomBasic-v1",
        "pictures",
        note="Basic has pictures of 240 × 320 pixels: not done after 600 seconds of a busy machine",
    ),
    Package("gym-electric-motor", "3.0.3", "gym_electric_motor:Finite-CC-PMSM-v0", "electric motor"),
    Package("or-gymnasium", "0.1.0", "or_gymnasium:NetworkManagement-v1", "inventory"),
    Package(
        "or-gymnasium",
        "0.1.0",
        "or_gymnasium:Knapsack-v0",
        "packing, masked",
        note="the mask of a full knapsack forbids everything, which ended the run: mended since",
        mended=True,
    ),
    Package("or-gymnasium", "0.1.0", "or_gymnasium:VMPacking-v0", "packing"),
    Package("or-gymnasium", "0.1.0", "or_gymnasium:VehicleRouting-v0", "logistics"),
    Package(
        "or-gymnasium",
        "0.1.0",
        "or_gymnasium:VMPacking-v1",
        "packing, masked",
        ("env.kwargs.env_config={mask: true}",),
        note="with its masks VMPacking's own `step` fails",
    ),
    Package(
        "gymnasium-robotics",
        "1.4.2",
        "gymnasium_robotics:FetchReachDense-v4",
        "robot, goal",
        note="FetchReach cannot be made with the MuJoCo 4 that it allows",
    ),
)
"""Those that had been tried by hand before."""

NEW = (
    Package(
        "hybrid-shoot",
        "0.3.0",
        "make=hybrid_shoot.gym_wrapper:HybridShootEnv",
        "hybrid",
        besides=("pettingzoo",),
        found=MESSAGE,
        note="it imports PettingZoo, which it does not require",
        first="the same, without PettingZoo",
    ),
    Package("uppaal-gym", "1.0.1", "uppaal_gym:CruiseControl-v0", "hybrid systems"),
    Package("popgym", "1.0.7", "popgym:popgym-BattleshipEasy-v0", "multi-discrete, memory"),
    Package("nasim", "0.12.0", "nasim:TinyVA-v0", "network, multi-discrete"),
    Package("pgtg", "0.6.1", "pgtg:pgtg-exploration_2x2-v0", "driving, dict"),
    Package(
        "gymnasium-search-race",
        "4.1.1",
        "gymnasium_search_race:gymnasium_search_race/SearchRace-v3",
        "driving",
    ),
    Package(
        "rushhour-gym",
        "0.7.0",
        "rushhour_gym:RushHour-Easy-v0",
        "game, masked",
        note="it fetches a program from a place that cannot be reached here",
    ),
    Package("numberlink", "0.1.7", "numberlink:NumberLinkRGB-v0", "puzzle, pictures, masked"),
    Package(
        "petrirl",
        "0.2.1",
        "petrirl:petrirl-dft-v0",
        "scheduling, masked",
        besides=("matplotlib", "graphviz", "ipython"),
        note="the published package lacks one of its own modules",
    ),
    Package(
        "jsspetri",
        "1.0.4",
        "jsspetri:jsspetri",
        "scheduling, masked",
        ("env.kwargs.instance_id=ta01",),
        ("matplotlib",),
        note=(
            "a `reset` before the end of an episode leaves jobs and machines of the package occupied, with "
            "Gymnasium alone, too; its `step` then waits for them without end; whole episodes run"
        ),
    ),
    Package("pickomino-env", "1.4.1", "pickomino_env:Pickomino-v0", "game, dict"),
    Package("gymnasium-2048", "0.1.2", "gymnasium_2048:gymnasium_2048/TwentyFortyEight-v0", "game"),
    Package("gymnasium-snake-game", "0.2.1", "gymnasium_snake_game:Snake-v1", "game"),
    Package("or-gym-inventory", "1.0.0", "or_gym_inventory:or_gym_inventory/Newsvendor-v0", "inventory"),
    Package("gym-anytrading", "2.0.0", "gym_anytrading:stocks-v0", "trading"),
    Package("glucosim", "0.1.1", "glucosim:glucosim/ClosedLoop-v0", "medicine"),
    Package("lettuce-greenhouse-gym", "0.1.3", "lettuce_greenhouse_gym:LettuceGreenhouse-v0", "greenhouse"),
    Package("gym-sailing", "0.2.1", "gym_sailing:Sailboat-v0", "sailing"),
    Package("gym-pusht", "0.1.8", "gym_pusht:gym_pusht/PushT-v0", "robot"),
    Package(
        "gymnasium-cartpole-swingup", "0.1.8", "gymnasium_cartpole_swingup:CartPoleSwingUp-v0", "control"
    ),
    Package(
        "bluesky-gym",
        "0.2.0",
        "bluesky_gym:MergeEnv-v0",
        "air traffic, dict",
        found=README,
        note="its README calls its `register_envs()`, which is done here since it was seen to be needed",
        before="bluesky_gym:register_envs",
        mended=True,
    ),
    # A second lot, chosen by what they say of themselves and by being of this Python, before any was tried.
    Package("anesthesim", "0.1.0", "anesthesim:anesthesim/CombinedAnesthesia-v0", "medicine"),
    Package("antibiosim", "0.1.0", "antibiosim:antibiosim/TherapySwitch-v0", "medicine"),
    Package("cardiosim", "0.1.0", "cardiosim:cardiosim/PacingControl-v0", "medicine"),
    Package(
        "gym-zelda-pygame",
        "0.1.9",
        "gym_zelda_pygame:ZeldaCC-v0",
        "game, pictures",
        SMALLER,
        ("opencv-python",),
        README,
        note=(
            "with its full pictures it is refused, `observations of 2,764,800 numbers need 47.5 GiB of "
            "memory`, with the line that makes them smaller; its README advises that, too; film and "
            "`evaluate` were not waited for"
        ),
    ),
    Package("gymnasium-sudoku", "0.3.5", "gymnasium_sudoku:sudoku-v0", "puzzle"),
    Package(
        "gymnasium-mars-lander",
        "2.1.0",
        "gymnasium_mars_lander:gymnasium_mars_lander/MarsLander-v1",
        "control",
    ),
    Package("crosswalk-env", "0.1.2", "crosswalk_env:crosswalk-v1", "decision under risk"),
    Package("mazegym", "1.2.3", "mazegym:Maze5x5Fixed-v0", "maze"),
    Package(
        "tile-match-gym",
        "0.0.4",
        "make=tile_match_gym.tile_match_env:TileMatchEnv",
        "game",
        (
            "env.kwargs={num_rows: 10, num_cols: 10, num_colours: 4, num_moves: 30, seed: 2}",
            "env.kwargs.colourless_specials=[]",
            "env.kwargs.colour_specials=[]",
        ),
        found=README,
    ),
    Package("gym-simplegrid", "1.1.0", "gym_simplegrid:SimpleGrid-4x4-v0", "grid world"),
    Package("food-distribution-gym", "0.1.0a1", "food_distribution_gym:FoodDistribution-v0", "logistics"),
    # A third one, chosen in the same way.
    Package("stokasta", "0.0.1", "stokasta:stokasta/DynamicInventory-v0", "inventory"),
    Package("gym-anm", "2.0.1", "gym_anm:ANM6Easy-v0", "electric network"),
    Package(
        "gym-dcmotor",
        "0.2",
        "gym_dcmotor:DCMotor-v0",
        "electric motor, goal",
        besides=("gymnasium-robotics",),
        note="its `step` needs a goal that only its `set_goal` sets, which `reset` does not call",
    ),
    Package(
        "racetrackgym",
        "0.3.0",
        "make=racetrackgym.environment:RacetrackEnv",
        "driving",
        ("env.kwargs.map_name=barto-small", "env.kwargs.rt_args=''"),
        ("gymnasium",),
        MESSAGE,
        note="its README says nothing of how it is made, and its two arguments have no defaults",
        first="nothing",
    ),
    Package(
        "sliding-puzzles",
        "0.9.3",
        "sliding_puzzles:SlidingPuzzles-v0",
        "puzzle",
        ("env.kwargs.w=3", "env.kwargs.variation=onehot"),
        found=README,
    ),
    Package(
        "kuzongaenv",
        "0.3.3",
        "kuzongaenv:Kuzonga-v0",
        "game, dict, multi-discrete, masked",
        note=(
            "its number loses digits when it is divided, and the observation shrinks with it, out of the "
            "declared space"
        ),
    ),
    Package("panda-gym", "3.0.7", "panda_gym:PandaReach-v3", "goal, robot"),
    Package(
        "gpu-choochoo",
        "0.1.0",
        "make=gpu_choochoo:create_diverse_training_env",
        "scheduling, network",
        note="its constructor fails with Gymnasium alone, too",
    ),
    # A fourth one, written down from what each README shows before any of them was tried.
    Package(
        "dermek-bp-tower-defense-env",
        "0.1.5",
        "dermek_bp_tower_defense_env:DermekBPTowerDefense-v0",
        "game, dict, multi-discrete",
        ("env.kwargs.render_mode=dictionary",),
        found=README,
    ),
    Package(
        "gymnasium-base-siege",
        "0.1.0",
        "gymnasium_base_siege:BaseSiege-v0",
        "game, dict, masked",
        ("env.kwargs.base_seed=42",),
        found=README,
        note="tried with Python 3.12, the only one that it takes",
    ),
    Package(
        "gymnasium-orchard",
        "1.0.0",
        "orchard:Orchard-round",
        "game",
        found=README,
        note="tried with Python 3.12, below which it is not to be had",
    ),
    Package(
        "econgym",
        "0.2.0",
        "make=econgym:BertrandEnv",
        "economics, several agents",
        ("env.kwargs={n: 2, K: 7, c: 1.0, p_max: 10.0}",),
        found=README,
        note="no Gymnasium environment: several agents by an interface of its own",
    ),
    Package(
        "hitori-gym",
        "0.0.3",
        "hitori_env:hitori_env/Hitori-v2",
        "puzzle, dict, masked",
        ("env.kwargs.size=5",),
        found=README,
        note="tried with Python 3.12, below which it is not to be had",
    ),
    Package(
        "hill-climb-racing-env",
        "0.1.0",
        "hill_racing_env:hill_racing_env/HillRacing-v0",
        "driving",
        ("env.vectorization=async", "env.num_workers=8"),
        found=MESSAGE,
        note=(
            "it builds Box2D from source, with SWIG, as its README says; a process of several copies"
            " crashes in its `step`, so that each copy needs one of its own"
        ),
        first="nothing",
    ),
    Package(
        "gym-zombie-shooter",
        "0.1.1",
        "zombie_shooter_gym:ZombieShooter-v1",
        "game, pictures",
        found=README,
        note=(
            "evaluated for 100 steps of an episode: with 1,000, training and evaluation were not done after"
            " 600 seconds of a busy machine; film, export and `evaluate` were not tried"
        ),
    ),
    Package(
        "divide21env",
        "0.2.8",
        "divide21env:Divide21-v0",
        "game, dict",
        found=README,
        note=(
            "its number loses digits when it is divided, and the observation shrinks with it, out of the "
            "declared space, with Gymnasium alone, too"
        ),
    ),
    Package(
        "space-mining",
        "0.1.2",
        "make=space_mining:make_env",
        "game, robot",
        ("env.kwargs.max_episode_steps=1200",),
        found=README,
        note=(
            "it wants Gymnasium below 0.30 and NumPy below 2: refused by pip until this project took "
            "Gymnasium 0.29 and NumPy 1.26"
        ),
        mended=True,
    ),
    Package(
        "storage-node-env",
        "0.14.0",
        "storage_node_env:storage_node_env/EnergyStorage-v0",
        "electric network, masked",
        (
            "env.kwargs={node_type: prosumer, csv_path: dataset/1h/prosumer_test_data.csv, delta_t: 1.0}",
            "env.kwargs.battery_config={capacity: 5.12, dod_max: 90, power_charge_max: 2.5}",
            "env.kwargs.battery_config.power_discharge_max=2.5",
            "env.kwargs.battery_config.efficiency_charge=0.95",
            "env.kwargs.battery_config.efficiency_discharge=0.95",
        ),
        found=README,
        note="the data file that its README names is not in the package",
    ),
    Package("immunosim", "0.1.0", "immunosim:immunosim/CheckpointInhibitor-v0", "medicine", found=README),
    Package("hemosim", "0.2.2", "hemosim:hemosim/WarfarinDosing-v0", "medicine", found=README),
    Package(
        "procedural-frozenlake",
        "1.0.0",
        "procedural_frozenlake:Procedural-FrozenLake-v1",
        "grid world",
        ("env.kwargs={map_seed: 0, emit_map: true, emit_q_star: true}",),
        found=README,
        note="tried with Python 3.12, below which it is not to be had",
    ),
    # Its README ends before it shows how it is made: the name is the one that the package registers.
    Package("mobile-robot-nav", "0.2", "mobile_robot_nav:MobileRobotNav-v0", "robot", found=SOURCE),
    Package("plume-nav-sim", "0.1.0", "make=plume_nav_sim:make_env", "navigation", found=README),
    Package(
        "drone-rl-env",
        "0.1.0",
        "make=drone_env:DroneEnv",
        "control",
        found=README,
        note="the published package imports from `src`, a folder that it does not hold",
    ),
    Package(
        "target-gym",
        "0.6.1",
        "make=target_gym:GymnasiumPlane",
        "control, aircraft",
        besides=("six",),
        found=MESSAGE,
        note=(
            "gymnax, which it requires, imports six and does not require it; that it was not done after 600 "
            "seconds before did not come again; film and export were not waited for"
        ),
        first="the same, without six",
    ),
    Package(
        "gym-classics2",
        "1.0.3",
        "gym_classics2:ClassicGridworld-v1",
        "grid world",
        ("env.kwargs.tabular=true",),
        found=README,
        note="its README calls its `register()`, which is done here since it was seen to be needed",
        before="gym_classics2:register",
        mended=True,
    ),
    Package("gymnasium-hardmaze", "0.1.1", "gymnasium_hardmaze:HardMaze-v0", "maze, robot", found=README),
    Package("sepsisim", "0.1.0", "sepsisim:sepsisim/FluidResuscitation-v0", "medicine", found=README),
    # A fifth one, of kinds that were few before: written down from what each README shows, or from the source
    # where it shows nothing, before any of them was tried. What they require of Gymnasium did not count.
    Package("flycraft", "0.2.0", "flycraft:FlyCraft-v0", "goal, aircraft", found=README),
    Package("gl-gym", "0.3.2", "gl_gym:gl_gym/GreenLightTomato-v0", "greenhouse, energy, dict", found=README),
    Package(
        "linkgym",
        "0.4.0",
        "linkgym:linkgym/LinkAdaptation-v0",
        "network",
        ("env.kwargs.speed=3.0",),
        found=README,
    ),
    Package("kaist-or-gym", "0.1.15", "kaist_or_gym:kaist-or/TrafficControlEnv-v0", "traffic", found=README),
    Package("boing-gym", "0.1.0", "boing_gym:Boing-v0", "game", found=README),
    Package(
        "evcrl",
        "0.0.1",
        "evcrl:EvcRL-Camera-v0",
        "driving, energy, dict, pictures",
        ("env.kwargs.profile=paper_v25",),
        found=README,
        note=(
            "its first training ended with an error of this project's, `torch.finfo() requires a floating "
            "point input type`: pictures with parameters alone as actions, mended since"
        ),
        mended=True,
    ),
    Package(
        "gymconnectx",
        "2.0.0",
        "gymconnectx:gymconnectx/ConnectGameEnv",
        "game",
        (
            "env.kwargs={connect: 4, width: 7, height: 6, reward_winner: 1, reward_loser: -1}",
            "env.kwargs.reward_living=0",
            "env.kwargs.reward_draw=0.5",
            "env.kwargs.reward_hell=-0.5",
            "env.kwargs.max_steps=100",
            "env.kwargs.delay=100",
            "env.kwargs.square_size=100",
            "env.kwargs.avatar_player_1=img_cat.png",
            "env.kwargs.avatar_player_2=img_dog.png",
        ),
        found=README,
        note="the pictures of players that its README names are not in the package",
    ),
    Package("gym-xarm", "0.1.1", "gym_xarm:gym_xarm/XarmLift-v0", "robot", found=README),
    Package(
        "rl-envs-forge",
        "6.0.0",
        "make=rl_envs_forge.envs.labyrinth.labyrinth:Labyrinth",
        "maze",
        ("env.kwargs={rows: 20, cols: 20, seed: 0}",),
        found=SOURCE,
    ),
    Package(
        "lintul3-gym",
        "0.1.0",
        "lintul3_gym:Lintul3Gym-v0",
        "crops",
        ("env.kwargs.decision_interval=7",),
        found=README,
    ),
    Package(
        "qcd-gym",
        "0.2.0",
        "CircuitDesigner-v0",
        "quantum circuits",
        ("env.kwargs={max_qubits: 2, max_depth: 10, objective: SP-bell, render_mode: text}",),
        found=README,
    ),
    Package("voxelgym2d", "0.3.2.post1", "voxelgym2D:onestep-v0", "path planning, pictures", found=README),
    Package("jssenv", "1.1.0", "JSSEnv:jss-v1", "scheduling, dict, masked", found=SOURCE),
    Package(
        "rl-tetris",
        "0.2.3",
        "rl_tetris:RL-Tetris-v0",
        "game, dict",
        found=README,
        note=(
            "only its module `envs` registers it, which is looked into since it was seen to be needed, and "
            "which Gymnasium alone does not do; film, export and `evaluate` were not waited for"
        ),
        mended=True,
    ),
    Package("arcle", "0.2.6", "arcle:ARCLE/O2ARCv2Env-v0", "puzzle, dict, hybrid", found=SOURCE),
    Package("opfgym", "1.0.1", "make=opfgym.envs:MaxRenewable", "electric network", found=SOURCE),
    Package("rs10env", "0.1.0", "make=rs10env:RS10Env", "game, masked", found=SOURCE),
    Package("slimevb", "0.1.1", "make=slime_volleyball.slimevolley_env:SlimeVolleyEnv", "game", found=README),
    *FRESH,
)
"""Those that nobody here had tried."""

PACKAGES = TRIED_BEFORE + NEW
