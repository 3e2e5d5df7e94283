"""Pipelines of diffusers' of every published family, with tiny random networks: what tests and benchmarks load.

    torch.manual_seed(0)
    save_pipeline("wan", folder)
    pipe = VideoDiTPipeline.from_pretrained(folder)

Weights are drawn from torch's generator as it stands, so that a seed before it gives the same folder each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from videodit import Edit
from videodit.families.parity import MEMBERS, randomize

WORDS = ["a", "red", "ball", "bounces", "on", "the", "grass", "blue", "cube"]
VOCABULARY = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
PROMPT, NEGATIVE = "a red ball bounces on the grass", "a blue cube"


def tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=77
    )


def t5(kind: Any = T5Config, width: int = 12) -> Any:
    config = kind(
        vocab_size=len(VOCABULARY), d_model=width, d_kv=4, d_ff=16, num_heads=2, num_layers=2, pad_token_id=0,
        eos_token_id=1, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return randomize((T5EncoderModel if kind is T5Config else UMT5EncoderModel)(config).eval())


def clip() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(VOCABULARY), hidden_size=10, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=10, eos_token_id=1, bos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return randomize(CLIPTextModel(config).eval())


def llama() -> LlamaModel:
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=12, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    return randomize(LlamaModel(config).eval())


def image_vae(**options: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **options,
    )  # fmt: skip


def wan_vae() -> diffusers.AutoencoderKLWan:
    return diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.7, 1.0, 2.0],
    )  # fmt: skip


def denoiser(name: str, **changes: Any) -> Any:
    member = MEMBERS[name]
    return randomize(getattr(diffusers, member.class_name)(**member.config | changes).eval())


UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
COGVIDEOX_BETAS = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "snr_shift_scale": 3.0, "clip_sample": False,
    "set_alpha_to_one": True,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A pipeline of diffusers', tiny.

    Attributes:
        pipeline: its class.
        parts: makes its components.
        latent: shape of the initial latents as ours takes them, without the batch.
        call: keywords of both calls.
        theirs: keywords of their call alone.
        ours: keywords of our call alone.
        seeded: theirs takes no initial latents, and both draw them.
        unguided: theirs calls the scale by another name.
        unnegated: theirs leads away from the empty prompt alone.
        pack: our latents in their layout.
        frames: the frames in their output as a tensor ``[T, 3, H, W]``.
    """

    pipeline: str
    parts: Callable[[], dict[str, Any]]
    latent: tuple[int, int, int, int]
    call: dict[str, Any]
    theirs: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)
    seeded: bool = False
    unguided: bool = False
    unnegated: bool = False
    pack: Callable[[Tensor], Tensor] = lambda x: x
    frames: Callable[[Any], Tensor] = lambda out: out.frames[0]


def pack_flux(x: Tensor) -> Tensor:
    b, c, _, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def qwen_parts() -> dict[str, Any]:
    text = {
        "vocab_size": len(VOCABULARY), "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}, "max_window_layers": 2,
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 12, "patch_size": 14,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.7, 1.0, 2.0],
    )  # fmt: skip
    return {
        "tokenizer": tokenizer(), "text_encoder": randomize(model), "transformer": denoiser("qwen_image"), "vae": vae,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
    }  # fmt: skip


def talker(template: str, **marks: str) -> PreTrainedTokenizerFast:
    """A tokenizer that writes conversations."""
    found = tokenizer()
    found.chat_template = template
    found.add_special_tokens(marks)
    return found


def flux2_parts(name: str, tokenizer: Any, text_encoder: Any, **more: Any) -> dict[str, Any]:
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=4, layers_per_block=1,
    )  # fmt: skip
    vae.bn.running_mean.normal_(std=0.3)
    vae.bn.running_var.uniform_(0.5, 2)
    return {
        "tokenizer": tokenizer, "text_encoder": randomize(text_encoder.eval()), "transformer": denoiser(name),
        "vae": vae, "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
    } | more  # fmt: skip


TINY_LANGUAGE_MODEL = {
    "vocab_size": len(VOCABULARY), "hidden_size": 4, "intermediate_size": 6, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 2, "pad_token_id": 0,
}  # fmt: skip


