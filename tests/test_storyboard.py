"""Storyboards: scenes and their weights, predictions blended frame by frame, and the file that they come from."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from videodit import Storyboard, VideoDiTPipeline
from videodit.pipelines.request import Request
from videodit.shapes import Size3D, VideoGeometry

BALL, CONE, CUBE = "a red ball", "a blue cone", "a tiny cube"
GEOMETRY = VideoGeometry(Size3D(4, 8, 8), Size3D(1, 2, 2))


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- scenes and files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenes", "handover", "message"),
    [
        ((), 0.5, "must begin with a scene at 0 seconds, got none"),
        (((1, BALL),), 0.5, r"at 0 seconds, got \[1.0\]"),
        (((0, BALL), (2, CONE), (2, CUBE)), 0.5, "must rise, got 2 after 2 seconds"),
        (((0, BALL), (float("nan"), CONE)), 0.5, "must rise, got nan"),
        (((0, BALL), (float("inf"), CONE)), 0.5, "must rise, got inf"),
        (((0, BALL), (1, " ")), 0.5, "the scene at 1 seconds has no prompt, got ' '"),
        (((0, BALL), (1, 7)), 0.5, "no prompt, got 7"),
        (((0, BALL),), -1, "handover must be at least 0 seconds, got -1"),
        (((0, BALL),), float("nan"), "handover must be at least 0 seconds, got nan"),
    ],
)
def test_broken_storyboards_are_named(scenes: Any, handover: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Storyboard(scenes, handover)


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "scenes.txt"
    file.write_text(f"\ufeff0, {BALL}, at night\n\n  0.75 ,{CONE}  \n")
    found = Storyboard.from_file(file, handover=0.25)
    assert found == Storyboard(((0.0, f"{BALL}, at night"), (0.75, CONE)), 0.25)
    assert found.prompts == [f"{BALL}, at night", CONE]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0, a\nhello\n", r"s\.txt, line 2: 'hello' is not like"),
        (b"0, a\nx, b\n", r"s\.txt, line 2: 'x, b' is not like"),
        (b"0, a\n1,\n", r"s\.txt: the scene at 1 seconds has no prompt"),
        (b"1, a\n", r"s\.txt: a storyboard must begin with a scene at 0"),
        (b"\n\n", r"s\.txt: .*got none"),
        (b"0, \xff\n", r"cannot read the storyboard .*s\.txt.*utf-8"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "s.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Storyboard.from_file(tmp_path / "s.txt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.txt'.*No such file"):
        Storyboard.from_file(tmp_path / "none.txt")


def test_a_scene_must_begin_within_the_clip(pipe: VideoDiTPipeline) -> None:
    with pytest.raises(ValueError, match=r"begins at 1\.5 seconds, but the clip lasts 1\.062"):
        pipe(Storyboard(((0, BALL), (1.5, CONE))), num_frames=17)


@pytest.mark.parametrize(("scenes", "seconds"), [([0], 0), ([0, 2], 4), ([0, 2, 3], 4), ([0, 1, 3.5], 6)])
def test_the_last_scene_lasts_as_long_as_the_one_before(scenes: list[float], seconds: float) -> None:
    assert Storyboard(tuple((at, BALL) for at in scenes)).seconds == seconds


def test_a_storyboard_that_fits_leaves_the_models_own_length(pipe: VideoDiTPipeline) -> None:
    own = pipe.plan(Request(prompt=BALL)).num_frames
    assert pipe.plan(Request(prompt=Storyboard(((0, BALL),)))).num_frames == own
    assert pipe.plan(Request(prompt=Storyboard(((0, BALL), (0.25, CONE))))).num_frames == own


# ---- weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handover", [0.0, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("times", [(0,), (0, 1), (0, 0.9, 1.1), (0, 0.2, 0.4, 2.5)])
def test_weights_are_shares(times: tuple[float, ...], handover: float) -> None:
    weights = Storyboard(tuple((at, BALL) for at in times), handover).weights(GEOMETRY, 13, 16.0)
    assert weights.shape == (len(times), 13)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(13))


def test_a_change_takes_as_long_as_it_says() -> None:
    """Groups of four frames at 16 frames a second, around 1 second: half a second is two groups, evenly."""
    weights = Storyboard(((0, BALL), (1, CONE)), 0.5).weights(GEOMETRY, 9, 16.0)
    middles = torch.tensor([0.5, *(4 * k - 1 for k in range(1, 9))]) / 16  # frames 4k−3 to 4k
    torch.testing.assert_close(weights[1], ((middles - 0.75) / 0.5).clamp(0, 1))
    assert ((weights[1] > 0) & (weights[1] < 1)).sum() == 2
    sudden = Storyboard(((0, BALL), (1, CONE)), 0).weights(GEOMETRY, 9, 16.0)
    assert torch.equal(sudden[1], (middles > 1).float())


def test_groups_of_a_loop_are_all_alike() -> None:
    from dataclasses import replace

    weights = Storyboard(((0, BALL), (1, CONE)), 0.5).weights(replace(GEOMETRY, causal=False), 8, 16.0)
    middles = (torch.arange(8) * 4 + 2) / 16
    torch.testing.assert_close(weights[1], ((middles - 0.75) / 0.5).clamp(0, 1))


# ---- clips ------------------------------------------------------------------------------------------------


def blended(pipe: VideoDiTPipeline, noise: Tensor, prompts: list[str], weights: Tensor, scale: float) -> Tensor:
    """The loop written out: each prompt's prediction of the whole clip, weighed in each latent frame."""
    steps, shift, x = 3, pipe.scheduler.config.shift, noise.double()
    raw = np.linspace(1, 1 / steps, steps)
    sigmas = [*(shift * raw / (1 + (shift - 1) * raw)), 0.0]
    texts, uncond = [pipe.text([one]) for one in prompts], pipe.text([""])
    with torch.no_grad():
        for sigma, following in itertools.pairwise(sigmas):
            t = torch.tensor([1000 * sigma], dtype=torch.float32)
            total = torch.zeros_like(x)
            for text, weight in zip(texts, weights, strict=True):
                frames = weight.nonzero()[:, 0]
                part = x[:, :, frames].float()
                c, u = (pipe.transformer(part, t, one.embeds, one.mask).sample.double() for one in (text, uncond))
                total[:, :, frames] += weight[frames, None, None].double() * (u + scale * (c - u))
            x = x + (following - sigma) * total
    return x


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_predictions_are_blended_frame_by_frame(
    pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch, scale: float, batched: bool
) -> None:
    monkeypatch.setattr(pipe, "batch_guidance", batched, raising=False)
    board = Storyboard(((0, BALL), (0.4, CONE), (0.6, CUBE)), 0.5)
    weights = board.weights(GEOMETRY, 5, 16.0)
    assert (weights > 0).sum(dim=0).max() == 3  # somewhere all three count
    noise = torch.randn(1, 4, 5, 4, 4, generator=seeded(1))
    found = pipe(board, num_inference_steps=3, guidance_scale=scale, latents=noise, output_type="latent").frames
    expected = blended(pipe, noise, board.prompts, weights, 1.0 if scale == 1 else scale)
    if scale == 1:  # no guidance: the prompts alone
        expected = blended(pipe, noise, board.prompts, weights, 1.0)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_one_scene_is_its_prompt(pipe: VideoDiTPipeline) -> None:
    call: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent"}
    alone = pipe(Storyboard(((0, BALL),)), generator=seeded(1), **call).frames
    assert torch.equal(alone, pipe(BALL, generator=seeded(1), **call).frames)


