"""What is known of scenes, and how far a clip agrees with it by what the geometry probe reads.

Letters: ``T`` frames, ``H W`` pixels of a clip, ``S`` pixels of a side that the probe reads, ``N`` objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from _common import ClipForm

from geometry.network import SIZE, Geometry
from videodit.datasets.toybox import Scene, camera, render
from videodit.datasets.toybox.controls import true_control

GEOMETRY = {
    "depth": "depth: correlation",
    "depth_objects": "... less the ground's",
    "masks": "objects: IoU",
    "masks_each": "... object by object",
    "boxes": "boxes: mean IoU",
    "edges": "outlines of objects: F-score",
}
"""What is measured of each clip."""
MEASURES = {
    "depth": ("depth", "depth_objects"),
    "masks": ("masks", "masks_each"),
    "boxes": ("boxes",),
    "edges": ("edges", "masks"),
}
"""By which of these a clip under a kind of control is judged; the first is the main one."""
SMALLEST = 6
"""Pixels of an object in a frame, of `SIZE` to a side; what is smaller is not looked for."""
NEAR = 1
"""Pixels of the `SIZE` to a side that an outline may be off: two of a clip of 128x128."""
MOST = 8
"""Objects of a frame that are looked for."""
_CANDIDATES = 32
_SAME = 0.5
"""IoU from which two pixels tell the same box."""


@dataclass
class Truth:
    """What the renderer knows of a scene.

    Attributes:
        scene: itself.
        video: its clip, uint8 ``[T, H, W, 3]``.
        controls: exact ones by kind, uint8 ``[T, H, W, 3]``.
        nearness: one over the distance, 0 in the sky: fp32 ``[T, S, S]``.
        ground: the same without objects.
        mask: numbers of objects, 0 for none: ``[T, S, S]``.
        boxes: shares of the frame, ``[N, T, 4]``; NaN where an object cannot be seen.
    """

    scene: Scene
    video: np.ndarray
    nearness: np.ndarray
    ground: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    controls: dict[str, np.ndarray] = field(default_factory=dict)


def truths(scenes: Sequence[Scene], form: ClipForm, kinds: Sequence[str] = ()) -> Iterator[Truth]:
    """What is known of scenes, one by one.

    Args:
        scenes: to be drawn.
        form: of their clips.
        kinds: of the controls.
    """
    for scene in scenes:
        drawn = render([scene], **form._asdict(), ground_truth=True)
        small = render([scene], **form._replace(height=SIZE, width=SIZE)._asdict(), ground_truth=True)
        assert small.depth is not None
        assert small.mask is not None
        assert small.boxes is not None
        at = camera.view(scene.camera, np.arange(form.num_frames) / form.fps)
        focal = torch.from_numpy((camera.focal_pixels(SIZE, SIZE) * at.zoom).astype(np.float32))
        yield Truth(
            scene,
            drawn.video[0].permute(1, 2, 3, 0).numpy(),
            nearness=(1 / small.depth[0]).numpy(),
            ground=(1 / camera.ground_depth(focal, height=SIZE, width=SIZE)).numpy(),
            mask=small.mask[0].numpy(),
            boxes=small.boxes[0].numpy() / SIZE,
            controls={kind: true_control(drawn, kind).frames for kind in kinds},
        )


def measure(read: Geometry, clip: int, truth: Truth) -> dict[str, float]:
    """How far a clip agrees with a scene, by the keys of `GEOMETRY`; those that do not apply are left out.

    Args:
        read: what the probe read of some clips.
        clip: which of them.
        truth: of the scene.
    """
    nearness, shown, boxes = (part[clip].cpu().numpy() for part in read)
    found = {
        "depth": correlation(nearness, truth.nearness),
        "depth_objects": correlation(nearness - truth.ground, truth.nearness - truth.ground),
    }
    there, seen = shown >= 0.5, truth.mask > 0
    if seen.any():
        found["masks"] = float((there & seen).sum() / (there | seen).sum())
        found["edges"] = outlines_agree(there, seen)
    masks, borders = [], []
    for frame in range(len(truth.mask)):
        numbers = [n for n in range(1, len(truth.boxes) + 1) if (truth.mask[frame] == n).sum() >= SMALLEST]
        if numbers:
            made = objects_in(there[frame], boxes[frame])
            wanted = np.stack([truth.mask[frame].reshape(-1) == n for n in numbers])
            masks += best(mask_iou(wanted, np.stack([m.reshape(-1) for m, _ in made])) if made else None, len(numbers))
            known = np.stack([truth.boxes[n - 1, frame] for n in numbers])
            borders += best(box_iou(known, np.stack([box for _, box in made])) if made else None, len(numbers))
    if masks:
        found |= {"masks_each": float(np.mean(masks)), "boxes": float(np.mean(borders))}
    return found


# ---- parts ---------------------------------------------------------------------------------------


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's, of all values; 0 where one of them is the same everywhere."""
    a, b = (x.astype(np.float64).reshape(-1) - x.mean(dtype=np.float64) for x in (one, other))
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 1e-9 else 0.0


