"""Animated GIFs of rendered episodes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

Frames = np.ndarray[Any, np.dtype[np.uint8]]
"""`[F, height, width, 3]`."""


def encode_gif(frames: Frames, fps: float) -> bytes:
    """An animated GIF of `frames` that repeats for ever.

    GIF counts time in hundredths of a second, and browsers slow down frames shorter than two of them.

    Raises `ValueError` for frames of another shape or dtype, and for an `fps` outside (0, 50].
    """
    if frames.ndim != 4 or frames.shape[0] == 0 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(
            f"frames are {frames.dtype} of shape {frames.shape}; they must be uint8 [F, height, width, 3]"
        )
    if not 0.0 < fps <= 50.0:
        raise ValueError(f"fps is {fps}; a GIF plays at more than 0 and at most 50 frames a second")
    pictures = [Image.fromarray(frame).quantize(dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=10 * round(100 / fps),
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


def shrink(frames: Frames, width: int = 480) -> Frames:
    """Scale frames down to at most `width` columns, which keeps films small on disk."""
    if frames.shape[2] <= width:
        return frames
    size = (width, round(frames.shape[1] * width / frames.shape[2]))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames])
