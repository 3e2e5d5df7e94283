"""Where tokens are: rotary tables and sine-cosine embeddings on a time × height × width grid.

Angles are computed in fp64 where nothing else is said. Tokens are in time-major order, ``S = t·h·w``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Self

from videodit.errors import InputError
from videodit.schema import Part
from videodit.shapes import Size3D
from videodit.text_positions import centred_table, outside_inference_mode, text_axis_table
from videodit.transformer_config import TransformerConfig

RotaryKind = Literal["grid", "fractional", "learned", "centred", "text_axis"]
PositionEmbedding = Literal["sincos_2d", "sincos_3d", "learned"]


def split_head_dim(head_dim: int) -> Size3D:
    """How a head's channels are shared among the axes: height and width a third each, time the rest.

    ``128 → 44, 42, 42``, as in Wan 2.1.

    Raises:
        InputError: a head that cannot give every axis a pair of channels.
    """
    if head_dim % 2 or head_dim < 6:
        raise InputError(f"attention_head_dim must be even and at least 6 for 3D rotary positions, got {head_dim}")
    side = 2 * (head_dim // 6)
    return Size3D(head_dim - 2 * side, side, side)


class Place(NamedTuple):
    """Where a grid of tokens stands: along time, height and width, in tokens of a clip.

    Attributes:
        start: of its first token.
        spacing: from one token to the next.
    """

    start: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


ORIGIN = Place()
"""That of a clip."""


def axis_positions(
    grid: Size3D,
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
    base: tuple[float, float] | None = None,
    place: Place = ORIGIN,
) -> list[Tensor]:
    """Positions of the tokens along time, height and width, three fp64 vectors.

    Args:
        grid: tokens along each axis.
        scale: what one token is long.
        base: fit height and width into a grid of this size, centred and in proportion (CogVideoX's way to other
            sizes than the trained one; at that size it changes nothing).
        place: where the grid stands.
    """
    starts, ends = [0.0, 0.0, 0.0], [float(n) for n in grid]
    if base is not None:
        if grid.h / grid.w > base[0] / base[1]:
            fitted = (round(base[0]), round(base[0] / grid.h * grid.w))
        else:
            fitted = (round(base[1] / grid.w * grid.h), round(base[1]))
        for axis in (0, 1):
            starts[axis + 1] = float(round((base[axis] - fitted[axis]) / 2))
            ends[axis + 1] = starts[axis + 1] + fitted[axis]
    return [
        factor * (first + step * torch.linspace(start, end * (n - 1) / n, n, dtype=torch.float64, device="cpu"))
        for n, factor, start, end, first, step in zip(grid, scale, starts, ends, *place, strict=True)
    ]


# ---- rotary --------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
@outside_inference_mode
def rotary_3d(
    grid: Size3D,
    dims: Size3D,
    theta: float,
    device: torch.device,
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
    base: tuple[float, float] | None = None,
    place: Place = ORIGIN,
) -> Tensor:
    """Cosines and sines of 3D rotary positions (Su et al., "RoFormer", 2021, one table for each axis).

    Args:
        grid: tokens along time, height and width.
        dims: channels of a head that each axis rotates; even numbers.
        theta: base of the frequencies.
        device: where the tables live.
        scale: see :func:`axis_positions`.
        base: see :func:`axis_positions`.
        place: where the grid stands.

    Returns:
        fp32 ``[1, S, 1, head_dim / 2, 2]``: the axes' frequencies one after the other, cosine and sine of each. Shared
        between callers: do not change it in place.
    """
    angles = []
    for axis, (positions, dim) in enumerate(zip(axis_positions(grid, scale, base, place), dims, strict=True)):
        frequencies = theta ** -(torch.arange(0, dim, 2, dtype=torch.float64, device="cpu") / dim)  # [dim/2]
        angle = torch.outer(positions, frequencies)  # [length, dim/2]
        shape = [1, 1, 1, dim // 2]
        shape[axis] = len(positions)
        angles.append(angle.view(shape).expand(*grid, -1))  # [t, h, w, dim/2]
    table = torch.cat(angles, dim=-1).flatten(0, 2)[None, :, None]  # [1, S, 1, head_dim/2]
    return torch.stack([table.cos(), table.sin()], dim=-1).float().to(device)


@lru_cache(maxsize=16)
@outside_inference_mode
def rotary_fractional(
    grid: Size3D,
    heads: int,
    head_dim: int,
    theta: float,
    device: torch.device,
    scale: tuple[float, float, float],
    lag: float = 0.0,
    place: Place = ORIGIN,
) -> Tensor:
    """LTX-Video's rotary positions: fractions of a base extent, over the whole width instead of each head
    (HaCohen et al., "LTX-Video", 2024, section 2.2).

    An axis at fraction ``f`` turns by ``θ^u · π/2 · (2f − 1)`` for ``u`` from 0 to 1; frequencies of the three axes
    alternate. Channels that are left over come first and do not turn. In fp32, as the published models were trained:
    at the highest frequencies its rounding shows.

    Args:
        grid: tokens along time, height and width.
        heads: attention heads.
        head_dim: channels of a head.
        theta: the highest frequency.
        device: where the tables live.
        scale: what part of the base extent one token is.
        lag: how far tokens after the first are behind along time, as a share of a token.
        place: where the grid stands; along time, its first token, which has no lag.

    Returns:
        fp32 ``[1, S, N, head_dim / 2, 2]``, cosine and sine of each angle.
    """
    width = heads * head_dim
    frequencies = theta ** torch.linspace(0, 1, width // 6) * math.pi / 2  # [width/6]
    first, row, column = place.start
    t, h, w = axis_positions(grid, place=Place((0.0, row, column), place.spacing))
    axes = (((t - lag).clamp(min=0) + first) * scale[0], h * scale[1], w * scale[2])
    places = torch.meshgrid(*(axis.float() for axis in axes), indexing="ij")
    fractions = torch.stack(places, dim=-1).flatten(0, 2)  # [S, 3]
    angles = (frequencies[:, None] * (2 * fractions[:, None] - 1)).flatten(1)  # [S, width/6 · 3]
    still = angles.new_zeros(len(angles), width // 2 - angles.shape[1])
    table = torch.cat([still, angles], dim=-1).unflatten(1, (heads, -1))[None]  # [1, S, N, head_dim/2]
    return torch.stack([table.cos(), table.sin()], dim=-1).to(device)


class RotaryTables(nn.Module, Part):
    """The rotary table of a model; a class for each kind of positions."""

    @classmethod
    def of(cls, config: TransformerConfig) -> Self:
        """That of a VideoDiT with this config."""
        raise NotImplementedError

    def table(self, grid: Size3D, device: torch.device, fps: float, place: Place = ORIGIN) -> Tensor:
        """Cosines and sines of tokens of a grid ``[1, S, 1 or N, head_dim / 2, 2]``; the clip's stand at the origin."""
        raise NotImplementedError

    def forward(self, grid: Size3D, device: torch.device, fps: float, text: int = 0) -> Tensor:
        """Cosines and sines ``[1, S + text, 1 or N, head_dim / 2, 2]``; text tokens come last and are not turned."""
        table = self.table(grid, device, fps)
        if text == 0:
            return table
        still = table.new_zeros(1, text, *table.shape[2:])
        still[..., 0] = 1
        return torch.cat([table, still], dim=1)


