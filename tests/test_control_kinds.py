"""Controls that are derived from clips: each kind shows what it says, always the same, and says what it lacks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips_panned import moving

from videodit.control.boxes import draw_boxes
from videodit.control.drawn import Box, Color, Track
from videodit.control.extracting import extract
from videodit.control.kinds import KINDS, kind_named
from videodit.control.motion import draw_flow, draw_tracks
from videodit.control.palette import draw_palette, from_oklab, main_colors, to_oklab
from videodit.errors import InputError, ModelError
from videodit.media import read_video, write_video

pytest.importorskip("cv2")
ALONE = [
    name
    for name, kind in KINDS.items()
    if kind.home and kind.needs not in ("transformers", "mediapipe") and name != "boxes"
]


def square(frames: int = 5, side: int = 48, step: int = 2) -> np.ndarray:
    """A white square on black that goes to the right."""
    clip = np.zeros((frames, side, side, 3), np.uint8)
    for i in range(frames):
        clip[i, 16:32, 8 + step * i : 24 + step * i] = 255
    return clip


# ---- without weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALONE)
def test_the_same_clip_gives_the_same_control(kind: str) -> None:
    clip = moving(6)
    found = extract(clip, kind)
    assert found.frames.shape == clip.shape
    assert found.frames.dtype == np.uint8
    assert found.frames.max() > 0
    assert np.array_equal(found.frames, extract(clip.copy(), kind).frames)


@pytest.mark.parametrize("kind", ["edges", "soft_edges", "sketch"])
def test_outlines_are_where_the_square_ends(kind: str) -> None:
    frames = extract(square(), kind, {"blur": 0} if kind != "edges" else None).frames
    assert frames[0, 16:32, 6:10].max() == 255
    assert frames[0, 22:26, 14:18].max() == 0
    assert frames[0, :10].max() == 0


def test_a_uniform_clip_has_no_outlines() -> None:
    noise = np.random.default_rng(0).integers(120, 123, (2, 48, 48, 3), dtype=np.uint8)
    for kind in ("edges", "sketch"):
        assert extract(noise, kind).frames.max() == 0
    assert extract(noise, "soft_edges").frames.mean() < 40


def test_reductions_keep_what_they_say() -> None:
    clip = moving(2)
    grey = extract(clip, "grey").frames.astype(int)
    assert (grey[..., 0] == grey[..., 1]).all()
    assert np.abs(grey[..., 0] - clip @ [0.299, 0.587, 0.114]).max() <= 1
    coarse = extract(clip, "low_res", {"factor": 8}).frames
    assert (coarse == coarse[:, ::8, ::8].repeat(8, 1).repeat(8, 2)).all()
    assert np.abs(coarse.mean((1, 2)) - clip.mean((1, 2))).max() < 2
    soft = extract(clip, "blur", {"radius": 0.1}).frames
    assert np.abs(np.diff(soft.astype(int), axis=2)).mean() < np.abs(np.diff(clip.astype(int), axis=2)).mean()
    assert extract(clip, "clip").frames is not None


def test_oklab_goes_there_and_back() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (500, 3))
    assert np.abs(from_oklab(to_oklab(rgb)).astype(int) - rgb).max() <= 1
    assert to_oklab(np.array([255, 255, 255])) == pytest.approx([1, 0, 0], abs=1e-4)
    assert to_oklab(np.array([255, 0, 0])) == pytest.approx([0.62796, 0.22486, 0.12585], abs=1e-4)


def test_a_palette_is_the_clips_colours_by_their_share() -> None:
    clip = np.zeros((3, 20, 40, 3), np.uint8)
    clip[:, :, :20], clip[:, :, 20:32], clip[:, :, 32:] = (200, 30, 30), (30, 30, 200), (240, 240, 240)
    found = main_colors(clip, 3)
    assert [color.rgb for color in found] == [(200, 30, 30), (30, 30, 200), (240, 240, 240)]
    assert [color.share for color in found] == pytest.approx([0.5, 0.3, 0.2])
    assert np.array_equal(draw_palette(found, 3, 20, 40), clip)
    more = extract(clip, "palette", {"colors": 5})
    assert len(more.data) == 3
    assert more.notices == ("the clip has 3 colours, fewer than 5",)


def test_stripes_without_a_share_get_what_is_left() -> None:
    drawn = draw_palette([Color((255, 0, 0), 0.5), Color((0, 255, 0)), Color((0, 0, 255))], 1, 1, 8)
    assert drawn[0, 0, :, 0].tolist() == [255] * 4 + [0] * 4
    assert drawn[0, 0, :, 1].tolist() == [0] * 4 + [255] * 2 + [0] * 2


def test_points_are_followed() -> None:
    clip = moving(8, step=2)  # its picture moves to the left by two pixels a frame
    found = extract(clip, "tracks", {"points": 30})
    ways = [one for one in found.data if isinstance(one, Track) and len(one.points) == 8]
    assert len(ways) >= 5
    went = np.median([(one.points[-1][0] - one.points[0][0]) * 63 for one in ways])
    assert went == pytest.approx(-14, abs=0.7)
    assert np.median([abs(one.points[-1][1] - one.points[0][1]) * 47 for one in ways]) < 0.5
    assert np.array_equal(found.frames, draw_tracks(found.data, 8, 48, 64))  # type: ignore[arg-type]


def test_flow_shows_the_direction_by_its_hue() -> None:
    left, right = (extract(clip, "flow").frames for clip in (moving(4, step=3), moving(4, step=3)[::-1]))
    assert left[:-1, 10:-10, 10:-10].mean((0, 1, 2)).argmax() != right[:-1, 10:-10, 10:-10].mean((0, 1, 2)).argmax()
    assert np.array_equal(left[-1], left[-2])
    still = np.repeat(moving(1), 3, axis=0)
    assert extract(still, "flow").frames.max() < 20
    assert draw_flow(np.array([[[[2.0, 0.0]]]]), 2.0).tolist() == [[[[255, 0, 0]]]]


def test_a_track_is_drawn_where_it_is() -> None:
    drawn = draw_tracks([Track(((0, 0.5), (1, 0.5)))], 5, 33, 65, tail=0)
    assert [int(frame[16].sum(-1).argmax()) for frame in drawn] == pytest.approx([0, 16, 32, 48, 64], abs=1)
    part = draw_tracks([Track(((0, 0), (1, 1)), (0.25, 0.5))], 5, 33, 65)
    assert [bool(frame.any()) for frame in part] == [False, True, True, False, False]
    assert all(frame.any() for frame in draw_tracks([Track(((0.5, 0.5),))], 5, 33, 65))


def test_boxes_move_from_one_to_the_next() -> None:
    boxes = [Box(0, 0, 0.5, 0.5, 0, "a"), Box(0.5, 0.5, 1, 1, 1, "a"), Box(0, 0.9, 1, 1, object="floor")]
    drawn = draw_boxes(boxes, 3, 20, 20)
    floor = drawn[0, 19, 0]
    assert (drawn[:, 18:] == floor).all()
    assert drawn[0, :10, :10].any(-1).all()
    assert not drawn[0, 10:18].any()
    assert drawn[1, 5:15, 5:15].any(-1).all()
    assert not drawn[1, 2, 2].any()


def test_boxes_are_found_around_what_a_mask_clip_shows(tmp_path: Path) -> None:
    masks = np.zeros((5, 48, 64, 3), np.uint8)
    for i in range(5):
        masks[i, 8:24, 4 + 4 * i : 20 + 4 * i] = (255, 0, 0)
        masks[i, 30:46, 40:60] = (0, 55, 200)
    found = extract(masks, "boxes")
    assert {box.object for box in found.data} == {"#ff0000", "#0037c8"}  # type: ignore[union-attr]
    red = next(box for box in found.data if isinstance(box, Box) and box.object == "#ff0000" and box.at == 0.5)
    assert (red.left, red.top, red.right, red.bottom) == (12 / 64, 8 / 48, 28 / 64, 24 / 48)
    write_video(tmp_path / "m.mp4", masks, fps=8)  # where colours are no longer quite the same
    again = extract(read_video(tmp_path / "m.mp4").frames, "boxes")
    assert len(again.data) == len(found.data)
    for box in again.data:
        nearest = min(
            max(abs(a - b) for a, b in zip(_sides(box), _sides(other), strict=True))
            for other in found.data
            if other.at == box.at  # type: ignore[union-attr]
        )
        assert nearest <= 2 / 48


def _sides(box: Any) -> tuple[float, ...]:
    return box.left, box.top, box.right, box.bottom


@pytest.mark.parametrize(
    ("frames", "kind", "options", "message"),
    [
        (moving(3), "canny", {}, "control kind is 'canny'; valid values are edges, soft_edges"),
        (moving(3), "edge", {}, "did you mean 'edges'"),
        (moving(3), "grey", {"low": 1}, "grey has no option low; it has none"),
        (moving(3), "edges", {"lo": 1}, "edges has no option lo; valid values are low, high"),
        (moving(3), "edges", {"low": -1}, "option low must be a number from 0 to 1000, got -1"),
        (moving(3), "palette", {"colors": 1}, "option colors must be a whole number from 2 to 16, got 1"),
        (moving(3), "palette", {"colors": 2.5}, "option colors must be a whole number"),
        (moving(3), "depth", {"model": 3}, "option model must be a text, got 3"),
        (moving(1), "flow", {}, "optical flow need at least two frames"),
        (moving(2)[:, :8, :8], "tracks", {}, "at least 16x16 pixels, got 8x8"),
        (np.zeros((3, 32, 32, 3), np.uint8), "tracks", {}, "nothing that could be followed"),
        (np.zeros((3, 32, 32, 3), np.uint8), "boxes", {}, "shows no object of at least 16 pixels"),
        (moving(3), "boxes", {}, "derive masks from it first"),
        (moving(3).astype(np.float32), "grey", {}, r"must be an uint8 array \[T, H, W, 3\], got float32"),
        (moving(3)[0], "grey", {}, r"got uint8 \[48, 64, 3\]"),
        (moving(3)[:0], "grey", {}, "frames are empty"),
    ],
)
def test_what_cannot_be_derived_is_named(frames: Any, kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        extract(frames, kind, options)


def test_without_opencv_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "cv2" else found(name, *rest))
    with pytest.raises(InputError, match=r"edges need OpenCV: pip install 'videodit\[control\]'"):
        extract(moving(2), "edges")
    assert extract(moving(2), "palette").data  # which needs none


def test_every_kind_says_what_it_shows() -> None:
    for name, kind in KINDS.items():
        assert kind_named(name) is kind
        assert kind.summary
        assert all(option.help for option in kind.options)


# ---- with weights --------------------------------------------------------------------------------


@pytest.fixture
def depth_model(tmp_path: Path) -> str:
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    network = DPTForDepthEstimation(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(tmp_path / "depth")
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "depth")
    return str(tmp_path / "depth")


@pytest.fixture
def masks_model(tmp_path: Path) -> str:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 8], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 1], mlp_ratios=[1, 1], decoder_hidden_size=8,
        id2label={0: "background", 1: "ball", 2: "cube"}, label2id={"background": 0, "ball": 1, "cube": 2},
    )  # fmt: skip
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "masks")
    SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "masks")
    return str(tmp_path / "masks")


def test_depth_by_a_model_of_transformers(depth_model: str) -> None:
    found = extract(moving(2), "depth", {"model": depth_model}).frames
    assert (found[..., 0] == found[..., 2]).all()
    assert found.min() < 10
    assert found.max() > 245
    with pytest.raises(ModelError, match="names DPTForDepthEstimation, which is not for image-segm"):
        extract(moving(2), "masks", {"model": depth_model})


def test_a_model_whose_weights_are_not_its_own_is_refused(depth_model: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "depth" / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if "head" not in name}, path, {"format": "pt"})
    with pytest.raises(ModelError, match="its weights lack head"):
        extract(moving(2), "depth", {"model": depth_model})


def test_a_model_whose_weights_are_not_finite_is_refused(masks_model: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "masks" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.dim() > 1)
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=rf"its weights: {name} holds values that are not finite"):
        extract(moving(2), "masks", {"model": masks_model})


def test_masks_by_a_model_of_transformers(masks_model: str) -> None:
    found = extract(moving(2), "masks", {"model": masks_model}).frames
    assert 1 <= len(np.unique(found.reshape(-1, 3), axis=0)) <= 3


@pytest.mark.parametrize(("kind", "what"), [("depth", "depth"), ("masks", "masks")])
def test_weights_that_are_not_here_are_named(kind: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=rf"{what} need a network.*`hf download nobody/{kind}`"):
        extract(moving(2), kind, {"model": f"nobody/{kind}"})


# ---- poses, in an environment of their own -------------------------------------------------------

_STAND_IN = """
from types import SimpleNamespace as N
class Pose:
    def __init__(self, **_): pass
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def process(self, frame):
        if not frame.any(): return N(pose_landmarks=None)
        joints = [N(x=0.3 + 0.012 * i, y=0.2 + 0.018 * i, visibility=0.9 if i else 0.1) for i in range(33)]
        return N(pose_landmarks=N(landmark=joints))
