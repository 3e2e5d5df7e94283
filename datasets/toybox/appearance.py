"""How the toybox looks: colours, lights, ground and sky.

Colours are red, green, blue from 0 to 1 as they stand in the video: the world is lit in display space, so
that a colour in these tables is the colour on the screen. The ground's textures are functions of world position alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from videodit.datasets.toybox import camera as cam
from videodit.datasets.toybox.scene import Scene

RGB = tuple[float, float, float]

COLOR_VALUES: dict[str, RGB] = {
    "red": (0.90, 0.09, 0.10),
    "orange": (1.00, 0.50, 0.04),
    "yellow": (0.99, 0.90, 0.10),
    "green": (0.06, 0.66, 0.20),
    "cyan": (0.08, 0.84, 0.88),
    "blue": (0.10, 0.25, 0.95),
    "purple": (0.60, 0.16, 0.80),
    "white": (0.98, 0.98, 0.98),
}
_DARK_STRIPES = ("orange", "yellow", "cyan", "white")


def stripe_value(color: str) -> RGB:
    """Colour of the stripes that make a turn visible: darker on bright colours, lighter on dark ones."""
    r, g, b = COLOR_VALUES[color]
    if color in _DARK_STRIPES:
        return 0.38 * r, 0.38 * g, 0.38 * b
    return 0.45 * r + 0.55, 0.45 * g + 0.55, 0.45 * b + 0.55


class Light(NamedTuple):
    """A time of day.

    Attributes:
        key, fill: Colours of the direct and of the all-round light on objects.
        ground_key, ground_fill: The same for the ground, which may shift further: captions do not name it.
        direction: Towards the light; its y is positive.
        zenith, horizon: The sky's colours; distant ground fades into the second.
    """

    key: RGB
    fill: RGB
    ground_key: RGB
    ground_fill: RGB
    direction: RGB
    zenith: RGB
    horizon: RGB


LIGHT_VALUES = {
    "daylight": Light(
        key=(0.66, 0.65, 0.62),
        fill=(0.40, 0.41, 0.44),
        ground_key=(0.60, 0.59, 0.56),
        ground_fill=(0.36, 0.38, 0.42),
        direction=(-0.50, 0.76, -0.42),
        zenith=(0.33, 0.60, 0.95),
        horizon=(0.80, 0.90, 0.98),
    ),
    "sunset": Light(
        key=(0.72, 0.60, 0.50),
        fill=(0.44, 0.40, 0.40),
        ground_key=(0.56, 0.40, 0.29),
        ground_fill=(0.34, 0.27, 0.31),
        direction=(0.66, 0.52, -0.54),
        zenith=(0.42, 0.24, 0.52),
        horizon=(1.00, 0.55, 0.26),
    ),
    "night": Light(
        key=(0.52, 0.54, 0.60),
        fill=(0.34, 0.35, 0.40),
        ground_key=(0.22, 0.25, 0.33),
        ground_fill=(0.14, 0.16, 0.23),
        direction=(0.38, 0.80, -0.46),
        zenith=(0.02, 0.03, 0.11),
        horizon=(0.10, 0.13, 0.28),
    ),
}
FOG_START, FOG_LENGTH = 9.0, 16.0
"""Distances at which the fog begins and after which a further two thirds of the light are lost."""


def texture_shift(seed: int) -> tuple[float, float]:
    """How far a scene's ground texture is moved along x and z: steps by irrational parts, spread evenly."""
    small = seed % 1_000_003  # a 64-bit seed times a fraction would have no digits left after the point
    return (small * 0.7548776662466927) % 1.0 * 12.0, (small * 0.5698402909980532) % 1.0 * 12.0


