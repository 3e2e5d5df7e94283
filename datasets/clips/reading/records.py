"""Clips of a data set before anything of them is decoded: their names, bytes and captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from videodit.reading.files import Media

__all__ = ["Clip", "Media", "Source"]


@dataclass(frozen=True)
class Clip:
    """One clip of a source.

    Args:
        name: unique in its source, and what reports call it.
        media: where its bytes are: a video, or an image, which is a clip of one frame.
        caption: what it shows; ``None`` if it has none.
        start: where it begins in the file, in seconds from the first frame.
        end: where it ends; ``None`` for the file's end.
        fps: play the file's frames at this rate, in place of its own time stamps; ``None`` trusts them.
    """

    name: str
    media: Media
    caption: str | None = None
    start: float = 0.0
    end: float | None = None
    fps: float | None = None

    @property
    def video(self) -> str:
        """Name of the file that it is of, which clips of other parts of that file share."""
        return self.name.removesuffix(part_suffix(self.start, self.end))


def part_suffix(start: float, end: float | None) -> str:
    """What stands behind the name of a file in the name of a clip of a part of it, ``"@2.0-2.9"``.

    Args:
        start: where the part begins, in seconds.
        end: where it ends; ``None`` for the file's end.

    Returns:
        ``""`` for a whole file.
    """
    if not start and end is None:
        return ""
    return f"@{start!r}-" + ("" if end is None else repr(end))


@dataclass(frozen=True)
class Source:
    """The clips of a folder, a manifest or a set of shards, by name.

    Attributes:
        clips: in an order that the source alone decides.
        notices: what a user should know: columns that were not used, files that were passed over.
    """

    clips: tuple[Clip, ...]
    notices: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __len__(self) -> int:
        return len(self.clips)
