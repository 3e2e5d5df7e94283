"""Rotary tables: where tokens stand on a time × height × width grid, turned into the queries and keys of attention.

Angles are computed in fp64 where nothing else is said. Tokens are in time-major order, ``S = t·h·w``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from videodit.errors import InputError
from videodit.schema import Part
from videodit.shapes import Size3D
from videodit.transformer_config import TransformerConfig

RotaryKind = Literal["grid", "fractional", "learned", "centred", "text_axis", "plane", "text_first"]

# Tables are shared between calls; made under inference mode they could not be used in training afterwards.
outside_inference_mode = torch.inference_mode(False)


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


class Beside(NamedTuple):
    """Tokens beside those of a clip: references.

    Attributes:
        grid: how many there are along time, height and width.
        place: where they stand.
    """

    grid: Size3D
    place: Place


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
    places = torch.cartesian_prod(*axis_positions(grid, scale, base, place))  # [S, 3]
    return _table(places, dims, theta, device)


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


@lru_cache(maxsize=16)
@outside_inference_mode
def centred_table(
    grid: Size3D, text: int, dims: Size3D, theta: float, device: torch.device, beside: tuple[Beside, ...] = ()
) -> Tensor:
    """Positions that are counted from the middle of a picture, with the text behind its corner (Qwen Team, "Qwen-Image
    Technical Report", 2025).

    Frames count from 0; rows and columns so that the middle is 0 (of an even number, the one behind it), of each
    picture its own. A text token's position is the same along all axes: the first is as far from the middle as the
    farthest row or column of all pictures.

    Args:
        grid: tokens along time, height and width.
        text: tokens of the text.
        dims: channels of a head that each axis rotates; even numbers.
        theta: base of the frequencies.
        device: where the table lives.
        beside: references.

    Returns:
        fp32 ``[1, S + R + text, 1, head_dim / 2, 2]``. Shared between callers: do not change it in place.
    """
    everything = (Beside(grid, ORIGIN), *beside)
    pictures = []
    for size, place in everything:
        counted = (_count(size.t), *(_count(n) - (n - n // 2) for n in (size.h, size.w)))
        pictures.append(torch.cartesian_prod(*_placed(counted, place)))  # [s, 3]
    behind = max(max(size.h // 2, size.w // 2) for size, _ in everything) + _count(text)
    return _table(torch.cat([*pictures, behind[:, None].expand(-1, 3)]), dims, theta, device)


@lru_cache(maxsize=16)
@outside_inference_mode
def text_axis_table(
    grid: Size3D, text: int, dims: tuple[int, ...], theta: float, device: torch.device, beside: tuple[Beside, ...] = ()
) -> Tensor:
    """Positions along four axes: frames, rows and columns of pictures, and the text's own, each 0 for the other
    (Black Forest Labs, "FLUX.2", 2025).

    Args:
        grid: tokens along time, height and width.
        text: tokens of the text.
        dims: channels of a head that each of the four axes rotates; even numbers.
        theta: base of the frequencies.
        device: where the table lives.
        beside: references.

    Returns:
        fp32 ``[1, S + R + text, 1, head_dim / 2, 2]``. Shared between callers: do not change it in place.
    """
    pictures = [
        torch.cartesian_prod(*_placed(map(_count, size), place), _count(1))  # [s, 4]
        for size, place in (Beside(grid, ORIGIN), *beside)
    ]
    words = torch.cartesian_prod(_count(1), _count(1), _count(1), _count(text))  # [text, 4]
    return _table(torch.cat([*pictures, words]), dims, theta, device)


def _placed(axes: Iterable[Tensor], place: Place) -> list[Tensor]:
    """Tokens that are counted along time, height and width, where they stand."""
    return [first + step * axis for axis, first, step in zip(axes, *place, strict=True)]


@lru_cache(maxsize=16)
@outside_inference_mode
def plane_table(grid: Size3D, text: int, start: int, dims: Size3D, theta: float, device: torch.device) -> Tensor:
    """Positions of a text that lies in a plane of its own, along the diagonal, and of a picture in the plane behind it
    (Meituan LongCat Team, "LongCat-Image", 2025; diffusers: ``prepare_pos_ids``).

    Args:
        grid: tokens along time, height and width.
        text: tokens of the text; the first stands at row and column 0.
        start: row and column of the picture's first token.
        dims: channels of a head that each axis rotates; even numbers.
        theta: base of the frequencies.
        device: where the table lives.

    Returns:
        fp32 ``[1, S + text, 1, head_dim / 2, 2]``. Shared between callers: do not change it in place.
    """
    picture = torch.cartesian_prod(1 + _count(grid.t), start + _count(grid.h), start + _count(grid.w))  # [S, 3]
    words = _count(text)
    return _table(torch.cat([picture, torch.stack([0 * words, words, words], dim=1)]), dims, theta, device)


@lru_cache(maxsize=16)
@outside_inference_mode
def text_line_table(text: int, dims: tuple[int, ...], theta: float, device: torch.device) -> Tensor:
    """Positions of a text alone that is counted from 1 along the first axis.

    Args:
        text: tokens of it.
        dims: channels of a head that each axis rotates; even numbers.
        theta: base of the frequencies.
        device: where the table lives.

    Returns:
        fp32 ``[1, text, 1, head_dim / 2, 2]``. Shared between callers: do not change it in place.
    """
    return _table(F.pad(1 + _count(text)[:, None], (0, len(dims) - 1)), dims, theta, device)


@lru_cache(maxsize=16)
@outside_inference_mode
def text_first_table(
    grid: Size3D, text: int, filling: int, dims: tuple[int, ...], theta: float, device: torch.device
) -> Tensor:
    """Positions of a text along the first axis, and behind it along that axis the frames of a picture
    (Tongyi-MAI, "Z-Image", 2025; diffusers: ``patchify_and_embed``).

    Args:
        grid: tokens along time, height and width.
        text: tokens of the text, counted from 1; the picture's first frame comes next.
        filling: tokens behind the text, all of them at 0.
        dims: channels of a head that each axis rotates; even numbers.
        theta: base of the frequencies.
        device: where the table lives.

    Returns:
        fp32 ``[1, S + text + filling, 1, head_dim / 2, 2]``. Shared between callers: do not change it in place.
    """
    picture = torch.cartesian_prod(text + 1 + _count(grid.t), _count(grid.h), _count(grid.w))  # [S, 3]
    words = F.pad(1 + _count(text)[:, None], (0, 2))
    return _table(torch.cat([picture, words, words.new_zeros(filling, 3)]), dims, theta, device)


def _count(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64, device="cpu")


def _table(places: Tensor, dims: tuple[int, ...], theta: float, device: torch.device) -> Tensor:
    """Of tokens at ``places [n, axes]``, for each axis of which ``dims`` names the channels that it rotates."""
    angles = [
        torch.outer(places[:, axis], theta ** -(torch.arange(0, dim, 2, dtype=torch.float64, device="cpu") / dim))
        for axis, dim in enumerate(dims)
    ]
    table = torch.cat(angles, dim=-1)[None, :, None]  # [1, n, 1, head_dim/2]
    return torch.stack([table.cos(), table.sin()], dim=-1).float().to(device)


class JoinedTokens(NamedTuple):
    """What a table is for; see :meth:`RotaryTables.forward`."""

    grid: Size3D
    device: torch.device
    fps: float
    text: int
    mask: Tensor | None
    beside: tuple[Beside, ...]


class RotaryTables(nn.Module, Part):
    """The rotary table of a model; a class for each kind of positions."""

    @classmethod
    def of(cls, config: TransformerConfig) -> Self:
        """That of a VideoDiT with this config."""
        raise NotImplementedError

    def table(self, grid: Size3D, device: torch.device, fps: float, place: Place = ORIGIN) -> Tensor:
        """Cosines and sines of tokens of a grid ``[1, S, 1 or N, head_dim / 2, 2]``; the clip's stand at the origin."""
        raise NotImplementedError

    def forward(
        self,
        grid: Size3D,
        device: torch.device,
        fps: float,
        text: int = 0,
        mask: Tensor | None = None,
        beside: Sequence[Beside] = (),
    ) -> Tensor:
        """Cosines and sines of all tokens.

        Args:
            grid: tokens of the clip along time, height and width.
            device: where the table lives.
            fps: of the clip.
            text: tokens of a joined text, which come last; those of most models are not turned.
            mask: which tokens of the text count, ``[B, text]``, where the places of a clip's tokens depend on it.
            beside: references, which come between.

        Returns:
            ``[1, S + R + text, 1 or N, head_dim / 2, 2]``; ``[B, …]`` where there is a table for each clip.
        """
        return self.joined(JoinedTokens(grid, device, fps, text, mask, tuple(beside)))

    def joined(self, tokens: JoinedTokens) -> Tensor:
        """The table of all tokens, which :meth:`forward` returns."""
        grid, device, fps, text, _, beside = tokens
        tables = [self.table(grid, device, fps), *(self.table(one.grid, device, fps, one.place) for one in beside)]
        if text:
            still = tables[0].new_zeros(1, text, *tables[0].shape[2:])
            still[..., 0] = 1
            tables.append(still)
        return tables[0] if len(tables) == 1 else torch.cat(tables, dim=1)


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

    takes: ClassVar[Mapping[str, object]] = {"rope_axes": None}

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


def _check_whole_steps(rope: str, config: TransformerConfig) -> None:
    if config.position_base is not None or tuple(config.position_scale) != (1.0, 1.0, 1.0):
        raise InputError(
            f"rope={rope!r} needs position_base=None and position_scale=(1.0, 1.0, 1.0), got "
            f"{config.position_base} and {tuple(config.position_scale)}"
        )


class CentredRotary(GridRotary):
    """As a grid's, counted from the middle, and turning the text, too: :func:`centred_table`."""

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        _check_whole_steps("centred", config)

    def joined(self, tokens: JoinedTokens) -> Tensor:
        return centred_table(tokens.grid, tokens.text, self.dims, self.theta, tokens.device, tokens.beside)


class PlaneRotary(GridRotary):
    """As a grid's, but the text lies in a plane before the picture's: :func:`plane_table`.

    Its setting ``picture_start``: row and column of the picture's first token, the most tokens that a text has.
    """

    settings: ClassVar[Mapping[str, object]] = {"picture_start": 512}
    start: int

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        if cls.setting(config, "picture_start") < 0:
            raise InputError(
                f"block_options: picture_start must be at least 0, got {cls.setting(config, 'picture_start')}"
            )
        _check_whole_steps("plane", config)

    @classmethod
    def of(cls, config: TransformerConfig) -> Self:
        made = super().of(config)
        made.start = cls.setting(config, "picture_start")
        return made

    def joined(self, tokens: JoinedTokens) -> Tensor:
        assert not tokens.beside  # see obstacle_to_references
        return plane_table(tokens.grid, tokens.text, self.start, self.dims, self.theta, tokens.device)


class TextFirstRotary(GridRotary):
    """The text's tokens, then the picture's frames along the first axis: :func:`text_first_table`.

    Each clip's frames follow the tokens of its own text that count. Its setting ``fill_to``: tokens fill those of the
    video up to a multiple of so many; they stand behind the text's.
    """

    settings: ClassVar[Mapping[str, object]] = {"fill_to": 0}
    fill_to: int

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        if cls.setting(config, "fill_to") < 1:
            raise InputError("rope='text_first' needs block_options: fill_to of at least 1, got 0")
        _check_whole_steps("text_first", config)

    @classmethod
    def of(cls, config: TransformerConfig) -> Self:
        made = super().of(config)
        made.fill_to = cls.setting(config, "fill_to")
        return made

    def joined(self, tokens: JoinedTokens) -> Tensor:
        grid, device, _, text, mask, beside = tokens
        assert not beside  # see obstacle_to_references
        filling = -grid.numel % self.fill_to
        words = text - filling
        table = text_first_table(grid, words, filling, tuple(self.dims), self.theta, device)
        if mask is None:
            return table
        # Frames stand at any place from 1 to words + t; of each clip its own are taken.
        line = text_line_table(words + grid.t, tuple(self.dims), self.theta, device)[0, :, 0, : self.dims.t // 2]
        frames = torch.arange(grid.t, device=device).repeat_interleave(grid.h * grid.w)  # [S]
        own = line[mask[:, :words].sum(dim=1)[:, None] + frames]  # [B, S, dims.t / 2, 2]
        table = table.repeat(len(mask), 1, 1, 1, 1)
        table[:, : grid.numel, 0, : self.dims.t // 2] = own
        return table


class TextAxisRotary(RotaryTables):
    """The text has an axis of its own, the fourth: :func:`text_axis_table`.

    Args:
        dims: channels of a head that each axis rotates.
        theta: base of the frequencies.
    """

    takes: ClassVar[Mapping[str, object]] = {"rope_axes": None}

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
        _check_whole_steps("text_axis", config)

    @classmethod
    def of(cls, config: TransformerConfig) -> Self:
        assert config.rope_axes is not None
        return cls(tuple(config.rope_axes), config.rope_theta)

    def joined(self, tokens: JoinedTokens) -> Tensor:
        return text_axis_table(tokens.grid, tokens.text, self.dims, self.theta, tokens.device, tokens.beside)


class FractionalRotary(RotaryTables):
    """Fractions of a base extent, over the whole width: :func:`rotary_fractional`.

    Args:
        heads: attention heads.
        head_dim: channels of a head.
        theta: the highest frequency.
        scale: see :func:`rotary_fractional`, along time in seconds.
        lag: see :func:`rotary_fractional`.
    """

    takes: ClassVar[Mapping[str, object]] = {"rope_lag": 0.0}

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
    "plane": PlaneRotary,
    "text_first": TextFirstRotary,
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
