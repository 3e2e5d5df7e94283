"""Rotary position tables for tokens on a time × height × width grid."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from videodit.shapes import Size3D


def split_head_dim(head_dim: int) -> Size3D:
    """How a head's channels are shared among the axes: height and width a third each, time the rest.

    ``128 → 44, 42, 42``, as in Wan 2.1.

    Raises:
        ValueError: a head that cannot give every axis a pair of channels.
    """
    if head_dim % 2 or head_dim < 6:
        raise ValueError(f"attention_head_dim must be even and at least 6 for 3D rotary positions, got {head_dim}")
    side = 2 * (head_dim // 6)
    return Size3D(head_dim - 2 * side, side, side)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # or tables first made under it could not be used in training afterwards
def rotary_3d(grid: Size3D, dims: Size3D, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of 3D rotary positions (Su et al., "RoFormer", 2021, one table for each axis).

    Args:
        grid: tokens along time, height and width.
        dims: channels of a head that each axis rotates; even numbers.
        theta: base of the frequencies.
        device: where the tables live.

    Returns:
        Two fp32 tensors ``[1, S, 1, head_dim / 2]``, computed in fp64: tokens in time-major order, the axes'
        frequencies one after the other. Shared between callers: do not change them in place.
    """
    angles = []
    for axis, (length, dim) in enumerate(zip(grid, dims, strict=True)):
        frequencies = theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)  # [dim/2]
        angle = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)  # [length, dim/2]
        shape = [1, 1, 1, dim // 2]
        shape[axis] = length
        angles.append(angle.view(shape).expand(*grid, -1))  # [T, H, W, dim/2]
    table = torch.cat(angles, dim=-1).flatten(0, 2)[None, :, None]  # [1, S, 1, head_dim/2]
    return table.cos().float().to(device), table.sin().float().to(device)


def apply_rotary(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate neighbouring pairs of channels.

    Args:
        x: queries or keys ``[B, S, N, head_dim]``.
        rotary: tables of :func:`rotary_3d`.

    Returns:
        The same shape and dtype; the arithmetic is done in fp32.
    """
    cos, sin = rotary
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)  # [B, S, N, head_dim/2] each
    pairs = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return pairs.flatten(-2).type_as(x)
