"""What a toybox clip shows, and how a seed becomes one.

A `Scene` holds everything that decides the clip's pixels; there is no other source of chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Literal, get_args

import numpy as np

from videodit.datasets.toybox import camera as cam
from videodit.datasets.toybox.motion import EXTENT, RADIUS, SCREEN_SPEED, paths, reach
from videodit.errors import InputError

SHAPES = ("ball", "cube", "cylinder", "cone", "ring")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny")
MOTIONS = ("still", "left", "right", "closer", "away", "bounce", "spin", "circle", "fall")
GROUNDS = ("grass", "sand", "snow", "checkerboard")
LIGHTS = ("daylight", "sunset", "night")
CAMERAS = ("static", "zoom in", "zoom out", "pan left", "pan right", "orbit left", "orbit right")
INTERACTIONS = ("none", "collide", "follow")
FOLLOWED = ("left", "right", "away")
"""Motions in which one object can follow another."""

Split = Literal["train", "validation", "test", "all"]
SPLITS: tuple[Split, ...] = get_args(Split)

MAX_OBJECTS = 3
NUM_OBJECTS = (0.5, 0.35, 0.15)
"""Share of the scenes with one, two and three objects."""
STATIC = 0.4
"""Share of the scenes whose camera stands still; the other moves are equally frequent."""
INTERACTING = 0.15
"""Share of each interaction among the scenes with two objects or more."""


def check_choice(name: str, value: object, legal: tuple[str, ...]) -> None:
    """Raise a ValueError that names the value and the legal ones, unless the value is one of them."""
    if value not in legal:
        raise InputError(f"{name} must be one of {', '.join(legal)}; got {value!r}")


@dataclass(frozen=True)
class ToyObject:
    """One object of a scene.

    Attributes:
        shape: One of `SHAPES`.
        color: One of `COLORS`.
        size: One of `SIZES`.
        material: One of `MATERIALS`.
        motion: One of `MOTIONS`.
        x: Where it starts, or the centre of its circle, in toybox units to the right of the camera.
        z: The same, away from the camera.
        yaw: How far it is turned about the vertical at the start, in radians.
        phase: 0 to 1: where in its cycle a bounce or circle starts, and how soon a falling object lands.

    Raises:
        InputError: A word is not one of the legal ones, or a number is out of range.
    """

    shape: str
    color: str
    size: str
    material: str
    motion: str
    x: float
    z: float
    yaw: float = 0.0
    phase: float = 0.0

    def __post_init__(self) -> None:
        check_choice("shape", self.shape, SHAPES)
        check_choice("color", self.color, COLORS)
        check_choice("size", self.size, SIZES)
        check_choice("material", self.material, MATERIALS)
        check_choice("motion", self.motion, MOTIONS)
        if not 0 <= self.phase <= 1:
            raise InputError(f"phase must be between 0 and 1; got {self.phase!r}")
        for name in ("x", "z", "yaw"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"{name} must be a finite number; got {getattr(self, name)!r}")
        nearest = 4.2 if self.motion == "circle" else 3.0
        if not self.z >= nearest:
            raise InputError(f"z must be at least {nearest} for {self.motion!r}, clear of the camera; got {self.z!r}")


@dataclass(frozen=True)
class Scene:
    """Everything that decides a clip.

    Attributes:
        seed: Shifts the ground's texture and places the sky's details.
        objects: One or more objects.
        ground: One of `GROUNDS`.
        light: One of `LIGHTS`.
        camera: One of `CAMERAS`: what it does, not what that looks like ("pan left" moves the picture right).
        interaction: One of `INTERACTIONS`, between the first two objects: they collide (the first, which moves
            right, and the second, which moves left), or the second follows the first with the same motion.

    Raises:
        InputError: No objects or too many, a negative seed, a word that is not one of the legal ones, or an
            interaction that the objects' motions and places do not allow.
    """

    seed: int
    objects: tuple[ToyObject, ...]
    ground: str
    light: str
    camera: str = "static"
    interaction: str = "none"

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        if not 1 <= len(self.objects) <= MAX_OBJECTS:
            raise InputError(f"a scene holds 1 to {MAX_OBJECTS} objects; got {len(self.objects)}")
        check_choice("ground", self.ground, GROUNDS)
        check_choice("light", self.light, LIGHTS)
        check_choice("camera", self.camera, CAMERAS)
        check_choice("interaction", self.interaction, INTERACTIONS)
        if self.interaction == "none":
            return
        if len(self.objects) < 2:
            raise InputError(f"{self.interaction!r} takes two objects; got {len(self.objects)}")
        motions = self.objects[0].motion, self.objects[1].motion
        if self.interaction == "collide" and motions != ("right", "left"):
            raise InputError(f"objects that collide move right and left, in this order; got {' and '.join(motions)}")
        left, right = self.objects[:2]
        if self.interaction == "collide" and (left.z != right.z or left.x + reach(left) >= right.x - reach(right)):
            raise InputError("objects that collide start apart, the first one further left, and equally far away")
        if self.interaction == "follow" and (motions[0] != motions[1] or motions[0] not in FOLLOWED):
            raise InputError(
                f"an object follows another with the same motion, one of {', '.join(FOLLOWED)}; "
                f"got {' and '.join(motions)}"
            )
        if self.interaction == "follow" and not _is_behind(left, right):
            raise InputError(f"the second object must be behind the first, which moves {left.motion!r}")


def _is_behind(leader: ToyObject, follower: ToyObject) -> bool:
    if leader.motion == "away":
        return follower.z < leader.z
    return follower.x > leader.x if leader.motion == "left" else follower.x < leader.x


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed must be an integer of at least 0; got {seed!r}")


def split_of(shape: str, color: str, motion: str) -> str:
    """The split that a combination belongs to: "train", "validation" or "test".

    A linear code over the three indices spreads the held-out combinations evenly: 2 in 17 for test, 1 in 17
    for validation. Every pair of a shape, a colour and a motion still occurs in training.

    Raises:
        InputError: A word is not one of the legal ones.
    """
    check_choice("shape", shape, SHAPES)
    check_choice("color", color, COLORS)
    check_choice("motion", motion, MOTIONS)
    code = (5 * SHAPES.index(shape) + 3 * COLORS.index(color) + 7 * MOTIONS.index(motion)) % 17
    return {3: "test", 11: "test", 8: "validation"}.get(code, "train")


def is_held_out(shape: str, color: str, motion: str) -> bool:
    """Whether training never shows this combination (it belongs to the validation or the test split).

    Raises:
        InputError: A word is not one of the legal ones.
    """
    return split_of(shape, color, motion) != "train"


@cache
def _combinations(split: str, motion: str | None) -> tuple[tuple[str, str, str], ...]:
    everything = product(SHAPES, COLORS, MOTIONS if motion is None else (motion,))
    return tuple(c for c in everything if split == "all" or split_of(*c) == split)


def sample_scene(seed: int, *, split: Split = "train", num_objects: int | None = None) -> Scene:
    """Draw a scene; a pure function of its arguments.

    Args:
        seed: Any integer of at least 0.
        split: Which combinations of shape, colour and motion its objects may have.
        num_objects: How many objects; by default one, two or three in the shares of `NUM_OBJECTS`.

    Raises:
        InputError: An argument is not legal.
    """
    _check_seed(seed)
    check_choice("split", split, SPLITS)
    if num_objects is not None and num_objects not in range(1, MAX_OBJECTS + 1):
        raise InputError(f"num_objects must be between 1 and {MAX_OBJECTS}; got {num_objects!r}")
    rng = np.random.Generator(np.random.PCG64([int(seed), SPLITS.index(split)]))
    drawn = 1 + int(np.searchsorted(np.cumsum(NUM_OBJECTS[:-1]), rng.random(), side="right"))
    count = num_objects or drawn
    camera = _choose(rng, CAMERAS[1:])
    camera = "static" if rng.random() < STATIC else camera
    interaction = _interaction(rng, count)
    starts = [
        _Start(shape, color, _choose(rng, SIZES), _choose(rng, MATERIALS), motion, yaw=_yaw(rng, shape))
        for shape, color, motion in _names(rng, split, count, interaction)
    ]
    objects = _place(rng, starts, interaction, camera)
    return Scene(int(seed), objects, _choose(rng, GROUNDS), _choose(rng, LIGHTS), camera, interaction)


@dataclass(frozen=True)
class _Start:
    """An object before it has its place, or with many places [C,1] to try."""

    shape: str
    color: str
    size: str
    material: str
    motion: str
    x: np.ndarray | float = 0.0
    z: np.ndarray | float = 0.0
    yaw: float = 0.0
    phase: np.ndarray | float = 0.0


def _choose(rng: np.random.Generator, legal: tuple[str, ...]) -> str:
    return legal[rng.integers(len(legal))]


def _interaction(rng: np.random.Generator, count: int) -> str:
    if count < 2:
        return "none"
    share = rng.random()
    return "collide" if share < INTERACTING else "follow" if share < 2 * INTERACTING else "none"


def _names(rng: np.random.Generator, split: str, count: int, interaction: str) -> list[tuple[str, str, str]]:
    """Shape, colour and motion of each object, each pair of shape and colour once: a caption tells by them."""
    motions: list[str | None] = [None] * count
    if interaction == "collide":
        motions[:2] = ["right", "left"]
    elif interaction == "follow":
        motions[:2] = [_choose(rng, FOLLOWED)] * 2
    chosen: list[tuple[str, str, str]] = []
    while len(chosen) < count:
        combinations = _combinations(split, motions[len(chosen)])
        one = combinations[rng.integers(len(combinations))]
        if all(one[:2] != other[:2] for other in chosen):
            chosen.append(one)
    return chosen


def _yaw(rng: np.random.Generator, shape: str) -> float:
    # A ring seen from its edge would look like a stick, so it starts within 35 degrees of facing the camera.
    limit = 0.6 if shape == "ring" else np.pi
    return float(rng.uniform(-limit, limit))


# Where each motion starts: depth, and position across a square frame from -1 to 1. Left is right mirrored.
_DEPTHS = {"closer": (9.0, 11.0), "away": (5.0, 6.0), "circle": (6.4, 7.8)}
_ACROSS = {"right": (-0.78, 0.3), "circle": (-0.55, 0.55), "closer": (-0.42, 0.42), "away": (-0.55, 0.55)}
_CANDIDATES = 64
# Two seconds, the longest clip that the bundled model makes; the second half weighs less.
_TIMES = np.linspace(0, 2, 13)
_WEIGHTS = np.where(_TIMES <= 1.01, 1.0, 0.5)


def _place(rng: np.random.Generator, starts: list[_Start], interaction: str, camera: str) -> tuple[ToyObject, ...]:
    """Give every object its place and phase: of many random placements, the least faulty.

    Faults are objects in the same place, one before another, and objects that leave the frame.
    """
    tried = [_somewhere(rng, start, alone=len(starts) == 1) for start in starts]
    if interaction == "collide":
        tried[:2] = _before_collision(rng, *tried[:2])
    elif interaction == "follow":
        tried[1] = _behind(rng, *tried[:2])
    at = cam.view(camera, _TIMES)
    tracks = []
    for start, way in zip(tried, paths(tried, interaction, _TIMES), strict=True):
        x, z = cam.to_view(way.x, way.z, at)
        tracks.append((x, way.bottom + EXTENT[start.shape][1] * RADIUS[start.size], z, RADIUS[start.size]))

    fault = np.zeros((_CANDIDATES, len(_TIMES)))
    for x, _, z, radius in tracks:
        focal = cam.FOCAL * at.zoom / z
        fault += np.maximum(0, np.abs(x) * focal + 0.9 * radius * focal - 0.97)
    touching = 1.0 if interaction == "collide" else 1.3
    for i, (x, y, z, radius) in enumerate(tracks):
        for j, (x2, y2, z2, radius2) in enumerate(tracks[:i]):
            near = touching if (j, i) == (0, 1) else 1.3
            apart = np.sqrt((x - x2) ** 2 + (y - y2) ** 2 + (z - z2) ** 2)
            fault += 20 * np.maximum(0, near * (radius + radius2) - apart)
            across = x / z - x2 / z2
            up = (y - cam.HEIGHT) / z - (y2 - cam.HEIGHT) / z2
            fault += 3 * np.maximum(0, 0.95 * (radius / z + radius2 / z2) - np.hypot(across, up))
    # Rounding lets equal placements tie, and a tie goes to the first.
    best = int(np.argmin(np.round((fault * _WEIGHTS).sum(1), 3)))
    return tuple(
        ToyObject(o.shape, o.color, o.size, o.material, o.motion, *(_pick(v, best) for v in (o.x, o.z, o.yaw, o.phase)))
        for o in tried
    )


def _pick(values: np.ndarray | float, row: int) -> float:
    return float(np.broadcast_to(values, (_CANDIDATES, 1))[row, 0])


def _somewhere(rng: np.random.Generator, start: _Start, *, alone: bool) -> _Start:
    """Places and phases [C,1] for an object by itself."""
    low, high = _DEPTHS.get(start.motion, (5.6, 7.6) if alone else (5.6, 8.4))
    z = rng.uniform(low, high, (_CANDIDATES, 1))
    low, high = _ACROSS.get("right" if start.motion == "left" else start.motion, (-0.72, 0.72))
    across = rng.uniform(low, high, (_CANDIDATES, 1)) * (-1 if start.motion == "left" else 1)
    return replace(start, x=across * z / cam.FOCAL, z=z, phase=rng.random((_CANDIDATES, 1)))


def _before_collision(rng: np.random.Generator, left: _Start, right: _Start) -> list[_Start]:
    """Places [C,1] from which two objects meet near the middle within half a second."""
    z = rng.uniform(6.2, 8.2, (_CANDIDATES, 1))
    middle = rng.uniform(-0.3, 0.3, (_CANDIDATES, 1)) * z / cam.FOCAL
    way = SCREEN_SPEED * z * rng.uniform(0.3, 0.5, (_CANDIDATES, 1))
    return [replace(left, x=middle - way - reach(left), z=z), replace(right, x=middle + way + reach(right), z=z)]


def _behind(rng: np.random.Generator, leader: _Start, follower: _Start) -> _Start:
    """Places [C,1] of an object that follows another, closely."""
    gap = (reach(leader) + reach(follower)) * rng.uniform(1.15, 1.5, (_CANDIDATES, 1))
    if leader.motion == "away":
        aside = rng.uniform(-1.6, 1.6, (_CANDIDATES, 1))  # else the one in front hides the other
        return replace(follower, x=leader.x + aside, z=np.maximum(leader.z - 1.2 * gap, 3.4))
    return replace(follower, x=leader.x + gap * (1 if leader.motion == "left" else -1), z=leader.z)
