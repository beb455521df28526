"""The one place that instantiates: from a checked configuration to a trainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import BatchedEnv, ScriptedEnv, SharedEnv
from equipoise.envs.references import References, reference_returns
from equipoise.trainer.configuration.constructors import find_class
from equipoise.trainer.configuration.schema import AdamConfig, ComponentConfig, Config
from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.learner import Learner
from equipoise.trainer.loop import Trainer
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.process_state import own_part
from equipoise.trainer.rollout import Collector, allocate
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.stages.pipeline import Pipeline, check_order
from equipoise.trainer.stages.protocol import Stage
from equipoise.trainer.system import distributed
from equipoise.trainer.system.files import replace_file
from equipoise.trainer.system.host_memory import keep_freed_memory

SEED_STRIDE = 1_000_000_007
"""Between the seeds of processes whose environments cannot be shared out by index."""


def build(
    config: Config, run_dir: str | Path | None = None, state: Mapping[str, Any] | None = None
) -> Trainer:
    """Everything that `config` names, ready to train in `run_dir`; from `state`, a checkpoint's, if given.

    `run_dir`: made if it is not there; None: `runs/<env>-<preset>/<date_time>-s<seed>`, as the command does.
    Of several processes (`trainer.system.distributed.processes`) each calls it and gets its part of the
    environments; the files are the first one's.

    Raises:
        ValueError: for what only the environment, or the number of processes, can tell is wrong: an action
            space that is not supported, a policy that does not fit it, a norm over parameters that are not
            there, environments that cannot be shared out.
    """
    run_dir = _new_run_dir(config) if run_dir is None else Path(run_dir)
    if state is not None:
        state = own_part(state)  # first: of another number of processes, it is that which is to be said
    with distributed.failing_together():
        trainer = _assemble(config, run_dir)
    distributed.broadcast(trainer.learner.flat.vector.detach())
    with distributed.failing_together():
        if state is not None:
            trainer.load_state_dict(state)
        if distributed.rank() == 0:
            _write_config(config, run_dir)
    return trainer


def _write_config(config: Config, run_dir: Path) -> None:
    """`config.yaml`, whole or not at all. Raises OSError that names the folder."""
    settings = yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        replace_file(run_dir / "config.yaml", settings.encode())
    except OSError as error:
        raise OSError(f"cannot write to {run_dir}: {error.strerror or error}") from error


def _assemble(config: Config, run_dir: Path) -> Trainer:
    check_order(
        {name: find_class(section.target) for name, section in config.stages.items()},
        list(config.trainer.stages),
    )
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    torch.manual_seed(config.seed)
    device = torch.device(find_device(config))
    make_env = environment_maker(config, device)
    share, rank = _share(config), distributed.rank()
    env = make_env(share)
    seed = config.seed
    if isinstance(env, SharedEnv):
        env.first_env = rank * share
    else:
        seed += rank * SEED_STRIDE
    pipeline = _pipeline(config, env)
    task_head = pipeline.advantages is not None and pipeline.advantages.needs_task_advantage
    policy = build_policy(config, env, len(env.reward_names) + task_head).to(device)
    width = policy.observation_width
    steps = config.trainer.batch.rollout_steps
    rollout = allocate(env, policy.space, steps, width, policy.value_head.out_features)
    flat = FlatParameters(policy)
    return Trainer(
        config,
        run_dir,
        policy,
        # Each process has noise and an order of its own; those of the first are those of a single one.
        Collector(
            env,
            policy,
            rollout,
            _generator(device, config.seed, 1 + 2 * rank),
            seed,
            config.trainer.compile,
        ),
        Learner(
            policy,
            pipeline,
            _optimizer(config, flat),
            flat,
            config.trainer,
            _base_weights(config),
            _generator(device, config.seed, 2 + 2 * rank),
            env.reward_names,
        ),
        make_env,
        find_references(env, make_env) if rank == 0 else None,  # only the first one evaluates
    )


def _share(config: Config) -> int:
    """How many of the environments are this process's. Raises ValueError where they cannot be shared out."""
    size, batch = distributed.world_size(), config.trainer.batch
    share, rest = divmod(config.env.num_envs, size)
    if rest:
        raise ValueError(
            f"env.num_envs = {config.env.num_envs}; allowed is a multiple of {size}, the number of processes "
            "that share them"
        )
    if (samples := batch.rollout_steps * share) % batch.num_minibatches:
        raise ValueError(
            f"trainer.batch.num_minibatches = {batch.num_minibatches}; allowed is a divisor of {samples}, "
            f"the samples of each of {size} processes (rollout_steps {batch.rollout_steps} * {share} of the "
            "environments)"
        )
    return share


