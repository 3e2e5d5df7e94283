"""The toybox: scenes, and what the pixels show."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from videodit.datasets.toybox import (
    CAMERAS,
    COLORS,
    GROUNDS,
    INTERACTIONS,
    LIGHTS,
    MATERIALS,
    MOTIONS,
    SHAPES,
    SIZES,
    Rendering,
    Scene,
    ToyboxDataset,
    ToyObject,
    caption,
    is_held_out,
    render,
    sample_scene,
    split_of,
)
from videodit.datasets.toybox.appearance import COLOR_VALUES
from videodit.datasets.toybox.motion import RADIUS, paths
from videodit.datasets.toybox.scene import FOLLOWED, NUM_OBJECTS, STATIC

SEED = 0  # as every test begins


def one(shape: str = "ball", color: str = "red", motion: str = "still", **changes: Any) -> Scene:
    """A plain scene with one object."""
    ground, light = changes.pop("ground", "sand"), changes.pop("light", "daylight")
    camera = changes.pop("camera", "static")
    fields: dict[str, Any] = {
        "size": "large",
        "material": "matte",
        "x": 0.0,
        "z": 6.5,
        "yaw": 0.3,
        "phase": 0.2,
    }
    return Scene(7, (ToyObject(shape, color, motion=motion, **(fields | changes)),), ground, light, camera)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(seed, split="all") for seed in range(72)]


@pytest.fixture(scope="module")
def clips(scenes: list[Scene]) -> Rendering:
    return render(scenes, ground_truth=True)


# ---- scenes and splits


def test_scene_is_a_pure_function_of_its_arguments() -> None:
    first = [sample_scene(seed) for seed in range(50)]
    drawn = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    # Neither do global generators change a scene, nor does a scene take from them.
    assert (random.random(), np.random.random(), torch.rand(1).item()) == drawn
    assert [sample_scene(seed) for seed in range(50)] == first
    assert len(set(first)) == 50


def test_scenes_hold_one_to_three_objects_in_the_promised_shares() -> None:
    drawn = [sample_scene(seed) for seed in range(1000)]
    for count, share in zip((1, 2, 3), NUM_OBJECTS, strict=True):
        assert abs([len(scene.objects) for scene in drawn].count(count) / 1000 - share) < 0.05
        assert all(len(sample_scene(seed, num_objects=count).objects) == count for seed in range(20))
    assert abs([scene.camera for scene in drawn].count("static") / 1000 - STATIC) < 0.05
    assert {scene.camera for scene in drawn} == set(CAMERAS)


def test_objects_interact_only_in_company() -> None:
    drawn = [sample_scene(seed, num_objects=count) for count in (1, 2, 3) for seed in range(200)]
    assert {scene.interaction for scene in drawn[:200]} == {"none"}
    for company in (drawn[200:400], drawn[400:]):
        counts = Counter(scene.interaction for scene in company)
        assert set(counts) == set(INTERACTIONS)
        assert 0.08 < counts["collide"] / 200 < 0.22
        assert 0.08 < counts["follow"] / 200 < 0.22


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_split_holds_its_own_combinations_alone(split: str) -> None:
    seen = set()
    for seed in range(600):
        for o in sample_scene(seed, split=split).objects:  # type: ignore[arg-type]
            seen.add((o.shape, o.color, o.motion))
    assert {split_of(*c) for c in seen} == {split}
    assert {is_held_out(*c) for c in seen} == {split != "train"}


def test_held_out_share_and_what_training_still_shows() -> None:
    everything = list(product(SHAPES, COLORS, MOTIONS))
    splits = [split_of(*c) for c in everything]
    assert 0.1 < splits.count("test") / len(everything) < 0.14
    assert 0.04 < splits.count("validation") / len(everything) < 0.08
    train = [c for c, split in zip(everything, splits, strict=True) if split == "train"]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert len({(c[a], c[b]) for c in train}) == len({(c[a], c[b]) for c in everything})
    assert not is_held_out("ball", "red", "bounce")


def test_every_value_occurs_in_training() -> None:
    drawn = [sample_scene(seed) for seed in range(400)]
    objects = [o for scene in drawn for o in scene.objects]
    for name, legal in (
        ("shape", SHAPES),
        ("color", COLORS),
        ("size", SIZES),
        ("material", MATERIALS),
        ("motion", MOTIONS),
    ):
        assert {getattr(o, name) for o in objects} == set(legal)
    assert {scene.ground for scene in drawn} == set(GROUNDS)
    assert {scene.light for scene in drawn} == set(LIGHTS)


def test_objects_are_told_apart_by_name() -> None:
    for seed in range(300):
        objects = sample_scene(seed, split="test", num_objects=3).objects
        assert len({(o.shape, o.color) for o in objects}) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_scene(-1), "-1"),
        (lambda: sample_scene(1.5), "1.5"),  # type: ignore[arg-type]
        (lambda: sample_scene(0, split="dev"), "train, validation, test, all; got 'dev'"),  # type: ignore[arg-type]
        (lambda: sample_scene(0, num_objects=4), "between 1 and 3; got 4"),
        (lambda: is_held_out("pyramid", "red", "still"), "ball, cube, cylinder, cone, ring; got 'pyramid'"),
        (lambda: is_held_out("ball", "pink", "still"), "pink"),
        (lambda: is_held_out("ball", "red", "dance"), "dance"),
        (lambda: one(size="medium"), "small, large; got 'medium'"),
        (lambda: one(material="furry"), "furry"),
        (lambda: one(phase=2.0), "2.0"),
        (lambda: one(z=1.0), "1.0"),
        (lambda: one(ground="lava"), "lava"),
        (lambda: one(light="noon"), "noon"),
        (lambda: Scene(0, (), "grass", "night"), "got 0"),
        (lambda: replace(one(), camera="drone"), "pan left, pan right, orbit left, orbit right; got 'drone'"),
        (lambda: replace(one(), interaction="dance"), "none, collide, follow; got 'dance'"),
        (lambda: replace(one(), interaction="follow"), "takes two objects; got 1"),
        (lambda: pair("collide", ("left", "right"), ((-2.6, 7.0), (2.6, 7.0))), "got left and right"),
        (lambda: pair("collide", ("right", "left"), ((-2.6, 7.0), (2.6, 7.5))), "equally far away"),
        (lambda: pair("collide", ("right", "left"), ((2.6, 7.0), (-2.6, 7.0))), "further left"),
        (
            lambda: pair("follow", ("right", "right"), ((-1.0, 7.0), (2.0, 7.0))),
            "behind the first, which moves 'right'",
        ),
        (lambda: pair("follow", ("left", "left"), ((1.0, 7.0), (-2.0, 7.0))), "behind the first, which moves 'left'"),
        (lambda: pair("follow", ("away", "away"), ((0.0, 5.0), (0.0, 8.0))), "behind the first, which moves 'away'"),
        (lambda: one(x=float("nan")), "x must be a finite number; got nan"),
        (lambda: one(z=float("inf")), "z must be a finite number; got inf"),
        (lambda: pair("follow", ("spin", "spin"), ((2.6, 7.0), (-2.6, 7.0))), "left, right, away; got spin and spin"),
        (lambda: render([]), "empty"),
        (lambda: render([one()], height=8), "8"),
        (lambda: render([one()], num_frames=0), "0"),
        (lambda: render([one()], fps=0), "0"),
        (lambda: ToyboxDataset(0), "0"),
        (lambda: ToyboxDataset(1, split="dev"), "dev"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# ---- pixels


def test_rendering_has_the_promised_form(clips: Rendering, scenes: list[Scene]) -> None:
    B = len(scenes)
    assert clips.video.shape == (B, 3, 17, 64, 64)
    assert clips.video.dtype == torch.uint8
    assert clips.mask is not None
    assert clips.depth is not None
    assert clips.boxes is not None
    assert clips.tracks is not None
    assert (clips.mask.shape, clips.mask.dtype) == ((B, 17, 64, 64), torch.uint8)
    assert (clips.depth.shape, clips.depth.dtype) == ((B, 17, 64, 64), torch.float32)
    assert clips.world_to_camera is not None
    assert clips.intrinsics is not None
    assert clips.boxes.shape == (B, 3, 17, 4)
    assert clips.tracks.shape == (B, 3, 17, 2)
    assert (clips.world_to_camera.shape, clips.world_to_camera.dtype) == ((B, 17, 3, 4), torch.float32)
    assert (clips.intrinsics.shape, clips.intrinsics.dtype) == ((B, 17, 3, 3), torch.float32)
    plain = render(scenes[:1], height=32, width=48, num_frames=3)
    assert plain.video.shape == (1, 3, 3, 32, 48)
    assert plain.mask is plain.depth is plain.boxes is plain.tracks is None


def test_a_clip_does_not_depend_on_its_batch(clips: Rendering, scenes: list[Scene]) -> None:
    for i in (0, 13, 40):
        alone = render([scenes[i]], ground_truth=True)
        assert torch.equal(alone.video[0], clips.video[i])
        assert alone.mask is not None
        assert clips.mask is not None
        assert torch.equal(alone.mask[0], clips.mask[i])
    again = render(scenes[:4])
    assert torch.equal(again.video, render(scenes[:4]).video)


def test_longer_clip_begins_with_the_shorter_one() -> None:
    scene = sample_scene(5)
    assert torch.equal(render([scene], num_frames=5).video, render([scene], num_frames=9).video[:, :, :5])
    assert torch.equal(render([scene], num_frames=2, fps=8).video, render([scene], num_frames=3).video[:, :, ::2])


def test_seeds_of_any_size_vary_the_place() -> None:
    for low in (0, 2**62):
        empty = [replace(one(z=60.0), seed=low + 4096 * i) for i in range(3)]
        a, b, c = render(empty, num_frames=1).video
        assert not torch.equal(a, b)
        assert not torch.equal(b, c)


@pytest.mark.gpu
def test_gpu_draws_what_the_cpu_draws(scenes: list[Scene], clips: Rendering) -> None:
    video = render(scenes, device="cuda").video.cpu()
    close = (video.int() - clips.video.int()).abs() <= 1
    assert close.float().mean() >= 0.999


def test_objects_stay_in_view(clips: Rendering, scenes: list[Scene]) -> None:
    assert clips.boxes is not None
    seen = [clips.boxes[b, n, :, 0].isfinite() for b, s in enumerate(scenes) for n in range(len(s.objects))]
    assert torch.stack(seen).float().mean() > 0.99
    for b, scene in enumerate(scenes):
        assert clips.boxes[b, len(scene.objects) :].isnan().all()


def test_sizes_can_be_told_apart(clips: Rendering, scenes: list[Scene]) -> None:
    assert clips.boxes is not None
    width = clips.boxes[..., 2] - clips.boxes[..., 0]
    widths: dict[str, list[float]] = {size: [] for size in SIZES}
    for b, scene in enumerate(scenes):
        for n, o in enumerate(scene.objects):
            widths[o.size].append(width[b, n].nanmean().item())
    assert 10 <= np.mean(widths["small"]) <= 14
    assert 17 <= np.mean(widths["large"]) <= 25


def test_tracks_lie_inside_boxes(clips: Rendering, scenes: list[Scene]) -> None:
    assert clips.boxes is not None
    assert clips.tracks is not None
    for b, scene in enumerate(scenes):
        if len(scene.objects) > 1:
            continue
        box, track = clips.boxes[b, 0], clips.tracks[b, 0]
        inside = (box[:, 0] > 0) & (box[:, 1] > 0) & (box[:, 2] < 64) & (box[:, 3] < 64)
        middle = (box[:, :2] + box[:, 2:]) / 2
        assert ((track - middle).abs() < 0.15 * (box[:, 2:] - box[:, :2]) + 1)[inside].all(), scene


def test_mask_is_where_the_object_is() -> None:
    scene = one(motion="right", x=-1.5)
    empty = replace(scene, objects=(replace(scene.objects[0], x=0.0, z=40.0, size="small"),))
    shown = render([scene], num_frames=4, ground_truth=True)
    change = (shown.video[0].int() - render([empty], num_frames=4).video[0].int()).abs().amax(0) > 60
    assert shown.mask is not None
    inside = shown.mask[0] == 1
    assert (change & inside).sum() > 0.85 * inside.sum()
    away = shown.video[0].float().std(1).amax(0)  # what never changes is no part of the moving object
    assert (away[~inside.any(0)] == 0).float().mean() > 0.8


def test_depth_is_that_of_the_ground_the_sky_and_the_object() -> None:
    shown = render([one(z=6.0)], num_frames=1, ground_truth=True)
    assert shown.depth is not None
    assert shown.mask is not None
    depth, mask = shown.depth[0, 0], shown.mask[0, 0]
    assert depth[:8].isinf().all()
    column = depth[:, 2]
    assert (column[30:-1] > column[31:]).all()  # the ground comes nearer downwards
    near = depth[mask == 1]
    assert 4.5 < near.min() < near.max() < 6.5


def motion_of(motion: str, **changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres [T,2] and areas [T] of the box of one object that moves."""
    shown = render([one(motion=motion, **changes)], ground_truth=True)
    assert shown.boxes is not None
    box = shown.boxes[0, 0]
    return (box[:, :2] + box[:, 2:]) / 2, (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])


