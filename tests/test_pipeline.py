"""VideoDiTPipeline: the loop against one written out, batches, seeds, callbacks, saving, and bad input."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.hooks import FirstBlockCacheConfig
from PIL import Image

from videodit import VideoDiTPipeline
from videodit.cli.main import main
from videodit.media import read_recipe, read_video
from videodit.pipelines.folders import check_model, model_hash, resolve_model
from videodit.pipelines.request import Request
from videodit.pipelines.settings import Settings, plan_settings
from videodit.pipelines.spec import ModelFolder

PROMPT = "a red ball bounces on the grass"
QUICK = {"num_inference_steps": 3, "output_type": "np"}


def planned(folder: Path, **asked: Any) -> Settings:
    """The settings of a request to a model, from its configs alone."""
    return plan_settings(Request(**asked), ModelFolder.find(str(folder)).spec)


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- from an image ---------------------------------------------------------------------------------


def test_a_given_image_is_the_first_frame(pipe: VideoDiTPipeline) -> None:
    """Its latent is kept clean, at whatever size it comes, and the others go on from it."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image = Image.fromarray(pixels)
    middle = image.crop((5, 0, 25, 20))
    small = torch.from_numpy(np.array(middle.resize((32, 32), Image.Resampling.LANCZOS))).permute(2, 0, 1)
    with torch.no_grad():
        kept = pipe.vae.normalize(pipe.vae.encode(small[None, :, None].float() / 127.5 - 1).latent_dist.mode())
    call = {"num_inference_steps": 3, "output_type": "latent"}
    free, given = (pipe(PROMPT, generator=seeded(3), **call, **start).frames for start in ({}, {"image": image}))
    torch.testing.assert_close(given[:, :, :1], kept, atol=1e-5, rtol=1e-5)
    assert (given[:, :, 1:] - free[:, :, 1:]).abs().max() > 1e-3


# ---- the loop ------------------------------------------------------------------------------------


