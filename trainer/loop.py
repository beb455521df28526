"""The training loop: collect, learn, log, evaluate, save, until the steps are done or somebody says stop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import BatchedEnv
from equipoise.envs.references import References
from equipoise.trainer.compilation.compiling import Compiling
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.data import Metric, Metrics, Rollout
from equipoise.trainer.evaluation import SEED_OFFSET, Evaluation, evaluate
from equipoise.trainer.learner import Learner
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.monitor.balance import BalanceRecord
from equipoise.trainer.monitor.failure import REPORT, forget_the_end, record_the_end
from equipoise.trainer.monitor.layout import SPREAD
from equipoise.trainer.monitor.run_log import RunLog
from equipoise.trainer.monitor.summary import git_revision, versions
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.process_state import State, check_parameters, states_of_others
from equipoise.trainer.rollout import Collector, check_finite, episode_means
from equipoise.trainer.system import distributed
from equipoise.trainer.system.checkpoint import CheckpointError, Checkpoints
from equipoise.trainer.system.interruption import Interrupted, Interruption

FINAL_SEED = 2 * SEED_OFFSET
"""The closing evaluation must not see the episodes by which `best.pt` was chosen."""

ECHO = 5.0
"""Seconds: a signal to all processes of a job (of SLURM, say) comes again, passed on by `torchrun`."""


class DivergenceError(RuntimeError):
    """Updates were not finite, too many in a row. `details`: what was not, and where."""

    def __init__(self, message: str, details: list[str]) -> None:
        super().__init__(message)
        self.details = details


class Trainer:
    """A run: everything that `trainer.build` has put together, and the loop around it."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        policy: ActorCritic,
        collector: Collector,
        learner: Learner,
        make_env: Callable[[int], BatchedEnv],
        references: References | None,
    ) -> None:
        self.config, self.run_dir = config, run_dir
        self.policy, self.collector, self.learner = policy, collector, learner
        self.references = references
        self.iteration = self.env_steps = 0
        self.seconds = 0.0
        self.best_return = -math.inf
        self.balance = BalanceRecord()
        self.log = MetricLog(SPREAD)
        self.interrupted_by: signal.Signals | None = None
        self._bad: list[str] = []
        self._make_env = make_env
        self._eval_env: BatchedEnv | None = None
        self._samples = config.trainer.batch.rollout_steps * config.env.num_envs

    @property
    def total_env_steps(self) -> int:
        """Whole iterations: the requested number, rounded up."""
        return math.ceil(self.config.trainer.total_env_steps / self._samples) * self._samples

    def train(self) -> dict[str, Any]:
        """Run to the end, or until a signal; returns what `summary.json` holds.

        However the run ends, `summary.json` tells; `failure.txt` explains an error, which is raised again.
        Of several processes the first one does all this, and the others only train.
        """
        total = self.total_env_steps
        with Interruption(ECHO if distributed.world_size() > 1 else 0.0) as interruption:
            if distributed.rank() > 0:
                return self._train_along(interruption)
            forget_the_end(self.run_dir)
            try:
                with RunLog(
                    self.config, self.run_dir, self.iteration, self.env_steps, total, total // self._samples
                ) as run_log:
                    return self._train(interruption, run_log)
            except BaseException as error:
                record_the_end(self.run_dir, error, self.summary(None))
                raise

    def _train(self, interruption: Interruption, run_log: RunLog) -> dict[str, Any]:
        settings = self.config.trainer
        checkpoints = Checkpoints(self.run_dir / "checkpoints", settings.keep_every, settings.keep_max)
        if self.iteration and self.collector.notice is not None:
            run_log.message(f"resume: {self.collector.notice}")
        if not self.iteration and self.policy.space.num_continuous:
            run_log.message(self.policy.space.describe())
        if any(compiling.notice is None for compiling in self.compiling):
            run_log.message(
                f"trainer.compile = {settings.compile}: the first iterations take longer, up to a minute if "
                "nothing was kept from an earlier run"
            )
        while self._goes_on(interruption):
            metrics = self.iterate()
            better = False
            others = self._states_of_others()
            if self._evaluates:
                evaluated, better = self._evaluate()
                metrics |= evaluated
            self._tell_skipped(metrics, run_log)
            self._tell_compiled(run_log)
            # The log first: a checkpoint must never be ahead of it, or a resumed run would leave a gap.
            with self._writing(run_log):
                run_log.record(self.iteration, self.env_steps, metrics)
            if better:
                self._save_best(checkpoints, run_log, others)
            if self._saves:
                self._save_last(checkpoints, run_log, others)
        others = states_of_others(self.collector, self.learner)
        self._save_last(checkpoints, run_log, others)
        result = (
            None
            if self.interrupted_by
            else self._final_evaluation(interruption, run_log, checkpoints, others)
        )
        summary = self.summary(result)
        with self._writing(run_log):
            run_log.finish(summary, self.env_steps)
        return summary

    def _train_along(self, interruption: Interruption) -> dict[str, Any]:
        """What the other processes do: the same iterations, in step with the first one's."""
        while self._goes_on(interruption):
            self.iterate()
            self._states_of_others()
        states_of_others(self.collector, self.learner)
        return self.summary(None)

    def _goes_on(self, interruption: Interruption) -> bool:
        """Whether there is more to do. A signal that any process got ends all of them after one iteration."""
        agreed = int(distributed.all_reduce_max(torch.tensor(interruption.signal or 0)))
        self.interrupted_by = signal.Signals(agreed) if agreed else None
        return not agreed and self.env_steps < self.total_env_steps

    def close(self) -> None:
        """Let go of the environments and their processes."""
        for env in (self.collector.env, self._eval_env):
            if env is not None:
                env.close()

    @contextmanager
    def _writing(self, run_log: RunLog) -> Iterator[None]:
        """Around all that goes to the disk: where that fails, `trainer.on_save_error` says what happens."""
        try:
            yield
        except (CheckpointError, OSError) as error:
            what = str(error)
            if isinstance(error, OSError):
                what = f"cannot write to {self.run_dir}: {error.strerror or error}"
            if self.config.trainer.on_save_error == "stop":
                raise CheckpointError(f"{what} (trainer.on_save_error = warn would go on)") from error
            run_log.message(f"WARNING: {what}; the run goes on (trainer.on_save_error = warn)")

    def _save_last(self, checkpoints: Checkpoints, run_log: RunLog, others: list[State]) -> None:
        with self._writing(run_log):
            run_log.sync()
            checkpoints.last(self.state_dict(others), self.iteration)

    def _save_best(self, checkpoints: Checkpoints, run_log: RunLog, others: list[State]) -> None:
        with self._writing(run_log):
            run_log.sync()
            checkpoints.best(self.state_dict(others))

    def iterate(self) -> dict[str, float]:
        """One iteration: a rollout and what is learned from it. Returns its metrics by tag."""
        started = time.perf_counter()
        done = self.env_steps / self.total_env_steps
        if self.config.optimizer.anneal:
            self.learner.set_learning_rate(self.config.optimizer.learning_rate * (1.0 - done))
        with distributed.failing_together():
            rollout, steps = self._collect()
        self.log.add(episode_means(steps))
        collected = time.perf_counter()
        self.learner.run(rollout, done, self.log)
        norm = torch.linalg.vector_norm(self.learner.flat.vector.detach(), dtype=torch.float64)
        self.log.add(
            {
                "optimizer/learning_rate": Metric(self.learner.learning_rate, "last"),
                "optimizer/parameter_norm": Metric(norm, "last"),
            }
        )
        metrics = self.log.read()
        self.learner.check_targets()
        self._check_updates(metrics)
        check_parameters(self.policy, self.learner.flat.vector, self.iteration + 1)
        self.iteration += 1
        self.env_steps += self._samples
        ended = time.perf_counter()
        self.seconds += ended - started
        self.balance.add(self.env_steps, self.total_env_steps, metrics)
        return metrics | {
            "time/steps_per_second": self._samples / (ended - started),
            "time/collect": collected - started,
            "time/update": ended - collected,
        }

    def _collect(self) -> tuple[Rollout, list[Metrics]]:
        names = self.collector.env.reward_names
        try:
            rollout, steps = self.collector.collect()
        except EnvError:
            # What it chokes on may be the action for an observation that was not finite.
            check_finite(self.collector.rollout, names, self.env_steps)
            raise
        check_finite(rollout, names, self.env_steps)
        return rollout, steps

    def _check_updates(self, metrics: Mapping[str, float]) -> None:
        """End a run whose updates are all being skipped: it would go on for ever and learn nothing."""
        skipped, limit = metrics["optimizer/skipped_in_a_row"], self.config.trainer.max_bad_updates
        # A NaN is no metric and leaves none behind.
        finite = math.isfinite(metrics.get("optimizer/parameter_norm", math.nan))
        self._bad = self.learner.bad.take() if metrics["optimizer/skipped"] or not finite else []
        if skipped < limit and finite:
            return
        details = self._bad
        reason = (
            f"{skipped:.0f} updates in a row had a loss or gradient that is not finite and were skipped "
            f"(trainer.max_bad_updates = {limit})"
            if finite
            else "an update made the parameters overflow (optimizer.learning_rate = "
            f"{self.config.optimizer.learning_rate})"
        )
        raise DivergenceError(
            f"{reason}, iteration {self.iteration + 1}. First of what is not finite: "
            f"{details[0] if details else 'the gradient'}; all of it is in {self.run_dir / REPORT}, "
            f"the last checkpoint in {self.run_dir / 'checkpoints'}",
            details,
        )

    def _tell_skipped(self, metrics: Mapping[str, float], run_log: RunLog) -> None:
        if skipped := metrics["optimizer/skipped"]:
            first = next(iter(self._bad), "the gradient")
            run_log.message(
                f"WARNING: iteration {self.iteration}: {skipped:.0f} updates skipped, not finite: {first}"
            )

    def _tell_compiled(self, run_log: RunLog) -> None:
        """After the first iterations of a run, and when something that was compiled is so no longer."""
        for compiling in self.compiling:
            if message := compiling.news():
                run_log.message(message)

    def evaluate(self, episodes: int, seed: int, render: bool = False) -> Evaluation:
        """Deterministic episodes of the present policy, in environments of their own."""
        if self._eval_env is not None and self._eval_env.num_envs != min(episodes, self.config.env.num_envs):
            self._eval_env.close()
            self._eval_env = None
        if self._eval_env is None:
            self._eval_env = self._make_env(min(episodes, self.config.env.num_envs))
        return evaluate(self.policy, self._eval_env, episodes, seed, self.references, render)

    def _evaluate(self) -> tuple[dict[str, float], bool]:
        """The metrics, and whether the policy is the best so far."""
        started = time.perf_counter()
        result = self.evaluate(self.config.trainer.eval_episodes, SEED_OFFSET + self.config.seed)
        better = result.return_mean > self.best_return
        self.best_return = max(result.return_mean, self.best_return)
        metrics = {"return": result.return_mean, **result.metrics}
        optional = {"score": result.score, "success": result.success_rate}
        metrics |= {name: value for name, value in optional.items() if value is not None}
        named = {f"evaluation/{name}": value for name, value in metrics.items()}
        return named | {"time/evaluate": time.perf_counter() - started}, better

    def _final_evaluation(
        self, interruption: Interruption, run_log: RunLog, checkpoints: Checkpoints, others: list[State]
    ) -> Evaluation | None:
        """None where a signal ends it: everything is saved, and a resumed run evaluates again."""
        episodes = self.config.trainer.final_eval_episodes
        try:
            with interruption.at_once():
                result = self.evaluate(episodes, FINAL_SEED + self.config.seed, render=True)
        except Interrupted as interrupted:
            self.interrupted_by = interrupted.signal
            return None
        if result.return_mean > self.best_return or not checkpoints.best_path.exists():
            self._save_best(checkpoints, run_log, others)
        if result.frames:
            with self._writing(run_log):
                run_log.film(result.frames, self.env_steps)
        return result

    def summary(self, result: Evaluation | None) -> dict[str, Any]:
        """What `summary.json` holds; without an evaluation its metrics are null."""
        total = self.total_env_steps
        summary = {
            "status": "interrupted" if result is None else "finished",
            "env": self.config.env.label,
            "preset": self.config.preset,
            "seed": self.config.seed,
            "device": str(self.collector.env.device),
            "env_steps": self.env_steps,
            "iterations": self.iteration,
            "seconds": self.seconds,
            "steps_per_second": self.env_steps / self.seconds if self.seconds else None,
            "compile_seconds": sum(c.seconds for c in self.compiling) if self.compiling else None,
            **self.balance.summary(total),
            "versions": versions(),
            "git_revision": git_revision(),
        }
        if result is not None:
            summary |= {
                "return_mean": result.return_mean,
                "return_std": result.return_std,
                "normalized_score": result.score,
                "success_rate": result.success_rate,
                **result.metrics,
            }
        return summary

    @property
    def compiling(self) -> list[Compiling]:
        """What `trainer.compile` works on."""
        return [*self.learner.compiling, *self.collector.compiling]

    @property
    def _evaluates(self) -> bool:
        every = self.config.trainer.eval_every
        return every > 0 and self.iteration % every == 0

    @property
    def _saves(self) -> bool:
        return self.iteration % self.config.trainer.checkpoint_every == 0

    def _states_of_others(self) -> list[State]:
        """What they have of their own, after an iteration whose state may be saved."""
        return states_of_others(self.collector, self.learner) if self._evaluates or self._saves else []

    def state_dict(self, others: Sequence[State] = ()) -> dict[str, Any]:
        """Everything from which the run continues bit for bit, and the configuration to build it with.

        `others`: what the other processes have of their own.
        """
        return {
            "processes": 1 + len(others),
            "others": list(others),
            "config": self.config.plain(),
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "seconds": self.seconds,
            "best_return": self.best_return,
            "balance": self.balance.state_dict(),
            "policy": self.policy.state_dict(),
            "collector": self.collector.state_dict(),
            "learner": self.learner.state_dict(),
            "torch_generator": torch.get_rng_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state, with what is this process's own in it (`in_step.own_part`).

        Raises `CheckpointError` where the code, or the environment, is no longer that of the state."""
        try:
            self.iteration, self.env_steps = state["iteration"], state["env_steps"]
            self.seconds, self.best_return = state["seconds"], state["best_return"]
            self.balance.load_state_dict(state["balance"])
            self.policy.load_state_dict(state["policy"])
            self.collector.load_state_dict(state["collector"])
            self.learner.load_state_dict(state["learner"])
            torch.set_rng_state(state["torch_generator"])
        except EnvError:
            raise
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                "the checkpoint does not fit: the environment, a stage or this trainer has changed since it "
                f"was written: {type(error).__name__}: {error}"
            ) from error
