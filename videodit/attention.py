"""Attention over the flattened tokens of a clip.

Every attention of the transformer is one call to diffusers' backend dispatcher (SDPA, cuDNN, flash, sage,
xformers, flex), so the backend is a setting of the model: ``model.set_attention_backend("flash")``.

:class:`Attention` is self- or cross-attention. A **layout** says which tokens see each other:

- ``"full"``: all tokens of the clip;
- ``"spatial"``: the tokens of the same latent frame;
- ``"temporal"``: the tokens at the same place in all frames.

:class:`JointAttention` lets video and text attend together.

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width, ``N`` heads.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from einops import rearrange
from torch import Tensor, nn

from videodit.positions import apply_rotary
from videodit.shapes import Size3D

Layout = Literal["full", "spatial", "temporal"]
QKNorm = Literal["rms_norm_across_heads", "rms_norm", "layer_norm"]

_FOLDS = {
    "spatial": ("b (t s) n d -> (b t) s n d", "(b t) s n d -> b (t s) n d"),
    "temporal": ("b (t s) n d -> (b s) t n d", "(b s) t n d -> b (t s) n d"),
}


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm whose weight follows the input's dtype, so that autocast finds the fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype) if self.weight is not None else None
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


def _qk_norm(kind: QKNorm | None, heads: int, head_dim: int, eps: float) -> nn.Module:
    if kind is None:
        return nn.Identity()
    if kind == "layer_norm":
        return nn.LayerNorm(head_dim, eps)
    return RMSNorm(heads * head_dim if kind == "rms_norm_across_heads" else head_dim, eps=eps)


def _to_heads(x: Tensor, heads: int, norm: nn.Module, across: bool) -> Tensor:
    """Normalise queries or keys ``[B, S, D]``, all heads together or each by itself → ``[B, S, N, D/N]``."""
    if across:
        return norm(x).unflatten(-1, (heads, -1))
    return norm(x.unflatten(-1, (heads, -1)))


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
        image_states: Tensor | None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = _to_heads(attn.to_q(hidden_states), attn.heads, attn.norm_q, attn.norm_across)  # [B, S, N, D/N]
        k = _to_heads(attn.to_k(source), attn.heads, attn.norm_k, attn.norm_across)  # [B, S or L, N, D/N]
        v = attn.to_v(source).unflatten(-1, (attn.heads, -1))
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
        if image_states is not None:  # the same queries look at the image by themselves
            k = _to_heads(attn.add_k_proj(image_states), attn.heads, attn.norm_added_k, attn.norm_across)
            v = attn.add_v_proj(image_states).unflatten(-1, (attn.heads, -1))
            out = out + dispatch_attention_fn(q, k, v, backend=self._attention_backend)
        return attn.to_out[0](out.flatten(2).type_as(hidden_states))  # [B, S, D]


class Attention(nn.Module, AttentionModuleMixin):
    """Multi-head attention of tokens to themselves or to the text.

    Args:
        dim: width of the tokens.
        heads: number of heads.
        head_dim: channels of each head.
        qk_norm: norm of queries and keys: root mean square over all heads together or over each head, layer norm
            over each head, or none.
        eps: of that norm.
        layout: which tokens see each other in self-attention.
        image: keys and values of an image beside those of the text.

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
        image: bool = False,
    ) -> None:
        super().__init__()
        if layout not in get_args(Layout):
            raise ValueError(f"layout must be one of {get_args(Layout)}, got {layout!r}")
        _check_qk_norm(qk_norm)
        inner = heads * head_dim
        self.heads, self.layout = heads, layout
        self.norm_across = qk_norm == "rms_norm_across_heads"
        self.to_q = nn.Linear(dim, inner)
        self.to_k = nn.Linear(dim, inner)
        self.to_v = nn.Linear(dim, inner)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim)])  # a list, so that LoRA files find `to_out.0`
        self.norm_q = _qk_norm(qk_norm, heads, head_dim, eps)
        self.norm_k = _qk_norm(qk_norm, heads, head_dim, eps)
        if image:
            self.add_k_proj = nn.Linear(dim, inner)
            self.add_v_proj = nn.Linear(dim, inner)
            self.norm_added_k = _qk_norm(qk_norm, heads, head_dim, eps)
        self.processor = AttentionProcessor()

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        grid: Size3D | None = None,
        image_states: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            hidden_states: ``[B, S, D]``.
            encoder_hidden_states: ``[B, L, D]`` to attend to; ``None`` for self-attention.
            attention_mask: boolean, broadcastable to ``[B, N, S, L]``; True where attention is allowed.
            rotary: tables of :class:`videodit.positions.RotaryTables`.
            grid: token extents, needed by the layouts that fold.
            image_states: ``[B, I, D]`` to attend to as well, where the module was built for an image.

        Returns:
            ``[B, S, D]``.
        """
        return self.processor(self, hidden_states, encoder_hidden_states, attention_mask, rotary, grid, image_states)


class JointAttentionProcessor:
    """Projects both streams, normalises, rotates the video, attends over all. Holds the backend."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: JointAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        heads, across = attn.heads, attn.norm_across
        q = _to_heads(attn.to_q(hidden_states), heads, attn.norm_q, across)  # [B, S, N, D/N]
        k = _to_heads(attn.to_k(hidden_states), heads, attn.norm_k, across)
        v = attn.to_v(hidden_states).unflatten(-1, (heads, -1))
        if rotary is not None:
            q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        to_q, to_k, to_v, norm_q, norm_k = attn.text_layers
        text_q = _to_heads(to_q(encoder_hidden_states), heads, norm_q, across)  # [B, L, N, D/N]
        text_k = _to_heads(to_k(encoder_hidden_states), heads, norm_k, across)
        text_v = to_v(encoder_hidden_states).unflatten(-1, (heads, -1))
        out = dispatch_attention_fn(
            torch.cat([q, text_q], dim=1),
            torch.cat([k, text_k], dim=1),
            torch.cat([v, text_v], dim=1),
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )  # [B, S + L, N, D/N]
        lengths = [hidden_states.shape[1], encoder_hidden_states.shape[1]]
        video, text = out.flatten(2).type_as(hidden_states).split(lengths, dim=1)
        return video, text


