"""The blocks that a VideoDiT is made of.

``CrossBlock`` is the block of Wan and of the DiT line before it: self-attention, cross-attention to the
text, MLP, with adaLN-single modulation (Chen et al., "PixArt-α", 2023). ``FactorizedBlock`` pairs a
spatial and a temporal one (Ma et al., "Latte", 2024).

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width, ``G`` groups of tokens that
share a timestep: 1 (the clip), ``T`` (each latent frame) or ``S`` (each token).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from videodit.attention import Attention, Layout, QKNorm
from videodit.shapes import Size3D


class FP32LayerNorm(nn.LayerNorm):
    """Layer norm in fp32 whatever the input; the caller casts the result back."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight = self.weight.to(wide) if self.weight is not None else None
        bias = self.bias.to(wide) if self.bias is not None else None
        return F.layer_norm(x.to(wide), self.normalized_shape, weight, bias, self.eps)


class Modulation(NamedTuple):
    """What the timestep says to every block, for the distinct timesteps of the batch.

    Attributes:
        values: ``[B, G, n·D]`` for one timestep a clip or a frame. With ``token_row``: ``[U, n·D]``, one row for
            each distinct timestep.
        token_row: ``[B, S]`` row of each token. Rows are computed once and gathered where they are used, one at a
            time: all six for each token of a long clip would fill a GPU.
    """

    values: Tensor
    token_row: Tensor | None = None

    def chunks(self, table: Tensor) -> list[Tensor]:
        """Add a block's own ``[n, D]`` table and split: ``n`` tensors ``[B, G, D]`` or ``[U, D]``, at least in fp32."""
        wide = torch.promote_types(self.values.dtype, torch.float32)
        rows = self.values.unflatten(-1, table.shape).to(wide) + table.to(wide)  # [..., n, D]
        return list(rows.unbind(-2))


def gated(x: Tensor, gate: Tensor, token_row: Tensor | None) -> Tensor:
    """``x · gate`` with ``x [B, S, D]`` and ``gate [B, G, D]``, or ``gate [U, D]`` with ``token_row [B, S]``."""
    if token_row is not None:
        return x * gate[token_row]
    return (x.unflatten(1, (gate.shape[1], -1)) * gate[:, :, None]).flatten(1, 2)  # [B, G, S/G, D] inside


def modulate(x: Tensor, shift: Tensor, scale: Tensor, token_row: Tensor | None) -> Tensor:
    """``x · (1 + scale) + shift``; shapes as for :func:`gated`."""
    x = gated(x, 1 + scale, token_row)
    if token_row is not None:
        return x + shift[token_row]
    return (x.unflatten(1, (shift.shape[1], -1)) + shift[:, :, None]).flatten(1, 2)


class BlockContext(NamedTuple):
    """What is the same for all blocks of one forward.

    Attributes:
        modulation: the timestep's say, ``6·D`` wide.
        rotary: position tables.
        grid: token extents.
        text_mask: ``[B, 1, 1, L]``, True where a text token counts, or ``None`` for all.
    """

    modulation: Modulation
    rotary: tuple[Tensor, Tensor]
    grid: Size3D
    text_mask: Tensor | None = None


class CrossBlock(nn.Module):
    """Self-attention, cross-attention to the text, MLP; norms, modulation and gates in fp32.

    Args:
        dim: width ``D``.
        ffn_dim: hidden width of the MLP.
        heads: attention heads.
        qk_norm: see :class:`videodit.attention.Attention`.
        eps: of all norms.
        cross_attn_norm: an affine norm before the cross-attention; without it, text is attended to from the
            un-normed residual.
        cross_attention: leave it out where the text is not seen (the temporal half of a factorized layer).
        layout: which tokens see each other in the self-attention.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        heads: int,
        *,
        qk_norm: QKNorm | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        cross_attn_norm: bool = True,
        cross_attention: bool = True,
        layout: Layout = "full",
    ) -> None:
        super().__init__()
        head_dim = dim // heads
        self.norm1 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = Attention(dim, heads, head_dim, qk_norm=qk_norm, eps=eps, layout=layout)
        self.norm2, self.attn2 = None, None
        if cross_attention:
            self.norm2 = FP32LayerNorm(dim, eps) if cross_attn_norm else nn.Identity()
            self.attn2 = Attention(dim, heads, head_dim, qk_norm=qk_norm, eps=eps)
        self.norm3 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.empty(6, dim))

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext) -> Tensor:
        x, dtype = hidden_states, hidden_states.dtype  # [B, S, D]
        shift1, scale1, gate1, shift3, scale3, gate3 = context.modulation.chunks(self.scale_shift_table)

        row = context.modulation.token_row

        h = modulate(self.norm1(x), shift1, scale1, row).to(dtype)  # [B, S, D]
        h = self.attn1(h, rotary=context.rotary, grid=context.grid)
        x = (x + gated(h, gate1, row)).to(dtype)

        if self.attn2 is not None and self.norm2 is not None:
            h = self.norm2(x).to(dtype)
            x = x + self.attn2(h, encoder_hidden_states, context.text_mask)

        h = modulate(self.norm3(x), shift3, scale3, row).to(dtype)
        return (x + gated(self.ffn(h), gate3, row)).to(dtype)


class FactorizedBlock(nn.Module):
    """One layer of factorized attention: within each frame (with the text), then along time at each place.

    The cost of attention falls from ``(T·H·W)²`` to ``T·(H·W)² + H·W·T²``.
    """

    def __init__(self, dim: int, ffn_dim: int, heads: int, **options: Any) -> None:
        super().__init__()
        self.spatial = CrossBlock(dim, ffn_dim, heads, layout="spatial", **options)
        self.temporal = CrossBlock(dim, ffn_dim, heads, layout="temporal", cross_attention=False, **options)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext) -> Tensor:
        x = self.spatial(hidden_states, encoder_hidden_states, context)  # [B, S, D]
        return self.temporal(x, encoder_hidden_states, context)