def ground_color(
    ground: str, x: torch.Tensor, z: torch.Tensor, blur: torch.Tensor, turn: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Colour of the ground, before light.

    Args:
        ground: One of `GROUNDS`.
        x: World position in toybox units, any shape.
        z: The same.
        blur: How many units one pixel covers there along the line of sight: finer detail fades to its mean.
        turn: Sine of the angle between the line of sight and z; all broadcast.

    Returns:
        [3, ...].
    """
    if ground == "checkerboard":
        side = 1.5

        def wave(v: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
            u = torch.sin(math.pi * v / side)
            return (u * side / (math.pi * width)).clamp(-1, 1)

        # A pixel covers about a third as much across the line of sight as along it.
        aside = turn * turn
        along_x, along_z = 0.12 + 0.88 * aside, 1 - 0.88 * aside  # squares
        square = wave(x, blur * along_x**0.5 + 0.03) * wave(z, blur * along_z**0.5 + 0.03)
        square = square * (1 - (blur / 1.6).clamp(0, 1))
        return _mix((0.17, 0.17, 0.20), (0.86, 0.86, 0.86), 0.5 + 0.5 * square)
    if ground == "grass":
        tufts = torch.sin(5.1 * x + 1.7 * torch.sin(2.3 * z)) * torch.sin(4.3 * z + 1.9 * torch.sin(1.9 * x))
        fine = torch.sin(11.0 * x + 3.0 * z) * torch.sin(9.0 * z - 4.0 * x)
        detail = 0.6 * tufts * _keep(blur, 0.7) + 0.5 * fine * _keep(blur, 0.3)
        return _mix((0.20, 0.38, 0.09), (0.46, 0.62, 0.20), 0.5 + 0.45 * detail)
    if ground == "sand":
        ripple = torch.sin(4.6 * z + 1.5 * torch.sin(0.9 * x) + 0.8 * x)
        grain = torch.sin(9.0 * x + 2.0 * z) * torch.sin(8.0 * z - 3.0 * x)
        detail = 0.7 * ripple * _keep(blur, 0.7) + 0.3 * grain * _keep(blur, 0.35)
        return _mix((0.74, 0.58, 0.34), (0.95, 0.82, 0.55), 0.5 + 0.45 * detail)
    drift = torch.sin(1.1 * x + 0.9 * torch.sin(0.8 * z)) * torch.sin(1.3 * z + 0.7 * torch.sin(0.6 * x))
    return _mix((0.74, 0.81, 0.92), (0.90, 0.94, 0.99), 0.5 + 0.45 * drift * _keep(blur, 1.5))


def _keep(blur: torch.Tensor, wavelength: float) -> torch.Tensor:
    return (1.3 - blur / wavelength).clamp(0, 1)


def _mix(low: RGB, high: RGB, share: torch.Tensor) -> torch.Tensor:
    return torch.stack([a + (b - a) * share for a, b in zip(low, high, strict=True)])


def sky_color(light: str, seed: int, across: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Colour of the sky.

    Args:
        light: One of `LIGHTS`.
        seed: Moves the clouds, the sun and the moon along the horizon.
        across: World x of the ray for a step of 1 along the world's z.
        up: y of the ray for a step of 1 ahead of the camera; both broadcast.

    Returns:
        [3, ...].
    """
    values = LIGHT_VALUES[light]
    across, up = torch.broadcast_tensors(across, up)
    share = (up / 0.34).clamp(0, 1)
    sky = _mix(values.horizon, values.zenith, share * (1.5 - 0.5 * share))
    shift = texture_shift(seed)[0]
    if light == "daylight":
        cloud = torch.sin(4.5 * across + shift + torch.sin(11 * up)) + torch.sin(19 * up + 0.7 * shift)
        cloud = cloud + 0.5 * torch.sin(9 * across + 2 * shift) * torch.sin(31 * up)
        return sky + (0.97 - sky) * (0.8 * (cloud - 0.5).clamp(0, 1) * (up / 0.1).clamp(0, 1))
    if light == "sunset":
        sun = (shift / 12 - 0.5) * 0.8
        glow = torch.exp(-((across - sun) ** 2) / 0.05 - up * up / 0.012)
        warm = torch.tensor([1.0, 0.93, 0.60], device=up.device).view(3, *[1] * up.ndim)
        return sky + (warm - sky) * (0.9 * glow)
    moon = (shift / 12 - 0.5) * 0.8
    away = ((across - moon) ** 2 + (up - 0.17) ** 2).sqrt()
    disc = ((0.06 - away) / 0.02).clamp(0, 1) + 0.25 * torch.exp(-(away**2) / 0.012)
    pale = torch.tensor([0.88, 0.90, 0.84], device=up.device).view(3, *[1] * up.ndim)
    return sky + (pale - sky) * disc.clamp(max=1)


def background(
    scenes: list[Scene], times: np.ndarray, *, height: int, width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Ground and sky without objects: one plate for a camera that stands still, else one a frame.

    Returns:
        The plates [3,K,H,W], the part of them that a shadow takes away [3,K,H,W] (0 in the sky), and the index
        [B,T] of each frame's plate.
    """
    pictures, shades, indices, first = [], [], [], 0
    for scene in scenes:
        frames = times[:1] if scene.camera == "static" else times
        picture, shade = _plates(scene, cam.view(scene.camera, frames), height=height, width=width, device=device)
        pictures.append(picture)
        shades.append(shade)
        indices.append(np.broadcast_to(np.arange(len(frames)), len(times)) + first)
        first += len(frames)
    return torch.cat(pictures, 1), torch.cat(shades, 1), np.stack(indices)


def _plates(
    scene: Scene, at: cam.View, *, height: int, width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [3,K,H,W] of a scene's ground and sky from K views, and what a shadow takes from them."""
    light = LIGHT_VALUES[scene.light]
    focal_values = cam.focal_pixels(height, width) * at.zoom
    focal = torch.from_numpy(focal_values.astype(np.float32)).to(device)[:, None, None]  # [K,1,1]
    dx = cam.column_rays(torch.arange(width, device=device) + 0.5, focal, width=width)  # [K,1,W]
    rows = (torch.arange(height, device=device) + 0.5)[:, None]
    dy, dz = cam.row_rays(rows, focal, height=height)  # [K,H,1]
    split = cam.first_ground_row(focal_values, height=height)
    low, high = int(split.min()), int(split.max())  # rows from here on may show the ground, up to here the sky

    picture = torch.zeros(3, len(at.x), height, width, device=device)
    shade = torch.zeros_like(picture)
    yaw = torch.from_numpy(at.yaw.astype(np.float32)).to(device)[:, None, None]
    ahead = dz[:, :high]
    across = torch.tan((torch.atan(dx / ahead) + yaw).clamp(-1.4, 1.4))
    picture[:, :, :high] = sky_color(scene.light, scene.seed, across, dy[:, :high] / ahead)

    steps = -cam.HEIGHT / dy[:, low:].clamp(max=-1e-4)  # [K,h,1]
    x, z = torch.broadcast_tensors(dx * steps, dz[:, low:] * steps)
    distance = (x * x + z * z).sqrt()
    clear = torch.exp(-(((distance - FOG_START).clamp(min=0) / FOG_LENGTH) ** 1.2))
    sx, sz = texture_shift(scene.seed)
    x, z = cam.from_view(x, z, at)
    blur = steps * steps / (cam.HEIGHT * focal)
    albedo = ground_color(scene.ground, x + sx, z + sz, blur, torch.sin(yaw))
    key, fill, far = (
        torch.tensor(v, device=device).view(3, 1, 1, 1) for v in (light.ground_key, light.ground_fill, light.horizon)
    )
    direct = albedo * key * clear
    ground = dy[:, low:] < 0
    shade[:, :, low:] = torch.where(ground, direct, 0)
    lit = direct + albedo * fill * clear + far * (1 - clear)
    picture[:, :, low:] = torch.where(ground, lit, picture[:, :, low:])
    return picture, shade
