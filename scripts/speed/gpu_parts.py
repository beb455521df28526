"""What `scripts.check_gpu` looks at, on the GPU if there is one; each part prints a few lines."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from equipoise.scripts.speed.floor import Floor
from equipoise.scripts.speed.timing import Loop
from equipoise.trainer.diagnosis import check_finite, check_targets
from equipoise.trainer.episodes import episode_means
from equipoise.trainer.loop import Trainer
from equipoise.trainer.targets import prepare

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
ENVS = ("topology_spawn", "synthetic", "platform", "goal", "moving", "hard_move", "catch_point")
NO_WAITS = "no waits" if CUDA else "runs; only a GPU can tell where the host waits"
MODES = ("none", "cudagraphs", "default") if CUDA else ("none", "default")
TESTS = (
    ("tests/integration/test_no_synchronisation.py", "device"),
    ("tests/unit/test_compilation.py", "cuda"),
)


def flat(steps: int, envs: int) -> tuple[str, ...]:
    return ("env=synthetic", f"env.num_envs={envs}", f"trainer.batch.rollout_steps={steps}")


TOPOLOGY = "env=topology_spawn"
SIZES = {"128x64": flat(128, 64), "16x1024": flat(16, 1024), "32x4096": flat(32, 4096)} if CUDA else {}
SMALL = {} if CUDA else {"16x64": flat(16, 64), "topology_64": (TOPOLOGY, "env.num_envs=64")}
LARGE = {"topology": (TOPOLOGY,), "topology_8192": (TOPOLOGY, "env.num_envs=8192")} if CUDA else {}


@contextmanager
def loop(*overrides: str) -> Iterator[Loop]:
    with tempfile.TemporaryDirectory() as folder:
        made = Loop([*overrides, f"device={DEVICE}"], Path(folder))
        try:
            yield made
        finally:
            made.close()


def seconds(function: Callable[[], object], times: int) -> float:
    """Of one call, after waiting for the device."""
    _wait()
    began = time.perf_counter()
    for _ in range(times):
        function()
    _wait()
    return (time.perf_counter() - began) / times


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def machine() -> None:
    """Versions, memory's bandwidth, products, and what a launch takes, alone and in a graph."""
    name = torch.cuda.get_device_name() if CUDA else "none: the CPU is used"
    print(f"python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}, {name}")
    size = 2**30 if CUDA else 2**24
    one = torch.empty(size, dtype=torch.uint8, device=DEVICE)
    other = torch.empty_like(one)
    other.copy_(one)
    print(f"copying {2 * size / seconds(lambda: other.copy_(one), 10) / 1e12:.3f} TB/s")
    width = 4096 if CUDA else 512
    numbers = torch.randn(width, width, device=DEVICE)
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        numbers @ numbers
        rate = 2 * width**3 / seconds(lambda: numbers @ numbers, 10) / 1e12
        print(f"products of float32, precision {precision}: {rate:.2f} TFLOP/s")
    scalar, count = torch.zeros((), device=DEVICE), 2000
    print(f"an operation {1e6 * seconds(lambda: scalar.add_(1.0), count):.2f} us", end="")
    if CUDA:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(count):
                scalar.add_(1.0)
        graph.replay()
        print(f", in a graph {1e6 * seconds(graph.replay, 5) / count:.2f} us", end="")
    print()


def waits() -> None:
    """Every place where the host waits for the device in an iteration, by phase."""
    for env in ENVS:
        with loop(f"env={env}", "env.num_envs=64") as made:
            made()
            made()
            found = _waits_of(made.trainer)
        print(env, {name: dict(places) for name, places in found.items() if places} or NO_WAITS, flush=True)


def _waits_of(trainer: Trainer) -> dict[str, Counter[str]]:
    """What `Trainer.iterate` does, one phase after the other."""
    found: dict[str, Counter[str]] = {}
    learner, log, settings = trainer.learner, trainer.log, trainer.settings
    with _watched(found, "collect"):
        rollout, steps = trainer.collector.collect()
        log.add(episode_means(steps))
    with _watched(found, "check the rollout"):
        check_finite(rollout, 0)
    with _watched(found, "prepare"):
        targets, samples = prepare(rollout, trainer.policy, learner.pipeline, settings, log)
    with _watched(found, "learn"):
        learner.learn(samples, 0.1, log)
        trainer.policy.update_normalizer(rollout.observations)
    with _watched(found, "read"):
        log.read()
    with _watched(found, "check the targets"):
        check_targets(targets)
    return found


