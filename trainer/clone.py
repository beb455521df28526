"""`python -m trainer.clone source=...`: a policy learns from demonstrations. `--help` explains."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from equipoise.trainer.configuration.arguments import Arguments, take_allowed
from equipoise.trainer.configuration.compose import compose_run
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Count, Positive
from equipoise.trainer.continuation import begun
from equipoise.trainer.run import outcome
from equipoise.trainer.session import built
from equipoise.trainer.system.run_folder import RunFolder
from equipoise.trainer.system.streams import lasting_streams

if TYPE_CHECKING:
    from equipoise.trainer.demonstrations import Demonstrations
    from equipoise.trainer.loop import Trainer
    from equipoise.trainer.monitor.summary import Summary

DEMONSTRATIONS = "demonstrations.pt"


class CloneArguments(Arguments):
    """Teach a new policy what a teacher does, without any reward. All other arguments are those of a run.

    python -m trainer.clone env=goal source=expert samples=50_000
    python -m trainer.run env=goal init_from=runs/<that run>

    The run's folder gets demonstrations.pt, from which training may go on learning, less and less:
    trainer.stages=[...,imitation] trainer.imitation.demonstrations=<file>
    """

    source: str = Field(
        description="expert, a checkpoint or run folder, a file of demonstrations, or minari:<dataset>"
    )
    samples: Count = Field(50_000, description="demonstrations to record")
    detours: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="share of steps in which something else is done than is shown"
    )
    epochs: Count = 20
    batch_size: Count = 512
    learning_rate: Positive = 1e-3


@lasting_streams()
def main() -> int:
    """The exit status: 0, 1 for a failed run, 2 for bad arguments, 128 + the number of a signal."""
    known = tuple(f"{name}=" for name in CloneArguments.model_fields)
    ours = [a for a in sys.argv[1:] if a.startswith(known) or a.startswith("-")]
    try:
        arguments = CloneArguments.parse(ours)
        clone_run(arguments, [a for a in sys.argv[1:] if a not in ours])
    except BaseException as error:
        message, status = outcome(error)
        if message:
            print(message, file=sys.stderr)
        return status
    return 0


def clone_run(arguments: CloneArguments, overrides: Sequence[str]) -> None:
    """Record, clone, evaluate, and leave a run's folder. Raises `ConfigError`."""
    overrides, allow = take_allowed(overrides)
    composed = compose_run(overrides)
    with begun(composed.config, RunFolder(composed.run_dir), composed.dated) as plan:
        from equipoise.trainer.monitor.progress import closing_table

        with (
            closing(built(plan)) as trainer,
            trainer.interruption,
            trainer.recorder.session(trainer),
            trainer.interruption.at_once(),
        ):
            summary = _teach(trainer, arguments, plan.folder.path / DEMONSTRATIONS, allow)
        closing_table(summary, plan.folder.path)


def _teach(trainer: Trainer, arguments: CloneArguments, to: Path, allow: Sequence[str]) -> Summary:
    import torch

    from equipoise.trainer.cloning import clone

    trainer.recorder.first_look(trainer, trainer.evaluator.look())
    shown = _demonstrations(trainer, arguments, allow)
    shown.save(to)
    trainer.recorder.message(f"{len(shown):,} demonstrations: {DEMONSTRATIONS}")

    def told(epoch: int, loss: float, agreement: float) -> None:
        trainer.recorder.message(
            f"epoch {epoch}/{arguments.epochs}  loss {loss:.3f}  agreement {agreement:.1%}"
        )

    generator = torch.Generator(shown.observations.device).manual_seed(trainer.config.seed)
    settings = arguments.epochs, arguments.batch_size, arguments.learning_rate
    try:
        clone(trainer.policy, shown, *settings, generator, told)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    result = trainer.evaluator.final()
    trainer.recorder.save(trainer.state_dict(), last=True, best=True)
    return trainer.recorder.finish(trainer, result)


def _demonstrations(trainer: Trainer, arguments: CloneArguments, allow: Sequence[str]) -> Demonstrations:
    """From the file or the dataset, or recorded in the environments of the run."""
    from equipoise.trainer.demonstrations import Demonstrations, expert, record, trained
    from equipoise.trainer.minari_demonstrations import PREFIX, read_minari
    from equipoise.trainer.restore import restore
    from equipoise.trainer.seeding import training_seed

    env, source = trainer.collector.env, arguments.source
    try:
        if source != "expert" and Path(source).is_file() and Path(source).name == DEMONSTRATIONS:
            return Demonstrations.load(source, env.device)
        if source.startswith(PREFIX):
            return read_minari(source, env, trainer.policy.space)
        teacher = expert(env) if source == "expert" else trained(restore(source, "cpu", allow).policy)
        seed = training_seed(trainer.config.seed, 0)
        return record(env, trainer.policy.space, teacher, arguments.samples, seed, arguments.detours)
    except ValueError as error:
        raise ConfigError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
