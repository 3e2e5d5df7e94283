"""Clips without a mark on them, for tests of what clips look like, and sources of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from clips_made import make_clip
from PIL import Image

from videodit.datasets.clips.reading.records import Clip, Media, Source

HEIGHT, WIDTH = 48, 64


def moving(num_frames: int, height: int = HEIGHT, width: int = WIDTH, *, seed: int = 0, step: int = 0) -> np.ndarray:
    """uint8 ``[T, H, W, 3]``: a soft random picture that is passed over from left to right.

    ``step`` is how far from frame to frame, in pixels; 0 goes from one end to the other.
    """
    colors = np.random.default_rng(seed).integers(30, 255, (6, 12, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(colors).resize((2 * width, height), Image.Resampling.BICUBIC))
    steps = [i * step if step else i * width // max(1, num_frames - 1) for i in range(num_frames)]
    return np.stack([picture[:, left : left + width] for left in steps])


def write(path: Path, frames: np.ndarray, *, fps: int = 16, crf: int = 18) -> Path:
    make_clip(path, frames=frames, fps=fps, options={"crf": str(crf), "preset": "ultrafast"})
    return path


def source_of(*paths: Path, caption: str | None = "a clip") -> Source:
    return Source(tuple(Clip(path.name, Media(path), caption) for path in paths))