def test_scenes_that_count_nowhere_in_a_window_cost_nothing(
    pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five windows of a long clip, one change: two scenes are predicted where it is alone."""
    calls = []
    forward = pipe.transformer.forward

    def spy(*given: Any, **more: Any) -> Any:
        calls.append(1)
        return forward(*given, **more)

    monkeypatch.setattr(pipe.transformer, "forward", spy)
    board = Storyboard(((0, BALL), (2.5, CONE)), 0.25)
    pipe(board, num_frames=53, window=17, overlap=8, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    weights = board.weights(GEOMETRY, 14, 16.0)
    spans = [slice(0, 5), slice(3, 8), slice(6, 11), slice(9, 14)]
    assert len(calls) == sum(int((weights[:, span] > 0).any(dim=1).sum()) for span in spans)
    assert len(calls) < 2 * len(spans)


def test_several_clips_of_a_storyboard_are_made_as_alone(pipe: VideoDiTPipeline) -> None:
    board = Storyboard(((0, BALL), (0.5, CONE)))
    call: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent"}
    many = pipe(board, num_videos_per_prompt=2, generator=[seeded(1), seeded(2)], **call)
    for i in range(2):
        alone = pipe(board, generator=seeded(1 + i), **call)
        torch.testing.assert_close(many.frames[i : i + 1], alone.frames, atol=1e-5, rtol=1e-5)
        assert many.recipes[i] == alone.recipes[0]
    assert many.recipes[0]["prompt"] == board.scenes
    assert many.recipes[0]["handover"] == 0.5
