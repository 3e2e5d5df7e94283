"""Controls that keep a part of what a clip shows: out of focus, without colours, in coarse pixels."""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageFilter

from videodit.control.extracted import Extracted, as_rgb

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""


def same(frames: np.ndarray) -> Extracted:
    """The clip itself, uint8 ``[T, H, W, 3]``."""
    return Extracted(frames)


def blur(frames: np.ndarray, *, radius: float) -> Extracted:
    """The clip out of focus.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        radius: standard deviation of the Gaussian, as a share of the shorter side.
    """
    filter = PIL.ImageFilter.GaussianBlur(radius * min(frames.shape[1:3]))
    return Extracted(np.stack([np.asarray(PIL.Image.fromarray(frame).filter(filter)) for frame in frames]))


def grey(frames: np.ndarray) -> Extracted:
    """The clip without its colours; ``frames`` are uint8 ``[T, H, W, 3]``."""
    return Extracted(as_rgb(np.stack([frame @ np.asarray(_LUMA, np.float32) for frame in frames])))


def low_res(frames: np.ndarray, *, factor: int) -> Extracted:
    """The clip in coarse pixels: the mean of each square, drawn as a square.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        factor: by which the sides become shorter.
    """
    return _smaller(frames, factor, PIL.Image.Resampling.NEAREST)


def tile(frames: np.ndarray, *, factor: int) -> Extracted:
    """The clip with less detail: made smaller, and drawn out smoothly again.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        factor: by which the sides become shorter.
    """
    return _smaller(frames, factor, PIL.Image.Resampling.BICUBIC)


def _smaller(frames: np.ndarray, factor: int, back: PIL.Image.Resampling) -> Extracted:
    """Frames made smaller by the mean of each square, and brought back to their size by another filter."""
    height, width = frames.shape[1:3]
    small, box = (max(1, round(width / factor)), max(1, round(height / factor))), PIL.Image.Resampling.BOX
    reduced = (PIL.Image.fromarray(frame).resize(small, box).resize((width, height), back) for frame in frames)
    return Extracted(np.stack([np.asarray(frame) for frame in reduced]))
