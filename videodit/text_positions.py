"""Rotary tables in which the text's tokens have positions of their own."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from videodit.shapes import Size3D

# Tables are shared between calls; made under inference mode they could not be used in training afterwards.
outside_inference_mode = torch.inference_mode(False)


@lru_cache(maxsize=16)
@outside_inference_mode
def centred_table(grid: Size3D, text: int, dims: Size3D, theta: float, device: torch.device) -> Tensor:
    """Positions that are counted from the middle of a picture, with the text behind its corner (Qwen Team, "Qwen-Image
    Technical Report", 2025).

    Frames count from 0; rows and columns so that the middle is 0 (of an even number, the one behind it). A text token's
    position is the same along all axes: the first is as far from the middle as the farthest row or column.

    Args:
        grid: tokens along time, height and width.
        text: tokens of the text.
        dims: channels of a head that each axis rotates; even numbers.
        theta: base of the frequencies.
        device: where the table lives.

    Returns:
        fp32 ``[1, S + text, 1, head_dim / 2, 2]``. Shared between callers: do not change it in place.
    """
    rows, columns = (_count(n) - (n - n // 2) for n in (grid.h, grid.w))
    places = torch.cartesian_prod(_count(grid.t), rows, columns)  # [S, 3]
    behind = max(grid.h // 2, grid.w // 2) + _count(text)
    return _table(torch.cat([places, behind[:, None].expand(-1, 3)]), dims, theta, device)


@lru_cache(maxsize=16)
@outside_inference_mode
def text_axis_table(grid: Size3D, text: int, dims: tuple[int, ...], theta: float, device: torch.device) -> Tensor:
    """Positions along four axes: frames, rows and columns of the picture, and the text's own, each 0 for the other
    (Black Forest Labs, "FLUX.2", 2025).

    Args:
        grid: tokens along time, height and width.
        text: tokens of the text.
        dims: channels of a head that each of the four axes rotates; even numbers.
        theta: base of the frequencies.
        device: where the table lives.

    Returns:
        fp32 ``[1, S + text, 1, head_dim / 2, 2]``. Shared between callers: do not change it in place.
    """
    picture = torch.cartesian_prod(_count(grid.t), _count(grid.h), _count(grid.w), _count(1))  # [S, 4]
    words = torch.cartesian_prod(_count(1), _count(1), _count(1), _count(text))  # [text, 4]
    return _table(torch.cat([picture, words]), dims, theta, device)


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
