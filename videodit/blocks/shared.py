"""Joint and single blocks that share their modulation, have gated MLPs and no biases (Black Forest Labs, "FLUX.2").

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width, ``G`` groups of tokens that share a timestep.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from videodit.blocks.joint import JointBlock, LastJointBlock, SingleBlock
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
    def others(cls) -> tuple[type[JointBlock], type[SingleBlock]]:
        return LastSharedJointBlock, SharedSingleBlock

    def modulation_layer(self, cond_dim: int, dim: int) -> nn.Module:
        return SharedRows(0, _JOINT, dim)

    def init_weights(self) -> None:
        """Output projections start at 0; for gates see :class:`~videodit.blocks.modulation.SharedProjection`."""
        initialize(self)


class LastSharedJointBlock(LastJointBlock, SharedJointBlock):
    """See :class:`~videodit.blocks.joint.LastJointBlock`."""


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