solutions = N(pose=N(Pose=Pose))
"""


def test_a_pose_is_found_by_another_python_and_drawn_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mediapipe.py").write_text(_STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("VIDEODIT_MEDIAPIPE_PYTHON", sys.executable)
    clip = np.concatenate([moving(1), np.zeros_like(moving(1))])
    found = extract(clip, "pose").frames
    assert found[0].any()
    assert not found[1].any()
    assert extract(clip, "pose", {"confidence": 0.0}).frames.any(-1).sum() > found.any(-1).sum()  # the nose, too
    assert extract(clip[1:], "pose").notices == ("no person was found in the clip",)


def test_what_poses_lack_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDEODIT_MEDIAPIPE_PYTHON", raising=False)
    with pytest.raises(InputError, match=r"pip install mediapipe==0\.10\.21.*VIDEODIT_MEDIAPIPE_PYTHON"):
        extract(moving(2), "pose")
    with pytest.raises(InputError, match="is no program"):
        extract(moving(2), "pose", {"python": str(tmp_path / "python")})
    (tmp_path / "mediapipe.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InputError, match=r"lacks mediapipe 0\.10\.21"):
        extract(moving(2), "pose", {"python": sys.executable})
    (tmp_path / "mediapipe.py").write_text("raise RuntimeError('no display')")
    with pytest.raises(ModelError, match="mediapipe failed: RuntimeError: no display"):
        extract(moving(2), "pose", {"python": sys.executable})


def test_the_worker_of_poses_imports_nothing_of_videodit(root: Path) -> None:
    assert "videodit" not in (root / "videodit/control/pose_worker.py").read_text().replace("of videodit", "")
