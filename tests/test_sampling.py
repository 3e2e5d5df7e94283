"""Noise levels, noise that schedulers draw, guidance of two experts, components that are missing, and callbacks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback

from videodit import VideoDiTPipeline
from videodit.errors import InputError
from videodit.families import sampling_of
from videodit.pipelines.levels import Levels
from videodit.pipelines.probing import probe
from videodit.pipelines.recipe import levels_changed, levels_differ
from videodit.pipelines.scheduling import dynamic_mu, set_timesteps

PROMPT = "a red ball bounces on the grass"
QUICK = {"num_inference_steps": 3, "num_frames": 5, "output_type": "latent"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
LTX = {
    "use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024,
    "max_image_seq_len": 4096, "shift_terminal": 0.1,
}  # fmt: skip
FLOW_MATCH = [
    diffusers.FlowMatchEulerDiscreteScheduler,
    diffusers.FlowMatchHeunDiscreteScheduler,
    diffusers.FlowMatchLCMScheduler,
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def with_parts(pipe: VideoDiTPipeline, **parts: Any) -> VideoDiTPipeline:
    other = VideoDiTPipeline(**pipe.components | parts, height=32, width=32)
    other.set_progress_bar_config(disable=True)
    return other


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- noise levels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FLOW_MATCH)
@pytest.mark.parametrize("family", ["WanPipeline", "SkyReelsV2Pipeline", "HunyuanVideoPipeline", "FluxPipeline"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 50])
def test_the_shift_is_applied_once(kind: Any, family: str, steps: int) -> None:
    """Four steps at shift 5 are those that Wan's distilled models were trained at."""
    scheduler, spacing = kind(shift=5.0), sampling_of(family)[1].sigmas
    timesteps = set_timesteps(scheduler, steps, spacing=spacing, num_tokens=100, device=CPU)
    even = np.linspace(1, 0, steps + 1, dtype=np.float64)[:-1]
    expected = 1000 * 5 * even / (1 + 4 * even)
    np.testing.assert_allclose(torch.unique(timesteps).flip(0), expected, atol=1e-3)
    if steps == 4:
        np.testing.assert_allclose(expected, [1000, 937.5, 833.333, 625], atol=1e-3)
    np.testing.assert_allclose(torch.unique(scheduler.sigmas).flip(0)[:-1], expected / 1000, atol=1e-6)


@pytest.mark.parametrize("kind", FLOW_MATCH)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_dynamic_shift_is_stretched_to_its_end(kind: Any, steps: int) -> None:
    scheduler = kind.from_config(LTX)
    timesteps = set_timesteps(scheduler, steps, spacing="to_last_step", num_tokens=2000, device=CPU)
    even, factor = np.linspace(1, 1 / steps, steps), np.exp(dynamic_mu(LTX, 2000))
    shifted = factor / (factor + 1 / even - 1)
    if steps > 1:
        shifted = 1 - (1 - shifted) / ((1 - shifted[-1]) / 0.9)
    np.testing.assert_allclose(torch.unique(timesteps).flip(0), 1000 * shifted, atol=1e-3)


@pytest.mark.parametrize("tokens", [16, 1024, 4096, 4300, 4301, 9000])
@pytest.mark.parametrize("steps", [1, 4, 50, 300])
def test_flux2s_shift_falls_with_the_steps_as_in_diffusers(tokens: int, steps: int) -> None:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    expected = compute_empirical_mu(tokens, steps)
    assert dynamic_mu({}, tokens, "by_steps", steps) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", FLOW_MATCH)
def test_timesteps_of_distilled_models_are_taken_as_they_are(kind: Any) -> None:
    own = (1000.0, 993.0, 987.0, 981.0, 975.0, 909.0, 725.0, 0.03)
    scheduler = kind(shift=5.0)
    found = set_timesteps(scheduler, 8, spacing="own", num_tokens=1, device=CPU, levels=Levels(timesteps=own))
    np.testing.assert_allclose(torch.unique(found).flip(0), own, atol=1e-4)
    np.testing.assert_allclose(torch.unique(scheduler.sigmas).flip(0)[:-1], np.array(own) / 1000, atol=1e-6)


