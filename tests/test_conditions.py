"""What of a clip is given: pixels read and fitted, conditions settled, and the loop that keeps them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor

from videodit import Edit, Frames, Region, VideoDiTPipeline
from videodit.media import write_video
from videodit.pipelines.autoencoders import decode, encode_posterior
from videodit.pipelines.conditions import edit_steps
from videodit.pipelines.denoising import Denoiser, Prompts
from videodit.pipelines.latent_conditions import Condition
from videodit.pipelines.pixels import fitted, read_frames, read_mask
from videodit.pipelines.placing import FREE, PlacedConditions, place_conditions
from videodit.pipelines.predicting import Moment
from videodit.pipelines.request import Request
from videodit.pipelines.scheduling import at_level, set_timesteps
from videodit.pipelines.settings import plan_settings
from videodit.pipelines.spec import ModelSpec
from videodit.shapes import Size3D, VideoGeometry

PROMPT = "a red ball bounces on the grass"
SHIFT = 2.0
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": SHIFT}


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    """32×32 pixels and 17 frames are 5×4×4 latents of 8×8 pixels and 5×2×2 tokens."""
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def spec(tiny_model: Path) -> ModelSpec:
    return ModelSpec.from_folder(tiny_model)


def noise_clip(frames: int, seed: int = 0, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, *size, 3), np.uint8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents_of(pipe: VideoDiTPipeline, clip: np.ndarray) -> Tensor:
    """The encoder's own, normalised, straight from the parts."""
    pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        return pipe.vae.normalize(pipe.vae.encode(pixels).latent_dist.mode())


def make(pipe: VideoDiTPipeline, **call: Any) -> Tensor:
    """Latents of a short run."""
    return pipe(PROMPT, **{"num_inference_steps": 3, "output_type": "latent", "generator": seeded(1)} | call).frames


def with_scheduler(pipe: VideoDiTPipeline, scheduler: Any) -> VideoDiTPipeline:
    other = VideoDiTPipeline(**{**pipe.components, "scheduler": scheduler}, height=32, width=32, num_frames=17)
    other.set_progress_bar_config(disable=True)
    return other


def settled(spec: ModelSpec, *conditions: Any, num_frames: int = 17, **settings: Any) -> PlacedConditions:
    return place_conditions(conditions, spec, plan_settings(Request(num_frames=num_frames, **settings), spec))


# ---- pixels --------------------------------------------------------------------------------------


def test_the_same_pixels_in_every_form(tmp_path: Path) -> None:
    pixels = noise_clip(2)
    pictures = [Image.fromarray(frame) for frame in pixels]
    pictures[0].save(tmp_path / "one.png")
    floats = pixels.astype(np.float32) / 255
    for source in (pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2), pictures):
        np.testing.assert_array_equal(read_frames(source)[0], pixels)
    for source in (floats, torch.from_numpy(floats).permute(0, 3, 1, 2), floats.astype(np.float64)):
        np.testing.assert_allclose(read_frames(source)[0], floats)
    for one in (pixels[0], pictures[0], tmp_path / "one.png", str(tmp_path / "one.png")):
        np.testing.assert_array_equal(read_frames(one)[0], pixels[:1])
    opaque = pictures[0].convert("RGBA")
    np.testing.assert_array_equal(read_frames(opaque)[0], pixels[:1])


def test_a_photo_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    picture = Image.fromarray(noise_clip(1, size=(8, 16))[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # shown upright after a quarter turn clockwise
    picture.save(tmp_path / "photo.png", exif=exif)
    found, _ = read_frames(tmp_path / "photo.png")
    np.testing.assert_array_equal(found[0], np.rot90(np.asarray(picture), -1))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "alpha channel"),
        (np.zeros((2, 8, 8, 4), np.uint8), "3 colour channels.*flatten its alpha channel"),
        (np.zeros((8, 8, 1), np.uint8), r"3 colour channels, got \[8, 8, 1\]"),
        (np.full((8, 8, 3), 1.5), "from 1.5 to 1.5"),
        (np.full((8, 8, 3), np.nan), "not finite"),
        (torch.zeros(8), r"3 or 4 axes, got \[8\]"),
        (Image.new("I;16", (8, 8)), "mode I;16"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (16, 8))], "one size, got 8x8 and 16x8"),
        (7, "got int"),
        ([], "got list"),
        ("none.png", "cannot read the image 'none.png': No such file"),
        ("none.mp4", "cannot read 'none.mp4'"),
    ],
)
def test_what_is_no_picture_is_named(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_frames(source)


def test_files_that_are_no_picture_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match=r"cannot read the image .*text\.png"):
        read_frames(tmp_path / "text.png")
    moving = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    moving[0].save(tmp_path / "moving.png", save_all=True, append_images=moving[1:])
    with pytest.raises(ValueError, match=r"moving\.png': it is an animated image"):
        read_frames(tmp_path / "moving.png")


@pytest.mark.parametrize(("rate", "count"), [(8, 8), (16, 16), (32, 32), (10, 10)])
def test_a_clip_of_another_rate_is_resampled_aloud(tmp_path: Path, rate: int, count: int) -> None:
    """One second at 16 frames a second: frame i of the new rate is the old one that is shown in its middle."""
    shades = np.arange(16, dtype=np.uint8) * 15
    write_video(tmp_path / "clip.mp4", np.broadcast_to(shades[:, None, None, None], (16, 16, 16, 3)), fps=16)
    found, notices = read_frames(tmp_path / "clip.mp4", fps=rate)
    assert len(found) == count
    middles = (np.arange(count) + 0.5) / rate * 16
    which = np.round(found.mean(axis=(1, 2, 3)) / 15)
    assert (np.abs(which + 0.5 - middles) <= 0.5 + 1e-6).all()
    assert notices == ([] if rate == 16 else [f"clip.mp4: it has 16 fps: 16 frames become {count} at {rate} fps"])


