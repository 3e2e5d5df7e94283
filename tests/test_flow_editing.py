"""Edits by what two prompts differ in: FlowEdit written out as a plain loop, and what it does not go with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)
from test_conditions import family, latents_of, noise_clip, seeded, with_scheduler
from torch import Tensor

from videodit import Edit, Frames, Region, Storyboard, VideoDiTPipeline
from videodit.pipelines.autoencoders import encode_posterior
from videodit.pipelines.flow_editing import FlowEdit, PromptMask, above
from videodit.pipelines.predicting import Moment
from videodit.pipelines.request import Request
from videodit.pipelines.scheduling import set_timesteps

SOURCE, TARGET = "a red ball bounces on the grass", "a blue ball bounces on the grass"
SHIFT = 2.0
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": SHIFT}
WHITE = np.zeros((32, 32), bool)
WHITE[:, 16:] = True


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    """32×32 pixels and 17 frames are 5×4×4 latents of 8×8 pixels and 5×2×2 tokens."""
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def edited(pipe: VideoDiTPipeline, *conditions: Any, **call: Any) -> Tensor:
    """Latents of a short run."""
    call = {"num_inference_steps": 4, "output_type": "latent", "generator": seeded(1)} | call
    return pipe(TARGET, conditions=conditions, **call).frames


def written_out(
    pipe: VideoDiTPipeline,
    clean: Tensor,
    *,
    steps: int,
    taken: int,
    scales: tuple[float, float],
    n_avg: int = 1,
    free: Tensor | None = None,
    num_tokens: int = 20,
) -> Tensor:
    """Algorithm 1 of FlowEdit in float64, for a model with guidance, over the scheduler's own noise levels."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    set_timesteps(scheduler, steps, spacing=pipe.sampling.sigmas, num_tokens=num_tokens, device=torch.device("cpu"))
    sigmas, generator = scheduler.sigmas.double(), seeded(1)
    torch.randn(clean.shape[1:], generator=generator)  # the noise that a clip from text alone starts from
    texts = {name: pipe.text([name]) for name in (SOURCE, TARGET, "")}

    def velocity(latents: Tensor, t: Tensor, prompt: str, scale: float) -> Tensor:
        def one(name: str) -> Tensor:
            text = texts[name]
            out = pipe.transformer(latents.float(), t[None].float(), text.embeds, text.mask, fps=16.0)
            return out.sample.double()

        cond = one(prompt)
        return cond if scale <= 1 else one("") + scale * (cond - one(""))

    x, z = clean.double(), clean.double()
    with torch.no_grad():
        for i in range(steps - taken, steps):
            t, total = scheduler.timesteps[i], torch.zeros_like(x)
            for _ in range(n_avg):
                noise = torch.randn(clean.shape[1:], generator=generator)[None].double()
                source = (1 - sigmas[i]) * x + sigmas[i] * noise
                total += velocity(z + source - x, t, TARGET, scales[1]) - velocity(source, t, SOURCE, scales[0])
            change = (sigmas[i + 1] - sigmas[i]) * total / n_avg
            z = z + (change if free is None else change * free)
    return z