@pytest.mark.parametrize(
    ("lists", "fault"),
    [
        ({"sigmas": [1.0, 0.5], "timesteps": [1000, 500]}, "exclude each other"),
        ({"sigmas": []}, "above 0 and at most 1, got"),
        ({"sigmas": [1.0, float("nan")]}, "above 0 and at most 1, got"),
        ({"sigmas": [0.5, 1.0]}, "must descend"),
        ({"sigmas": [1.5, 1.0]}, "at most 1, got"),
        ({"timesteps": [1001, 3]}, "from 0 to 1000, got"),
        ({"timesteps": [500, 500]}, "must descend"),
        ({"sigmas": "high"}, "list of numbers"),
        ({"sigmas": [1.0, 0.5], "num_inference_steps": 3}, "num_inference_steps is 3, but the list has 2"),
        ({"eta": 2.0}, "eta must be from 0 to 1"),
        ({"eta": 0.5}, "takes no eta"),
    ],
)
def test_bad_levels_are_named(pipe: VideoDiTPipeline, lists: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        pipe(PROMPT, **lists)


def test_recipes_tell_the_levels(pipe: VideoDiTPipeline) -> None:
    call = {"num_frames": 5, "output_type": "latent"}
    out = pipe(PROMPT, sigmas=[1.0, 0.75, 0.5, 0.25], generator=seeded(0), **call)
    even = pipe(PROMPT, num_inference_steps=4, generator=seeded(0), **call)
    assert torch.equal(out.frames, even.frames)
    assert out.recipes[0]["sigmas"] == [1.0, 0.75, 0.5, 0.25]
    assert out.recipes[0]["steps"] == 4


def test_recipes_of_levels_that_were_shifted_twice_are_known(tiny_model: Path) -> None:
    for scheduler, version, changed in (
        ("FlowMatchHeunDiscreteScheduler", {}, True),
        ("FlowMatchHeunDiscreteScheduler", {"sampling_version": 2}, False),
        ("FlowMatchEulerDiscreteScheduler", {}, False),  # with this family's own spacing, which was right
    ):
        assert levels_changed({"scheduler": scheduler, **version}, tiny_model) is changed
    assert levels_differ("FlowMatchEulerDiscreteScheduler", "own")


@pytest.mark.parametrize(
    ("scheduler", "objective"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "flow"),
        (diffusers.UniPCMultistepScheduler(**FLOW, use_exponential_sigmas=True), "flow"),
        (diffusers.UniPCMultistepScheduler(**FLOW, final_sigmas_type="sigma_min"), "flow"),
        (diffusers.DPMSolverMultistepScheduler(**FLOW, use_lu_lambdas=True), "flow"),
        (diffusers.PNDMScheduler(), "epsilon"),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, str) else one,
)
def test_schedulers_that_do_not_arrive_are_named(scheduler: Any, objective: Any) -> None:
    lay_out = partial(set_timesteps, steps=3, spacing="own", num_tokens=100, device=CPU)
    with pytest.raises(InputError, match=type(scheduler).__name__):
        probe(scheduler, lay_out, objective)


# ---- noise -----------------------------------------------------------------------------------------


class Restless(diffusers.FlowMatchEulerDiscreteScheduler):
    """Draws noise that no generator of the call gives."""

    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        (after,) = super().step(model_output, timestep, sample, return_dict=False)
        return (after + 1e-3 * torch.randn(after.shape),)