def test_ways_to_fit_another_aspect_ratio() -> None:
    """A picture 40×20 whose left, middle and right are told apart, into a square of 20."""
    picture = np.zeros((1, 20, 40, 3), np.uint8)
    picture[:, :, :10, 0], picture[:, :, 10:30, 1], picture[:, :, 30:, 2] = 255, 255, 255
    crop, told = fitted(picture, 20, 20, "crop")
    torch.testing.assert_close(crop[:, 0, 10, 10], torch.tensor([-1.0, 1.0, -1.0]))
    assert (crop[1] == 1).all()
    assert told == ["clip: of 40x20 the middle 20x20 is taken"]
    pad, told = fitted(picture, 20, 20, "pad")
    assert (pad[:, :, :5] == -1).all()
    assert (pad[:, :, -5:] == -1).all()
    assert pad[0, 0, 10, 2] > 0.95
    assert pad[2, 0, 10, -2] > 0.95
    assert told == ["clip: 40x20 gets black bars to become 20x20"]
    stretch, told = fitted(picture, 20, 20, "stretch")
    assert all(stretch[c, 0, 10, x] > 0.95 for c, x in ((0, 2), (1, 10), (2, 17)))
    assert told == []
    with pytest.raises(ValueError, match="clip is 40x20, not 20x20; fit it with crop, pad or stretch"):
        fitted(picture, 20, 20, "error")
    with pytest.raises(ValueError, match=r"fit must be one of.*'fill'"):
        fitted(picture, 20, 20, "fill")  # type: ignore[arg-type]
    same, told = fitted(picture, 10, 20, "error")  # of one aspect ratio
    assert (same.shape, told) == ((3, 1, 10, 20), [])


