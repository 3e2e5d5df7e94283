"""Boxes, tracks, palettes and cameras as a user says them: numbers and names, checked, whatever a clip's size.

Places are shares of the picture: 0 is its left or upper border, 1 the right or lower one. Times are shares of the clip:
0 is its first frame, 1 the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videodit.control.camera import CameraData, CameraMove, CameraPose, is_number, plain_camera, read_camera
from videodit.errors import InputError
from videodit.ranges import short

MOST = 4096
"""Boxes, tracks, points of a track or colours that one control may have."""
_HEX = re.compile(r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})")


@dataclass(frozen=True)
class Box:
    """Where an object is at one time of a clip; it goes straight from one of its boxes to the next.

    Attributes:
        left: border, as a share of the width.
        top: border, as a share of the height.
        right: border, right of ``left``.
        bottom: border, below ``top``.
        at: the time, from 0 (first frame) to 1 (last).
        object: whose box it is; boxes of one name are one object that moves.

    Raises:
        InputError: a border outside the picture, or the wrong order.
    """

    left: float
    top: float
    right: float
    bottom: float
    at: float = 0.0
    object: str = "object"

    def __post_init__(self) -> None:
        for name in ("left", "top", "right", "bottom"):
            _share(getattr(self, name), f"{name} of a box")
        _share(self.at, "at of a box")
        if not isinstance(self.object, str):
            raise InputError(f"object of a box must be a name, got {short(self.object)}")
        for low, high in (("left", "right"), ("top", "bottom")):
            if not getattr(self, low) < getattr(self, high):
                raise InputError(
                    f"a box has {low} {getattr(self, low):g} and {high} {getattr(self, high):g}; {low} must be less "
                    "than that: a box is left, top, right, bottom"
                )


@dataclass(frozen=True)
class Track:
    """The way of a point through a clip.

    Attributes:
        points: ``(x, y)``, two or more, or one that stands still.
        times: of each point, rising from 0 to 1; ``None``: they follow each other at equal distances over the clip.

    Raises:
        InputError: a point outside the picture, or times that do not rise.
    """

    points: tuple[tuple[float, float], ...]
    times: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.points) <= MOST:
            raise InputError(f"a track has {len(self.points)} points; it must have 1 to {MOST}")
        for number, point in enumerate(self.points, start=1):
            x, y = _numbers(point, 2, f"point {number} of a track", "x, y")
            if not (0 <= x <= 1 and 0 <= y <= 1):
                raise InputError(
                    f"point {number} of a track is at {x:g}, {y:g}, outside the picture; x and y must be 0 to 1, as "
                    "shares of the width and the height"
                )
        if self.times is not None:
            if len(self.times) != len(self.points):
                raise InputError(f"a track has {len(self.times)} times for {len(self.points)} points; give one a point")
            for time in self.times:
                _share(time, "a time of a track")
            if any(b <= a for a, b in zip(self.times, self.times[1:], strict=False)):
                raise InputError(f"the times of a track must rise, got {short(self.times)}")

    @property
    def when(self) -> tuple[float, ...]:
        """The time of each point."""
        if self.times is not None:
            return self.times
        last = max(1, len(self.points) - 1)
        return tuple(index / last for index in range(len(self.points)))


@dataclass(frozen=True)
class Color:
    """A colour of a palette.

    Attributes:
        rgb: red, green and blue, from 0 to 255.
        share: how much of the picture it has, for all colours of a palette together 1; ``None``: what others leave.

    Raises:
        InputError: another form.
    """

    rgb: tuple[int, int, int]
    share: float | None = None

    def __post_init__(self) -> None:
        for value in _numbers(self.rgb, 3, "a colour of a palette", "red, green, blue"):
            if not (float(value).is_integer() and 0 <= value <= 255):
                raise InputError(
                    f"a colour of a palette is {short(self.rgb)}; it must be three whole numbers from 0 to 255"
                )
        if self.share is not None and not (is_number(self.share) and 0 < self.share <= 1):
            raise InputError(f"the share of a colour must be above 0 and at most 1, got {short(self.share)}")


Drawn = Box | Track | Color | CameraMove | CameraPose


def read_boxes(values: object) -> tuple[Box, ...]:
    """Boxes as lists of numbers ``[left, top, right, bottom]``, which stand still, or as objects with the names of
    :class:`Box`.

    Raises:
        InputError: another form, none, or the times of an object's boxes do not rise.
    """
    found: list[Box] = []
    for number, value in enumerate(_items(values, "boxes"), start=1):
        if isinstance(value, Box):
            found.append(value)
        elif isinstance(value, Mapping):
            found.append(Box(**_named(value, ("left", "top", "right", "bottom", "at", "object"), 4, f"box {number}")))
        else:
            left, top, right, bottom = _numbers(value, 4, f"box {number}", "left, top, right, bottom")
            found.append(Box(left, top, right, bottom, object=f"object {number}"))
    last: dict[str, float] = {}
    for box in found:
        if box.object in last and box.at <= last[box.object]:
            raise InputError(
                f"the boxes of {box.object!r} are in the wrong order: one at {box.at:g} follows one at "
                f"{last[box.object]:g}; times must rise"
            )
        last[box.object] = box.at
    return tuple(found)


def read_tracks(values: object) -> tuple[Track, ...]:
    """Tracks as lists of points ``[[x, y], …]``, or as objects with ``points`` and ``times``.

    Raises:
        InputError: another form, none, or a point outside the picture.
    """
    found = []
    for number, value in enumerate(_items(values, "tracks"), start=1):
        if isinstance(value, Track):
            found.append(value)
            continue
        times = None
        if isinstance(value, Mapping):
            named = _named(value, ("points", "times"), 1, f"track {number}")
            value, times = named["points"], named.get("times")
        if not _is_list(value) or (times is not None and not _is_list(times)):
            raise InputError(f"track {number} is {short(value)}; it must be a list of points [x, y]")
        points = tuple(_numbers(point, 2, f"a point of track {number}", "x, y") for point in value)
        found.append(Track(points, None if times is None else tuple(times)))  # type: ignore[arg-type]
    return tuple(found)


def read_palette(values: object) -> tuple[Color, ...]:
    """Colours as ``"#ff8800"`` or ``[255, 136, 0]``, or as objects with ``color`` and ``share``.

    Raises:
        InputError: another form, less than two colours, or shares of more than 1 together.
    """
    found = []
    for number, value in enumerate(_items(values, "palette"), start=1):
        if isinstance(value, Color):
            found.append(value)
            continue
        share = None
        if isinstance(value, Mapping):
            named = _named(value, ("color", "share"), 1, f"colour {number}")
            value, share = named["color"], named.get("share")
        found.append(Color(_rgb(value, number), share))
    if len(dict.fromkeys(color.rgb for color in found)) < 2:
        raise InputError(f"a palette has one colour, {found[0].rgb}; it must have at least two that differ")
    total = sum(color.share or 0 for color in found)
    rest = sum(color.share is None for color in found)
    if total > 1 + 1e-6 or (rest and total >= 1):
        raise InputError(
            f"the shares of a palette are {total:g} together; they must be at most 1, below it where a colour has none"
        )
    return tuple(found)


READERS: dict[str, Callable[[object], tuple[Drawn, ...]]] = {
    "boxes": read_boxes,
    "tracks": read_tracks,
    "palette": read_palette,
    "camera": read_camera,
}
"""What reads each sort of data."""


def plain(data: Sequence[Drawn]) -> list[dict[str, Any]]:
    """Data as JSON holds it; the readers read it."""
    found: list[dict[str, Any]] = []
    for one in data:
        if isinstance(one, Box):
            found.append(dict(vars(one)))
        elif isinstance(one, Track):
            times = {} if one.times is None else {"times": list(one.times)}
            found.append({"points": [list(point) for point in one.points], **times})
        elif isinstance(one, CameraData):
            found.append(plain_camera(one))
        else:
            share = {} if one.share is None else {"share": one.share}
            found.append({"color": "#{:02x}{:02x}{:02x}".format(*one.rgb), **share})
    return found


# ---- helpers -------------------------------------------------------------------------------------


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _items(values: object, name: str) -> Sequence[Any]:
    if not _is_list(values):
        raise InputError(f"{name} must be a list, got {short(values)}")
    assert isinstance(values, Sequence)
    if not 1 <= len(values) <= MOST:
        raise InputError(f"{name} has {len(values)} entries; it must have 1 to {MOST}")
    return values


def _named(value: Mapping[Any, Any], names: tuple[str, ...], required: int, what: str) -> dict[str, Any]:
    wrong = sorted(map(str, value.keys() - set(names)))
    missing = [name for name in names[:required] if name not in value]
    if wrong or missing:
        told = f"has {', '.join(wrong)}" if wrong else f"lacks {', '.join(missing)}"
        raise InputError(f"{what} {told}; valid values are {', '.join(names)}")
    return dict(value)


def _numbers(value: object, count: int, what: str, legal: str) -> tuple[Any, ...]:
    numbers = tuple(value) if isinstance(value, Sequence) and _is_list(value) else ()
    if len(numbers) != count or not all(map(is_number, numbers)):
        raise InputError(f"{what} is {short(value)}; it must be {count} numbers: {legal}")
    return numbers


def _share(value: object, what: str) -> None:
    if not is_number(value) or not 0 <= value <= 1:  # type: ignore[operator]
        raise InputError(f"{what} must be a number from 0 to 1, got {short(value)}")


def _rgb(value: object, number: int) -> tuple[int, int, int]:
    if isinstance(value, str):
        match = _HEX.fullmatch(value.strip())
        if match is None:
            raise InputError(f"colour {number} is {value!r}; it must be like #ff8800, or [255, 136, 0]")
        digits = match[1] if len(match[1]) == 6 else "".join(2 * digit for digit in match[1])
        red, green, blue = (int(digits[i : i + 2], 16) for i in (0, 2, 4))
        return red, green, blue
    red, green, blue = _numbers(value, 3, f"colour {number}", "red, green, blue, from 0 to 255, or like #ff8800")
    return red, green, blue
