"""Learned tokens that fill those of a video and of a text up to a multiple of so many (Tongyi-MAI, "Z-Image", 2025).

They are attended to as all others are.

Letters: ``B`` batch, ``L`` text tokens, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from videodit.blocks.embedders import EmbeddedText
from videodit.blocks.layers import FP32RMSNorm
from videodit.blocks.tied_sandwich import TextSandwich
from videodit.errors import InputError
from videodit.initialization import initialize
from videodit.rotary import text_line_table
from videodit.schema import Part
from videodit.transformer_config import TransformerConfig


class PictureFill(nn.Module, Part):
    """A learned token behind the text, as often as the video's tokens lack of a multiple.

    Its setting: ``fill_to``: the multiple, of the text's tokens, too; 0 for none.

    Args:
        dim: width ``D``.
        multiple: of so many.
    """

    settings: ClassVar[Mapping[str, object]] = {"fill_to": 0}

    def __init__(self, dim: int, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple
        self.token = nn.Parameter(torch.empty(1, dim))

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        """See :class:`~videodit.schema.Part`."""
        multiple = cls.setting(config, "fill_to")
        if multiple < 0:
            raise InputError(f"block_options: fill_to must be at least 0, got {multiple}")
        if bool(multiple) != (config.block == "tied_sandwich"):
            raise InputError(
                f"block='tied_sandwich' and block_options: fill_to need each other, got {config.block!r} and {multiple}"
            )

    @classmethod
    def of(cls, config: TransformerConfig, dim: int) -> Self | None:
        """That of a model; ``None`` where it has none."""
        multiple = cls.setting(config, "fill_to")
        return cls(dim, multiple) if multiple else None

    def init_weights(self) -> None:
        """Normal, with a deviation of 0.02."""
        nn.init.normal_(self.token, std=0.02)

    def forward(self, text: Tensor, mask: Tensor | None, tokens: int) -> tuple[Tensor, Tensor | None]:
        """Text ``[B, L, D]`` and its mask ``[B, L]``, with what so many video tokens lack behind it."""
        missing = -tokens % self.multiple
        filling = self.token.to(text.dtype).expand(len(text), missing, -1)
        return torch.cat([text, filling], dim=1), None if mask is None else F.pad(mask, (0, missing), value=True)


class FilledText(nn.Module, Part):
    """A norm and one linear layer, learned tokens up to a multiple, and blocks in which the text sees itself alone.

    Text tokens that count come first; each prompt is filled up for itself.

    Args:
        config: of a VideoDiT.
    """

    sees: ClassVar[tuple[str, ...]] = ("mask",)
    fp32 = ("norm",)
    settings: ClassVar[Mapping[str, object]] = {"fill_to": 0}
    takes: ClassVar[Mapping[str, object]] = {"num_refiner_layers": 2}

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.num_attention_heads * config.attention_head_dim
        assert config.rope_axes is not None
        self.multiple, self.axes, self.theta = (
            self.setting(config, "fill_to"),
            tuple(config.rope_axes),
            config.rope_theta,
        )
        self.norm = FP32RMSNorm(config.text_dim, config.eps)
        self.proj = nn.Linear(config.text_dim, dim)
        self.token = nn.Parameter(torch.empty(1, dim))
        self.blocks = nn.ModuleList(TextSandwich.of(config) for _ in range(config.num_refiner_layers))

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        """See :class:`~videodit.schema.Part`."""
        if config.rope != "text_first":
            raise InputError(f"text_embedding='filled' needs rope='text_first', got {config.rope!r}")

    @classmethod
    def of(cls, config: TransformerConfig, width: int, *, bias: bool = True) -> Self:
        """See :class:`~videodit.blocks.LinearText`."""
        return cls(config)

    def init_weights(self) -> None:
        """The learned token normal, with a deviation of 0.02."""
        initialize(self)
        nn.init.normal_(self.token, std=0.02)

    def forward(self, text: Tensor, mask: Tensor | None) -> EmbeddedText:
        """Refine.

        Args:
            text: ``[B, L, text_dim]``.
            mask: boolean ``[B, L]``, True where a token counts; ``None`` for all.

        Returns:
            Tokens ``[B, L', D]``, where ``L'`` is ``L`` filled up, and which of them count, ``[B, L']``, or ``None``
            for all: of each prompt those that counted, then learned ones up to the multiple.
        """
        if mask is not None:
            order = (~mask).long().argsort(dim=1, stable=True)  # those that count, as they follow one another
            text = text.gather(1, order[..., None].expand_as(text))
        x = self.proj(self.norm(text).to(text.dtype))  # [B, L, D]
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.multiple))  # [B, L', D]
        places = torch.arange(x.shape[1], device=x.device)
        lengths = text.new_full([len(text)], text.shape[1], dtype=torch.long) if mask is None else mask.sum(dim=1)
        x = torch.where((places < lengths[:, None])[..., None], x, self.token.to(x.dtype))
        counts, allowed = None, None
        if mask is not None:
            filled = lengths + -lengths % self.multiple
            counts = places < filled[:, None]  # [B, L']
            allowed = (counts | (places == 0))[:, None, None]  # [B, 1, 1, L']; a row without any key would be NaN
        rotary = text_line_table(x.shape[1], self.axes, self.theta, x.device)
        for block in self.blocks:
            x = block(x, allowed, rotary)
        return EmbeddedText(x, mask=counts)
