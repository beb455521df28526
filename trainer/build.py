"""The one place that instantiates: from a checked configuration to a trainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from equipoise.envs import process_wide
from equipoise.envs.observation_parts import ObservationPart, parts_of
from equipoise.envs.protocol import BatchedEnv
from equipoise.trainer import transfer
from equipoise.trainer.adaptive_rate import AdaptiveRate
from equipoise.trainer.calling import Callbacks
from equipoise.trainer.configuration import schema
from equipoise.trainer.configuration.constructors import constructor_of, factory, find_class
from equipoise.trainer.configuration.schema import ComponentConfig, Config
from equipoise.trainer.contracts import SuppliedToPolicy, SuppliedToStage
from equipoise.trainer.discount import with_discount
from equipoise.trainer.environments import (
    MakeEnv,
    environment_maker,
    find_references,
    in_whole_teams,
    seed_of,
    space_of,
    with_arguments,
)
from equipoise.trainer.evaluator import Evaluator
from equipoise.trainer.exchange import ChangingEnvironment
from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.learner import Learner
from equipoise.trainer.loop import Trainer
from equipoise.trainer.memory_needed import check_memory, wide_part
from equipoise.trainer.optimizer import PolicyOptimizer, try_out
from equipoise.trainer.pathwise_checks import check_differentiable
from equipoise.trainer.pathwise_rollout import PathwiseCollector
from equipoise.trainer.policy.protocol import Policy, check_policy
from equipoise.trainer.process_state import own_part
from equipoise.trainer.recorder import Recorder, RunRecorder
from equipoise.trainer.rollout import Collector, allocate
from equipoise.trainer.schedule import Schedule
from equipoise.trainer.seeding import noise_generator, shuffling_generator, training_seed
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.stages.pipeline import Pipeline, check_order
from equipoise.trainer.stages.protocol import Stage
from equipoise.trainer.system import distributed, torch_switches
from equipoise.trainer.system.host_memory import keep_freed_memory
from equipoise.trainer.system.interruption import Interruption
from equipoise.trainer.system.run_folder import RunFolder


def build(
    config: Config,
    run_dir: str | Path | RunFolder | None = None,
    state: Mapping[str, Any] | None = None,
    environment: Callable[..., Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> Trainer:
    """Build the trainer that `config` describes, ready to train in `run_dir`.

    With several processes (`trainer.system.distributed.processes`), each calls this and gets its share of the
    environments; only the first one writes files.

    Args:
        run_dir: created if missing; it must not hold a run, unless `state` is given. None: a new folder
            `runs/<env>-<preset>/<date_time>-s<seed>`, as the command makes it.
        state: of a checkpoint to continue from.
        environment: makes a single Gymnasium environment, in place of the one that `config` names.
        callbacks: in addition to those that `config` names.

    Raises:
        ValueError: what only the environment or the number of processes can reveal: an unsupported action
            space, a policy that does not fit it, a norm over parameters that do not exist, environments that
            cannot be divided evenly. Also a folder that holds something else.
        ConfigError: `init_from` names no policy, or one of which nothing fits.
    """
    source = None
    if state is not None:
        state = own_part(state)  # checked first: a different number of processes is the error to report
    elif config.init_from is not None:
        source = transfer.read(config.init_from)
    recorder = RunRecorder(config, _folder(config, run_dir, state)) if distributed.rank() == 0 else Recorder()
    with distributed.failing_together(), Interruption.keeping_handlers():
        trainer = make_trainer(config, recorder, environment, callbacks)
        if source is not None:
            recorder.announce(transfer.take(source, trainer.policy, trainer.collector.env.reward_names))
    distributed.broadcast(trainer.learner.flat.vector.detach())
    with distributed.failing_together():
        if state is not None:
            trainer.load_state_dict(state)
        recorder.write_config()
    return trainer


def make_trainer(
    config: Config,
    recorder: Recorder,
    environment: Callable[..., Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> Trainer:
    """An untrained trainer; writes no file."""
    settings, batch, process = config.trainer, config.trainer.batch, distributed.rank()
    check_order({name: find_class(stage.target) for name, stage in config.stages.items()}, settings.stages)
    section = config.optimizer
    try_out(find_class(section.target), section.keywords, f"optimizer._target_ = {section.target}")
    torch_switches.require()
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    process_wide.Streams(training_seed(config.seed, process)).enter()
    torch.manual_seed(config.seed)
    device = torch.device(find_device(config.device))
    num_envs = _share(config.env.num_envs, batch)
    make_env = environment_maker(config.env, device, environment)
    env = make_env(num_envs)
    if (remark := check_memory(config, env)) is not None:
        recorder.announce(remark)
    settings = with_discount(settings, env)
    pipeline = make_pipeline(config.stages, env, settings.discount)
    num_values = pipeline.num_values(len(env.reward_names))
    shape, parts = env.observation_space.shape, parts_of(env)
    policy = make_policy(config.policy, space_of(env), shape, num_values, parts)
    if (remark := wide_part(policy, env)) is not None:
        recorder.announce(remark)
    check_sequences(policy, env.num_envs, batch)
    collector = make_collector(env, policy, settings, config.seed, process)
    return Trainer(
        config,
        settings,
        make_schedule(config.optimizer, settings, config.env.num_envs),
        policy,
        collector,
        make_learner(policy, pipeline, config.optimizer, settings, env.reward_names, config.seed, process),
        make_evaluator(
            policy, env, in_whole_teams(make_env), settings, config.env.num_envs, config.seed, process
        ),
        recorder,
        make_callbacks(config, collector, device, environment, process, callbacks),
    )


def make_callbacks(
    config: Config,
    collector: Collector,
    device: torch.device,
    environment: Callable[..., Any] | None,
    process: int,
    more: Sequence[Any] = (),
) -> Callbacks:
    """The callbacks that `config` names, and `more`. Raises ValueError if one cannot be made."""

    def other(kwargs: Mapping[str, Any], num_envs: int | None) -> BatchedEnv:
        make = environment_maker(with_arguments(config.env, kwargs), device, environment)
        if num_envs is not None:
            return in_whole_teams(make)(num_envs)
        env = make(collector.env.num_envs)
        seed_of(env, config.seed, process)
        return env

    made = []
    for section in config.callbacks:
        try:
            made.append(find_class(section.target)(**section.keywords))
        except Exception as error:  # user code: may raise anything
            raise ValueError(f"callback {section.target}: {type(error).__name__}: {error}") from error
    changing = ChangingEnvironment(collector, other, training_seed(config.seed, process))
    return Callbacks([*made, *more], changing)


def make_pipeline(sections: Mapping[str, ComponentConfig], env: BatchedEnv, gamma: float) -> Pipeline:
    """The stages of `sections`, whose order has been checked."""
    weights = torch.tensor(env.reward_weights, dtype=torch.float32, device=env.device)
    names = tuple(env.reward_names)
    supplied = SuppliedToStage(env.num_envs, len(names), env.device, names, weights, gamma)
    return Pipeline({name: _make_stage(section, supplied) for name, section in sections.items()})


def _make_stage(section: ComponentConfig, supplied: SuppliedToStage) -> Stage:
    target = find_class(section.target)
    wanted = inspect.signature(target).parameters
    given = {name: value for name, value in supplied._asdict().items() if name in wanted}
    stage: Stage = target(**given, **section.keywords)
    return stage


def make_policy(
    section: ComponentConfig,
    space: HybridSpace,
    observation_shape: tuple[int, ...],
    num_values: int,
    observation_parts: tuple[ObservationPart, ...] = (),
) -> Policy:
    """An untrained policy on the device of `space`, initialised with the CPU's default generator.

    Raises:
        ValueError: for a policy or an encoder that does not fit the environment, or fails.
    """
    make = factory(section.plain())
    supplied = SuppliedToPolicy(space, observation_shape, num_values, observation_parts)._asdict()
    if not constructor_of(find_class(section.target)).takes("observation_parts"):
        del supplied["observation_parts"]
    try:
        policy = make(**supplied)
    except ValueError:
        raise
    except Exception as error:  # user code: may raise anything
        raise ValueError(f"policy._target_ = {section.target}: {type(error).__name__}: {error}") from error
    return check_policy(policy, section.target, num_values).to(space.device)


def check_sequences(policy: Policy, num_envs: int, batch: schema.BatchConfig) -> None:
    """A memory is trained on whole sequences. Raises ValueError where minibatches would cut them."""
    if policy.state_size and num_envs % batch.num_minibatches:
        fits = ", ".join(str(count) for count in range(1, num_envs + 1) if num_envs % count == 0)
        raise ValueError(
            f"trainer.batch.num_minibatches = {batch.num_minibatches}; allowed is a divisor of {num_envs}, "
            "the environments of a process, as a policy with a memory learns from whole sequences of each: "
            f"{fits}"
        )


def make_collector(
    env: BatchedEnv, policy: Policy, settings: schema.TrainerConfig, seed: int, process: int
) -> Collector:
    """A collector for this process's environments, which it resets."""
    env_seed = seed_of(env, seed, process)
    steps, width = settings.batch.rollout_steps, policy.observation_width
    rollout = allocate(env, policy.space, steps, width, policy.storage)
    noise = noise_generator(env.device, seed, process)
    if settings.continuous_gradient == "score":
        return Collector(env, policy, rollout, noise, env_seed, settings.compile)
    check_differentiable(env, policy, settings)
    return PathwiseCollector(
        env,
        policy,
        rollout,
        noise,
        env_seed,
        gamma=settings.discount,
        horizon=settings.pathwise_horizon,
        cross_term=settings.pathwise_cross_term,
        alone=settings.continuous_gradient == "pathwise",
    )


