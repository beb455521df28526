"""`policy.distribution` in runs: it learns, resumes exactly, stays within the bounds, and is refused where it fits not."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from equipoise.envs.protocol import NativeAction
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.policy.continuous import FAMILIES
from tests.toy_env import ToyEnv

VARIANTS = [
    [f"policy.distribution={name}", f"policy.state_dependent_std={spread}"]
    for name in FAMILIES
    for spread in ("false", "true")
]
Toy = Callable[..., Config]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: " ".join(key.partition("=")[2] for key in v))
def test_it_goes_on_exactly_and_what_acts_is_what_learns(
    toy: Toy, tmp_path: Path, variant: list[str]
) -> None:
    config = toy(*variant, "trainer.batch.num_minibatches=1", "trainer.batch.update_epochs=1")
    whole, half, rest = (build(config, tmp_path / name) for name in "abc")
    # With one minibatch and one epoch nothing has moved: where ratios were not 1, log-probabilities that are
    # stored and those that are computed again would be of two distributions.
    assert whole.iterate()["loss/kl"] == pytest.approx(0.0, abs=1e-6)
    whole.iterate()
    half.iterate()
    rest.load_state_dict(deepcopy(half.state_dict()))
    rest.iterate()
    assert torch.equal(rest.learner.flat.vector, whole.learner.flat.vector)


@pytest.mark.parametrize("name", ["beta", "squashed"])
def test_it_learns_with_both_sides(toy: Toy, tmp_path: Path, name: str) -> None:
    """The choice and the parameter of `ToyEnv` both depend on what is seen; random actions get about -0.9 a step."""
    more = ("trainer.total_env_steps=8192", "trainer.eval_every=0", "optimizer.learning_rate=0.01")
    trainer = build(toy(f"policy.distribution={name}", "trainer.batch.update_epochs=8", *more), tmp_path)
    random = trainer.iterate()["episode/return"]
    while trainer.env_steps < 8192:
        metrics = trainer.iterate()
    assert metrics["episode/return"] > random + 2.0
    assert metrics["optimizer/skipped"] == 0


class Extremes(ToyEnv):
    """Keeps the largest and the smallest parameter that it was given, of a range of [-2, 2]."""

    seen: list[float]

    def step(self, action: NativeAction) -> object:  # type: ignore[override]
        self.seen = [*getattr(self, "seen", []), *action[1][1].flatten().tolist()]
        return super().step(action)


@pytest.mark.parametrize(
    ("name", "at_the_bounds"), [("gaussian", True), ("beta", False), ("squashed", False)]
)
def test_only_a_gaussian_puts_chance_on_the_bounds_themselves(
    toy: Toy, tmp_path: Path, name: str, at_the_bounds: bool
) -> None:
    wide = (f"policy.distribution={name}", "policy.log_std_init=0.2")
    place = f"env._target_={__name__}.Extremes"
    trainer = build(toy(*wide, place), tmp_path)
    trainer.iterate()
    env = trainer.collector.env
    assert isinstance(env, Extremes)
    assert max(map(abs, env.seen)) <= 2.0
    assert (max(map(abs, env.seen)) == 2.0) == at_the_bounds


def test_without_parameters_there_is_nothing_to_be_drawn_from_it(tmp_path: Path) -> None:
    config = compose(["env=gymnasium", "env.id=CartPole-v1", "env.num_envs=2", "policy.distribution=beta"])
    with pytest.raises(ValueError, match=r"policy.distribution = beta: the action space has no continuous"):
        build(config, tmp_path)


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        ConfigError, match=r"policy.distribution = 'normal': must be gaussian or beta or squashed"
    ):
        compose(["policy.distribution=normal"])


def test_weights_of_another_distribution_are_not_taken_for_the_parameters(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = build(toy(), tmp_path / "old")
    source.train()
    new = build(toy("policy.distribution=beta", f"init_from={tmp_path / 'old'}"), tmp_path / "new")
    before, after = source.policy.state_dict(), new.policy.state_dict()
    assert torch.equal(after["discrete_head.weight"], before["discrete_head.weight"])
    assert not torch.equal(after["continuous_head.weight"], before["continuous_head.weight"])
    new.train()
    said = " ".join(" ".join(capsys.readouterr()).split())
    assert "continuous_head (policy.distribution is gaussian there, beta here)" in said
