"""Controls of toybox clips from the renderer: they agree with its ground truth, and look like derived ones."""

from __future__ import annotations

import numpy as np
import pytest

from videodit.control.boxes import boxes_of_masks
from videodit.control.drawn import Box, Track
from videodit.control.kinds import KINDS
from videodit.datasets.toybox import Rendering, render, sample_scene
from videodit.datasets.toybox.controls import EXACT, true_control, true_controls
from videodit.errors import InputError

ALONE = [name for name, kind in KINDS.items() if name in EXACT or (kind.needs is None and kind.home is not None)]


@pytest.fixture(scope="module")
def rendering() -> Rendering:
    scenes = [sample_scene(seed, num_objects=2) for seed in (12, 3)]
    return render(scenes, height=48, width=64, num_frames=9, ground_truth=True)


@pytest.mark.parametrize("kind", ALONE)
def test_every_kind_has_frames_of_each_clip(rendering: Rendering, kind: str) -> None:
    found = true_controls(rendering, kind)
    assert found.shape == rendering.video.shape
    assert found.dtype == rendering.video.dtype
    again = true_control(rendering, kind, clip=1)
    assert np.array_equal(found[1].permute(1, 2, 3, 0).numpy(), again.frames)
    assert found.float().std() > 0


def test_depth_falls_with_distance(rendering: Rendering) -> None:
    assert rendering.depth is not None
    frames, depth = true_control(rendering, "depth").frames[..., 0].astype(int), rendering.depth[0].numpy()
    order = np.argsort(depth.ravel(), kind="stable")
    assert (np.diff(frames.ravel()[order]) <= 0).all()
    assert (frames[np.isinf(depth)] == 0).all()


def test_masks_and_boxes_show_the_objects(rendering: Rendering) -> None:
    assert rendering.mask is not None
    assert rendering.boxes is not None
    masks, boxes = true_control(rendering, "masks"), true_control(rendering, "boxes")
    mask = rendering.mask[0].numpy()
    assert np.array_equal(masks.frames.any(-1), mask > 0)
    assert (boxes.frames.any(-1) | (mask == 0)).all()
    first = boxes.data[0]
    assert isinstance(first, Box)
    assert first.left * 64 == pytest.approx(float(rendering.boxes[0, 0, 0, 0]))
    assert len(boxes_of_masks(masks.frames, smallest=1).data) == len(boxes.data)


def test_tracks_are_the_centres(rendering: Rendering) -> None:
    assert rendering.tracks is not None
    found = true_control(rendering, "tracks")
    assert len(found.data) == 2
    for track, true in zip(found.data, rendering.tracks[0].numpy(), strict=True):
        assert isinstance(track, Track)
        frames = np.rint(np.array(track.when) * 8).astype(int)
        assert np.array(track.points) * (63, 47) == pytest.approx(true[frames], abs=1e-3)


def test_edges_are_where_one_thing_ends(rendering: Rendering) -> None:
    assert rendering.mask is not None
    edges, sketch = (true_control(rendering, kind).frames[..., 0] > 0 for kind in ("edges", "sketch"))
    mask = rendering.mask[0].numpy()
    assert edges[:, :, :-1][mask[:, :, 1:] != mask[:, :, :-1]].all()
    assert sketch[edges].all()
    assert edges.mean() < sketch.mean() < 0.4


def test_without_ground_truth_there_is_no_exact_control() -> None:
    with pytest.raises(InputError, match="render with ground_truth=True"):
        true_control(render([sample_scene(1)], num_frames=2), "depth")
