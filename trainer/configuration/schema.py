"""The configuration of a run: what keys there are, their types, ranges and meaning, and how they are checked.

Hydra composes `conf/` into a plain dictionary; `check` turns it into a `Config` or raises one `ConfigError`
that lists everything wrong with it. Required keys have no defaults here: `conf/` holds them all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from equipoise.trainer.configuration.annotations import as_whole
from equipoise.trainer.configuration.constructors import MISSING, TARGET, check_section, is_section
from equipoise.trainer.configuration.errors import (
    ConfigError,
    Problem,
    bad_value,
    key_names,
    missing,
    nearest,
    problems_of,
    unknown,
)
from equipoise.trainer.configuration.imports import refuse_foreign, used_parts
from equipoise.trainer.configuration.loggers import LOGGERS, as_section, as_written
from equipoise.trainer.configuration.loggers import problems as logger_problems
from equipoise.trainer.configuration.older import with_later_settings
from equipoise.trainer.configuration.own_names import with_own_names
from equipoise.trainer.configuration.roles import CALLBACK, ENV, LOGGER, OPTIMIZER, POLICY, STAGE, Role

Fraction = Annotated[float, Field(ge=0, le=1)]
# The bounds of `envs.arguments`, whose import would bring Gymnasium.
LARGEST, LARGEST_COUNT = 1e30, 10**15
Factor = Annotated[float, Field(ge=0, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Size = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, le=10**15)]
"""A thousand streams are made from each, and PyTorch takes 64 bits."""

_DEFAULTS = {"policy": {TARGET: "equipoise.trainer.policy.actor_critic.ActorCritic"}}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _normalize(cls, raw: Any) -> Any:
        """What YAML cannot tell apart: `1e6` and 1000000, a list and a tuple. `???` counts as missing."""
        if not isinstance(raw, dict):
            return raw
        fields = cls.model_fields
        hints = {key: fields[key].annotation if key in fields else None for key in raw}
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
        return {key: as_whole(value, hints[key]) for key, value in given.items() if value != MISSING}


class ComponentConfig(Section):
    """A class and the keywords to call it with (`trainer.build` adds what it supplies itself).

    Keywords may hold sections with a `_target_` of their own.
    """

    target: str = Field(alias="_target_", description="package.module.Class")
    keywords: dict[str, Any] = Field(description="for its constructor")

    def plain(self) -> dict[str, Any]:
        """The section as it is written in YAML."""
        own = self.model_dump(mode="json", by_alias=True)
        keywords: dict[str, Any] = own.pop("keywords")
        return {**own, **keywords}


class EnvConfig(ComponentConfig):
    name: str | None = Field(None, description="label of the run folder; null: env.id, or the class's name")
    num_envs: Size = Field(description="environments that step together")

    @property
    def label(self) -> str:
        return env_label({"_target_": self.target, "name": self.name, **self.keywords})


class OptimizerConfig(ComponentConfig):
    learning_rate: Positive = Field(description="at the start; the constructor's lr")
    anneal: bool = Field(True, description="the learning rate falls to 0 over the run, linearly")
    desired_kl: Positive | None = Field(
        None,
        description="the learning rate follows the KL of the updates instead: times 1.5 below half of this, "
        "divided by 1.5 above twice; null: it does not",
    )
    log_std_multiplier: Annotated[float, Field(ge=0, le=100)] = Field(
        1.0, description="the learning rate of log σ is this many times the others'"
    )
    learning_rate_min: Positive = Field(1e-5, description="bound of a rate that follows the KL")
    learning_rate_max: Positive = Field(1e-2, description="bound of a rate that follows the KL")


class PolicyLossWeights(Section):
    discrete_weight: Factor = Field(description="importance of the discrete decisions")
    continuous_weight: Factor = Field(description="importance of the parameters")


class BatchConfig(Section):
    rollout_steps: Size = Field(description="steps of each environment in one iteration")
    update_epochs: Size = Field(description="passes over each rollout")
    num_minibatches: Size = Field(description="optimizer steps in a pass; divides rollout_steps * num_envs")


USUAL_DISCOUNT = 0.99


class TrainerConfig(Section):
    total_env_steps: Count = Field(description="length of the run, over all environments and processes")
    schedule_steps: Count | None = Field(
        description="steps over which learning rate and coefficients change; null: the whole run"
    )
    gamma: Fraction | None = Field(
        description="discount; null: 1 - 2/T between 0.9 and 0.99, where T is the time limit of an episode"
    )
    gae_lambda: Fraction
    clip_epsilon: Positive = Field(description="PPO's clip range")
    value_coefficient: Factor
    max_grad_norm: Positive = Field(description="global clip of the gradient")
    ratio: Literal["per_decision", "per_type"] = Field(description="what one PPO ratio is taken over")
    reduction: Literal["common", "active"] = Field(
        description="both surrogates over one divisor, or each over its own active decisions"
    )
    continuous_gradient: Literal["score", "pathwise", "auto"] = Field(
        description="how parameters learn: by their log-probabilities, as PPO has it; by the derivative of "
        "the return through an environment written in PyTorch; or by what a measurement says of both",
    )
    pathwise_horizon: Count = Field(description="steps that are differentiated at once")
    pathwise_clip: Positive = Field(
        description="how far a parameter, with auto a whole action, may be moved in one iteration, in σ"
    )
    pathwise_cross_term: bool = Field(
        description="differentiate also how parameters move the probabilities of later choices"
    )
    target_kl: Annotated[float, Field(gt=0)] | None = Field(
        description="end the epochs early beyond this KL; null: never"
    )
    normalize_values: bool = Field(description="critic learns normalised targets")
    eval_every: CountOrZero = Field(description="iterations between evaluations; 0: only at the end")
    eval_episodes: Count = Field(
        description="episodes of such an evaluation, for each of the two policies, deterministic and sampled"
    )
    final_eval_episodes: Count = Field(description="episodes of the evaluation at the end, for each as well")
    best_by: Literal["deterministic", "sampled"] = Field(
        description="whose return says which policy is kept in best.pt, and how runs are ranked"
    )
    eval_max_steps: Count = Field(
        description="steps of each environment in an evaluation; what has not ended then counts as it is"
    )
    checkpoint_every: Count = Field(description="iterations between writing last.pt")
    keep_every: CountOrZero = Field(description="iterations between numbered checkpoints; 0: none")
    keep_max: Count = Field(description="how many numbered checkpoints stay")
    on_save_error: Literal["stop", "warn"] = Field(
        description="when the run folder cannot be written (disk full): end the run, or go on and try again"
    )
    max_bad_updates: Count = Field(description="non-finite updates in a row that end the run")
    compile: Literal["none", "default", "cudagraphs"] = Field(
        description="default: PyTorch compiles steps of the rollout and whole updates, which takes a minute "
        "the first time and seconds from then on; cudagraphs: on a GPU, each is also launched as a whole"
    )
    policy_loss_weights: PolicyLossWeights
    batch: BatchConfig
    stages: tuple[str, ...] = Field(min_length=1, description="names of sections, in order")
    sections: dict[str, ComponentConfig] = Field(description="a section with a _target_ for each stage")

    @property
    def discount(self) -> float:
        """`gamma`, or the usual one where it is null and no time limit of episodes is known."""
        return USUAL_DISCOUNT if self.gamma is None else self.gamma


class Config(Section):
    """A checked configuration. `sections` and `keywords` are the only names that differ from the YAML."""

    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(description="of the CPU, for each process")
    preset: str = Field(description="set by the group preset")
    experiment: str | None = Field(None, description="set by the group experiment")
    resume: str | None = Field(
        None,
        description="run folder or checkpoint to continue, needs nothing else; auto: the run in "
        "hydra.run.dir, or a new one there",
    )
    init_from: str | None = Field(
        None, description="run folder or checkpoint whose weights, as far as they fit, a new run starts from"
    )
    env: EnvConfig
    policy: ComponentConfig
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    callbacks: tuple[ComponentConfig, ...] = Field(
        (),
        description="sections with a _target_: what watches the run, stops it early or changes its "
        "environment",
    )
    loggers: tuple[ComponentConfig, ...] = Field(
        (
            ComponentConfig(_target_=LOGGERS["tensorboard"], keywords={}),
            ComponentConfig(_target_=LOGGERS["jsonl"], keywords={}),
        ),
        description=f"what takes in the metrics: {', '.join(LOGGERS)}, or sections with a _target_",
    )
    _typed: tuple[str, ...] = PrivateAttr(())

    @property
    def typed(self) -> tuple[str, ...]:
        """The `key=value` arguments that it was composed from, and the keys that Python has set; for logs,
        and no part of it."""
        return self._typed

    def with_typed(self, arguments: Iterable[str]) -> Config:
        """The same configuration, composed from these arguments."""
        config = self.model_copy()
        config._typed = tuple(arguments)
        return config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.plain() == other.plain()

    @property
    def stages(self) -> dict[str, ComponentConfig]:
        """The stages to build, in their order. Sections that `trainer.stages` does not name are left out."""
        return {name: self.trainer.sections[name] for name in self.trainer.stages}

    def plain(self) -> dict[str, Any]:
        """The dictionary that `check` accepts again: for YAML, checkpoints and logs."""
        raw = self.model_dump(
            mode="json", by_alias=True, exclude={"env", "policy", "optimizer", "callbacks", "loggers"}
        )
        sections = {name: section.plain() for name, section in self.trainer.sections.items()}
        del raw["trainer"]["sections"]
        parts = {"env": self.env, "policy": self.policy, "optimizer": self.optimizer}
        return {
            **raw,
            **{name: part.plain() for name, part in parts.items()},
            "callbacks": [callback.plain() for callback in self.callbacks],
            "loggers": [as_written(logger.plain()) for logger in self.loggers],
            "trainer": {**raw["trainer"], **sections},
        }


def check(raw: Mapping[str, Any], allow: Collection[str] | None = None, *, acting: bool = False) -> Config:
    """The composed configuration `raw` as a `Config`; builds nothing.

    Args:
        raw: composed from files and arguments, or taken from a checkpoint.
        allow: None: `raw` is the user's own and may name any code. Else it comes from a checkpoint: it may
            name only this package's code and these modules, and what it does not use is not looked at.
        acting: the policy is to act, not to learn: stages, callbacks and the optimizer are not used.

    Raises:
        ConfigError: for all that is wrong with it.
    """
    raw = with_own_names(raw)
    used = used_parts(raw, acting)
    if allow is not None:
        refuse_foreign(used, allow)
        raw = with_later_settings(raw)
    nested, problems = dict(raw), []
    for key, role, model in (
        ("env", ENV, EnvConfig),
        ("policy", POLICY, ComponentConfig),
        ("optimizer", OPTIMIZER, OptimizerConfig),
    ):
        if isinstance(section := nested.get(key), Mapping):
            checked = role if allow is None or key in used else None
            nested[key], wrong = _nest(key, {**_DEFAULTS.get(key, {}), **section}, checked, model)
            problems += wrong
    looked_at = allow is None or not acting
    problems += _nest_list(nested, "callbacks", CALLBACK if looked_at else None)
    problems += _nest_loggers(nested, LOGGER if looked_at else None)
    problems += _nest_sections(nested, used if allow is not None else None)
    try:
        config = Config.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(*_without_echoes([*problems_of(error, Config, nested), *problems])) from None
    problems += _device(config)
    if not acting:
        problems += _contradictions(config, {problem.key for problem in problems})
    if problems:
        raise ConfigError(*problems)
    return config


def check_policy(raw: object, allow: Collection[str]) -> ComponentConfig:
    """The section `policy` of a checkpoint's configuration alone. Raises `ConfigError`."""
    if not isinstance(raw, Mapping):
        raise ConfigError("the checkpoint's configuration has no section policy")
    section = {**_DEFAULTS.get("policy", {}), **with_own_names(raw)}
    refuse_foreign({"policy": section}, allow)
    nested, problems = _nest("policy", section, POLICY, ComponentConfig)
    if problems:
        raise ConfigError(*problems)
    return ComponentConfig.model_validate(nested)