def _new_run_dir(config: Config) -> Path:
    now = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    return Path("runs", f"{config.env.label}-{config.preset}", f"{now}-s{config.seed}")


def environment_maker(config: Config, device: torch.device) -> Callable[[int], BatchedEnv]:
    """`make(num_envs)` for the environment of `config`."""
    target, keywords = find_class(config.env.target), config.env.keywords

    def make(num_envs: int) -> BatchedEnv:
        try:
            env: BatchedEnv = target(num_envs=num_envs, device=device, **keywords)
        except (EnvError, ValueError):  # a ValueError says which argument is wrong
            raise
        except Exception as error:  # anybody's code, and so may be what goes wrong in it
            raise EnvError(f"{config.env.label} cannot be made: {type(error).__name__}: {error}") from error
        return env

    return make


def build_policy(config: Config, env: BatchedEnv, num_values: int) -> ActorCritic:
    """An untrained policy for `env`, on the CPU of torch's default generator."""
    space = HybridSpace(env.action_space, env.relevance, env.device)
    settings = config.policy.model_dump()
    return ActorCritic(space, env.observation_space.shape, num_values, **settings)


def find_references(env: BatchedEnv, make_env: Callable[[int], BatchedEnv]) -> References | None:
    """The 0 and the 1 of the normalised score: what the environment states, or else measured now."""
    stated = getattr(env, "reference_returns", None)
    if stated is not None:
        return References(*stated)
    return reference_returns(make_env) if isinstance(env, ScriptedEnv) else None


def _pipeline(config: Config, env: BatchedEnv) -> Pipeline:
    supplied = {
        "num_envs": env.num_envs,
        "num_components": len(env.reward_names),
        "device": env.device,
        "reward_names": env.reward_names,
        "reward_weights": torch.tensor(env.reward_weights, dtype=torch.float32, device=env.device),
        "gamma": config.trainer.gamma,
    }
    return Pipeline({name: _stage(section, supplied) for name, section in config.stages.items()})


def _stage(section: ComponentConfig, supplied: Mapping[str, Any]) -> Stage:
    target = find_class(section.target)
    wanted = inspect.signature(target).parameters
    given = {name: value for name, value in supplied.items() if name in wanted}
    stage: Stage = target(**given, **section.keywords)
    return stage


def _optimizer(config: Config, flat: FlatParameters) -> torch.optim.Optimizer:
    settings = config.optimizer
    # A tensor: a Python number would be frozen into a captured graph.
    rate = torch.tensor(settings.learning_rate, device=flat.vector.device)
    if isinstance(settings, AdamConfig):
        capturable = flat.vector.device.type == "cuda"
        return torch.optim.Adam([flat.vector], lr=rate, eps=settings.eps, fused=True, capturable=capturable)
    optimizer = torch.optim.SGD([flat.vector], lr=rate, momentum=settings.momentum, fused=True)
    if settings.momentum:
        # SGD makes this buffer in its first step, and leaves it unset if that step is skipped.
        optimizer.state[flat.vector]["momentum_buffer"] = torch.zeros_like(flat.vector)
    return optimizer


def _base_weights(config: Config) -> tuple[float, float]:
    weights = config.trainer.policy_loss_weights
    total = weights.discrete_weight + weights.continuous_weight
    return weights.discrete_weight / total, weights.continuous_weight / total


def _generator(device: torch.device, seed: int, stream: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed * 1_000 + stream)


def find_device(config: Config) -> str:
    """`cpu` or `cuda`: what the configuration asks for, or what there is."""
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"
