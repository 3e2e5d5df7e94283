"""The autoencoders of the families, by diffusers' class names. Loads no library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from videodit.errors import ModelError
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
        return _ltx_stride(config)
    if name == "AutoencoderKLMochi":
        space = math.prod(config["spatial_expansions"])
        return Size3D(math.prod(config["temporal_expansions"]), space, space)
    space = config.get("spatial_compression_ratio") or 2 ** (len(config["block_out_channels"]) - 1)
    return Size3D(config.get("temporal_compression_ratio", 1), space, space)


def _ltx_stride(config: Mapping[str, Any]) -> Size3D:
    """LTX-Video's: its config may tell it, too.

    Raises:
        ModelError: the config tells another one.
    """
    kinds = config.get("downsample_type") or ["conv"] * len(config["spatio_temporal_scaling"])
    halving = [kind for kind, halves in zip(kinds, config["spatio_temporal_scaling"], strict=False) if halves]
    space = config["patch_size"] * 2 ** sum(kind != "temporal" for kind in halving)
    time = config["patch_size_t"] * 2 ** sum(kind != "spatial" for kind in halving)
    for name, stride in (("spatial_compression_ratio", space), ("temporal_compression_ratio", time)):
        if config.get(name) not in (None, stride):
            raise ModelError(f"the autoencoder's config has {name} {config[name]}, but its layers make {stride}")
    return Size3D(time, space, space)
