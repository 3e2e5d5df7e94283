"""From the tokens of a text or image encoder to those that blocks see.

Letters: ``B`` batch, ``L`` text tokens, ``I`` image tokens, ``D`` width, ``K`` width of the condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from videodit._diffusers import FeedForward, PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from videodit.attention import Attention
from videodit.blocks.base import cond_dim
from videodit.blocks.layers import FP32LayerNorm, FP32RMSNorm
from videodit.blocks.modulation import Modulation, add_gated, open_gates
from videodit.errors import InputError
from videodit.initialization import initialize
from videodit.schema import Part
from videodit.transformer_config import TransformerConfig


class EmbeddedText(NamedTuple):
    """What a text embedder may return in place of the tokens alone.

    Attributes:
        tokens: ``[B, L, D]``.
        pooled: what the text adds to the condition, ``[B, K]``, or ``None``.
        mask: boolean ``[B, L]``, True where a token counts, of an embedder that changes how many tokens there are;
            ``None``: the mask that it was given.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


class LinearText(nn.Linear, Part):
    """One linear layer.

    Attributes:
        sees: what its forward takes beside the text ``[B, L, text_dim]``: ``"timestep"``, the clip's largest ``[B]``,
            ``"mask"``, boolean ``[B, L]`` or ``None`` for all, and ``"image"``, embedded tokens of a picture
            ``[B, I, D]`` or ``None``, which are text from there on. What sees no timestep is computed once a clip.
    """

    sees: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, config: TransformerConfig, width: int, *, bias: bool = True) -> Self:
        """That of a VideoDiT.

        Args:
            config: the model's.
            width: of the text's tokens in the blocks.
            bias: linear layers have biases; those of one linear layer alone can be without.
        """
        return cls(config.text_dim, width, bias=bias)


class NormedLinearText(nn.Module, Part):
    """One linear layer behind a norm; see :class:`LinearText`."""

    sees: ClassVar[tuple[str, ...]] = ()
    fp32 = ("norm",)

    def __init__(self, text_dim: int, width: int) -> None:
        super().__init__()
        self.norm = FP32RMSNorm(text_dim, 1e-6)
        self.proj = nn.Linear(text_dim, width)

    @classmethod
    def of(cls, config: TransformerConfig, width: int, *, bias: bool = True) -> Self:
        """See :class:`LinearText`."""
        return cls(config.text_dim, width)

    def forward(self, text: Tensor) -> Tensor:
        """``[B, L, text_dim] → [B, L, D]``."""
        return self.proj(self.norm(text).to(text.dtype))


class MLPText(PixArtAlphaTextProjection, Part):
    """Two linear layers with a GELU (tanh form) in between; see :class:`LinearText`."""

    sees: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, config: TransformerConfig, width: int, *, bias: bool = True) -> Self:
        """See :class:`LinearText`."""
        return cls(config.text_dim, width, act_fn="gelu_tanh")


class TextRefiner(nn.Module, Part):
    """A small transformer over the text tokens, modulated by the timestep and by the text's own mean.

    Args:
        text_dim: width of the text encoder's tokens.
        dim: width ``D``.
        heads: attention heads.
        layers: refiner blocks.
        freq_dim: channels of the sinusoids that the timestep is first written in.
    """

    sees: ClassVar[tuple[str, ...]] = ("timestep", "mask")
    takes: ClassVar[Mapping[str, object]] = {"num_refiner_layers": 2}
    fp32: ClassVar[tuple[str, ...]] = ("time_embedder", "norm1", "norm2")

    def __init__(self, text_dim: int, dim: int, heads: int, layers: int, freq_dim: int) -> None:
        super().__init__()
        self.timesteps = Timesteps(freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(freq_dim, dim)
        self.pooled_embedder = PixArtAlphaTextProjection(text_dim, dim, act_fn="silu")
        self.proj_in = nn.Linear(text_dim, dim)
        self.blocks = nn.ModuleList(RefinerBlock(dim, heads) for _ in range(layers))

    @classmethod
    def of(cls, config: TransformerConfig, width: int, *, bias: bool = True) -> Self:
        """See :class:`LinearText`."""
        return cls(config.text_dim, width, config.num_attention_heads, config.num_refiner_layers, config.freq_dim)

    def allowed(self, mask: Tensor) -> Tensor:
        """Which tokens see which, ``[B, 1, L, L]``, by which count, boolean ``[B, L]``."""
        allowed = mask[:, None, :, None] & mask[:, None, None]
        allowed[..., 0] = True  # a row without any key would be NaN
        return allowed

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
            mean = ((text * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)).to(dtype)  # [B, text_dim]
            allowed = self.allowed(mask)
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

    def init_weights(self) -> None:
        """Output projections start at 0, gates at 1."""
        initialize(self, zero=(self.modulation, self.ffn.net[2]))
        open_gates(self.modulation, 2, (0, 1))

    def forward(self, x: Tensor, condition: Tensor, allowed: Tensor | None) -> Tensor:
        """``x [B, L, D]``, ``condition [B, 1, D]``, ``allowed [B, 1, L, L]``."""
        dtype = x.dtype
        gate1, gate2 = Modulation(condition).projected(self.modulation, 2)
        h = self.attn(self.norm1(x).to(dtype), attention_mask=allowed)
        x = add_gated(x, h, gate1).to(dtype)
        return add_gated(x, self.ffn(self.norm2(x).to(dtype)), gate2).to(dtype)


class PoolingText(nn.Module, Part):
    """One linear layer; and attention pools the text for the condition (Genmo, "Mochi 1", 2024).

    The mean of the tokens that count asks, and it and they are asked.

    Args:
        text_dim: width of the text encoder's tokens.
        width: of the text's tokens in the blocks.
        cond_dim: width ``K`` of the condition.
        heads: of the pooling attention.
    """

    sees = ("mask",)
    settings: ClassVar[Mapping[str, object]] = {"pooling_heads": 8}

    def __init__(self, text_dim: int, width: int, cond_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.proj = nn.Linear(text_dim, width)
        self.to_q = nn.Linear(text_dim, text_dim)
        self.to_kv = nn.Linear(text_dim, 2 * text_dim)
        self.to_pooled = nn.Linear(text_dim, cond_dim)

    @classmethod
    def of(cls, config: TransformerConfig, width: int, *, bias: bool = True) -> Self:
        """See :class:`LinearText`."""
        return cls(config.text_dim, width, cond_dim(config), cls.setting(config, "pooling_heads"))

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        heads = cls.setting(config, "pooling_heads")
        if heads < 1 or config.text_dim % heads:
            raise InputError(f"block_options: pooling_heads must divide text_dim {config.text_dim}, got {heads}")

    def forward(self, text: Tensor, mask: Tensor | None) -> EmbeddedText:
        """``text [B, L, text_dim]``, ``mask`` boolean ``[B, L]``, True where a token counts; ``None`` for all."""
        if mask is None:
            mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        weight = mask[..., None].to(text.dtype)
        mean = (text * (weight / weight.sum(dim=1, keepdim=True).clamp(min=1))).sum(dim=1, keepdim=True)
        q = self.to_q(mean).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, N, 1, text_dim/N]
        k, v = self.to_kv(torch.cat([mean, text], dim=1)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # [B, N, 1 + L, text_dim/N]
        pooled = F.scaled_dot_product_attention(q, k, v, attn_mask=F.pad(mask, (1, 0), value=True)[:, None, None])
        return EmbeddedText(self.proj(text), self.to_pooled(pooled.transpose(1, 2).flatten(1)))  # [B, L, E], [B, K]


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