@pytest.mark.parametrize(
    ("scheduler", "objective", "eta", "draws"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), "flow", 0.0, "nothing"),
        (diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "flow", 0.0, "generator"),
        (diffusers.FlowMatchLCMScheduler(), "flow", 0.0, "generator"),
        (diffusers.DPMSolverMultistepScheduler(**FLOW), "flow", 0.0, "nothing"),
        (diffusers.DPMSolverMultistepScheduler(**FLOW, algorithm_type="sde-dpmsolver++"), "flow", 0.0, "generator"),
        (Restless(), "flow", 0.0, "elsewhere"),
        (diffusers.DDPMScheduler(), "epsilon", 0.0, "generator"),
        (diffusers.LCMScheduler(), "epsilon", 0.0, "generator"),
        (diffusers.TCDScheduler(), "epsilon", 0.0, "generator"),
        (diffusers.SASolverScheduler(), "epsilon", 0.0, "generator"),
        (diffusers.EulerAncestralDiscreteScheduler(), "epsilon", 0.0, "generator"),
        (diffusers.DDIMScheduler(), "epsilon", 0.0, "nothing"),
        (diffusers.DDIMScheduler(), "epsilon", 0.5, "generator"),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, (str, float)) else str(one),
)
def test_noise_is_found_by_what_a_scheduler_does(scheduler: Any, objective: Any, eta: float, draws: str) -> None:
    lay_out = partial(set_timesteps, steps=4, spacing="own", num_tokens=100, device=CPU)
    assert probe(scheduler, lay_out, objective, eta=eta) == draws


def test_seeds_give_the_clip_again_or_are_none(pipe: VideoDiTPipeline) -> None:
    noisy = with_parts(pipe, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True))
    shared = noisy(PROMPT, num_videos_per_prompt=2, generator=seeded(5), **QUICK)
    assert [recipe["seed"] for recipe in shared.recipes] == [None, None]
    apart = noisy(PROMPT, num_videos_per_prompt=2, generator=[seeded(5), seeded(6)], **QUICK)
    assert [recipe["seed"] for recipe in apart.recipes] == [5, 6]
    again = noisy(PROMPT, generator=seeded(6), **QUICK).frames
    torch.testing.assert_close(apart.frames[1:], again, atol=1e-4, rtol=1e-4)
    restless = with_parts(pipe, scheduler=Restless())
    assert restless(PROMPT, generator=seeded(5), **QUICK).recipes[0]["seed"] is None


def test_generators_that_a_step_cannot_use_are_refused(pipe: VideoDiTPipeline) -> None:
    for generator, fault in (
        ("seed", "a torch.Generator, or a list"),
        ([seeded(1), 2], "a torch.Generator, or a list"),
    ):
        with pytest.raises(InputError, match=fault):
            pipe([PROMPT, PROMPT], generator=generator, **QUICK)
    bad = torch.full((1, *pipe.check_inputs(PROMPT, num_frames=5).latent_shape), float("nan"))
    with pytest.raises(InputError, match="latents hold values that are not finite"):
        pipe(PROMPT, latents=bad, **QUICK)


# ---- guidance --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [(1.0, 6.0), (6.0, 1.0)])
def test_each_expert_is_guided_by_its_own_scale(pipe: VideoDiTPipeline, scales: tuple[float, float]) -> None:
    two = VideoDiTPipeline(**pipe.components | {"transformer_2": pipe.transformer}, boundary_ratio=0.8)
    two.set_progress_bar_config(disable=True)
    branches: list[str] = []
    enter = pipe.transformer.cache_context
    pipe.transformer.cache_context = lambda name: branches.append(name) or enter(name)  # type: ignore[method-assign]
    call = dict(QUICK, height=32, width=32, guidance_scale=scales[0], guidance_scale_2=scales[1])
    try:
        levels = {"timesteps": [1000, 900, 500]}
        plain = two(PROMPT, generator=seeded(1), **call, **levels).frames
    finally:
        del pipe.transformer.cache_context
    assert branches == (["cond"] * 2 + ["cond", "uncond"] if scales[0] == 1 else ["cond", "uncond"] * 2 + ["cond"])
    other = two(PROMPT, generator=seeded(1), negative_prompt="a blue cube", **call, **levels).frames
    assert not torch.equal(plain, other)


