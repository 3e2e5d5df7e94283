"""Attention over the flattened tokens of a clip.

Every attention of the transformer is one call to diffusers' backend dispatcher (SDPA, cuDNN, flash, sage,
xformers, flex), so the backend is a setting of the model: ``model.set_attention_backend("flash")``.

:class:`Attention` is self- or cross-attention. A **layout** says which tokens see each other:

- ``"full"``: all tokens of the clip;
- ``"spatial"``: the tokens of the same latent frame;
- ``"temporal"``: the tokens at the same place in all frames.

:class:`JointAttention` lets video and text attend together, each with its own weights.

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width, ``N`` heads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videodit._diffusers import AttentionModuleMixin, dispatch_attention_fn
from videodit.arguments import check_choice
from videodit.initialization import initialize
from videodit.rotary import apply_rotary
from videodit.schema import choose
from videodit.shapes import Size3D

Layout = Literal["full", "spatial", "temporal"]
KeysValues = tuple[Tensor, Tensor]
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


QK_NORMS: dict[str | None, Callable[[int, int, float], nn.Module]] = {
    None: lambda heads, head_dim, eps: nn.Identity(),
    "rms_norm_across_heads": lambda heads, head_dim, eps: RMSNorm(heads * head_dim, eps=eps),
    "rms_norm": lambda heads, head_dim, eps: RMSNorm(head_dim, eps=eps),
    "layer_norm": lambda heads, head_dim, eps: nn.LayerNorm(head_dim, eps),
}
"""Norms of queries and keys, by the value of VideoDiT's ``qk_norm``."""


def _to_heads(x: Tensor, heads: int, norm: nn.Module, across: bool) -> Tensor:
    """Normalise queries or keys ``[B, S, D]``, all heads together or each by itself → ``[B, S, N, D/N]``."""
    if across:
        return norm(x).unflatten(-1, (heads, -1))
    return norm(x.unflatten(-1, (heads, -1)))