def make_learner(
    policy: Policy,
    pipeline: Pipeline,
    optimizer: schema.OptimizerConfig,
    settings: schema.TrainerConfig,
    reward_names: tuple[str, ...],
    seed: int,
    process: int,
) -> Learner:
    """A learner for `policy`, whose parameters move into one flat buffer."""
    flat = FlatParameters(policy)
    weights = settings.policy_loss_weights
    total = weights.discrete_weight + weights.continuous_weight
    return Learner(
        policy,
        pipeline,
        make_optimizer(optimizer, flat, policy),
        flat,
        settings,
        (weights.discrete_weight / total, weights.continuous_weight / total),
        shuffling_generator(flat.vector.device, seed, process),
        reward_names,
        make_adaptive_rate(optimizer),
    )


def make_optimizer(section: schema.OptimizerConfig, flat: FlatParameters, policy: Policy) -> PolicyOptimizer:
    """The optimizer that `section` names, with its learning rate on the parameters' device.

    `flat`: the parameters of `policy`.
    """
    target, spread = find_class(section.target), policy.spread_parameters()
    return PolicyOptimizer(
        target, flat, section.learning_rate, section.keywords, spread, section.log_std_multiplier
    )


def make_adaptive_rate(section: schema.OptimizerConfig) -> AdaptiveRate | None:
    """How the learning rate follows `optimizer.desired_kl`; None if that is not set."""
    if section.desired_kl is None:
        return None
    return AdaptiveRate(section.desired_kl, section.learning_rate_min, section.learning_rate_max)


