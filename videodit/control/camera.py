"""A camera's way through a clip as a user says it: its poses, or a simple move by name. Plain data, without torch.

Axes are those of RealEstate10K (Zhou et al., "Stereo Magnification", 2018) and OpenCV: x to the right, y down, z
forward. :mod:`videodit.control.rays` makes the rays of pixels of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from videodit.errors import InputError
from videodit.ranges import short

MOVES = (
    "static",
    "pan-left",
    "pan-right",
    "tilt-up",
    "tilt-down",
    "zoom-in",
    "zoom-out",
    "orbit-left",
    "orbit-right",
)
"""Moves that have names. A zoom goes forward or back, as the cameras of RealEstate10K do; its lens stays the same."""
MAX_SPEED = 10.0
MOST_POSES = 4096
_COLUMNS = 19
_LARGEST_FILE = 10_000_000  # bytes
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class CameraMove:
    """A simple move over the whole clip.

    Attributes:
        move: one of :data:`MOVES`.
        speed: 1 turns a pan, a tilt or an orbit by 30 degrees over the clip, and goes 0.8 units with a zoom.

    Raises:
        InputError: another name, or a speed that is not above 0 and at most 10.
    """

    move: str
    speed: float = 1.0

    def __post_init__(self) -> None:
        if self.move not in MOVES:
            raise InputError(f"the move of a camera is {short(self.move)}; valid values are {', '.join(MOVES)}")
        if not is_number(self.speed) or not 0 < self.speed <= MAX_SPEED:
            raise InputError(
                f"the speed of a camera must be a number above 0, at most {MAX_SPEED:g}, got {short(self.speed)}"
            )


@dataclass(frozen=True)
class CameraPose:
    """A camera at one frame.

    Attributes:
        lens: fx, fy, cx, cy: focal lengths and the optical centre, as shares of the width (fx, cx) and height (fy, cy).
        world_to_camera: the rows of a 3×4 matrix, one after the other: a rotation, and behind it a translation.

    Raises:
        InputError: something else than finite numbers, a focal length that is not above 0, or a matrix whose first
            three columns are no rotation.
    """

    lens: tuple[float, float, float, float]
    world_to_camera: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, count in (("lens", 4), ("world_to_camera", 12)):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != count or not all(map(is_number, value)):
                raise InputError(f"{name} of a camera pose is {short(value)}; it must be {count} finite numbers")
        for name, value in zip(("fx", "fy"), self.lens, strict=False):
            if value <= 0:
                raise InputError(f"{name} of a camera pose is {value:g}; a focal length must be above 0")
        rows = [self.world_to_camera[4 * i : 4 * i + 3] for i in range(3)]
        products = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]
        off = max(abs(products[i][j] - (i == j)) for i in range(3) for j in range(3))
        (a, b, c), (d, e, f), (g, h, i) = rows
        turned = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        if off > _TOLERANCE or turned < 0:
            raise InputError(
                f"world_to_camera of a camera pose is {short(self.world_to_camera)}, whose first three columns are no "
                "rotation"
            )


CameraData = CameraMove | CameraPose


def read_camera(values: object) -> tuple[CameraData, ...]:
    """A camera as a list: of one move, by its name or as ``{"move": …, "speed": …}``, or of two poses or more.

    A pose is a list of 19 numbers, as the lines of :func:`read_pose_file` are, or has ``lens`` and ``world_to_camera``.

    Raises:
        InputError: another form.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
        raise InputError(f"camera must be a list of one move or of poses, got {short(values)}")
    if len(values) > MOST_POSES:
        raise InputError(f"camera has {len(values)} poses; it must have at most {MOST_POSES}")
    found = tuple(_read(value, f"pose {number} of camera") for number, value in enumerate(values, start=1))
    if any(isinstance(one, CameraMove) for one in found):
        if len(found) > 1:
            raise InputError(f"camera has {len(found)} entries, a move among them; a move stands alone")
    elif len(found) < 2:
        raise InputError("camera has 1 pose; it must have at least 2, or one move")
    return found


def _read(value: object, what: str) -> CameraData:
    if isinstance(value, (CameraMove, CameraPose)):
        return value
    if isinstance(value, str):
        return CameraMove(value)
    if isinstance(value, Mapping):
        if "move" in value and value.keys() <= {"move", "speed"}:
            return CameraMove(**value)
        if value.keys() == {"lens", "world_to_camera"} and all(
            isinstance(one, (list, tuple)) for one in value.values()
        ):
            return CameraPose(tuple(value["lens"]), tuple(value["world_to_camera"]))
    elif isinstance(value, Sequence):
        return _pose(value, what)
    raise InputError(
        f"{what} is {short(value)}; it must be a move, {_COLUMNS} numbers, or an object with move and speed, or with "
        "lens and world_to_camera"
    )


def _pose(numbers: Sequence[object], what: str) -> CameraPose:
    """A pose of the numbers of a line; see :func:`read_pose_file`.

    Raises:
        InputError: another number of them, others than numbers, or a distorted lens.
    """
    if len(numbers) != _COLUMNS:
        raise InputError(
            f"{what} has {len(numbers)} columns; it must have {_COLUMNS}: time, fx, fy, cx, cy, 0, 0 and the 12 "
            "numbers of the world-to-camera matrix"
        )
    if wrong := [one for one in numbers if not is_number(one)]:
        raise InputError(f"{what} holds {short(wrong[0])}; it must hold finite numbers")
    values = [float(one) for one in numbers]  # type: ignore[arg-type]
    if any(values[5:7]):
        raise InputError(f"{what} has distortions {values[5]:g} and {values[6]:g}; they must be 0")
    try:
        return CameraPose((values[1], values[2], values[3], values[4]), tuple(values[7:]))
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def read_pose_file(file: str | os.PathLike[str]) -> tuple[CameraPose, ...]:
    """Poses from a text file as RealEstate10K and CameraCtrl have them.

    Each line is a frame: time, fx, fy, cx, cy, 0, 0, and the world-to-camera matrix row by row. The first line may be
    an address of the clip.

    Raises:
        InputError: a file that cannot be read or has another form, naming the line.
    """
    path = Path(file)
    where = f"{str(path)!r}"
    try:
        if not path.is_file():
            raise InputError(f"camera is {where}; it must be a text file of poses, or one of {', '.join(MOVES)}")
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{where} has more than {_LARGEST_FILE:,} bytes")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {where}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not a text file: {error.reason}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or (number == 1 and len(words) == 1):
            continue
        line_of = f"line {number} of {where}"
        found.append(_pose([_number(word, line_of) for word in words], line_of))
        if len(found) > MOST_POSES:
            raise InputError(f"{where} has more than {MOST_POSES} poses")
    if len(found) < 2:
        raise InputError(f"{where} has {len(found)} pose{'s' if len(found) != 1 else ''}; it must have at least 2")
    return tuple(found)


def read_source(text: str | os.PathLike[str]) -> tuple[CameraData, ...]:
    """A camera by a move's name, ``MOVE*SPEED``, or the name of a file of poses.

    Raises:
        InputError: neither of them.
    """
    if isinstance(text, str):
        name, is_there, speed = text.partition("*")
        if name in MOVES:
            try:
                return (CameraMove(name, float(speed) if is_there else 1.0),)
            except ValueError as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"camera is {text!r}; the speed must be a number, like {name}*0.5") from None
    return read_pose_file(text)


def plain_camera(one: CameraData) -> dict[str, object]:
    """As JSON holds it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(one).items()}


def is_number(value: object) -> bool:
    """Whether something is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _number(word: str, what: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"{what} holds {short(word)}, which is not a number") from None
