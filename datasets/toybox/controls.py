"""Controls of toybox clips from the renderer's own knowledge, exact where an extractor would guess: for training.

Frames look like those that :func:`videodit.control.extracting.extract` gives, since a model sees both.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from videodit.control.boxes import draw_boxes
from videodit.control.drawn import Box, Color, Drawn, Track
from videodit.control.extracted import Extracted, as_rgb
from videodit.control.extracting import extract
from videodit.control.motion import draw_tracks
from videodit.control.networks import draw_depth, draw_masks
from videodit.control.palette import draw_palette, main_colors
from videodit.datasets.toybox.render import Rendering
from videodit.errors import InputError

COLORS = 5
"""Of a palette."""


def true_control(rendering: Rendering, kind: str, *, clip: int = 0) -> Extracted:
    """A control of one clip of a rendering.

    Args:
        rendering: with ground truth.
        kind: one of :data:`videodit.control.kinds.KINDS` that needs no network.
        clip: its index.

    Returns:
        Frames uint8 ``[T, H, W, 3]``, and the boxes, tracks or colours that they show.

    Raises:
        InputError: a rendering without ground truth, or another kind.
    """
    parts = (rendering.mask, rendering.depth, rendering.boxes, rendering.tracks)
    if any(part is None for part in parts):
        raise InputError("the rendering has no ground truth; render with ground_truth=True")
    if kind in _TRUTH:
        return _TRUTH[kind](rendering, clip)
    return extract(_frames(rendering, clip), kind)


def true_controls(rendering: Rendering, kind: str) -> torch.Tensor:
    """Controls of all clips of a rendering, uint8 ``[B, 3, T, H, W]`` as its video is.

    Args:
        rendering: with ground truth.
        kind: see :func:`true_control`.

    Raises:
        InputError: see :func:`true_control`.
    """
    frames = [true_control(rendering, kind, clip=index).frames for index in range(len(rendering.video))]
    return torch.from_numpy(np.stack(frames)).permute(0, 4, 1, 2, 3)


def _frames(rendering: Rendering, clip: int) -> np.ndarray:
    return np.ascontiguousarray(rendering.video[clip].permute(1, 2, 3, 0).cpu().numpy())


def _part(rendering: Rendering, name: str, clip: int) -> np.ndarray:
    values: np.ndarray = getattr(rendering, name)[clip].cpu().numpy()
    return values


def _depth(rendering: Rendering, clip: int) -> Extracted:
    return Extracted(draw_depth(1 / _part(rendering, "depth", clip)))


def _masks(rendering: Rendering, clip: int) -> Extracted:
    return Extracted(draw_masks(_part(rendering, "mask", clip)))


def _boxes(rendering: Rendering, clip: int) -> Extracted:
    """A box for each frame in which an object can be seen; one that comes back after it was hidden is straight there
    in between."""
    found: list[Box] = []
    count, height, width = _part(rendering, "mask", clip).shape
    for slot, own in enumerate(_part(rendering, "boxes", clip), start=1):
        for frame, (left, top, right, bottom) in enumerate(own):
            if np.isfinite(left):
                sides = [float(v) for v in (left / width, top / height, right / width, bottom / height)]
                at, name = frame / max(1, count - 1), f"object {slot}"
                found.append(Box(sides[0], sides[1], sides[2], sides[3], at, name))
    return Extracted(draw_boxes(found, count, height, width), tuple(found))


def _tracks(rendering: Rendering, clip: int) -> Extracted:
    """The way of each object's centre while it is in the picture, the longest stretch of it."""
    found: list[Track] = []
    count, height, width = _part(rendering, "mask", clip).shape
    for own in _part(rendering, "tracks", clip):
        points = own / (max(1, width - 1), max(1, height - 1))
        frames = _longest_run(np.isfinite(points).all(1) & ((points >= 0) & (points <= 1)).all(1))
        if len(frames):
            way = tuple((float(x), float(y)) for x, y in points[frames])
            found.append(Track(way, tuple(float(f / max(1, count - 1)) for f in frames)))
    return Extracted(draw_tracks(found, count, height, width), tuple(found))


def _longest_run(shown: np.ndarray) -> np.ndarray:
    """The numbers of the longest stretch of true values."""
    borders = np.flatnonzero(np.diff(np.concatenate([[0], shown.astype(int), [0]])))
    runs = list(zip(borders[::2], borders[1::2], strict=True))
    first, end = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
    return np.arange(first, end)


def _outlines(rendering: Rendering, clip: int) -> np.ndarray:
    """Where one object, the ground or the sky ends: boolean ``[T, H, W]``."""
    mask, sky = _part(rendering, "mask", clip).astype(int), np.isinf(_part(rendering, "depth", clip))
    parts = np.where(sky & (mask == 0), -1, mask)
    found = np.zeros(parts.shape, bool)
    found[:, :, :-1] |= parts[:, :, 1:] != parts[:, :, :-1]
    found[:, :-1] |= parts[:, 1:] != parts[:, :-1]
    return found


def _edges(rendering: Rendering, clip: int) -> Extracted:
    return Extracted(as_rgb(255 * _outlines(rendering, clip)))


def _sketch(rendering: Rendering, clip: int) -> Extracted:
    """Outlines a pixel thicker on each side."""
    lines = np.pad(_outlines(rendering, clip), ((0, 0), (1, 1), (1, 1)))
    across = lines[:, :, :-2] | lines[:, :, 1:-1] | lines[:, :, 2:]
    return Extracted(as_rgb(255 * (across[:, :-2] | across[:, 1:-1] | across[:, 2:])))


def _palette(rendering: Rendering, clip: int) -> Extracted:
    frames = _frames(rendering, clip)
    colors: tuple[Color, ...] = main_colors(frames, COLORS)
    data: tuple[Drawn, ...] = colors
    return Extracted(draw_palette(colors, *frames.shape[:3]), data)


_TRUTH: dict[str, Callable[[Rendering, int], Extracted]] = {
    "depth": _depth,
    "masks": _masks,
    "boxes": _boxes,
    "tracks": _tracks,
    "edges": _edges,
    "sketch": _sketch,
    "palette": _palette,
}

EXACT = tuple(_TRUTH)
"""Kinds that come from the renderer; others that need no network are derived from the clip."""