def flux2_dev_parts() -> dict[str, Any]:
    """Its layers 10, 20 and 30 are read; its conversation begins as texts do."""
    template = (
        "{{ bos_token }}{% for one in messages %}the {{ one['content'][0]['text'] }} {% endfor %}"
        "{% if add_generation_prompt %}on{% endif %}"
    )
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config={"model_type": "mistral", "num_hidden_layers": 31, **TINY_LANGUAGE_MODEL},
            vision_config={"model_type": "pixtral", "image_size": 28, "patch_size": 14, **vision},
        )
    )
    return flux2_parts("flux2-dev", talker(template, bos_token="<unk>"), model)


def flux2_klein_parts(**more: Any) -> dict[str, Any]:
    """Its layers 9, 18 and 27 are read."""
    template = (
        "{% for one in messages %}the {{ one['content'] }} {% endfor %}{% if add_generation_prompt %}on{% endif %}"
        "{% if enable_thinking is defined and not enable_thinking %} grass{% endif %}"
    )
    model = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=28, tie_word_embeddings=True, **TINY_LANGUAGE_MODEL))
    return flux2_parts("flux2-klein", talker(template), model, **more)


def llava_parts() -> dict[str, Any]:
    """A language model that sees 24×24 tokens of a picture, and a tokenizer with the marks of its template."""
    words = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]
    reader = tokenizer()
    reader.add_special_tokens({"additional_special_tokens": words})
    raw = reader.backend_tokenizer  # the template's mark is its sixth token
    raw.post_processor = processors.TemplateProcessing(single="</s> </s> $A", special_tokens=[("</s>", 1)])
    text = LlamaConfig(
        vocab_size=len(reader), hidden_size=12, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2, image_size=48, patch_size=2,
        projection_dim=8,
    )  # fmt: skip
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=reader.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )  # fmt: skip
    size = {"height": 48, "width": 48}
    return {
        "text_encoder": randomize(LlavaForConditionalGeneration(config).eval()), "tokenizer": reader,
        "image_processor": CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=size),
    }  # fmt: skip


def hunyuan_parts(name: str = "hunyuan_video", **changes: Any) -> dict[str, Any]:
    return {
        "text_encoder": llama(), "tokenizer": tokenizer(), "text_encoder_2": clip(), "tokenizer_2": tokenizer(),
        "transformer": denoiser(name),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        "vae": diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
        ),
    } | changes  # fmt: skip


def cogvideox_parts(name: str, scheduler: str, **vae: Any) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(), "text_encoder": t5(),
        "transformer": denoiser(name, max_text_seq_length=226),
        "scheduler": getattr(diffusers, scheduler)(**COGVIDEOX_BETAS),
        "vae": diffusers.AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
            down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
            scaling_factor=1.15258426, **vae,
        ),
    }  # fmt: skip


def ltx_parts(**vae: Any) -> dict[str, Any]:
    autoencoder = diffusers.AutoencoderKLLTXVideo(
        latent_channels=6, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), **vae,
    )  # fmt: skip
    autoencoder.latents_mean.copy_(torch.randn(6))
    autoencoder.latents_std.copy_(torch.rand(6) + 0.5)
    return {
        "tokenizer": tokenizer(), "text_encoder": t5(), "transformer": denoiser("ltx"), "vae": autoencoder,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
            max_image_seq_len=4096, shift_terminal=0.1,
        ),
    }  # fmt: skip


def wan_parts(**changes: Any) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(), "text_encoder": t5(UMT5Config), "transformer": denoiser("wan"), "vae": wan_vae(),
        "scheduler": diffusers.UniPCMultistepScheduler(**UNIPC),
    } | changes  # fmt: skip


def flux_parts(name: str, scheduler: dict[str, Any]) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(), "text_encoder": clip(), "tokenizer_2": tokenizer(), "text_encoder_2": t5(),
        "transformer": denoiser(name), "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
        "vae": image_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
    }  # fmt: skip


def mochi_parts() -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(), "text_encoder": t5(width=24), "transformer": denoiser("mochi", in_channels=12),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        "vae": diffusers.AutoencoderKLMochi(
            encoder_block_out_channels=(32, 32, 32, 32), decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ),
    }  # fmt: skip