def test_pixels_move_as_the_motion_says() -> None:
    middle, _ = motion_of("left", x=2.0)
    assert (middle[1:, 0] < middle[:-1, 0]).all()
    assert 64 / 4 < middle[0, 0] - middle[-1, 0] < 64 / 2
    middle, _ = motion_of("right", x=-2.0)
    assert 64 / 4 < middle[-1, 0] - middle[0, 0] < 64 / 2
    _, area = motion_of("closer", z=10.0)
    assert area[-1] > 2 * area[0]
    _, area = motion_of("away", z=5.5)
    assert area[-1] < 0.5 * area[0]
    middle, _ = motion_of("bounce")
    way = (middle[1:, 1] - middle[:-1, 1]).sign()
    way = way[way != 0]
    assert 2 <= (way[1:] * way[:-1] < 0).sum() <= 4
    assert middle[:, 1].max() - middle[:, 1].min() > 10
    middle, area = motion_of("circle", z=7.0)
    assert middle[:, 0].max() - middle[:, 0].min() > 16
    assert (middle[-1] - middle[0]).norm() < 8
    middle, _ = motion_of("fall", size="small")
    assert middle[12, 1] - middle[0, 1] > 20
    assert torch.equal(middle[13:], middle[13:14].expand(4, 2))
    middle, area = motion_of("still")
    assert torch.equal(middle, middle[:1].expand_as(middle))
    assert torch.equal(area, area[:1].expand_as(area))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_a_turn_can_be_seen(shape: str, size: str) -> None:
    turning = [one(shape, color, "spin", size=size) for color in COLORS]
    shown = render([*turning, one(shape, size=size)], num_frames=8, ground_truth=True)
    assert shown.mask is not None
    for video, mask in zip(shown.video[:-1], shown.mask[:-1], strict=True):
        step = (video[:, 1:].float() - video[:, :-1].float()).abs().amax(0)
        inside = (mask[1:] > 0) & (mask[:-1] > 0)
        assert (step * inside).sum((1, 2)).div(inside.sum((1, 2))).min() > 8
    assert torch.equal(shown.video[-1], shown.video[-1][:, :1].expand_as(shown.video[-1]))


