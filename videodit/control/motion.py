"""Motion: optical flow (DIS), and points that are followed through a clip (Lucas and Kanade). Both are OpenCV's."""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from videodit.control.drawing import draw_line
from videodit.control.drawn import Track
from videodit.control.extracted import Extracted, distinct_colors, opencv
from videodit.errors import InputError

_SMALLEST = 16  # pixels a side that the finest level of either search needs
_AGREE = 1.0  # pixels by which the way there and back may differ


def flow(frames: np.ndarray, *, fastest: float) -> Extracted:
    """Motion from each frame to the next; the last frame shows that of the one before it.

    A pixel that rests is black; the hue is the direction, the brightness the speed.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        fastest: speed at full brightness, as a share of the width a frame.

    Raises:
        InputError: one frame alone, or frames that are too small.
    """
    cv2, grey = _grey_frames(frames, "optical flow")
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    moved = [search.calc(a, b, None) for a, b in itertools.pairwise(grey)]
    return Extracted(draw_flow(np.stack([*moved, moved[-1]]), fastest * frames.shape[2]))


def draw_flow(motion: np.ndarray, fastest: float) -> np.ndarray:
    """Motion ``[T, H, W, 2]`` in pixels a frame, to the right and down, as uint8 RGB ``[T, H, W, 3]``.

    Args:
        motion: of each pixel.
        fastest: pixels a frame at full brightness.
    """
    wheel = np.array([colorsys.hsv_to_rgb(index / 360, 1, 1) for index in range(360)], np.float32)
    angle = np.degrees(np.arctan2(motion[..., 1], motion[..., 0])) % 360
    speed = np.clip(np.hypot(motion[..., 0], motion[..., 1]) / fastest, 0, 1)
    return np.rint(255 * wheel[angle.astype(int) % 360] * speed[..., None]).astype(np.uint8)


def tracks(frames: np.ndarray, *, points: int, tail: int) -> Extracted:
    """Points that are followed from the first frame on; one that is lost, or leaves the picture, ends there.

    Points begin where the picture has corners (Shi and Tomasi, "Good features to track", 1994).

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        points: how many at most.
        tail: frames of the way that is drawn.

    Raises:
        InputError: one frame alone, frames that are too small, or nothing in them that could be followed.
    """
    cv2, grey = _grey_frames(frames, "point tracks")
    height, width = grey[0].shape
    apart = max(2.0, 0.5 * (height * width / points) ** 0.5)
    corners = cv2.goodFeaturesToTrack(grey[0], int(points), 0.01, apart)
    if corners is None:
        raise InputError("the clip's first frame has nothing that could be followed: it is nearly uniform")
    at = corners.reshape(-1, 2).astype(np.float32)
    ways = [[tuple(point)] for point in at]
    alive = np.arange(len(at))
    for before, after in itertools.pairwise(grey):
        if not len(alive):
            break
        there, kept = _followed(cv2, before, after, at)
        inside = ((there >= 0) & (there <= (width - 1, height - 1))).all(1)
        kept &= inside
        alive, at = alive[kept], there[kept]
        for index, point in zip(alive, at, strict=True):
            ways[index].append(tuple(point))
    last = max(1, len(frames) - 1)
    scale = np.array([max(1, width - 1), max(1, height - 1)])
    found = tuple(
        Track(
            tuple((round(float(x), 5), round(float(y), 5)) for x, y in np.clip(np.array(way) / scale, 0, 1)),
            tuple(index / last for index in range(len(way))),
        )
        for way in ways
    )
    return Extracted(draw_tracks(found, len(frames), height, width, tail=int(tail)), found)


def draw_tracks(ways: Sequence[Track], num_frames: int, height: int, width: int, *, tail: int = 8) -> np.ndarray:
    """Tracks as coloured points with the way that they came, on black, uint8 ``[num_frames, height, width, 3]``.

    A point is drawn from its first time to its last; one that has a single point stands still through the clip.

    Args:
        ways: in shares of the picture and of the clip.
        num_frames: frames.
        height: pixels.
        width: pixels.
        tail: frames of the way that is drawn.
    """
    out = np.zeros((num_frames, height, width, 3), np.float32)
    radius = max(1.0, 0.012 * min(height, width))
    times = np.arange(num_frames) / max(1, num_frames - 1)
    for color, way in zip(distinct_colors(len(ways)), ways, strict=True):
        when, points = np.array(way.when), np.array(way.points, np.float64) * (width - 1, height - 1)
        at = np.stack([np.interp(times, when, points[:, axis]) for axis in range(2)], axis=1)
        shown = np.ones(num_frames, bool)
        if len(points) > 1:
            shown = (times >= when[0] - 1e-9) & (times <= when[-1] + 1e-9)
        for frame in np.flatnonzero(shown):
            first = max(frame - tail, int(np.flatnonzero(shown)[0]))
            for index in range(first, frame):
                fade = 0.7 * (index + 1 - first) / (frame + 1 - first)
                draw_line(out[frame], at[index], at[index + 1], radius / 2, color * fade)
            draw_line(out[frame], at[frame], at[frame], radius, color.astype(np.float64))
    return np.rint(out).astype(np.uint8)


def _followed(cv2: Any, before: np.ndarray, after: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points went, and which of them the way back leads to where they came from."""
    search = {"winSize": (15, 15), "maxLevel": 3}
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, at[:, None], None, **search)
    back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **search)
    apart = np.abs(back.reshape(-1, 2) - at).max(1)
    return there.reshape(-1, 2), (found.ravel() == 1) & (again.ravel() == 1) & (apart < _AGREE)


def _grey_frames(frames: np.ndarray, purpose: str) -> tuple[Any, list[np.ndarray]]:
    cv2 = opencv(purpose)
    if len(frames) < 2:
        raise InputError(f"{purpose} need at least two frames, and this is one")
    height, width = frames.shape[1:3]
    if min(height, width) < _SMALLEST:
        raise InputError(f"{purpose} need frames of at least {_SMALLEST}x{_SMALLEST} pixels, got {width}x{height}")
    return cv2, [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