def env_label(env: Mapping[str, Any]) -> str:
    """What run folders and summaries call an environment."""
    name = env.get("name") or env.get("id") or env.get("make")
    name = name or str(env.get("_target_", "env")).rpartition(".")[2]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in str(name))


def _nest(
    key: str, section: Mapping[str, Any], role: Role | None, model: type[ComponentConfig]
) -> tuple[dict[str, Any], list[Problem]]:
    """A section with its constructor's keywords moved together, and what is wrong with those.

    Without a role its class is not looked at.
    """
    keywords = {name: value for name, value in section.items() if value != MISSING}
    own = {name: keywords.pop(name) for name in key_names(model) if name in keywords}
    problems: list[Problem] = []
    if role is not None and is_section(own):
        keywords, problems = check_section(key, {TARGET: own[TARGET], **keywords}, role)
        del keywords[TARGET]
    return {**own, "keywords": keywords}, problems


def _nest_loggers(raw: dict[str, Any], role: Role | None) -> list[Problem]:
    """The same for loggers, which have short names."""
    found = raw.get("loggers")
    if isinstance(found, list | tuple):
        if wrong := list(logger_problems(found) if role is not None else ()):
            del raw["loggers"]
            return wrong
        raw["loggers"] = [as_section(logger) for logger in found]
    elif found is not None:
        del raw["loggers"]
        return [bad_value("loggers", found, "a list, such as [tensorboard, jsonl, csv]")]
    return _nest_list(raw, "loggers", role)