@contextmanager
def _watched(found: dict[str, Counter[str]], phase: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if CUDA:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            if CUDA:
                torch.cuda.set_sync_debug_mode("default")
    places = (f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synch" in str(each.message))
    found[phase] = Counter(places)


def tests() -> None:
    """The tests that need a GPU, where this is a clone of the project."""
    for path, chosen in TESTS:
        if not Path(path).exists():
            print(path, "is not here")
            continue
        command = [sys.executable, "-m", "pytest", "-q", path, "-k", chosen, "-p", "no:cacheprovider"]
        run = subprocess.run(command, capture_output=True, text=True)
        lines = run.stdout.strip().splitlines() or [run.stderr]
        print(path, f"-k {chosen}:", lines[-1])
        print(*(f"   {line}" for line in lines if line.startswith(("FAILED", "E  "))), sep="\n", end="")


def same() -> None:
    """The same run with and without `trainer.compile`: parameters and metrics after six iterations."""
    mode = MODES[1]
    for env in ENVS[:3] if not CUDA else ENVS:
        overrides = (f"env={env}", "env.num_envs=64", "trainer.batch.rollout_steps=16")
        runs = []
        for setting in ("none", mode):
            with loop(*overrides, f"trainer.compile={setting}") as made:
                metrics = [made.trainer.iterate() for _ in range(6)]
                vector = made.trainer.learner.flat.vector.detach().clone()
                runs.append((vector, metrics[-1], [str(part) for part in made.trainer.compiling]))
        (one, expected, _), (other, found, said) = runs
        off = [name for name in expected if _differs(name, expected, found)]
        largest = float((one - other).abs().max())
        print(f"{env}, {mode}: parameters differ by {largest:.1e}; metrics: {off[:4]}; {said}", flush=True)


def _differs(name: str, expected: Mapping[str, float], found: Mapping[str, float]) -> bool:
    if name.startswith("time/") or name not in found:
        return False
    return abs(expected[name] - found[name]) > 1e-3 * (1e-3 + abs(expected[name]))


def speed() -> None:
    """Steps a second, milliseconds of an iteration, peak memory and kernels that are launched one by one."""
    print(f"{'size':15}{'compile':12}{'steps/s':>12}{'ms':>9}{'MiB':>8}{'launches':>10}")
    for mode in MODES:
        for name, overrides in (SIZES | SMALL | LARGE).items():
            try:
                with loop(*overrides, f"trainer.compile={mode}") as made:
                    if CUDA:
                        torch.cuda.reset_peak_memory_stats()
                    for _ in range(5):
                        made()
                    taken = seconds(made, 8 if CUDA else 2)
                    memory = torch.cuda.max_memory_reserved() // 2**20 if CUDA else 0
                    row = f"{made.samples / taken:12,.0f}{1e3 * taken:9.1f}{memory:8}{_launches(made):>10}"
                    said = [str(part) for part in made.trainer.compiling if part.notice]
                    print(f"{name:15}{mode:12}{row}", *said, flush=True)
            except Exception as error:  # the next size may fit
                print(f"{name:15}{mode:12}{type(error).__name__}: {error}", flush=True)


def _launches(made: Loop) -> str:
    if not CUDA:
        return "–"
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        made()
        _wait()
    names = (
        "cudaLaunchKernel",
        "cudaLaunchKernelExC",
        "cuLaunchKernel",
        "cudaGraphLaunch",
        "cudaMemcpyAsync",
    )
    return f"{sum(event.count for event in found.key_averages() if event.key in names):,}"


def floor() -> None:
    """The bare products of an iteration, and what an evaluation takes."""
    for name, overrides in (SIZES or dict(list(SMALL.items())[:1])).items():
        with loop(*overrides) as made:
            products = Floor(made.trainer, needed_only=True)
            products()
            print(f"products of {name}: {1e3 * seconds(products, 3):.2f} ms one by one", end="")
            if CUDA:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    products()
                graph.replay()
                print(f", {1e3 * seconds(graph.replay, 5):.2f} ms as a graph", end="")
            print()


def run() -> None:
    """The command itself: train, be interrupted, go on."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        base = [sys.executable, "-m", "equipoise.trainer.run"]
        sizes = [f"trainer.total_env_steps={400_000 if CUDA else 8_192}", "trainer.eval_every=0"]
        mode = f"trainer.compile={'cudagraphs' if CUDA else 'none'}"
        began = time.perf_counter()
        first = subprocess.Popen(
            [*base, f"device={DEVICE}", mode, *sizes, f"hydra.run.dir={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while first.poll() is None and not (folder / "metrics.jsonl").exists():
            time.sleep(0.2)
        time.sleep(2.0)
        if first.poll() is None:
            first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
        taken = time.perf_counter() - began
        print(f"train: exit status {first.returncode} after {taken:.0f} s; {said.strip()[-200:]}")
        if first.returncode == 130:
            second = subprocess.run([*base, f"resume={folder}"], capture_output=True, text=True)
            print(f"resume: exit status {second.returncode}; {second.stderr.strip()[-200:]}")
        summary = folder / "summary.json"
        if summary.exists():
            shown = json.loads(summary.read_text())
            print(
                {key: shown.get(key) for key in ("status", "device", "steps_per_second", "normalized_score")}
            )