def make_schedule(
    optimizer: schema.OptimizerConfig, settings: schema.TrainerConfig, num_envs: int
) -> Schedule:
    """The length of the run and its learning rate; `num_envs` counts the environments of all processes."""
    samples, total = settings.batch.rollout_steps * num_envs, settings.total_env_steps
    return Schedule(total, samples, optimizer.learning_rate, optimizer.anneal, settings.schedule_steps)


def make_evaluator(
    policy: Policy,
    env: BatchedEnv,
    make_env: MakeEnv,
    settings: schema.TrainerConfig,
    num_envs: int,
    seed: int,
    process: int,
) -> Evaluator:
    """The run's evaluator. Only the first process evaluates, so it alone measures missing references."""
    references = find_references(env, make_env) if process == 0 else None
    return Evaluator(
        policy,
        make_env,
        num_envs,
        references,
        seed,
        settings.eval_episodes,
        settings.final_eval_episodes,
        settings.eval_max_steps,
        settings.best_by,
    )


def find_device(device: str) -> str:
    """`cpu` or `cuda`: what the configuration asks for, or for `auto` what there is."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _share(num_envs: int, batch: schema.BatchConfig) -> int:
    """This process's number of environments. Raises ValueError if they cannot be divided evenly."""
    size = distributed.world_size()
    share, rest = divmod(num_envs, size)
    if rest:
        raise ValueError(
            f"env.num_envs = {num_envs}; allowed is a multiple of {size}, the number of processes "
            "that share them"
        )
    if (samples := batch.rollout_steps * share) % batch.num_minibatches:
        raise ValueError(
            f"trainer.batch.num_minibatches = {batch.num_minibatches}; allowed is a divisor of {samples}, "
            f"the samples of each of {size} processes (rollout_steps {batch.rollout_steps} * {share} of the "
            "environments)"
        )
    return share


def default_run_dir(config: Config) -> Path:
    """`runs/<env>-<preset>/<date_time>-s<seed>`; two runs started in the same second get the same."""
    now = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    return Path("runs", f"{config.env.label}-{config.preset}", f"{now}-s{config.seed}")


def _folder(
    config: Config, run_dir: str | Path | RunFolder | None, state: Mapping[str, Any] | None
) -> RunFolder:
    if isinstance(run_dir, RunFolder):
        return run_dir
    if run_dir is None:
        return RunFolder.fresh(default_run_dir(config))
    folder = RunFolder(run_dir)
    if folder.content == "other files of our names" or (folder.content == "run" and state is None):
        raise ValueError(
            f"{folder.path} already holds a run, or files of the same names; choose another folder, or give "
            "the state of the run's checkpoint"
        )
    return folder
