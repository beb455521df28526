"""The configuration of a run: what keys there are, their types, ranges and meaning.

Hydra composes `conf/` into a plain dictionary, which `checking.check` turns into a `Config`. Required keys
have no defaults here: `conf/` holds them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from equipoise.trainer.configuration.annotations import as_whole
from equipoise.trainer.configuration.constructors import MISSING
from equipoise.trainer.configuration.loggers import LOGGERS, as_written

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


def env_label(env: Mapping[str, Any]) -> str:
    """What run folders and summaries call an environment."""
    name = env.get("name") or env.get("id") or env.get("make")
    name = name or str(env.get("_target_", "env")).rpartition(".")[2]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in str(name))
