"""The training loop: collect, learn, log, evaluate, save, until the steps are done or a signal comes."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from equipoise.envs.checked import close
from equipoise.trainer.calling import Callbacks
from equipoise.trainer.compilation import compiling
from equipoise.trainer.configuration.schema import Config, TrainerConfig
from equipoise.trainer.diagnosis import check_targets, check_updates, collecting
from equipoise.trainer.episodes import episode_means
from equipoise.trainer.evaluator import Evaluator
from equipoise.trainer.learner import Learner
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.monitor.balance import BalanceRecord
from equipoise.trainer.monitor.layout import SPREAD
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.process_state import check_parameters, load_run_state, run_state
from equipoise.trainer.recorder import Recorder
from equipoise.trainer.rollout import Collector
from equipoise.trainer.schedule import Schedule
from equipoise.trainer.system import distributed
from equipoise.trainer.system.interruption import ECHO, Interrupted, Interruption
from equipoise.trainer.targets import prepare


class Trainer:
    """A run: the parts that `trainer.build` has put together, and the loop around them."""

    def __init__(
        self,
        config: Config,
        settings: TrainerConfig,
        schedule: Schedule,
        policy: Policy,
        collector: Collector,
        learner: Learner,
        evaluator: Evaluator,
        recorder: Recorder,
        callbacks: Callbacks,
    ) -> None:
        self.config, self.settings, self.schedule = config, settings, schedule
        self.policy, self.collector, self.learner = policy, collector, learner
        self.evaluator, self.recorder, self.callbacks = evaluator, recorder, callbacks
        self.compiling = compiling(learner.direction, collector.step, collector.act)
        self.log, self.balance = MetricLog(SPREAD), BalanceRecord()
        self.iteration, self.env_steps = 0, 0
        self.seconds, self.cpu_seconds = 0.0, 0.0
        self.bad_updates: list[str] = []  # what was not finite in those that the latest iteration skipped
        self.interruption = Interruption()
        self.interrupted_by: signal.Signals | None = None

    def train(self) -> Summary:
        """Run to the end, or until a signal; returns what `summary.json` holds.

        `summary.json` says how the run ended, whatever happens; `failure.txt` explains an error, which is
        raised again. The first of several processes evaluates and records; the others only train.
        """
        self.interruption = Interruption(ECHO if distributed.world_size() > 1 else 0.0)
        with self.interruption, self.recorder.session(self):
            self.recorder.first_look(self, self.evaluator.look())
            if self.iteration == 0 and self.settings.eval_every:
                self.recorder.evaluation(self, self.evaluator.untrained())
            self.callbacks.start(self)
            while self._goes_on():
                metrics = self.iterate()
                best = self._due(self.settings.eval_every) and self.evaluator.interim(metrics)
                self.recorder.iteration(self, metrics)
                self.callbacks.after(self, metrics, best)
                if (last := self._due(self.settings.checkpoint_every)) or best:
                    self.recorder.save(self.state_dict(), last, best)
            return self._conclude()

    def iterate(self) -> dict[str, float]:
        """One iteration: a rollout and what is learned from it. Returns its metrics by tag."""
        started, used = time.perf_counter(), time.process_time()
        progress = self.schedule.progress(self.env_steps)
        self.learner.set_learning_rate(self.schedule.learning_rate_at(progress))
        with collecting(self.collector, self.env_steps):
            rollout, steps = self.collector.collect(self.interruption.rearm)
        self.recorder.handlers_replaced(self.interruption.rearm())
        self.log.add(episode_means(steps, self.collector.short_episodes_only))
        collected = time.perf_counter()
        targets, samples = prepare(rollout, self.policy, self.learner.pipeline, self.settings, self.log)
        self.log.add(self.collector.judged(targets))
        self.learner.learn(samples, progress, self.log)
        self.policy.update_normalizer(rollout.observations)
        metrics = self.log.read()
        self.collector.learned(metrics)
        if targets.returns.device.type != "cpu":  # where `prepare` has not looked, so as not to wait
            check_targets(targets)
        limit = self.settings.max_bad_updates
        self.bad_updates = check_updates(metrics, self.learner.bad, limit, self.iteration + 1)
        check_parameters(self.policy, self.learner.flat.vector, self.iteration + 1)
        self.iteration += 1
        self.env_steps += self.schedule.samples
        ended = time.perf_counter()
        self.seconds += ended - started
        self.cpu_seconds += time.process_time() - used
        self.balance.add(self.env_steps, self.schedule.env_steps, metrics)
        times = {"time/collect": collected - started, "time/update": ended - collected}
        return metrics | times | {"time/steps_per_second": self.schedule.samples / (ended - started)}

    def _goes_on(self) -> bool:
        """Whether to continue. A signal to any process ends all of them after the same iteration."""
        self.recorder.handlers_replaced(self.interruption.rearm())
        agreed = int(distributed.all_reduce_max(torch.tensor(self.interruption.signal or 0)))
        self.interrupted_by = signal.Signals(agreed) if agreed else None
        return not agreed and not self.callbacks.stopped and self.env_steps < self.schedule.env_steps

    def _due(self, every: int) -> bool:
        return every > 0 and self.iteration % every == 0

    def _conclude(self) -> Summary:
        """Save, and evaluate a complete run; one that a signal ended is evaluated when it is resumed."""
        state = self.state_dict()
        self.recorder.save(state, last=True)
        result = None
        if not self.interrupted_by:
            try:
                with self.interruption.at_once():
                    result = self.evaluator.final()
            except Interrupted as interrupted:
                self.interrupted_by = interrupted.signal
        if result is not None and (self.evaluator.is_best(result) or not self.recorder.has_best):
            self.recorder.save(state, best=True)
        if not self._due(self.settings.eval_every):
            self.recorder.evaluation(self, result)
        summary = self.recorder.finish(self, result)
        with suppress(Interrupted), self.interruption.at_once():
            self.recorder.film(self)
        self.callbacks.end(self, summary)
        return summary

    def close(self) -> None:
        """Close the environments and end their processes. Failures are only reported: everything is saved."""
        close(self.collector.env)
        self.evaluator.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue the run. All processes call this; the first one gets all parts."""
        return run_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint. Raises `CheckpointError` if it does not fit."""
        load_run_state(self, state)