@pytest.mark.parametrize("light", LIGHTS)
def test_colors_can_be_told_apart(light: str) -> None:
    cases = list(product(SHAPES, COLORS, MATERIALS))
    toys = [one(s, c, light=light, material=m) for s, c, m in cases]
    shown = render(toys, num_frames=1, ground_truth=True)
    assert shown.mask is not None

    def tint(rgb: torch.Tensor) -> torch.Tensor:
        return rgb / rgb.amax(-1, keepdim=True)

    names = torch.tensor([COLOR_VALUES[c] for c in COLORS])
    wrong = []
    for case, video, mask in zip(cases, shown.video, shown.mask, strict=True):
        seen = video[:, mask == 1].float().T  # [P,3]
        votes = (tint(names) - tint(seen)[:, None]).norm(dim=-1).argmin(1).bincount(minlength=len(COLORS))
        name = COLORS[int(votes.argmax())]
        if name != case[1]:
            wrong.append((*case, name))
        assert seen.amax(1).median() > 90, f"{case} is too dark"
    assert not wrong


def test_lights_and_grounds_differ(clips: Rendering) -> None:
    def mean(rows: slice, **place: str) -> torch.Tensor:
        return render([one(size="small", **place)], num_frames=1).video[0, :, 0, rows].float().mean((1, 2))

    skies = [mean(slice(0, 16), light=light) for light in LIGHTS]
    grounds = [mean(slice(44, 64), ground=ground) for ground in GROUNDS]
    for looks in (skies, grounds):
        for i, a in enumerate(looks):
            assert all((a - b).norm() > 40 for b in looks[:i])
    snow = render([one(ground="snow")], num_frames=1).video[0, :, 0, 24:]
    assert (snow == 255).all(0).float().mean() < 0.01


