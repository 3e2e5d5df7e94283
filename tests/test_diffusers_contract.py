"""What diffusers' pipelines and models promise, and recipes that say when a model is not as it was loaded."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from alignment import aligned
from diffusers import FlowMatchEulerDiscreteScheduler, MagCacheConfig, PyramidAttentionBroadcastConfig
from peft import LoraConfig

from videodit import CausalVideoVAE, VideoDiT, VideoDiTPipeline
from videodit.attention import AttentionProcessor
from videodit.errors import InputError
from videodit.pipelines.recipe import read_request


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


def test_a_part_that_is_taken_away_is_told(tiny_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.vae = None
    gc.collect()
    assert pipe.changed == ["vae: taken away"]


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


@pytest.mark.parametrize(
    ("part", "method", "arguments", "message"),
    [
        ("transformer", "fuse_qkv_projections", (), "does not fuse"),
        ("transformer", "unfuse_qkv_projections", (), "does not fuse"),
        ("transformer", "set_attn_processor", (None,), "can be called, got None"),
        ("transformer", "set_attn_processor", (AttentionProcessor,), "can be called, got <class"),
        ("transformer", "set_attn_processor", ({"other": AttentionProcessor()},), "number of processors .*: other"),
        ("vae", "set_attention_backend", ("native",), "has no attention backends"),
        ("vae", "enable_xformers_memory_efficient_attention", (), "has no attention backends"),
        ("vae", "enable_npu_flash_attention", (), "has no attention backends"),
        ("vae", "enable_xla_flash_attention", (), "has no attention backends"),
        ("vae", "enable_gradient_checkpointing", (), "does not support gradient checkpointing"),
        (None, "enable_attention_slicing", (), "not computed in slices"),
    ],
)
def test_what_would_change_nothing_is_refused(
    tiny_model: Path, part: str | None, method: str, arguments: tuple[Any, ...], message: str
) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    with pytest.raises(ValueError, match=message):
        getattr(pipe if part is None else getattr(pipe, part), method)(*arguments)
    assert pipe.changed == []


@pytest.mark.parametrize("method", ["enable_freeu", "fuse_qkv_projections"])
def test_methods_of_other_pipelines_are_not_there(method: str) -> None:
    assert not hasattr(VideoDiTPipeline, method)


class _Halved(AttentionProcessor):
    def __call__(self, *arguments: Any) -> torch.Tensor:
        return super().__call__(*arguments) / 2


@pytest.mark.parametrize("each", [False, True])
def test_processors_that_are_set_are_used_and_told(tiny_model: Path, each: bool) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    _randomize(pipe.transformer)
    before = _latents(pipe)
    names = list(pipe.transformer.attn_processors)
    processors: Any = {name: _Halved() for name in names} if each else _Halved()
    pipe.transformer.set_attn_processor(processors)
    assert not each or list(processors) == names
    assert not torch.equal(_latents(pipe), before)
    assert any("processors" in told or told.startswith("transformer: ") for told in pipe.changed)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_weights_stored_in_fewer_bits_are_used_and_told(tiny_model: Path, part: str) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    before = _frames(pipe)
    network = getattr(pipe, part)
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert any(value.dtype == torch.float8_e4m3fn for value in network.parameters())
    assert part == "transformer" or not torch.equal(_frames(pipe), before)
    assert any(told.startswith(f"{part}: ") for told in pipe.changed)


def _randomize(network: torch.nn.Module) -> None:
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))


def _latents(pipe: VideoDiTPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe("a ball", num_inference_steps=1, num_frames=5, generator=generator, output_type="latent").frames


def test_from_pipe_keeps_settings_and_origin(tiny_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    made = VideoDiTPipeline.from_pipe(pipe)
    assert made.defaults == pipe.defaults
    assert made.changed == []
    assert made.transformer is pipe.transformer
    with pytest.raises(InputError, match="from_pipe takes a VideoDiTPipeline"):
        VideoDiTPipeline.from_pipe(object())


def test_parts_of_a_model_made_here_do_not_tell_its_sizes(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    settings = vars(pipe.defaults)
    assert caplog.text == ""
    assert VideoDiTPipeline(**pipe.components, **settings).defaults == pipe.defaults
    assert VideoDiTPipeline.from_pipe(pipe).defaults == pipe.defaults
    assert caplog.text == ""
    made = VideoDiTPipeline(**pipe.components, height=32)
    assert (made.defaults.height, made.defaults.width, made.defaults.num_frames) == (32, 64, 17)
    assert "a call uses fps=16, guidance_scale=5.0, num_frames=17, num_inference_steps=30, width=64" in caplog.text
    assert "from_pipe(pipe) keeps the settings" in caplog.text


def test_parts_of_a_family_with_several_pipelines_need_sampled_as() -> None:
    transformer = _small(family="wan")
    with pytest.raises(InputError, match=r"needs sampled_as; valid values are .*WanPipeline"):
        VideoDiTPipeline(None, None, transformer, None, None)


@pytest.mark.parametrize(
    ("tiles", "recorded"), [((16, 16, 8, 8), [16, 8]), ((16, 32, 16, 24), [16, 32, 16, 24]), ((64, 64), None)]
)
def test_recipes_tell_the_tiles(tiny_model: Path, tiles: tuple[int, ...], recorded: list[int] | None) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.vae.enable_tiling(*tiles)
    out = pipe("a ball", num_inference_steps=1, num_frames=1, height=32, width=64, output_type="latent")
    assert out.recipes[0].get("tiling") == recorded


def _frames(pipe: VideoDiTPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe("a ball", num_inference_steps=1, num_frames=5, generator=generator, output_type="pt").frames


def test_a_pipeline_saved_as_a_variant_in_shards_makes_the_same_clip(tiny_model: Path, tmp_path: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.save_pretrained(tmp_path, variant="fp16", max_shard_size="20KB")
    for network in ("transformer", "vae"):
        files = {path.name for path in (tmp_path / network).iterdir()}
        assert "diffusion_pytorch_model.safetensors.index.fp16.json" in files
        shards = [name for name in files if name.endswith(".safetensors")]
        assert len(shards) > 1
        assert all(name.startswith("diffusion_pytorch_model.fp16-0") for name in shards)
    again = VideoDiTPipeline.from_pretrained(tmp_path, variant="fp16")
    assert torch.equal(_frames(aligned(again)), _frames(aligned(pipe)))


@pytest.mark.parametrize("part", ["transformer", "vae"])
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("max_shard_size", ["10GB", "20KB"])
def test_a_network_is_read_as_it_was_saved(
    tiny_model: Path, tmp_path: Path, part: str, variant: str | None, max_shard_size: str
) -> None:
    network = getattr(VideoDiTPipeline.from_pretrained(tiny_model), part)
    network.save_pretrained(tmp_path, variant=variant, max_shard_size=max_shard_size)
    again = type(network).from_pretrained(tmp_path, variant=variant)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())
    if variant is not None:
        with pytest.raises(OSError, match=r"no file named .* holds variants alone; pass variant, one of .*fp16"):
            type(network).from_pretrained(tmp_path)


def _said(name: str, level: int) -> tuple[logging.Logger, list[str]]:
    """One of diffusers' loggers, which pass nothing on, and what it says from now on."""
    log, lines = logging.getLogger(name), []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.setLevel(level)
    log.addHandler(handler)
    return log, lines


