"""The blocks that a VideoDiT is made of.

- ``CrossBlock``: self-attention, cross-attention to the text, MLP, with adaLN-single modulation (Chen et al.,
  "PixArt-α", 2023): the block of Wan, LTX-Video, PixArt and Allegro. ``FactorizedBlock`` pairs a spatial and a
  temporal one (Ma et al., "Latte", 2024).
- ``JointBlock``: video and text attend together, each stream with its own weights (Esser et al., "Scaling Rectified
  Flow Transformers", 2024: HunyuanVideo, FLUX) or both with one set (Yang et al., "CogVideoX", 2024).
- ``SingleBlock``: attention and MLP side by side over both streams (HunyuanVideo, FLUX).

All are called as ``x, text = block(x, text, context)``. Norms, modulation and gates are computed in fp32.
``TextRefiner`` is HunyuanVideo's way from the text encoder's tokens to the blocks' (Kong et al., "HunyuanVideo", 2024).

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width, ``K`` width of the condition (timestep and
what is added to it), ``G`` groups of tokens that share a timestep: 1 (the clip), ``T`` (each latent frame) or ``S``
(each token).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videodit._diffusers import FeedForward, PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from videodit.attention import Attention, JointAttention, KeysValues, Layout, QKNorm
from videodit.errors import InputError
from videodit.shapes import Size3D

BlockNorm = Literal["layer_norm", "rms_norm"]


class FP32LayerNorm(nn.LayerNorm):
    """Layer norm in fp32 whatever the input; the caller casts the result back."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight = self.weight.to(wide) if self.weight is not None else None
        bias = self.bias.to(wide) if self.bias is not None else None
        return F.layer_norm(x.to(wide), self.normalized_shape, weight, bias, self.eps)


class FP32RMSNorm(nn.RMSNorm):
    """Root-mean-square norm in fp32, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight = self.weight.to(wide) if self.weight is not None else None
        return F.rms_norm(x.to(wide), self.normalized_shape, weight, self.eps)


def block_norm(kind: BlockNorm, dim: int, eps: float, affine: bool) -> nn.Module:
    """The norm before an attention or an MLP.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in get_args(BlockNorm):
        raise InputError(f"block_norm must be one of {get_args(BlockNorm)}, got {kind!r}")
    return (FP32LayerNorm if kind == "layer_norm" else FP32RMSNorm)(dim, eps, elementwise_affine=affine)


@cache
def _cpu_fuses(dtype: torch.dtype) -> bool:
    """Whether oneDNN is here, with its own kernels for a dtype."""
    library = torch.ops.mkldnn
    if dtype != torch.bfloat16 or not hasattr(library, "_linear_pointwise"):
        return False
    return torch.backends.mkldnn.is_available() and library._is_mkldnn_bf16_supported()


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer and its GELU (tanh form): ``[..., in] → [..., out]``.

    In bf16 on a CPU, where the GELU costs nearly as much as the layer, both are one kernel of oneDNN, rounded once. It
    knows no gradients, and no layer that an adapter, a hook or a quantiser has changed.
    """
    plain = type(layer) is nn.Linear and type(layer.weight) is nn.Parameter
    watched = "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks
    if (
        x.device.type == "cpu"
        and plain
        and not watched
        and x.dtype == layer.weight.dtype
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and _cpu_fuses(x.dtype)
    ):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], "tanh")
    return F.gelu(layer(x), approximate="tanh")


class MLP(FeedForward):
    """diffusers' two linear layers with a GELU (tanh form) in between.

    Args:
        dim: width ``D``.
        hidden: width in between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, inner_dim=hidden, activation_fn="gelu-approximate")

    def forward(self, x: Tensor) -> Tensor:
        """``[B, S, D] → [B, S, D]``."""
        return self.net[2](linear_gelu(self.net[0].proj, x))  # type: ignore[arg-type]  # between them, no dropout


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

    def projected(self, layer: nn.Module, n: int) -> list[Tensor]:
        """Send the values through a block's own layer and split: ``n`` tensors ``[B, G, D]`` or ``[U, D]`` in fp32."""
        rows = layer(self.values)  # [..., n·D]
        return list(rows.to(torch.promote_types(rows.dtype, torch.float32)).chunk(n, dim=-1))


