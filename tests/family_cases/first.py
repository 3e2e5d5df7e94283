"""The pipelines of the first nine families."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, UMT5Config

from family_cases.common import (
    COGVIDEOX_BETAS,
    LINEAR,
    UNIPC,
    Case,
    clip,
    denoiser,
    image_vae,
    llama,
    t5,
    tokenizer,
    wan_vae,
)
from videodit.families.parity import randomize


def pack_flux(x: Tensor) -> Tensor:
    b, c, _, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def hunyuan_parts() -> dict[str, Any]:
    return {
        "text_encoder": llama(), "tokenizer": tokenizer(), "text_encoder_2": clip(), "tokenizer_2": tokenizer(),
        "transformer": denoiser("hunyuan_video"),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        "vae": diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
        ),
    }  # fmt: skip


def cogvideox_parts(name: str, scheduler: str) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(), "text_encoder": t5(),
        "transformer": denoiser(name, max_text_seq_length=226),
        "scheduler": getattr(diffusers, scheduler)(**COGVIDEOX_BETAS),
        "vae": diffusers.AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
            down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
            scaling_factor=1.15258426,
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
    "cogvideox-5b-i2v": Case(
        "CogVideoXImageToVideoPipeline",
        lambda: cogvideox_parts("cogvideox-5b-i2v", "CogVideoXDDIMScheduler"),
        (4, 3, 6, 10), {"num_frames": 9, "height": 48, "width": 80, "image": image(0)},
        pack=lambda x: x.transpose(1, 2),
    ),
    "skyreels_v2": Case(
        "SkyReelsV2Pipeline", lambda: wan_parts(transformer=denoiser("skyreels_v2")),
        (4, 2, 4, 4), {"num_frames": 5, "height": 32, "width": 32},
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
    "hunyuan_video": Case(
        "HunyuanVideoPipeline", hunyuan_parts, (4, 2, 4, 6), {"num_frames": 5, "height": 32, "width": 48}
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
    "flux-schnell": Case(
        "FluxPipeline", lambda: flux_parts("flux-schnell", {"shift": 1.0}), (4, 1, 4, 4), {"height": 32, "width": 32},
        {"max_sequence_length": 256}, pack=pack_flux, frames=lambda out: out.images,
    ),
}  # fmt: skip