class GridRotary(RotaryTables):
    """Each axis turns its share of every head: :func:`rotary_3d`.

    Args:
        head_dim: channels of a head.
        axes: channels of a head that each axis rotates; ``None`` for :func:`split_head_dim`.
        theta: base of the frequencies.
        scale: see :func:`axis_positions`.
        base: see :func:`axis_positions`.

    Raises:
        InputError: axes that do not add up to the head, or a head that three axes cannot share.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        axes: Sequence[int] | None,
        theta: float,
        scale: Sequence[float],
        base: Sequence[float] | None,
    ) -> None:
        super().__init__()
        if axes is not None and len(axes) != 3:
            raise InputError(f"rope_axes must be three numbers, got {tuple(axes)}")
        self.dims = split_head_dim(head_dim) if axes is None else Size3D(*axes)
        if sum(self.dims) != head_dim or any(dim % 2 for dim in self.dims):
            raise InputError(f"rope_axes must be even and add up to attention_head_dim {head_dim}, got {axes}")
        self.theta, self.scale, self.base = theta, tuple(scale), None if base is None else tuple(base)

    @classmethod
    def of(cls, config: TransformerConfig) -> Self:
        return cls(
            config.attention_head_dim,
            axes=config.rope_axes,
            theta=config.rope_theta,
            scale=config.position_scale,
            base=config.position_base,
        )

    def table(self, grid: Size3D, device: torch.device, fps: float, place: Place = ORIGIN) -> Tensor:
        return rotary_3d(grid, self.dims, self.theta, device, self.scale, self.base, place)  # type: ignore[arg-type]


class CentredRotary(GridRotary):
    """As a grid's, counted from the middle, and turning the text, too: :func:`centred_table`."""

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        if config.position_base is not None or tuple(config.position_scale) != (1.0, 1.0, 1.0):
            raise InputError(
                f"rope='centred' needs position_base=None and position_scale=(1.0, 1.0, 1.0), got "
                f"{config.position_base} and {tuple(config.position_scale)}"
            )

    def forward(self, grid: Size3D, device: torch.device, fps: float, text: int = 0) -> Tensor:
        return centred_table(grid, text, self.dims, self.theta, device)


