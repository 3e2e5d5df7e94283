"""Boxes: drawn from what a user says, and found around the objects of a mask clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from videodit.control.drawn import MOST, Box
from videodit.control.extracted import Extracted, distinct_colors
from videodit.errors import InputError

_ALIKE = 48  # of 255: how far a colour may be from the one that was drawn
_MOST_OBJECTS = 128
_FLAT = 16  # of 255: how far most pixels of a mask clip are at most
_MOST_STRANGE = 0.15  # share of the pixels that may be further


def draw_boxes(boxes: Sequence[Box], num_frames: int, height: int, width: int) -> np.ndarray:
    """Boxes as filled rectangles on black, uint8 ``[num_frames, height, width, 3]``; later objects cover earlier ones.

    An object with one box has it in all frames. One with several goes straight from each to the next, and is there
    from the first of them to the last.

    Args:
        boxes: in shares of the picture and of the clip.
        num_frames: frames.
        height: pixels.
        width: pixels.
    """
    out = np.zeros((num_frames, height, width, 3), np.uint8)
    objects: dict[str, list[Box]] = {}
    for box in boxes:
        objects.setdefault(box.object, []).append(box)
    for color, own in zip(distinct_colors(len(objects)), objects.values(), strict=True):
        times = np.array([box.at for box in own])
        borders = np.array([(box.left, box.top, box.right, box.bottom) for box in own])
        for frame in range(num_frames):
            at = frame / max(1, num_frames - 1)
            if len(own) > 1 and not times[0] - 1e-9 <= at <= times[-1] + 1e-9:
                continue
            left, top, right, bottom = (np.interp(at, times, borders[:, side]) for side in range(4))
            columns, rows = _span(left, right, width), _span(top, bottom, height)
            out[frame, rows, columns] = color
    return out


def boxes_of_masks(frames: np.ndarray, *, smallest: int) -> Extracted:
    """Boxes around the objects of a mask clip: each colour but black is an object.

    Args:
        frames: uint8 ``[T, H, W, 3]``, few colours, such as the kind ``masks`` has.
        smallest: pixels of an object in a frame; what is smaller is left out there.

    Raises:
        InputError: no object, or so many colours that this is no mask clip.
    """
    count, height, width = frames.shape[:3]
    colors, objects = _objects(frames, smallest)
    found: list[Box] = []
    for number, color in enumerate(colors, start=1):
        found += _boxes_of(objects == number, "#{:02x}{:02x}{:02x}".format(*color), smallest)
    if not found:
        raise InputError(f"the mask clip shows no object of at least {smallest} pixels: it is black")
    if len(found) > MOST:
        raise InputError(f"the mask clip gives {len(found)} boxes; at most {MOST} are taken: use fewer frames")
    return Extracted(draw_boxes(found, count, height, width), tuple(found))


def _objects(frames: np.ndarray, smallest: int) -> tuple[np.ndarray, np.ndarray]:
    """The colours of the objects ``[N, 3]``, and which of them each pixel has, from 1; 0 is black.

    A video's pixels are near the colours that were drawn, not equal to them: each counts as the nearest colour that is
    frequent. Where objects meet, colours mix: a pixel whose neighbours are others' is nobody's.

    Raises:
        InputError: too many colours, or too many pixels of none.
    """
    coarse, first, counts = np.unique(
        (frames >> 3).reshape(-1, 3) @ np.array([1024, 32, 1]), return_index=True, return_counts=True
    )
    pixels = frames.reshape(-1, 3).astype(np.int32)
    known = np.zeros((1, 3), np.int32)
    for index in first[np.argsort(-counts, kind="stable")][: np.count_nonzero(counts >= smallest)]:
        if np.abs(known - pixels[index]).max(1).min() > _ALIKE:
            known = np.concatenate([known, pixels[index : index + 1]])
        if len(known) > _MOST_OBJECTS:
            break
    apart = np.stack([np.abs(frames.astype(np.int32) - color).max(-1) for color in known])
    objects = apart.argmin(0)
    strange = (apart.min(0) > _FLAT).mean()
    if len(known) > _MOST_OBJECTS or strange > _MOST_STRANGE:
        raise InputError(
            "boxes are found around the objects of a mask clip, each in a colour of its own on black, and this clip "
            f"has too many colours ({len(coarse)}): derive masks from it first"
        )
    return known[1:], np.where(_supported(objects), objects, 0)


def _supported(objects: np.ndarray) -> np.ndarray:
    """Which pixels of ``[T, H, W]`` have most of their eight neighbours on their side."""
    height, width = objects.shape[1:]
    padded = np.pad(objects, ((0, 0), (1, 1), (1, 1)), mode="edge")
    same = sum(
        (padded[:, y : y + height, x : x + width] == objects).astype(np.uint8) for y in range(3) for x in range(3)
    )
    return np.asarray(same) >= 4  # a corner has itself and three


def _boxes_of(shown: np.ndarray, name: str, smallest: int) -> Iterable[Box]:
    """The boxes of one object, a boolean ``[T, H, W]``."""
    count, height, width = shown.shape
    for frame, mask in enumerate(shown):
        if mask.sum() < smallest:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        yield Box(
            left=float(columns[0] / width),
            top=float(rows[0] / height),
            right=float((columns[-1] + 1) / width),
            bottom=float((rows[-1] + 1) / height),
            at=frame / max(1, count - 1),
            object=name,
        )


def _span(low: float, high: float, size: int) -> slice:
    """The pixels that shares of a side cover, at least one."""
    first = min(size - 1, int(np.floor(low * size + 0.5)))
    return slice(first, max(first + 1, int(np.floor(high * size + 0.5))))
