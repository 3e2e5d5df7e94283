"""The autoencoders of the families behind one call: strides, and latents to frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from videodit.shapes import Size3D


def vae_stride(config: Mapping[str, Any]) -> Size3D:
    """Pixels a latent along time, height and width, from an autoencoder's config.

    Raises:
        KeyError: an entry that the config lacks.
    """
    name = config.get("_class_name", "CausalVideoVAE")
    if name in ("CausalVideoVAE", "AutoencoderKLWan"):
        time, space = config.get("scale_factor_temporal", 4), config.get("scale_factor_spatial", 8)
        return Size3D(time, space, space)
    if name == "AutoencoderKLLTXVideo":
        halvings = sum(config["spatio_temporal_scaling"])
        space = config.get("spatial_compression_ratio") or config["patch_size"] * 2**halvings
        time = config.get("temporal_compression_ratio") or config["patch_size_t"] * 2**halvings
        return Size3D(time, space, space)
    space = config.get("spatial_compression_ratio") or 2 ** (len(config["block_out_channels"]) - 1)
    return Size3D(config.get("temporal_compression_ratio", 1), space, space)


@torch.no_grad()
def decode(vae: Any, latents: Tensor, *, causal: bool) -> Tensor:
    """Latents as the transformer sees them to frames.

    Args:
        vae: a CausalVideoVAE or one of diffusers' autoencoders.
        latents: ``[B, C, T, H, W]``.
        causal: see :class:`videodit.families.sampling.Sampling`.

    Returns:
        ``[B, 3, frames, height, width]``, about in [-1, 1].
    """
    if hasattr(vae, "denormalize"):
        return vae.decode(vae.denormalize(latents).to(vae.dtype)).sample
    config = vae.config
    z = latents / config.scaling_factor
    buffers = dict(vae.named_buffers(recurse=False))
    if "latents_mean" in buffers:  # LTX-Video keeps its statistics among the weights
        mean, std = (buffers[f"latents_{name}"].view(1, -1, 1, 1, 1).to(latents) for name in ("mean", "std"))
        z = z * std + mean
    elif getattr(config, "shift_factor", None):
        z = z + config.shift_factor
    z = z.to(vae.dtype)
    if type(vae).__name__ == "AutoencoderKL":  # images: a clip's frames one by one
        frames = [vae.decode(frame).sample for frame in rearrange(z, "b c t h w -> t b c h w")]
        return torch.stack(frames, dim=2)
    if getattr(config, "timestep_conditioning", False):  # noise that is left in the latents: none
        return vae.decode(z, torch.zeros(len(z), device=z.device, dtype=z.dtype)).sample
    if not causal:  # Allegro's works in tiles alone, and puts frames before channels
        vae.enable_tiling()
        return rearrange(vae.decode(z).sample, "b t c h w -> b c t h w")
    return vae.decode(z).sample


@torch.no_grad()
def encode_image(vae: Any, clip: Tensor, generator: torch.Generator | None) -> Tensor:
    """Frames to latents as the transformer sees them.

    Args:
        vae: a CausalVideoVAE or one of diffusers' autoencoders.
        clip: ``[B, 3, frames, height, width]`` in [-1, 1].
        generator: draws from the posterior; ``None`` takes its mode.

    Returns:
        fp32 ``[B, C, T, H, W]``.
    """
    posterior = vae.encode(clip.to(vae.dtype)).latent_dist
    z = (posterior.mode() if generator is None else posterior.sample(generator)).float()
    if hasattr(vae, "normalize"):
        return vae.normalize(z)
    inverted = getattr(vae.config, "invert_scale_latents", False)
    return z / vae.config.scaling_factor if inverted else z * vae.config.scaling_factor
