"""Hybrid-action PPO that keeps discrete decisions and continuous parameters in balance.

Train a policy for an environment, look at how it went, and let it act:

    import equipoise

    run = equipoise.train("CartPole-v1", total_env_steps=50_000)
    print(run.summary["return_mean"], run.metrics["episode/return"])

    policy = run.load()                       # or equipoise.load("runs/…")
    action = policy.act(observation)          # what env.reset() and env.step() return

`equipoise --help` lists the same and more as commands.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equipoise.acting import Policy as Policy
    from equipoise.acting import evaluate as evaluate
    from equipoise.acting import load as load
    from equipoise.trainer.callbacks import Callback as Callback
    from equipoise.trainer.configuration.errors import ConfigError as ConfigError
    from equipoise.training import Run as Run
    from equipoise.training import train as train

__version__ = "0.2.0"

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
    # Read when PyTorch is loaded. By default threads that wait for each other keep a core busy: where another
    # program wants that core, each of the thousands of waits in an iteration lasts until the system steps in.
    os.environ["OMP_WAIT_POLICY"] = "passive"

_PLACES = {
    "Callback": "equipoise.trainer.callbacks",
    "ConfigError": "equipoise.trainer.configuration.errors",
    "Policy": "equipoise.acting",
    "Run": "equipoise.training",
    "evaluate": "equipoise.acting",
    "load": "equipoise.acting",
    "train": "equipoise.training",
}
"""Name -> module that defines it, imported when the name is first used: PyTorch takes seconds to import."""

__all__ = ["Callback", "ConfigError", "Policy", "Run", "__version__", "evaluate", "load", "train"]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from equipoise.prerequisites import complaint

    if message := complaint():
        raise ImportError(message)
    value: object = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
