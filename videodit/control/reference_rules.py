"""How a published model takes references: in which layout, how many, and of which sizes. Plain data, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from videodit.errors import InputError

Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class ReferenceRules:
    """How a model was trained with references.

    Attributes:
        layout: one of :data:`videodit.control.reference_layouts.LAYOUTS`.
        most: references at once; 0: as many as the layout takes.
        sizes: widths and heights that pictures are brought to, the nearest in proportion.
        area: pixels that they are brought to, in their own proportion.
        multiple: of which their sides then are, the nearest one.
        largest: pixels of which larger ones are brought to; sides are then cut to whole tokens, on both sides alike.
        smallest: pixels that no side may be shorter than.
        longest: how many times as long as the other a side may be; 0: as long as it likes.
        read_area: pixels of what the text encoder reads of a picture, by the same rule as ``area``; 0: it reads none.
        timestep: of their tokens; ``None``: the clip's.
        needed: the model makes nothing without one.
    """

    layout: str
    most: int = 0
    sizes: tuple[Size, ...] = ()
    area: int = 0
    multiple: int = 1
    largest: int = 0
    smallest: int = 1
    longest: int = 0
    read_area: int = 0
    timestep: float | None = None
    needed: bool = False

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> ReferenceRules | None:
        """What ``dataclasses.asdict`` made of them, once it was JSON."""
        if values is None:
            return None
        known = {one.name: values[one.name] for one in fields(cls) if one.name in values}
        return cls(**known | {"sizes": tuple((int(w), int(h)) for w, h in values.get("sizes", ()))})

    def check_size(self, width: int, height: int, what: str) -> None:
        """See that a picture is one that the model takes.

        Raises:
            InputError: it is too small or too long.
        """
        if min(width, height) < self.smallest:
            raise InputError(f"{what} is {width}x{height}; no side may be shorter than {self.smallest} pixels")
        if self.longest and max(width, height) > self.longest * min(width, height):
            raise InputError(
                f"{what} is {width}x{height}; one side may be at most {self.longest} times as long as the other"
            )

    def size_of(self, width: int, height: int, tokens: Size) -> tuple[Size, Size] | None:
        """What a picture is brought to, and the part in its middle that is kept; ``None`` where nothing is said.

        Args:
            width: of the picture.
            height: of it, too.
            tokens: width and height of a token in pixels.
        """
        size = width, height
        if self.sizes:
            _, *nearest = min((abs(width / height - w / h), w, h) for w, h in self.sizes)
            size = nearest[0], nearest[1]
        elif self.area:
            size = in_area(self.area, size, self.multiple)
        elif self.largest:
            if width * height > self.largest:
                scale = math.sqrt(self.largest / (width * height))
                size = int(width * scale), int(height * scale)
        else:
            return None
        kept = tuple(max(step, side // step * step) for side, step in zip(size, tokens, strict=True))
        kept = kept[0], kept[1]
        return (size if self.largest else kept), kept


def in_area(area: int, size: Size, multiple: int) -> Size:
    """A size of about so many pixels and the same proportion, of sides that are multiples (diffusers:
    QwenImageEditPipeline)."""
    ratio = size[0] / size[1]
    width = math.sqrt(area * ratio)
    sides = [max(multiple, round(side / multiple) * multiple) for side in (width, width / ratio)]
    return sides[0], sides[1]