def test_loop_equals_one_written_out(pipe: VideoDiTPipeline) -> None:
    steps, scale, shift = 4, 3.0, pipe.scheduler.config.shift
    noise = torch.randn(1, *pipe.check_inputs(PROMPT).latent_shape, generator=seeded(1))
    cond, uncond = pipe.text([PROMPT]), pipe.text([""])

    x = noise.double()
    sigmas = [s * shift / (1 + (shift - 1) * s) for s in np.linspace(1, 1 / steps, steps)] + [0.0]
    with torch.no_grad():
        for sigma, following in itertools.pairwise(sigmas):
            t = torch.tensor([1000 * sigma], dtype=torch.float32)
            c = pipe.transformer(x.float(), t, cond.embeds, cond.mask).sample.double()
            u = pipe.transformer(x.float(), t, uncond.embeds, uncond.mask).sample.double()
            x = x + (following - sigma) * (u + scale * (c - u))

    ours = pipe(PROMPT, num_inference_steps=steps, guidance_scale=scale, latents=noise, output_type="latent").frames
    torch.testing.assert_close(ours.double(), x, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_second_order_solvers_come_closer_than_euler(pipe: VideoDiTPipeline) -> None:
    """Of two solvers with few steps, the one of second order lands nearer to Euler's with many."""
    shift = pipe.scheduler.config.shift
    noise = torch.randn(1, *pipe.check_inputs(PROMPT).latent_shape, generator=seeded(2))

    def latents(steps: int, solver: Any) -> torch.Tensor:
        other = VideoDiTPipeline(**{**pipe.components, "scheduler": solver}, height=32, width=32)
        other.set_progress_bar_config(disable=True)
        return other(PROMPT, num_inference_steps=steps, latents=noise, output_type="latent").frames

    euler = FlowMatchEulerDiscreteScheduler(shift=shift)
    exact = latents(300, euler)
    error = (latents(12, euler) - exact).norm()
    for scheduler in (UniPCMultistepScheduler, DPMSolverMultistepScheduler):
        second = scheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
        assert (latents(12, second) - exact).norm() < error, scheduler


@pytest.mark.parametrize(
    ("scheduler", "fault"),
    [
        (DDIMScheduler(), "DDIMScheduler has prediction_type 'epsilon'"),
        (UniPCMultistepScheduler(prediction_type="flow_prediction"), "UniPC.* has use_flow_sigmas False"),
    ],
)
def test_scheduler_of_another_objective_is_refused(pipe: VideoDiTPipeline, scheduler: Any, fault: str) -> None:
    other = VideoDiTPipeline(**{**pipe.components, "scheduler": scheduler})
    with pytest.raises(ValueError, match=fault):
        other(PROMPT)


def test_backends_that_take_no_mask_serve_single_prompts(pipe: VideoDiTPipeline) -> None:
    """One prompt is never padded, so nothing has to be masked."""
    plain = pipe(PROMPT, generator=seeded(1), **QUICK).frames
    pipe.transformer.set_attention_backend("_native_flash")
    try:
        flash = pipe(PROMPT, generator=seeded(1), **QUICK).frames
    finally:
        pipe.transformer.set_attention_backend("native")
    np.testing.assert_allclose(plain, flash, atol=1e-4)


def test_recipes_tell_the_backend_that_computed(tiny_model: Path) -> None:
    """Setting one pipeline's sets that of all others which have none of their own."""
    from diffusers.models.attention_dispatch import attention_backend

    first, second, own = (VideoDiTPipeline.from_pretrained(tiny_model) for _ in range(3))

    def told(pipe: VideoDiTPipeline, **options: Any) -> Any:
        return pipe(PROMPT, generator=seeded(1), **QUICK, **options).recipes[0].get("attention")

    assert told(first) is None
    with attention_backend("_native_math"):
        assert told(first) == "_native_math"
    assert told(first) is None
    own.transformer.set_attention_backend("native")
    first.transformer.set_attention_backend("_native_math")
    assert (told(first), told(second), told(own)) == ("_native_math", "_native_math", None)
    first.transformer.reset_attention_backend()
    assert told(first) == "_native_math"
    first.transformer.blocks[0].attn1.processor._attention_backend = "native"
    assert told(first) == "_native_math, native"

    def switch(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe.transformer.set_attention_backend("native")
        return {}

    out = second(PROMPT, generator=seeded(1), **QUICK, callback_on_step_end=switch)
    assert out.recipes[0]["not_recorded"] == ["callback_on_step_end"]


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloaded_parts_give_the_same_clip(tiny_model: Path, offload: str) -> None:
    """The hooks of diffusers' offloading, with the CPU in the part of the accelerator."""
    import accelerate

    plain, moved = (VideoDiTPipeline.from_pretrained(tiny_model) for _ in range(2))
    for part in (moved.text_encoder, moved.transformer, moved.vae):
        if offload == "model":
            accelerate.cpu_offload_with_hook(part, torch.device("cpu"))
        else:
            accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=True)
    frames = []
    for pipe in (plain, moved):
        pipe.set_progress_bar_config(disable=True)
        frames.append(pipe([PROMPT, "a cone"], generator=[seeded(1), seeded(2)], **QUICK).frames)
    np.testing.assert_allclose(*frames, atol=1e-5)


def test_first_block_cache_keeps_the_branches_of_guidance_apart(pipe: VideoDiTPipeline) -> None:
    """With a threshold of 0 nothing is reused unless the two branches are mistaken for each other's steps."""
    plain = pipe(PROMPT, guidance_scale=4.0, generator=seeded(1), **QUICK).frames
    contexts = []
    enter = pipe.transformer.cache_context
    pipe.transformer.cache_context = lambda name: contexts.append(name) or enter(name)  # type: ignore[method-assign]
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    try:
        cached = pipe(PROMPT, guidance_scale=4.0, generator=seeded(1), **QUICK).frames
    finally:
        pipe.transformer.disable_cache()
        del pipe.transformer.cache_context
    np.testing.assert_allclose(plain, cached, atol=1e-5)
    assert contexts == ["cond", "uncond"] * 3


# ---- seeds and batches ---------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes(pipe: VideoDiTPipeline) -> None:
    first, again, other = (pipe(PROMPT, generator=seeded(s), **QUICK).frames for s in (5, 5, 6))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_batch_equals_one_by_one(pipe: VideoDiTPipeline) -> None:
    prompts = [PROMPT, "a cone", "two rings and a tiny blue cube slide to the left at night"]
    batch = pipe(prompts, generator=[seeded(s) for s in (1, 2, 3)], **QUICK).frames
    alone = [pipe(p, generator=seeded(s), **QUICK).frames[0] for p, s in zip(prompts, (1, 2, 3), strict=True)]
    np.testing.assert_allclose(batch, np.stack(alone), atol=1e-4)


def test_one_generator_draws_in_turn(pipe: VideoDiTPipeline) -> None:
    together = pipe(PROMPT, num_videos_per_prompt=2, generator=(g := seeded(4)), **QUICK)
    g.manual_seed(4)
    apart = [pipe(PROMPT, generator=g, **QUICK).frames[0] for _ in range(2)]
    np.testing.assert_allclose(together.frames, np.stack(apart), atol=1e-4)


def test_recipes_name_the_seed_that_makes_each_clip_again(pipe: VideoDiTPipeline) -> None:
    drawn = pipe([PROMPT, "a cone"], **QUICK)
    for i, recipe in enumerate(drawn.recipes):
        again = pipe(recipe["prompt"], generator=seeded(recipe["seed"]), **QUICK)
        np.testing.assert_allclose(again.frames[0], drawn.frames[i], atol=1e-4)
    assert drawn.recipes[0]["seed"] != drawn.recipes[1]["seed"]


def test_recipe_has_no_seed_where_none_would_help(pipe: VideoDiTPipeline) -> None:
    used = seeded(3)
    torch.rand(1, generator=used)
    assert pipe(PROMPT, generator=used, **QUICK).recipes[0]["seed"] is None
    shared = pipe(PROMPT, num_videos_per_prompt=2, generator=seeded(3), **QUICK)
    assert [r["seed"] for r in shared.recipes] == [3, None]


def test_videos_of_a_prompt_stand_together(pipe: VideoDiTPipeline) -> None:
    generators = [seeded(s) for s in (1, 2, 3, 4)]
    out = pipe(
        ["a cone", "a ring"],
        negative_prompt=["a cube", "a ball"],
        num_videos_per_prompt=2,
        generator=generators,
        guidance_scale=4.0,
        **QUICK,
    )
    assert [r["prompt"] for r in out.recipes] == ["a cone", "a cone", "a ring", "a ring"]
    assert [r["negative_prompt"] for r in out.recipes] == ["a cube", "a cube", "a ball", "a ball"]
    for recipe, frames in zip(out.recipes, out.frames, strict=True):
        alone = pipe(
            recipe["prompt"],
            negative_prompt=recipe["negative_prompt"],
            generator=seeded(recipe["seed"]),
            guidance_scale=4.0,
            **QUICK,
        )
        np.testing.assert_allclose(alone.frames[0], frames, atol=1e-4)


# ---- prompts -------------------------------------------------------------------------------------


def test_prompt_embeds_stand_for_the_prompt(pipe: VideoDiTPipeline) -> None:
    tokens = pipe.text([PROMPT])
    by_prompt = pipe(PROMPT, generator=seeded(1), **QUICK).frames
    by_embeds = pipe(
        prompt_embeds=tokens.embeds, prompt_attention_mask=tokens.mask, generator=seeded(1), **QUICK
    ).frames
    np.testing.assert_allclose(by_prompt, by_embeds, atol=1e-6)


def test_negative_prompt_matters_only_with_guidance(pipe: VideoDiTPipeline) -> None:
    def frames(scale: float, negative: str | None) -> np.ndarray:
        return pipe(PROMPT, negative_prompt=negative, guidance_scale=scale, generator=seeded(1), **QUICK).frames

    assert np.array_equal(frames(1.0, None), frames(1.0, "a blue cube"))
    assert not np.array_equal(frames(4.0, None), frames(4.0, "a blue cube"))


def test_unknown_words_and_lost_text_are_announced(pipe: VideoDiTPipeline, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="videodit"):
        pipe("a red dragon bounces " + "on the grass " * 40, negative_prompt="a unicorn", **QUICK)
    assert "does not know: dragon" in caplog.text
    assert "does not know: unicorn" in caplog.text
    assert "left out:" in caplog.text


# ---- outputs -------------------------------------------------------------------------------------


def test_output_types_hold_the_same_frames(pipe: VideoDiTPipeline) -> None:
    def frames(kind: Any) -> Any:
        return pipe(PROMPT, num_inference_steps=2, generator=seeded(1), output_type=kind).frames

    array, tensor, images = frames("np"), frames("pt"), frames("pil")
    assert array.shape == (1, 17, 32, 32, 3)
    assert array.min() >= 0
    assert array.max() <= 1
    np.testing.assert_array_equal(tensor.permute(0, 1, 3, 4, 2).numpy(), array)
    np.testing.assert_array_equal(np.stack([np.asarray(i) for i in images[0]]), (array[0] * 255).round())
    assert frames("latent").shape == (1, 4, 5, 4, 4)


def test_return_dict_false_gives_a_tuple(pipe: VideoDiTPipeline) -> None:
    (frames,) = pipe(PROMPT, return_dict=False, **QUICK)
    assert frames.shape == (1, 17, 32, 32, 3)


@pytest.mark.parametrize("kind", ["np", "pt", "pil"])
def test_save_writes_frames_and_recipe(pipe: VideoDiTPipeline, tmp_path: Path, kind: Any) -> None:
    out = pipe(PROMPT, num_inference_steps=2, generator=seeded(8), output_type=kind)
    (path,) = out.save(tmp_path / "clip.mp4")
    clip = read_video(path)
    assert clip.frames.shape == (17, 32, 32, 3)
    assert clip.fps == 16
    assert read_recipe(path) == json.loads(json.dumps(out.recipes[0]))


def test_save_numbers_several_clips(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    paths = pipe([PROMPT, "a cone"], **QUICK).save(tmp_path / "clip.mp4")
    assert [p.name for p in paths] == ["clip-1.mp4", "clip-2.mp4"]
    assert all(p.is_file() for p in paths)


def test_latents_cannot_be_saved_as_a_clip(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    out = pipe(PROMPT, num_inference_steps=1, output_type="latent")
    with pytest.raises(ValueError, match="latents cannot be saved"):
        out.save(tmp_path / "clip.mp4")


def test_recipe_holds_settings_and_no_local_path(pipe: VideoDiTPipeline, tiny_model: Path) -> None:
    recipe = pipe(PROMPT, generator=seeded(1), guidance_scale=2.5, **QUICK).recipes[0]
    assert recipe["model"] == tiny_model.name
    assert recipe["model_hash"] == model_hash(tiny_model)
    assert (recipe["steps"], recipe["guidance"], recipe["seed"]) == (3, 2.5, 1)
    assert str(tiny_model.parent) not in json.dumps(recipe)


# ---- callbacks -----------------------------------------------------------------------------------


def test_callback_sees_and_replaces_latents(pipe: VideoDiTPipeline) -> None:
    seen = []

    def blank(_: Any, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, float(timestep), set(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    out = pipe(PROMPT, num_inference_steps=3, callback_on_step_end=blank, output_type="latent")
    assert [s for s, _, _ in seen] == [0, 1, 2]
    assert seen[0][1] == 1000.0
    assert seen[0][2] == {"latents"}
    assert not out.frames.any()


def test_interrupt_stops_after_the_step(pipe: VideoDiTPipeline) -> None:
    steps = []

    def stop(p: VideoDiTPipeline, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        if step == 1:
            p.interrupt()
        return tensors

    out = pipe(PROMPT, num_inference_steps=9, callback_on_step_end=stop, output_type="np")
    assert steps == [0, 1]
    assert out.frames.shape == (1, 17, 32, 32, 3)
    assert out.recipes[0]["seed"] is None  # no seed makes half a run again
    steps.clear()
    pipe(PROMPT, num_inference_steps=1, callback_on_step_end=stop, output_type="latent")
    assert steps == [0]  # the next call starts afresh


# ---- sizes ---------------------------------------------------------------------------------------


def test_snapped_size_is_announced(pipe: VideoDiTPipeline, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="videodit"):
        out = pipe(PROMPT, width=40, height=30, num_frames=6, **QUICK)
    assert out.frames.shape == (1, 5, 32, 48, 3)
    assert "size 40x30 becomes 48x32" in caplog.text
    assert "6 frames become 5" in caplog.text


def test_one_frame_is_an_image(pipe: VideoDiTPipeline) -> None:
    assert pipe(PROMPT, num_frames=1, **QUICK).frames.shape == (1, 1, 32, 32, 3)


# ---- saving and loading --------------------------------------------------------------------------


def test_save_pretrained_round_trip(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "copy", max_shard_size="100KB")
    assert len(list((tmp_path / "copy" / "vae").glob("*.safetensors"))) > 1
    copy = VideoDiTPipeline.from_pretrained(tmp_path / "copy")
    copy.set_progress_bar_config(disable=True)
    assert copy.defaults == pipe.defaults
    for part in ("transformer", "vae", "text_encoder"):
        ours, theirs = (getattr(p, part).state_dict() for p in (pipe, copy))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = (p(PROMPT, generator=seeded(1), **QUICK).frames for p in (pipe, copy))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)  # other addresses may take other kernels


def test_bf16_load_runs(tiny_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert pipe.transformer.time_embedder.linear_1.weight.dtype == torch.float32
    out = pipe(PROMPT, generator=seeded(1), **QUICK)
    assert np.isfinite(out.frames).all()
    assert out.recipes[0]["dtype"] == "bfloat16"


def test_vae_switches_do_not_change_the_clip(pipe: VideoDiTPipeline) -> None:
    plain = pipe([PROMPT, "a cone"], generator=[seeded(1), seeded(2)], **QUICK).frames
    pipe.vae.enable_slicing()
    pipe.vae.enable_streaming()
    try:
        other = pipe([PROMPT, "a cone"], generator=[seeded(1), seeded(2)], **QUICK).frames
    finally:
        pipe.vae.disable_slicing()
        pipe.vae.disable_streaming()
    np.testing.assert_allclose(plain, other, atol=1e-5)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"num_frames": 2.5}, "num_frames must be a whole number, got 2.5"),
        ({"height": 0}, "height must be 1 to 8192, got 0"),
        ({"width": 100_000}, "width must be 1 to 8192, got 100000"),
        ({"num_frames": 10**9}, "the limit is"),
        ({"num_inference_steps": -3}, "num_inference_steps must be 1 to 1000, got -3"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number from 0 to 100, got nan"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt must be at least 1, got 0"),
        ({"output_type": "gif"}, "output_type must be one of"),
        ({"latents": torch.zeros(1, 4, 5, 4, 5)}, r"latents must be \[1, 4, 5, 4, 4\], got \[1, 4, 5, 4, 5\]"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 clips; give one"),
        ({"generator": [None]}, r"generator must be a torch\.Generator, or a list of them, got None"),
        ({"image": np.zeros((0, 32, 3), np.uint8)}, r"has no pixels, got \[0, 32, 3\]"),
        ({"image": np.zeros((8, 8, 3), complex)}, "must be of real numbers, got complex128"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1 prompts"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, r"got \['noise'\]"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(pipe: VideoDiTPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(PROMPT, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either prompt or prompt_embeds"),
        ({"prompt": []}, "prompt is an empty list; it must hold at least one text"),
        ({"prompt": ["a", 3]}, "each prompt of a list must be a string, got 3"),
        (
            {"prompt": "a", "prompt_attention_mask": torch.ones(1, 3)},
            r"prompt_attention_mask \[1, 3\] must be \[B, L\] of prompt_embeds, got none",
        ),
        (
            {"prompt_embeds": torch.zeros(1, 3, 32), "prompt_attention_mask": torch.ones(1, 4)},
            r"prompt_attention_mask \[1, 4\] must be \[B, L\] of prompt_embeds, got \[1, 3, 32\]",
        ),
        ({"prompt_embeds": torch.zeros(1, 3, 5)}, r"prompt_embeds must be \[B, L, 32\], got \[1, 3, 5\]"),
    ],
)
def test_bad_prompts_are_named(pipe: VideoDiTPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


def copy_model(source: Path, target: Path) -> Path:
    for file in source.rglob("*"):
        if file.is_file():
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(source)).write_bytes(file.read_bytes())
    return target


def weights(folder: Path, part: str) -> Path:
    (path,) = (folder / part).glob("*.safetensors")
    return path


@pytest.mark.parametrize("name", ["mimi", "Mini"])
def test_unknown_model_gets_close_names(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"unknown model '{name}'; did you mean 'mini'[?] Valid values are mini, a folder"
    ):
        VideoDiTPipeline.from_pretrained(name)


def test_hub_id_that_cannot_be_fetched() -> None:
    with pytest.raises(ValueError, match="model 'nobody/nothing' is no local folder and could not be fetched"):
        resolve_model("nobody/nothing")


def test_another_pipeline_on_the_hub_is_refused_before_its_weights_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, name: str(tmp_path / name))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("fetched the weights"))
    with pytest.raises(
        ValueError, match="owner/wan is of class 'StableDiffusionPipeline'; valid values are VideoDiTPipeline"
    ):
        resolve_model("owner/wan")


def test_missing_entry_of_a_config_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny_model, tmp_path / "m")
    config = json.loads((folder / "model_index.json").read_text())
    del config["fps"]
    (folder / "model_index.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="lack the entry 'fps'"):
        planned(folder)


def test_broken_shard_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny_model, tmp_path / "m")
    path = weights(folder, "vae")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"vae.*{path.name} is not a whole safetensors file"):
        VideoDiTPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        planned(folder)