def _nest_list(raw: dict[str, Any], key: str, role: Role | None) -> list[Problem]:
    """The same for each section of a list."""
    found, problems = raw.get(key), []
    if isinstance(found, list | tuple) and all(is_section(section) for section in found):
        raw[key] = []
        for index, section in enumerate(found):
            nested, wrong = _nest(f"{key}[{index}]", section, role, ComponentConfig)
            raw[key].append(nested)
            problems += wrong
    elif found is not None:
        raw.pop(key)
        problems.append(bad_value(key, found, "a list of sections with a _target_"))
    return problems


def _nest_sections(raw: dict[str, Any], used: Collection[str] | None) -> list[Problem]:
    """The same for every section of `raw["trainer"]` that has a `_target_`; `used`: looked at, None: all."""
    if not isinstance(raw.get("trainer"), Mapping):
        return []
    trainer = dict(raw["trainer"])
    known = [name for name in TrainerConfig.model_fields if name != "sections"]
    extra = {name: trainer.pop(name) for name in list(trainer) if name not in known}
    sections, problems = {}, []
    for name, section in extra.items():
        if is_section(section):
            role = STAGE if used is None or f"trainer.{name}" in used else None
            sections[name], wrong = _nest(f"trainer.{name}", section, role, ComponentConfig)
            problems += wrong
        elif name in (trainer.get("stages") or ()):
            problems.append(bad_value(f"trainer.{name}", section, "a section with a _target_"))
        else:
            named = [n for n, s in extra.items() if isinstance(s, Mapping) and TARGET in s]
            problems.append(unknown(f"trainer.{name}", section, [*known, *named]))
    raw["trainer"] = {**trainer, "sections": sections}
    return problems


