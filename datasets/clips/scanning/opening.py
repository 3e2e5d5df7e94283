"""Open a clip's file in a worker process, or say why it cannot be used."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator

from videodit.datasets.clips.reading.readers import ClipReader, ReaderName, open_clip
from videodit.datasets.clips.reading.records import Media


class UnusableClip(Exception):
    """A file that cannot be used. ``lasting`` is false if it may be usable another time."""

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


def check_file(media: Media) -> None:
    """Check a file before a decoder opens it.

    Raises:
        UnusableClip: it is not a regular file, or it is empty.
        OSError: it is missing or cannot be accessed.
    """
    # A pipe or a device would be waited for without end.
    if not stat.S_ISREG(media.path.stat().st_mode):
        raise UnusableClip("not a file", lasting=False)
    if media.num_bytes == 0:
        raise UnusableClip("zero bytes")


@contextlib.contextmanager
def open_usable(media: Media, *, reader: ReaderName, fps: float | None) -> Iterator[ClipReader]:
    """Open a clip; whatever keeps it from being read becomes an `UnusableClip`.

    Args:
        media: the file.
        reader: what decodes.
        fps: play the frames at this rate, in place of the file's time stamps.

    Raises:
        UnusableClip: it cannot be read, on opening or inside the block.
    """
    try:
        with open_clip(media, reader=reader, fps=fps) as clip:
            yield clip
    except ValueError as error:
        # A report has the name beside the reason.
        raise UnusableClip(str(error).removeprefix(f"cannot read {str(media)!r}: ")) from error
