from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.schema import Config

# No deadline: the machine may be busy. The same examples in every run: a failure can be run again.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

# A shell that starts the tests in the background has them ignore SIGINT, and so would every process that
# they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = (
    "env.num_envs=8",
    "policy.hidden_sizes=[16,16]",
    "trainer.batch.rollout_steps=16",
    "trainer.batch.update_epochs=2",
    "trainer.batch.num_minibatches=2",
    "trainer.total_env_steps=256",
    "trainer.eval_every=1",
    "trainer.eval_episodes=4",
    "trainer.final_eval_episodes=4",
    "device=cpu",
)
TINY_TOPOLOGY = (*TINY, "env.max_steps=12")
TOY = (
    *TINY,
    "policy=mlp",
    "optimizer=adam",
    "env._target_=tests.toy_env.ToyEnv",
    "env.name=toy",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: three for two cores, as many tests wait for a process or a clock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + cores // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long ones first: what two processes share out at the end must be short."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _started_in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was started as a console command by an earlier test, which says so to its children."""
    monkeypatch.delenv("EQUIPOISE_STARTED_AS", raising=False)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that this one starts of our modules begin as copies of one that has imported PyTorch."""
    from tests.forked import popen

    monkeypatch.setattr(subprocess, "Popen", popen)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What PyTorch traces is run as it was traced: only the C++ compiler behind is left out. Yields what would
    have been given to that."""
    import torch._dynamo
    import torch._inductor

    modules: list[Any] = []

    def compile_nothing(module: Any, inputs: Any, options: Any) -> Any:
        modules.append(module)
        return module

    monkeypatch.setattr(torch._inductor, "compile", compile_nothing)
    torch._dynamo.reset()  # what tests of other files have compiled leads to other pieces
    yield modules
    torch._dynamo.reset()


@pytest.fixture
def tiny_topology() -> Callable[..., Config]:
    """`tiny_topology("seed=2", …)`: a TopologySpawn run of two short iterations, with all stages."""
    return lambda *overrides: composed((*TINY_TOPOLOGY, *overrides), Path.cwd())


@pytest.fixture
def toy() -> Callable[..., Config]:
    """`toy("seed=2", …)`: a run of two short iterations on `tests.toy_env.ToyEnv`, with all stages."""
    return lambda *overrides: composed((*TOY, *overrides), Path.cwd())


def composed(overrides: tuple[str, ...], folder: Path) -> Config:
    """What `compose` gives in `folder`, each once: it takes a fifth of a second."""
    return _composed(overrides, folder).model_copy(deep=True)


@functools.cache
def _composed(overrides: tuple[str, ...], _: Path) -> Config:
    return compose(list(overrides))
