"""A run in TensorBoard: scalars, a layout of charts, hyperparameters to rank runs by, text and films.

Written as TensorBoard's own records: one event holds all scalars of an iteration. torch's `SummaryWriter`
writes one event per scalar, stores hyperparameters as a separate run, and needs another package for films.
Importing TensorBoard takes a quarter of a second, so import this module only where a run starts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_plugin
from tensorboard.plugins.custom_scalar.layout_pb2 import (
    Category,
    MarginChartContent,
    MultilineChartContent,
)
from tensorboard.plugins.custom_scalar.layout_pb2 import Chart as ChartProto
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout as LayoutProto
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

from equipoise.trainer.configuration.resuming import EXACT
from equipoise.trainer.monitor.event_file import EventFile, cut_event_files
from equipoise.trainer.monitor.gif import Frames, encode_gif
from equipoise.trainer.monitor.layout import BANDS, Chart, Lines, layout_of
from equipoise.trainer.monitor.summary import Summary as RunSummary

Hyperparameter = bool | int | float | str | None

RANKED_BY = (*(f"final/{name}" for name in RunSummary.RANKED_BY), "evaluation/score")
"""Metric columns of the HParams page, which shows the first five unless told otherwise. `finish` writes
`final/…`; `evaluation/score` is there during the run."""

COLUMNS = 5
"""How many hyperparameters the HParams page shows unless told otherwise."""


class TensorBoardLog:
    """The event files of a run, a new one per session. Steps are `env_steps` everywhere.

    Args:
        folder: the run folder.
        env_steps: where this session begins, above 0 on resume. Event files from earlier sessions are cut
            there, so that every step appears once.
        references: constant lines that charts compare with, by tag (see `layout`).
        flush_seconds: how long a point may wait in memory. Only `flush` and `flush_when_due` write to the
            disk and raise `OSError`.
    """

    def __init__(
        self,
        folder: str | Path,
        env_steps: int = 0,
        references: Mapping[str, float] | None = None,
        flush_seconds: float = 30.0,
    ) -> None:
        self._references = dict(references or {})
        self._env_steps = env_steps
        self._tags = cut_event_files(Path(folder), env_steps)
        self._writer = EventFile(Path(folder))
        self._flush_seconds, self._flushed = flush_seconds, time.monotonic()
        # Has a TensorBoard that is open during the resume forget what it has read of the steps cut off. Its
        # Python loader takes the first START of a run for its beginning, so a new run writes one, too.
        start = SessionLog(status=SessionLog.START)
        step = env_steps + 1 if env_steps else 0
        self._writer.add(Event(wall_time=time.time(), step=step, session_log=start))
        self._env = ""
        self._layout: dict[str, Sequence[Chart]] = {}

    def reference(self, tag: str, value: float) -> None:
        """Add a constant line."""
        self._references[tag] = value

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Add points at `step`. TensorBoard has no place for NaN or infinity (`metrics.jsonl`: null).

        A chart with a margin needs the same steps in all of its three series, so one missing point leaves
        out all three.
        """
        self._lay_out(metrics, step)
        points = {tag: x for tag, x in {**metrics, **self._references}.items() if math.isfinite(x)}
        for band in BANDS:
            if not points.keys() >= set(band):
                points = {tag: x for tag, x in points.items() if tag not in band}
        self._scalars(points, step)

    def evaluation(self, metrics: Mapping[str, float], step: int) -> None:
        """Add points of an evaluation that no iteration has in its metrics."""
        self._lay_out(metrics, step)
        self._scalars({tag: x for tag, x in metrics.items() if math.isfinite(x)}, step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        tensor = TensorProto(
            dtype="DT_STRING",
            string_val=[markdown.encode()],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        )
        metadata = text_plugin.create_summary_metadata(display_name=tag, description="")
        self._write_tensor(tag, metadata, tensor, step)

    def config(self, yaml: str, git_revision: str | None) -> None:
        """Show the resolved configuration and the source's revision on the Text page, once per session."""
        self.text("run/config", f"```yaml\n{yaml.rstrip()}\n```", self._env_steps)
        revision = f"`{git_revision}`" if git_revision else "not a git checkout"
        self.text("run/git_revision", revision, self._env_steps)

    def gif(self, tag: str, frames: Frames, fps: float, step: int) -> None:
        """Show an animation on the Images page, repeated for ever."""
        content = encode_gif(frames, fps)
        image = Summary.Image(
            height=frames.shape[1], width=frames.shape[2], colorspace=3, encoded_image_string=content
        )
        self._write(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def start(self, hyperparameters: Mapping[str, Hyperparameter], first: Sequence[str] = ()) -> None:
        """Put this run on the HParams page, with the metrics of `RANKED_BY` as columns.

        TensorBoard takes the columns for all runs from one of them, whichever it reads first. So a run lists
        all of its settings. Shown without asking are those in `first`, what shapes the learning before the
        environment and all else, and preset and seed.
        """
        self._env = str(hyperparameters.get("env", ""))
        telling = [key for key in first if key not in EXACT]
        telling.sort(key=lambda key: key.partition(".")[0] == "env")  # what all runs of a sweep have alike
        rest = ("preset", "seed", *first, "env", "optimizer.learning_rate", "env.num_envs")
        shown = list(dict.fromkeys([*telling, *rest]))[:COLUMNS]
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
            # `differs` puts a column first; a single run cannot know what really does.
            hparam_infos=[
                HParamInfo(name=name, type=_hyperparameter_type(value), differs=name in shown)
                for name, value in hyperparameters.items()
            ],
            metric_infos=[MetricInfo(name=MetricName(tag=tag)) for tag in RANKED_BY],
        )
        self._write_hparams(hparams_plugin.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))
        start = HParamsPluginData(session_start_info=session)
        self._write_hparams(hparams_plugin.SESSION_START_INFO_TAG, start)

    def finish(self, summary: RunSummary) -> None:
        """Write a finished run's `summary` under `final/`, and its end for the HParams page.

        Not for an interrupted run: TensorBoard keeps the first end that it reads, and the run may go on.
        """
        own = {name: x for name, x in summary.metrics.items() if isinstance(x, int | float)}
        ranked = {name: getattr(summary, name) for name in RunSummary.RANKED_BY}
        metrics = {f"final/{name}": x for name, x in {**own, **ranked}.items()}
        known = {tag: x for tag, x in metrics.items() if x is not None and math.isfinite(x)}
        self._scalars(known, summary.env_steps or 0)
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

    def _lay_out(self, metrics: Collection[str], step: int) -> None:
        """Write the layout anew where a new metric needs a chart: TensorBoard shows the last one."""
        if self._tags.issuperset(metrics):
            return
        self._tags.update(metrics)
        layout = layout_of(self._tags, self._env)
        if layout == self._layout:
            return
        self._layout = layout
        categories = [
            Category(title=question, chart=[_chart(chart) for chart in charts])
            for question, charts in layout.items()
        ]
        content = LayoutProto(category=categories).SerializeToString()
        tensor = TensorProto(dtype="DT_STRING", string_val=[content])
        metadata = custom_scalar_plugin.create_summary_metadata()
        self._write_tensor(custom_scalar_plugin.CONFIG_SUMMARY_TAG, metadata, tensor, step)

    def _scalars(self, points: Mapping[str, float], step: int) -> None:
        values = [Summary.Value(tag=tag, simple_value=x) for tag, x in points.items()]
        self._write(Summary(value=values), step)

    def _write(self, summary: Summary, step: int) -> None:
        self._writer.add(Event(wall_time=time.time(), step=step, summary=summary))

    def _write_hparams(self, tag: str, data: Any) -> None:
        self._write_tensor(tag, hparams_plugin.create_summary_metadata(data), hparams_plugin.NULL_TENSOR, 0)

    def _write_tensor(self, tag: str, metadata: SummaryMetadata, tensor: TensorProto, step: int) -> None:
        self._write(Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)]), step)


def _hyperparameter_type(value: Hyperparameter) -> Any:
    match value:
        case bool():
            return DataType.DATA_TYPE_BOOL
        case int() | float():
            return DataType.DATA_TYPE_FLOAT64
        case _:
            return DataType.DATA_TYPE_STRING


def _chart(chart: Chart) -> ChartProto:
    if isinstance(chart, Lines):
        return ChartProto(title=chart.title, multiline=MultilineChartContent(tag=chart.patterns))
    series = [MarginChartContent.Series(**band._asdict()) for band in chart.bands]
    return ChartProto(title=chart.title, margin=MarginChartContent(series=series))
