"""Pipelines of diffusers' and ours made of one another in memory, and of bare components."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import pytest
import torch
from alignment import aligned
from peft import LoraConfig
from tiny_families import CASES, PROMPT
from tiny_parts import image_encoder
from torch import Tensor
from variants import A_FEW_OF_EVERY_CASE

from videodit import VideoDiTPipeline
from videodit.errors import InputError
from videodit.families import FAMILIES


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def clip_of(name: str, pipe: VideoDiTPipeline) -> Tensor:
    case = CASES[name]
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "num_frames": case.latent[1], **case.call, **case.ours, "output_type": "pt"}
    return pipe(PROMPT, generator=generator(), **call).frames


def defaults_of(pipe: VideoDiTPipeline) -> dict[str, Any]:
    components = {*pipe.components, "_name_or_path"}
    return {key: value for key, value in pipe.config.items() if key not in components}


@torch.no_grad()
@pytest.mark.parametrize("name", A_FEW_OF_EVERY_CASE)
def test_made_of_a_pipeline_of_diffusers_in_memory_it_is_the_same(name: str, folder: Callable[[str], Path]) -> None:
    theirs = getattr(diffusers, CASES[name].pipeline).from_pretrained(folder(name))
    loaded, made = VideoDiTPipeline.from_pretrained(folder(name)), VideoDiTPipeline.from_pipe(theirs)
    assert defaults_of(made) == defaults_of(loaded)
    assert made.text_encoder is theirs.text_encoder
    if not made.sampling.scheduler:  # nothing of it is other here
        assert made.scheduler is theirs.scheduler
    pointers = {tensor.data_ptr() for tensor in theirs.transformer.state_dict().values()}
    shared = [tensor.data_ptr() in pointers for tensor in made.transformer.state_dict().values()]
    assert sum(shared) > 0.7 * len(shared)
    assert torch.equal(clip_of(name, aligned(made)), clip_of(name, aligned(loaded)))


@torch.no_grad()
@pytest.mark.parametrize("name", A_FEW_OF_EVERY_CASE)
def test_a_pipeline_of_diffusers_is_made_again(name: str, folder: Callable[[str], Path]) -> None:
    theirs = getattr(diffusers, CASES[name].pipeline).from_pretrained(folder(name))
    again = VideoDiTPipeline.from_pipe(theirs).to_diffusers()
    assert type(again) is type(theirs)
    for part in ("transformer", "transformer_2", "vae"):
        before, after = getattr(theirs, part, None), getattr(again, part, None)
        assert (before is None) == (after is None)
        if before is None:
            continue
        assert type(after) is type(before)
        assert set(after.state_dict()) == set(before.state_dict())
        for key, value in before.state_dict().items():
            assert torch.equal(value.to(after.state_dict()[key].dtype), after.state_dict()[key]), key
        for (key, buffer), (_, kept) in zip(after.named_buffers(), before.named_buffers(), strict=True):
            assert torch.equal(buffer, kept.to(buffer.dtype)), key
        for key, value in before.config.items():
            assert key.startswith("_") or after.config[key] == value
    assert {key: again.config.get(key) for key in ("boundary_ratio", "expand_timesteps")} == {
        key: theirs.config.get(key) for key in ("boundary_ratio", "expand_timesteps")
    }


@torch.no_grad()
@pytest.mark.parametrize("name", A_FEW_OF_EVERY_CASE)
def test_made_of_its_components_it_is_the_same(name: str, folder: Callable[[str], Path]) -> None:
    pipe = VideoDiTPipeline.from_pretrained(folder(name))
    names = ("boundary_ratio", "expand_timesteps", "is_distilled")
    settings = {name: pipe.config[name] for name in names}
    (family,) = [family for family in FAMILIES.values() if CASES[name].pipeline in family.sampling]
    if len(family.sampling) > 1:
        settings["sampled_as"] = CASES[name].pipeline
    if pipe.sampling.guider is not None:  # which is no component here
        settings["guidance_scale"] = pipe.config.guidance_scale
    made = VideoDiTPipeline(**pipe.components, **settings)
    assert defaults_of(made) == defaults_of(pipe)
    assert torch.equal(clip_of(name, made), clip_of(name, pipe))


def test_a_part_that_diffusers_alone_has_is_missed(
    folder: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """LongCat-Image's, which rewrites prompts."""
    theirs = diffusers.LongCatImagePipeline.from_pretrained(folder("longcat_image"))
    with caplog.at_level(logging.WARNING):
        made = VideoDiTPipeline.from_pipe(theirs)
        assert "text_processor of LongCatImagePipeline have no part" in caplog.text
        assert made.to_diffusers().text_processor is None
    assert "text_processor of LongCatImagePipeline had no part in how clips were made here" in caplog.text


