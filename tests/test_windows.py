"""Long clips: windows that cover every latent once, the loop over them, resuming, and streams."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from diffusers.hooks import FirstBlockCacheConfig
from torch import Tensor

from videodit import Edit, Frames, Region, Storyboard, VideoDiTPipeline
from videodit.errors import InputError
from videodit.media import read_recipe, read_video
from videodit.pipelines.output import LatentChunks
from videodit.pipelines.recipe import read_request
from videodit.pipelines.request import Request
from videodit.pipelines.settings import plan_settings
from videodit.pipelines.spec import ModelSpec
from videodit.pipelines.window_store import WindowStore
from videodit.pipelines.windows import plan_windows

PROMPT = "a red ball bounces on the grass"
LONG: dict[str, Any] = {
    "num_frames": 41, "window": 17, "overlap": 8, "num_inference_steps": 2, "output_type": "latent",
}  # fmt: skip
SPANS = [slice(0, 5), slice(3, 8), slice(6, 11)]  # of 11 latent frames: three windows of five, two shared


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_clip(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3), np.uint8)


# ---- the plan ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [3, 4, 5, 8])
def test_plans_of_every_kind(window: int) -> None:
    """Every latent that is not given is made once; what a window goes on from is there; windows are full."""
    for overlap, length in itertools.product(range(1, window - 1), range(window + 1, 3 * window + 3)):
        for front, back in itertools.product(range(length), repeat=2):
            if front + back >= length:
                continue
            there = [k < front or k >= length - back for k in range(length)]
            made = [0] * length
            for one in plan_windows(length, window, overlap, front=front, back=back):
                about = (length, window, overlap, front, back, one)
                span = range(length)[one.span]
                fresh, keep = range(length)[one.fresh], span[one.keep]
                assert fresh, about
                assert set(fresh) <= set(span), about
                assert len(span) == window or (front and back and len(span) < window), about
                assert all(there[k] for k in keep), about
                assert not any(there[k] for k in fresh), about
                # all else is given at the end, or a beginning that does not count
                behind = {k for k in span if k >= length - back} - set(keep)
                lost = set(span) - set(fresh) - set(keep) - behind
                assert lost <= ({span[0]} if back and not front and span[0] else set()), about
                if back and not front:
                    assert len(keep) >= min(overlap, length - fresh.stop), about
                else:
                    assert len(keep) >= min(overlap, fresh.start), about
                    if fresh.stop == length - back:
                        assert len(behind) == min(back, overlap, window - 1 - overlap), about
                for k in fresh:
                    made[k] += 1
                    there[k] = True
            assert made == [0] * front + [1] * (length - front - back) + [0] * back


def test_a_plan_written_out() -> None:
    def spelled(*given: Any, **more: Any) -> list[tuple[int, ...]]:
        return [
            (w.span.start, w.span.stop, w.keep.start, w.keep.stop, w.fresh.start, w.fresh.stop)
            for w in plan_windows(*given, **more)
        ]

    assert spelled(11, 5, 2) == [(0, 5, 0, 0, 0, 5), (3, 8, 0, 2, 5, 8), (6, 11, 0, 2, 8, 11)]
    assert spelled(10, 5, 2) == [(0, 5, 0, 0, 0, 5), (3, 8, 0, 2, 5, 8), (5, 10, 0, 3, 8, 10)]
    assert spelled(9, 5, 2, front=4) == [(2, 7, 0, 2, 4, 7), (4, 9, 0, 3, 7, 9)]
    # backward: what a window begins with counts at the beginning of the clip alone
    assert spelled(9, 5, 2, back=3) == [(3, 8, 3, 5, 4, 6), (1, 6, 3, 5, 2, 4), (0, 5, 2, 5, 0, 2)]
    assert spelled(9, 5, 2, front=2, back=3) == [(0, 5, 0, 2, 2, 5), (3, 8, 0, 2, 5, 6)]


@pytest.mark.parametrize(("window", "overlap"), [(5, 0), (5, 4), (3, 2), (5, -1)])
def test_overlaps_that_add_nothing_are_named(window: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=f"windows of {window} latent frames can share 1 to {window - 2} of them"):
        plan_windows(20, window, overlap)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 17, "overlap": 6}, "overlap must be a multiple of 4 frames, got 6"),
        ({"window": 17, "overlap": 16}, "overlap is 16; windows of 17 frames can share 4 to 12 of them"),
        ({"window": 18}, "window is 18; it must be 4k\\+1, such as 17"),
        ({"window": 5}, "window is 5; it must be at least 9 frames"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"overlap": 4}, "overlap is 4, but this model makes a clip at once; set window, too"),
        (
            {"window": 17, "overlap": 4, "anchor": True},
            "overlap is 4; with an anchor it must be at least 8: the first frame",
        ),
        ({"window": 17, "history_noise": 1}, "history_noise must be a number from 0 to below 1, got 1"),
        ({"window": 17, "history_noise": "much"}, "history_noise must be a number from 0 to below 1, got 'much'"),
        ({"window": 17, "loop": True}, "a loop is made at once, of at most 17 frames, got 40"),
    ],
)
def test_windows_that_cannot_be_are_named(tiny_model: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_settings(Request(num_frames=41, **settings), ModelSpec.from_folder(tiny_model))


@pytest.mark.parametrize("frames", [10**9, 10**300], ids=["many", "more"])
def test_too_many_frames_are_refused_before_windows_are_planned(tiny_model: Path, frames: int) -> None:
    """A plan of a billion windows would never end."""
    with pytest.raises(ValueError, match="the limit is"):
        plan_settings(Request(num_frames=frames, window=17), ModelSpec.from_folder(tiny_model))


def test_windows_are_announced(tiny_model: Path) -> None:
    spec = ModelSpec.from_folder(tiny_model)
    settings = plan_settings(Request(num_frames=41, window=17), spec)
    assert settings.windows == (5, 1)
    assert "41 frames are made in windows of 17, which share 4" in settings.notices
    assert plan_settings(Request(num_frames=17, window=17), spec).windows is None
    assert plan_settings(Request(num_frames=41), spec).windows is None


def test_what_processes_must_be_able_to_divide(tiny_model: Path) -> None:
    """48x32 pixels are 3x2 tokens a latent frame."""
    spec = ModelSpec.from_folder(tiny_model)
    clip = plan_settings(Request(num_frames=41, window=17, height=32, width=48), spec)
    loop = plan_settings(Request(num_frames=16, loop=True, height=32, width=48), spec)
    assert clip.divided_tokens(scenes=False) == 5 * 6
    assert clip.divided_tokens(scenes=True) == 6
    assert loop.divided_tokens(scenes=False) == loop.divided_tokens(scenes=True) == (4 + 1) * 6


# ---- the loop over them ------------------------------------------------------------------------------------


def by_hand(pipe: VideoDiTPipeline, noise: Tensor, steps: int = 2, scale: float = 3.0) -> Tensor:
    """Windows written out in float64: two latents of the last window are clean and have a timestep of 0."""
    shift, done = pipe.scheduler.config.shift, torch.zeros_like(noise).double()
    raw = np.linspace(1, 1 / steps, steps)
    sigmas = [*(shift * raw / (1 + (shift - 1) * raw)), 0.0]
    cond, uncond = pipe.text([PROMPT]), pipe.text([""])
    for number, span in enumerate(SPANS):
        x, kept = noise[:, :, span].double(), 2 if number else 0
        for sigma, following in itertools.pairwise(sigmas):
            x[:, :, :kept] = done[:, :, span][:, :, :kept]
            t = torch.full((1, 5, 4), 1000 * sigma, dtype=torch.float32)
            t[:, :kept] = 0
            time = t.flatten(1) if kept else t[:, 0, 0]
            with torch.no_grad():
                c = pipe.transformer(x.float(), time, cond.embeds, cond.mask).sample.double()
                u = pipe.transformer(x.float(), time, uncond.embeds, uncond.mask).sample.double()
            x = x + (following - sigma) * (u + scale * (c - u))
        done[:, :, span.start + kept : span.stop] = x[:, :, kept:]
    return done


def test_long_clips_equal_windows_written_out(pipe: VideoDiTPipeline) -> None:
    noise = torch.randn(1, 4, 11, 4, 4, generator=seeded(1))
    found = pipe(PROMPT, **LONG, latents=noise, guidance_scale=3.0).frames
    torch.testing.assert_close(found.double(), by_hand(pipe, noise), atol=1e-5, rtol=1e-5)


def test_a_clip_of_one_window_is_made_at_once(pipe: VideoDiTPipeline) -> None:
    call: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent"}
    plain = pipe(PROMPT, generator=seeded(1), **call).frames
    assert torch.equal(pipe(PROMPT, generator=seeded(1), window=17, **call).frames, plain)


def test_several_long_clips_are_made_as_alone(pipe: VideoDiTPipeline) -> None:
    many = pipe([PROMPT, "a blue cone"], generator=[seeded(1), seeded(2)], **LONG).frames
    for i, prompt in enumerate((PROMPT, "a blue cone")):
        alone = pipe(prompt, generator=seeded(1 + i), **LONG).frames
        torch.testing.assert_close(many[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def encoded(pipe: VideoDiTPipeline, clip: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        return pipe.vae.normalize(pipe.vae.encode(pixels).latent_dist.mode())


def test_going_on_from_a_clip_equals_a_window_written_out(pipe: VideoDiTPipeline) -> None:
    """The given clip is longer than a window: it is kept, and the first window sees its end alone."""
    given, noise = noise_clip(25), torch.randn(1, 4, 11, 4, 4, generator=seeded(1))
    found = pipe(PROMPT, **LONG, latents=noise, guidance_scale=1.0, conditions=[Frames(given)]).frames
    clean = encoded(pipe, given)
    torch.testing.assert_close(found[:, :, :7], clean, atol=1e-5, rtol=1e-5)
    # seven latents are given: windows 5–10 and 6–11 of the eleven
    done, cond = torch.cat([clean, noise[:, :, 7:]], dim=2), pipe.text([PROMPT])
    for start, kept in ((5, 2), (6, 4)):
        x = noise[:, :, start : start + 5].clone()
        for sigma, following in ((1.0, 2 / 3), (2 / 3, 0.0)):
            x[:, :, :kept] = done[:, :, start : start + kept]
            t = torch.full((1, 5, 4), 1000 * sigma)
            t[:, :kept] = 0
            with torch.no_grad():
                v = pipe.transformer(x, t.flatten(1), cond.embeds, cond.mask).sample
            x = x + (following - sigma) * v
        done[:, :, start + kept : start + 5] = x[:, :, kept:]
    torch.testing.assert_close(found, done, atol=1e-4, rtol=1e-4)


def test_clips_grow_backward_and_between_two(pipe: VideoDiTPipeline) -> None:
    last, first = noise_clip(8, 1), noise_clip(9)
    backward = pipe(PROMPT, **LONG, generator=seeded(1), conditions=[Frames(last, -8)]).frames
    between = pipe(PROMPT, **LONG, generator=seeded(1), conditions=[Frames(first), Frames(last, -8)]).frames
    torch.testing.assert_close(between[:, :, :3], encoded(pipe, first), atol=1e-5, rtol=1e-5)
    stands = np.concatenate([np.broadcast_to(last[:1], (33, 32, 32, 3)), last])  # what is before the given frames
    torch.testing.assert_close(backward[:, :, 9:], encoded(pipe, stands)[:, :, 9:], atol=1e-5, rtol=1e-5)
    for made, free in ((backward, slice(0, 9)), (between, slice(3, 9))):
        assert made.isfinite().all()
        noise = torch.randn(1, 4, 11, 4, 4, generator=seeded(1))
        assert (made - noise)[:, :, free].abs().amax(dim=(0, 1, 3, 4)).min() > 1e-2  # every latent was made


def test_edits_and_regions_of_long_clips(pipe: VideoDiTPipeline) -> None:
    clip, white = noise_clip(41), np.zeros((32, 32), bool)
    white[:16] = True
    latents = encoded(pipe, clip)
    region = pipe(PROMPT, **LONG, generator=seeded(1), conditions=[Region(white, clip)]).frames
    torch.testing.assert_close(region[:, :, :, 2:], latents[:, :, :, 2:], atol=1e-5, rtol=1e-5)
    assert (region - latents)[:, :, :, :2].abs().amax(dim=(0, 1, 3, 4)).min() > 1e-2
    call = LONG | {"num_inference_steps": 8}
    slight, strong = (
        pipe(PROMPT, **call, generator=seeded(1), conditions=[Edit(clip, strength)]).frames
        for strength in (0.125, 0.875)
    )
    assert (slight - latents).norm() < (strong - latents).norm()


def test_what_caches_know_of_a_window_says_nothing_of_the_next(pipe: VideoDiTPipeline) -> None:
    """With a threshold that always reuses, each window must still begin with a whole prediction of its own."""
    counts: list[int] = []
    hook = pipe.transformer.blocks[-1].ffn.register_forward_hook(lambda *_: counts.append(1))
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    try:
        pipe(PROMPT, **LONG | {"num_inference_steps": 4}, generator=seeded(1), guidance_scale=1.0)
    finally:
        pipe.transformer.disable_cache()
        hook.remove()
    assert len(counts) == len(SPANS)


def test_a_model_without_clean_parts_sees_what_windows_share_at_its_own_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers
    from tiny_families import CASES

    diffusers.WanPipeline(**CASES["wan-euler"].parts()).save_pretrained(tmp_path / "wan")
    wan = VideoDiTPipeline.from_pretrained(tmp_path / "wan")
    wan.set_progress_bar_config(disable=True)
    seen: list[tuple[Tensor, Tensor]] = []
    forward = wan.transformer.forward

    def spy(latents: Tensor, timestep: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append((latents.clone(), timestep.clone()))
        return forward(latents, timestep, *rest, **more)

    monkeypatch.setattr(wan.transformer, "forward", spy)
    noise = torch.randn(1, 4, 11, 4, 4, generator=seeded(1))
    found = wan("a ball", **LONG, height=32, width=32, latents=noise, guidance_scale=1.0).frames
    assert len(seen) == 6
    for i, (latents, timestep) in enumerate(seen):
        assert timestep.shape == (1,)
        if i >= 2:  # two latents of the window before
            span = SPANS[i // 2]
            sigma = float(timestep) / 1000
            shared = (1 - sigma) * found[:, :, span][:, :, :2] + sigma * noise[:, :, span][:, :, :2]
            torch.testing.assert_close(latents[:, :, :2], shared, atol=1e-5, rtol=1e-5)


# ---- interrupted and resumed --------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_in(window: int, steps: int = 2) -> Any:
    """A callback that fails in the middle of a window."""
    calls = itertools.count(1)

    def on_step(_: Any, __: int, ___: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        if next(calls) > window * steps:
            raise Killed
        return tensors

    return on_step


@pytest.mark.parametrize("extra", [{}, {"conditions": [Frames(noise_clip(8), -8)]}], ids=["forward", "backward"])
@pytest.mark.parametrize("window", [0, 1, 2])
def test_a_stopped_clip_goes_on_where_it_was(
    pipe: VideoDiTPipeline, tmp_path: Path, window: int, extra: dict[str, Any]
) -> None:
    whole = pipe(PROMPT, **LONG, **extra, generator=seeded(1)).frames
    call = LONG | extra | {"keep_windows": tmp_path / "kept"}
    with pytest.raises(Killed):
        pipe(PROMPT, **call, generator=seeded(1), callback_on_step_end=killed_in(window))
    assert len(list((tmp_path / "kept").glob("*.safetensors"))) == window
    steps: list[int] = []

    def count(_: Any, step: int, __: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return tensors

    again = pipe(PROMPT, **call, generator=seeded(1), callback_on_step_end=count).frames
    assert torch.equal(again, whole)
    once: list[int] = []
    pipe(PROMPT, **LONG | extra, generator=seeded(1), callback_on_step_end=lambda *a: once.append(a[1]) or a[3])
    assert len(steps) == len(once) - 2 * window


def test_noise_of_a_stochastic_sampler_goes_on_where_it_was(tmp_path: Path) -> None:
    """Later windows draw what they would have drawn."""
    import diffusers
    from tiny_families import CASES
    from tiny_parts import LINEAR

    parts = CASES["latte"].parts() | {"scheduler": EulerAncestralDiscreteScheduler(**LINEAR)}
    diffusers.LattePipeline(**parts).save_pretrained(tmp_path / "latte")
    latte = VideoDiTPipeline.from_pretrained(tmp_path / "latte")
    latte.set_progress_bar_config(disable=True)
    call: dict[str, Any] = LONG | {"num_frames": 11, "window": 5, "overlap": 2, "height": 32, "width": 32}
    whole = latte("a ball", **call, generator=seeded(1)).frames
    with pytest.raises(Killed):
        latte("a ball", **call, generator=seeded(1), keep_windows=tmp_path / "kept", callback_on_step_end=killed_in(1))
    assert torch.equal(latte("a ball", **call, generator=seeded(1), keep_windows=tmp_path / "kept").frames, whole)


@torch.no_grad()
@pytest.mark.parametrize("given", ["nothing", "front", "back", "both"])
def test_what_windows_made_is_seen_with_noise_and_what_is_given_is_not(given: str, pipe: VideoDiTPipeline) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    conditions = {"front": [0], "back": [-1], "both": [0, -1]}.get(given, [])
    placed = [Frames(noise_clip(1, seed=abs(at)), at) for at in conditions]
    hook = pipe.transformer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[:2]))
    out = pipe(PROMPT, **LONG, generator=seeded(3), history_noise=0.25, guidance_scale=1.0, conditions=placed)
    hook.remove()
    generator, shape = seeded(3), out.frames.shape[1:]
    torch.randn(shape, generator=generator)
    times = pipe.scheduler.timesteps
    front, back = int("front" in given or given == "both"), int("back" in given or given == "both")
    windows = plan_windows(11, 5, 2, front=front, back=back)
    assert len(seen) == 2 * len(windows) >= 6
    noisy = 0
    made = {*range(11)} - {*range(front)} - {*range(11 - back, 11)}
    for number, window in enumerate(windows):
        kept = range(*window.keep.indices(5))
        noise = torch.randn((shape[0], len(kept), *shape[2:]), generator=generator) if kept else None
        for step, (latents, timestep) in enumerate(seen[2 * number : 2 * number + 2]):
            frames = range(*window.span.indices(11))
            told = timestep[:, None].expand(1, len(frames)) if timestep.ndim == 1 else timestep.view(1, len(frames), -1)
            told = told.reshape(len(frames), -1)
            for place, frame in enumerate(frames):
                if place in kept and frame in made:
                    mixed = 0.75 * out.frames[:, :, frame] + 0.25 * noise[:, place - kept.start]
                    torch.testing.assert_close(latents[:, :, place].float(), mixed, rtol=1e-2, atol=2e-2)
                    assert (told[place] == 250).all()
                    noisy += 1
                elif frame not in made:
                    torch.testing.assert_close(
                        latents[:, :, place].float(), out.frames[:, :, frame], rtol=1e-2, atol=2e-2
                    )
                    assert (told[place] == 0).all()
                else:
                    assert (told[place] == times[step]).all()
    assert noisy >= 4 * (len(windows) - 2)


def test_clean_predictions_show_a_history_without_its_noise(pipe: VideoDiTPipeline) -> None:
    shown: list[Tensor] = []

    def keep(pipe: VideoDiTPipeline, step: int, t: Tensor, tensors: dict[str, Tensor]) -> None:
        shown.append(tensors["clean"])

    out = pipe(
        PROMPT, **LONG, generator=seeded(3), history_noise=0.25,
        callback_on_step_end=keep, callback_on_step_end_tensor_inputs=["clean"],
    )  # fmt: skip
    for number, span in enumerate(SPANS[1:], start=1):
        torch.testing.assert_close(shown[2 * number][:, :, :2], out.frames[:, :, span.start : span.start + 2])


def test_seeds_of_clips_that_share_a_generator_with_a_noisy_history_are_not_told(pipe: VideoDiTPipeline) -> None:
    out = pipe([PROMPT, PROMPT], **LONG, generator=seeded(3), history_noise=0.25)
    assert [recipe["seed"] for recipe in out.recipes] == [None, None]
    out = pipe([PROMPT, PROMPT], **LONG, generator=[seeded(3), seeded(4)], history_noise=0.25)
    assert [recipe["seed"] for recipe in out.recipes] == [3, 4]
    alone = pipe(PROMPT, **LONG, generator=seeded(4), history_noise=0.25)
    torch.testing.assert_close(out.frames[1:], alone.frames, rtol=1e-3, atol=1e-4)


def test_noise_of_a_history_is_part_of_the_recipe(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    out = pipe(PROMPT, **LONG, generator=seeded(3), history_noise=0.25)
    assert out.recipes[0]["history_noise"] == 0.25
    request = Request(**read_request(out.recipes[0], "the recipe"))
    again = pipe.run(pipe.plan(request), output_type="latent")
    assert torch.equal(again.frames, out.frames)
    clean = pipe(PROMPT, **LONG, generator=seeded(3))
    assert clean.recipes[0]["history_noise"] == 0
    assert torch.equal(clean.frames[:, :, :5], out.frames[:, :, :5])  # the first window has none
    assert not torch.allclose(clean.frames[:, :, 5:], out.frames[:, :, 5:], atol=1e-3)
    call = LONG | {"keep_windows": tmp_path, "history_noise": 0.25}
    with pytest.raises(Killed):
        pipe(PROMPT, **call, generator=seeded(3), callback_on_step_end=killed_in(2))
    assert torch.equal(pipe(PROMPT, **call, generator=seeded(3)).frames, out.frames)
    with pytest.raises(ValueError, match="another clip"):
        pipe(PROMPT, **call | {"history_noise": 0.0}, generator=seeded(3))


def test_a_window_that_changes_nothing_is_announced(tiny_model: Path) -> None:
    """A model without windows of its own makes such a clip at once anyway; one with shorter windows does not."""
    notice = "window is 33, but the clip is made at once: it changes nothing"
    request, spec = Request(num_frames=17, window=33), ModelSpec.from_folder(tiny_model)
    assert spec.window is None
    assert notice in plan_settings(request, spec).notices
    assert notice in plan_settings(request, replace(spec, window=17)).notices
    made_whole = plan_settings(request, replace(spec, window=9))
    assert made_whole.windows is None
    assert not [text for text in made_whole.notices if "window" in text]


def test_noise_of_a_history_that_is_none_is_announced(tiny_model: Path) -> None:
    spec = ModelSpec.from_folder(tiny_model)
    settings = plan_settings(Request(num_frames=17, window=17, history_noise=0.1), spec)
    assert "history_noise is 0.1, but the clip is made at once: it changes nothing" in settings.notices
    assert settings.history_noise == 0
    assert plan_settings(Request(num_frames=41, window=17, history_noise=0.1), spec).history_noise == 0.1


@torch.no_grad()
@pytest.mark.parametrize("given", [False, True])
def test_windows_with_an_anchor_see_the_first_frame(given: bool, pipe: VideoDiTPipeline) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    placed = [Frames(noise_clip(1))] if given else []
    call = LONG | {"overlap": 12, "anchor": True, "guidance_scale": 1.0}
    hook = pipe.transformer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[:2]))
    out = pipe(PROMPT, **call, generator=seeded(3), conditions=placed)
    hook.remove()
    frames = [range(5), *([0, k, k + 1, k + 2, k + 3] for k in (3, 5, 7))]  # of 11; each window adds two
    assert len(seen) == 2 * len(frames)
    for number, told in enumerate(frames[1:], start=1):
        for step, (latents, timestep) in enumerate(seen[2 * number : 2 * number + 2]):
            kept = out.frames[:, :, list(told)[:3]]
            torch.testing.assert_close(latents[:, :, :3].float(), kept, rtol=1e-2, atol=2e-2)
            levels = timestep.view(1, 5, -1)
            assert (levels[:, :3] == 0).all()
            assert (levels[:, 3:] == pipe.scheduler.timesteps[step]).all()
    plain = pipe(PROMPT, **call | {"anchor": False}, generator=seeded(3), conditions=placed)
    assert torch.equal(plain.frames[:, :, :5], out.frames[:, :, :5])
    assert not torch.allclose(plain.frames[:, :, 5:], out.frames[:, :, 5:], atol=1e-3)


def test_each_window_with_an_anchor_is_made_as_a_clip_of_its_own_would_be(pipe: VideoDiTPipeline) -> None:
    """From the clip's first frame, what was made last, and noise of the window's own frames."""
    call = LONG | {"overlap": 12, "anchor": True, "guidance_scale": 1.0, "num_frames": 25}
    noise = torch.randn(1, 4, 7, 4, 4, generator=seeded(3))
    whole = pipe(PROMPT, **call, height=32, width=32, latents=noise).frames
    frames = [0, 3, 4, 5, 6]  # the second window's
    latents, sigmas = noise[:, :, frames].clone(), pipe.scheduler.sigmas
    text = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    assert len(sigmas) == 3
    with torch.no_grad():
        for sigma, lower in itertools.pairwise(sigmas.tolist()):
            latents[:, :, :3] = whole[:, :, frames[:3]]
            levels = torch.tensor([0.0, 0.0, 0.0, sigma, sigma]).repeat_interleave(4)[None] * 1000
            velocity = pipe.transformer(latents, levels, text[0], text[1]).sample
            latents += (lower - sigma) * velocity
    torch.testing.assert_close(latents[:, :, 3:], whole[:, :, 5:], rtol=1e-3, atol=1e-3)


def test_an_anchor_is_part_of_the_recipe_and_announced(pipe: VideoDiTPipeline, tiny_model: Path) -> None:
    call = LONG | {"anchor": True}
    out = pipe(PROMPT, **call, generator=seeded(3))
    assert out.recipes[0]["anchor"] is True
    again = pipe.run(pipe.plan(Request(**read_request(out.recipes[0], "the recipe"))), output_type="latent")
    assert torch.equal(again.frames, out.frames)
    assert pipe(PROMPT, **LONG, generator=seeded(3)).recipes[0]["anchor"] is False
    spec = ModelSpec.from_folder(tiny_model)
    settings = plan_settings(Request(num_frames=41, window=17, anchor=True), spec)
    assert settings.windows == (5, 2)
    assert "41 frames are made in windows of 17, which share 8, the first frame of the clip among them" in (
        settings.notices
    )
    settings = plan_settings(Request(num_frames=17, window=17, overlap=8, anchor=True), spec)
    assert "overlap is 8, but the clip is made at once: it changes nothing" in settings.notices
    assert "anchor is True, but the clip is made at once: it changes nothing" in settings.notices
    assert not settings.anchor


def test_a_folder_says_what_its_windows_see(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"anchor": True, "history_noise": 0.25}))
    pipe = VideoDiTPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    out = pipe(PROMPT, **LONG, generator=seeded(3))
    assert (out.recipes[0]["anchor"], out.recipes[0]["history_noise"]) == (True, 0.25)
    plain = VideoDiTPipeline.from_pretrained(tiny_model)
    same = plain(PROMPT, **LONG, generator=seeded(3), anchor=True, history_noise=0.25)
    assert torch.equal(same.frames, out.frames)
    other = plain(PROMPT, **LONG, generator=seeded(3))
    assert torch.equal(pipe(PROMPT, **LONG, generator=seeded(3), anchor=False, history_noise=0).frames, other.frames)
    spec = ModelSpec.from_folder(folder)
    assert plan_settings(Request(num_frames=41, window=17), spec).windows == (5, 2)
    assert plan_settings(Request(num_frames=41, window=9), spec).windows == (3, 1)  # which have no room for it
    few = plan_settings(Request(num_frames=41, window=17, overlap=4), spec)
    assert (few.windows, few.anchor) == ((5, 1), False)
    once = plan_settings(Request(num_frames=17), spec)
    assert not [notice for notice in once.notices if "anchor" in notice or "history_noise" in notice]
    board = Storyboard(((0, "a red ball"), (1, "a cube")))
    assert not pipe.check_inputs(board, **LONG).anchor  # which changes what the first frame shows
    last = pipe.check_inputs(PROMPT, **LONG, conditions=[Frames(noise_clip(1), -1)])  # the first frame comes last
    assert not any(window.anchored for window in last.spans)
    pipe.save_pretrained(tmp_path / "again")
    assert ModelSpec.from_folder(tmp_path / "again").anchor


@pytest.mark.parametrize(
    ("prompt", "more", "message"),
    [
        (
            Storyboard(((0, "a red ball"), (1, "a cube"))),
            {},
            "anchor keeps what the first frame shows, and a storyboard",
        ),
        (PROMPT, {"conditions": [Frames(noise_clip(1), -1)]}, "an anchor is the first frame, which is made last where"),
        (PROMPT, {"anchor": "yes"}, "anchor must be True, False or None, got 'yes'"),
    ],
    ids=["storyboard", "backward", "text"],
)
def test_what_an_anchor_does_not_go_with(
    prompt: Any, more: dict[str, Any], message: str, pipe: VideoDiTPipeline
) -> None:
    with pytest.raises(InputError, match=message):
        pipe.check_inputs(prompt, **LONG | {"anchor": True} | more)


def test_models_of_one_noise_level_refuse_another_for_a_history(folder: Callable[[str], Path]) -> None:
    call = {"height": 32, "width": 32, "num_frames": 25, "window": 9, "history_noise": 0.02}
    for name in ("wan", "wan-2.2-ti2v"):
        pipe = VideoDiTPipeline.from_pretrained(folder(name))
        size = call | ({"height": 64, "width": 64} if name == "wan-2.2-ti2v" else {})
        with pytest.raises(
            InputError, match=r"history_noise is 0\.02, but this model was not trained with a noise level"
        ):
            pipe.check_inputs(PROMPT, **size)
    VideoDiTPipeline.from_pretrained(folder("skyreels_v2-df")).check_inputs(PROMPT, **call)


def test_a_window_that_holds_a_clip_longer_than_the_models_own_is_in_the_recipe(tiny_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(window=17)
    call = LONG | {"overlap": None}
    at_once = pipe(PROMPT, **call | {"window": 41}, generator=seeded(3))
    assert at_once.recipes[0]["window"] == 41
    request = Request(**read_request(at_once.recipes[0], "the recipe"))
    assert torch.equal(pipe.run(pipe.plan(request), output_type="latent").frames, at_once.frames)
    short = pipe(PROMPT, **call | {"num_frames": 17, "window": 41}, generator=seeded(3))
    assert "window" not in short.recipes[0]


def test_windows_of_another_clip_are_not_taken(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    call = LONG | {"keep_windows": tmp_path}
    pipe(PROMPT, **call, generator=seeded(0))
    assert WindowStore.seed(tmp_path) == 0
    assert WindowStore.seed(tmp_path / "none") is None
    given = [Frames(noise_clip(1))]
    for prompt, changed in (
        ("a blue cone", {}),
        (PROMPT, {"generator": seeded(2)}),
        (PROMPT, {"num_inference_steps": 3}),
        (PROMPT, {"overlap": 4}),
        (PROMPT, {"conditions": given}),
    ):
        with pytest.raises(ValueError, match=r"holds the windows of another clip that was begun.*; remove it"):
            pipe(prompt, **call | {"generator": seeded(0)} | changed)
    other = tmp_path / "fitted"
    pipe(PROMPT, **call | {"keep_windows": other}, generator=seeded(0), conditions=given)
    with pytest.raises(ValueError, match="another clip"):
        pipe(PROMPT, **call | {"keep_windows": other}, generator=seeded(0), conditions=given, fit="pad")


def damage(file: Path, kind: str, other: Path) -> None:
    content = file.read_bytes()
    if kind == "cut short":
        file.write_bytes(content[:-9])
    elif kind == "a bit is another":
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "of another clip":
        file.write_bytes((other / file.name).read_bytes())
    elif kind == "of another window":
        file.write_bytes((file.parent / "00001.safetensors").read_bytes())
    else:
        (file.parent / "about.json").write_text({"about is no JSON": "{", "about is a list": "[]"}[kind])


@pytest.mark.parametrize(
    "kind",
    [
        "cut short", "a bit is another", "empty", "of another clip", "of another window", "about is no JSON",
        "about is a list",
    ],
)  # fmt: skip
def test_a_damaged_window_is_told_with_the_way_out(pipe: VideoDiTPipeline, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "kept"
    call = LONG | {"generator": seeded(1)}
    pipe(PROMPT, **call, keep_windows=folder)
    pipe(PROMPT, **LONG, generator=seeded(2), keep_windows=tmp_path / "other")
    damage(folder / "00000.safetensors", kind, tmp_path / "other")
    for _ in range(2):  # the second time nobody holds the folder, either
        with pytest.raises(InputError, match=r"kept.* remove the folder '.*kept' to begin anew"):
            pipe(PROMPT, **LONG, generator=seeded(1), keep_windows=folder)


def test_windows_without_their_clip_are_not_taken_for_this_one(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    pipe(PROMPT, **LONG, generator=seeded(1), keep_windows=tmp_path / "kept")
    (tmp_path / "kept" / "about.json").unlink()
    with pytest.raises(InputError, match="is damaged or no window of this clip"):
        pipe("a blue cone", **LONG, generator=seeded(1), keep_windows=tmp_path / "kept")


def test_two_processes_do_not_make_the_same_windows(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    """Nor do two calls of one process; the folder is free again when the first has ended, however it did."""
    folder = tmp_path / "kept"
    code = "import sys, time; from pathlib import Path; from videodit.files import FolderLock\n"
    code += "lock = FolderLock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match=r"another process is writing into .*kept'; wait for its end or stop it"):
            pipe(PROMPT, **LONG, generator=seeded(1), keep_windows=folder)
        other.kill()
    with pytest.raises(Killed):
        pipe(PROMPT, **LONG, generator=seeded(1), keep_windows=folder, callback_on_step_end=killed_in(1))
    pipe(PROMPT, **LONG, generator=seeded(1), keep_windows=folder)


def test_windows_are_kept_of_clips_with_a_seed_alone(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="whose seed is known: give fresh generators and no latents"):
        pipe(PROMPT, **LONG, keep_windows=tmp_path / "kept", latents=torch.zeros(1, 4, 11, 4, 4))
    embeds = torch.zeros(1, 3, pipe.transformer.config.text_dim)  # no recipe tells them from others
    with pytest.raises(ValueError, match="give prompt, not prompt_embeds"):
        pipe(**LONG, keep_windows=tmp_path / "kept", prompt_embeds=embeds, generator=seeded(1))
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("conditions", "length"), [([], 8), ([Frames(noise_clip(8), -8)], 6)], ids=["forward", "backward"]
)
def test_an_interrupted_clip_is_what_is_there_by_then(
    pipe: VideoDiTPipeline, conditions: list[Any], length: int
) -> None:
    """The second window's last step asks to stop: two windows are there, and what was given."""
    calls = itertools.count(1)

    def stop(pipe: VideoDiTPipeline, _: int, __: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        if next(calls) == 4:
            pipe.interrupt()
        return tensors

    whole = pipe(PROMPT, **LONG, generator=seeded(1), conditions=conditions).frames
    found = pipe(PROMPT, **LONG, generator=seeded(1), conditions=conditions, callback_on_step_end=stop)
    assert found.recipes[0]["seed"] is None
    expected = whole[:, :, -length:] if conditions else whole[:, :, :length]
    assert torch.equal(found.frames, expected)


# ---- streams --------------------------------------------------------------------------------------------------


def test_a_stream_is_not_changed_by_a_later_call(pipe: VideoDiTPipeline) -> None:
    """Its windows are made when they are read, by what its own call asked for."""
    call = LONG | {"attention_kwargs": {"scale": 0.5}, "output_type": "stream"}
    kwargs: list[object] = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, __, inputs: kwargs.append(dict(inputs.get("attention_kwargs") or {})), with_kwargs=True
    )
    whole = pipe(PROMPT, generator=seeded(0), **call).frames.latents.joined()
    output = pipe(PROMPT, generator=seeded(0), **call)
    other = pipe(PROMPT, num_frames=5, num_inference_steps=2, callback_on_step_end=lambda pipe, *_: pipe.interrupt())
    assert other.recipes[0]["seed"] is None
    kwargs.clear()
    found = output.frames.latents.joined()
    hook.remove()
    assert torch.equal(found, whole)
    assert kwargs
    assert all(one == {"scale": 0.5} for one in kwargs)
    assert output.recipes[0]["seed"] == 0


