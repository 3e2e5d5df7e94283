"""The options of a CausalVideoVAE, which its class documents, and what decoding takes by them. Loads no library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videodit.shapes import Size3D


@dataclass(frozen=True)
class VAEConfig:
    """The arguments of :class:`~videodit.CausalVideoVAE` by their names.

    Configs are checked against it before diffusers, and with it the class, are imported.
    """

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: Sequence[int] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: Sequence[float] = ()
    temperal_downsample: Sequence[bool] = (False, True, True)
    dropout: float = 0.0
    latents_mean: Sequence[float] | None = None
    latents_std: Sequence[float] | None = None
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None
    scale_factor_temporal: int = 4
    scale_factor_spatial: int = 8


_LIVE = 8
"""Tensors of the decoder's widest level that are alive at once, the carried past of a chunk among them: measured 5
for whole clips (`pytest tests/test_streaming.py -k peak`)."""


def bytes_to_decode(config: Mapping[str, Any], stride: Size3D, size: tuple[int, int], itemsize: int) -> int:
    """Memory in which one latent frame of a clip is decoded.

    It is counted as eight tensors of the decoder's widest level, which is what eager layers hold at once.

    Args:
        config: of a :class:`CausalVideoVAE`.
        stride: of its latents.
        size: height and width of the latents.
        itemsize: bytes of a number.
    """
    patch = config.get("patch_size") or 1
    # The last level but one widens to full size before its channels shrink.
    channels = (config.get("decoder_base_dim") or config["base_dim"]) * max(config["dim_mult"][:2])
    positions = stride.t * math.prod((size[0] * stride.h // patch, size[1] * stride.w // patch))
    return int(_LIVE * itemsize * channels * positions)
