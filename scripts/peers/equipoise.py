"""This project: the whole loop of a run, with its six systems on and its log on the disk.

On the synthetic task everything is as `python -m trainer.run env=synthetic` has it (three reward components,
scaling on, the default `measure_every`), but for the sizes. On a Gymnasium environment it is the adapter's
default, `env=gymnasium`, with the task's sizes. `reach` takes the committed
experiment, with 60,000 steps to lower the learning rate over, as it is about getting there soon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from equipoise.envs.protocol import NativeAction, Timestep
from equipoise.scripts.peers.task import Episodes, Goal, Task
from equipoise.scripts.speed.timing import Loop
from equipoise.trainer.build import build as build_trainer
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.monitor.run_log import RunLog

PACKAGES = ("equipoise", "torch", "numpy", "gymnasium")
CARTPOLE = ("env=gymnasium", "experiment=cartpole", "trainer.schedule.env_steps=60_000", "device=cpu")
ACROSS = 5
"""The default `measure_every`; it must not divide the updates of an iteration."""


def build(task: Task, overrides: Sequence[str] = ()) -> Callable[[], None]:
    env = ["env=synthetic"] if task.env == "synthetic" else ["env=gymnasium", f"env.id={task.env}"]
    sizes = [
        f"env.num_envs={task.envs}",
        f"trainer.batch.rollout_steps={task.steps}",
        f"trainer.batch.update_epochs={task.epochs}",
        f"trainer.batch.num_minibatches={task.minibatches}",
        f"optimizer.learning_rate={task.learning_rate}",
        f"trainer.gamma={task.gamma}",
        f"trainer.gae_lambda={task.gae_lambda}",
        "device=cpu",
    ]
    if task.epochs * task.minibatches % ACROSS == 0:
        sizes.append("trainer.gradient_scaling.measure_every=7")
    return Loop([*env, *sizes, *overrides], Path("run"))


def reach(seed: int, goal: Goal) -> int | None:
    """Environment steps until the goal is reached, looked at after each iteration."""
    config = compose([*CARTPOLE, f"seed={seed}"])
    run_dir = Path(f"seed-{seed}")
    trainer = build_trainer(config, run_dir)
    env, total = trainer.collector.env, trainer.schedule.env_steps
    episodes, step = Episodes(env.num_envs, goal), env.step

    def watched(action: NativeAction) -> Timestep:
        timestep = step(action)
        episodes.add(timestep.rewards[:, 0], timestep.terminated | timestep.truncated)
        return timestep

    env.step = watched  # type: ignore[method-assign]
    iterations = total // (config.trainer.batch.rollout_steps * config.env.num_envs)
    with redirect_stdout(StringIO()), RunLog(config, run_dir, 0, 0, total, iterations) as log:
        while trainer.env_steps < total and not episodes.reached:
            figures = trainer.iterate()
            log.record(trainer.iteration, trainer.env_steps, figures)
    return trainer.env_steps if episodes.reached else None