def test_nearer_object_hides_the_other() -> None:
    near = ToyObject("ball", "red", "large", "matte", "still", 0.0, 5.0)
    far = ToyObject("cube", "blue", "large", "matte", "still", 0.0, 9.0)
    for objects in ((near, far), (far, near)):
        shown = render([Scene(0, objects, "grass", "daylight")], num_frames=1, ground_truth=True)
        assert shown.tracks is not None
        assert shown.mask is not None
        column, row = shown.tracks[0, objects.index(near), 0].long()
        assert shown.mask[0, 0, row, column] == objects.index(near) + 1


# ---- camera


@pytest.mark.parametrize("camera", CAMERAS)
def test_camera_matrices_lead_from_the_world_to_the_pixels(camera: str) -> None:
    scene = one(z=7.0, x=0.8, camera=camera)
    shown = render([scene], height=48, width=80, num_frames=17, ground_truth=True)
    assert shown.tracks is not None
    assert shown.depth is not None
    assert shown.mask is not None
    assert shown.world_to_camera is not None
    assert shown.intrinsics is not None
    poses, intrinsics = shown.world_to_camera[0].double(), shown.intrinsics[0].double()
    centre = torch.tensor(
        [0.8, -1.25, 7.0, 1.0], dtype=torch.float64
    )  # a large ball that lies on the ground; y is down
    u, v, w = (intrinsics @ (poses @ centre)[..., None])[..., 0].T
    assert (torch.stack([u / w, v / w], -1) - shown.tracks[0, 0]).abs().max() < 1e-3
    # Back from pixels and depth to the world: what is not the ball is the ground, at height 0, or the sky.
    for frame in (0, 8, 16):
        row, column = ((shown.mask[0, frame] == 0) & shown.depth[0, frame].isfinite()).nonzero().double().T
        depth = shown.depth[0, frame].double()[row.long(), column.long()]
        seen = torch.stack([column + 0.5, row + 0.5, torch.ones_like(row)]) * depth
        world = poses[frame, :, :3].T @ (torch.linalg.inv(intrinsics[frame]) @ seen - poses[frame, :, 3:])
        assert world[1].abs().max() < 1e-3 * depth.max()
        assert torch.linalg.det(poses[frame, :, :3]).item() == pytest.approx(1)