def test_a_stream_that_is_interrupted_has_no_recipe(pipe: VideoDiTPipeline) -> None:
    output = pipe(PROMPT, generator=seeded(0), **LONG | {"output_type": "stream"})
    parts = iter(output.frames.latents)
    next(parts)
    pipe.interrupt()
    assert sum(1 for _ in parts) == 1  # the window that begins then, after one step
    assert output.recipes[0]["seed"] is None


def test_windows_that_a_callback_changed_are_not_kept(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    def change(pipe: Any, step: int, t: Tensor, tensors: dict[str, Any]) -> None:
        if (ran := len(seen)) >= 3:  # from the second window on
            pipe.guidance_scale = 9.0
        seen.append(ran)

    seen: list[int] = []
    call = LONG | {"num_inference_steps": 3, "keep_windows": tmp_path / "kept"}
    changed = pipe(PROMPT, generator=seeded(0), callback_on_step_end=change, **call)
    assert changed.recipes[0]["seed"] is None
    assert [path.name for path in sorted((tmp_path / "kept").glob("*.safetensors"))] == ["00000.safetensors"]
    clean = pipe(PROMPT, generator=seeded(0), **LONG | {"num_inference_steps": 3}).frames
    again = pipe(PROMPT, generator=seeded(0), **call)
    assert torch.equal(again.frames, clean)
    assert not torch.equal(changed.frames, clean)
    assert again.recipes[0]["seed"] == 0


def test_what_a_callback_sets_holds_to_the_end_of_its_window(pipe: VideoDiTPipeline) -> None:
    seen: list[tuple[float, object]] = []

    def change(pipe: Any, step: int, t: Tensor, tensors: dict[str, Any]) -> None:
        if step == 0:
            seen.append((pipe.guidance_scale, pipe.attention_kwargs))
        pipe.guidance_scale, pipe._attention_kwargs = 5.0, {"scale": 0.0}

    pipe(PROMPT, generator=seeded(0), callback_on_step_end=change, **LONG)
    assert len(seen) > 1
    assert set(map(str, seen)) == {str(seen[0])}


def test_a_seed_that_was_drawn_anew_is_told(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    pipe(PROMPT, generator=seeded(7), **LONG, keep_windows=tmp_path / "kept")
    with pytest.raises(InputError, match=r"that was begun: its seed is 7, and this one's is \d+; remove it"):
        pipe(PROMPT, **LONG, keep_windows=tmp_path / "kept")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file', a file; it must be a folder"):
        pipe(PROMPT, **LONG, keep_windows=tmp_path / "file")


def test_streamed_frames_are_those_of_the_whole_clip(pipe: VideoDiTPipeline) -> None:
    whole = pipe([PROMPT, "a blue cone"], **LONG | {"output_type": "np"}, generator=[seeded(1), seeded(2)]).frames
    out = pipe([PROMPT, "a blue cone"], **LONG | {"output_type": "stream"}, generator=[seeded(1), seeded(2)])
    for i in (1, 0, 1):  # in any order, and again
        frames = np.concatenate(list(out.frames[i]))
        assert np.abs(frames.astype(float) - 255 * whole[i]).max() <= 0.51


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not valid JSON"), ("[1]", "must hold a JSON object"), ('{"seed": "1"}', "no seed")]
)
def test_a_folder_of_another_kind_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "about.json").write_text(content)
    with pytest.raises(ValueError, match=f"about.json.*{message}"):
        WindowStore.seed(tmp_path)