def _without_echoes(problems: list[Problem]) -> list[Problem]:
    """Drop the second report of a value that one key takes from another of the same name."""
    first: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.key.rpartition(".")[2], problem.complaint), problem)
    return list(first.values())


def _contradictions(config: Config, bad: Collection[str]) -> Iterator[Problem]:
    """Keys that are fine by themselves and wrong together; `bad` are those that are not fine."""
    keywords = config.env.keywords
    if {"id", "make"} <= keywords.keys() and keywords["id"] is None and keywords["make"] is None:
        yield missing("env.id", "given, as gymnasium.make takes it, or env.make=module:callable")
    trainer, batch = config.trainer, config.trainer.batch
    weights = trainer.policy_loss_weights
    if weights.discrete_weight == weights.continuous_weight == 0:
        yield Problem("trainer.policy_loss_weights", ": both weights are 0; at least one must be > 0")
    yield from _learning_rate(config.optimizer)
    yield from _stage_list(trainer, bad)
    samples = batch.rollout_steps * config.env.num_envs
    if samples < 2:
        why = f"at least 2 with num_envs = {config.env.num_envs}: advantages are compared with each other"
        yield bad_value("trainer.batch.rollout_steps", batch.rollout_steps, why)
    if samples % batch.num_minibatches:
        fits = ", ".join(map(str, _nearest_divisors(samples, batch.num_minibatches)))
        product = f"rollout_steps * num_envs ({batch.rollout_steps} * {config.env.num_envs} = {samples})"
        yield bad_value(
            "trainer.batch.num_minibatches", batch.num_minibatches, f"a divisor of {product}: {fits}"
        )
    for name, section in trainer.sections.items():
        if not any(key.startswith(f"trainer.{name}.") for key in bad):
            yield from _scaling(f"trainer.{name}", section.keywords, batch)
            yield from _base_weights(f"trainer.{name}", section.keywords, weights)
            unshared = config.policy.keywords.get("shared_trunk") is False
            if section.keywords.get("norm_parameters") == "shared" and unshared:
                why = "all: policy.shared_trunk = false leaves no parameters that both sides share"
                yield bad_value(f"trainer.{name}.norm_parameters", "shared", why)


