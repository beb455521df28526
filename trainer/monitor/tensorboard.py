"""The run in TensorBoard: scalars, a layout of charts, hyperparameters to rank runs by, text and pictures.

Written as TensorBoard's own records: one event takes all scalars of an iteration, where torch's
`SummaryWriter` makes one each, writes the hyperparameters as a run of their own, and no animation without
another package. Importing TensorBoard takes a quarter of a second, so import this module where a run starts.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_plugin
from tensorboard.plugins.custom_scalar.layout_pb2 import (
    Category,
    Layout,
    MarginChartContent,
    MultilineChartContent,
)
from tensorboard.plugins.custom_scalar.layout_pb2 import Chart as ChartProto
from tensorboard.plugins.hparams import metadata as hparams_plugin
from tensorboard.plugins.hparams.api_pb2 import (
    DataType,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
    Status,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.text import metadata as text_plugin

from equipoise.trainer.monitor.event_file import EventFile
from equipoise.trainer.monitor.layout import LAYOUT, Chart, Lines

Hyperparameter = bool | int | float | str | None

RANKED_BY = (
    "final/normalized_score",
    "final/return_mean",
    "final/success_rate",
    "final/balance_ratio",
    "final/steps_per_second",
    "final/decision_accuracy",
    "final/spawn_parameter_error",
    "evaluation/score",
)
"""The metric columns of the HParams page, which shows five until asked for more. `final/` is written by
`finish`; the last one is there while a run goes on."""

FIRST_COLUMNS = ("env", "preset", "seed", "enable_adaptive_scaling", "gradient_norm_target")
"""The five hyperparameters that the HParams page shows until asked for more."""


class TensorBoardLog:
    """The event file of a run. Steps are `env_steps` everywhere.

    `purge_step`: on resume, the first step that TensorBoard shall forget (the checkpoint's `env_steps` + 1).
    `references`: constant lines that charts compare with, by tag (see `layout`).
    `flush_seconds`: how long a point may wait in memory. Only `flush` and `flush_when_due` write to the disk
    and raise `OSError`.
    """

    def __init__(
        self,
        folder: str | Path,
        purge_step: int | None = None,
        references: Mapping[str, float] | None = None,
        flush_seconds: float = 30.0,
    ) -> None:
        self._references = dict(references or {})
        self._writer = EventFile(Path(folder))
        self._flush_seconds, self._flushed = flush_seconds, time.monotonic()
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._writer.add(Event(wall_time=time.time(), step=purge_step, session_log=start))
        layout = TensorProto(dtype="DT_STRING", string_val=[_layout().SerializeToString()])
        self._write_tensor(
            custom_scalar_plugin.CONFIG_SUMMARY_TAG, custom_scalar_plugin.create_summary_metadata(), layout, 0
        )

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Points at `step`; what is not finite is no point. `metrics.jsonl` has it as null."""
        self._scalars({**metrics, **self._references}, step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        tensor = TensorProto(
            dtype="DT_STRING",
            string_val=[markdown.encode()],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        )
        metadata = text_plugin.create_summary_metadata(display_name=tag, description="")
        self._write_tensor(tag, metadata, tensor, step)

    def config(self, yaml: str, git_revision: str | None) -> None:
        """The resolved configuration and the source's revision, on the Text page."""
        self.text("run/config", f"```yaml\n{yaml.rstrip()}\n```")
        self.text("run/git_revision", f"`{git_revision}`" if git_revision else "not a git checkout")

    def gif(self, tag: str, frames: np.ndarray[Any, np.dtype[np.uint8]], fps: float, step: int) -> None:
        """An animation on the Images page that plays for ever. `frames`: `[F, height, width, 3]` uint8."""
        content = encode_gif(frames, fps)
        image = Summary.Image(
            height=frames.shape[1], width=frames.shape[2], colorspace=3, encoded_image_string=content
        )
        self._write(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def start(self, hyperparameters: Mapping[str, Hyperparameter]) -> None:
        """Put this run on the HParams page, with the columns of `RANKED_BY`."""
        session = SessionStartInfo(start_time_secs=time.time())
        for name, value in hyperparameters.items():
            match value:
                case bool():  # before int, which bool is
                    session.hparams[name].bool_value = value
                case int() | float():
                    session.hparams[name].number_value = value
                case _:
                    session.hparams[name].string_value = "null" if value is None else value
        experiment = Experiment(
            # `differs` makes a column come first; what really differs no single run can know.
            hparam_infos=[
                HParamInfo(name=name, type=_hyperparameter_type(value), differs=name in FIRST_COLUMNS)
                for name, value in hyperparameters.items()
            ],
            metric_infos=[MetricInfo(name=MetricName(tag=tag)) for tag in RANKED_BY],
        )
        self._write_hparams(hparams_plugin.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))
        start = HParamsPluginData(session_start_info=session)
        self._write_hparams(hparams_plugin.SESSION_START_INFO_TAG, start)

    def finish(self, summary: Mapping[str, Any], step: int) -> None:
        """The numbers of a completed run's `summary` under `final/`, and its end on the HParams page.

        Not for an interrupted run: TensorBoard keeps the first end it reads, and this one is to go on.
        """
        names = (tag.removeprefix("final/") for tag in RANKED_BY if tag.startswith("final/"))
        metrics = {f"final/{name}": summary[name] for name in names if summary.get(name) is not None}
        self._scalars(metrics, step)
        end = SessionEndInfo(status=Status.Value("STATUS_SUCCESS"), end_time_secs=time.time())
        self._write_hparams(hparams_plugin.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))

    def flush(self) -> None:
        self._flushed = time.monotonic()
        self._writer.flush()

    def flush_when_due(self) -> None:
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()

    def close(self) -> None:
        self._writer.close()

    def _scalars(self, points: Mapping[str, float], step: int) -> None:
        values = [Summary.Value(tag=tag, simple_value=x) for tag, x in points.items() if math.isfinite(x)]
        self._write(Summary(value=values), step)

    def _write(self, summary: Summary, step: int) -> None:
        self._writer.add(Event(wall_time=time.time(), step=step, summary=summary))

    def _write_hparams(self, tag: str, data: Any) -> None:
        self._write_tensor(tag, hparams_plugin.create_summary_metadata(data), hparams_plugin.NULL_TENSOR, 0)

    def _write_tensor(self, tag: str, metadata: SummaryMetadata, tensor: TensorProto, step: int) -> None:
        self._write(Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)]), step)


