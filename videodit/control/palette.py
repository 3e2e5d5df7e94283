"""Palettes: the main colours of a clip, found by k-means in OKLab, and stripes that show them.

OKLab (Ottosson, "A perceptual color space for image processing", 2020) is a space in which equal distances look
equally different.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from videodit.control.drawn import Color
from videodit.control.extracted import Extracted

_MOST_PIXELS = 16_384  # of a clip that are looked at
_ROUNDS = 50
_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def to_oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB ``[…, 3]``, 0 to 255, as OKLab: lightness from 0 to 1, and two axes of colour."""
    value = np.asarray(rgb, np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _LMS.T) @ _LAB.T


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """The opposite of :func:`to_oklab`, uint8; colours that sRGB lacks are cut off."""
    linear = (np.asarray(lab) @ np.linalg.inv(_LAB).T) ** 3 @ np.linalg.inv(_LMS).T
    linear = np.clip(linear, 0, 1)
    value = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.clip(np.rint(255 * value), 0, 255).astype(np.uint8)


def main_colors(frames: np.ndarray, count: int, *, seed: int = 0) -> tuple[Color, ...]:
    """The main colours of a clip, those of the largest share first; fewer than ``count`` where there are no more.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        count: of colours.
        seed: of the pixels that are looked at, and of where the search begins.
    """
    rng = np.random.default_rng(seed)
    pixels = frames.reshape(-1, 3)
    if len(pixels) > _MOST_PIXELS:
        pixels = pixels[rng.choice(len(pixels), _MOST_PIXELS, replace=False)]
    points = to_oklab(pixels)
    centers = _apart(points, count, rng)
    for _ in range(_ROUNDS):
        nearest = _nearest(points, centers)
        sums = np.stack([np.bincount(nearest, points[:, axis], len(centers)) for axis in range(3)], axis=1)
        counts = np.bincount(nearest, minlength=len(centers))
        moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centers)
        if np.allclose(moved, centers, atol=1e-6):
            break
        centers = moved
    share = np.bincount(_nearest(points, centers), minlength=len(centers)) / len(points)
    order = [index for index in np.argsort(-share, kind="stable") if share[index] > 0]
    rgb = from_oklab(centers)
    return tuple(Color((int(r), int(g), int(b)), float(share[i])) for i in order for r, g, b in [rgb[i]])


def palette(frames: np.ndarray, *, colors: int, seed: int) -> Extracted:
    """The main colours of a clip as stripes; see :func:`main_colors`.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        colors: how many.
        seed: of the search.
    """
    found = main_colors(frames, int(colors), seed=int(seed))
    count, height, width = frames.shape[:3]
    told = () if len(found) == colors else (f"the clip has {len(found)} colours, fewer than {colors}",)
    return Extracted(draw_palette(found, count, height, width), found, told)


def draw_palette(colors: Sequence[Color], num_frames: int, height: int, width: int) -> np.ndarray:
    """Upright stripes in the colours, each as wide as its share, uint8 ``[num_frames, height, width, 3]``."""
    rest = 1 - sum(color.share or 0 for color in colors)
    free = sum(color.share is None for color in colors)
    shares = np.array([rest / free if color.share is None else color.share for color in colors])
    ends = np.cumsum(shares / shares.sum())
    at = np.minimum(np.searchsorted(ends, (np.arange(width) + 0.5) / width), len(colors) - 1)
    row = np.array([color.rgb for color in colors], np.uint8)[at]
    return np.broadcast_to(row, (num_frames, height, width, 3)).copy()


def _nearest(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return ((points[:, None] - centers) ** 2).sum(-1).argmin(1)


def _apart(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points to begin with, each likely far from those before (Arthur and Vassilvitskii, "k-means++", 2007)."""
    centers = [points[rng.integers(len(points))]]
    far = ((points - centers[0]) ** 2).sum(1)
    while len(centers) < count and far.max() > 1e-9:
        centers.append(points[rng.choice(len(points), p=far / far.sum())])
        far = np.minimum(far, ((points - centers[-1]) ** 2).sum(1))
    return np.stack(centers)
