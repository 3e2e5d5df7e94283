"""What the scanning process and its workers send each other, one JSON object a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from typing_extensions import NotRequired

    from videodit.datasets.clips.reading.readers import ReaderName

Task = Literal["look", "cuts"]
"""``look`` extracts the features of a clip, ``cuts`` finds its changes of scene. Ledgers hold these words."""
Heartbeat = Callable[[], None]
"""Called by a worker in long work, to show that it goes on."""


class ClipRequest(TypedDict):
    """What a worker is asked about one file.

    Attributes:
        task: what to do.
        path: of the file.
        offset: where the clip begins in the file, in bytes.
        size: of the clip in bytes; ``None`` for the whole file.
        fps: play the frames at this rate; ``None`` trusts the time stamps.
        ranges: start and end of each clip of the file in seconds; an end of ``None`` is the file's.
        reader: what decodes.
        bounds: the limits on inputs that hold in the scanning process, by name.
        threshold: how much larger than its neighbours' the change of a frame must be to be a cut.
        version: of the task's code.
    """

    task: Task
    path: str
    offset: int
    size: int | None
    fps: float | None
    ranges: list[tuple[float, float | None]]
    reader: ReaderName
    bounds: NotRequired[dict[str, int]]
    threshold: NotRequired[float]
    version: NotRequired[int]


class RangeFeatures(TypedDict, total=False):
    """What a range of a clip shows: the ``reason`` why it cannot be used, or everything else.

    Attributes:
        reason: why the range cannot be used.
        flags: of "static", "black", "letterboxed", "interlaced" and "time gaps".
        bars: heights and widths in pixels of dark bars: top, bottom, left, right.
        hashes: 64 bits for each of a few frames, ``None`` for a flat one.
        thumbs: their thumbnails, bytes in base64.
        seconds: how long the range is; 0 for an image.
        parts: starts and ends in seconds of what gaps in the time stamps leave of the range.
    """

    reason: str
    flags: list[str]
    bars: tuple[int, int, int, int] | None
    hashes: list[int | None]
    thumbs: str
    seconds: float
    parts: list[tuple[float, float]]


class FileFeatures(TypedDict):
    """What a file holds.

    Attributes:
        content: SHA-256 of its bytes.
        info: the fields of `VideoInfo`.
        notices: what a user should know about how the file is read.
        ranges: the features of each range that was asked for.
    """

    content: str
    info: dict[str, object]
    notices: list[str]
    ranges: list[RangeFeatures]


class RangeCuts(TypedDict, total=False):
    """The changes of scene in a range: the ``reason`` why it cannot be used, or everything else.

    Attributes:
        reason: why the range cannot be used.
        cuts: times in seconds of the first frames of new scenes.
        start: where the range begins in the file, in seconds.
        stop: where it ends.
        is_image: the file is an image, which has no cuts.
    """

    reason: str
    cuts: list[float]
    start: float
    stop: float
    is_image: bool


class FileCuts(TypedDict):
    """The changes of scene in a file.

    Attributes:
        ranges: for each range that was asked for.
    """

    ranges: list[RangeCuts]


class Reply(TypedDict, total=False):
    """A worker's answer: a ``value``, or the ``reason`` why there is none. An empty one is a sign of life.

    Attributes:
        value: what the task found.
        reason: in words for a user.
        lasting: asking again would give the same.
    """

    value: FileFeatures | FileCuts
    reason: str
    lasting: bool
