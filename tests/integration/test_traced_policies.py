"""`trainer.compile: default` for policies of every kind: what PyTorch traces of them does what they do, but for rounding.

`test_combinations.test_mixed_observations_compiled` has three of them at once with the C++ compiler behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.loop import Trainer

PAIRS = ("policy.conditioning=autoregressive", "env.name=pairs")
POLICIES = {
    "a mask for each choice": ("env._target_=tests.envs.pairs.BatchedPairs", *PAIRS),
    "a function of masks": ("env._target_=tests.envs.pairs.FunctionPairs", *PAIRS),
    "memory": ("policy=gru",),
    "beta": ("policy.distribution=beta",),
    "squashed": ("policy.distribution=squashed",),
}


@pytest.mark.parametrize("named", POLICIES.values(), ids=POLICIES)
def test_compiled_it_learns_the_same(
    named: tuple[str, ...], toy: Callable[..., Config], tmp_path: Path, traced: list[Any]
) -> None:
    compiled, eager = (built(toy(*named, f"trainer.compile={how}"), tmp_path) for how in ("default", "none"))
    for _ in range(3):
        mine, theirs = metrics(compiled), metrics(eager)
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-7, nan_ok=True)
        assert mine.get("episode/forbidden", 0.0) == 0.0
    assert [part.notice for part in compiled.compiling] == [None] * 3
    assert compiled.learner.direction.seconds > 0.0
    assert traced, "nothing was given to the compiler"
    weights = compiled.learner.flat.vector, eager.learner.flat.vector
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def built(config: Config, folder: Path) -> Trainer:
    return build(config, folder / str(config.trainer.compile))


def metrics(trainer: Trainer) -> dict[str, float]:
    return {tag: value for tag, value in trainer.iterate().items() if not tag.startswith("time/")}