def test_a_negative_prompt_without_guidance_is_announced(
    pipe: VideoDiTPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipe(PROMPT, negative_prompt="a blue cube", guidance_scale=1.0, **QUICK)
    assert "negative_prompt has no effect" in caplog.text
    caplog.clear()
    pipe(PROMPT, negative_prompt="a blue cube", guidance_scale=3.0, **QUICK)
    assert "negative_prompt has no effect" not in caplog.text


# ---- components and encoded prompts ----------------------------------------------------------------


def test_missing_components_are_named(pipe: VideoDiTPipeline) -> None:
    embeds = pipe.text([PROMPT]).embeds
    for parts, call, fault in (
        (["text_encoder"], {"prompt": PROMPT}, "text_encoder is None, which prompt needs; pass prompt_embeds"),
        (["tokenizer"], {"prompt": PROMPT}, "tokenizer is None"),
        (["text_encoder"], {"prompt_embeds": embeds, "guidance_scale": 3.0}, "pass negative_prompt_embeds, or guid"),
        (["vae"], {"prompt": PROMPT}, "vae is None"),
        (["scheduler"], {"prompt": PROMPT}, "scheduler is None"),
        (["transformer"], {"prompt": PROMPT}, "transformer is None"),
    ):
        other = with_parts(pipe, **dict.fromkeys(parts))
        with pytest.raises(InputError, match=fault):
            other(**call, **QUICK)
    bare = with_parts(pipe, text_encoder=None)
    for work in (lambda: bare.encode_prompt(PROMPT), lambda: bare.encode_ahead([PROMPT]), lambda: bare.text):
        with pytest.raises(InputError, match="text_encoder is None"):
            work()


def test_encoded_prompts_give_the_same_clip_without_a_text_encoder(pipe: VideoDiTPipeline) -> None:
    prompts = [PROMPT, "a cone"]
    call = {**QUICK, "guidance_scale": 3.0}
    by_text = pipe(prompts, negative_prompt="a blue cube", generator=[seeded(1), seeded(2)], **call)
    embeds, negative, mask, negative_mask, pooled, negative_pooled = pipe.encode_prompt(prompts, "a blue cube")
    assert pooled is None
    assert negative_pooled is None
    bare = with_parts(pipe, text_encoder=None, tokenizer=None)
    out = bare(
        prompt_embeds=embeds, prompt_attention_mask=mask, negative_prompt_embeds=negative,
        negative_prompt_attention_mask=negative_mask, generator=[seeded(1), seeded(2)], **call,
    )  # fmt: skip
    assert torch.equal(out.frames, by_text.frames)
    assert out.recipes[0]["not_recorded"] == ["prompt_embeds", "negative_prompt_embeds"]


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ({"negative_prompt": "a", "negative_prompt_embeds": torch.zeros(1, 3, 32)}, "exclude each other"),
        ({"negative_prompt_embeds": torch.zeros(1, 3, 5)}, r"negative_prompt_embeds must be \[B, L, 32\]"),
        ({"negative_prompt_embeds": torch.zeros(2, 3, 32)}, "has 2 prompts for 1"),
        ({"negative_prompt_embeds": torch.full((1, 3, 32), float("nan"))}, "finite"),
        ({"negative_prompt_attention_mask": torch.ones(1, 3)}, "negative_prompt_attention_mask"),
        ({"pooled_prompt_embeds": torch.ones(1, 3)}, "has no use"),
        ({"max_sequence_length": 0}, "max_sequence_length must be a whole number from 1 to"),
        ({"attention_kwargs": {"scael": 1.0}}, r"'scale' alone, got \['scael'\]"),
        ({"attention_kwargs": {"scale": "much"}}, "must be a number"),
    ],
)
def test_bad_arguments_are_named(pipe: VideoDiTPipeline, call: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        pipe(PROMPT, **call)


def test_prompts_are_cut_where_the_call_says(pipe: VideoDiTPipeline) -> None:
    embeds = pipe.encode_prompt(PROMPT, max_sequence_length=3)[0]
    assert embeds is not None
    assert embeds.shape[1] == 3
    out = pipe(PROMPT, max_sequence_length=3, generator=seeded(1), **QUICK)
    assert not torch.equal(out.frames, pipe(PROMPT, generator=seeded(1), **QUICK).frames)
    assert out.recipes[0]["max_sequence_length"] == 3


# ---- callbacks -------------------------------------------------------------------------------------


def test_diffusers_callbacks_turn_guidance_off(pipe: VideoDiTPipeline) -> None:
    states: list[tuple[float, bool, int, bool]] = []

    class Note(SDCFGCutoffCallback):
        tensor_inputs = ["latents"]

        def callback_fn(self, pipeline: Any, step: Any, timestep: Any, tensors: Any) -> Any:
            assert pipeline.current_timestep == timestep
            states.append((pipeline.guidance_scale, pipeline.do_classifier_free_guidance, pipeline.num_timesteps,
                           bool(pipeline.interrupt)))  # fmt: skip
            return tensors

    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    call = {**QUICK, "guidance_scale": 4.0}
    plain = pipe(PROMPT, generator=seeded(1), **call)
    cut = pipe(PROMPT, generator=seeded(1), callback_on_step_end=MultiPipelineCallbacks([cutoff, Note()]), **call)
    assert states == [(0.0, False, 3, False)] * 3
    assert not torch.equal(plain.frames, cut.frames)
    assert cut.recipes[0]["not_recorded"] == ["callback_on_step_end"]
    assert cut.recipes[0]["seed"] is None
    idle = pipe(PROMPT, generator=seeded(1), callback_on_step_end=lambda *a: a[3], **call)
    assert torch.equal(plain.frames, idle.frames)
    assert idle.recipes[0]["seed"] == 1


@pytest.mark.parametrize(
    ("returned", "fault"),
    [
        ({"noise": torch.zeros(1)}, r"returned \['noise'\]"),
        ({"latents": torch.zeros(1)}, r"returned latents of shape \[1\]"),
        ({"latents": np.zeros(1)}, "returned latents as ndarray; it must be a tensor of floats"),
        ({"latents": torch.zeros(1).int()}, r"returned latents as torch\.int32; it must be a tensor of floats"),
        ({"prompt_embeds": None}, "returned prompt_embeds as NoneType; it must be a tensor of floats"),
        ([1], "must return a dict"),
    ],
)
def test_what_a_callback_must_not_return_is_named(pipe: VideoDiTPipeline, returned: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        pipe(PROMPT, callback_on_step_end=lambda *_: returned, **QUICK)


def test_prompts_that_a_callback_works_on_in_place_count_from_the_next_step_on(pipe: VideoDiTPipeline) -> None:
    def in_place(_: Any, step: int, __: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if step == 0:
            tensors["prompt_embeds"].mul_(-3)
        return {}

    def returned(_: Any, step: int, __: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"prompt_embeds": tensors["prompt_embeds"] * -3} if step == 0 else {}

    call = {**QUICK, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    found = [pipe(PROMPT, generator=seeded(1), callback_on_step_end=one, **call).frames for one in (in_place, returned)]
    assert torch.equal(*found)
    assert not torch.equal(found[0], pipe(PROMPT, generator=seeded(1), **QUICK).frames)


def test_guidance_is_raised_in_the_middle(pipe: VideoDiTPipeline) -> None:
    def raised(one: Any, *rest: Any) -> Any:
        one.guidance_scale = 5.0
        return rest[-1]

    plain = pipe(PROMPT, guidance_scale=1.0, generator=seeded(1), **QUICK).frames
    changed = pipe(PROMPT, guidance_scale=1.0, generator=seeded(1), callback_on_step_end=raised, **QUICK).frames
    assert not torch.equal(plain, changed)
