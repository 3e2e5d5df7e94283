"""Outlines: Canny's, soft ones, and a sketch. OpenCV finds them frame by frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from videodit.control.extracted import Extracted, as_rgb, opencv

_FAINT = 0.02
"""Strength, of that of a step from black to white, below which nothing is an outline: noise would become one."""


def canny_edges(frames: np.ndarray, *, low: float, high: float) -> Extracted:
    """Outlines, white on black (Canny, "A computational approach to edge detection", 1986).

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        low: gradient above which an outline goes on.
        high: gradient above which an outline begins.
    """
    cv2 = opencv("edges")
    low, high = min(low, high), max(low, high)
    found = [cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), low, high) for frame in frames]
    return Extracted(as_rgb(np.stack(found)))


def soft_edges(frames: np.ndarray, *, blur: float) -> Extracted:
    """The strength of outlines in grey, by Scharr's gradient: white where it is among the strongest in the clip.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        blur: standard deviation of the smoothing before, in pixels.
    """
    cv2 = opencv("soft edges")
    strength = np.stack([_strength(cv2, frame, blur) for frame in frames])
    return Extracted(as_rgb(255 * strength / max(float(np.quantile(strength, 0.995)), _FAINT)))


def sketch(frames: np.ndarray, *, blur: float, threshold: float, thickness: int) -> Extracted:
    """The main outlines as thick white lines on black; specks are left out.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        blur: standard deviation of the smoothing before, in pixels.
        threshold: strength from which an outline is drawn, of that of the strongest 1 % in the clip.
        thickness: of a line in pixels.
    """
    cv2 = opencv("sketches")
    strength = np.stack([_strength(cv2, frame, blur) for frame in frames])
    strongest = max(float(np.quantile(strength, 0.99)), _FAINT)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thickness, thickness))
    smallest = max(4, round(0.02 * min(frames.shape[1:3])) ** 2)
    drawn = []
    for one in strength:
        lines = cv2.dilate(_ridge(one, threshold * strongest), pen)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(lines, connectivity=8)
        large = stats[:, cv2.CC_STAT_AREA] >= smallest
        large[0] = False  # the background
        drawn.append(255 * large[labels].astype(np.uint8))
    return Extracted(as_rgb(np.stack(drawn)))


def _strength(cv2: Any, frame: np.ndarray, blur: float) -> np.ndarray:
    """Of outlines, float32 ``[H, W]``, from 0 to 1."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    if blur > 0:
        grey = cv2.GaussianBlur(grey, (0, 0), blur)
    across, down = (cv2.Scharr(grey, cv2.CV_32F, *axis) / 16 for axis in ((1, 0), (0, 1)))
    return np.clip(np.hypot(across, down), 0, 1)


def _ridge(strength: np.ndarray, threshold: float) -> np.ndarray:
    """Where outlines are strongest across their own direction, uint8 ``[H, W]``: lines of a pixel or two."""
    padded = np.pad(strength, 1, mode="edge")
    h, w = strength.shape
    shifted = {(y, x): padded[1 + y : 1 + y + h, 1 + x : 1 + x + w] for y in (-1, 0, 1) for x in (-1, 0, 1)}
    ways = [((0, 1), (0, -1)), ((1, 0), (-1, 0)), ((1, 1), (-1, -1)), ((1, -1), (-1, 1))]
    top = [(strength >= shifted[a]) & (strength > shifted[b]) for a, b in ways]
    return ((strength > threshold) & (sum(one.astype(np.uint8) for one in top) >= 2)).astype(np.uint8)
