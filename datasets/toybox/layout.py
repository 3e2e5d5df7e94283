"""Where a chunk of scenes has its objects and shadows, frame by frame: the small numbers before any pixel.

Everything is in view axes, see `camera`. Letters: ``O`` objects of all scenes in one list, ``T`` frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videodit.datasets.toybox import camera as cam
from videodit.datasets.toybox.appearance import COLOR_VALUES, LIGHT_VALUES, stripe_value
from videodit.datasets.toybox.motion import EXTENT, RADIUS, paths
from videodit.datasets.toybox.scene import SHAPES, Scene


@dataclass(frozen=True)
class Objects:
    """The objects of all scenes in one list.

    Attributes:
        scene: [O], index of each object's scene.
        slot: [O], index within the scene.
        shape: [O], index into `SHAPES`.
        radius: [O], see `motion.RADIUS`.
        half: [O,3], half the bounding box, in the object's own frame.
        center: [O,T,3], the bounding box's centre.
        yaw: [O,T], turn about the vertical in radians.
        light: [O,T,3], unit vector towards the light.
        zoom: [O,T], focal length relative to `camera.FOCAL`.
        albedo: [O,2,3], own colour and the stripes' colour.
        key: [O,3], colour of the direct light.
        fill: [O,3], colour of the light from all around.
        shiny: [O], 1 or 0.
    """

    scene: np.ndarray
    slot: np.ndarray
    shape: np.ndarray
    radius: np.ndarray
    half: np.ndarray
    center: np.ndarray
    yaw: np.ndarray
    light: np.ndarray
    zoom: np.ndarray
    albedo: np.ndarray
    key: np.ndarray
    fill: np.ndarray
    shiny: np.ndarray

    @staticmethod
    def of(scenes: Sequence[Scene], times: np.ndarray) -> Objects:
        """Gather the objects of scenes at times [T] in seconds."""
        rows = []
        for b, scene in enumerate(scenes):
            light = LIGHT_VALUES[scene.light]
            lx, ly, lz = np.asarray(light.direction) / np.linalg.norm(light.direction)
            at = cam.view(scene.camera, times)
            lx, lz = cam.to_view(lx, lz, at._replace(x=0 * at.x, z=0 * at.z))
            towards = np.stack(np.broadcast_arrays(lx, ly, lz), -1)
            ways = paths(scene.objects, scene.interaction, times)
            for n, (o, way) in enumerate(zip(scene.objects, ways, strict=True)):
                radius = RADIUS[o.size]
                half = radius * np.asarray(EXTENT[o.shape])
                x, z = cam.to_view(way.x, way.z, at)
                rows.append(
                    (
                        b,
                        n,
                        SHAPES.index(o.shape),
                        radius,
                        half,
                        np.stack([x, way.bottom + half[1], z], -1),
                        o.yaw + way.turn - at.yaw,
                        towards,
                        at.zoom,
                        (COLOR_VALUES[o.color], stripe_value(o.color)),
                        light.key,
                        light.fill,
                        float(o.material == "shiny"),
                    )
                )
        return Objects(*(np.asarray(column) for column in zip(*rows, strict=True)))

    def into_frame(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vectors [O,T,3] as seen by the turned objects: three components [O,T]."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
        return cos * x - sin * z, y, sin * x + cos * z

    def corners(self) -> np.ndarray:
        """Positions [O,T,8,3] of the bounding boxes' corners."""
        signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        x, y, z = np.moveaxis(signs * self.half[:, None, None], -1, 0)  # [O,1,8] each
        # A body of revolution fills the same box however it is turned.
        turned = np.isin(self.shape, [SHAPES.index("cube"), SHAPES.index("ring")])
        yaw = np.where(turned[:, None], self.yaw, 0.0)[..., None]
        cos, sin = np.cos(yaw), np.sin(yaw)
        world = np.stack(np.broadcast_arrays(cos * x + sin * z, y, cos * z - sin * x), -1)
        return world + self.center[:, :, None]

    def nearness(self) -> np.ndarray:
        """Order [O,T] within each scene, 0 for the farthest.

        Balls that do not meet hide each other in the order of the camera's power to them (the squared length
        of the tangent), whatever their sizes.
        """
        power = ((self.center - (0, cam.HEIGHT, 0)) ** 2).sum(-1) - self.radius[:, None] ** 2
        order = np.zeros(power.shape, np.int64)
        for b in np.unique(self.scene):
            rows = np.flatnonzero(self.scene == b)
            order[rows] = np.argsort(np.argsort(-power[rows], axis=0), axis=0)
        return order

    def penumbra(self) -> np.ndarray:
        """Half width [O,T] of the shadow's soft edge relative to the shadow: it grows with the height."""
        gap = self.center[..., 1] - self.half[:, None, 1]
        return 0.16 + 0.10 * gap / self.radius[:, None]

    def rectangles(self, *, height: int, width: int) -> np.ndarray:
        """Pixel rectangles [O,T,4] (left, top, right, bottom) around the objects."""
        return self._around(self.corners(), height=height, width=width)

    def shadow_rectangles(self, *, height: int, width: int) -> np.ndarray:
        """Pixel rectangles [O,T,4] around the shadows on the ground."""
        slope = self.light / self.light[..., 1:2]
        corners = self.corners()
        cast = corners - corners[..., 1:2] * slope[:, :, None]  # [O,T,8,3], on the ground
        middle = (self.center - self.center[..., 1:2] * slope)[:, :, None]
        cast = middle + (cast - middle) * (1 + self.penumbra())[..., None, None]
        low, high = cast.min(2), cast.max(2)
        ends = [np.stack([a[..., 0], 0 * a[..., 0], c[..., 2]], -1) for a in (low, high) for c in (low, high)]
        rectangles = self._around(np.stack(ends, 2), height=height, width=width)
        # Rows above the horizon show no ground.
        first = cam.first_ground_row(cam.focal_pixels(height, width) * self.zoom, height=height)
        rectangles[..., 1::2] = np.maximum(rectangles[..., 1::2], first[..., None])
        return rectangles

    def _around(self, points: np.ndarray, *, height: int, width: int) -> np.ndarray:
        """Pixel rectangles [O,T,4] around points [O,T,K,3], cut to the frame; empty behind the camera."""
        focal = cam.focal_pixels(height, width) * self.zoom[..., None]
        x, y, z = np.moveaxis(points, -1, 0)
        x, y, depth = cam.project(x, y, z, focal, height=height, width=width)
        bounds = [np.floor(x.min(-1)), np.floor(y.min(-1)), np.ceil(x.max(-1)), np.ceil(y.max(-1))]
        limits = [width, height, width, height]
        cut = np.stack([np.clip(b, 0, m) for b, m in zip(bounds, limits, strict=True)], -1).astype(np.int64)
        return np.where((depth > cam.NEAR).any(-1, keepdims=True), cut, 0)