@torch.no_grad()
@pytest.mark.parametrize("name", ["wan", "cogvideox-5b", "flux-dev", "mochi"])
def test_a_pipeline_of_diffusers_made_here_makes_its_frames(name: str, folder: Callable[[str], Path]) -> None:
    case = CASES[name]
    theirs = getattr(diffusers, case.pipeline).from_pretrained(folder(name))
    again = VideoDiTPipeline.from_pretrained(folder(name)).to_diffusers()
    frames = []
    for pipe in (aligned(theirs), aligned(again)):
        pipe.set_progress_bar_config(disable=True)
        call = {"num_inference_steps": 2, **case.call, "output_type": "pt"}
        frames.append(case.frames(pipe(PROMPT, **call, generator=generator())))
    assert torch.equal(*frames)


def _quantized(pipe: Any) -> None:
    class Packed(torch.nn.Parameter):
        pass

    pipe.transformer.proj_out.weight = Packed(pipe.transformer.proj_out.weight.data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pipe: pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"])), "has adapters .default."),
        (lambda pipe: pipe.transformer.register_forward_hook(lambda *_: None), "transformer has hooks"),
        (
            lambda pipe: pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1)),
            "transformer has hooks .FirstBlockCacheConfig",
        ),
        (
            lambda pipe: pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32),
            "transformer has hooks .layerwise_casting",
        ),
        (lambda pipe: pipe.vae.register_forward_hook(lambda *_: None), "vae has hooks"),
        (lambda pipe: pipe.transformer.set_attn_processor(Other()), "other attention processors than its class"),
        (
            lambda pipe: pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level"),
            "is offloaded; call remove_all_hooks",
        ),
        (lambda pipe: accelerate.cpu_offload(pipe.text_encoder, torch.device("cpu")), "text_encoder is offloaded"),
        (_quantized, r"transformer is quantized \(proj_out\.weight is a Packed\)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("to", ["native", "diffusers"])
def test_what_another_class_would_lose_is_refused(
    to: str, change: Callable[[Any], object], message: str, folder: Callable[[str], Path]
) -> None:
    theirs = diffusers.WanPipeline.from_pretrained(folder("wan"))
    pipe = theirs if to == "native" else VideoDiTPipeline.from_pipe(theirs)
    change(pipe)
    with pytest.raises(InputError, match=message):
        VideoDiTPipeline.from_pipe(pipe) if to == "native" else pipe.to_diffusers()


class Other:
    def __call__(self, *_: Any, **__: Any) -> None:
        """Stands for somebody's own attention."""


def test_tiles_and_backends_are_kept(folder: Callable[[str], Path]) -> None:
    theirs = diffusers.WanPipeline.from_pretrained(folder("wan"))
    theirs.vae.enable_tiling(64, 48, 32, 24)
    theirs.vae.enable_slicing()
    theirs.transformer.set_attention_backend("native")
    made = VideoDiTPipeline.from_pipe(theirs)
    again = made.to_diffusers()
    for vae in (made.vae, again.vae):
        assert (vae.use_tiling, vae.use_slicing) == (True, True)
        assert (vae.tile_sample_min_height, vae.tile_sample_min_width) == (64, 48)
        assert (vae.tile_sample_stride_height, vae.tile_sample_stride_width) == (32, 24)
    for model in (made.transformer, again.transformer):
        assert next(iter(model.attn_processors.values()))._attention_backend == "native"


def test_pipelines_of_other_classes_are_refused(tiny_model: Path, folder: Callable[[str], Path]) -> None:
    class WanPipeline(diffusers.WanPipeline):
        """Somebody's own, which may sample in another way."""

    theirs = diffusers.WanPipeline.from_pretrained(folder("wan"))
    with pytest.raises(InputError, match=r"one of diffusers' WanPipeline, .*, got a WanPipeline"):
        VideoDiTPipeline.from_pipe(WanPipeline(**theirs.components))
    with pytest.raises(InputError, match="options dtype are unknown"):
        VideoDiTPipeline.from_pipe(theirs, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="a model of no published family"):
        VideoDiTPipeline.from_pretrained(tiny_model).to_diffusers()
    with pytest.raises(InputError, match=r"WanPipeline takes no image_encoder; set them to None first"):
        VideoDiTPipeline.from_pipe(theirs, image_encoder=image_encoder()["image_encoder"]).to_diffusers()


@pytest.mark.parametrize("name", A_FEW_OF_EVERY_CASE)
def test_from_pipe_of_diffusers_refuses_our_parts(name: str, folder: Callable[[str], Path]) -> None:
    """Its classes are diffusers' alone; :meth:`to_diffusers` makes them."""
    pipe = VideoDiTPipeline.from_pretrained(folder(name))
    component = getattr(diffusers, CASES[name].pipeline)
    with pytest.raises(ValueError, match=r"but only .* were passed"):
        component.from_pipe(pipe)
    assert type(component.from_pipe(pipe.to_diffusers())) is component
