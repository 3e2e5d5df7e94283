"""The camera of the toybox world: where it stands, what it sees, and the way from pixels to rays.

World axes: ``x`` to the right, ``y`` up (the ground is ``y = 0``), ``z`` away from the camera, which stands
at ``(0, HEIGHT, 0)``. Lengths are in toybox units; a large ball is 2.5 units wide.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch

HEIGHT = 3.0
FOCAL = 1.8
"""Focal length in halves of the frame's shorter side, so that tall and wide frames show the same objects."""
TAN_PITCH = 0.2
"""The camera looks down by this slope, which puts the horizon at about a third from the top."""
_COS = 1 / math.sqrt(1 + TAN_PITCH**2)
_SIN = TAN_PITCH * _COS

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def focal_pixels(height: int, width: int) -> float:
    """Focal length in pixels of a frame of this size."""
    return FOCAL * min(height, width) / 2


def project(x: Array, y: Array, z: Array, *, height: int, width: int) -> tuple[Array, Array, Array]:
    """World points to pixel coordinates.

    Returns:
        Column and row in pixels, where the first pixel covers 0 to 1, and the depth along the camera's axis.
    """
    f = focal_pixels(height, width)
    depth = -_SIN * (y - HEIGHT) + _COS * z
    up = _COS * (y - HEIGHT) + _SIN * z
    return width / 2 + f * x / depth, height / 2 - f * up / depth, depth


def column_rays(column: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """The world x of the ray through a pixel column; its depth along the camera's axis is 1."""
    return (column - width / 2) / focal_pixels(height, width)


def row_rays(row: torch.Tensor, *, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The world y and z of the ray through a pixel row; its depth along the camera's axis is 1."""
    up = (height / 2 - row) / focal_pixels(height, width)
    return _COS * up - _SIN, _SIN * up + _COS


def first_ground_row(height: int, width: int) -> int:
    """The first row of pixels whose middle shows the ground."""
    return max(0, math.floor(height / 2 - TAN_PITCH * focal_pixels(height, width) + 0.5))


def ground_depth(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Depth [H,W] along the camera's axis of the ground behind each pixel's middle; inf in the sky."""
    dy, _ = row_rays(torch.arange(height, device=device) + 0.5, height=height, width=width)
    return torch.where(dy < 0, -HEIGHT / dy, torch.inf)[:, None].expand(height, width)