class JointAttention(nn.Module, AttentionModuleMixin):
    """Attention of video and text together (Esser et al., "Scaling Rectified Flow Transformers", 2024).

    Only the video's queries and keys are rotated; the order of the two in the sequence plays no part.

    Args:
        dim: width of the tokens.
        heads: number of heads.
        head_dim: channels of each head.
        qk_norm: see :class:`Attention`.
        eps: of that norm.
        tied: one set of weights for both streams.
        project_out: end with an output projection of each stream.

    Raises:
        ValueError: an unknown ``qk_norm``.
    """

    _default_processor_cls = JointAttentionProcessor
    _available_processors = (JointAttentionProcessor,)
    _supports_qkv_fusion = False
    processor: JointAttentionProcessor

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        qk_norm: QKNorm | None,
        eps: float,
        tied: bool,
        project_out: bool = True,
    ) -> None:
        super().__init__()
        _check_qk_norm(qk_norm)
        inner = heads * head_dim
        self.heads, self.tied = heads, tied
        self.norm_across = qk_norm == "rms_norm_across_heads"
        self.to_q = nn.Linear(dim, inner)
        self.to_k = nn.Linear(dim, inner)
        self.to_v = nn.Linear(dim, inner)
        self.norm_q = _qk_norm(qk_norm, heads, head_dim, eps)
        self.norm_k = _qk_norm(qk_norm, heads, head_dim, eps)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim)]) if project_out else None
        if not tied:
            self.add_q_proj = nn.Linear(dim, inner)
            self.add_k_proj = nn.Linear(dim, inner)
            self.add_v_proj = nn.Linear(dim, inner)
            self.norm_added_q = _qk_norm(qk_norm, heads, head_dim, eps)
            self.norm_added_k = _qk_norm(qk_norm, heads, head_dim, eps)
            self.to_add_out = nn.Linear(inner, dim) if project_out else None
        self.processor = JointAttentionProcessor()

    @property
    def text_layers(self) -> tuple[nn.Module, ...]:
        """Query, key and value projections of the text and the norms of its queries and keys."""
        if self.tied:
            return self.to_q, self.to_k, self.to_v, self.norm_q, self.norm_k
        return self.add_q_proj, self.add_k_proj, self.add_v_proj, self.norm_added_q, self.norm_added_k

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            hidden_states: video ``[B, S, D]``.
            encoder_hidden_states: text ``[B, L, D]``.
            attention_mask: boolean, broadcastable to ``[B, N, S + L, S + L]``, video first.
            rotary: tables of :class:`videodit.positions.RotaryTables` for the video.

        Returns:
            Video ``[B, S, D]`` and text ``[B, L, D]``.
        """
        video, text = self.processor(self, hidden_states, encoder_hidden_states, attention_mask, rotary)
        if self.to_out is None:
            return video, text
        text_out = self.to_out[0] if self.tied else self.to_add_out
        assert text_out is not None
        return self.to_out[0](video), text_out(text)


def _check_qk_norm(qk_norm: object) -> None:
    if qk_norm not in (None, *get_args(QKNorm)):
        raise ValueError(f"qk_norm must be None or one of {get_args(QKNorm)}, got {qk_norm!r}")
