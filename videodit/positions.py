"""Where tokens are: sine-cosine and learned embeddings of a time × height × width grid, added to the tokens.

What turns queries and keys instead is in :mod:`videodit.rotary`. Tokens are in time-major order, ``S = t·h·w``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from videodit.errors import InputError
from videodit.rotary import axis_positions, outside_inference_mode
from videodit.schema import Part
from videodit.shapes import Size3D
from videodit.transformer_config import TransformerConfig

PositionEmbedding = Literal["sincos_2d", "sincos_3d", "learned"]


def sincos_1d(positions: Tensor, dim: int) -> Tensor:
    """Sines, then cosines of ``p · 10000^(−2i/dim)`` (Vaswani et al., "Attention Is All You Need", 2017).

    Args:
        positions: ``[n]`` in fp64.
        dim: an even number of channels.

    Returns:
        ``[n, dim]`` in fp64.
    """
    frequencies = 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64, device="cpu") / dim)
    angles = torch.outer(positions, frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@lru_cache(maxsize=16)
@outside_inference_mode
def sincos_2d(grid: Size3D, dim: int, device: torch.device, base: tuple[float, float]) -> Tensor:
    """Half of the channels for the column, half for the row, the same in each frame (DiT, PixArt, Latte).

    Args:
        grid: tokens along time, height and width.
        dim: channels, a multiple of 4.
        device: where the table lives.
        base: positions are stretched along each axis to end here, whatever the number of tokens.

    Returns:
        fp32 ``[1, S, dim]``.
    """
    rows = sincos_1d(torch.arange(grid.h, dtype=torch.float64, device="cpu") * (base[0] / grid.h), dim // 2)
    columns = sincos_1d(torch.arange(grid.w, dtype=torch.float64, device="cpu") * (base[1] / grid.w), dim // 2)
    parts = [columns.expand(*grid, -1), rows[:, None].expand(*grid, -1)]
    return torch.cat(parts, dim=-1).flatten(0, 2)[None].float().to(device)


@lru_cache(maxsize=16)
@outside_inference_mode
def sincos_3d(grid: Size3D, dim: int, device: torch.device, scale: tuple[float, float, float]) -> Tensor:
    """A quarter of the channels for the frame, three eighths each for column and row (CogVideoX-2B).

    Args:
        grid: tokens along time, height and width.
        dim: channels, a multiple of 16.
        device: where the table lives.
        scale: see :func:`axis_positions`.

    Returns:
        fp32 ``[1, S, dim]``.
    """
    t, h, w = axis_positions(grid, scale)
    frames, columns, rows = sincos_1d(t, dim // 4), sincos_1d(w, 3 * dim // 8), sincos_1d(h, 3 * dim // 8)
    parts = [frames[:, None, None].expand(*grid, -1), columns.expand(*grid, -1), rows[:, None].expand(*grid, -1)]
    return torch.cat(parts, dim=-1).flatten(0, 2)[None].float().to(device)


@lru_cache(maxsize=16)
@outside_inference_mode
def sincos_frames(grid: Size3D, dim: int, device: torch.device) -> Tensor:
    """The frame's number alone (Latte's temporal embedding).

    Returns:
        fp32 ``[1, S, dim]``.
    """
    frames = sincos_1d(torch.arange(grid.t, dtype=torch.float64, device="cpu"), dim)
    return frames[:, None, None].expand(*grid, -1).flatten(0, 2)[None].float().to(device)


# ---- what is added to the tokens -----------------------------------------------------------------


class PositionedModel(Protocol):
    """A model, for what it learns of positions, if it does."""

    config: TransformerConfig
    learned_positions: nn.Parameter


class NoPositions(Part):
    """Nothing is added to the tokens; the other kinds are told from it.

    Attributes:
        changes_text: the text's tokens get positions, too, which are not the same for each size of a clip.
    """

    changes_text: ClassVar[bool] = False

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        if config.learned_grid is not None:
            raise InputError(
                "position_embedding='learned' and learned_grid need each other; got "
                f"position_embedding={config.position_embedding!r} and learned_grid={config.learned_grid}"
            )

    @classmethod
    def new_parameter(cls, config: TransformerConfig) -> nn.Parameter | None:
        """What the model learns, its ``learned_positions``; without a value as yet."""
        return None

    @classmethod
    def add(cls, model: PositionedModel, x: Tensor, text: Tensor, grid: Size3D) -> tuple[Tensor, Tensor]:
        """Video ``[B, S, D]`` and text ``[B, L, D]`` of a model, with their positions."""
        return x, text


def _check_width(name: str, multiple: int, config: TransformerConfig) -> None:
    width = config.num_attention_heads * config.attention_head_dim
    if width % multiple:
        raise InputError(f"position_embedding={name!r} needs a width of a multiple of {multiple}, got {width}")


class Sincos2D(NoPositions):
    """See :func:`sincos_2d`."""

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        super().check(config)
        if config.position_base is None:
            raise InputError("position_embedding='sincos_2d' needs position_base, got None")
        _check_width("sincos_2d", 4, config)

    @classmethod
    def add(cls, model: PositionedModel, x: Tensor, text: Tensor, grid: Size3D) -> tuple[Tensor, Tensor]:
        assert model.config.position_base is not None
        return x + sincos_2d(grid, x.shape[2], x.device, tuple(model.config.position_base)).to(x.dtype), text


class Sincos3D(NoPositions):
    """See :func:`sincos_3d`."""

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        super().check(config)
        _check_width("sincos_3d", 16, config)

    @classmethod
    def add(cls, model: PositionedModel, x: Tensor, text: Tensor, grid: Size3D) -> tuple[Tensor, Tensor]:
        return x + sincos_3d(grid, x.shape[2], x.device, tuple(model.config.position_scale)).to(x.dtype), text


class LearnedPositions(NoPositions):
    """A learned row for each token of one size of clip, and for each of the text."""

    changes_text = True
    takes: ClassVar[Mapping[str, object]] = {"learned_text": 0}

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        if config.learned_grid is None:
            raise InputError("position_embedding='learned' and learned_grid need each other; got learned_grid=None")

    @classmethod
    def new_parameter(cls, config: TransformerConfig) -> nn.Parameter:
        assert config.learned_grid is not None
        rows = config.learned_text + Size3D(*config.learned_grid).numel
        return nn.Parameter(torch.empty(1, rows, config.num_attention_heads * config.attention_head_dim))

    @classmethod
    def add(cls, model: PositionedModel, x: Tensor, text: Tensor, grid: Size3D) -> tuple[Tensor, Tensor]:
        """See :class:`NoPositions`.

        Raises:
            InputError: another size of clip, or another number of text tokens.
        """
        assert model.config.learned_grid is not None
        trained, length = Size3D(*model.config.learned_grid), model.config.learned_text
        if tuple(grid) != tuple(trained) or text.shape[1] != length:
            raise InputError(
                f"this model has learned positions for {trained} tokens and {length} of text, "
                f"got {grid} and {text.shape[1]}"
            )
        positions = model.learned_positions.to(x.dtype)
        return x + positions[:, length:], text + positions[:, :length]


POSITIONS: dict[str | None, type[NoPositions]] = {
    None: NoPositions,
    "sincos_2d": Sincos2D,
    "sincos_3d": Sincos3D,
    "learned": LearnedPositions,
}
"""What is added to the tokens, by the value of VideoDiT's ``position_embedding``."""
