"""Blocks in which each sublayer stands between two norms (Genmo, "Mochi 1", 2024).

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width, ``E`` width of the text, ``K`` width of the
condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from videodit.attention import JointAttention, QKNorm
from videodit.blocks.base import Block, BlockContext, cond_dim, shared_options
from videodit.blocks.layers import FFN, BlockNorm, block_norm
from videodit.blocks.modulation import add_gated, rescale
from videodit.errors import InputError
from videodit.initialization import initialize
from videodit.schema import choose
from videodit.transformer_config import TransformerConfig


class SandwichBlock(Block):
    """Joint attention and an MLP for each stream, with a norm before and one after each.

    The condition scales what goes in and gates what comes out, by a hyperbolic tangent. The text has a width of its
    own, and stays as it is in the last block.

    Args:
        dim: width ``D``.
        ffn_dim: hidden width of the video's MLP.
        heads: attention heads.
        cond_dim: width ``K`` of the condition.
        text_width: width ``E`` of the text.
        text_ffn_dim: hidden width of the text's MLP.
        ffn: kind of the MLPs, a key of :data:`videodit.blocks.layers.FFN`.
        qk_norm: see :class:`videodit.attention.Attention`.
        qk_norm_eps: of that norm.
        eps: of all other norms.
        norm: their kind; nothing in them is learned.
    """

    takes: ClassVar[Mapping[str, object]] = {"time_embed_dim": None}
    settings: ClassVar[Mapping[str, object]] = {"text_width": 1536, "text_ffn_dim": 4096, "ffn": "swiglu"}
    modulation_kind = "linear"
    joined = True
    one_row = ("modulation", "text_modulation")
    text_goes_on: ClassVar[bool] = True

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        heads: int,
        *,
        cond_dim: int,
        text_width: int,
        text_ffn_dim: int,
        ffn: str,
        qk_norm: QKNorm | None,
        qk_norm_eps: float,
        eps: float,
        norm: BlockNorm,
    ) -> None:
        super().__init__()
        goes_on = self.text_goes_on
        self.modulation = nn.Linear(cond_dim, 4 * dim)
        if goes_on:
            self.text_modulation = nn.Linear(cond_dim, 4 * text_width)
        else:
            self.text_scale = nn.Linear(cond_dim, text_width)
        self.norm = block_norm(norm, dim, eps, False)
        self.text_norm = block_norm(norm, text_width, eps, False)
        attention = {"qk_norm": qk_norm, "eps": qk_norm_eps, "text_dim": text_width}
        self.attn = JointAttention(dim, heads, dim // heads, **attention, bias=False, out_bias=True, text_out=goes_on)  # type: ignore[arg-type]
        self.ffn = FFN[ffn](dim, ffn_dim)
        self.text_ffn = FFN[ffn](text_width, text_ffn_dim) if goes_on else None

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        choose("block_options: ffn", cls.setting(config, "ffn"), FFN)
        for name in ("text_width", "text_ffn_dim"):
            if cls.setting(config, name) < 1:
                raise InputError(f"block_options: {name} must be at least 1, got {cls.setting(config, name)}")
        if config.norm_affine:
            raise InputError("block='sandwich' needs norm_affine=False, got True")

    @classmethod
    def build(cls, config: TransformerConfig, index: int) -> Block:
        shared = shared_options(config)
        return (LastSandwichBlock if index == config.num_layers - 1 else cls)(
            shared["dim"],
            shared["ffn_dim"],
            shared["heads"],
            cond_dim=cond_dim(config),
            text_width=cls.setting(config, "text_width"),
            text_ffn_dim=cls.setting(config, "text_ffn_dim"),
            ffn=cls.setting(config, "ffn"),
            qk_norm=shared["qk_norm"],
            qk_norm_eps=shared["qk_norm_eps"],
            eps=shared["eps"],
            norm=shared["norm"],
        )

    @classmethod
    def text_width(cls, config: TransformerConfig) -> int:
        return cls.setting(config, "text_width")

    def init_weights(self) -> None:
        """Gates start at 0. What they gate does not, or no gradient would reach either."""
        initialize(self, zero=[getattr(self, name) for name in self.one_row])
        mlps = [ffn for ffn in (self.ffn, self.text_ffn) if ffn is not None]
        for layer in (self.attn.to_out[0], self.attn.to_add_out, *(ffn.net[2] for ffn in mlps)):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        assert context.condition is not None
        assert context.text_condition is not None
        x, text, dtype = hidden_states, encoder_hidden_states, hidden_states.dtype  # [B, S, D], [B, L, E]
        row = context.condition.token_row
        scale1, gate1, scale2, gate2 = context.condition.projected(self.modulation, 4)
        if self.text_goes_on:
            text_scale1, text_gate1, text_scale2, text_gate2 = context.text_condition.projected(self.text_modulation, 4)
        else:
            (text_scale1,) = context.text_condition.projected(self.text_scale, 1)

        h = rescale(self.norm(x), scale1, row).to(dtype)  # [B, S, D]
        c = rescale(self.text_norm(text), text_scale1).to(dtype)  # [B, L, E]
        h, c = self.attn(h, c, context.text_mask, context.rotary)
        x = add_gated(x, self.norm(h), torch.tanh(gate1), row).to(dtype)
        h = rescale(self.norm(x), scale2, row).to(dtype)
        x = context.hinted(add_gated(x, self.norm(self.ffn(h)), torch.tanh(gate2), row).to(dtype))
        if self.text_ffn is None:
            return x, text

        text = add_gated(text, self.text_norm(c), torch.tanh(text_gate1)).to(dtype)
        c = rescale(self.text_norm(text), text_scale2).to(dtype)
        return x, add_gated(text, self.text_norm(self.text_ffn(c)), torch.tanh(text_gate2)).to(dtype)


class LastSandwichBlock(SandwichBlock):
    """The last of them: no text comes out."""

    one_row = ("modulation", "text_scale")
    silent = ("attn.add_q_proj",)
    text_goes_on = False
