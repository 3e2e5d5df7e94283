"""Pictures of references at the size that a model takes, for pipelines and data sets alike."""

from __future__ import annotations

import numpy as np
import PIL.Image

WHITE = 255


def on_white(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture as large as fits, in the middle of a white one, by Lanczos' filter.

    Args:
        frame: uint8 ``[H, W, 3]``.
        height: of the white one.
        width: of it, too.
    """
    scale = min(height / frame.shape[0], width / frame.shape[1])
    rows, columns = max(1, round(frame.shape[0] * scale)), max(1, round(frame.shape[1] * scale))
    if frame.shape[:2] != (rows, columns):
        frame = np.asarray(PIL.Image.fromarray(frame).resize((columns, rows), PIL.Image.Resampling.LANCZOS))
    canvas = np.full((height, width, 3), WHITE, np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas[top : top + rows, left : left + columns] = frame
    return canvas
