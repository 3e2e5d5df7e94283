"""From the poses of a camera to the ray of each pixel, in Plücker coordinates.

A ray from the camera's centre o in the unit direction d is (o × d, d): Sitzmann et al., "Light Field Networks" (2021);
for video diffusion He et al., "CameraCtrl" (2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from videodit.control.camera import CameraData, CameraMove, CameraPose

_LENS = (0.532139961, 0.946026558, 0.5, 0.5)
"""fx, fy, cx, cy of named moves: a common one in RealEstate10K, whose pictures are 16:9."""
_ASPECT = 16 / 9
"""Of the pictures that poses are for, as CameraCtrl and VideoX-Fun take it."""
_DEGREES, _UNITS, _ORBIT = 30.0, 0.8, 1.0
"""Of a move at speed 1: how far it turns, how far it goes, and the distance of what an orbit goes around."""


_SQUARE = 8  # pixels of a drawing that are one


@dataclass(frozen=True, eq=False)
class CameraPath:
    """A camera at each frame of a clip, seen from where it is in the first.

    Attributes:
        lens: fx, fy, cx, cy as shares of the width and the height of a picture of 16:9, float64 ``[F, 4]``.
        poses: camera to world, float64 ``[F, 4, 4]``; the first is the identity.
    """

    lens: np.ndarray
    poses: np.ndarray


def camera_path(camera: Sequence[CameraData], count: int) -> CameraPath:
    """A move, or poses that are spread evenly over a clip: between them, places and lenses go straight, and rotations
    the shortest way (Shoemake, "Animating Rotation with Quaternion Curves", 1985).

    Args:
        camera: one move, or two poses or more.
        count: frames of the clip.
    """
    first = camera[0]
    if isinstance(first, CameraMove):
        times = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
        return CameraPath(np.tile(_LENS, (count, 1)), np.stack([_moved(first, time) for time in times]))
    known = cast("Sequence[CameraPose]", camera)
    lens = np.array([one.lens for one in known], np.float64)
    inverse = np.tile(np.eye(4), (len(known), 1, 1))
    inverse[:, :3] = np.array([one.world_to_camera for one in known], np.float64).reshape(-1, 3, 4)
    poses = inverse[:1] @ np.linalg.inv(inverse)
    if len(known) != count:
        lens, poses = _resampled(lens, poses, count)
    return CameraPath(lens, poses)


def plucker_rays(path: CameraPath, height: int, width: int) -> np.ndarray:
    """The ray through the middle of each pixel, (o × d, d), float32 ``[6, F, height, width]``.

    Where the clip has another shape than 16:9, its picture is the middle of that one, cut at the sides or at the top
    and the bottom.
    """
    found = np.empty((6, len(path.poses), height, width), np.float32)
    wide = _ASPECT * height / width  # of the whole picture, in widths of the clip
    for frame, ((fx, fy, cx, cy), pose) in enumerate(zip(path.lens, path.poses, strict=True)):
        x = ((np.arange(width) + 0.5) / width - cx) / (fx * max(wide, 1.0))
        y = ((np.arange(height) + 0.5) / height - cy) / (fy * max(1 / wide, 1.0))
        seen = np.stack([*np.meshgrid(x, y), np.ones((height, width))], axis=-1)  # [H, W, 3]
        directions = seen / np.linalg.norm(seen, axis=-1, keepdims=True) @ pose[:3, :3].T
        found[:3, frame] = np.moveaxis(np.cross(pose[:3, 3], directions), -1, 0)
        found[3:, frame] = np.moveaxis(directions, -1, 0)
    return found


def draw_rays(path: CameraPath, height: int, width: int) -> np.ndarray:
    """Rays as colours to look at, uint8 ``[F, height, width, 3]``: the sum of a ray's direction and its moment o × d;
    its three numbers are red, green and blue, and 0 is grey. It is drawn in squares."""
    rays = plucker_rays(path, -(-height // _SQUARE), -(-width // _SQUARE))
    colors = np.rint((np.clip(rays[:3] + rays[3:], -1, 1) + 1) * 127.5).astype(np.uint8)
    wide = colors.repeat(_SQUARE, axis=2).repeat(_SQUARE, axis=3)[:, :, :height, :width]
    return np.ascontiguousarray(np.moveaxis(wide, 0, -1))


def _moved(move: CameraMove, time: float) -> np.ndarray:
    """Camera to world, ``[4, 4]``, at a time from 0 to 1."""
    kind, _, way = move.move.partition("-")
    sign = -1.0 if way in ("left", "down", "out") else 1.0
    far = sign * time * move.speed
    pose, angle = np.eye(4), math.radians(_DEGREES) * far
    if kind == "pan":
        pose[:3, :3] = _turn(1, angle)
    elif kind == "tilt":
        pose[:3, :3] = _turn(0, angle)
    elif kind == "zoom":
        pose[2, 3] = _UNITS * far
    elif kind == "orbit":  # to the left, it turns to the right
        pose[:3, :3] = _turn(1, -angle)
        pose[:3, 3] = np.array([0, 0, _ORBIT]) - _ORBIT * pose[:3, 2]
    return pose


def _turn(axis: int, angle: float) -> np.ndarray:
    """A rotation about x, which lifts what looks forward, or about y, which turns it to the right."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]] if axis == 0 else [[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _resampled(lens: np.ndarray, poses: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    places = np.linspace(0, len(poses) - 1, count) if count > 1 else np.zeros(1)
    before = np.minimum(places.astype(int), len(poses) - 2)
    share = (places - before)[:, None]
    found = np.tile(np.eye(4), (count, 1, 1))
    found[:, :3, 3] = poses[before, :3, 3] * (1 - share) + poses[before + 1, :3, 3] * share
    quaternions = np.stack([_quaternion(one[:3, :3]) for one in poses])
    found[:, :3, :3] = np.stack(
        [_rotation(_slerp(quaternions[i], quaternions[i + 1], t)) for i, t in zip(before, share[:, 0], strict=True)]
    )
    return lens[before] * (1 - share) + lens[before + 1] * share, found


def _quaternion(m: np.ndarray) -> np.ndarray:
    """w, x, y, z of a rotation: the eigenvector of the largest eigenvalue (Bar-Itzhack, 2000)."""
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [0, m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [0, 0, m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [0, 0, 0, m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    return cast(np.ndarray, np.linalg.eigh(k, UPLO="U")[1][:, -1])


def _slerp(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine
    angle = math.acos(min(1.0, cosine))
    if angle < 1e-9:
        return a
    return cast(np.ndarray, (math.sin((1 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(angle))


def _rotation(q: np.ndarray) -> np.ndarray:
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