def test_pickle_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny_model, tmp_path / "m")
    weights(folder, "transformer").rename(folder / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="as a pickle"):
        VideoDiTPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "found", "expected"),
    [
        ("model_index.json", "StableDiffusionPipeline", "VideoDiTPipeline"),
        ("transformer/config.json", "WanTransformer3DModel", "VideoDiT"),
        ("vae/config.json", "AutoencoderKL", "CausalVideoVAE"),
    ],
)
def test_other_classes_are_refused(tiny_model: Path, tmp_path: Path, file: str, found: str, expected: str) -> None:
    folder = copy_model(tiny_model, tmp_path / "m")
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, "_class_name": found}))
    with pytest.raises(ValueError, match=f"is of class {found!r}; .* .?{expected}"):
        check_model(folder)


@pytest.mark.parametrize("part", ["tokenizer", "scheduler", "vae"])
def test_missing_folder_is_named(tiny_model: Path, tmp_path: Path, part: str) -> None:
    folder = copy_model(tiny_model, tmp_path / "m")
    (folder / part).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"lacks the component {part}/"):
        check_model(folder)


def test_options_that_would_be_ignored_are_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="revision are for models on the hub"):
        VideoDiTPipeline.from_pretrained(tiny_model, revision="main")
    with pytest.raises(ValueError, match="use_safetensors=False is refused"):
        VideoDiTPipeline.from_pretrained(tiny_model, use_safetensors=False)


