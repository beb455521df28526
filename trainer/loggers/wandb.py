"""Metrics and films in Weights & Biases."""

from __future__ import annotations

import io
import json
import struct
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from equipoise.trainer.monitor.gif import Frames, encode_gif
from equipoise.trainer.monitor.logger import LoggedRun, Tracker, final_metrics, group_name, run_name
from equipoise.trainer.monitor.summary import Summary


class Wandb(Tracker):
    """A run of Weights & Biases; the axis is `env_steps`.

    Args:
        project: null: the environment's label.
        entity: user or team; null: that of the login.
        mode: `offline` writes into the run folder only, for `wandb sync` later; null: as
            WANDB_MODE says, or online.
        tags: of the run.
    """

    name = "wandb"

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        tags: tuple[str, ...] = (),
    ) -> None:
        self.project, self.entity, self.mode, self.tags = project, entity, mode, tags
        self._run: Any = None

    def begin(self, run: LoggedRun, known: str | None) -> str:
        import wandb

        self._folder = run.folder
        self._run = wandb.init(
            project=self.project or run.config.env.label,
            entity=self.entity,
            mode=self.mode,
            tags=list(self.tags),
            id=known or uuid.uuid4().hex[:8],
            name=run_name(run),
            group=group_name(run),
            dir=str(run.folder),
            config=dict(run.hyperparameters),
            allow_val_change=True,
            resume="allow",
            reinit="create_new",  # else a second run of the process would be written into the first
        )
        self._run.define_metric("env_steps", hidden=True)
        self._run.define_metric("*", step_metric="env_steps")
        return str(self._run.id)

    def reached(self) -> int | None:
        """Without a network the file of a session that was killed lacks its end: it is written in blocks."""
        if self._run.offline:
            place = f"offline-run-*-{self._run.id}/run-{self._run.id}.wandb"
            return max(map(_last_step, (self._folder / "wandb").glob(place)), default=0)
        return int(self._run.summary.get("env_steps", 0)) if self._run.resumed else None

    def send(self, metrics: Mapping[str, float], env_steps: int) -> None:
        # Without `step=`, which counts from 0 in each session where there is no network.
        self._run.log({**metrics, "env_steps": env_steps})

    def film(self, tag: str, frames: Frames, fps: float, env_steps: int) -> None:
        import wandb

        self._run.log(
            {tag: wandb.Video(io.BytesIO(encode_gif(frames, fps)), format="gif"), "env_steps": env_steps}
        )

    def finish(self, summary: Summary) -> None:
        self._run.summary.update(final_metrics(summary))

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


_BLOCK = 32_768
_HEADER = struct.Struct("<4xHB")


def _last_step(path: Path) -> int:
    """The largest `env_steps` in a file of a session without a network."""
    from wandb.proto.wandb_internal_pb2 import Record

    steps = [0]
    for content in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(content)
        named = {item.nested_key[0] if item.nested_key else item.key: item for item in record.history.item}
        if "env_steps" in named:
            steps.append(json.loads(named["env_steps"].value_json))
    return max(steps)


def _records(content: bytes) -> Iterator[bytes]:
    """The whole records of a file in LevelDB's log format, after W&B's header of 7 bytes."""
    position, record = 7, b""
    while position + _HEADER.size <= len(content):
        if (left := _BLOCK - position % _BLOCK) < _HEADER.size:  # no header fits
            position += left
            continue
        length, kind = _HEADER.unpack_from(content, position)
        position += _HEADER.size
        if position + length > len(content):
            return
        record += content[position : position + length]
        position += length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""
