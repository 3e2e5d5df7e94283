"""How toybox objects are built and how they move: the one home of sizes, speeds and paths.

Everything here is plain NumPy over arrays that broadcast, so that the sampler can try many starting points at
once and the renderer gets its paths from the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

RADIUS = {"small": 0.70, "large": 1.25}
"""Half the width of a ball of each size, in toybox units; the other shapes are scaled to look as large."""

EXTENT = {
    "ball": (1.0, 1.0, 1.0),
    "cube": (0.82, 0.82, 0.82),
    "cylinder": (0.74, 0.95, 0.74),
    "cone": (1.0, 1.1, 1.0),
    "ring": (1.08, 1.08, 0.28),
}
"""Half the width, height and thickness of each shape's bounding box, relative to its size's `RADIUS`."""

SCREEN_SPEED = 0.36
"""Sideways speed as a fraction of the depth per second: a third of a square frame."""
NEAREST = 3.6
APPROACH = 0.95
RETREAT_SPEED = 4.0
BOUNCE_SECONDS = 0.75
SPIN_SECONDS = 1.0
CIRCLE_SECONDS = 1.15
CIRCLE_RADIUS = 1.15
RESTITUTION = 0.75
"""Share of their speed towards each other with which objects that collide part again."""
SLIDE_SECONDS = 0.6
"""After a collision, the time in which an object slides two thirds of its way."""


class Body(Protocol):
    """What decides an object's path. Start, phase and turn may be arrays, to try many at once."""

    @property
    def shape(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def motion(self) -> str: ...
    @property
    def x(self) -> np.ndarray | float: ...
    @property
    def z(self) -> np.ndarray | float: ...
    @property
    def yaw(self) -> np.ndarray | float: ...
    @property
    def phase(self) -> np.ndarray | float: ...


class Path(NamedTuple):
    """Where an object is over time: x, height of its lowest point, z, turn about the vertical in radians."""

    x: np.ndarray
    bottom: np.ndarray
    z: np.ndarray
    turn: np.ndarray


def path(
    motion: str,
    *,
    x: np.ndarray | float,
    z: np.ndarray | float,
    phase: np.ndarray | float,
    t: np.ndarray,
    size: str,
) -> Path:
    """The path of one motion.

    Args:
        motion: One of `MOTIONS`.
        x: Where it starts (for ``circle``, the circle's centre).
        z: As x.
        phase: 0 to 1, where in its cycle a periodic motion starts and how soon a falling object lands.
        t: Seconds; everything broadcasts with it.
        size: One of `SIZES`: small objects bounce as high and fall from higher up.
    """
    shape = np.broadcast_shapes(np.shape(x), np.shape(z), np.shape(phase), np.shape(t))
    across = np.broadcast_to(x, shape)
    ahead = np.broadcast_to(z, shape)
    bottom = turn = np.zeros(shape)
    if motion == "left":
        across = x - SCREEN_SPEED * ahead * t
    elif motion == "right":
        across = x + SCREEN_SPEED * ahead * t
    elif motion == "closer":
        # Slower as it comes nearer, so that it never runs into the camera however long the clip is.
        ahead = NEAREST + (ahead - NEAREST) * np.exp(-APPROACH * t)
    elif motion == "away":
        ahead = ahead + RETREAT_SPEED * t
    elif motion == "bounce":
        u = (t / BOUNCE_SECONDS + phase) % 1.0
        bottom = 4 * _bounce_height(size) * u * (1 - u)
    elif motion == "spin":
        turn = turn + 2 * np.pi * t / SPIN_SECONDS
    elif motion == "circle":
        angle = 2 * np.pi * (t / CIRCLE_SECONDS + phase)
        across = x + CIRCLE_RADIUS * np.cos(angle)
        ahead = z + CIRCLE_RADIUS * np.sin(angle)
    elif motion == "fall":
        landing = 0.5 + 0.2 * np.asarray(phase)
        bottom = np.maximum(0.0, _drop_height(size, ahead) * (1 - (t / landing) ** 2))
    return Path(across, bottom, ahead, turn)


def reach(body: Body) -> np.ndarray:
    """How far a body extends sideways from its middle, in toybox units."""
    across, _, deep = (RADIUS[body.size] * e for e in EXTENT[body.shape])
    if body.shape in ("ball", "cylinder", "cone"):
        return np.asarray(across)
    return np.abs(np.cos(body.yaw)) * across + np.abs(np.sin(body.yaw)) * deep


def paths(bodies: Sequence[Body], interaction: str, t: np.ndarray) -> list[Path]:
    """The paths of all objects of a scene, whose first two may interact.

    Args:
        bodies: The objects.
        interaction: One of `INTERACTIONS`. An object that follows another needs nothing but its own path.
        t: Seconds.
    """
    ways = [path(b.motion, x=b.x, z=b.z, phase=b.phase, t=t, size=b.size) for b in bodies]
    if interaction == "collide":
        left, right = _collision(bodies[0], bodies[1], t)
        ways[:2] = [ways[0]._replace(x=left), ways[1]._replace(x=right)]
    return ways


def _collision(left: Body, right: Body, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The x of two bodies that slide into each other and part as their masses say.

    Until they touch, each is on its own path. Masses go with the cube of `RADIUS`. Afterwards each slows down
    at a steady rate of its speed.
    """
    speed = SCREEN_SPEED * np.asarray(left.z)
    touch = (right.x - left.x - reach(left) - reach(right)) / (2 * speed)
    share = RADIUS[left.size] ** 3 / (RADIUS[left.size] ** 3 + RADIUS[right.size] ** 3)
    both = (2 * share - 1) * speed  # the speed of the centre of mass
    before, after = np.minimum(t, touch), np.maximum(t - touch, 0)
    slide = SLIDE_SECONDS * (1 - np.exp(-after / SLIDE_SECONDS))
    return (
        left.x + speed * before + (both - RESTITUTION * (speed - both)) * slide,
        right.x - speed * before + (both + RESTITUTION * (speed + both)) * slide,
    )


def _bounce_height(size: str) -> float:
    return 1.9 if size == "large" else 1.7


def _drop_height(size: str, z: np.ndarray) -> np.ndarray:
    # As high as the object still starts inside the frame.
    return 3.0 + 0.32 * z - 2.2 * RADIUS[size]
