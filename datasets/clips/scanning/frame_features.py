"""Features of a few frames of a clip: whether they are still, black or have bars, and their perceptual hashes.

``T`` frames of ``H × W`` pixels. Brightness is the luma of ITU-R BT.601, 0 to 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# An sRGB value of 24 gives off 0.9 % of white's light: on a screen it is black. What a lossy codec adds to black by
# noise and ringing stays below.
DARK = 24
# A black picture may hold a speck, a row of a bar the ringing of the picture beside it.
BLACK_SHARE = 0.01
BAR_SHARE = 0.02
# Bars are at least this share of the side: a dark line of a pixel or two is a capture's edge, not a bar.
MIN_BAR = 0.02
# Bars come in pairs of one size (film on a screen, a phone's clip on a wide one); what differs by more is a dark scene.
MAX_BAR_DIFFERENCE = 0.25
# Means of a picture's 16 × 16 parts average noise out. Of a still picture with noise of 4 levels (standard deviation),
# 128x96, at CRF 28 they change by 3.6 at most; larger pictures by less (640x360: 0.7). A thing that stands out by 100
# levels changes one by more than that when it moves, if it has a thirtieth of the picture's width and of its height.
STILL_GRID = 16
STILL_CHANGE = 4.0
# A picture whose brightness hardly varies has no low frequencies to tell it by.
MIN_CONTRAST = 4.0
_HASH_SIDE, _HASH_BITS = 32, 8
_ENOUGH_PIXELS = 256  # along a side
THUMB_SIDE = 4  # of the thumbnails, in pixels
# Frames that are compared between clips, as shares of the clip: its middle, and away from titles at both ends.
COMPARED = (0.1, 0.3, 0.5, 0.7, 0.9)
SAMPLED = 15  # spread over the clip; a multiple of the compared ones, so that these are among them


@dataclass(frozen=True)
class FrameFeatures:
    """What is measured in one frame.

    Attributes:
        grid: mean brightness of its 16 × 16 parts, float32.
        bright: share of pixels that are not dark.
        dark_rows: which rows are dark, bool ``[H]``.
        dark_columns: which columns are, bool ``[W]``.
        phash: 64 bits, or ``None`` for a picture that is flat.
        thumb: mean colours of 4 × 4 parts, uint8 ``[4, 4, 3]``.
    """

    grid: np.ndarray
    bright: float
    dark_rows: np.ndarray
    dark_columns: np.ndarray
    phash: int | None
    thumb: np.ndarray


def frame_features(frame: np.ndarray) -> FrameFeatures:
    """The features of a frame, uint8 RGB ``[H, W, 3]``."""
    height, width, _ = frame.shape
    # Pixels are passed over where there are more than means need: it is 4K that takes time.
    step = max(1, min(height, width) // _ENOUGH_PIXELS)
    small = frame[::step, ::step]
    luma = _luma(small)
    return FrameFeatures(
        grid=shrink(luma, STILL_GRID),
        bright=float((luma > DARK).mean()),
        dark_rows=(_luma(frame[:, :: max(1, width // _ENOUGH_PIXELS)]) > DARK).mean(axis=1) <= BAR_SHARE,
        dark_columns=(_luma(frame[:: max(1, height // _ENOUGH_PIXELS)]) > DARK).mean(axis=0) <= BAR_SHARE,
        phash=perceptual_hash(luma),
        thumb=np.stack([shrink(small[..., i], THUMB_SIDE) for i in range(3)], axis=-1).round().astype(np.uint8),
    )


def _luma(frame: np.ndarray) -> np.ndarray:
    wide = frame.astype(np.uint16)
    return ((77 * wide[..., 0] + 150 * wide[..., 1] + 29 * wide[..., 2]) >> 8).astype(np.uint8)


def shrink(plane: np.ndarray, side: int) -> np.ndarray:
    """Means of ``side × side`` equal parts of a picture ``[H, W]``, float32. Parts may share pixels."""
    height, width = plane.shape
    return _parts(height, side) @ plane.astype(np.float32) @ _parts(width, side).T


@lru_cache(maxsize=64)
def _parts(length: int, count: int) -> np.ndarray:
    """The share that each of ``length`` pixels has in the mean of each of ``count`` equal parts."""
    edges = np.arange(count + 1) * (length / count)
    pixels = np.arange(length)
    begin, end = np.maximum(pixels, edges[:-1, None]), np.minimum(pixels + 1, edges[1:, None])
    return (np.maximum(end - begin, 0) * (count / length)).astype(np.float32)


def perceptual_hash(luma: np.ndarray) -> int | None:
    """The 64-bit DCT hash of a picture ``[H, W]``, or ``None`` if it is flat.

    The picture is brought to 32 × 32; of its discrete cosine transform the 8 × 8 lowest frequencies but the constant
    rows and columns are compared with their median (C. Zauner, "Implementation and Benchmarking of Perceptual Image
    Hash Functions", 2010, section 3.2.1).
    """
    small = shrink(luma, _HASH_SIDE)
    if small.std() < MIN_CONTRAST:
        return None
    low = _DCT @ small @ _DCT.T
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _dct_rows() -> np.ndarray:
    """Rows 1 to 8 of the DCT-II of 32 values."""
    k, n = np.arange(1, _HASH_BITS + 1)[:, None], np.arange(_HASH_SIDE)[None, :]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * _HASH_SIDE)).astype(np.float32)


_DCT = _dct_rows()


def is_black(frames: Sequence[FrameFeatures]) -> bool:
    """Whether no frame shows anything."""
    return all(frame.bright <= BLACK_SHARE for frame in frames)


def is_static(frames: Sequence[FrameFeatures]) -> bool:
    """Whether there is more than one frame, and none differs from the first by more than noise."""
    changes = [float(np.abs(frame.grid - frames[0].grid).max()) for frame in frames[1:]]
    return bool(changes) and max(changes) <= STILL_CHANGE


def find_bars(frames: Sequence[FrameFeatures]) -> tuple[int, int, int, int] | None:
    """Heights and widths in pixels of dark bars that stay: top, bottom, left, right; ``None`` without any.

    Bars count in pairs of about one size, above and below or left and right. A black clip has none.
    """
    if is_black(frames):
        return None
    top, bottom = _pair(np.all([frame.dark_rows for frame in frames], axis=0))
    left, right = _pair(np.all([frame.dark_columns for frame in frames], axis=0))
    return (top, bottom, left, right) if top or left else None


def _pair(dark: np.ndarray) -> tuple[int, int]:
    """How many entries are dark at the beginning and at the end; zeros unless they are a pair of bars."""
    if dark.all():
        return 0, 0
    first, last = int(np.argmin(dark)), int(np.argmin(dark[::-1]))
    smaller, larger = sorted((first, last))
    # Two pixels are within what chroma subsampling and odd sizes do to an edge.
    pair = smaller >= max(2, MIN_BAR * len(dark)) and larger - smaller <= max(2, MAX_BAR_DIFFERENCE * larger)
    return (first, last) if pair else (0, 0)
