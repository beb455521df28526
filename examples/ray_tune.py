"""A search by Ray Tune (extra `ray`): python ray_tune.py ENVIRONMENT FOLDER [TRIALS STEPS].

Ray decides, Equipoise trains: each trial is a run whose evaluations Ray is told, so that its schedulers can
end it early. For many workers without a server `equipoise tune` does the same; its trials also go on where
they were killed, where Ray's begin anew.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

import equipoise


class Report(equipoise.Callback):
    """Tells Ray of each evaluation; ASHA ends the trial from within."""

    def __init__(self) -> None:
        self.evaluations = 0

    def on_evaluation(self, metrics: Mapping[str, float]) -> None:
        self.evaluations += 1
        tune.report({"score": metrics["evaluation/return"], "evaluations": self.evaluations})


def trial(settings: dict[str, Any], environment: str, folder: str, steps: int) -> None:
    """One run. Paths are absolute: Ray starts a trial in a folder of its own."""
    name = tune.get_context().get_trial_id()
    run = equipoise.train(
        environment,
        overrides=settings,
        total_env_steps=steps,
        eval_every=max(steps // 8 // 2048, 1),
        eval_episodes=8,
        final_eval_episodes=20,
        folder=Path(folder) / name,
        callbacks=[Report()],
        progress=False,
    )
    tune.report({"score": run.summary["return_mean"], "evaluations": 9})


def search(environment: str, folder: Path, trials: int = 8, steps: int = 50_000) -> tune.ResultGrid:
    """Two trials at a time, one core each."""
    space = {
        "optimizer.learning_rate": tune.loguniform(1e-4, 1e-2),
        "trainer.gamma": tune.choice([0.9, 0.99]),
        "trainer.batch.update_epochs": tune.choice([2, 4, 8]),
    }
    place = str(folder.absolute())
    bound = tune.with_parameters(trial, environment=environment, folder=place, steps=steps)
    tuner = tune.Tuner(
        tune.with_resources(bound, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=trials,
            max_concurrent_trials=2,
            scheduler=ASHAScheduler(time_attr="evaluations", max_t=9, grace_period=2),
        ),
        run_config=tune.RunConfig(name="ray", storage_path=place),
    )
    found = tuner.fit()
    if found.num_errors:  # Ray goes on without a word
        raise SystemExit(f"{found.num_errors} trials failed: {found.errors[0]}")
    return found


if __name__ == "__main__":
    best = search(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])).get_best_result()
    print(best.metrics["score"], best.config)
