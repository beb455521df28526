"""`python -m trainer.play`: the film shows the episode that evaluation sees, and every number where it is."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from PIL import Image

from equipoise.envs.topology_spawn.environment import TopologySpawn
from equipoise.trainer import play
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.evaluation import evaluate
from equipoise.trainer.monitor.action_panel import Names, draw_panel
from equipoise.trainer.monitor.film import one_above_the_other
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.restore import restore
from equipoise.trainer.seeding import fresh_seed
from equipoise.trainer.spaces import HybridSpace
from tests.conftest import TINY
from tests.forked import Command

MakeConfig = Callable[..., Config]
GREEN, RED = (118, 226, 150), (240, 98, 98)


class Invisible(gymnasium.Env[np.ndarray[Any, Any], int]):
    """Every registered environment may be without pictures."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray[Any, Any], Any]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray[Any, Any], float, bool, bool, Any]:
        return np.zeros(1, np.float32), 0.0, True, False, {}


def train(config: Config, folder: Path) -> Path:
    build(config, folder).train()
    return folder / "checkpoints" / "last.pt"


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["play", *arguments, "device=cpu", f"allow=[tests,{__name__}]"])
    return play.main()


def test_the_film_is_the_episode_that_evaluation_sees(tiny_topology: MakeConfig, tmp_path: Path) -> None:
    checkpoint = train(tiny_topology(), tmp_path)
    command = "trainer.play", f"checkpoint={checkpoint}", "compare=untrained", "seed=3"
    result = Command(tmp_path, *command).end()
    assert result.code == 0, result.stderr
    trained, untrained, path = result.stdout.splitlines()
    restored = restore(checkpoint)
    seen = evaluate(restored.policy, restored.make_env(1), 1, fresh_seed(3), restored.references)
    assert (
        f"after {seen.lengths[0]:.0f} steps, return {seen.return_mean:.4g}, score {seen.score:.3f}" in trained
    )
    assert untrained.startswith("untrained: ")
    assert Path(path) == checkpoint.with_name("last-play.gif")
    with Image.open(path) as film:
        assert film.size == (800, 2 * (28 + 270))
        assert getattr(film, "n_frames", 1) > 1


def test_episodes_follow_each_other(
    toy: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new folder" / "film.gif"
    checkpoint = train(toy(), tmp_path)
    capsys.readouterr()
    arguments = (f"checkpoint={checkpoint}", f"output={output}", "episodes=2", "deterministic=false")
    assert main(monkeypatch, *arguments, "fps=10") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == ["trained: success after 3 steps"] * 2
    assert output.exists()


def gymnasium_run(name: str) -> Config:
    return compose(["env=gymnasium", f"env.id={name}", *TINY])


def test_a_gymnasium_environment_is_made_with_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = gymnasium_run("equipoise/Platform-v0")
    assert config.env.keywords["render_mode"] is None
    checkpoint = train(config, tmp_path)
    assert main(monkeypatch, f"checkpoint={checkpoint}") == 0
    assert checkpoint.with_name("last-play.gif").exists()


def test_an_environment_without_pictures_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gymnasium.registry, "Invisible-v0", EnvSpec("Invisible-v0", entry_point=Invisible))
    checkpoint = train(gymnasium_run("Invisible-v0"), tmp_path)
    assert main(monkeypatch, f"checkpoint={checkpoint}") == 2
    complaint = capsys.readouterr().err
    needed = "Invisible-v0 cannot be rendered: its constructor must take render_mode='rgb_array'"
    assert needed in complaint
    assert "its render() return a picture" in complaint
    assert "could not be made" in complaint
    assert not checkpoint.with_name("last-play.gif").exists()