def add_gated(x: Tensor, h: Tensor, gate: Tensor, token_row: Tensor | None = None) -> Tensor:
    """``x + h · gate`` in the gate's dtype.

    Args:
        x: ``[B, S, D]``.
        h: ``[B, S, D]``.
        gate: ``[B, G, D]``, or ``[U, D]`` with ``token_row``.
        token_row: ``[B, S]`` row of each token.
    """
    if token_row is not None:
        return torch.addcmul(x, h, gate[token_row])
    groups = (gate.shape[1], -1)
    return torch.addcmul(x.unflatten(1, groups), h.unflatten(1, groups), gate[:, :, None]).flatten(1, 2)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, token_row: Tensor | None = None) -> Tensor:
    """``x · (1 + scale) + shift``; shapes as for :func:`add_gated`."""
    if token_row is not None:
        x = x * (1 + scale)[token_row]
        return x + shift[token_row]
    x = x.unflatten(1, (shift.shape[1], -1))  # [B, G, S/G, D]
    return torch.addcmul(shift[:, :, None], x, 1 + scale[:, :, None]).flatten(1, 2)


class BlockContext(NamedTuple):
    """What a block is told beside its tokens; all but the keys is the same for all blocks of one forward.

    Attributes:
        grid: token extents.
        modulation: what the tables of cross blocks are added to, ``6·D`` wide; ``None`` for other blocks.
        condition: SiLU of the condition, ``K`` wide, which joint and single blocks project by themselves.
        text_condition: the same for their text, ``[B, 1, K]``: text has one timestep a clip.
        rotary: position table, for joint and single blocks with the text's tokens after the video's, or ``None``.
        text_mask: ``[B, 1, 1, L]`` for cross blocks, ``[B, 1, 1, S + L]`` for the others, True where a token counts,
            or ``None`` for all.
        image: tokens of an image ``[B, I, D]`` for the cross-attention, or ``None``.
        keys_values: what this block's cross-attention makes of text and image, where that is kept; else ``None``.
        frame_embedding: ``[1, S, D]`` for the first temporal block, or ``None``.
    """

    grid: Size3D
    modulation: Modulation | None = None
    condition: Modulation | None = None
    text_condition: Modulation | None = None
    rotary: Tensor | None = None
    text_mask: Tensor | None = None
    image: Tensor | None = None
    keys_values: list[KeysValues] | None = None
    frame_embedding: Tensor | None = None


class CrossBlock(nn.Module):
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

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        assert context.modulation is not None
        x, dtype, row = hidden_states, hidden_states.dtype, context.modulation.token_row  # [B, S, D]
        shift1, scale1, gate1, shift3, scale3, gate3 = context.modulation.chunks(self.scale_shift_table)

        h = modulate(self.norm1(x), shift1, scale1, row).to(dtype)  # [B, S, D]
        h = self.attn1(h, rotary=context.rotary, grid=context.grid)
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
        return x, encoder_hidden_states

    def keys_values(self, text: Tensor, image: Tensor | None) -> list[KeysValues]:
        """See :meth:`videodit.attention.Attention.keys_values`, of the cross-attention."""
        assert self.attn2 is not None
        return self.attn2.keys_values(text, image)


class FactorizedBlock(nn.Module):
    """One layer of factorized attention: within each frame (with the text), then along time at each place.

    The cost of attention falls from ``(T·H·W)²`` to ``T·(H·W)² + H·W·T²``.

    Args:
        dim: width ``D``.
        ffn_dim: hidden width of the MLPs.
        heads: attention heads.
        embed_frames: add the context's ``frame_embedding`` between the two halves (the first layer alone does).
        options: of both :class:`CrossBlock`\\ s.
    """

    def __init__(self, dim: int, ffn_dim: int, heads: int, *, embed_frames: bool = False, **options: Any) -> None:
        super().__init__()
        self.embed_frames = embed_frames
        self.spatial = CrossBlock(dim, ffn_dim, heads, layout="spatial", **options)
        self.temporal = CrossBlock(dim, ffn_dim, heads, layout="temporal", cross_attention=False, **options)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        x, text = self.spatial(hidden_states, encoder_hidden_states, context)  # [B, S, D]
        if self.embed_frames and context.frame_embedding is not None:
            x = x + context.frame_embedding.to(x.dtype)
        return self.temporal(x, text, context)

    def keys_values(self, text: Tensor, image: Tensor | None) -> list[KeysValues]:
        """See :class:`CrossBlock`; of the spatial half."""
        return self.spatial.keys_values(text, image)