def _learning_rate(optimizer: OptimizerConfig) -> Iterator[Problem]:
    if optimizer.desired_kl is None:
        return
    if optimizer.anneal:
        why = "false with optimizer.desired_kl, which sets the learning rate"
        yield bad_value("optimizer.anneal", True, why)
    low, high = optimizer.learning_rate_min, optimizer.learning_rate_max
    if not low <= optimizer.learning_rate <= high:
        why = f"between learning_rate_min ({low:g}) and learning_rate_max ({high:g})"
        yield bad_value("optimizer.learning_rate", optimizer.learning_rate, why)


def _device(config: Config) -> Iterator[Problem]:
    if config.device == "cuda":
        import torch  # not needed, and slow to load, for any other check

        if not torch.cuda.is_available():
            yield bad_value("device", "cuda", "auto or cpu: PyTorch finds no usable CUDA device here")


def _stage_list(trainer: TrainerConfig, bad: Collection[str]) -> Iterator[Problem]:
    for name in dict.fromkeys(trainer.stages):
        if trainer.stages.count(name) > 1:
            yield bad_value(
                "trainer.stages", list(trainer.stages), f"without repetition; {name} is listed twice"
            )
        if name not in trainer.sections and f"trainer.{name}" not in bad:
            match = nearest(name, trainer.sections)
            hint = f"; did you mean {match}?" if match else ""
            names = ", ".join(trainer.sections)
            yield bad_value("trainer.stages", name, f"a section of trainer with a _target_: {names}{hint}")


def _base_weights(key: str, keywords: Mapping[str, Any], weights: PolicyLossWeights) -> Iterator[Problem]:
    """The stage's base weights are those that the loss starts from: two sources would contradict silently."""
    for name in ("discrete_weight", "continuous_weight"):
        given, meant = keywords.get(name), getattr(weights, name)
        if given is not None and given != meant:
            yield bad_value(
                f"{key}.{name}", given, f"left to trainer.policy_loss_weights.{name}, now {meant}"
            )


def _scaling(key: str, keywords: Mapping[str, Any], batch: BatchConfig) -> Iterator[Problem]:
    low, high = keywords.get("min_scaling_factor"), keywords.get("max_scaling_factor")
    if low is not None and high is not None and low > high:
        yield bad_value(f"{key}.min_scaling_factor", low, f"≤ max_scaling_factor, which is {high}")
    updates = batch.update_epochs * batch.num_minibatches
    product = f"update_epochs * num_minibatches ({batch.update_epochs} * {batch.num_minibatches})"
    for name in ("measure_every", "audit_every"):
        every = keywords.get(name)
        if every and math.gcd(every, updates) > 1:
            # A common divisor would measure the same few minibatches of every iteration, for ever.
            good = next(k for k in range(every + 1, every + updates + 2) if math.gcd(k, updates) == 1)
            yield bad_value(f"{key}.{name}", every, f"coprime to {product}; the next that is: {good}")


def _nearest_divisors(number: int, wanted: int) -> list[int]:
    """The largest divisor of `number` below `wanted` and the smallest above it."""
    below = next(d for d in range(min(wanted, number), 0, -1) if number % d == 0)
    above = next((d for d in range(wanted + 1, number + 1) if number % d == 0), None)
    return [below] if above is None else [below, above]