def pixart_parts(name: str) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(), "text_encoder": t5(), "transformer": denoiser(name), "vae": image_vae(),
        "scheduler": diffusers.DPMSolverMultistepScheduler(**LINEAR, solver_order=2),
    }  # fmt: skip


def image_encoder() -> dict[str, Any]:
    config = CLIPVisionConfig(
        hidden_size=10, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14,
        projection_dim=10,
    )  # fmt: skip
    size = {"height": 28, "width": 28}
    return {
        "image_encoder": randomize(CLIPVisionModel(config).eval()),
        "image_processor": CLIPImageProcessor(size=size, crop_size=size),
    }


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8))


PIXART = {"clean_caption": False, "use_resolution_binning": False}
DYNAMIC = {"shift": 3.0, "use_dynamic_shifting": True}

CASES = {
    "wan": Case("WanPipeline", wan_parts, (4, 3, 4, 6), {"num_frames": 9, "height": 32, "width": 48}),
    "wan-euler": Case(
        "WanPipeline", lambda: wan_parts(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)),
        (4, 2, 4, 4), {"num_frames": 5, "height": 32, "width": 32},
        {"shifts_twice": True},
    ),
    "wan-two-experts": Case(
        "WanPipeline", lambda: wan_parts(transformer_2=denoiser("wan"), boundary_ratio=0.875),
        (4, 2, 4, 4), {"num_frames": 5, "height": 32, "width": 32, "guidance_scale_2": 3.0},
    ),
    "wan-i2v": Case(
        "WanImageToVideoPipeline",
        lambda: wan_parts(transformer=denoiser("wan-i2v", in_channels=12), **image_encoder()),
        (4, 3, 4, 6), {"num_frames": 9, "height": 32, "width": 48, "image": image(0)},
    ),
    "wan-flf2v": Case(
        "WanImageToVideoPipeline",
        lambda: wan_parts(transformer=denoiser("wan-flf2v", in_channels=12, pos_embed_seq_len=10), **image_encoder()),
        (4, 2, 4, 4),
        {"num_frames": 5, "height": 32, "width": 32, "image": image(0), "last_image": image(1)},
    ),
    "wan-2.2-i2v": Case(
        "WanImageToVideoPipeline",
        lambda: wan_parts(
            transformer=denoiser("wan", in_channels=12), transformer_2=denoiser("wan", in_channels=12),
            boundary_ratio=0.9,
        ),
        (4, 2, 4, 4), {"num_frames": 5, "height": 32, "width": 32, "image": image(0)},
    ),
    "wan-2.2-ti2v": Case(
        "WanImageToVideoPipeline", lambda: wan_parts(expand_timesteps=True),
        (4, 3, 4, 6), {"num_frames": 9, "height": 32, "width": 48, "image": image(0)},
    ),
    "lucy-edit": Case(
        "LucyEditPipeline", lambda: wan_parts(transformer=denoiser("wan", in_channels=8), expand_timesteps=True),
        (4, 2, 4, 6), {"num_frames": 5, "height": 32, "width": 48}, {"video": [image(i) for i in range(5)]},
        ours={"conditions": [Edit([image(i) for i in range(5)])]},
    ),
    "cogvideox-5b-i2v": Case(
        "CogVideoXImageToVideoPipeline",
        lambda: cogvideox_parts("cogvideox-5b-i2v", "CogVideoXDDIMScheduler"),
        (4, 3, 6, 10), {"num_frames": 9, "height": 48, "width": 80, "image": image(0)},
        pack=lambda x: x.transpose(1, 2),
    ),
    "cogvideox-fun-control": Case(
        "CogVideoXFunControlPipeline",
        lambda: cogvideox_parts("cogvideox-5b-i2v", "CogVideoXDDIMScheduler"),
        (4, 3, 6, 10), {"height": 48, "width": 80}, {"control_video": [image(i) for i in range(9)]},
        ours={"control": {"edges": [image(i) for i in range(9)]}, "num_frames": 9}, pack=lambda x: x.transpose(1, 2),
    ),
    "skyreels_v2": Case(
        "SkyReelsV2Pipeline", lambda: wan_parts(transformer=denoiser("skyreels_v2")),
        (4, 2, 4, 4), {"num_frames": 5, "height": 32, "width": 32},
    ),
    "skyreels_v2-df": Case(
        "SkyReelsV2DiffusionForcingPipeline", lambda: wan_parts(transformer=denoiser("skyreels_v2-df")),
        (4, 4, 4, 4), {"num_frames": 13, "height": 32, "width": 32}, {"ar_step": 2, "causal_block_size": 2},
        ours={"stagger": 2, "stagger_block": 2}, seeded=True,
    ),
    "skyreels_v2-df-i2v": Case(
        "SkyReelsV2DiffusionForcingImageToVideoPipeline", lambda: wan_parts(transformer=denoiser("skyreels_v2-df")),
        (4, 2, 4, 4), {"num_frames": 5, "height": 32, "width": 32, "image": image(0)},
    ),
    "ltx-0.9.0": Case(
        "LTXPipeline", ltx_parts, (6, 2, 2, 3), {"num_frames": 9, "height": 64, "width": 96},
        pack=lambda x: x.flatten(2).transpose(1, 2),
    ),
    "ltx-0.9.1": Case(
        "LTXPipeline", lambda: ltx_parts(timestep_conditioning=True), (6, 1, 2, 2),
        {"num_frames": 1, "height": 64, "width": 64}, pack=lambda x: x.flatten(2).transpose(1, 2),
    ),
    "ltx-0.9.7": Case(
        "LTXConditionPipeline",
        lambda: ltx_parts() | {"scheduler": diffusers.FlowMatchEulerDiscreteScheduler()},
        (6, 3, 2, 3), {"num_frames": 17, "height": 64, "width": 96}, pack=lambda x: x.flatten(2).transpose(1, 2),
    ),
    "cogvideox-2b": Case(
        "CogVideoXPipeline", lambda: cogvideox_parts("cogvideox-2b", "CogVideoXDDIMScheduler"),
        (4, 3, 6, 10), {"num_frames": 9, "height": 48, "width": 80}, pack=lambda x: x.transpose(1, 2),
    ),
    "cogvideox-5b": Case(
        "CogVideoXPipeline", lambda: cogvideox_parts("cogvideox-5b", "CogVideoXDPMScheduler"),
        (4, 3, 4, 4), {"num_frames": 9, "height": 32, "width": 32}, {"use_dynamic_cfg": True},
        pack=lambda x: x.transpose(1, 2),
    ),
    "cogvideox-1.5-5b": Case(  # three latents of its own, and one in front
        "CogVideoXPipeline", lambda: cogvideox_parts("cogvideox-1.5-5b", "CogVideoXDPMScheduler"),
        (4, 4, 4, 8), {"num_frames": 9, "height": 32, "width": 64}, {"use_dynamic_cfg": True},
        pack=lambda x: x.transpose(1, 2),
    ),
    "cogvideox-1.5-5b-i2v": Case(
        "CogVideoXImageToVideoPipeline",
        lambda: cogvideox_parts("cogvideox-1.5-5b-i2v", "CogVideoXDDIMScheduler", invert_scale_latents=True),
        (4, 4, 6, 10), {"num_frames": 9, "height": 48, "width": 80, "image": image(0)},
        pack=lambda x: x.transpose(1, 2),
    ),
    "cogvideox-1.5-even": Case(  # none in front
        "CogVideoXPipeline", lambda: cogvideox_parts("cogvideox-1.5-5b", "CogVideoXDDIMScheduler"),
        (4, 2, 4, 4), {"num_frames": 5, "height": 32, "width": 32}, pack=lambda x: x.transpose(1, 2),
    ),
    "hunyuan_video": Case(
        "HunyuanVideoPipeline", hunyuan_parts, (4, 2, 4, 6), {"num_frames": 5, "height": 32, "width": 48}
    ),
    "hunyuan_video-i2v": Case(
        "HunyuanVideoImageToVideoPipeline", lambda: hunyuan_parts("hunyuan_video-i2v", **llava_parts()),
        (4, 2, 4, 6), {"num_frames": 5, "height": 32, "width": 48, "image": image(0)},
    ),
    "hunyuan_video-i2v-33ch": Case(  # theirs counts the latent in front
        "HunyuanVideoImageToVideoPipeline", lambda: hunyuan_parts("hunyuan_video-i2v-33ch", **llava_parts()),
        (4, 3, 4, 6), {"height": 32, "width": 48, "image": image(0)}, {"num_frames": 9, "true_cfg_scale": 3.5},
        ours={"num_frames": 5},
    ),
    "latte": Case(
        "LattePipeline",
        lambda: {
            "tokenizer": tokenizer(), "text_encoder": t5(), "transformer": denoiser("latte"), "vae": image_vae(),
            "scheduler": diffusers.DDIMScheduler(**LINEAR, clip_sample=False),
        },
        (4, 3, 4, 6), {"height": 32, "width": 48}, {"video_length": 3, "clean_caption": False},
    ),
    "allegro": Case(
        "AllegroPipeline",
        lambda: {
            "tokenizer": tokenizer(), "text_encoder": t5(), "transformer": denoiser("allegro"),
            "scheduler": diffusers.EulerAncestralDiscreteScheduler(**LINEAR),
            "vae": diffusers.AutoencoderKLAllegro(
                block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, sample_size=32
            ),
        },
        (4, 6, 4, 4), {"num_frames": 24, "height": 32, "width": 32}, {"clean_caption": False},
    ),
    "pixart-sigma": Case(
        "PixArtSigmaPipeline", lambda: pixart_parts("pixart-sigma"), (4, 1, 4, 6), {"height": 32, "width": 48},
        PIXART, pack=lambda x: x[:, :, 0], frames=lambda out: out.images,
    ),
    "pixart-alpha": Case(
        "PixArtAlphaPipeline", lambda: pixart_parts("pixart-alpha-512"), (4, 1, 4, 4), {"height": 32, "width": 32},
        PIXART, pack=lambda x: x[:, :, 0], frames=lambda out: out.images,
    ),
    "flux-dev": Case(
        "FluxPipeline", lambda: flux_parts("flux-dev", DYNAMIC), (4, 1, 4, 6), {"height": 32, "width": 48},
        pack=pack_flux, frames=lambda out: out.images,
    ),
    "flux-kontext": Case(  # which would make its pictures larger
        "FluxKontextPipeline", lambda: flux_parts("flux-dev", DYNAMIC), (4, 1, 4, 6), {"height": 32, "width": 48},
        {"max_area": 32 * 48}, pack=pack_flux, frames=lambda out: out.images,
    ),
    "qwen_image": Case(
        "QwenImagePipeline", qwen_parts, (4, 1, 4, 6), {"height": 32, "width": 48}, {"true_cfg_scale": 3.5},
        pack=pack_flux, frames=lambda out: out.images, unguided=True,
    ),
    "flux2-dev": Case(
        "Flux2Pipeline", flux2_dev_parts, (16, 1, 2, 3), {"height": 32, "width": 48},
        pack=lambda x: x[:, :, 0], frames=lambda out: out.images,
    ),
    "flux2-klein": Case(
        "Flux2KleinPipeline", flux2_klein_parts, (16, 1, 2, 3), {"height": 32, "width": 48},
        ours={"negative_prompt": ""}, pack=lambda x: x[:, :, 0], frames=lambda out: out.images, unnegated=True,
    ),
    "flux2-klein-distilled": Case(
        "Flux2KleinPipeline", lambda: flux2_klein_parts(is_distilled=True), (16, 1, 2, 3), {"height": 32, "width": 48},
        frames=lambda out: out.images, seeded=True,
    ),
    "mochi": Case("MochiPipeline", mochi_parts, (12, 2, 4, 6), {"num_frames": 7, "height": 32, "width": 48}),
    "flux-schnell": Case(
        "FluxPipeline", lambda: flux_parts("flux-schnell", {"shift": 1.0}), (4, 1, 4, 4), {"height": 32, "width": 32},
        {"max_sequence_length": 256}, pack=pack_flux, frames=lambda out: out.images,
    ),
}  # fmt: skip


READ_WITH_PICTURE = ("hunyuan_video-i2v", "hunyuan_video-i2v-33ch")
"""Cases whose prompts are read together with a picture."""


def save_pipeline(name: str, folder: Path) -> None:
    """Write the pipeline of a case, as diffusers does."""
    case = CASES[name]
    getattr(diffusers, case.pipeline)(**case.parts()).save_pretrained(folder)