def shown_by(camera: str, **changes: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Track [T,2] of a still ball, width [T] of its box, and the frames [3,T,H,W]."""
    shown = render([one(camera=camera, **changes)], num_frames=33, ground_truth=True)
    assert shown.tracks is not None
    assert shown.boxes is not None
    return shown.tracks[0, 0], shown.boxes[0, 0, :, 2] - shown.boxes[0, 0, :, 0], shown.video[0].float()


def test_picture_moves_as_the_camera_says() -> None:
    at, _, _ = shown_by("pan right", x=0.5)
    assert (at[1:, 0] < at[:-1, 0]).all()  # the camera turns right, so what it sees moves left
    assert 9 < at[0, 0] - at[16, 0] < 14
    at, _, _ = shown_by("pan left", x=-0.5)
    assert 9 < at[16, 0] - at[0, 0] < 14
    _, width, _ = shown_by("zoom in", x=0.3)
    assert 1.25 < width[16] / width[0] < 1.45
    _, width, _ = shown_by("zoom out", x=0.3)
    assert 1.25 < width[0] / width[16] < 1.45
    for side in ("left", "right"):
        sign = 1 if side == "right" else -1
        at, _, _ = shown_by(f"orbit {side}", x=0.0, z=6.8)
        assert (at[:, 0] - 32).abs().max() < 1e-2  # it goes around this ball ...
        near, _, _ = shown_by(f"orbit {side}", x=0.0, z=4.6)
        far, _, _ = shown_by(f"orbit {side}", x=0.0, z=10.0)
        assert sign * (near[16, 0] - 32) < -5  # ... so that what is in front passes by against its way
        assert sign * (far[16, 0] - 32) > 5


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_a_moving_camera_can_be_seen_in_the_background(ground: str, light: str) -> None:
    place = {"ground": ground, "light": light, "z": 60.0, "size": "small"}
    assert torch.equal(*(shown_by("static", **place)[2][:, t] for t in (0, 16)))
    for camera in CAMERAS[1:]:
        video = shown_by(camera, **place)[2]
        assert (video[:, 16] - video[:, 0]).abs().mean() > 1.0, camera


def test_what_is_behind_the_camera_is_not_drawn() -> None:
    gone = one(motion="left", x=-3.0, z=4.2, camera="pan right")
    shown = render([gone], num_frames=9, fps=0.5, ground_truth=True)
    assert shown.boxes is not None
    assert shown.boxes[0, 0, -1].isnan().all()


# ---- interactions


def pair(interaction: str, motions: tuple[str, str], places: tuple[tuple[float, float], ...], *sizes: str) -> Scene:
    """Two balls that interact."""
    a, b = sizes or ("large", "large")
    first = ToyObject("ball", "red", a, "matte", motions[0], *places[0])
    second = ToyObject("ball", "blue", b, "matte", motions[1], *places[1])
    return Scene(3, (first, second), "sand", "daylight", "static", interaction)


@pytest.mark.parametrize("sizes", list(product(SIZES, SIZES)))
def test_objects_that_collide_touch_and_part_with_their_momentum(sizes: tuple[str, str]) -> None:
    scene = pair("collide", ("right", "left"), ((-2.6, 7.0), (2.6, 7.0)), *sizes)
    t = np.linspace(0, 2, 2001)
    left, right = (way.x for way in paths(scene.objects, "collide", t))
    radii = [RADIUS[size] for size in sizes]
    gap = right - left - sum(radii)
    touch = int(gap.argmin())
    assert 0.2 < t[touch] < 0.8
    assert abs(gap[touch]) < 0.01
    assert (gap > -1e-6).all()
    speed = np.gradient(np.stack([left, right]), t, axis=1)
    before, after = speed[:, touch - 2], speed[:, touch + 2]
    mass = np.array(radii) ** 3
    assert mass @ after == pytest.approx(mass @ before, abs=0.02)
    assert after[1] - after[0] == pytest.approx(0.75 * (before[0] - before[1]), rel=0.02)
    assert np.abs(speed[:, -1]).max() < 0.15 * np.abs(after).max()


def test_drawn_collisions_happen_in_view_within_the_first_second() -> None:
    drawn = [sample_scene(seed, num_objects=2) for seed in range(400)]
    drawn = [scene for scene in drawn if scene.interaction == "collide"][:24]
    shown = render(drawn, num_frames=17, ground_truth=True)
    assert shown.tracks is not None
    apart = (shown.tracks[:, 1, :, 0] - shown.tracks[:, 0, :, 0]).double()
    nearest = apart.argmin(1)
    assert ((nearest > 2) & (nearest < 12)).all()
    assert (apart.amin(1) < 0.75 * apart[:, 0]).all()
    assert (apart[:, -1] > 1.05 * apart.amin(1)).all()
    meeting = shown.tracks[torch.arange(len(drawn)), 0, nearest]
    assert ((meeting > 8) & (meeting < 56)).float().mean() > 0.97


def test_an_object_that_follows_is_behind_and_stays_there() -> None:
    drawn = [sample_scene(seed, num_objects=2) for seed in range(400)]
    drawn = [scene for scene in drawn if scene.interaction == "follow"]
    assert {scene.objects[0].motion for scene in drawn} == set(FOLLOWED)
    t = np.linspace(0, 2, 9)
    for scene in drawn:
        leader, follower = paths(scene.objects, "follow", t)
        way = np.stack([leader.x[-1] - leader.x[0], leader.z[-1] - leader.z[0]])
        ahead = np.stack([leader.x - follower.x, leader.z - follower.z], -1) @ way / np.linalg.norm(way)
        assert (ahead > 0.8).all()
        assert np.ptp(ahead) < 1e-6


# ---- dataset


def test_dataset_items_can_be_made_alone() -> None:
    data = ToyboxDataset(10, split="test", seed=3, num_frames=3)
    item = data[4]
    assert item["video"].shape == (3, 3, 64, 64)
    assert item["video"].dtype == torch.float32
    assert -1 <= item["video"].min() < item["video"].max() <= 1
    scene = sample_scene(item["seed"], split="test")
    assert scene == data.scene(4)
    assert item["caption"] == caption(scene, seed=item["seed"])
    assert torch.equal(ToyboxDataset(5, split="test", seed=3, num_frames=3)[4]["video"], item["video"])
    assert ToyboxDataset(10, seed=4)[4]["seed"] != item["seed"]
    assert len({data.clip_seed(i) for i in range(10)}) == len(data) == 10


def test_dataset_batch_equals_its_items() -> None:
    data = ToyboxDataset(6, num_frames=2)
    video, texts = data.batch([5, 0, 2])
    assert video.dtype == torch.uint8
    for row, i in enumerate((5, 0, 2)):
        assert texts[row] == data[i]["caption"]
        assert torch.equal(video[row].float() / 127.5 - 1, data[i]["video"])
    with pytest.raises(IndexError, match="6"):
        data[6]
    with pytest.raises(IndexError, match="-7"):
        data[-7]
