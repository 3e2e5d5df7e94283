"""The stored options of a VideoDiT, as the parts that are built of them read them; the class documents each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol


class TransformerConfig(Mapping[str, object]):
    """``model.config``: the arguments of :class:`~videodit.VideoDiT` by their names, which are attributes, too.

    It stands for diffusers' frozen dict, whose entries have no types of their own; nothing is made of it.
    """

    patch_size: tuple[int, int, int]
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int | None
    text_dim: int
    freq_dim: int
    ffn_dim: int
    num_layers: int
    attention: Literal["full", "factorized"]
    cross_attn_norm: bool
    qk_norm: Literal["rms_norm_across_heads", "rms_norm", "layer_norm"] | None
    eps: float
    rope_theta: float
    block: Literal["cross", "joint", "tied_joint", "sandwich"]
    num_single_layers: int
    block_norm: Literal["layer_norm", "rms_norm"]
    norm_affine: bool
    qk_norm_eps: float | None
    text_embedding: Literal["mlp", "linear", "refiner", "pooling"]
    num_refiner_layers: int
    final_layer: Literal["table", "linear"]
    final_layer_norm: bool
    time_embed_dim: int | None
    pooled_dim: int | None
    guidance_embeds: bool
    size_condition_stride: int | None
    image_dim: int | None
    image_tokens: int | None
    rope: Literal["grid", "fractional", "learned"] | None
    rope_axes: tuple[int, int, int] | None
    position_embedding: Literal["sincos_2d", "sincos_3d", "learned"] | None
    position_scale: tuple[float, float, float]
    position_base: tuple[float, float] | None
    rope_lag: float
    learned_grid: tuple[int, int, int] | None
    learned_text: int
    frame_embedding: bool
    family: str | None
    family_config: Mapping[str, object] | None
    block_options: Mapping[str, object] | None


class Configured(Protocol):
    """Whatever has such a config: a :class:`~videodit.VideoDiT`."""

    config: TransformerConfig