def test_a_package_that_pictures_need_is_named_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CartPole draws with pygame, which only drawing needs."""
    monkeypatch.setitem(sys.modules, "pygame", None)
    checkpoint = train(gymnasium_run("CartPole-v1"), tmp_path)
    assert main(monkeypatch, f"checkpoint={checkpoint}") == 2
    needed = 'pygame is not installed, run `pip install "gymnasium[classic-control]"`'
    assert capsys.readouterr().err == f"Configuration error: CartPole-v1 cannot be rendered: {needed}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["checkpoint=nowhere.pt"], "nowhere.pt"),
        (["checkpoint=x", "compare=trained"], "compare"),
        (["checkpoint=x", "fps=51"], "fps"),
        (["checkpoint=x", "output=film.mp4"], "output = film.mp4: must end in .gif"),
        (["checkpoint="], "checkpoint is missing"),
        (["tests"], "cannot read the argument 'tests' (write checkpoint=tests)"),
        (["checkpoint=x", "output=/dev/null/x.gif"], "/dev/null is no folder that can be written to"),
    ],
)
def test_bad_arguments_end_with_one_message(
    arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, *arguments) == 2
    assert complaint in capsys.readouterr().err


def test_an_arrow_ends_where_the_child_will_land() -> None:
    env = TopologySpawn(1, noise_scale=0.0, start_nodes=1, start_x=(5.0, 5.0), start_y=(10.0, 10.0))
    env.reset(1)
    slope = float(env.colony.intensity[0, 0] - 1.0) / 5.0
    # gamma / (1 + (alpha / I)²) with alpha at 0.5; the wanted gain is 1, so 1 / slope is the right way.
    hill = 1.0 + (0.5 / (1.0 + 5.0 * slope)) ** 2
    for way, color in ((1.0 / slope, GREEN), (0.2 / slope, RED)):
        spawn = torch.tensor([way * hill, 0.5, 0.05, 0.0]).expand(1, 10, 4)
        picture = env.render_action({"topology": torch.full((1, 10), 1), "spawn": spawn}).astype(int)
        # The field is 608 pixels for a width of 30, from 16 on; the ring of the landing spot has radius 5.
        column = round(16 + (5.0 + way) / 30.0 * 608) + 4
        row = round(344 - 0.5 * 304)
        assert np.abs(picture[row, column - 1 : column + 2] - color).max(-1).min() < 40


def test_a_panel_shows_probabilities_as_widths_and_what_matters_in_color() -> None:
    native = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,))))
    space = HybridSpace(native)
    logits = torch.tensor([[[math.log(0.25), math.log(0.75)]]])
    mask = torch.ones(1, 1, 2, dtype=torch.bool)
    distribution = HybridDistribution(
        space, logits, torch.tensor([[0.0, 0.5]]), torch.tensor([-2.0, -2.0]), mask
    )
    image = draw_panel(space, Names(), distribution, distribution.mode(), 320, 200)
    line = np.asarray(image)[42]  # through the middle of strips and bar, below the words

    def columns(color: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
        return np.nonzero((line == color).all(-1))[0]

    first, second = columns((128, 140, 164)), columns((92, 200, 128))
    assert len(second) / (len(first) + len(second)) == pytest.approx(0.75, abs=0.03)
    assert first.max() < second.min()
    # Choice 1 is taken: its parameter, on the right, is in color with the value at three quarters of its
    # range; the other one is grey.
    track, idle = columns((40, 46, 62)), columns((30, 34, 46))
    assert idle.max() < track.min()
    dot = track.min() + np.nonzero((line[track.min() :] > 200).all(-1))[0]  # white
    middle = track.min() + 0.75 * (track.max() - track.min())
    assert dot.mean() == pytest.approx(middle, abs=1.5)


def test_a_panel_counts_what_does_not_fit() -> None:
    space = HybridSpace(spaces.MultiDiscrete([3] * 100))
    mask = space.valid_choices.expand(1, -1, -1)
    distribution = HybridDistribution(space, torch.zeros(1, 100, 3), torch.zeros(1, 0), torch.zeros(0), mask)
    image = draw_panel(space, Names(), distribution, distribution.mode(), 320, 200)
    assert image.size == (320, 200)


def test_the_shorter_film_waits() -> None:
    frame = [np.full((2, 3, 3), value, dtype=np.uint8) for value in range(3)]
    both = one_above_the_other(frame, frame[:1])
    assert [(int(f[0, 0, 0]), int(f[2, 0, 0])) for f in both] == [(0, 0), (1, 0), (2, 0)]