@pytest.mark.parametrize(
    ("scheduler", "options", "scales"),
    [
        (FlowMatchEulerDiscreteScheduler(shift=SHIFT), {}, (1.0, 3.0)),
        (FlowMatchEulerDiscreteScheduler(shift=SHIFT), {"n_avg": 2}, (2.0, 5.0)),
        (UniPCMultistepScheduler(**FLOW), {}, (1.5, 1.0)),
        (DPMSolverMultistepScheduler(**FLOW), {"n_avg": 3}, (1.0, 1.0)),
    ],
    ids=lambda one: type(one).__name__ if hasattr(one, "step") else str(one),
)
def test_an_edit_by_two_prompts_is_flowedit_written_out(
    pipe: VideoDiTPipeline, scheduler: Any, options: dict[str, Any], scales: tuple[float, float]
) -> None:
    other, clip = with_scheduler(pipe, scheduler), noise_clip(17)
    edit = Edit(clip, 0.75, source_prompt=SOURCE, source_guidance_scale=scales[0], **options)
    found = edited(other, edit, guidance_scale=scales[1], num_inference_steps=8)
    expected = written_out(other, latents_of(pipe, clip), steps=8, taken=6, scales=scales, **options)
    assert float((expected - latents_of(pipe, clip)).norm()) > 0.1  # it does something
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_what_a_region_keeps_stays_and_the_rest_is_written_out(pipe: VideoDiTPipeline) -> None:
    clip = noise_clip(17)
    found = edited(pipe, Region(WHITE, clip), Edit(clip, 1.0, source_prompt=SOURCE), guidance_scale=3.0)
    clean, free = latents_of(pipe, clip), torch.zeros(1, 1, 5, 4, 4, dtype=torch.float64)
    free[..., 2:] = 1
    torch.testing.assert_close(found[..., :2], clean[..., :2])
    expected = written_out(pipe, clean, steps=4, taken=4, scales=(1.0, 3.0), free=free)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_guidance_in_one_forward_is_the_same(pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = Edit(noise_clip(17), source_prompt=SOURCE, source_guidance_scale=2.0)
    expected = edited(pipe, edit, guidance_scale=4.0)
    monkeypatch.setattr(pipe, "batch_guidance", True)
    torch.testing.assert_close(edited(pipe, edit, guidance_scale=4.0), expected, atol=1e-4, rtol=1e-4)


def test_two_equal_prompts_change_nothing(pipe: VideoDiTPipeline) -> None:
    clip = noise_clip(17)
    edit = Edit(clip, 1.0, source_prompt=TARGET, source_guidance_scale=3.0)
    torch.testing.assert_close(edited(pipe, edit, guidance_scale=3.0), latents_of(pipe, clip))


def test_a_weaker_edit_takes_fewer_steps(pipe: VideoDiTPipeline) -> None:
    clip, clean = noise_clip(17), latents_of(pipe, noise_clip(17))
    edits = [Edit(clip, strength, source_prompt=SOURCE) for strength in (0.25, 0.5, 1.0)]
    away = [float((edited(pipe, edit, guidance_scale=3.0) - clean).norm()) for edit in edits]
    assert away == sorted(away)


@pytest.mark.parametrize("name", ["flux-dev", "hunyuan_video"])
def test_models_with_guidance_built_in_get_a_scale_for_each_prompt(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain loop again, with the scales as inputs of the transformer."""
    pipe = family(tmp_path, name)
    calls: list[tuple[Tensor, dict[str, Any]]] = []
    forward = pipe.transformer.forward

    def spy(latents: Tensor, timestep: Tensor, embeds: Tensor, **more: Any) -> Any:
        out = forward(latents, timestep, embeds, **more)
        calls.append((latents.clone(), {"text": embeds, "out": out[0].clone(), **more}))
        return out

    monkeypatch.setattr(pipe.transformer, "forward", spy)
    frames = 1 if name == "flux-dev" else 5
    clip = noise_clip(frames, size=(32, 32))
    call = {"num_frames": frames, "height": 32, "width": 32, "guidance_scale": 5.5}
    edit = Edit(clip, 1.0, source_prompt=SOURCE, source_guidance_scale=1.5)
    found = edited(pipe, edit, num_inference_steps=3, **call)
    assert [float(more["guidance"][0]) for _, more in calls] == [5.5, 1.5] * 3
    target, source = (calls[i][1]["text"] for i in (0, 1))
    assert not torch.equal(target, source)
    clean, _ = encode_posterior(pipe.vae, torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1)
    generator = seeded(1)
    shape = clean.shape[1:]

    def draw() -> Tensor:
        if not pipe.sampling.frames_first:
            return torch.randn(shape, generator=generator)[None].double()
        return torch.randn((shape[1], shape[0], *shape[2:]), generator=generator).transpose(0, 1)[None].double()

    draw()
    sigmas, z = pipe.scheduler.sigmas.double(), clean.double()
    for i in range(3):
        shown = (1 - sigmas[i]) * clean.double() + sigmas[i] * draw()
        torch.testing.assert_close(calls[2 * i][0].double(), z + shown - clean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(calls[2 * i + 1][0].double(), shown, atol=1e-4, rtol=1e-4)
        z = z + (sigmas[i + 1] - sigmas[i]) * (calls[2 * i][1]["out"] - calls[2 * i + 1][1]["out"]).double()
    torch.testing.assert_close(found.double(), z, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["wan-two-experts", "ltx-0.9.7", "wan-2.2-ti2v", "mochi"])
def test_other_families_of_flow_matching_edit_by_two_prompts(name: str, tmp_path: Path) -> None:
    pipe = family(tmp_path, name)
    side, frames = (64 if name.startswith("ltx") else 32), (7 if name == "mochi" else 9)
    call = {"num_frames": frames, "height": side, "width": side, "guidance_scale": 3.0}
    clip = noise_clip(frames, size=(side, side))
    found = edited(pipe, Edit(clip, source_prompt=SOURCE, source_guidance_scale=3.0), **call)
    same = edited(pipe, Edit(clip, source_prompt=TARGET, source_guidance_scale=3.0), **call)
    clean, _ = encode_posterior(pipe.vae, torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1)
    assert found.isfinite().all()
    torch.testing.assert_close(same, clean, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, clean, atol=1e-3)


# ---- where the prompts differ ------------------------------------------------------------------------


def test_the_mask_is_where_predictions_differ() -> None:
    def target(latents: Tensor, at: Moment) -> Tensor:
        moved = torch.zeros_like(latents)
        moved[..., 3:6, 10:12] = 1 + latents[..., 3:6, 10:12] ** 2
        return latents + moved

    def source(latents: Tensor, at: Moment) -> Tensor:
        return latents

    clip = torch.randn(2, 4, 3, 12, 16, generator=seeded(0))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    scheduler.set_timesteps(8)
    find = PromptMask.of(scheduler)
    edit = FlowEdit(
        target, source, clip, None, lambda at: float(scheduler.sigmas[at.step]), [seeded(1), seeded(2)], find=find
    )
    difference = edit(clip, Moment(0, scheduler.timesteps[0]))
    assert edit.free is not None
    assert edit.free.shape == (2, 1, 3, 12, 16)
    assert edit.free[..., 3:6, 10:12].all()
    assert not edit.free[..., :8].any()
    assert not edit.free[..., 8:, :].any()
    assert not difference[..., :8].any()
    assert difference[..., 3:6, 10:12].abs().min() > 0
    before = edit.free
    edit(clip, Moment(1, scheduler.timesteps[1]))
    assert edit.free is before  # it is found once


def test_a_single_latent_does_not_decide_where_prompts_differ() -> None:
    difference = torch.zeros(1, 1, 1, 16, 32)
    difference[..., 4:8, 8:16] = 1.0
    found = above(difference)
    difference[..., 0, 0] = 2.0
    assert torch.equal(above(difference)[..., 2:, :], found[..., 2:, :])
    assert found[..., 4:8, 8:16].all()
    assert not found[..., 10:, :].any()


def test_the_mask_of_the_prompts_and_that_of_the_user_hold_both(pipe: VideoDiTPipeline) -> None:
    clip = noise_clip(17)
    edit = Edit(clip, 1.0, source_prompt=SOURCE, auto_mask=True)
    found = edited(pipe, Region(WHITE, clip), edit, guidance_scale=3.0)
    moved = (found - latents_of(pipe, clip)).abs().amax(dim=1) > 1e-6
    assert not moved[..., :2].any()
    assert moved.any()


# ---- in a pipeline -----------------------------------------------------------------------------------


def test_each_clip_draws_its_own_noise(pipe: VideoDiTPipeline) -> None:
    """A clip of a batch is the one that its seed makes alone; a generator that clips share gives none again."""
    edit = Edit(noise_clip(17), source_prompt=SOURCE)
    call: dict[str, Any] = {"conditions": [edit], "num_inference_steps": 4, "output_type": "latent"}
    both = pipe([TARGET, SOURCE], generator=[seeded(1), seeded(2)], **call)
    alone = pipe(SOURCE, generator=seeded(2), **call)
    torch.testing.assert_close(both.frames[1:], alone.frames, atol=1e-4, rtol=1e-4)
    assert [recipe["seed"] for recipe in both.recipes] == [1, 2]
    shared = pipe([TARGET, SOURCE], generator=seeded(1), **call)
    assert [recipe["seed"] for recipe in shared.recipes] == [None, None]


def test_recipes_tell_both_prompts(pipe: VideoDiTPipeline) -> None:
    edit = Edit(noise_clip(17), 0.5, source_prompt=SOURCE, source_guidance_scale=2.0, n_avg=3, auto_mask=True)
    (recipe,) = pipe(TARGET, conditions=[edit], num_inference_steps=2, output_type="latent").recipes
    (record,) = recipe["conditions"]
    assert record.pop("edit")
    assert record == {
        "strength": 0.5,
        "source_prompt": SOURCE,
        "source_guidance_scale": 2.0,
        "n_avg": 3,
        "auto_mask": True,
    }


def test_requests_hold_both_prompts_as_json() -> None:
    edit = Edit("in.mp4", 0.5, source_prompt=SOURCE, source_guidance_scale=2.0, n_avg=3, auto_mask=True)
    request = Request(prompt=TARGET, conditions=(edit,))
    assert Request.from_json(request.to_json()) == request


def test_plans_count_what_an_edit_computes(pipe: VideoDiTPipeline) -> None:
    def forwards(scale: float = 3.0, **terms: Any) -> int:
        edit = Edit(noise_clip(17), 0.5, source_prompt=SOURCE, **terms)
        call = {"num_inference_steps": 8, "guidance_scale": scale, "conditions": [edit]}
        return pipe.check_inputs(TARGET, **call).estimate["forwards"]

    calls: list[int] = []
    assert forwards(1.0) == 4 * 2
    assert forwards() == 4 * 3
    assert forwards(source_guidance_scale=2.0, n_avg=2) == 4 * 4 * 2
    hook = pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    edited(pipe, Edit(noise_clip(17), 0.5, source_prompt=SOURCE, auto_mask=True), num_inference_steps=8)
    hook.remove()
    plan = pipe.check_inputs(
        TARGET,
        num_inference_steps=8,
        conditions=[Edit(noise_clip(17), 0.5, source_prompt=SOURCE, auto_mask=True)],
    )
    assert plan.estimate["forwards"] == len(calls)
    assert (
        pipe.check_inputs(
            TARGET, guidance_scale=3.0, conditions=[Edit(noise_clip(17), source_prompt=SOURCE, n_avg=2)]
        ).predictions
        == 2 * 3
    ), "those of a step, by which its seconds become those of a forward"


def test_previews_show_the_clip_that_comes_out(pipe: VideoDiTPipeline) -> None:
    shown: list[Tensor] = []

    def look(_: Any, step: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        shown.append(tensors["clean"])
        return {}

    edit = Edit(noise_clip(17), source_prompt=SOURCE)
    found = edited(pipe, edit, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["clean"])
    torch.testing.assert_close(shown[-1], found, atol=1e-5, rtol=1e-5)


def test_another_steps_of_a_scheduler_are_announced(pipe: VideoDiTPipeline, caplog: pytest.LogCaptureFixture) -> None:
    edited(with_scheduler(pipe, UniPCMultistepScheduler(**FLOW)), Edit(noise_clip(17), source_prompt=SOURCE))
    assert "takes Euler's steps over the noise levels of UniPCMultistepScheduler" in caplog.text


def with_two(**more: Any) -> Edit:
    return Edit(noise_clip(17), **({"source_prompt": SOURCE} | more))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"conditions": [with_two(n_avg=0)]}, "n_avg must be 1 to 64, got 0"),
        ({"conditions": [with_two(n_avg=1.5)]}, "n_avg must be a whole number, got 1.5"),
        ({"conditions": [with_two(source_guidance_scale=-1)]}, "source_guidance_scale must be a number from 0 to 100"),
        ({"conditions": [with_two(source_prompt=" ")]}, "source_prompt is empty"),
        ({"conditions": [with_two(source_prompt=3)]}, "source_prompt must be a string, got 3"),
        ({"conditions": [with_two(auto_mask="yes")]}, "auto_mask must be True or False, got 'yes'"),
        (
            {"conditions": [with_two(source_prompt=None, n_avg=2)]},
            "n_avg is 2, which is for an Edit with",
        ),
        ({"conditions": [with_two(source_prompt=None, auto_mask=True)]}, "auto_mask is True, which is for an Edit"),
        ({"conditions": [with_two(strength=0.01)]}, "leaves none of 30 steps"),
        ({"conditions": [with_two(), Frames(noise_clip(1))]}, "does not go with frames or images"),
        ({"conditions": [with_two()], "image": noise_clip(1)[0]}, "does not go with frames or images"),
        ({"conditions": [with_two(), Region(WHITE, noise_clip(17, 1))]}, "the clip of the Region is another"),
        ({"conditions": [with_two()], "latents": torch.zeros(1, 4, 5, 4, 4)}, "does not go with latents"),
        ({"conditions": [with_two()], "dynamic_guidance": True}, "does not go with dynamic_guidance"),
        ({"conditions": [with_two()], "loop": True, "num_frames": 16}, "a loop has no beginning"),
        (
            {"conditions": [Edit(noise_clip(33), source_prompt=SOURCE)], "num_frames": 33, "window": 17},
            "is made at once, of at most 17 frames, got 33",
        ),
    ],
)
def test_what_does_not_go_with_two_prompts_is_named(pipe: VideoDiTPipeline, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.check_inputs(TARGET, **call)


def test_a_storyboard_takes_no_source_prompt(pipe: VideoDiTPipeline) -> None:
    board = Storyboard(((0, SOURCE), (0.5, TARGET)))
    with pytest.raises(ValueError, match="does not go with a storyboard"):
        pipe.check_inputs(board, num_frames=17, conditions=[with_two()])


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (FlowMatchHeunDiscreteScheduler(shift=SHIFT), "the scheduler is FlowMatchHeunDiscreteScheduler; an edit with"),
        (FlowMatchLCMScheduler(shift=SHIFT), "the scheduler is FlowMatchLCMScheduler"),
        (
            FlowMatchEulerDiscreteScheduler(shift=SHIFT, stochastic_sampling=True),
            "FlowMatchEulerDiscreteScheduler with noise of its own",
        ),
        (
            DPMSolverMultistepScheduler(**FLOW, algorithm_type="sde-dpmsolver++"),
            "DPMSolverMultistepScheduler with noise of its own",
        ),
    ],
    ids=lambda one: type(one).__name__,
)
def test_schedulers_without_eulers_levels_are_named(pipe: VideoDiTPipeline, scheduler: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_scheduler(pipe, scheduler).check_inputs(TARGET, conditions=[with_two()])


def test_what_reuses_predictions_is_refused(tiny_model: Path) -> None:
    from diffusers import FirstBlockCacheConfig

    from videodit.acceleration import AccelConfig

    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.accelerate(AccelConfig(cache="FFRF"))
    with pytest.raises(ValueError, match=r"computes every step, .*accelerate\(\) leaves some out"):
        pipe.check_inputs(TARGET, num_inference_steps=4, conditions=[with_two()])
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ValueError, match="the cache FirstBlockCacheConfig is on"):
        pipe.check_inputs(TARGET, num_inference_steps=4, conditions=[with_two()])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cogvideox-2b", "for models of flow matching, and this one predicts v"),
        ("latte", "for models of flow matching, and this one predicts epsilon"),
        ("lucy-edit", "this model sees the clip that it edits"),
        ("wan-i2v", "this model starts from an image"),
    ],
)
def test_models_that_cannot_are_named(name: str, message: str, tmp_path: Path) -> None:
    pipe = family(tmp_path, name)
    frames = pipe.spec.geometry.snap_frames(9)
    clip = noise_clip(frames, size=(48, 80))
    call: dict[str, Any] = {"num_frames": frames, "height": 48, "width": 80}
    if name == "wan-i2v":
        call["image"] = clip[0]
    with pytest.raises(ValueError, match=message):
        pipe.check_inputs(TARGET, **call, conditions=[Edit(clip, source_prompt=SOURCE)])


def test_the_syntax_of_prompts_is_not_for_source_prompts(pipe: VideoDiTPipeline) -> None:
    edit = Edit(noise_clip(17), source_prompt="a (red:1.3) ball")
    with pytest.raises(ValueError, match="is read as it is, without weights, alternatives and LoRAs"):
        pipe.plan(Request(prompt=TARGET, conditions=(edit,), syntax=True))


def test_unknown_words_of_both_prompts_are_told(pipe: VideoDiTPipeline) -> None:
    plan = pipe.check_inputs(TARGET, conditions=[with_two(source_prompt="a quokka bounces")])
    assert any("quokka" in notice for notice in plan.notices)
