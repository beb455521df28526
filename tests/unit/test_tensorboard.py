"""The event file, read back by TensorBoard's own reader."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from equipoise.scripts.dashboard import free_port
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.monitor import layout
from equipoise.trainer.monitor.gif import encode_gif
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.monitor.tensorboard import RANKED_BY, TensorBoardLog
from tests.conftest import TINY_TOPOLOGY


def read(folder: Path) -> Any:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0}).Reload()


def points(accumulator: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_scalars_references_and_no_point_for_what_is_not_finite(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, references={layout.BALANCED: 1.0})
    log.scalars({"episode/return": 1.5, "a": math.nan, "b": math.inf}, 100)
    log.scalars({"episode/return": 2.5, "a": 3.0}, 200)
    log.finish(Summary("finished", env_steps=200))
    log.flush()
    accumulator = read(tmp_path)
    assert points(accumulator, "episode/return") == [(100, 1.5), (200, 2.5)]
    assert points(accumulator, "a") == [(200, 3.0)]
    assert points(accumulator, layout.BALANCED) == [(100, 1.0), (200, 1.0)]
    assert "b" not in accumulator.Tags()["scalars"]
    log.close()


def session(folder: Path, steps: range, env_steps: int = 0) -> Path:
    """A session that is killed after its last step; its event file."""
    before = set(folder.glob("*tfevents*"))
    log = TensorBoardLog(folder, env_steps)
    for step in steps:
        log.scalars({"a": float(env_steps)}, step)
    log.close()
    (file,) = set(folder.glob("*tfevents*")) - before
    return file


def test_a_run_that_is_resumed_again_and_again_has_every_step_once(tmp_path: Path) -> None:
    session(tmp_path, range(1, 9))
    session(tmp_path, range(5, 7), env_steps=4)
    session(tmp_path, range(5, 10), env_steps=4)  # killed before a checkpoint: from the same one again
    session(tmp_path, range(8, 12), env_steps=7)
    kept = [(step, 0.0) for step in range(1, 5)] + [(step, 4.0) for step in range(5, 8)]
    assert points(read(tmp_path), "a") == kept + [(step, 7.0) for step in range(8, 12)]
    assert len(list(tmp_path.iterdir())) == 3, "a file of which nothing is left goes"


@pytest.mark.parametrize("lost", [1, 50])
def test_a_torn_or_missing_end_costs_nothing_else(tmp_path: Path, lost: int) -> None:
    """50 bytes reach into the record before the last: the points of the checkpoint itself are gone."""
    file = session(tmp_path, range(1, 5))
    os.truncate(file, file.stat().st_size - lost)
    session(tmp_path, range(5, 7), env_steps=4)
    last = 3 if lost == 1 else 2
    assert [step for step, _ in points(read(tmp_path), "a")] == [*range(1, last + 1), 5, 6]


def test_a_run_that_starts_again_has_nothing_of_its_first_attempt(tmp_path: Path) -> None:
    session(tmp_path, range(1, 5))
    session(tmp_path, range(1, 3))
    assert [step for step, _ in points(read(tmp_path), "a")] == [1, 2]


def test_event_files_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    writer.close()
    (other,) = tmp_path.iterdir()
    before = other.read_bytes()
    session(tmp_path, range(1, 3))
    assert other.read_bytes() == before


def test_config_and_revision_are_text(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    log.config("trainer:\n  gamma: 0.99\n", None)
    log.close()
    accumulator = read(tmp_path)

    def text(tag: str) -> str:
        content: bytes = accumulator.Tensors(tag)[0].tensor_proto.string_val[0]
        assert accumulator.SummaryMetadata(tag).plugin_data.plugin_name == "text"
        return content.decode()

    assert text("run/config") == "```yaml\ntrainer:\n  gamma: 0.99\n```"
    assert text("run/git_revision") == "not a git checkout"


def hparams(accumulator: Any, tag: str) -> Any:
    return HParamsPluginData.FromString(accumulator.SummaryMetadata(tag).plugin_data.content)


def test_hyperparameters_and_final_figures_are_in_the_same_run(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    log.start({"preset": "balanced", "seed": 3, "enable_adaptive_scaling": True, "target_kl": None})
    log.finish(Summary("finished", normalized_score=0.9375, env_steps=1000))
    log.close()
    accumulator = read(tmp_path)
    session = hparams(accumulator, "_hparams_/session_start_info").session_start_info.hparams
    assert session["preset"].string_value == "balanced"
    assert session["seed"].number_value == 3
    assert session["enable_adaptive_scaling"].bool_value is True
    assert session["target_kl"].string_value == "null"
    experiment = hparams(accumulator, "_hparams_/experiment").experiment
    assert [info.name for info in experiment.hparam_infos] == list(session.keys()) or {
        info.name for info in experiment.hparam_infos
    } == set(session.keys())
    assert {info.name for info in experiment.hparam_infos if info.differs} == {"preset", "seed"}
    assert [info.name.tag for info in experiment.metric_infos] == list(RANKED_BY)
    end = hparams(accumulator, "_hparams_/session_end_info").session_end_info
    assert end.status == Status.Value("STATUS_SUCCESS")
    assert points(accumulator, "final/normalized_score") == [(1000, 0.9375)]
    assert "final/success_rate" not in accumulator.Tags()["scalars"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_typed_hyperparameters_are_shown_without_asking(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    settings = dict.fromkeys(("preset", "seed", "env", "a", "b", "c", "d"), 1)
    log.start(settings, first=["d", "seed", "c"])
    log.close()
    experiment = hparams(read(tmp_path), "_hparams_/experiment").experiment
    assert {info.name for info in experiment.hparam_infos if info.differs} == {
        "preset",
        "seed",
        "d",
        "c",
        "env",
    }


def test_a_setting_that_shapes_the_learning_comes_before_the_length_of_the_run(tmp_path: Path) -> None:
    """TensorBoard shows five columns unless it is asked for more."""
    log = TensorBoardLog(tmp_path)
    typed = [
        "env",
        "env.id",
        "env.num_envs",
        "env.width",
        "trainer.total_env_steps",
        "device",
        "trainer.eval_every",
        "optimizer.learning_rate",
        "a",
        "b",
    ]
    log.start(dict.fromkeys((*typed, "preset", "seed"), 1), first=typed)
    log.close()
    experiment = hparams(read(tmp_path), "_hparams_/experiment").experiment
    shown = {info.name for info in experiment.hparam_infos if info.differs}
    assert shown == {"optimizer.learning_rate", "a", "b", "env", "env.id"}
    assert {info.name for info in experiment.hparam_infos} == {*typed, "preset", "seed"}


def moving_square(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    frames = np.zeros((count, 24, 32, 3), np.uint8)
    for index in range(count):
        frames[index, 4:12, index : index + 8] = (200, 40, 0)
    return frames


def test_a_gif_moves_and_repeats(tmp_path: Path) -> None:
    frames = moving_square(5)
    log = TensorBoardLog(tmp_path)
    log.gif("episode/rollout", frames, fps=10, step=64)
    log.close()
    (event,) = read(tmp_path).Images("episode/rollout")
    assert (event.step, event.width, event.height) == (64, 32, 24)
    with Image.open(io.BytesIO(event.encoded_image_string)) as picture:
        assert picture.format == "GIF"
        assert getattr(picture, "n_frames", 1) == 5
        assert picture.info["duration"] == 100
        assert picture.info["loop"] == 0
        for index, frame in enumerate(frames):
            picture.seek(index)
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), frame)


def test_bad_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frames are float64 of shape \(2, 4, 4, 3\)"):
        encode_gif(np.zeros((2, 4, 4, 3)), 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(0, 4, 4, 3\)"):
        encode_gif(np.zeros((0, 4, 4, 3), np.uint8), 10)
    with pytest.raises(ValueError, match="fps is 0"):
        encode_gif(moving_square(2), 0)


TAGS = {
    "Is it learning?": [
        "evaluation/score",
        "episode/return",
        "evaluation/return",
        "evaluation/sampled_return",
        "reference/random_return",
        "evaluation/sampled_success",
        "episode/success",
        "episode/length",
    ],
    "Are both sides balanced?": [
        "gradient_scaling/balance_ratio",
        "gradient_scaling/balance_ratio_before",
        "gradient_scaling/balance_ratio_ema",
        "reference/balanced",
        "gradient_scaling/discrete_grad_norm",
        "gradient_scaling/continuous_grad_norm",
        "gradient_scaling/discrete_weight_used",
        "gradient_scaling/continuous_scale",
        "gradient_scaling/discrete_clamped",
        "gradient_scaling/gradient_cosine",
        "gradient_scaling/discrete_signal_share",
        "loss/kl_continuous",
    ],
    "Is the critic healthy?": ["loss/value"],
    "Is exploration collapsing?": [
        "entropy/discrete",
        "entropy/continuous",
        "entropy/discrete_guard_active",
        "reference/min_entropy_threshold",
        "reference/min_continuous_entropy",
        "entropy/coefficient",
    ],
    "Are the updates sound?": ["loss/kl", "loss/clip_fraction_discrete", "optimizer/gradient_norm"],
    "How fast?": ["time/steps_per_second", "time/collect", "time/update"],
    "Does the simulator's derivative help?": [
        "pathwise/share",
        "pathwise/signal_share_score",
        "pathwise/agreement",
        "pathwise/critic_share/task",
        "pathwise/gain_of_one_std",
        "pathwise/clip_fraction",
    ],
    "goal in detail": [
        "evaluation/colony_size",
        "value/explained_variance/spawn",
        "value/clipped_fraction/spawn",
        "advantage_weighting/weight/spawn",
        "reward_normalization/factor/spawn",
    ],
}


def test_every_question_has_the_tags_that_answer_it(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    log.start({"env": "goal"})
    log.scalars({tag: 0.0 for tags in TAGS.values() for tag in tags}, 10)
    log.close()
    written = read(tmp_path).Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    categories = {category.title: category.chart for category in Layout.FromString(written).category}
    assert list(categories) == list(TAGS)
    for question, tags in TAGS.items():
        patterns = [pattern for chart in categories[question] for pattern in chart.multiline.tag]
        unused = [pattern for pattern in patterns if not any(re.match(pattern, tag) for tag in tags)]
        assert all(any(re.match(pattern, tag) for pattern in patterns) for tag in tags)
        assert len(unused) <= 2, unused


def test_every_chart_of_a_run_has_one_or_two_curves(tmp_path: Path) -> None:
    """All curves of a run have one colour."""
    config = compose(
        [
            *TINY_TOPOLOGY,
            "trainer.total_env_steps=1024",
            "trainer.gradient_scaling.warmup_steps=8",
            "trainer.eval_every=3",
        ]
    )
    build(config, tmp_path).train()
    accumulator = read(tmp_path)
    tags = accumulator.Tags()["scalars"]
    written = accumulator.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    charts = [chart for category in Layout.FromString(written).category for chart in category.chart]
    found = {
        chart.title: [tag for tag in tags for pattern in chart.multiline.tag if re.match(pattern, tag)]
        or [series.value for series in chart.margin.series]
        for chart in charts
    }
    assert len(found) == len(charts)
    assert {title: len(drawn) for title, drawn in found.items() if len(drawn) not in (1, 2)} == {}
    own = "Its own: spawn_parameter_error"
    assert set(found[own]) == {"episode/spawn_parameter_error", "evaluation/spawn_parameter_error"}
    assert found["Explained variance: delete, edge"] == [
        f"value/explained_variance/{c}" for c in ("delete", "edge")
    ]


def test_a_run_has_an_evaluation_at_its_start_and_at_its_end(tmp_path: Path) -> None:
    """1024 steps are eight iterations; those that the metrics have are the third and the sixth."""
    settings = [*TINY_TOPOLOGY, "trainer.total_env_steps=1024", "trainer.eval_every=3"]
    summary = build(compose(settings), tmp_path).train()
    found = points(read(tmp_path), "evaluation/return")
    assert [step for step, _ in found] == [0, 384, 768, 1024]
    assert found[-1][1] == pytest.approx(summary.return_mean)


def test_an_evaluation_of_the_last_iteration_has_its_step_to_itself(tmp_path: Path) -> None:
    build(compose([*TINY_TOPOLOGY, "trainer.eval_every=2"]), tmp_path).train()
    assert [step for step, _ in points(read(tmp_path), "evaluation/return")] == [0, 256]


def test_a_chart_shows_no_tag_of_another() -> None:
    """TensorBoard matches from the start only: an open end would draw the guard into the entropy."""

    def charts(tag: str) -> list[str]:
        return [
            chart.title
            for group in layout.layout_of([tag]).values()
            for chart in group
            if isinstance(chart, layout.Lines) and any(re.match(pattern, tag) for pattern in chart.patterns)
        ]

    assert charts("entropy/discrete_guard_active") == ["Collapse guards"]
    assert charts("time/steps_per_second") == ["Environment steps per second"]
    assert charts("gradient_scaling/discrete_norm_raw") == []
    assert charts("evaluation/sampled_success") == ["Success rate: deterministic and sampled policy"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[], dict[str, list[str]]]]:
    """Asks a TensorBoard over `tmp_path` for its Custom Scalars: the titles of the charts by question."""
    port = free_port(0)
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={tmp_path}", f"--port={port}"]
    command += ["--host=127.0.0.1", "--load_fast=false", "--reload_interval=1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask() -> dict[str, list[str]]:
        try:
            with urlopen(f"http://127.0.0.1:{port}/data/plugin/custom_scalars/layout", timeout=30) as answer:
                categories = json.load(answer).get("category", [])
        except URLError:  # not open yet
            return {}
        charts = {category["title"]: category.get("chart", []) for category in categories}
        return {title: [chart["title"] for chart in found] for title, found in charts.items() if found}

    yield ask
    server.kill()
    server.wait()


def eventually(ask: Callable[[], Any], wanted: Any) -> None:
    deadline = time.monotonic() + 60
    while (found := ask()) != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    assert found == wanted


def test_a_page_has_the_charts_that_its_run_can_fill_even_those_that_it_needs_later(
    tmp_path: Path, served: Callable[[], dict[str, list[str]]]
) -> None:
    """A policy without a continuous side has nothing to balance, and its reference alone makes no chart."""
    learning, balance, critic = list(layout.LAYOUT)[:3]
    log = TensorBoardLog(tmp_path / "run", references={layout.BALANCED: 1.0})
    log.scalars({"episode/return": 1.0, "loss/value": 1.0, "value/clipped_fraction/reward": 0.0}, 10)
    log.flush()
    returns = "Return of the training episodes, and of the sampled policy"
    own = {"in detail": ["Clipped fraction: reward"]}
    eventually(served, {learning: [returns], critic: ["Value loss"], **own})

    log.scalars({"episode/return": 1.0, "gradient_scaling/discrete_clamped": 0.0}, 20)
    log.close()
    clamped = {balance: ["Fraction of updates at a bound"]}
    eventually(served, {learning: [returns], **clamped, critic: ["Value loss"], **own})

    resumed = TensorBoardLog(tmp_path / "run", env_steps=20)
    resumed.evaluation({"evaluation/success": 1.0}, 30)
    resumed.close()
    success = "Success rate: deterministic and sampled policy"
    eventually(served, {learning: [returns, success], **clamped, critic: ["Value loss"], **own})


def test_a_run_without_an_iteration_takes_no_chart_from_others(
    tmp_path: Path, served: Callable[[], dict[str, list[str]]]
) -> None:
    """TensorBoard loses what is added to a heading that the first run has not: of `b` and `c` one chart."""
    learning, balance = list(layout.LAYOUT)[:2]
    first = TensorBoardLog(tmp_path / "a")
    first.evaluation({"evaluation/success": 0.0}, 0)
    first.close()
    for name, tag in {"b": "loss/kl_discrete", "c": "gradient_scaling/discrete_clamped"}.items():
        log = TensorBoardLog(tmp_path / name)
        log.scalars({tag: 0.0}, 10)
        log.close()
    both = ["How far each side's policy moves (KL divergence)", "Fraction of updates at a bound"]
    eventually(served, {learning: ["Success rate: deterministic and sampled policy"], balance: both})


def test_raw_norms_have_a_band() -> None:
    (chart,) = (
        chart for group in layout.LAYOUT.values() for chart in group if isinstance(chart, layout.Bands)
    )
    by_value = {band.value: band for band in chart.bands}
    assert set(layout.SPREAD) == set(by_value)
    for tag in layout.SPREAD:
        assert by_value[tag] == (tag, f"{tag}_min", f"{tag}_max")
