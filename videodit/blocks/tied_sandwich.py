"""Blocks over video and text as one sequence, each sublayer between two learned norms (Tongyi-MAI, "Z-Image", 2025).

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width, ``K`` width of the condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from videodit.attention import Attention
from videodit.blocks.base import Block, BlockContext, SharedOptions, cond_dim, shared_options
from videodit.blocks.layers import FFN, MLP, SwiGLU, block_norm
from videodit.blocks.modulation import add_gated, rescale
from videodit.errors import InputError
from videodit.initialization import initialize
from videodit.transformer_config import TransformerConfig

_NORMS = ("norm1", "norm1_out", "norm2", "norm2_out")


def _build(layer: nn.Module, options: SharedOptions) -> None:
    """Give a layer its norms, attention and gated MLP, none of them with biases."""
    dim, heads = options["dim"], options["heads"]
    for name in _NORMS:
        layer.add_module(name, block_norm(options["norm"], dim, options["eps"], True))
    layer.attn = Attention(dim, heads, dim // heads, qk_norm=options["qk_norm"], eps=options["qk_norm_eps"], bias=False)
    layer.ffn = FFN["swiglu"](dim, options["ffn_dim"])


def _init_outputs(layer: TextSandwich | TiedSandwichBlock) -> None:
    """What goes out of the sublayers starts Xavier uniform: norms follow, and gates that start at 0."""
    assert layer.attn.to_out is not None
    for one in (layer.attn.to_out[0], layer.ffn.net[2]):
        assert isinstance(one, nn.Linear)
        nn.init.xavier_uniform_(one.weight)


class TextSandwich(nn.Module):
    """Self-attention and a gated MLP of the text, without modulation.

    Args:
        options: see :func:`~videodit.blocks.base.shared_options`.
    """

    norm1: nn.Module
    norm1_out: nn.Module
    norm2: nn.Module
    norm2_out: nn.Module
    attn: Attention
    ffn: MLP | SwiGLU

    def __init__(self, options: SharedOptions) -> None:
        super().__init__()
        _build(self, options)

    @classmethod
    def of(cls, config: TransformerConfig) -> Self:
        """That of a VideoDiT."""
        return cls(shared_options(config))

    def init_weights(self) -> None:
        """The norms behind the sublayers start at 0, and with them it is the identity."""
        initialize(self)
        _init_outputs(self)
        for norm in (self.norm1_out, self.norm2_out):
            assert isinstance(norm.weight, Tensor)
            nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor, allowed: Tensor | None, rotary: Tensor) -> Tensor:
        """``x [B, L, D]``, ``allowed [B, 1, 1, L]`` or ``None``, and the positions of its tokens."""
        dtype = x.dtype
        h = self.attn(self.norm1(x).to(dtype), None, allowed, rotary)
        x = (x + self.norm1_out(h)).to(dtype)
        h = self.ffn(self.norm2(x).to(dtype))
        return (x + self.norm2_out(h)).to(dtype)


class TiedSandwichBlock(Block):
    """Attention and a gated MLP of one set of weights over video and text, between norms of learned scale.

    The condition scales what goes in and gates what comes out, by a hyperbolic tangent, alike for video and text. The
    first ``num_layers`` blocks of a model see the video alone, with the tokens that fill it up: see
    :class:`PictureSandwichBlock`; ``num_single_layers`` follow that see all.

    Args:
        options: see :func:`~videodit.blocks.base.shared_options`.
        cond_dim: width ``K`` of the condition.
    """

    takes: ClassVar[Mapping[str, object]] = {"num_single_layers": 0, "time_embed_dim": None}
    settings: ClassVar[Mapping[str, object]] = {"fill_to": 0}
    modulation_kind = "plain"
    joined = True
    undivided = "its first blocks see those of the video alone, which learned ones fill up"
    fp32 = _NORMS
    one_row = ("modulation",)
    norm1: nn.Module
    norm1_out: nn.Module
    norm2: nn.Module
    norm2_out: nn.Module
    attn: Attention
    ffn: MLP | SwiGLU

    def __init__(self, options: SharedOptions, *, cond_dim: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(cond_dim, 4 * options["dim"])
        _build(self, options)

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        for name, value in (("text_embedding", "filled"), ("rope", "text_first"), ("norm_affine", False)):
            if (found := getattr(config, name)) != value:
                raise InputError(f"block='tied_sandwich' needs {name}={value!r}, got {found!r}")

    @classmethod
    def build(cls, config: TransformerConfig, index: int) -> Block:
        shared, width = shared_options(config), cond_dim(config)
        if index >= config.num_layers:
            return TiedSandwichBlock(shared, cond_dim=width)
        return PictureSandwichBlock(shared, cond_dim=width, fill_to=cls.setting(config, "fill_to"))

    def init_weights(self) -> None:
        """Gates start at 0. What they gate does not, or no gradient would reach either."""
        initialize(self, zero=(self.modulation,))
        _init_outputs(self)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        assert context.condition is not None
        assert context.text_condition is not None
        x, text, dtype = hidden_states, encoder_hidden_states, hidden_states.dtype  # [B, S, D], [B, L, D]
        row, counts = context.condition.token_row, [x.shape[1], text.shape[1]]
        scale1, gate1, scale2, gate2 = context.condition.projected(self.modulation, 4)
        text_scale1, text_gate1, text_scale2, text_gate2 = context.text_condition.projected(self.modulation, 4)

        h = rescale(self.norm1(x), scale1, row).to(dtype)
        c = rescale(self.norm1(text), text_scale1).to(dtype)
        joined = self.attn(torch.cat([h, c], dim=1), None, context.text_mask, context.rotary)  # [B, S + L, D]
        h, c = self.norm1_out(joined).split(counts, dim=1)
        x = add_gated(x, h, torch.tanh(gate1), row).to(dtype)
        text = add_gated(text, c, torch.tanh(text_gate1)).to(dtype)

        h = rescale(self.norm2(x), scale2, row).to(dtype)
        c = rescale(self.norm2(text), text_scale2).to(dtype)
        h, c = self.norm2_out(self.ffn(torch.cat([h, c], dim=1))).split(counts, dim=1)
        x = context.hinted(add_gated(x, h, torch.tanh(gate2), row).to(dtype))
        return x, add_gated(text, c, torch.tanh(text_gate2)).to(dtype)


class PictureSandwichBlock(TiedSandwichBlock):
    """The same over the video alone, and the tokens behind the text that fill it up to a multiple.

    Args:
        options: see :class:`TiedSandwichBlock`.
        cond_dim: see there.
        fill_to: the multiple.
    """

    def __init__(self, options: SharedOptions, *, cond_dim: int, fill_to: int) -> None:
        super().__init__(options, cond_dim=cond_dim)
        self.fill_to = fill_to

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        tokens = hidden_states.shape[1]
        filling = -tokens % self.fill_to
        words = encoder_hidden_states.shape[1] - filling
        text, filler = encoder_hidden_states.split([words, filling], dim=1)
        rotary = context.rotary
        if rotary is not None:
            rotary = torch.cat([rotary[:, :tokens], rotary[:, tokens + words :]], dim=1)
        x, filler = super().forward(hidden_states, filler, context._replace(text_mask=None, rotary=rotary))
        return x, torch.cat([text, filler], dim=1)
