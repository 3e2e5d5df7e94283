"""What the timestep does to a block: shift, scale and gate, computed in fp32.

Letters: ``B`` batch, ``S`` tokens, ``D`` width, ``K`` width of the condition, ``G`` groups of tokens that share a
timestep, ``U`` distinct timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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

    def first(self, tokens: int) -> Modulation:
        """The same for the first tokens alone."""
        return self if self.token_row is None else self._replace(token_row=self.token_row[:, :tokens])

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


def rescale(x: Tensor, scale: Tensor, token_row: Tensor | None = None) -> Tensor:
    """``x · (1 + scale)``; shapes as for :func:`add_gated`."""
    if token_row is not None:
        return x * (1 + scale)[token_row]
    return (x.unflatten(1, (scale.shape[1], -1)) * (1 + scale[:, :, None])).flatten(1, 2)


class Told(TypedDict, total=False):
    """What blocks are told of the condition, by the names of :class:`~videodit.blocks.BlockContext`'s fields."""

    modulation: Modulation
    condition: Modulation
    text_condition: Modulation


class TableModulation:
    """One projection of the condition for all blocks, to which each adds a table of its own (adaLN-single)."""

    @staticmethod
    def shared_layer(dim: int, cond_dim: int) -> nn.Module | None:
        """The layer of the model that all blocks share, or ``None``."""
        return nn.Linear(cond_dim, 6 * dim)

    @staticmethod
    def told(
        layer: Callable[[Tensor], Tensor] | None, condition: Modulation, text_condition: Callable[[], Modulation]
    ) -> Told:
        """What blocks are told of the condition, by the names of :class:`~videodit.blocks.BlockContext`'s fields.

        Args:
            layer: that of :meth:`shared_layer`, or what else is made of its result.
            condition: of the video's timesteps, ``[B, G, K]``, or ``[U, K]`` and a row for each token.
            text_condition: makes that of the text's timestep, ``[B, 1, K]``.
        """
        assert layer is not None
        return {"modulation": condition._replace(values=layer(F.silu(condition.values)))}  # [..., 6·D]


class OwnModulation:
    """Each block projects the condition by layers of its own."""

    @staticmethod
    def shared_layer(dim: int, cond_dim: int) -> nn.Module | None:
        """See :class:`TableModulation`."""
        return None

    @staticmethod
    def told(
        layer: Callable[[Tensor], Tensor] | None, condition: Modulation, text_condition: Callable[[], Modulation]
    ) -> Told:
        """See :class:`TableModulation`."""
        text = text_condition()
        return {
            "condition": condition._replace(values=F.silu(condition.values)),  # [..., K]
            "text_condition": text._replace(values=F.silu(text.values)),  # [B, 1, K]
        }


class PlainModulation(OwnModulation):
    """Each block projects the condition as it is, without a SiLU before, by layers of its own."""

    @staticmethod
    def told(
        layer: Callable[[Tensor], Tensor] | None, condition: Modulation, text_condition: Callable[[], Modulation]
    ) -> Told:
        """See :class:`TableModulation`."""
        return {"condition": condition, "text_condition": text_condition()}  # [..., K], [B, 1, K]


class SharedProjection(nn.Module):
    """One projection of the condition for all joint blocks' video, one for their text, and one for all single blocks.

    Shifts and scales start at 0. Gates do not, or no gradient would reach what they gate, which does.

    Args:
        dim: width ``D``.
        cond_dim: width ``K`` of the condition.
    """

    def __init__(self, dim: int, cond_dim: int) -> None:
        super().__init__()
        self.video = nn.Linear(cond_dim, 6 * dim, bias=False)
        self.text = nn.Linear(cond_dim, 6 * dim, bias=False)
        self.single = nn.Linear(cond_dim, 3 * dim, bias=False)

    def init_weights(self) -> None:
        """See the class."""
        for layer, gates in ((self.video, (2, 5)), (self.text, (2, 5)), (self.single, (2,))):
            weight = layer.weight.data.unflatten(0, (3 * len(gates), -1))  # [6 or 3, D, K]
            nn.init.zeros_(weight)
            for gate in gates:
                nn.init.xavier_uniform_(weight[gate])

    def forward(self, condition: Tensor, *, text: bool) -> Tensor:
        """``[..., K] → [..., 9·D]``: for joint blocks, then for single ones."""
        return torch.cat([(self.text if text else self.video)(condition), self.single(condition)], dim=-1)


class SharedModulation:
    """All blocks take their part of the same modulation: see :class:`SharedProjection`."""

    @staticmethod
    def shared_layer(dim: int, cond_dim: int) -> nn.Module | None:
        """See :class:`TableModulation`."""
        return SharedProjection(dim, cond_dim)

    @staticmethod
    def told(
        layer: Callable[..., Tensor] | None, condition: Modulation, text_condition: Callable[[], Modulation]
    ) -> Told:
        """See :class:`TableModulation`."""
        assert layer is not None
        text = text_condition()
        return {
            "condition": condition._replace(values=layer(F.silu(condition.values), text=False)),  # [..., 9·D]
            "text_condition": text._replace(values=layer(F.silu(text.values), text=True)),  # [B, 1, 9·D]
        }


MODULATION: dict[str, type[TableModulation] | type[OwnModulation] | type[SharedModulation]] = {
    "table": TableModulation,
    "linear": OwnModulation,
    "plain": PlainModulation,
    "shared": SharedModulation,
}
"""How the condition reaches a block, by the block class's ``modulation_kind``."""


@torch.no_grad()
def open_gates(layer: nn.Linear, parts: int, gates: Sequence[int]) -> None:
    """Let a block's own modulation start from a weight of 0, shifts and scales of 0, and gates of 1.

    Args:
        layer: ``K → parts·D``.
        parts: what its output is split into.
        gates: which of them are gates.
    """
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    layer.bias.unflatten(0, (parts, -1))[list(gates)] = 1.0
