"""What diffusers' pipelines and models promise, and recipes that say when a model is not as it was loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, MagCacheConfig, PyramidAttentionBroadcastConfig

from videodit import CausalVideoVAE, VideoDiT, VideoDiTPipeline
from videodit.errors import InputError


def _scale(pipe: Any) -> None:
    for parameter in pipe.transformer.parameters():
        parameter.data.mul_(0.8)


def _cache(pipe: Any) -> None:
    ratios = {"retention_ratio": 0.0, "threshold": 100.0, "mag_ratios": [1.0] * 2}
    pipe.transformer.enable_cache(MagCacheConfig(num_inference_steps=2, **ratios))


def _replace_vae(pipe: Any) -> None:
    pipe.vae = copy.deepcopy(pipe.vae)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (_scale, "transformer"),
        (_cache, "transformer"),
        (lambda pipe: pipe.transformer.load_state_dict(pipe.transformer.state_dict()), "transformer"),
        (lambda pipe: pipe.transformer.to(torch.bfloat16), "transformer"),
        (_replace_vae, "vae"),
        (lambda pipe: pipe.tokenizer.add_tokens(["zyx"]), "tokenizer"),
        (lambda pipe: pipe.register_modules(scheduler=FlowMatchEulerDiscreteScheduler(shift=9.0)), "scheduler"),
    ],
)
def test_a_changed_part_has_no_hash(tiny_model: Path, change: Callable[[Any], object], part: str) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    assert pipe.changed == []
    change(pipe)
    (told,) = pipe.changed
    assert told.startswith(f"{part}: ")
    if part != "tokenizer":  # the encoder has no embedding for the new token, and needs none here
        recipe = pipe("a ball", num_inference_steps=2, num_frames=1, output_type="latent").recipes[0]
        assert recipe["model_hash"] is None
        assert recipe["changed"] == [told]


def test_a_scheduler_with_the_same_settings_changes_nothing(tiny_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    assert pipe.changed == []


def test_vae_forward_is_called_as_autoencoders_of_diffusers_are() -> None:
    vae = CausalVideoVAE(base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    clip = torch.randn(1, 3, 5, 16, 16)
    (out,) = vae(clip, False, False)
    assert torch.equal(out, vae(clip, sample_posterior=False, return_dict=True, generator=None).sample)


def _hooked(model: VideoDiT, **ranges: Any) -> set[str]:
    model.enable_cache(PyramidAttentionBroadcastConfig(current_timestep_callback=lambda: 500, **ranges))
    return {
        name
        for name, module in model.named_modules()
        if "pyramid_attention_broadcast" in getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
    }


def _small(**options: Any) -> VideoDiT:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "text_dim": 16}
    return VideoDiT(**sizes, ffn_dim=32, num_layers=1, **options)


def test_pyramid_attention_broadcast_tells_the_kinds_of_attention_apart() -> None:
    assert _hooked(_small(), spatial_attention_block_skip_range=2) == {"blocks.0.attn1"}
    assert _hooked(_small(), cross_attention_block_skip_range=2) == {"blocks.0.attn2"}
    factorized = {"attention": "factorized", "rope": None}
    assert _hooked(_small(**factorized), temporal_attention_block_skip_range=2) == {"blocks.0.temporal.attn1"}
    assert _hooked(_small(**factorized), spatial_attention_block_skip_range=2) == {"blocks.0.spatial.attn1"}
    with pytest.raises(InputError, match="no temporal attention"):
        _hooked(_small(), temporal_attention_block_skip_range=2)


def test_fused_projections_are_refused() -> None:
    with pytest.raises(InputError, match="does not fuse"):
        _small().fuse_qkv_projections()


def test_from_pipe_keeps_settings_and_origin(tiny_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    made = VideoDiTPipeline.from_pipe(pipe)
    assert made.defaults == pipe.defaults
    assert made.changed == []
    assert made.transformer is pipe.transformer
    with pytest.raises(InputError, match="from_pipe takes a VideoDiTPipeline"):
        VideoDiTPipeline.from_pipe(object())


def test_parts_of_a_family_with_several_pipelines_need_sampled_as() -> None:
    transformer = _small(family="wan")
    with pytest.raises(InputError, match=r"needs sampled_as; legal are .*WanPipeline"):
        VideoDiTPipeline(None, None, transformer, None, None)


@pytest.mark.parametrize(
    ("tiles", "recorded"), [((16, 16, 8, 8), [16, 8]), ((16, 32, 16, 24), [16, 32, 16, 24]), ((64, 64), None)]
)
def test_recipes_tell_the_tiles(tiny_model: Path, tiles: tuple[int, ...], recorded: list[int] | None) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.vae.enable_tiling(*tiles)
    out = pipe("a ball", num_inference_steps=1, num_frames=1, height=32, width=64, output_type="latent")
    assert out.recipes[0].get("tiling") == recorded