class AttentionProcessor:
    """Projects, normalises, rotates, folds by layout, attends. Holds the backend, a setting per module."""

    _attention_backend: object = None
    _parallel_config: object = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None,
        attention_mask: Tensor | None,
        rotary: Tensor | None,
        grid: Size3D | None,
        image_states: Tensor | None,
        keys_values: list[KeysValues] | None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = _to_heads(attn.to_q(hidden_states), attn.heads, attn.norm_q, attn.norm_across)  # [B, S, N, D/N]
        if keys_values is None:
            keys_values = attn.keys_values(source, image_states)
        (k, v), *images = keys_values  # [B, S or L, N, D/N]
        if rotary is not None:
            q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        if attn.layout != "full":
            assert grid is not None
            fold, unfold = _FOLDS[attn.layout]
            q, k, v = (rearrange(x, fold, t=grid.t) for x in (q, k, v))
        parallel = self._parallel_config if encoder_hidden_states is None else None
        out = self.attend(q, k, v, attention_mask, parallel)  # [B', S', N, D/N]
        if attn.layout != "full":
            assert grid is not None
            out = rearrange(out, unfold, b=hidden_states.shape[0], t=grid.t, s=grid.h * grid.w)
        for k, v in images:  # the same queries look at the image by themselves
            out = out + self.attend(q, k, v)
        out = out.flatten(2).type_as(hidden_states)  # [B, S, D]
        return out if attn.to_out is None else attn.to_out[0](out)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, parallel: object = None) -> Tensor:
        """Softmax attention of ``[B, S, N, D/N]`` to ``[B, L, N, D/N]``."""
        return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=self._attention_backend, parallel_config=parallel)


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
        project_out: end with an output projection.
        cross: it attends to the text; caches of diffusers' tell both kinds apart by ``is_cross_attention``.
        bias: of all its linear layers.

    Raises:
        InputError: an unknown ``qk_norm`` or ``layout``.
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
        project_out: bool = True,
        cross: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_choice(layout, get_args(Layout), "layout")
        norm = partial(choose("qk_norm", qk_norm, QK_NORMS), heads, head_dim, eps)
        inner = heads * head_dim
        self.heads, self.layout, self.is_cross_attention = heads, layout, cross
        self.norm_across = qk_norm == "rms_norm_across_heads"
        self.to_q = nn.Linear(dim, inner, bias=bias)
        self.to_k = nn.Linear(dim, inner, bias=bias)
        self.to_v = nn.Linear(dim, inner, bias=bias)
        # A list, so that LoRA files find `to_out.0`.
        self.to_out = nn.ModuleList([nn.Linear(inner, dim, bias=bias)]) if project_out else None
        self.norm_q = norm()
        self.norm_k = norm()
        if image:
            self.add_k_proj = nn.Linear(dim, inner, bias=bias)
            self.add_v_proj = nn.Linear(dim, inner, bias=bias)
            self.norm_added_k = norm()
        self.processor = AttentionProcessor()

    def init_weights(self) -> None:
        """The output projection starts at 0."""
        initialize(self, zero=self.to_out or ())

    def keys_values(self, source: Tensor, image_states: Tensor | None) -> list[KeysValues]:
        """Keys and values, not rotated, of what is attended to.

        Args:
            source: ``[B, L, D]``.
            image_states: ``[B, I, D]``, or ``None``.

        Returns:
            ``[B, L, N, D/N]`` twice; after it, the same of the image, if there is one.
        """
        k = _to_heads(self.to_k(source), self.heads, self.norm_k, self.norm_across)
        found = [(k, self.to_v(source).unflatten(-1, (self.heads, -1)))]
        if image_states is not None:
            k = _to_heads(self.add_k_proj(image_states), self.heads, self.norm_added_k, self.norm_across)
            found.append((k, self.add_v_proj(image_states).unflatten(-1, (self.heads, -1))))
        return found

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary: Tensor | None = None,
        grid: Size3D | None = None,
        image_states: Tensor | None = None,
        keys_values: list[KeysValues] | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            hidden_states: ``[B, S, D]``.
            encoder_hidden_states: ``[B, L, D]`` to attend to; ``None`` for self-attention.
            attention_mask: boolean, broadcastable to ``[B, N, S, L]``; True where attention is allowed.
            rotary: table of :class:`videodit.rotary.RotaryTables`.
            grid: token extents, needed by the layouts that fold.
            image_states: ``[B, I, D]`` to attend to as well, where the module was built for an image.
            keys_values: what :meth:`keys_values` makes of both; ``None`` makes it here.

        Returns:
            ``[B, S, D]``.
        """
        return self.processor(
            self, hidden_states, encoder_hidden_states, attention_mask, rotary, grid, image_states, keys_values
        )


class JointAttentionProcessor:
    """Projects each stream, normalises, rotates, attends over both. Holds the backend."""

    _attention_backend: object = None
    _parallel_config: object = None

    def __call__(
        self,
        attn: JointAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None,
        rotary: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        x, text, heads, across = hidden_states, encoder_hidden_states, attn.heads, attn.norm_across
        q = _to_heads(attn.to_q(x), heads, attn.norm_q, across)  # [B, S, N, D/N]
        k = _to_heads(attn.to_k(x), heads, attn.norm_k, across)
        v = attn.to_v(x).unflatten(-1, (heads, -1))
        text_q = _to_heads(attn.add_q_proj(text), heads, attn.norm_added_q, across)  # [B, L, N, D/N]
        text_k = _to_heads(attn.add_k_proj(text), heads, attn.norm_added_k, across)
        text_v = attn.add_v_proj(text).unflatten(-1, (heads, -1))
        q, k, v = (torch.cat(pair, dim=1) for pair in ((q, text_q), (k, text_k), (v, text_v)))  # [B, S + L, N, D/N]
        if rotary is not None:
            q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        out = dispatch_attention_fn(
            q,
            k,
            v,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )  # [B, S + L, N, D/N]
        x_out, text_out = out.flatten(2).type_as(x).split([x.shape[1], text.shape[1]], dim=1)
        return attn.to_out[0](x_out), None if attn.to_add_out is None else attn.to_add_out(text_out)


class JointAttention(nn.Module, AttentionModuleMixin):
    """Attention of video and text together, each with its own weights (Esser et al., "Scaling Rectified Flow
    Transformers", 2024). The order of the two in the sequence plays no part.

    With one set of weights for both, it is the self-attention of one sequence: :class:`Attention`.

    Args:
        dim: width of the tokens.
        heads: number of heads.
        head_dim: channels of each head.
        qk_norm: see :class:`Attention`.
        eps: of that norm.
        text_dim: width of the text's tokens, ``E``; ``None`` for ``dim``.
        bias: of all its linear layers.
        out_bias: of the output projections, where it is not the same.
        text_out: the text's tokens come out, too.

    Raises:
        InputError: an unknown ``qk_norm``.
    """

    _default_processor_cls = JointAttentionProcessor
    is_cross_attention = False
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
        text_dim: int | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        text_out: bool = True,
    ) -> None:
        super().__init__()
        norm = partial(choose("qk_norm", qk_norm, QK_NORMS), heads, head_dim, eps)
        inner, text_dim = heads * head_dim, text_dim or dim
        self.heads = heads
        self.norm_across = qk_norm == "rms_norm_across_heads"
        self.to_q = nn.Linear(dim, inner, bias=bias)
        self.to_k = nn.Linear(dim, inner, bias=bias)
        self.to_v = nn.Linear(dim, inner, bias=bias)
        self.norm_q = norm()
        self.norm_k = norm()
        out_bias = bias if out_bias is None else out_bias
        self.to_out = nn.ModuleList([nn.Linear(inner, dim, bias=out_bias)])
        self.add_q_proj = nn.Linear(text_dim, inner, bias=bias)
        self.add_k_proj = nn.Linear(text_dim, inner, bias=bias)
        self.add_v_proj = nn.Linear(text_dim, inner, bias=bias)
        self.norm_added_q = norm()
        self.norm_added_k = norm()
        self.to_add_out = nn.Linear(inner, text_dim, bias=out_bias) if text_out else None
        self.processor = JointAttentionProcessor()

    def init_weights(self) -> None:
        """The output projections start at 0."""
        initialize(self, zero=(*self.to_out, self.to_add_out))

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            hidden_states: video ``[B, S, D]``.
            encoder_hidden_states: text ``[B, L, E]``.
            attention_mask: boolean, broadcastable to ``[B, N, S + L, S + L]``, video first.
            rotary: table of :class:`videodit.rotary.RotaryTables` for both.

        Returns:
            Video ``[B, S, D]`` and text ``[B, L, E]``, or ``None`` where it does not come out.
        """
        return self.processor(self, hidden_states, encoder_hidden_states, attention_mask, rotary)