def outlines_agree(made: np.ndarray, known: np.ndarray) -> float:
    """F-score of the outlines of two masks, boolean ``[T, S, S]``.

    A pixel of an outline is right within `NEAR` of the other's. The score is the harmonic mean of the
    shares of either's pixels that are right; 0 where one of them has none.
    """
    outlines = [_outline(mask) for mask in (made, known)]
    shares = [float((one & _grown(other)).sum() / max(1, one.sum())) for one, other in (outlines, reversed(outlines))]
    return 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0


def _outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask ``[T, S, S]`` with a neighbour outside it; the frame's own border is no outline."""
    around = np.pad(mask, ((0, 0), (1, 1), (1, 1)), mode="edge")
    inside = around[:, 2:, 1:-1] & around[:, :-2, 1:-1] & around[:, 1:-1, 2:] & around[:, 1:-1, :-2]
    return mask & ~inside


def _grown(lines: np.ndarray) -> np.ndarray:
    """All pixels within `NEAR` of lines ``[T, S, S]``, along rows, columns and diagonals."""
    size = 2 * NEAR + 1
    around = np.pad(lines, ((0, 0), (NEAR, NEAR), (NEAR, NEAR)))
    grown: np.ndarray = np.lib.stride_tricks.sliding_window_view(around, (size, size), axis=(1, 2)).any(axis=(-2, -1))
    return grown


def objects_in(there: np.ndarray, boxes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The objects of a frame: pixels that tell about the same box are one; of the most pixels first.

    Args:
        there: where objects are, boolean ``[S, S]``.
        boxes: that each pixel tells, ``[4, S, S]``.

    Returns:
        Of each its mask, boolean ``[S, S]``, and its box ``[4]``, the median of its pixels'.
    """
    places = np.flatnonzero(there)
    told = boxes.reshape(4, -1)[:, places].T
    found = []
    while len(places) >= SMALLEST and len(found) < MOST:
        chosen = np.linspace(0, len(places) - 1, min(_CANDIDATES, len(places))).astype(int)
        agree = box_iou(told[chosen], told) >= _SAME
        members = agree[agree.sum(1).argmax()]
        if members.sum() < SMALLEST:
            break
        mask = np.zeros(there.size, bool)
        mask[places[members]] = True
        found.append((mask.reshape(there.shape), np.median(told[members], axis=0)))
        places, told = places[~members], told[~members]
    return found


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes ``[A, 4]`` and ``[B, 4]``, left, top, right and bottom: ``[A, B]``."""
    sides = [
        np.minimum(one[:, None, n + 2], other[:, n + 2]) - np.maximum(one[:, None, n], other[:, n]) for n in (0, 1)
    ]
    shared = sides[0].clip(0) * sides[1].clip(0)
    areas = [(x[:, 2] - x[:, 0]).clip(0) * (x[:, 3] - x[:, 1]).clip(0) for x in (one, other)]
    both: np.ndarray = shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)
    return both


def mask_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The same of masks, boolean ``[A, P]`` and ``[B, P]``."""
    shared = one.astype(np.float64) @ other.T.astype(np.float64)
    both: np.ndarray = shared / np.maximum(one.sum(1)[:, None] + other.sum(1)[None] - shared, 1)
    return both


def best(iou: np.ndarray | None, count: int) -> list[float]:
    """For each row the value of a column of its own, the largest first; 0 for rows that get none.

    Args:
        iou: rows and columns; ``None`` for no columns.
        count: rows.
    """
    found = [0.0] * count
    left = np.zeros((count, 0)) if iou is None else iou.copy()
    for _ in range(min(left.shape)):
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        found[row] = max(0.0, float(left[row, column]))
        left[row, :] = left[:, column] = -1
    return found
