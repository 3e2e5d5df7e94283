"""What a clip starts from besides its prompt: a first image, and a last one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from videodit.families.sampling import ImageCondition
from videodit.flow import token_timesteps
from videodit.pipelines.autoencoders import encode_image


def check_image(image: Any) -> None:
    """See that an image is one image.

    Raises:
        ValueError: several, or something else.
    """
    if image is None or isinstance(image, PIL.Image.Image):
        return
    if not isinstance(image, (Tensor, np.ndarray)) or image.ndim not in (3, 4) or (image.ndim == 4 and len(image) != 1):
        found = list(image.shape) if hasattr(image, "shape") else type(image).__name__
        raise ValueError(f"an image must be one PIL image, array [H, W, 3] or tensor [3, H, W], got {found}")


def fingerprint(image: Any) -> str:
    """16 hexadecimal digits that tell an image from another."""
    pixels = image.detach().cpu().float().numpy() if isinstance(image, Tensor) else np.asarray(image)
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Condition:
    """Given parts of a clip, in the forms that a transformer can take them.

    Attributes:
        channels: ``[B, C', T, H, W]`` behind the latents' own channels.
        clean: latents ``[B, C, T, H, W]`` that are kept where ``keep`` says.
        keep: boolean ``[1, 1, T, H, W]``.
        tokens: of an image encoder, ``[B, I, image_dim]``.
    """

    channels: Tensor | None = None
    clean: Tensor | None = None
    keep: Tensor | None = None
    tokens: Tensor | None = None

    def clamped(self, latents: Tensor) -> Tensor:
        """Latents with the kept ones as they were given; left alone they drift with every step."""
        if self.clean is None or self.keep is None:
            return latents
        return torch.where(self.keep, self.clean, latents)

    def timestep(self, t: Tensor, batch: int, patch: Any) -> Tensor:
        """``[B]``, or ``[B, S]`` with 0 for the tokens of kept latents."""
        timestep = t.expand(batch)
        if self.keep is None:
            return timestep
        keep = self.keep.expand(batch, -1, -1, -1, -1)
        return token_timesteps(timestep.float(), keep, patch)


def image_condition(
    pipe: Any,
    kind: ImageCondition,
    image: Any,
    last_image: Any,
    *,
    size: tuple[int, int],
    latent_shape: tuple[int, int, int, int],
    generators: list[torch.Generator],
    device: torch.device,
) -> Condition:
    """Prepare the image that a clip starts from.

    Args:
        pipe: the pipeline, for its autoencoder and image encoder.
        kind: how its transformer takes the image.
        image: what diffusers' ``VideoProcessor.preprocess`` takes: a PIL image, an array or a tensor.
        last_image: the same for the last frame, or ``None``.
        size: height and width in pixels.
        latent_shape: ``(C, T, H, W)``.
        generators: one a clip, for autoencoders whose latents are drawn.
        device: where the result goes.
    """
    processor, (height, width) = VideoProcessor(), size
    image, last_image = (one.convert("RGB") if isinstance(one, PIL.Image.Image) else one for one in (image, last_image))
    first, last = (
        None if one is None else processor.preprocess(one, height=height, width=width).to(device, torch.float32)
        for one in (image, last_image)
    )  # [1, 3, height, width] each
    assert first is not None
    batch, (_, frames, *grid) = len(generators), latent_shape
    tokens = None
    if pipe.transformer.config.image_dim is not None:
        images = [one for one in (image, last_image) if one is not None]
        pixels = pipe.image_processor(images=images, return_tensors="pt").to(device)
        hidden = pipe.image_encoder(**pixels, output_hidden_states=True).hidden_states[-2]  # [1 or 2, 257, dim]
        tokens = hidden.flatten(0, 1)[None].expand(batch, -1, -1).to(device)
    if kind == "keep_first":
        clean = torch.zeros(batch, *latent_shape, device=device)
        clean[:, :, :1] = encode_image(pipe.vae, first[:, :, None], None)
        keep = torch.zeros(1, 1, frames, *grid, dtype=torch.bool, device=device)
        keep[:, :, :1] = True
        return Condition(clean=clean, keep=keep, tokens=tokens)
    if kind == "concat":  # the image's latent, then zeros
        latents = torch.cat([encode_image(pipe.vae, first[:, :, None], g) for g in generators])
        channels = torch.zeros(batch, latents.shape[1], frames, *grid, device=device)
        channels[:, :, :1] = latents
        return Condition(channels=channels, tokens=tokens)
    # Wan: a mask of the given frames, four pixel frames a latent, and the latents of a clip that is grey elsewhere.
    stride = pipe.spec.geometry.vae_stride.t
    clip = torch.zeros(1, 3, (frames - 1) * stride + 1, height, width, device=device)
    mask = torch.zeros(stride, frames, *grid, device=device)
    clip[:, :, 0], mask[:, 0] = first, 1
    if last is not None:
        clip[:, :, -1], mask[-1, -1] = last, 1
    latents = encode_image(pipe.vae, clip, None)
    channels = torch.cat([mask[None], latents], dim=1).expand(batch, -1, -1, -1, -1)
    return Condition(channels=channels, tokens=tokens)
