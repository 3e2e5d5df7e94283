"""Blocks that attend to the text: it stays what it is from the first to the last.

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypedDict

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from videodit.attention import Attention, KeysValues, Layout, QKNorm
from videodit.blocks.base import AttentionName, Block, BlockContext, Identifiers, MoreContext, shared_options
from videodit.blocks.layers import MLP, BlockNorm, FP32LayerNorm, block_norm
from videodit.blocks.modulation import add_gated, modulate
from videodit.errors import InputError
from videodit.initialization import initialize
from videodit.positions import sincos_frames
from videodit.shapes import Size3D
from videodit.transformer_config import TransformerConfig


class HalfOptions(TypedDict, total=False):
    """Arguments of :class:`CrossBlock` that both halves of a factorized layer take."""

    qk_norm: QKNorm | None
    qk_norm_eps: float
    eps: float
    norm: BlockNorm
    norm_affine: bool
    cross_attn_norm: bool
    image: bool


class CrossBlock(Block):
    """Self-attention, cross-attention to the text, MLP.

    Args:
        dim: width ``D``.
        ffn_dim: hidden width of the MLP.
        heads: attention heads.
        qk_norm: see :class:`videodit.attention.Attention`.
        qk_norm_eps: of that norm.
        eps: of all other norms.
        norm: kind of the norms before self-attention and MLP.
        norm_affine: learned scale and shift in them.
        cross_attn_norm: an affine layer norm before the cross-attention; without it, text is attended to from the
            un-normed residual.
        cross_attention: leave it out where the text is not seen (the temporal half of a factorized layer).
        image: the cross-attention sees an image, too.
        layout: which tokens see each other in the self-attention.
    """

    takes: ClassVar[Mapping[str, object]] = {"attention": "full", "image_dim": None, "frame_embedding": False}
    modulation_kind = "table"
    keeps_text = True
    fp32 = ("scale_shift_table", "norm1", "norm2", "norm3")
    attention_names: ClassVar[Mapping[AttentionName, Identifiers]] = {"spatial": None, "cross": None}

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        heads: int,
        *,
        qk_norm: QKNorm | None = "rms_norm_across_heads",
        qk_norm_eps: float = 1e-6,
        eps: float = 1e-6,
        norm: BlockNorm = "layer_norm",
        norm_affine: bool = False,
        cross_attn_norm: bool = True,
        cross_attention: bool = True,
        image: bool = False,
        layout: Layout = "full",
    ) -> None:
        super().__init__()
        head_dim = dim // heads
        self.norm1 = block_norm(norm, dim, eps, norm_affine)
        self.attn1 = Attention(dim, heads, head_dim, qk_norm=qk_norm, eps=qk_norm_eps, layout=layout)
        self.norm2, self.attn2 = None, None
        if cross_attention:
            self.norm2 = FP32LayerNorm(dim, eps) if cross_attn_norm else nn.Identity()
            self.attn2 = Attention(dim, heads, head_dim, qk_norm=qk_norm, eps=qk_norm_eps, image=image, cross=True)
        self.norm3 = block_norm(norm, dim, eps, norm_affine)
        self.ffn = MLP(dim, ffn_dim)
        self.scale_shift_table = nn.Parameter(torch.empty(6, dim))

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        if config.frame_embedding and config.attention != "factorized":
            raise InputError(f"frame_embedding=True needs attention='factorized', got {config.attention!r}")

    @classmethod
    def build(cls, config: TransformerConfig, index: int) -> Block:
        shared, norm, image = shared_options(config), config.cross_attn_norm, config.image_dim is not None
        if config.attention == "factorized":
            first = config.frame_embedding and index == 0
            return FactorizedBlock(**shared, cross_attn_norm=norm, image=image, embed_frames=first)
        return cls(**shared, cross_attn_norm=norm, image=image)

    @classmethod
    def self_mask(cls, config: TransformerConfig, grid: Size3D, frames: int, device: torch.device) -> Tensor | None:
        if frames == 1 or config.attention != "full":
            return super().self_mask(config, grid, frames, device)
        block = (
            torch.arange(grid.t, device=device).div(frames, rounding_mode="floor").repeat_interleave(grid.h * grid.w)
        )
        return (block <= block[:, None])[None, None]  # [1, 1, S, S]

    @classmethod
    def more_context(cls, config: TransformerConfig, grid: Size3D, x: Tensor) -> MoreContext:
        if not config.frame_embedding or grid.t == 1:
            return {}
        return {"frame_embedding": sincos_frames(grid, x.shape[2], x.device)}  # [1, S, D]

    def init_weights(self) -> None:
        """Output projections start at 0, the table with gates of 1, so that gradients reach them at once."""
        initialize(self)
        with torch.no_grad():
            self.scale_shift_table.zero_()
            self.scale_shift_table[[2, 5]] = 1.0

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        assert context.modulation is not None
        x, dtype, row = hidden_states, hidden_states.dtype, context.modulation.token_row  # [B, S, D]
        shift1, scale1, gate1, shift3, scale3, gate3 = context.modulation.chunks(self.scale_shift_table)

        h = modulate(self.norm1(x), shift1, scale1, row).to(dtype)  # [B, S, D]
        h = self.attn1(h, None, context.self_mask, context.rotary, context.grid)
        x = add_gated(x, h, gate1, row).to(dtype)

        if self.attn2 is not None and self.norm2 is not None:
            h = self.norm2(x).to(dtype)
            x = x + self.attn2(
                h,
                encoder_hidden_states,
                context.text_mask,
                image_states=context.image,
                keys_values=context.keys_values,
            )

        h = modulate(self.norm3(x), shift3, scale3, row).to(dtype)
        x = add_gated(x, self.ffn(h), gate3, row).to(dtype)
        return context.hinted(x), encoder_hidden_states

    def keys_values(self, text: Tensor, image: Tensor | None) -> list[KeysValues]:
        """See :meth:`videodit.attention.Attention.keys_values`, of the cross-attention."""
        assert self.attn2 is not None
        return self.attn2.keys_values(text, image)


class FactorizedBlock(Block):
    """One layer of factorized attention: within each frame (with the text), then along time at each place.

    The cost of attention falls from ``(T·H·W)²`` to ``T·(H·W)² + H·W·T²``.

    Args:
        dim: width ``D``.
        ffn_dim: hidden width of the MLPs.
        heads: attention heads.
        embed_frames: add the context's ``frame_embedding`` between the two halves (the first layer alone does).
        options: of both :class:`CrossBlock`\\ s.
    """

    modulation_kind = CrossBlock.modulation_kind
    keeps_text = True
    compiled = False
    fp32 = CrossBlock.fp32
    attention_names: ClassVar[Mapping[AttentionName, Identifiers]] = {
        "spatial": (r"^blocks\.\d+\.spatial\.",),
        "temporal": (r"^blocks\.\d+\.temporal\.",),
        "cross": None,
    }

    def __init__(
        self, dim: int, ffn_dim: int, heads: int, *, embed_frames: bool = False, **options: Unpack[HalfOptions]
    ) -> None:
        super().__init__()
        self.embed_frames = embed_frames
        self.spatial = CrossBlock(dim, ffn_dim, heads, layout="spatial", **options)
        self.temporal = CrossBlock(dim, ffn_dim, heads, layout="temporal", cross_attention=False, **options)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        inner = context._replace(hint=None)
        x, text = self.spatial(hidden_states, encoder_hidden_states, inner)  # [B, S, D]
        if self.embed_frames and context.frame_embedding is not None:
            x = x + context.frame_embedding.to(x.dtype)
        x, text = self.temporal(x, text, inner)
        return context.hinted(x), text

    def keys_values(self, text: Tensor, image: Tensor | None) -> list[KeysValues]:
        """See :class:`CrossBlock`; of the spatial half."""
        return self.spatial.keys_values(text, image)
