"""`python -m trainer.evaluate checkpoint=...`: how good is a trained policy? `--help` explains."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table

from equipoise.trainer.configuration.arguments import CheckpointArguments
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Count, Seed
from equipoise.trainer.system.streams import lasting_streams

if TYPE_CHECKING:
    from equipoise.trainer.evaluation import Acting, Evaluation
    from equipoise.trainer.restore import Restored


class EvaluateArguments(CheckpointArguments):
    """Run the policy of a checkpoint on fresh episodes, deterministic and sampled. The checkpoint is all it
    needs.

    python -m trainer.evaluate checkpoint=runs/<run>/checkpoints/best.pt episodes=100 render=gif
    """

    env: Mapping[str, Any] = Field({}, description="env.<key>=<value>: the environment's settings, changed")
    episodes: Count = Field(100, description="of each policy")
    deterministic: bool | None = Field(
        None, description="true: likeliest choices and means alone; false: samples alone; null: both"
    )
    seed: Seed = Field(0, description="of the episodes; training never uses them")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    render: Literal["none", "gif"] = Field("none", description="gif: a film of the first episode")

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Self:
        """Raises `ConfigError`; prints the help and exits where it is asked for."""
        ours = [argument for argument in arguments if argument.startswith("env.")]
        parsed = super().parse([argument for argument in arguments if argument not in ours])
        if not ours:
            return parsed
        from equipoise.trainer.configuration.compose import values

        return parsed.model_copy(update={"env": values(ours)})


@lasting_streams()
def main() -> int:
    """The exit status: 0, or 2 for bad arguments, among them an environment that misbehaves."""
    try:
        arguments = EvaluateArguments.parse(sys.argv[1:])
        metrics = _evaluate(arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print_table(arguments, metrics)
    return 0


def print_table(arguments: EvaluateArguments, metrics: Mapping[str, float | str | None]) -> None:
    """The results as lines; deterministic and sampled side by side if both were measured."""
    both = arguments.deterministic is None
    how = "episodes of each policy" if both else f"{acting_of(arguments.deterministic)} episodes"
    table = Table(title=f"{arguments.checkpoint}: {arguments.episodes} {how}")
    table.add_column("metric")
    for column in ("deterministic", "sampled") if both else ("value",):
        table.add_column(column, justify="right")
    for name in dict.fromkeys(name.removeprefix("sampled_") for name in metrics):
        names = (name, f"sampled_{name}") if both else (name,)
        if any(metrics.get(each) is not None for each in names):  # some environments have no score
            table.add_row(name.replace("_", " "), *(_shown(metrics.get(each, "")) for each in names))
    Console().print(table)


def acting_of(deterministic: bool | None) -> Acting:
    """How to act under the setting `deterministic`."""
    return "both" if deterministic is None else "deterministic" if deterministic else "sampled"


def _evaluate(arguments: EvaluateArguments) -> dict[str, float | str | None]:
    # torch takes seconds to import: arguments first
    from equipoise.envs.gymnasium_adapter.guard import EnvError
    from equipoise.trainer.monitor.gif import encode_gif
    from equipoise.trainer.restore import restore

    restored = restore(arguments.checkpoint, arguments.device, arguments.allow, overrides=arguments.env)
    render = arguments.render == "gif"
    try:
        acting = acting_of(arguments.deterministic)
        result = measure(restored, arguments.episodes, arguments.seed, render, acting)
    except EnvError as error:
        raise ConfigError(str(error)) from error
    metrics: dict[str, float | str | None] = {**numbers(result)}
    most = restored.config.trainer.eval_max_steps
    for prefix, each in (("", result), ("sampled_", result.sampled)):
        if each is not None and each.unfinished:
            metrics[f"{prefix}episodes without an end in {most:,} steps"] = each.unfinished
    if render and not result.frames:
        raise ConfigError(
            "render = gif: the environment was made without a render mode (trainer.play gives it one)"
        )
    if render:
        path = arguments.beside(restored.path, ".gif")
        path.write_bytes(encode_gif(np.stack(result.frames), fps=8.0))
        metrics["film"] = str(path)
    return metrics


def measure(
    restored: Restored, episodes: int, seed: int, render: bool = False, acting: Acting = "both"
) -> Evaluation:
    """Run `episodes` episodes of each policy, on seeds from `seed` on that training never uses.

    Raises:
        EnvError: the environment misbehaves.
    """
    import torch

    from equipoise.envs.checked import close
    from equipoise.envs.process_wide import preserved
    from equipoise.trainer.evaluation import evaluate
    from equipoise.trainer.seeding import fresh_seed

    wanted = episodes * (2 if acting == "both" else 1)
    seed, most = fresh_seed(seed), restored.config.trainer.eval_max_steps
    threads = torch.get_num_threads()
    with preserved(seed):
        env = restored.make_env(min(wanted, restored.config.env.num_envs))
        # As in training: for networks this small, threads that wait for each other cost more than they bring.
        torch.set_num_threads(restored.config.threads)
        try:
            return evaluate(restored.policy, env, episodes, seed, restored.references, render, most, acting)
        finally:
            torch.set_num_threads(threads)
            close(env)


def numbers(result: Evaluation) -> dict[str, float | None]:
    """Everything that an evaluation measured, by name; None where the environment has no such number."""
    sampled = {} if result.sampled is None else numbers(result.sampled)
    return {
        "return_mean": result.return_mean,
        "return_std": result.return_std,
        "normalized_score": result.score,
        "success_rate": result.success_rate,
        "episode_length": sum(result.lengths) / len(result.lengths),
        **result.metrics,
        **{f"sampled_{name}": value for name, value in sampled.items()},
    }


def _shown(value: float | str | None) -> str:
    if value is None:
        return "n/a"
    return value if isinstance(value, str) else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
