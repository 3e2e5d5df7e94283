"""Pipelines of diffusers' of every published family, with tiny random networks: what tests and benchmarks load.

    torch.manual_seed(0)
    save_pipeline("wan", folder)
    pipe = VideoDiTPipeline.from_pretrained(folder)

Weights are drawn from torch's generator as it stands, so that a seed before it gives the same folder each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
from PIL import Image
from tiny_parts import (
    DYNAMIC,
    LINEAR,
    cogvideox_parts,
    denoiser,
    flux2_dev_parts,
    flux2_klein_parts,
    flux_parts,
    hunyuan15_parts,
    hunyuan15_picture_parts,
    hunyuan_parts,
    image_encoder,
    image_vae,
    llava_parts,
    longcat_parts,
    ltx_parts,
    mochi_parts,
    pixart_parts,
    qwen_edit_parts,
    qwen_parts,
    t5,
    tokenizer,
    wan_parts,
    z_image_parts,
)
from torch import Tensor

from videodit import Edit

PROMPT, NEGATIVE = "a red ball bounces on the grass", "a blue cube"


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


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8))


PIXART = {"clean_caption": False, "use_resolution_binning": False}

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
    "hunyuan_video15": Case(
        "HunyuanVideo15Pipeline", hunyuan15_parts, (4, 2, 4, 6), {"num_frames": 5, "height": 64, "width": 96},
        unguided=True,
    ),
    "hunyuan_video15-i2v": Case(
        "HunyuanVideo15ImageToVideoPipeline", hunyuan15_picture_parts, (4, 2, 2, 3),
        {"num_frames": 5, "image": image(0)}, ours={"height": 32, "width": 48}, unguided=True,
    ),
    "hunyuan_video15-meanflow": Case(
        "HunyuanVideo15ImageToVideoPipeline", lambda: hunyuan15_picture_parts("hunyuan_video15-meanflow"), (4, 2, 2, 3),
        {"num_frames": 5, "image": image(0)}, ours={"height": 32, "width": 48}, unguided=True,
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
    "longcat_image": Case(
        "LongCatImagePipeline", longcat_parts, (4, 1, 4, 6), {"height": 32, "width": 48},
        {"enable_prompt_rewrite": False}, pack=pack_flux, frames=lambda out: out.images,
    ),
    "z_image": Case(
        "ZImagePipeline", z_image_parts, (4, 1, 4, 6), {"height": 32, "width": 48},
        pack=lambda x: x[:, :, 0], frames=lambda out: out.images,
    ),
    "z_image-turbo": Case(
        "ZImagePipeline", z_image_parts, (4, 1, 4, 4), {"height": 32, "width": 32, "guidance_scale": 0.0},
        pack=lambda x: x[:, :, 0], frames=lambda out: out.images,
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


EDITS = {
    name: Case(
        pipeline, partial(qwen_edit_parts, **config), (4, 1, 4, 6), {"height": 32, "width": 48}, pack=pack_flux,
        frames=lambda out: out.images, unguided=True,
    )
    for name, pipeline, config in (
        ("qwen_image-edit", "QwenImageEditPipeline", {}),
        ("qwen_image-edit-2509", "QwenImageEditPlusPipeline", {}),
        ("qwen_image-edit-2511", "QwenImageEditPlusPipeline", {"zero_cond_t": True}),
    )
}  # fmt: skip
"""Cases that make nothing without references. diffusers reads their folders where torchvision is."""


def save_pipeline(name: str, folder: Path) -> None:
    """Write the pipeline of a case, as diffusers does."""
    case = (CASES | EDITS)[name]
    parts = case.parts()
    reader = parts.get("processor")
    made = getattr(diffusers, case.pipeline)(**parts if reader is None else parts | {"processor": None})
    made.save_pretrained(folder)
    if reader is not None:
        reader.image_processor.save_pretrained(folder / "processor")
        path = folder / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"processor": ["transformers", "Qwen2VLProcessor"]}))