def test_loading_tells_the_parts_in_the_log_of_diffusers(tiny_model: Path) -> None:
    log, lines = _said("diffusers.pipelines.pipeline_utils", logging.INFO)
    try:
        VideoDiTPipeline.from_pretrained(tiny_model)
    finally:
        log.removeHandler(log.handlers[-1])
        log.setLevel(logging.NOTSET)
    told = {line.split()[1] for line in lines if line.startswith("Loaded ")}
    assert told >= {"transformer", "vae", "scheduler", "text_encoder", "tokenizer"}


def test_weights_of_a_lora_for_parts_that_are_none_are_told_as_diffusers_does(tiny_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "one")
    log, lines = _said("diffusers.loaders.lora_base", logging.WARNING)
    try:
        pipe.set_adapters("one", {"foo": 0.5})
    finally:
        log.removeHandler(log.handlers[-1])
        log.setLevel(logging.NOTSET)
    (line,) = lines
    assert line.startswith("The following components in `adapter_weights` are not part of the pipeline: ['foo']. ")


def test_group_offload_of_a_pipeline_makes_the_same_clip(tiny_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    before = _frames(pipe)
    pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    for network in (pipe.transformer, pipe.vae):
        hooked = [module._diffusers_hook.hooks for module in network.modules() if hasattr(module, "_diffusers_hook")]
        assert any("group_offloading" in hooks for hooks in hooked)
    assert torch.equal(_frames(pipe), before)


@pytest.mark.parametrize("tiles", [[16, 8], [16, 32, 16, 24]])
def test_clips_of_other_tiles_are_not_made_again(tiles: list[int]) -> None:
    with pytest.raises(InputError, match=r"decoded in tiles of .*; remake knows \[256, 64\] alone"):
        read_request({"prompt": "x", "seed": 1, "model": "mini", "tiling": tiles}, "clip.mp4")