@pytest.mark.parametrize("size", [(1, 500), (500, 1)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_the_thinnest_pictures_fit(size: tuple[int, int], fit: Any) -> None:
    found, _ = fitted(np.full((1, *size, 3), 255, np.uint8), 16, 16, fit)
    assert found.shape == (3, 1, 16, 16)
    assert found.max() == 1


def test_pixels_of_the_right_size_are_not_touched() -> None:
    pixels = noise_clip(3, size=(16, 8))
    found, told = fitted(pixels, 16, 8, "crop")
    torch.testing.assert_close(found, torch.from_numpy(pixels).permute(3, 0, 1, 2) / 127.5 - 1)
    floats = np.random.default_rng(0).random((3, 16, 8, 3), np.float32)
    torch.testing.assert_close(fitted(floats, 16, 8, "crop")[0], 2 * torch.from_numpy(floats).permute(3, 0, 1, 2) - 1)
    assert told == []


def test_masks_in_every_form(tmp_path: Path) -> None:
    white = np.zeros((8, 8), bool)
    white[2:5, 3:] = True
    Image.fromarray(white).save(tmp_path / "mask.png")
    for source in (
        white, white.astype(np.float32), white.astype(np.uint8), white.astype(np.uint8) * 255, torch.from_numpy(white),
        white[None], Image.fromarray(white), tmp_path / "mask.png", white * 0.6,
    ):  # fmt: skip
        found, told = read_mask(source, 3, 8, 8)
        np.testing.assert_array_equal(found, np.broadcast_to(white, (3, 8, 8)))
        assert told == []
    moving = np.stack([white, ~white, white])
    np.testing.assert_array_equal(read_mask(moving, 3, 8, 8)[0], moving)
    larger, _ = read_mask(white, 1, 16, 16)
    np.testing.assert_array_equal(larger[0, 1::2, 1::2], white)


def test_a_mask_is_fitted_as_its_clip_is() -> None:
    """What is white is the same thing in the clip, whatever of both is cut off."""
    white = np.zeros((20, 40), bool)
    white[:, 18:30] = True
    clip = np.repeat(white[None, ..., None], 3, axis=-1).astype(np.uint8) * 255
    for fit in ("crop", "pad", "stretch"):
        mask, _ = read_mask(white, 1, 20, 20, fit=fit)
        pixels, _ = fitted(clip, 20, 20, fit)
        assert (mask[0] == (pixels[0, 0] >= 0)).float().mean() == 1


def test_masks_of_half_precision_are_read() -> None:
    mask = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16).repeat(2, 1)
    assert read_mask(mask, 1, 2, 2)[0].tolist() == [[[False, True]] * 2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.ones((2, 8, 8), bool), "the mask has 2 frames and the clip 5"),
        (np.ones((8, 8), bool), "all white"),
        (np.zeros((8, 8), bool), "all black"),
        (np.full((8, 8), 7.0), "values from 7 to 7"),
        (np.full((8, 8), np.nan), "not finite"),
        (np.ones((1, 8, 8, 3), bool), r"\[H, W\] or \[T, H, W\], got \[1, 8, 8, 3\]"),
        ("none.png", "none.png"),
    ],
)
def test_what_is_no_mask_is_named(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_mask(source, 5, 8, 8)


# ---- conditions, settled ---------------------------------------------------------------------------


def levels(given: PlacedConditions) -> list[float]:
    assert given.level is not None
    flat = given.level.flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


@pytest.mark.parametrize(
    ("frames", "at", "expected"),
    [
        (1, 0, [0, FREE, FREE, FREE, FREE]),
        (5, 0, [0, 0, FREE, FREE, FREE]),
        (7, 0, [0, 0, FREE, FREE, FREE]),  # two more are shown to the encoder alone
        (1, 6, [FREE, FREE, 0, FREE, FREE]),
        (1, -1, [FREE, FREE, FREE, FREE, 0]),
        (4, -4, [FREE, FREE, FREE, FREE, 0]),
        (6, -6, [FREE, FREE, FREE, FREE, 0]),
        (2, 4, [FREE, 0, 0, FREE, FREE]),  # no whole group: all that it is in
    ],
)
def test_given_frames_fill_groups(spec: ModelSpec, frames: int, at: int, expected: list[float]) -> None:
    given = settled(spec, Frames(noise_clip(frames), at))
    assert levels(given) == expected
    first = at % 17
    assert given.known is not None
    assert given.known.nonzero()[:, 0].tolist() == list(range(first, first + frames))
    assert len(given.notices) == (frames in (6, 7))
    assert given.record[0] | {"frames": ""} == {"frames": "", "count": frames, "at": first, "strength": 1.0}


def test_a_group_shows_its_own_frames_alone(spec: ModelSpec) -> None:
    """Of two pictures in neighbouring groups none is seen in the other's group, however near it is."""
    dark, light = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    given = settled(spec, Frames(dark, 1), Frames(light, 5))
    assert given.clip is not None
    assert given.clip.mean(dim=(0, 2, 3)).tolist() == [-1] * 5 + [1] * 12


def test_strength_is_the_level_that_frames_hold(spec: ModelSpec) -> None:
    given = settled(spec, Frames(noise_clip(1), 0, 0.75), Frames(noise_clip(1), -1))
    assert levels(given) == [0.25, FREE, FREE, FREE, 0]


def test_a_region_keeps_tokens_without_any_white(spec: ModelSpec) -> None:
    """Latents are 8 pixels wide and tokens two latents: one white pixel frees 16×16 pixels of its group of frames."""
    white = np.zeros((17, 32, 32), bool)
    white[6, 17, 3] = True  # group 2, lower left
    given = settled(spec, Region(white, noise_clip(17)))
    assert given.level is not None
    expected = torch.zeros(5, 4, 4)
    expected[2, 2:, :2] = FREE
    assert torch.equal(given.level, expected)


def test_a_temporal_patch_is_kept_as_a_whole(spec: ModelSpec) -> None:
    """Where tokens hold two latent frames, both must be given."""
    from dataclasses import replace

    double = replace(spec, geometry=VideoGeometry(Size3D(4, 8, 8), Size3D(2, 2, 2)))
    given = settled(double, Frames(noise_clip(9)), num_frames=21)
    assert levels(given) == [0, 0, FREE, FREE, FREE, FREE]
    with pytest.raises(ValueError, match="fill no whole token of the model, which is 2 latent frames long"):
        settled(double, Frames(noise_clip(1)), num_frames=21)


WHITE = np.zeros((32, 32), bool)
WHITE[:, 16:] = True


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ([Frames(noise_clip(1), 17)], r"placed at frame 17; this clip has frames 0 to 16 \(-17 to -1"),
        ([Frames(noise_clip(1), -18)], "placed at frame -18; this clip"),
        ([Frames(noise_clip(5), 13)], "placed at frame 13 and is 5 frames long"),
        ([Frames(noise_clip(1), 1.5)], "at must be the number of a frame, got 1.5"),  # type: ignore[arg-type]
        ([Frames(noise_clip(1), True)], "got True"),
        ([Frames(noise_clip(1), 0, 0)], "strength must be above 0 and at most 1, got 0"),
        ([Frames(noise_clip(1), 0, 1.1)], "got 1.1"),
        ([Frames(noise_clip(1), 0, float("nan"))], "got nan"),
        ([Edit(noise_clip(17), -0.5)], "strength must be above 0 and at most 1, got -0.5"),
        ([Edit(noise_clip(17), 0.01)], "strength is 0.01, which leaves none of 30 steps; 0.034 leaves one"),
        ([Edit(noise_clip(16))], "the clip of an Edit has 16 frames at 16 fps, not 17"),
        ([Edit(noise_clip(17)), Edit(noise_clip(17))], "two Edits"),
        ([Region(WHITE, noise_clip(9))], "the clip of a Region has 9 frames"),
        ([Region(np.stack([WHITE] * 4), noise_clip(17))], "the mask has 4 frames and the clip 17"),
        ([Region(WHITE, noise_clip(17)), Region(WHITE, noise_clip(17))], "two Regions"),
        ([Region(WHITE | True ^ (np.indices((32, 32)).sum(0) == 0), noise_clip(17))], "no whole token"),
        ([Frames(noise_clip(5)), Frames(noise_clip(1), 4)], "frame 4 is set twice"),
        (
            [Frames(noise_clip(1), 5), Frames(noise_clip(1), 8)],
            "frames 5 to 8 are one group of.* set by two conditions",
        ),
        ([Frames(noise_clip(1)), Region(WHITE, noise_clip(17))], "make them white in the mask"),
        ([Region(WHITE, noise_clip(17)), Frames(noise_clip(1))], "frame 0 is set twice"),
        ([Frames(noise_clip(17))], "nothing is left to make"),
        (["a ball"], "must be Frames, Region or Edit, got str"),
        ([Frames("none.png")], "cannot read the image 'none.png'"),
        ([Region("none.png", noise_clip(17))], "none.png"),
    ],
)
def test_contradictions_are_named(spec: ModelSpec, conditions: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settled(spec, *conditions)


@pytest.mark.parametrize("steps", [1, 7, 29, 30, 49, 999])
def test_the_least_strength_that_is_named_is_enough(spec: ModelSpec, steps: int) -> None:
    with pytest.raises(ValueError, match="leaves none") as caught:
        settled(spec, Edit(noise_clip(17), 1e-6), num_inference_steps=steps)
    least = float(str(caught.value).split("; ")[1].split()[0])
    assert settled(spec, Edit(noise_clip(17), least), num_inference_steps=steps).strength == least


def test_steps_of_an_edit_are_not_lost_to_rounding() -> None:
    assert [edit_steps(100, k / 100) for k in range(1, 101)] == list(range(1, 101))
    assert edit_steps(30, 0.999) == 29


def test_a_way_to_fit_is_checked_where_nothing_is_given(pipe: VideoDiTPipeline) -> None:
    with pytest.raises(ValueError, match=r"fit must be one of .* got 'zoom'"):
        pipe(PROMPT, fit="zoom")  # type: ignore[arg-type]


def test_conditions_compose_in_any_order(spec: ModelSpec) -> None:
    white = np.broadcast_to(WHITE, (17, 32, 32)).copy()
    white[:5] = True  # frames are given there
    parts = [Frames(noise_clip(5)), Region(white, noise_clip(17, 1)), Edit(noise_clip(17, 2), 0.5)]
    found = [settled(spec, *order) for order in itertools.permutations(parts)]
    for given in found:
        for name in ("clip", "level", "start", "known"):
            torch.testing.assert_close(getattr(given, name), getattr(found[0], name), rtol=0, atol=0)
        assert given.strength == 0.5
    assert found[0].clip is not None
    torch.testing.assert_close(found[0].clip[:, :5], fitted(noise_clip(5), 32, 32, "crop")[0])
    torch.testing.assert_close(found[0].clip[:, 5:], fitted(noise_clip(17, 1), 32, 32, "crop")[0][:, 5:])


def test_a_model_without_image_training_takes_no_frames(spec: ModelSpec) -> None:
    from dataclasses import replace

    text_alone = replace(spec, channels=(), keeps_any=False)
    with pytest.raises(ValueError, match="from text alone and takes no image and no other frames"):
        settled(text_alone, Frames(noise_clip(1)))
    assert settled(text_alone, Region(WHITE, noise_clip(17))).level is not None
    first_alone = replace(spec, keeps_any=False)
    with pytest.raises(ValueError, match="takes the first frame alone, not frame 16"):
        settled(first_alone, Frames(noise_clip(1), -1))
    with pytest.raises(ValueError, match="strength must be 1"):
        settled(first_alone, Frames(noise_clip(1), 0, 0.5))


# ---- the loop ----------------------------------------------------------------------------------------


@pytest.fixture
def seen(pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Latents and timesteps that the transformer gets."""
    calls: list[tuple[Tensor, Tensor]] = []
    forward = pipe.transformer.forward

    def spy(latents: Tensor, timestep: Tensor, *rest: Any, **more: Any) -> Any:
        calls.append((latents.clone(), timestep.clone()))
        return forward(latents, timestep, *rest, **more)

    monkeypatch.setattr(pipe.transformer, "forward", spy)
    return calls


def test_kept_latents_are_the_encoders_and_stay_clean(
    pipe: VideoDiTPipeline, seen: list[tuple[Tensor, Tensor]]
) -> None:
    """First and last: both clean in each step with a timestep of 0, all others at the schedule's."""
    first, last = noise_clip(5), noise_clip(4, 1)
    found = make(pipe, conditions=[Frames(first), Frames(last, -4)])
    padded = np.concatenate(
        [first, np.broadcast_to(first[-1:], (4, 32, 32, 3)), np.broadcast_to(last[:1], (4, 32, 32, 3)), last]
    )
    expected = latents_of(pipe, padded)  # what is not given is what is nearest in time
    torch.testing.assert_close(found[:, :, :2], expected[:, :, :2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, :, :2], latents_of(pipe, first), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, :, 4:], expected[:, :, 4:], atol=1e-5, rtol=1e-5)
    sigmas = SHIFT * np.array([1, 2 / 3, 1 / 3]) / (1 + (SHIFT - 1) * np.array([1, 2 / 3, 1 / 3]))
    assert len(seen) == 6  # three steps of two branches
    for i, (latents, timestep) in enumerate(seen):
        expected_t = torch.full((5, 4), 1000 * sigmas[i // 2])
        expected_t[[0, 1, 4]] = 0
        torch.testing.assert_close(timestep, expected_t.flatten()[None].float(), atol=1e-2, rtol=0)
        torch.testing.assert_close(latents[:, :, [0, 1, 4]], expected[:, :, [0, 1, 4]], atol=1e-5, rtol=1e-5)


def test_nothing_given_is_one_timestep_a_clip(pipe: VideoDiTPipeline, seen: list[tuple[Tensor, Tensor]]) -> None:
    make(pipe)
    assert {tuple(timestep.shape) for _, timestep in seen} == {(1,)}


def test_frames_hold_their_level_until_the_schedule_reaches_it(
    pipe: VideoDiTPipeline, seen: list[tuple[Tensor, Tensor]]
) -> None:
    """Strength 0.6 is a level of 0.4; of four steps at 1, 6/7, 2/3 and 2/5 it is the last one's, exactly."""
    picture, noise = noise_clip(1), torch.randn(1, 4, 5, 4, 4, generator=seeded(5))
    clean = latents_of(pipe, picture)
    found = make(pipe, num_inference_steps=4, latents=noise, conditions=[Frames(picture, 0, 0.6)])
    held = clean + 0.4 * (noise[:, :, :1] - clean)
    for latents, timestep in seen:
        torch.testing.assert_close(latents[:, :, :1], held, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(timestep[0, :4], torch.full((4,), 400.0), atol=1e-2, rtol=0)
    assert [round(float(timestep[0, -1])) for _, timestep in seen[::2]] == [1000, 857, 667, 400]
    assert (found[:, :, :1] - clean).abs().max() > 1e-2  # it went on from there
    kept = make(pipe, num_inference_steps=4, latents=noise, conditions=[Frames(picture)])
    torch.testing.assert_close(kept[:, :, :1], clean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "scheduler",
    [
        UniPCMultistepScheduler(**FLOW),
        DPMSolverMultistepScheduler(**FLOW),
        FlowMatchHeunDiscreteScheduler(shift=SHIFT),
    ],
    ids=lambda one: type(one).__name__,
)
def test_solvers_that_remember_find_no_wrong_past_in_frames_that_held_a_level(
    pipe: VideoDiTPipeline, scheduler: Any
) -> None:
    """A transformer that knows the clean clip exactly: every solver must go straight to it."""
    clean, noise = (torch.randn(1, 4, 5, 4, 4, generator=seeded(seed)) for seed in (0, 1))
    other = with_scheduler(pipe, scheduler)
    level = torch.full((1, 1, 5, 4, 4), FREE)
    level[:, :, :2] = 0.4
    set_timesteps(other.scheduler, 6, spacing=other.sampling.sigmas, num_tokens=20, device=torch.device("cpu"))
    condition = Condition(clean=clean, level=level).snapped(other.scheduler)
    from videodit.pipelines.acceleration import Stopwatch
    from videodit.pipelines.sampling import Watcher, run

    def exact(latents: Tensor, at: Moment) -> Tensor:
        """What a perfect model predicts of latents at the levels that it is told: (x − clean) / level."""
        tokens = condition.timestep(at.t, 1, Size3D(1, 1, 1)).view(1, 1, 5, 4, 4) / 1000
        return (latents - clean) / tokens.clamp(min=1e-3)

    way: list[tuple[int, Tensor]] = []

    def note(_: Any, step: int, __: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        way.append((step, tensors["latents"]))
        return {}

    watcher = Watcher(Stopwatch(torch.device("cpu")), [], note, ["latents"])
    denoise = Denoiser(exact, Prompts(pipe.text([PROMPT]), None), condition)
    found = run(other, noise, denoise, [seeded(0)], watcher, 0)
    tolerance = 2e-2 if "FlowMatch" not in type(scheduler).__name__ else 1e-4  # the others' timesteps are whole numbers
    torch.testing.assert_close(found, clean, atol=tolerance, rtol=0)
    levels = [float(scheduler.sigmas[i + 1]) for i, _ in way]
    assert min(levels[:-1]) < 0.4
    for sigma, (_, latents) in zip(levels, way, strict=True):
        if sigma < 0.4:  # free by now, and still on the straight line
            torch.testing.assert_close(latents, clean + sigma * (noise - clean), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        UniPCMultistepScheduler(**FLOW),
        DPMSolverMultistepScheduler(**FLOW),
        FlowMatchHeunDiscreteScheduler(shift=SHIFT),
    ],
    ids=lambda one: type(one).__name__,
)
def test_an_edit_is_sdedit_written_out(pipe: VideoDiTPipeline, scheduler: Any) -> None:
    """Half of six steps, from the clip with the noise of the fourth."""
    other, clip = with_scheduler(pipe, scheduler), noise_clip(17)
    noise = torch.randn(1, 4, 5, 4, 4, generator=seeded(3))
    found = make(other, latents=noise, num_inference_steps=6, guidance_scale=1.0, conditions=[Edit(clip, 0.5)])
    mirror = type(scheduler).from_config(scheduler.config)
    order = mirror.order
    if type(mirror) is not DPMSolverMultistepScheduler:
        set_timesteps(mirror, 6, spacing="to_last_step", num_tokens=20, device=torch.device("cpu"))
    else:
        mirror.set_timesteps(6)
    begin = 3 * order
    mirror.set_begin_index(begin)
    sigma = float(mirror.sigmas[begin])
    x = (1 - sigma) * latents_of(pipe, clip) + sigma * noise
    cond = pipe.text([PROMPT])
    with torch.no_grad():
        for t in mirror.timesteps[begin:]:
            v = pipe.transformer(x, t[None].float(), cond.embeds, cond.mask).sample
            x = mirror.step(v, t, x, return_dict=False)[0]
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


def test_a_full_edit_is_a_clip_from_noise(pipe: VideoDiTPipeline) -> None:
    torch.testing.assert_close(make(pipe, conditions=[Edit(noise_clip(17), 1.0)]), make(pipe), atol=1e-5, rtol=1e-5)


def test_a_weaker_edit_stays_nearer(pipe: VideoDiTPipeline) -> None:
    clip = noise_clip(17)
    away = [
        float((make(pipe, num_inference_steps=8, conditions=[Edit(clip, s)]) - latents_of(pipe, clip)).norm())
        for s in (0.125, 0.5, 0.875)
    ]
    assert away == sorted(away)


def test_an_edit_goes_through_frames_that_hold_a_higher_level_than_it_starts_at(pipe: VideoDiTPipeline) -> None:
    """Their level is over before the first step; the loop starts from them all the same."""
    clip, picture = noise_clip(17), noise_clip(1, 1)
    noise = torch.randn(1, 4, 5, 4, 4, generator=seeded(3))
    condition = Condition(
        clean=latents_of(pipe, picture).expand(-1, -1, 5, -1, -1),
        level=torch.tensor([0.9, FREE, FREE, FREE, FREE]).view(1, 1, 5, 1, 1).expand(1, 1, 5, 4, 4),
        start=latents_of(pipe, clip), strength=0.25,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    set_timesteps(scheduler, 4, spacing="to_last_step", num_tokens=20, device=torch.device("cpu"))
    found = condition.first(noise, scheduler, 3)
    torch.testing.assert_close(found[:, :, :1], 0.75 * latents_of(pipe, picture) + 0.25 * noise[:, :, :1])
    torch.testing.assert_close(found[:, :, 1:], 0.75 * latents_of(pipe, clip)[:, :, 1:] + 0.25 * noise[:, :, 1:])


def test_a_region_is_kept_and_may_move(pipe: VideoDiTPipeline, seen: list[tuple[Tensor, Tensor]]) -> None:
    clip = noise_clip(17)
    white = np.zeros((17, 32, 32), bool)
    for k in range(5):  # a quarter of the picture that goes around
        y, x = [(0, 0), (0, 16), (16, 16), (16, 0), (0, 0)][k]
        first, last = (0, 1) if k == 0 else (4 * k - 3, 4 * k + 1)
        white[first:last, y : y + 16, x : x + 16] = True
    found, expected = make(pipe, conditions=[Region(white, clip)]), latents_of(pipe, clip)
    for k in range(5):
        y, x = [(0, 0), (0, 2), (2, 2), (2, 0), (0, 0)][k]
        free = torch.zeros(4, 4, dtype=torch.bool)
        free[y : y + 2, x : x + 2] = True
        torch.testing.assert_close(found[0, :, k, ~free], expected[0, :, k, ~free], atol=1e-5, rtol=1e-5)
        assert (found[0, :, k, free] - expected[0, :, k, free]).abs().amin(dim=1).max() > 1e-3
        tokens = seen[0][1].view(5, 2, 2)[k]
        assert (tokens > 0).nonzero().tolist() == [[y // 2, x // 2]]


def test_every_prompt_and_clip_gets_the_conditions(pipe: VideoDiTPipeline) -> None:
    """Two prompts, two clips each: as if made alone."""
    conditions = [Frames(noise_clip(1)), Edit(noise_clip(17, 1), 0.7)]
    prompts = [PROMPT, "a blue cone"]
    call: dict[str, Any] = {"num_inference_steps": 3, "output_type": "latent", "conditions": conditions}
    many = pipe(prompts, num_videos_per_prompt=2, generator=[seeded(s) for s in range(4)], **call).frames
    for i, prompt in enumerate(np.repeat(prompts, 2)):
        alone = pipe(str(prompt), generator=seeded(i), **call).frames
        torch.testing.assert_close(many[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_guidance_in_one_forward_is_the_same(pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = [Frames(noise_clip(5), 0, 0.7), Frames(noise_clip(1), -1)]
    apart = make(pipe, conditions=conditions)
    monkeypatch.setattr(pipe, "batch_guidance", True, raising=False)
    torch.testing.assert_close(make(pipe, conditions=conditions), apart, atol=1e-5, rtol=1e-5)


def test_images_are_short_for_frames(pipe: VideoDiTPipeline) -> None:
    first, last = (Image.fromarray(noise_clip(1, seed)[0]) for seed in (0, 1))
    short = make(pipe, image=first, last_image=last)
    assert torch.equal(short, make(pipe, conditions=[Frames(first), Frames(last, -1)]))


def test_recipes_tell_what_was_given(pipe: VideoDiTPipeline) -> None:
    call: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent", "generator": seeded(1)}
    (plain,) = pipe(PROMPT, **call).recipes
    (given,) = pipe(PROMPT, **call, conditions=[Frames(noise_clip(1), -1, 0.5)], fit="pad").recipes
    assert "conditions" not in plain
    assert "fit" not in plain
    (record,) = given["conditions"]
    assert (record["at"], record["count"], record["strength"]) == (16, 1, 0.5)
    assert given["fit"] == "pad"


def test_offloaded_parts_take_conditions(pipe: VideoDiTPipeline, tiny_model: Path) -> None:
    import accelerate

    moved = VideoDiTPipeline.from_pretrained(tiny_model)
    moved.set_progress_bar_config(disable=True)
    for part in (moved.text_encoder, moved.transformer, moved.vae):
        accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=True)
    conditions = [Frames(noise_clip(1)), Edit(noise_clip(17), 0.7)]
    torch.testing.assert_close(
        make(moved, conditions=conditions), make(pipe, conditions=conditions), atol=1e-5, rtol=1e-5
    )


# ---- a loop --------------------------------------------------------------------------------------------


def test_a_loop_has_whole_groups_and_no_conditions(pipe: VideoDiTPipeline) -> None:
    frames = pipe(PROMPT, loop=True, num_frames=16, num_inference_steps=1, output_type="np").frames
    assert frames.shape == (1, 16, 32, 32, 3)
    assert pipe.check_inputs(PROMPT, loop=True, num_frames=16).latent_shape == (4, 4, 4, 4)
    for more in ({"image": noise_clip(1)[0]}, {"conditions": [Edit(noise_clip(16))]}):
        with pytest.raises(ValueError, match="a loop has no beginning and no end"):
            pipe.check_inputs(PROMPT, loop=True, num_frames=16, **more)


def test_a_ring_decodes_as_one_that_went_round_for_long(pipe: VideoDiTPipeline) -> None:
    """Its frames are those of the last of many rounds, whatever the decoder's chunks."""
    ring = torch.randn(1, 4, 3, 4, 4, generator=seeded(0))
    with torch.no_grad():
        rounds = pipe.vae.decode(pipe.vae.denormalize(ring.repeat(1, 1, 30, 1, 1))).sample[:, :, -12:]
    torch.testing.assert_close(decode(pipe.vae, ring, loop=True), rounds, atol=1e-5, rtol=0)
    pipe.vae.enable_streaming(2)
    try:
        torch.testing.assert_close(decode(pipe.vae, ring, loop=True), rounds, atol=1e-5, rtol=0)
    finally:
        pipe.vae.disable_streaming()
    turned = decode(pipe.vae, ring.roll(1, dims=2), loop=True)
    torch.testing.assert_close(turned, rounds.roll(4, dims=2), atol=1e-5, rtol=0)


def test_each_step_of_a_loop_sees_the_ring_turned(pipe: VideoDiTPipeline, seen: list[tuple[Tensor, Tensor]]) -> None:
    """Of eight latents by three a step, behind the one that comes before; what comes back is turned back."""
    noise = torch.randn(1, 4, 8, 4, 4, generator=seeded(0))
    found = make(pipe, loop=True, num_frames=32, num_inference_steps=4, latents=noise, guidance_scale=1.0)
    cond, x, calls = pipe.text([PROMPT]), noise, list(seen)
    raw = np.linspace(1, 1 / 4, 4)
    sigmas = [*(SHIFT * raw / (1 + (SHIFT - 1) * raw)), 0.0]
    with torch.no_grad():
        for i, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
            turned = torch.cat([x[:, :, 8 - 3 * i % 8 :], x[:, :, : 8 - 3 * i % 8]], dim=2)
            turned = torch.cat([turned[:, :, -1:], turned], dim=2)
            torch.testing.assert_close(calls[i][0], turned, atol=1e-5, rtol=1e-5)
            t = torch.tensor([1000 * sigma], dtype=torch.float32)
            v = pipe.transformer(turned, t, cond.embeds, cond.mask).sample[:, :, 1:]
            v = torch.cat([v[:, :, 3 * i % 8 :], v[:, :, : 3 * i % 8]], dim=2)
            x = x + (following - sigma) * v
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)


# ---- schedulers and families ------------------------------------------------------------------------------

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        FlowMatchHeunDiscreteScheduler(shift=SHIFT),
        UniPCMultistepScheduler(**FLOW),
        DPMSolverMultistepScheduler(**FLOW),
        DPMSolverMultistepScheduler(**LINEAR),
        DDIMScheduler(**LINEAR),
        EulerAncestralDiscreteScheduler(**LINEAR),
        CogVideoXDPMScheduler(),
    ],
    ids=lambda one: f"{type(one).__name__}-{one.config.get('prediction_type')}",
)
@pytest.mark.parametrize("begin", [0, 4])
def test_clips_get_the_noise_of_each_step(scheduler: Any, begin: int) -> None:
    """Before the first step, between steps and behind the last: by the schedule's own sigmas or alphas."""
    clean, noise = (torch.randn(1, 4, 3, 2, 2, generator=seeded(seed)) for seed in (0, 1))
    timesteps = set_timesteps(scheduler, 8, spacing="to_last_step", num_tokens=4, device=torch.device("cpu"))
    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    latents, old = at_level(scheduler, clean, noise, begin), None
    for i, t in enumerate(timesteps[begin:], start=begin):
        if "Flow" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas"):
            sigma = float(scheduler.sigmas[i])
            expected = (1 - sigma) * clean + sigma * noise
        elif "Euler" in type(scheduler).__name__:
            expected = clean + float(scheduler.sigmas[i]) * noise
        else:
            alpha = float(scheduler.alphas_cumprod[int(t)])
            expected = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
        torch.testing.assert_close(at_level(scheduler, clean, noise, i), expected, atol=1e-4, rtol=1e-4)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(latents, t)
        if old is not None or isinstance(scheduler, CogVideoXDPMScheduler):
            continue  # knows no state of its own
        latents = scheduler.step(torch.zeros_like(latents), t, latents, return_dict=False)[0]
    assert torch.equal(at_level(scheduler, clean, noise, len(timesteps)), clean)


def family(tmp: Path, name: str) -> VideoDiTPipeline:
    import diffusers
    from tiny_families import CASES

    case = CASES[name]
    getattr(diffusers, case.pipeline)(**case.parts()).save_pretrained(tmp / name)
    pipe = VideoDiTPipeline.from_pretrained(tmp / name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("name", ["wan", "wan-2.2-ti2v", "latte", "ltx-0.9.7", "cogvideox-2b", "allegro"])
def test_a_region_of_a_model_without_clean_parts_is_repaint_written_out(
    name: str, tmp_path: Path, seen_timesteps: Callable[[Any], list[Tensor]]
) -> None:
    """Kept latents get the level of the rest in each step, and no timestep of their own.

    So do those of a model that was trained with a clean first frame and nothing else (Wan 2.2 TI2V).
    """
    pipe = family(tmp_path, name)
    frames, (height, width) = {"allegro": 24, "latte": 3}.get(name, 9), (64, 64) if name.startswith("ltx") else (32, 32)
    if name == "cogvideox-2b":
        height, width = 48, 80
    settings = pipe.check_inputs("a ball", num_frames=frames, height=height, width=width)
    clip = noise_clip(frames, size=(height, width))
    white = np.zeros((height, width), bool)
    white[:, width // 2 :] = True
    noise = torch.randn(1, *settings.latent_shape, generator=seeded(0))
    calls = seen_timesteps(pipe.transformer)
    call: dict[str, Any] = {
        "num_frames": frames, "height": height, "width": width, "latents": noise, "num_inference_steps": 4,
        "guidance_scale": 1.0, "output_type": "latent",
    }  # fmt: skip
    found = pipe("a ball", **call, generator=seeded(9), conditions=[Region(white, clip)]).frames
    assert {t.ndim for t in calls} == {1}

    pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    clean, _ = encode_posterior(pipe.vae, pixels)
    free = place_conditions([Region(white, clip)], pipe.spec, settings).level == FREE  # type: ignore[operator]
    assert 0 < free.float().mean() < 1
    scheduler = pipe.scheduler
    known: dict[int, Tensor] = {}

    def put_back(_: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same from outside: a run without conditions whose kept part is replaced after each step."""
        following = scheduler.timesteps[step + 1 : step + 2]
        given = clean if not len(following) else known[step + 1]
        return {"latents": torch.where(free, tensors["latents"], given)}

    set_timesteps(scheduler, 4, spacing=pipe.sampling.sigmas, num_tokens=settings.num_tokens, device=noise.device)
    for i, t in enumerate(scheduler.timesteps):
        if "FlowMatch" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas"):
            sigma = float(scheduler.sigmas[i])
            known[i] = (1 - sigma) * clean + sigma * noise
        else:
            known[i] = scheduler.add_noise(clean, noise, t[None])
    start = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    start = torch.where(free, start, known[0]) / getattr(scheduler, "init_noise_sigma", 1.0)
    mirror = pipe("a ball", **call | {"latents": start}, generator=seeded(9), callback_on_step_end=put_back).frames
    torch.testing.assert_close(found, mirror, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[..., ~free], clean[..., ~free])


@pytest.fixture
def seen_timesteps(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Tensor]]:
    def watch(transformer: Any) -> list[Tensor]:
        calls: list[Tensor] = []
        forward = transformer.forward

        def spy(latents: Tensor, timestep: Tensor, *rest: Any, **more: Any) -> Any:
            calls.append(timestep.clone())
            return forward(latents, timestep, *rest, **more)

        monkeypatch.setattr(transformer, "forward", spy)
        return calls

    return watch


@pytest.mark.parametrize("name", ["latte", "cogvideox-5b", "ltx-0.9.7", "wan"])
def test_an_edit_starts_from_latents_as_the_family_scales_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = family(tmp_path, name)
    frames, side = {"latte": 3}.get(name, 9), 64 if name.startswith("ltx") else 32
    clip = noise_clip(frames, size=(side, side))
    pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    vae, config = pipe.vae, pipe.vae.config
    with torch.no_grad():
        if name == "latte":
            modes = [vae.encode(pixels[:, :, i]).latent_dist.mode() for i in range(frames)]
            clean = torch.stack(modes, dim=2) * config.scaling_factor
        else:
            clean = vae.encode(pixels).latent_dist.mode()
            if name == "cogvideox-5b":
                clean = clean * config.scaling_factor
            elif name == "wan":
                mean, std = (
                    torch.tensor(one).view(1, -1, 1, 1, 1) for one in (config.latents_mean, config.latents_std)
                )
                clean = (clean - mean) / std
            else:
                mean, std = (one.view(1, -1, 1, 1, 1) for one in (vae.latents_mean, vae.latents_std))
                clean = (clean - mean) * config.scaling_factor / std
    calls: list[Tensor] = []
    forward = pipe.transformer.forward

    def spy(latents: Tensor, *rest: Any, **more: Any) -> Any:
        calls.append(latents.clone())
        return forward(latents, *rest, **more)

    monkeypatch.setattr(pipe.transformer, "forward", spy)
    noise = torch.randn(clean.shape, generator=seeded(0))
    pipe(
        "a ball", num_frames=frames, height=side, width=side, num_inference_steps=10, guidance_scale=1.0,
        latents=noise, output_type="latent", conditions=[Edit(clip, 0.3)],
    )  # fmt: skip
    scheduler = pipe.scheduler
    if pipe.objective == "flow":
        sigma = float(scheduler.sigmas[7])
        expected = (1 - sigma) * clean + sigma * noise
    else:
        alpha = float(scheduler.alphas_cumprod[int(scheduler.timesteps[7])])
        expected = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
    assert len(calls) == 3
    torch.testing.assert_close(calls[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["wan-i2v", "wan-flf2v", "wan-2.2-i2v", "wan-2.2-ti2v", "cogvideox-5b-i2v"])
def test_image_models_take_their_images_as_frames(name: str, tmp_path: Path) -> None:
    """What the image encoder sees among them, whether the frames are pictures, floats or clips."""
    from tiny_families import CASES

    pipe, call = family(tmp_path, name), dict(CASES[name].call)
    call |= {"num_inference_steps": 2, "output_type": "latent"}
    call.pop("guidance_scale_2", None)
    images = [call.pop("image"), call.pop("last_image", None)]
    short = pipe("a ball", image=images[0], last_image=images[1], generator=seeded(1), **call).frames
    for kind in (np.asarray, lambda one: np.asarray(one) / 255, lambda one: [one]):
        given = [Frames(kind(one), at) for one, at in zip(images, (0, -1), strict=True) if one is not None]
        found = pipe("a ball", conditions=given, generator=seeded(1), **call).frames
        torch.testing.assert_close(found, short, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match=r"give image|takes the first frame alone, not frame 1"):
        pipe("a ball", conditions=[Frames(images[0], 1)], **call)


@pytest.mark.parametrize("name", ["wan-2.2-i2v", "cogvideox-5b-i2v"])
def test_regions_are_kept_beside_the_image_of_an_image_model(name: str, tmp_path: Path) -> None:
    from tiny_families import CASES

    pipe, call = family(tmp_path, name), dict(CASES[name].call)
    frames, height, width = (call[key] for key in ("num_frames", "height", "width"))
    clip, white = noise_clip(frames, size=(height, width)), np.ones((frames, height, width), bool)
    white[1:, :, : width // 2] = False
    found = pipe(
        "a ball", **call, num_inference_steps=2, output_type="latent", generator=seeded(1),
        conditions=[Region(white, clip)],
    ).frames  # fmt: skip
    given = place_conditions([Frames(call["image"]), Region(white, clip)], pipe.spec, pipe.check_inputs(
        "a ball", image=call["image"], num_frames=frames, height=height, width=width))  # fmt: skip
    assert given.clip is not None
    assert given.level is not None
    kept = given.level == 0
    assert 0 < kept.float().mean() < 1
    clean, _ = encode_posterior(pipe.vae, given.clip[None])
    torch.testing.assert_close(found[..., kept], clean[..., kept], atol=1e-5, rtol=1e-5)
