"""`python -m trainer.clone source=...`: a policy learns from demonstrations. `--help` explains."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
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
    rounds: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="of recording; after the first the clone acts, and the teacher says what it would do"
    )
    epochs: Count = Field(40, description="of the last round; a quarter of it in those before")
    batch_size: Count = 512
    learning_rate: Positive = 3e-3


@lasting_streams()
def main() -> int:
    """The exit status: 0, 1 for a failed run, 2 for bad arguments, 128 + the number of a signal."""
    try:
        clone_run(*CloneArguments.parse_with_overrides(sys.argv[1:]))
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

    from equipoise.trainer.cloning import check_learner, clone

    trainer.recorder.first_look(trainer, trainer.evaluator.look())
    generator = torch.Generator(trainer.collector.env.device).manual_seed(trainer.config.seed)
    try:
        check_learner(trainer.policy)
        for shown, epochs in _lessons(trainer, arguments, allow):
            shown.save(to)
            trainer.recorder.message(f"{len(shown):,} demonstrations: {DEMONSTRATIONS}")

            def told(epoch: int, loss: float, agreement: float, epochs: int = epochs) -> None:
                said = f"epoch {epoch}/{epochs}  loss {loss:.3f}  agreement {agreement:.1%}"
                trainer.recorder.message(said)

            settings = epochs, arguments.batch_size, arguments.learning_rate
            clone(trainer.policy, shown, *settings, generator, told)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    result = trainer.evaluator.final()
    trainer.recorder.save(trainer.state_dict(), last=True, best=True)
    return trainer.recorder.finish(trainer, result)


def _lessons(
    trainer: Trainer, arguments: CloneArguments, allow: Sequence[str]
) -> Iterator[tuple[Demonstrations, int]]:
    """What is to be learned, and in how many epochs: all that was shown so far, once for each round."""
    from equipoise.trainer.demonstrations import Demonstrations, Recording, expert, trained
    from equipoise.trainer.minari_demonstrations import PREFIX, read_minari
    from equipoise.trainer.restore import restore
    from equipoise.trainer.seeding import training_seed

    env, policy, source = trainer.collector.env, trainer.policy, arguments.source
    if source != "expert" and Path(source).is_file() and Path(source).name == DEMONSTRATIONS:
        yield Demonstrations.load(source, env.device), arguments.epochs
        return
    if source.startswith(PREFIX):
        yield read_minari(source, env, policy.space), arguments.epochs
        return
    teacher = expert(env) if source == "expert" else trained(restore(source, "cpu", allow).policy)
    rounds, seed = arguments.rounds, training_seed(trainer.config.seed, 0)
    recording = Recording(env, policy.space, teacher, seed, arguments.detours)
    for number in range(rounds):
        student = trained(policy) if number else None
        last = number + 1 == rounds
        epochs = arguments.epochs if last else max(arguments.epochs // 4, 1)
        yield recording.more(-(-arguments.samples // rounds), student), epochs


if __name__ == "__main__":
    sys.exit(main())
