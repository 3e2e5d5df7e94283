"""What a toybox clip shows, and how a seed becomes one.

A `Scene` holds everything that decides the clip's pixels; there is no other source of chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, get_args

import numpy as np

from videodit.datasets.toybox import camera as cam
from videodit.datasets.toybox.motion import EXTENT, RADIUS, path

SHAPES = ("ball", "cube", "cylinder", "cone", "ring")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny")
MOTIONS = ("still", "left", "right", "closer", "away", "bounce", "spin", "circle", "fall")
GROUNDS = ("grass", "sand", "snow", "checkerboard")
LIGHTS = ("daylight", "sunset", "night")
CAMERAS = ("static",)

Split = Literal["train", "validation", "test", "all"]
SPLITS: tuple[Split, ...] = get_args(Split)

MAX_OBJECTS = 2
ONE_OBJECT = 0.65
"""Share of scenes with a single object."""


def check_choice(name: str, value: object, legal: tuple[str, ...]) -> None:
    """Raise a ValueError that names the value and the legal ones, unless the value is one of them."""
    if value not in legal:
        raise ValueError(f"{name} must be one of {', '.join(legal)}; got {value!r}")


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
        ValueError: A word is not one of the legal ones, or a number is out of range.
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
            raise ValueError(f"phase must be between 0 and 1; got {self.phase!r}")
        nearest = 4.2 if self.motion == "circle" else 3.0
        if not self.z >= nearest:
            raise ValueError(f"z must be at least {nearest} for {self.motion!r}, clear of the camera; got {self.z!r}")


@dataclass(frozen=True)
class Scene:
    """Everything that decides a clip.

    Attributes:
        seed: Shifts the ground's texture and places the sky's details.
        objects: One or more objects.
        ground: One of `GROUNDS`.
        light: One of `LIGHTS`.
        camera: One of `CAMERAS`.

    Raises:
        ValueError: No objects or too many, a negative seed, or a word that is not one of the legal ones.
    """

    seed: int
    objects: tuple[ToyObject, ...]
    ground: str
    light: str
    camera: str = "static"

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        if not 1 <= len(self.objects) <= MAX_OBJECTS:
            raise ValueError(f"a scene holds 1 to {MAX_OBJECTS} objects; got {len(self.objects)}")
        check_choice("ground", self.ground, GROUNDS)
        check_choice("light", self.light, LIGHTS)
        check_choice("camera", self.camera, CAMERAS)


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0; got {seed!r}")


def split_of(shape: str, color: str, motion: str) -> str:
    """The split that a combination belongs to: "train", "validation" or "test".

    A linear code over the three indices spreads the held-out combinations evenly: 2 in 17 for test, 1 in 17
    for validation. Every pair of a shape, a colour and a motion still occurs in training.

    Raises:
        ValueError: A word is not one of the legal ones.
    """
    check_choice("shape", shape, SHAPES)
    check_choice("color", color, COLORS)
    check_choice("motion", motion, MOTIONS)
    code = (5 * SHAPES.index(shape) + 3 * COLORS.index(color) + 7 * MOTIONS.index(motion)) % 17
    return {3: "test", 11: "test", 8: "validation"}.get(code, "train")


def is_held_out(shape: str, color: str, motion: str) -> bool:
    """Whether training never shows this combination (it belongs to the validation or the test split).

    Raises:
        ValueError: A word is not one of the legal ones.
    """
    return split_of(shape, color, motion) != "train"


@cache
def _combinations(split: str) -> tuple[tuple[str, str, str], ...]:
    everything = product(SHAPES, COLORS, MOTIONS)
    return tuple(c for c in everything if split == "all" or split_of(*c) == split)


def sample_scene(seed: int, *, split: Split = "train", num_objects: int | None = None) -> Scene:
    """Draw a scene; a pure function of its arguments.

    Args:
        seed: Any integer of at least 0.
        split: Which combinations of shape, colour and motion its objects may have.
        num_objects: How many objects; by default one in `ONE_OBJECT` of the scenes, else two.

    Raises:
        ValueError: An argument is not legal.
    """
    _check_seed(seed)
    check_choice("split", split, SPLITS)
    if num_objects is not None and num_objects not in range(1, MAX_OBJECTS + 1):
        raise ValueError(f"num_objects must be between 1 and {MAX_OBJECTS}; got {num_objects!r}")
    rng = np.random.Generator(np.random.PCG64([int(seed), SPLITS.index(split)]))
    alone = rng.random() < ONE_OBJECT
    count = num_objects or (1 if alone else 2)

    combinations = _combinations(split)
    chosen: list[tuple[str, str, str]] = []
    while len(chosen) < count:
        shape, color, motion = combinations[rng.integers(len(combinations))]
        # Two objects with one name could not be told apart in a caption.
        if all((shape, color) != other[:2] for other in chosen):
            chosen.append((shape, color, motion))

    sizes = [SIZES[rng.integers(len(SIZES))] for _ in chosen]
    placed = _place(rng, [c[2] for c in chosen], [c[0] for c in chosen], sizes)
    objects = tuple(
        ToyObject(shape, color, size, MATERIALS[rng.integers(len(MATERIALS))], motion, x, z, _yaw(rng, shape), phase)
        for (shape, color, motion), size, (x, z, phase) in zip(chosen, sizes, placed, strict=True)
    )
    ground = GROUNDS[rng.integers(len(GROUNDS))]
    light = LIGHTS[rng.integers(len(LIGHTS))]
    return Scene(int(seed), objects, ground, light, CAMERAS[rng.integers(len(CAMERAS))])


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


def _place(
    rng: np.random.Generator, motions: list[str], shapes: list[str], sizes: list[str]
) -> list[tuple[float, float, float]]:
    """Start x, z and phase of every object: of many random placements, the least faulty.

    Faults are objects in the same place, one before another, and objects that leave the frame.
    """
    starts, tracks = [], []
    for motion, shape, size in zip(motions, shapes, sizes, strict=True):
        low, high = _DEPTHS.get(motion, (5.6, 7.6) if len(motions) == 1 else (5.6, 8.4))
        z = rng.uniform(low, high, (_CANDIDATES, 1))
        low, high = _ACROSS.get("right" if motion == "left" else motion, (-0.72, 0.72))
        across = rng.uniform(low, high, (_CANDIDATES, 1)) * (-1 if motion == "left" else 1)
        x = across * z / cam.FOCAL
        phase = rng.random((_CANDIDATES, 1))
        starts.append((x, z, phase))
        way = path(motion, x=x, z=z, phase=phase, t=_TIMES, size=size)
        tracks.append((way.x, way.bottom + EXTENT[shape][1] * RADIUS[size], way.z, RADIUS[size]))

    fault = np.zeros((_CANDIDATES, len(_TIMES)))
    for x, _, z, radius in tracks:
        reach = radius * cam.FOCAL / z
        fault += np.maximum(0, np.abs(x) * cam.FOCAL / z + 0.9 * reach - 0.97)
    for i, (x, y, z, radius) in enumerate(tracks):
        for x2, y2, z2, radius2 in tracks[:i]:
            apart = np.sqrt((x - x2) ** 2 + (y - y2) ** 2 + (z - z2) ** 2)
            fault += 20 * np.maximum(0, 1.3 * (radius + radius2) - apart)
            across = x / z - x2 / z2
            up = (y - cam.HEIGHT) / z - (y2 - cam.HEIGHT) / z2
            fault += 3 * np.maximum(0, 0.95 * (radius / z + radius2 / z2) - np.hypot(across, up))
    # Rounding lets equal placements tie, and a tie goes to the first.
    best = int(np.argmin(np.round((fault * _WEIGHTS).sum(1), 3)))
    return [(float(x[best, 0]), float(z[best, 0]), float(phase[best, 0])) for x, z, phase in starts]
