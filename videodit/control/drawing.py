"""Lines and points with soft borders, by numpy alone, so that they are the same everywhere."""

from __future__ import annotations

import numpy as np


def draw_line(image: np.ndarray, a: np.ndarray, b: np.ndarray, radius: float, color: np.ndarray) -> None:
    """Paint all that is nearer to the way from ``a`` to ``b`` than ``radius``, with soft borders.

    Args:
        image: float ``[H, W, 3]``, painted on in place.
        a: column and row.
        b: column and row; the same for a point.
        radius: pixels.
        color: ``[3]``, in the unit of the image.
    """
    low = np.floor(np.minimum(a, b) - radius - 1).astype(int).clip(0)
    high = np.ceil(np.maximum(a, b) + radius + 2).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    if not part.size:
        return
    y, x = np.mgrid[low[1] : low[1] + part.shape[0], low[0] : low[0] + part.shape[1]]
    way = b - a
    along = np.clip(((x - a[0]) * way[0] + (y - a[1]) * way[1]) / max(float(way @ way), 1e-9), 0, 1)
    apart = np.hypot(x - a[0] - along * way[0], y - a[1] - along * way[1])
    cover = np.clip(radius + 0.5 - apart, 0, 1)[..., None]
    part[:] = part * (1 - cover) + color * cover
