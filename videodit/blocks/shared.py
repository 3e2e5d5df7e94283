"""Joint and single blocks that share their modulation, have gated MLPs and no biases (Black Forest Labs, "FLUX.2").

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width, ``G`` groups of tokens that share a timestep.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from videodit.blocks.base import Block, cond_dim, shared_options
from videodit.blocks.joint import JointBlock, SingleBlock
from videodit.errors import InputError
from videodit.initialization import initialize
from videodit.transformer_config import TransformerConfig

_JOINT, _SINGLE = 6, 3
"""How many tensors ``[B, G, D]`` joint blocks, and behind them single blocks, take of what is shared."""


class SharedRows(nn.Module):
    """In the place of a block's own projection of the condition: its part of what all blocks share.

    Args:
        first: where the part begins, in tensors ``D`` wide.
        count: how many there are.
        dim: width ``D``.
    """

    def __init__(self, first: int, count: int, dim: int) -> None:
        super().__init__()
        self.part = slice(first * dim, (first + count) * dim)

    def forward(self, values: Tensor) -> Tensor:
        """``[..., 9·D] → [..., count·D]``."""
        return values[..., self.part]


class SharedJointBlock(JointBlock):
    """Joint attention and a gated MLP for each stream; arguments as for :class:`~videodit.blocks.JointBlock`.

    ``cond_dim`` plays no part.
    """

    modulation_kind = "shared"
    biases = False
    one_row = ()
    ffn_kind = "swiglu"

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        for name, value in (("text_embedding", "linear"), ("final_layer", "linear")):
            if (found := getattr(config, name)) not in (value, None):
                raise InputError(f"block='shared_joint' needs {name}={value!r}, got {found!r}")
        if config.norm_affine:
            raise InputError("block='shared_joint' needs norm_affine=False, got True")

    @classmethod
    def build(cls, config: TransformerConfig, index: int) -> Block:
        single = index >= config.num_layers
        if single:
            return SharedSingleBlock(**shared_options(config), cond_dim=cond_dim(config))
        last = index == config.num_layers - 1 and not config.num_single_layers
        return (LastSharedJointBlock if last else cls)(**shared_options(config), cond_dim=cond_dim(config), tied=False)

    def modulation_layer(self, cond_dim: int, dim: int) -> nn.Module:
        return SharedRows(0, _JOINT, dim)

    def init_weights(self) -> None:
        """Output projections start at 0; for gates see :class:`~videodit.blocks.modulation.SharedProjection`."""
        initialize(self)


class LastSharedJointBlock(SharedJointBlock):
    """The last layer of a model without single blocks: nothing sees the text that comes out, and it stays as it is."""

    silent = ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out", "text_ffn.net.0.proj", "text_ffn.net.2")
    text_goes_on = False


class SharedSingleBlock(SingleBlock):
    """Attention and a gated MLP side by side; arguments as for :class:`~videodit.blocks.SingleBlock`."""

    modulation_kind = "shared"
    biases = False
    one_row = ()
    mlp_parts = 2

    def modulation_layer(self, cond_dim: int, dim: int) -> nn.Module:
        return SharedRows(_JOINT, _SINGLE, dim)

    def init_weights(self) -> None:
        """See :class:`SharedJointBlock`."""
        initialize(self, zero=(self.proj_out,))

    def hidden(self, tokens: Tensor) -> Tensor:
        value, gate = self.proj_mlp(tokens).chunk(2, dim=-1)
        return value * F.silu(gate)