def test_numpy_numbers_are_numbers(tiny_model: Path) -> None:
    assert planned(tiny_model, num_frames=np.int64(5)).num_frames == 5


def test_missing_part_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny_model, tmp_path / "m")
    weights(folder, "vae").unlink()
    with pytest.raises(ValueError, match=r"vae holds no \.safetensors file"):
        VideoDiTPipeline.from_pretrained(folder)


def test_model_hash_follows_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny_model, tmp_path / "m")
    assert model_hash(folder) == model_hash(tiny_model)
    path = weights(folder, "vae")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert model_hash(folder) != model_hash(tiny_model)


# ---- planning ------------------------------------------------------------------------------------


def test_plan_takes_the_model_defaults(tiny_model: Path) -> None:
    made = planned(tiny_model)
    assert (made.height, made.width, made.num_frames) == (32, 32, 17)
    assert made.latent_shape == (4, 5, 4, 4)
    assert made.num_tokens == 20
    assert made.notices == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fps": 0}, "fps is 0; it must be"),
        ({"fps": 1e-5}, "fps is 1e-05; it must be"),
        ({"num_frames": 10**400}, "the limit is"),
        ({"num_inference_steps": 10**400}, "num_inference_steps must be 1 to 1000"),
    ],
)
def test_plan_names_bad_values(tiny_model: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned(tiny_model, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu9"], "device 'tpu9' is not here"),
        (["--dtype", "int3"], "dtype 'int3' is unknown"),
        (["--device", "cpu", "--dtype", "float16"], "emulated on a CPU"),
    ],
)
def test_devices_and_dtypes_are_checked_before_loading(
    tiny_model: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "a ball", "-m", str(tiny_model), "-o", str(tmp_path / "clip.mp4"), *arguments]
    assert main(command) == 2
    assert message in capsys.readouterr().err
