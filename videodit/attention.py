"""Attention over the flattened tokens of a clip.

Every attention of the transformer is one call to diffusers' backend dispatcher (SDPA, cuDNN, flash, sage,
xformers, flex), so the backend is a setting of the model: ``model.set_attention_backend("flash")``.
A **layout** says which tokens see each other:

- ``"full"``: all tokens of the clip;
- ``"spatial"``: the tokens of the same latent frame;
- ``"temporal"``: the tokens at the same place in all frames.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from einops import rearrange
from torch import Tensor, nn

from videodit.positions import apply_rotary
from videodit.shapes import Size3D

Layout = Literal["full", "spatial", "temporal"]
QKNorm = Literal["rms_norm_across_heads", "rms_norm"]

_FOLDS = {
    "spatial": ("b (t s) n d -> (b t) s n d", "(b t) s n d -> b (t s) n d"),
    "temporal": ("b (t s) n d -> (b s) t n d", "(b s) t n d -> b (t s) n d"),
}


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm whose weight follows the input's dtype, so that autocast finds the fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype) if self.weight is not None else None
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class AttentionProcessor:
    """Projects, normalises, rotates, folds by layout, attends. Holds the backend, a setting per module."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None,
        attention_mask: Tensor | None,
        rotary: tuple[Tensor, Tensor] | None,
        grid: Size3D | None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)  # [B, S or L, D]
        if attn.norm_before_split:
            q, k = attn.norm_q(q), attn.norm_k(k)
        q, k, v = (rearrange(x, "b s (n d) -> b s n d", n=attn.heads) for x in (q, k, v))
        if not attn.norm_before_split:
            q, k = attn.norm_q(q), attn.norm_k(k)
        if rotary is not None:
            q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        if attn.layout != "full":
            assert grid is not None
            fold, unfold = _FOLDS[attn.layout]
            q, k, v = (rearrange(x, fold, t=grid.t) for x in (q, k, v))
        out = dispatch_attention_fn(
            q,
            k,
            v,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config if encoder_hidden_states is None else None,
        )  # [B', S', N, D/N]
        if attn.layout != "full":
            assert grid is not None
            out = rearrange(out, unfold, b=hidden_states.shape[0], t=grid.t, s=grid.h * grid.w)
        return attn.to_out[0](out.flatten(2).type_as(hidden_states))  # [B, S, D]


class Attention(nn.Module, AttentionModuleMixin):
    """Multi-head attention of tokens to themselves or to the text.

    Args:
        dim: width of the tokens.
        heads: number of heads.
        head_dim: channels of each head.
        qk_norm: root-mean-square norm of queries and keys: over all heads together, over each head, or none.
        eps: of that norm.
        layout: which tokens see each other in self-attention.

    Raises:
        ValueError: an unknown ``qk_norm`` or ``layout``.
    """

    _default_processor_cls = AttentionProcessor
    _available_processors = (AttentionProcessor,)
    _supports_qkv_fusion = False
    processor: AttentionProcessor

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        qk_norm: QKNorm | None,
        eps: float,
        layout: Layout = "full",
    ) -> None:
        super().__init__()
        if layout not in get_args(Layout):
            raise ValueError(f"layout must be one of {get_args(Layout)}, got {layout!r}")
        if qk_norm not in (None, *get_args(QKNorm)):
            raise ValueError(f"qk_norm must be None or one of {get_args(QKNorm)}, got {qk_norm!r}")
        inner = heads * head_dim
        self.heads, self.layout = heads, layout
        self.norm_before_split = qk_norm == "rms_norm_across_heads"
        self.to_q = nn.Linear(dim, inner)
        self.to_k = nn.Linear(dim, inner)
        self.to_v = nn.Linear(dim, inner)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim)])  # a list, so that LoRA files find `to_out.0`

        def norm() -> nn.Module:
            if qk_norm is None:
                return nn.Identity()
            return RMSNorm(inner if self.norm_before_split else head_dim, eps=eps)

        self.norm_q, self.norm_k = norm(), norm()
        self.processor = AttentionProcessor()

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        grid: Size3D | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            hidden_states: ``[B, S, D]``.
            encoder_hidden_states: ``[B, L, D]`` to attend to; ``None`` for self-attention.
            attention_mask: boolean, broadcastable to ``[B, N, S, L]``; True where attention is allowed.
            rotary: tables of :func:`videodit.positions.rotary_3d`.
            grid: token extents, needed by the layouts that fold.

        Returns:
            ``[B, S, D]``.
        """
        return self.processor(self, hidden_states, encoder_hidden_states, attention_mask, rotary, grid)