def encode_gif(frames: np.ndarray[Any, np.dtype[np.uint8]], fps: float) -> bytes:
    """An animated GIF of `frames` `[F, height, width, 3]` uint8 that repeats for ever.

    GIF counts time in hundredths of a second, and browsers slow down what is shorter than two of them.
    """
    if frames.ndim != 4 or frames.shape[0] == 0 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(
            f"frames are {frames.dtype} of shape {frames.shape}; they must be uint8 [F, height, width, 3]"
        )
    if not 0.0 < fps <= 50.0:
        raise ValueError(f"fps is {fps}; a GIF plays at more than 0 and at most 50 frames a second")
    pictures = [Image.fromarray(frame).quantize(dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    milliseconds = 10 * round(100 / fps)
    pictures[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=milliseconds,
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


def _hyperparameter_type(value: Hyperparameter) -> Any:
    match value:
        case bool():
            return DataType.DATA_TYPE_BOOL
        case int() | float():
            return DataType.DATA_TYPE_FLOAT64
        case _:
            return DataType.DATA_TYPE_STRING


def _layout() -> Layout:
    categories = [
        Category(title=question, chart=[_chart(chart) for chart in charts])
        for question, charts in LAYOUT.items()
    ]
    return Layout(category=categories)


def _chart(chart: Chart) -> ChartProto:
    if isinstance(chart, Lines):
        return ChartProto(title=chart.title, multiline=MultilineChartContent(tag=chart.patterns))
    series = [MarginChartContent.Series(**band._asdict()) for band in chart.bands]
    return ChartProto(title=chart.title, margin=MarginChartContent(series=series))
