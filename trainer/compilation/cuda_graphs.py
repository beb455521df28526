"""CUDA graphs: what the GPU has to do is recorded, and launched as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from equipoise.trainer.compilation.compiling import several_processes

Result = TypeVar("Result")


def obstacle(device: torch.device) -> str | None:
    """What stands in the way of graphs on `device`, in words."""
    if device.type != "cuda":
        return f"the run is on the device {device}, and CUDA graphs need cuda"
    return several_processes()


def record(function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """On the current CUDA device. Recording runs nothing there: the first replay does."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return result, graph.replay
