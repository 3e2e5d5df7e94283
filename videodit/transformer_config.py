"""The stored options of a VideoDiT, as the parts that are built of them read them; the class documents each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, Protocol, cast


@dataclass(eq=False, repr=False)
class TransformerConfig(Mapping[str, object]):
    """``model.config``: the arguments of :class:`~videodit.VideoDiT` by their names, which are attributes, too.

    It stands for diffusers' frozen dict, whose entries have no types of their own; nothing is made of it. Configs are
    checked against it before diffusers, and with it the class, are imported.
    """

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 12
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int | None = None
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 8960
    num_layers: int = 30
    attention: Literal["full", "factorized"] = "full"
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads", "rms_norm", "layer_norm"] | None = "rms_norm_across_heads"
    eps: float = 1e-06
    rope_theta: float = 10000.0
    block: Literal["cross", "joint", "tied_joint", "sandwich", "shared_joint", "tied_sandwich"] = "cross"
    num_single_layers: int = 0
    block_norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_affine: bool = False
    qk_norm_eps: float | None = None
    text_embedding: Literal["mlp", "linear", "refiner", "pooling", "normed_linear", "sources", "filled"] = "mlp"
    num_refiner_layers: int = 2
    final_layer: Literal["table", "linear", "scale"] | None = "table"
    final_layer_norm: bool = False
    time_embed_dim: int | None = None
    pooled_dim: int | None = None
    guidance_embeds: bool = False
    size_condition_stride: int | None = None
    image_dim: int | None = None
    image_tokens: int | None = None
    rope: Literal["grid", "fractional", "learned", "centred", "text_axis", "plane", "text_first"] | None = "grid"
    rope_axes: tuple[int, ...] | None = None
    position_embedding: Literal["sincos_2d", "sincos_3d", "learned"] | None = None
    position_scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    position_base: tuple[float, float] | None = None
    rope_lag: float = 0.0
    learned_grid: tuple[int, int, int] | None = None
    learned_text: int = 0
    frame_embedding: bool = False
    family: str | None = None
    family_config: Mapping[str, object] | None = None
    block_options: Mapping[str, object] | None = None


class Configured(Protocol):
    """Whatever has such a config: a :class:`~videodit.VideoDiT`."""

    config: TransformerConfig


def full_options(options: Mapping[str, object]) -> TransformerConfig:
    """Options of a VideoDiT, as attributes and as a mapping, with the defaults of those that are left out."""
    from diffusers.configuration_utils import FrozenDict

    defaults = {one.name: one.default for one in fields(TransformerConfig)}
    return cast(TransformerConfig, FrozenDict(defaults | dict(options)))