def test_settings_of_numpy_go_into_the_file(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    given: dict[str, Any] = {"num_frames": 21, "num_inference_steps": 1, "window": np.int64(17)}
    out = pipe(PROMPT, **given, conditions=[Frames(noise_clip(1), at=np.int64(8))], generator=seeded(1))
    out.save(tmp_path / "clip.mp4")
    recipe = read_recipe(tmp_path / "clip.mp4")
    assert recipe is not None
    assert (recipe["window"], recipe["conditions"][0]["at"]) == (17, 8)


def test_what_goes_on_between_windows_counts_as_no_step(
    pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("videodit.pipelines.acceleration.time.perf_counter", lambda: now)
    out = pipe(PROMPT, **LONG | {"output_type": "stream"}, generator=seeded(1))
    for _ in out.frames[0]:
        now += 1000  # somebody looks at the frames
    steps = out.frames.timings()["steps"]
    assert steps == [0.0] * 6


def test_windows_are_made_when_their_frames_are_wanted(pipe: VideoDiTPipeline) -> None:
    steps: list[int] = []

    def count(_: Any, step: int, __: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return tensors

    call = LONG | {"output_type": "stream"}
    out = pipe(PROMPT, **call, generator=seeded(1), callback_on_step_end=count)
    assert steps == []
    stream, made = out.frames[0], []
    frames = 0
    for chunk in stream:
        frames += len(chunk)
        made.append((frames, len(steps)))
    assert frames == 41
    # a window is made no sooner than the last frames before it were handed over, but for the one looked ahead
    assert made[0][1] <= 4
    assert [done for _, done in made] == sorted(done for _, done in made)
    assert len(steps) == 6


def test_a_saved_stream_of_windows_is_the_clip(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    whole = pipe(PROMPT, **LONG | {"output_type": "np"}, generator=seeded(1))
    whole.save(tmp_path / "whole.mp4")
    out = pipe(PROMPT, **LONG | {"output_type": "stream"}, generator=seeded(1))
    out.save(tmp_path / "stream.mp4")
    a, b = (read_video(tmp_path / f"{name}.mp4").frames for name in ("whole", "stream"))
    assert len(b) == 41
    assert np.abs(a.astype(int) - b.astype(int)).mean() < 1  # the bytes that the MP4's encoder was given may be 1 apart
    assert len(out.timings["steps"]) == 6
    assert out.timings["vae"] >= 0


def test_decoding_holds_no_more_than_a_part(pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of clips four times as long no chunk that the decoder sees is longer."""
    sizes: dict[int, int] = {}
    for frames in (41, 161):
        lengths: list[int] = []
        decode = type(pipe.vae)._decode_chunk

        def spy(self: Any, z: Tensor, stream: Any, lengths: list[int] = lengths, decode: Any = decode) -> Tensor:
            lengths.append(z.shape[2])
            return decode(self, z, stream)

        monkeypatch.setattr(type(pipe.vae), "_decode_chunk", spy)
        out = pipe(PROMPT, **LONG | {"output_type": "stream", "num_frames": frames, "num_inference_steps": 1})
        longest = max(len(chunk) for chunk in out.frames[0])
        monkeypatch.undo()
        sizes[frames] = max(lengths)
        assert longest <= 17
    assert sizes[161] == sizes[41] <= 5


def test_parts_are_made_once_each(caplog: pytest.LogCaptureFixture) -> None:
    made: list[int] = []

    def parts() -> Any:
        for i in range(3):
            made.append(i)
            yield torch.full((2, 1, 2, 1, 1), float(i))

    chunks = LatentChunks(parts(), 2)
    assert chunks.clips == 2
    first, second = iter(chunks), iter(chunks)
    next(first)
    assert made == [0]
    next(second), next(second)
    assert made == [0, 1]
    assert chunks.joined()[0].flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert [float(part[0, 0, 0, 0, 0]) for part in first] == [1, 2]
    assert made == [0, 1, 2]
    assert chunks.seconds >= 0


def test_storyboards_go_over_windows(pipe: VideoDiTPipeline, caplog: pytest.LogCaptureFixture) -> None:
    """Far from the change, each window is its scene's alone."""
    with caplog.at_level(logging.WARNING):
        board = pipe(Storyboard(((0, PROMPT), (2.4, "a blue cone")), 0.1), **LONG, generator=seeded(1)).frames
    plain = pipe(PROMPT, **LONG, generator=seeded(1)).frames
    torch.testing.assert_close(board[:, :, :8], plain[:, :, :8], atol=1e-5, rtol=1e-5)
    assert (board - plain)[:, :, 10:].abs().max() > 1e-3
