"""Blocks in which video and text attend together.

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width, ``K`` width of the condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from videodit.attention import Attention, JointAttention, QKNorm
from videodit.blocks.base import Block, BlockContext, cond_dim, shared_options
from videodit.blocks.layers import FFN, BlockNorm, block_norm, linear_gelu
from videodit.blocks.modulation import add_gated, modulate, open_gates
from videodit.initialization import initialize
from videodit.transformer_config import TransformerConfig


class JointBlock(Block):
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

    takes: ClassVar[Mapping[str, object]] = {"num_single_layers": 0, "time_embed_dim": None}
    modulation_kind = "linear"
    joined = True
    fp32 = ("norm1", "norm2")
    one_row: ClassVar[tuple[str, ...]] = ("modulation", "text_modulation")
    text_goes_on: ClassVar[bool] = True
    ffn_kind: ClassVar[str] = "gelu"

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
        self.modulation = self.modulation_layer(cond_dim, dim)
        self.text_modulation = self.modulation_layer(cond_dim, dim)
        self.norm1 = block_norm(norm, dim, eps, norm_affine)
        attention = Attention if tied else JointAttention
        self.tied = tied
        self.attn = attention(dim, heads, dim // heads, qk_norm=qk_norm, eps=qk_norm_eps, bias=self.biases)
        self.norm2 = block_norm(norm, dim, eps, norm_affine)
        self.ffn = FFN[self.ffn_kind](dim, ffn_dim)
        self.text_ffn = None if tied else FFN[self.ffn_kind](dim, ffn_dim)

    @classmethod
    def build(cls, config: TransformerConfig, index: int) -> Block:
        shared, width = shared_options(config), cond_dim(config)
        of_last, single = cls.others()
        if index >= config.num_layers:
            return single(**shared, cond_dim=width)
        tied = config.block == "tied_joint"
        last = index == config.num_layers - 1 and not config.num_single_layers and not tied
        return (of_last if last else cls)(**shared, cond_dim=width, tied=tied)

    @classmethod
    def others(cls) -> tuple[type[JointBlock], type[SingleBlock]]:
        """The classes of the last layer of a model without single blocks, and of single blocks."""
        return LastJointBlock, SingleBlock

    def modulation_layer(self, cond_dim: int, dim: int) -> nn.Module:
        """What makes shift, scale and gate of attention and MLP for one stream."""
        return nn.Linear(cond_dim, 6 * dim)

    def init_weights(self) -> None:
        """Output projections start at 0, gates at 1."""
        layers = (self.modulation, self.text_modulation)
        initialize(self, zero=layers)
        for layer in layers:
            assert isinstance(layer, nn.Linear)
            open_gates(layer, 6, (2, 5))

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
        h = modulate(self.norm2(x), shift2, scale2, row).to(dtype)
        x = context.hinted(add_gated(x, self.ffn(h), gate2, row).to(dtype))
        if not self.text_goes_on:
            return x, text

        text = add_gated(text, c, text_gate1).to(dtype)
        c = modulate(self.norm2(text), text_shift2, text_scale2).to(dtype)
        return x, add_gated(text, (self.text_ffn or self.ffn)(c), text_gate2).to(dtype)


class LastJointBlock(JointBlock):
    """The last layer of a model without single blocks: nothing sees the text that comes out, and it stays as it is."""

    silent = ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out", "text_ffn.net.0.proj", "text_ffn.net.2")
    text_goes_on = False


class SingleBlock(Block):
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

    modulation_kind = "linear"
    joined = True
    one_row: ClassVar[tuple[str, ...]] = ("modulation",)
    mlp_parts: ClassVar[int] = 1

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
        self.modulation = self.modulation_layer(cond_dim, dim)
        self.norm = block_norm(norm, dim, eps, norm_affine)
        self.attn = Attention(
            dim, heads, dim // heads, qk_norm=qk_norm, eps=qk_norm_eps, bias=self.biases, project_out=False
        )
        self.proj_mlp = nn.Linear(dim, self.mlp_parts * ffn_dim, bias=self.biases)
        self.proj_out = nn.Linear(dim + ffn_dim, dim, bias=self.biases)

    def modulation_layer(self, cond_dim: int, dim: int) -> nn.Module:
        """What makes shift, scale and gate."""
        return nn.Linear(cond_dim, 3 * dim)

    def hidden(self, tokens: Tensor) -> Tensor:
        """The MLP's hidden units of normalised tokens: ``[B, S + L, D] → [B, S + L, ffn_dim]``."""
        return linear_gelu(self.proj_mlp, tokens)

    def init_weights(self) -> None:
        """The output projection starts at 0, the gate at 1."""
        initialize(self, zero=(self.modulation, self.proj_out))
        assert isinstance(self.modulation, nn.Linear)
        open_gates(self.modulation, 3, (2,))

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
        joined = torch.cat([attended, self.hidden(joined)], dim=-1)  # [B, S + L, D + ffn_dim]
        h, c = self.proj_out(joined).split([x.shape[1], text.shape[1]], dim=1)
        return context.hinted(add_gated(x, h, gate, row).to(dtype)), add_gated(text, c, text_gate).to(dtype)