class TextAxisRotary(RotaryTables):
    """The text has an axis of its own, the fourth: :func:`text_axis_table`.

    Args:
        dims: channels of a head that each axis rotates.
        theta: base of the frequencies.
    """

    def __init__(self, dims: tuple[int, ...], theta: float) -> None:
        super().__init__()
        self.dims, self.theta = dims, theta

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        axes = config.rope_axes
        if axes is None or len(axes) != 4 or sum(axes) != config.attention_head_dim or any(dim % 2 for dim in axes):
            raise InputError(
                "rope='text_axis' needs rope_axes of four even numbers that add up to attention_head_dim "
                f"{config.attention_head_dim}, got {axes}"
            )
        if config.position_base is not None or tuple(config.position_scale) != (1.0, 1.0, 1.0):
            raise InputError(
                f"rope='text_axis' needs position_base=None and position_scale=(1.0, 1.0, 1.0), got "
                f"{config.position_base} and {tuple(config.position_scale)}"
            )

    @classmethod
    def of(cls, config: TransformerConfig) -> Self:
        assert config.rope_axes is not None
        return cls(tuple(config.rope_axes), config.rope_theta)

    def forward(self, grid: Size3D, device: torch.device, fps: float, text: int = 0) -> Tensor:
        return text_axis_table(grid, text, self.dims, self.theta, device)


class FractionalRotary(RotaryTables):
    """Fractions of a base extent, over the whole width: :func:`rotary_fractional`.

    Args:
        heads: attention heads.
        head_dim: channels of a head.
        theta: the highest frequency.
        scale: see :func:`rotary_fractional`, along time in seconds.
        lag: see :func:`rotary_fractional`.
    """

    def __init__(self, heads: int, head_dim: int, *, theta: float, scale: Sequence[float], lag: float) -> None:
        super().__init__()
        self.heads, self.head_dim, self.theta, self.scale, self.lag = heads, head_dim, theta, tuple(scale), lag

    @classmethod
    def of(cls, config: TransformerConfig) -> Self:
        return cls(
            config.num_attention_heads,
            config.attention_head_dim,
            theta=config.rope_theta,
            scale=config.position_scale,
            lag=config.rope_lag,
        )

    def table(self, grid: Size3D, device: torch.device, fps: float, place: Place = ORIGIN) -> Tensor:
        seconds, height, width = self.scale
        scale = (seconds / fps, height, width)
        return rotary_fractional(grid, self.heads, self.head_dim, self.theta, device, scale, self.lag, place)


class LearnedRotary(RotaryTables):
    """Learned frequencies for each axis, head and pair of channels (Genmo, "Mochi 1", 2024).

    Height and width are counted from the middle, and stretched alike so that every grid has the same area.

    Args:
        heads: attention heads ``N``.
        head_dim: channels of a head.
        base: height and width of that area.
    """

    fp32 = ("rotary",)

    def __init__(self, heads: int, head_dim: int, *, base: Sequence[float]) -> None:
        super().__init__()
        self.area = base[0] * base[1]
        self.frequencies = nn.Parameter(torch.empty(3, heads, head_dim // 2))

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        split_head_dim(config.attention_head_dim)
        if config.position_base is None:
            raise InputError("rope='learned' needs position_base, got None")

    @classmethod
    def of(cls, config: TransformerConfig) -> Self:
        assert config.position_base is not None
        return cls(config.num_attention_heads, config.attention_head_dim, base=config.position_base)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Start as the fixed positions of a grid: each axis turns its share of every head."""
        self.frequencies.zero_()
        first = 0
        for axis, dim in enumerate(split_head_dim(2 * self.frequencies.shape[2])):
            usual = 10_000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64, device="cpu") / dim)
            self.frequencies[axis, :, first : first + dim // 2] = usual.to(self.frequencies)
            first += dim // 2

    def table(self, grid: Size3D, device: torch.device, fps: float, place: Place = ORIGIN) -> Tensor:
        frequencies = self.frequencies.float()
        stretch = (self.area / (grid.h * grid.w)) ** 0.5
        angles = torch.zeros((), device=device)
        for axis, count in enumerate(grid):
            places = torch.arange(count, dtype=torch.float32, device=device)
            if axis > 0:
                places = (places - (count - 1) / 2) * stretch
            shape = [1, 1, 1, *frequencies.shape[1:]]
            shape[axis] = count
            angles = angles + (places[:, None, None] * frequencies[axis]).view(shape)  # [t, h, w, N, head_dim/2]
        angles = angles.flatten(0, 2)[None]  # [1, S, N, head_dim/2]
        return torch.stack([angles.cos(), angles.sin()], dim=-1)


ROTARY: dict[str | None, type[RotaryTables] | None] = {
    None: None,
    "grid": GridRotary,
    "fractional": FractionalRotary,
    "learned": LearnedRotary,
    "centred": CentredRotary,
    "text_axis": TextAxisRotary,
}
"""The class of the rotary table, by the value of VideoDiT's ``rope``."""


def apply_rotary(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate neighbouring pairs of channels.

    Args:
        x: queries or keys ``[B, S, N, head_dim]``.
        rotary: table of :class:`RotaryTables`.

    Returns:
        The same shape and dtype; the arithmetic is done in fp32.
    """
    pairs = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))  # [B, S, N, head_dim/2, 2]
    if torch.compiler.is_compiling():  # the compiler makes one kernel of real numbers, and none of complex ones
        (even, odd), (cos, sin) = pairs.unbind(-1), rotary.unbind(-1)
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    else:  # one kernel in place of seven
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotary))
    return turned.flatten(-2).type_as(x)


# ---- sines and cosines ---------------------------------------------------------------------------


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