class JointBlock(nn.Module):
    """Joint attention and an MLP for each stream.

    Args:
        dim: width ``D``.
        ffn_dim: hidden width of the MLPs.
        heads: attention heads.
        cond_dim: width ``K`` of the condition.
        tied: one set of weights for video and text; modulation stays apart.
        qk_norm: see :class:`videodit.attention.Attention`.
        qk_norm_eps: of that norm.
        eps: of all other norms.
        norm: kind of the norms before attention and MLP, which both streams share.
        norm_affine: learned scale and shift in them.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        heads: int,
        *,
        cond_dim: int,
        tied: bool,
        qk_norm: QKNorm | None,
        qk_norm_eps: float,
        eps: float,
        norm: BlockNorm,
        norm_affine: bool,
    ) -> None:
        super().__init__()
        self.modulation = nn.Linear(cond_dim, 6 * dim)
        self.text_modulation = nn.Linear(cond_dim, 6 * dim)
        self.norm1 = block_norm(norm, dim, eps, norm_affine)
        attention = Attention if tied else JointAttention
        self.tied, self.attn = tied, attention(dim, heads, dim // heads, qk_norm=qk_norm, eps=qk_norm_eps)
        self.norm2 = block_norm(norm, dim, eps, norm_affine)
        self.ffn = MLP(dim, ffn_dim)
        self.text_ffn = None if tied else MLP(dim, ffn_dim)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        assert context.condition is not None
        assert context.text_condition is not None
        x, text, dtype = hidden_states, encoder_hidden_states, hidden_states.dtype  # [B, S, D], [B, L, D]
        row = context.condition.token_row
        shift1, scale1, gate1, shift2, scale2, gate2 = context.condition.projected(self.modulation, 6)
        text_shift1, text_scale1, text_gate1, text_shift2, text_scale2, text_gate2 = context.text_condition.projected(
            self.text_modulation, 6
        )

        h = modulate(self.norm1(x), shift1, scale1, row).to(dtype)  # [B, S, D]
        c = modulate(self.norm1(text), text_shift1, text_scale1).to(dtype)  # [B, L, D]
        if self.tied:
            joined = self.attn(torch.cat([h, c], dim=1), None, context.text_mask, context.rotary)  # [B, S + L, D]
            h, c = joined.split([x.shape[1], text.shape[1]], dim=1)
        else:
            h, c = self.attn(h, c, context.text_mask, context.rotary)
        x = add_gated(x, h, gate1, row).to(dtype)
        text = add_gated(text, c, text_gate1).to(dtype)

        h = modulate(self.norm2(x), shift2, scale2, row).to(dtype)
        c = modulate(self.norm2(text), text_shift2, text_scale2).to(dtype)
        x = add_gated(x, self.ffn(h), gate2, row).to(dtype)
        text = add_gated(text, (self.text_ffn or self.ffn)(c), text_gate2).to(dtype)
        return x, text


class SingleBlock(nn.Module):
    """Attention and MLP side by side, one set of weights over video and text.

    Args:
        dim: width ``D``.
        ffn_dim: hidden width of the MLP.
        heads: attention heads.
        cond_dim: width ``K`` of the condition.
        qk_norm: see :class:`videodit.attention.Attention`.
        qk_norm_eps: of that norm.
        eps: of the other norm.
        norm: its kind.
        norm_affine: learned scale and shift in it.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        heads: int,
        *,
        cond_dim: int,
        qk_norm: QKNorm | None,
        qk_norm_eps: float,
        eps: float,
        norm: BlockNorm,
        norm_affine: bool,
    ) -> None:
        super().__init__()
        self.modulation = nn.Linear(cond_dim, 3 * dim)
        self.norm = block_norm(norm, dim, eps, norm_affine)
        self.attn = Attention(dim, heads, dim // heads, qk_norm=qk_norm, eps=qk_norm_eps, project_out=False)
        self.proj_mlp = nn.Linear(dim, ffn_dim)
        self.proj_out = nn.Linear(dim + ffn_dim, dim)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        assert context.condition is not None
        assert context.text_condition is not None
        x, text, dtype = hidden_states, encoder_hidden_states, hidden_states.dtype  # [B, S, D], [B, L, D]
        row = context.condition.token_row
        shift, scale, gate = context.condition.projected(self.modulation, 3)
        text_shift, text_scale, text_gate = context.text_condition.projected(self.modulation, 3)

        h = modulate(self.norm(x), shift, scale, row).to(dtype)
        c = modulate(self.norm(text), text_shift, text_scale).to(dtype)
        joined = torch.cat([h, c], dim=1)  # [B, S + L, D]
        attended = self.attn(joined, None, context.text_mask, context.rotary)
        joined = torch.cat([attended, linear_gelu(self.proj_mlp, joined)], dim=-1)  # [B, S + L, D + ffn_dim]
        h, c = self.proj_out(joined).split([x.shape[1], text.shape[1]], dim=1)
        return add_gated(x, h, gate, row).to(dtype), add_gated(text, c, text_gate).to(dtype)


class TextRefiner(nn.Module):
    """A small transformer over the text tokens, modulated by the timestep and by the text's own mean.

    Args:
        text_dim: width of the text encoder's tokens.
        dim: width ``D``.
        heads: attention heads.
        layers: refiner blocks.
        freq_dim: channels of the sinusoids that the timestep is first written in.
    """

    def __init__(self, text_dim: int, dim: int, heads: int, layers: int, freq_dim: int) -> None:
        super().__init__()
        self.timesteps = Timesteps(freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(freq_dim, dim)
        self.pooled_embedder = PixArtAlphaTextProjection(text_dim, dim, act_fn="silu")
        self.proj_in = nn.Linear(text_dim, dim)
        self.blocks = nn.ModuleList(RefinerBlock(dim, heads) for _ in range(layers))

    def forward(self, text: Tensor, timestep: Tensor, mask: Tensor | None) -> Tensor:
        """Refine.

        Args:
            text: ``[B, L, text_dim]``.
            timestep: ``[B]``.
            mask: boolean ``[B, L]``, True where a token counts; ``None`` for all.

        Returns:
            ``[B, L, D]``.
        """
        dtype = text.dtype
        if mask is None:
            mean, allowed = text.mean(dim=1), None
        else:
            weight = mask[..., None].float()
            mean = ((text * weight).sum(dim=1) / weight.sum(dim=1)).to(dtype)  # [B, text_dim]
            allowed = mask[:, None, :, None] & mask[:, None, None]  # [B, 1, L, L]
            allowed[..., 0] = True  # a row without any key would be NaN
        wide = self.time_embedder.linear_1.weight.dtype
        time = self.time_embedder(self.timesteps(timestep).to(wide)).to(dtype)
        condition = F.silu(time + self.pooled_embedder(mean))[:, None]  # [B, 1, D]
        x = self.proj_in(text)
        for block in self.blocks:
            x = block(x, condition, allowed)
        return x


class RefinerBlock(nn.Module):
    """Self-attention and MLP with gates from the condition, affine norms and SiLU."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(dim, 2 * dim)
        self.norm1 = FP32LayerNorm(dim, 1e-6)
        self.attn = Attention(dim, heads, dim // heads, qk_norm=None, eps=1e-6)
        self.norm2 = FP32LayerNorm(dim, 1e-6)
        self.ffn = FeedForward(dim, mult=4, activation_fn="linear-silu")

    def forward(self, x: Tensor, condition: Tensor, allowed: Tensor | None) -> Tensor:
        """``x [B, L, D]``, ``condition [B, 1, D]``, ``allowed [B, 1, L, L]``."""
        dtype = x.dtype
        gate1, gate2 = Modulation(condition).projected(self.modulation, 2)
        h = self.attn(self.norm1(x).to(dtype), attention_mask=allowed)
        x = add_gated(x, h, gate1).to(dtype)
        return add_gated(x, self.ffn(self.norm2(x).to(dtype)), gate2).to(dtype)


class ImageEmbedder(nn.Module):
    """From an image encoder's tokens to the cross-attention's (Wan 2.1's image-to-video models).

    Args:
        image_dim: width of the image encoder's tokens.
        dim: width ``D``.
        tokens: learned positions for exactly so many tokens (two images in Wan's first-and-last-frame model).
    """

    def __init__(self, image_dim: int, dim: int, tokens: int | None) -> None:
        super().__init__()
        self.norm1 = FP32LayerNorm(image_dim, 1e-5)
        self.ff = FeedForward(image_dim, dim, mult=1, activation_fn="gelu")
        self.norm2 = FP32LayerNorm(dim, 1e-5)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, image_dim)) if tokens is not None else None

    def forward(self, image: Tensor) -> Tensor:
        """``[B, I, image_dim] → [B, I, D]``.

        Raises:
            ValueError: another number of tokens than the learned positions have.
        """
        if self.pos_embed is not None:
            if image.shape[1] != self.pos_embed.shape[1]:
                raise InputError(f"expected {self.pos_embed.shape[1]} image tokens, got {image.shape[1]}")
            image = image + self.pos_embed
        x = self.ff(self.norm1(image).to(image.dtype))
        return self.norm2(x).to(image.dtype)
