"""Tokens of two text encoders and of a picture as one text.

Letters: ``B`` batch, ``L`` text tokens, ``I`` image tokens, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from videodit.blocks.embedders import EmbeddedText, TextRefiner
from videodit.blocks.layers import FP32LayerNorm
from videodit.errors import InputError
from videodit.initialization import initialize
from videodit.transformer_config import TransformerConfig


class SourcesText(TextRefiner):
    """A refiner for the first encoder's tokens, an MLP for the second's, and an embedding of where a token is from
    (Tencent, "HunyuanVideo 1.5", 2025, which reads what stands in quotes letter by letter, too).

    The last channel of each token says which encoder it is of: 0 for the first, 1 for the second, whose channels are
    padded with zeros (:func:`videodit.text_sources.join_sources`). So tokens may stand in any order. Tokens of a
    picture go in front of them, where there is one.

    Args:
        text_dim: width of the first encoder's tokens.
        dim: width ``D``.
        heads: attention heads.
        layers: refiner blocks.
        freq_dim: channels of the sinusoids that the timestep is first written in.
        second_dim: width of the second encoder's tokens.
    """

    sees: ClassVar[tuple[str, ...]] = ("timestep", "mask", "image")
    settings: ClassVar[Mapping[str, object]] = {"second_text_dim": 0}
    takes: ClassVar[Mapping[str, object]] = {**TextRefiner.takes, "image_dim": None}
    fp32: ClassVar[tuple[str, ...]] = (*TextRefiner.fp32, "norm")

    def __init__(self, text_dim: int, dim: int, heads: int, layers: int, freq_dim: int, second_dim: int) -> None:
        super().__init__(text_dim, dim, heads, layers, freq_dim)
        self.second = SecondText(second_dim, dim)
        self.source_embedding = nn.Parameter(torch.empty(3, dim))

    @classmethod
    def of(cls, config: TransformerConfig, width: int, *, bias: bool = True) -> Self:
        """See :class:`videodit.blocks.LinearText`."""
        heads, layers = config.num_attention_heads, config.num_refiner_layers
        return cls(config.text_dim - 1, width, heads, layers, config.freq_dim, cls.setting(config, "second_text_dim"))

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        second = cls.setting(config, "second_text_dim")
        if not 1 <= second < config.text_dim:
            raise InputError(
                f"block_options: second_text_dim must be from 1 to {config.text_dim - 1}, below text_dim, got {second}"
            )

    def init_weights(self) -> None:
        """Where a token is from makes no difference at first."""
        initialize(self)
        nn.init.zeros_(self.source_embedding)

    def allowed(self, mask: Tensor) -> Tensor:
        """Tokens that count see one another; others see themselves, since a row without any key would be NaN."""
        alone = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        return (mask[:, None, :, None] & mask[:, None, None]) | alone

    def forward(self, text: Tensor, timestep: Tensor, mask: Tensor | None, image: Tensor | None) -> EmbeddedText:  # type: ignore[override]
        """Embed.

        Args:
            text: ``[B, L, text_dim + 1]``.
            timestep: ``[B]``.
            mask: boolean ``[B, L]``, True where a token counts; ``None`` for all.
            image: tokens of a picture ``[B, I, D]``, or ``None``.

        Returns:
            ``[B, I + L, D]`` and their mask.
        """
        second = text[..., -1] > 0.5  # [B, L]
        refined = super().forward(text[..., :-1], timestep, ~second if mask is None else mask & ~second)
        spelled = self.second(text[..., : self.second.norm.weight.shape[0]])
        sources = self.source_embedding.to(refined.dtype)
        tokens = torch.where(second[..., None], spelled + sources[1], refined + sources[0])  # [B, L, D]
        if image is None:
            return EmbeddedText(tokens)
        mask = None if mask is None else F.pad(mask, (image.shape[1], 0), value=True)
        return EmbeddedText(torch.cat([image.to(tokens.dtype) + sources[2], tokens], dim=1), mask=mask)


class SecondText(nn.Module):
    """A norm and three linear layers with a GELU between each two.

    Args:
        text_dim: width of the encoder's tokens.
        dim: width ``D``.
    """

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        hidden = 2048  # of every published model
        self.norm = FP32LayerNorm(text_dim, 1e-5)
        self.linear_1 = nn.Linear(text_dim, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)
        self.linear_3 = nn.Linear(hidden, dim)

    def forward(self, text: Tensor) -> Tensor:
        """``[B, L, text_dim] → [B, L, D]``."""
        x = F.gelu(self.linear_1(self.norm(text).to(text.dtype)))
        return self.linear_3(F.gelu(self.linear_2(x)))
