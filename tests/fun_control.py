"""Tiny models that see what steers them, Wan 2.1 Fun-Control and its Camera, and a plain loop over their parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline
from test_conditions import seeded
from tiny_parts import denoiser, image_encoder, wan_parts
from torch import Tensor

from videodit import VideoDiT, VideoDiTPipeline
from videodit.families import FAMILIES
from videodit.pipelines.spec import ModelSpec

CLASS = "WanFunControlPipeline"
PROMPT = "a red ball"
SIZE: dict[str, Any] = {"num_frames": 9, "height": 32, "width": 48}
PUBLISHED = {
    "14B": {"image_dim": 1280, "added_kv_proj_dim": 5120},
    "1.3B": {
        "image_dim": 1280, "num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960, "added_kv_proj_dim": 1536,
    },
}  # fmt: skip
"""What both models have in common in ``transformer/config.json``, by size."""


def save_fun_model(folder: Path, *, in_channels: int, name: str = CLASS, tokens: bool = True) -> None:
    """Save a tiny Wan, with image tokens or without, whose pipeline is of a class that diffusers need not have."""
    if tokens:
        parts = wan_parts(transformer=denoiser("wan-i2v", in_channels=in_channels), **image_encoder())
    else:
        parts = wan_parts(transformer=denoiser("wan", in_channels=in_channels))
    WanImageToVideoPipeline(**parts).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))


def quiet_pipeline(folder: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise() -> Tensor:
    """Of the clips that :func:`make` makes."""
    return torch.randn(1, 4, 3, 4, 6, generator=seeded(3))


def make(pipe: VideoDiTPipeline, control: Any, **call: Any) -> Tensor:
    call = {"num_inference_steps": 3, "output_type": "latent", "latents": noise(), **SIZE} | call
    return pipe(PROMPT, control=control, **call).frames


def encoded(theirs: WanImageToVideoPipeline, pixels: np.ndarray) -> Tensor:
    """Latents of frames ``[T, H, W, 3]`` from 0 to 255, as diffusers encodes and scales them."""
    config = theirs.vae.config
    mean, std = (torch.tensor(one).view(1, -1, 1, 1, 1) for one in (config.latents_mean, config.latents_std))
    clip = torch.from_numpy(pixels).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    return (theirs.vae.encode(clip).latent_dist.mode() - mean) / std


def made_by_a_loop(
    theirs: WanImageToVideoPipeline,
    pipe: VideoDiTPipeline,
    beside: list[Tensor],
    picture: PIL.Image.Image | None,
    *,
    masked: bool = False,
) -> Tensor:
    """What :func:`make` makes with guidance of 3: channels beside the latents, and the picture's with zeros behind it.

    Without a picture there are zeros in its place, and in that of its tokens. ``masked``: four channels say which
    frames are there, and grey frames are behind the picture before it is encoded.
    """
    first = torch.zeros(1, 4, 3, 4, 6)
    dim = theirs.transformer.config.image_dim
    tokens = None if dim is None else torch.zeros(1, 257, dim)
    if picture is not None:
        first[:, :, :1] = encoded(theirs, np.array(picture)[None])
        if tokens is not None:
            tokens = theirs.encode_image(picture, torch.device("cpu"))
    if masked:
        mask = torch.zeros(1, 4, 3, 4, 6)
        if picture is not None:
            mask[:, :, 0] = 1
            frames = np.full((9, 32, 48, 3), 127.5)
            frames[0] = np.array(picture)
            first = encoded(theirs, frames)
        first = torch.cat([mask, first], dim=1)
    embeds, negative, *_ = pipe.encode_prompt(PROMPT, "")
    x = noise()
    scheduler = UniPCMultistepScheduler.from_config(theirs.scheduler.config)
    scheduler.set_timesteps(3)
    for t in scheduler.timesteps:
        seen = torch.cat([x, *beside, first], dim=1)
        both = [
            theirs.transformer(seen, t[None], text, encoder_hidden_states_image=tokens).sample
            for text in (embeds, negative)
        ]
        x = scheduler.step(both[1] + 3.0 * (both[0] - both[1]), t, x, return_dict=False)[0]
    return x


def published(theirs: dict[str, Any]) -> tuple[VideoDiT, ModelSpec]:
    """A model of a published size, without its weights, and how it is sampled."""
    config = FAMILIES["wan"].native_config(theirs)
    with torch.device("meta"):
        model = VideoDiT.from_config(config)
    vae = {"_class_name": "AutoencoderKLWan", "z_dim": 16}
    return model, ModelSpec.from_configs({"_class_name": CLASS}, theirs, vae)
