"""The camera of the toybox world: where it stands, how it moves, and the way between the world and pixels.

World axes: ``x`` to the right, ``y`` up (the ground is ``y = 0``), ``z`` into the picture. Lengths are in toybox
units; a large ball is 2.5 units wide. The camera is always `HEIGHT` above the ground and looks down by the same
slope. A camera that stands still is at ``(0, HEIGHT, 0)`` and looks along ``z``.

A moving camera is drawn by moving the world: *view axes* are the world's, shifted and turned about the vertical
so that the camera stands where one that stands still does. All functions but `view`, `to_view`, `from_view` and
`matrices` take and return view axes.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import numpy as np
import torch

HEIGHT = 3.0
FOCAL = 1.8
"""Focal length in halves of the frame's shorter side, so that tall and wide frames show the same objects."""
TAN_PITCH = 0.2
"""The camera looks down by this slope, which puts the horizon at about a third from the top."""
_COS = 1 / math.sqrt(1 + TAN_PITCH**2)
_SIN = TAN_PITCH * _COS
NEAR = 0.2
"""Nothing nearer to the camera than this is drawn."""

SLOW_DOWN = 2.0
"""Seconds after which a camera's move has slowed to a third: a clip of any length keeps its objects in view."""
ZOOM, ZOOM_IN_FROM, ZOOM_OUT_FROM = 2.1, 0.9, 1.35
"""Factor by which the picture grows or shrinks in the end, and the focal lengths that it starts from."""
PAN, PAN_FROM = 0.5, 0.12
"""Radians by which the camera turns in the end, and by which it starts turned the other way."""
ORBIT, PIVOT = 1.0, 6.8
"""Radians by which the camera goes around in the end, and how far ahead the centre of its way is."""

Array = TypeVar("Array", np.ndarray, torch.Tensor)


class View(NamedTuple):
    """How the camera stands over time, arrays [T].

    Attributes:
        x, z: Where it is, in world axes.
        yaw: Turn to the right about the vertical, in radians.
        zoom: Focal length, relative to `FOCAL`.
    """

    x: np.ndarray
    z: np.ndarray
    yaw: np.ndarray
    zoom: np.ndarray


def view(move: str, t: np.ndarray) -> View:
    """How the camera stands at times [T] in seconds during one of the moves of `CAMERAS`."""
    zero, one = np.zeros(len(t)), np.ones(len(t))
    way = 1 - np.exp(-t / SLOW_DOWN)
    side = {"left": -1, "right": 1}.get(move.split()[-1], 0)
    if move == "zoom in":
        return View(zero, zero, zero, ZOOM_IN_FROM * ZOOM**way)
    if move == "zoom out":
        return View(zero, zero, zero, ZOOM_OUT_FROM / ZOOM**way)
    if move.startswith("pan"):
        return View(zero, zero, side * (PAN * way - PAN_FROM), one)
    if move.startswith("orbit"):
        angle = side * ORBIT * way
        return View(PIVOT * np.sin(angle), PIVOT * (1 - np.cos(angle)), -angle, one)
    return View(zero, zero, zero, one)


def to_view(x: np.ndarray, z: np.ndarray, at: View) -> tuple[np.ndarray, np.ndarray]:
    """World x and z to view axes; everything broadcasts with [T]."""
    cos, sin = np.cos(at.yaw), np.sin(at.yaw)
    dx, dz = x - at.x, z - at.z
    return cos * dx - sin * dz, sin * dx + cos * dz


def from_view(x: torch.Tensor, z: torch.Tensor, at: View) -> tuple[torch.Tensor, torch.Tensor]:
    """View x and z [T,...] to world axes; the inverse of `to_view`."""
    columns = (np.cos(at.yaw), np.sin(at.yaw), at.x, at.z)
    shape = (-1, *[1] * (x.ndim - 1))
    cos, sin, cx, cz = (torch.from_numpy(c.astype(np.float32)).to(x.device).view(shape) for c in columns)
    return cx + cos * x + sin * z, cz - sin * x + cos * z


def matrices(at: View, *, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A camera as others use it, in OpenCV's axes: x to the right, y down, z ahead.

    The world's own axes are left-handed (y is up), so here a world point is ``p = (x, -y, z)``.

    Returns:
        World to camera [T,3,4] (a rotation and a translation) and intrinsics [T,3,3] in pixels, float32: a point
        ``p`` is seen at column ``u / w`` and row ``v / w``, where ``(u, v, w) = intrinsics @ (world_to_camera @
        (p, 1))``. The first pixel covers 0 to 1.
    """
    frames = len(at.x)
    cos, sin, zero, one = np.cos(at.yaw), np.sin(at.yaw), np.zeros(frames), np.ones(frames)
    turn = np.stack([np.stack(row, -1) for row in ((cos, zero, -sin), (zero, one, zero), (sin, zero, cos))], -2)
    tilt = np.array([[1, 0, 0], [0, _COS, -_SIN], [0, _SIN, _COS]])
    rotation = tilt @ turn
    position = np.stack([at.x, np.full(frames, -HEIGHT), at.z], -1)
    world_to_camera = np.concatenate([rotation, -rotation @ position[..., None]], -1)
    intrinsics = np.zeros((frames, 3, 3))
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal_pixels(height, width) * at.zoom
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = width / 2, height / 2, 1
    return world_to_camera.astype(np.float32), intrinsics.astype(np.float32)


def focal_pixels(height: int, width: int) -> float:
    """Focal length in pixels of a frame of this size, before any zoom."""
    return FOCAL * min(height, width) / 2


def project(x: Array, y: Array, z: Array, focal: Array, *, height: int, width: int) -> tuple[Array, Array, Array]:
    """Points in view axes to pixel coordinates.

    Args:
        x: To the right; everything broadcasts.
        y: Above the ground.
        z: Ahead.
        focal: Focal length in pixels.
        height: Of the frame, in pixels.
        width: The same.

    Returns:
        Column and row in pixels, where the first pixel covers 0 to 1, and the depth along the camera's axis;
        points nearer than `NEAR` or behind the camera are put at that depth.
    """
    depth = -_SIN * (y - HEIGHT) + _COS * z
    up = _COS * (y - HEIGHT) + _SIN * z
    safe = depth.clip(NEAR)
    return width / 2 + focal * x / safe, height / 2 - focal * up / safe, depth


def column_rays(column: torch.Tensor, focal: torch.Tensor | float, *, width: int) -> torch.Tensor:
    """The x of the ray through a pixel column; its depth along the camera's axis is 1."""
    return (column - width / 2) / focal


def row_rays(row: torch.Tensor, focal: torch.Tensor | float, *, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The y and z of the ray through a pixel row; its depth along the camera's axis is 1."""
    up = (height / 2 - row) / focal
    return _COS * up - _SIN, _SIN * up + _COS


def first_ground_row(focal: np.ndarray, *, height: int) -> np.ndarray:
    """The first row of pixels whose middle shows the ground, for focal lengths in pixels."""
    return np.maximum(0, np.floor(height / 2 - TAN_PITCH * focal + 0.5)).astype(np.int64)


def ground_depth(focal: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """Depth [T,H,W] along the camera's axis of the ground behind each pixel's middle, for focal lengths [T].

    It is inf in the sky.
    """
    rows = torch.arange(height, device=focal.device) + 0.5
    dy, _ = row_rays(rows, focal[:, None], height=height)
    return torch.where(dy < 0, -HEIGHT / dy, torch.inf)[:, :, None].expand(-1, -1, width)
