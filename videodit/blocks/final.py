"""Shift and scale of the final norm. The layers are the model's own, so that they keep their names."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videodit.blocks.base import Block, cond_dim
from videodit.blocks.modulation import Modulation
from videodit.errors import InputError
from videodit.schema import Part
from videodit.transformer_config import TransformerConfig

SCALE_EPS = 1e-6
"""Of Z-Image's final norm, whatever that of the others is."""


class FinalModel(Protocol):
    """A model, for the layers that are its own; it has those of one kind."""

    scale_shift_table: nn.Parameter
    final_modulation: nn.Linear
    norm_out: nn.LayerNorm
    block_class: type[Block]


class TableFinal(Part):
    """A learned table plus the condition, which is the same for shift and scale, and as wide as the tokens."""

    fp32 = ("scale_shift_table",)

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        if config.time_embed_dim is not None:
            raise InputError(f"time_embed_dim={config.time_embed_dim} needs final_layer='linear', got 'table'")

    @staticmethod
    def build(model: FinalModel, config: TransformerConfig, dim: int) -> None:
        """Give a model its layer."""
        model.scale_shift_table = nn.Parameter(torch.empty(2, dim))

    @staticmethod
    def layers(model: FinalModel) -> tuple[nn.Module, ...]:
        """Its linear layers, which start at 0."""
        return ()

    @staticmethod
    def init_weights(model: FinalModel) -> None:
        """Start from shift and scale of the condition alone."""
        nn.init.zeros_(model.scale_shift_table)

    @staticmethod
    def rows(model: FinalModel, condition: Modulation) -> list[Tensor]:
        """Shift and scale, ``[B, G, D]`` or ``[U, D]``."""
        twice = torch.cat([condition.values, condition.values], dim=-1)
        return condition._replace(values=twice).chunks(model.scale_shift_table)


class LinearFinal(Part):
    """A linear layer of the condition; see :class:`TableFinal`."""

    @staticmethod
    def build(model: FinalModel, config: TransformerConfig, dim: int) -> None:
        """Give a model its layer."""
        model.final_modulation = nn.Linear(cond_dim(config), 2 * dim, bias=model.block_class.biases)

    @staticmethod
    def layers(model: FinalModel) -> tuple[nn.Module, ...]:
        """Its linear layers, which start at 0."""
        return (model.final_modulation,)

    @staticmethod
    def init_weights(model: FinalModel) -> None:
        """All is said by :meth:`layers`."""

    @staticmethod
    def rows(model: FinalModel, condition: Modulation) -> list[Tensor]:
        """Shift and scale, ``[B, G, D]`` or ``[U, D]``."""
        return condition._replace(values=F.silu(condition.values)).projected(model.final_modulation, 2)


class ScaleFinal(LinearFinal):
    """A linear layer of the condition for the scale alone; see :class:`TableFinal`.

    The norm before it has an epsilon of its own, :data:`SCALE_EPS`.
    """

    @staticmethod
    def build(model: FinalModel, config: TransformerConfig, dim: int) -> None:
        """Give a model its layer."""
        model.final_modulation = nn.Linear(cond_dim(config), dim, bias=model.block_class.biases)
        model.norm_out.eps = SCALE_EPS

    @staticmethod
    def rows(model: FinalModel, condition: Modulation) -> list[Tensor]:
        """A shift of 0, and the scale, ``[B, G, D]`` or ``[U, D]``."""
        (scale,) = condition._replace(values=F.silu(condition.values)).projected(model.final_modulation, 1)
        return [torch.zeros_like(scale), scale]


class NoFinal(Part):
    """None: nothing is predicted, blocks are all that there is; see :class:`TableFinal`."""

    @staticmethod
    def build(model: FinalModel, config: TransformerConfig, dim: int) -> None:
        """Nothing."""

    @staticmethod
    def layers(model: FinalModel) -> tuple[nn.Module, ...]:
        """None."""
        return ()

    @staticmethod
    def init_weights(model: FinalModel) -> None:
        """Nothing."""

    @staticmethod
    def rows(model: FinalModel, condition: Modulation) -> list[Tensor]:
        """Refused.

        Raises:
            InputError: always.
        """
        raise InputError("a model with final_layer=None predicts nothing; it is the trunk of a control branch")


FINAL_LAYERS: dict[str | None, type[TableFinal] | type[LinearFinal] | type[ScaleFinal] | type[NoFinal]] = {
    "table": TableFinal,
    "linear": LinearFinal,
    "scale": ScaleFinal,
    None: NoFinal,
}
"""Shift and scale of the final norm, by the value of VideoDiT's ``final_layer``."""
