"""The autoencoders of the families, by diffusers' class names. Loads no library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
