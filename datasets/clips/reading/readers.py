"""Frames of a clip, by time: PyAV or decord behind one reader, and images as clips of one frame.

Both readers give the same bytes, or decord refuses the clip. That fixes the conversion to RGB: it is swscale's plain
one, which gives a 4:2:0 picture's chroma to two by two pixels as it is, as decord, OpenCV and torchvision do. PyAV
reads everything; decord 0.6, which carries FFmpeg 4.1, refuses

- 10-bit 4:2:0, and 4:2:0 of an odd height: its colours would be off by up to 45 of 255 where they change sharply;
- clips of 720 lines or more that name no colour matrix: it would take BT.601, where players take BT.709;
- mirrored clips: it would not mirror them;
- containers but MP4 and Matroska, codecs that FFmpeg 4.1 or the tables here do not know, and open groups of
  pictures: it would give other frames than were asked for.

Frames are uint8 RGB ``[T, H, W, 3]``, upright and of square pixels: rotation, mirroring and stretching that the file
asks for are done. Times are in seconds from the first frame. Clips are untrusted: FFmpeg may open the clip's own bytes
as one of a few containers, and nothing else: no playlist, no second file, no address.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import BinaryIO, Literal, get_args

import numpy as np

from videodit.datasets.clips.reading.records import Clip, Media
from videodit.errors import InputError
from videodit.reading import clip as reading
from videodit.reading.clip import ClipReader
from videodit.reading.files import Unreadable
from videodit.reading.timing import frame_indices, usable_frames
from videodit.reading.video import Frames, PyavFrames, VideoInfo

__all__ = ["ClipReader", "ReaderName", "VideoInfo", "frame_indices", "open_clip", "read_window", "usable_frames"]

ReaderName = Literal["pyav", "decord"]

_DECORD_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv422p10le"})
_DECORD_CONTAINERS = frozenset({"mp4", "matroska"})
_ROUNDING = 1e-3  # Matroska and FLV round time stamps to milliseconds


@contextlib.contextmanager
def open_clip(media: Media, *, reader: ReaderName = "pyav", fps: float | None = None) -> Iterator[ClipReader]:
    """Open a clip for reading. One thread decodes: a loader has a process for each core.

    Args:
        media: the clip's bytes, by which its kind is recognised; its name plays no part.
        reader: "pyav", which reads everything, or "decord".
        fps: play the frames at this rate, in place of the file's time stamps.

    Raises:
        InputError: an unknown reader, a rate that is none, or a clip that cannot be read, with its path and the
            reason: missing, broken, cut short, no video, transparency, HDR colours, a turn by other than quarters,
            and what decord does not do as PyAV does.
    """
    if reader not in get_args(ReaderName):
        raise InputError(f"reader is {reader!r}; it must be one of {', '.join(get_args(ReaderName))}")
    instead = (lambda pyav: _DecordFrames(media, pyav)) if reader == "decord" else None
    with reading.open_clip(media, fps=fps, instead=instead) as clip:
        yield clip


def read_window(clip: Clip, *, start: float, num_frames: int, fps: float, reader: ReaderName = "pyav") -> np.ndarray:
    """Frames of a clip at ``fps``, uint8 RGB ``[T, H, W, 3]``.

    Args:
        clip: its ``start``, ``end`` and ``fps`` hold; with ``fps``, the two others count at that rate.
        start: of the first frame, in seconds from the clip's own start.
        num_frames: how many; an image gives one.
        fps: frames per second, whatever the file's are.
        reader: see :func:`open_clip`.

    Raises:
        InputError: the clip cannot be read, or is shorter than asked for.
    """
    with open_clip(clip.media, reader=reader, fps=clip.fps) as opened:
        end = opened.info.duration if clip.end is None else min(clip.end, opened.info.duration)
        try:
            if start < 0:
                raise InputError(f"start is {start:g}; it must be 0 or more seconds")
            indices = frame_indices(opened.times, start=clip.start + start, fps=fps, num_frames=num_frames, end=end)
        except ValueError as error:
            raise InputError(f"cannot read {clip.name!r}: {error}") from None
        return opened.frames(indices)


# ---- decord ----------------------------------------------------------------------------------------


class _DecordFrames(Frames):
    """Frames by decord, of clips of which it is known to give PyAV's."""

    def __init__(self, media: Media, pyav: PyavFrames) -> None:
        try:
            import decord
        except ImportError as error:
            raise Unreadable("decord is not installed here; read with the reader 'pyav'") from error
        reason = _why_not_decord(pyav)
        if reason is not None:
            raise Unreadable(f"decord {reason}; read it with the reader 'pyav'")
        decord.logging.set_level(decord.logging.QUIET)
        try:
            with contextlib.ExitStack() as stack:
                where: str | BinaryIO = (
                    f"file:{media.path}" if media.size is None else stack.enter_context(media.open())
                )
                self._reader = decord.VideoReader(where, ctx=decord.cpu(0), num_threads=1)
                times = self._reader.get_frame_timestamp(np.arange(len(self._reader)))[:, 0]
        except (decord.DECORDError, RuntimeError, AssertionError) as error:
            raise Unreadable("decord cannot open it; read it with the reader 'pyav'") from error
        if len(times) != len(pyav.times) or np.abs(times - times[0] - pyav.times).max() > _ROUNDING:
            raise Unreadable("decord finds other frames in it than PyAV; read it with the reader 'pyav'")
        self._error = decord.DECORDError
        self._size = (pyav.info.height, pyav.info.width)

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        height, width = self._size
        for i in indices:
            try:
                frame = self._reader[i].asnumpy()
            except (self._error, StopIteration) as error:
                raise Unreadable(f"decord cannot decode its frame {i}; read it with the reader 'pyav'") from error
            # Of narrow pictures decord takes FFmpeg's padded rows for more channels: 48 pixels of "4" are 192 bytes.
            rows = frame.reshape(frame.shape[0], -1)
            stored = rows.shape[1] // frame.shape[2]
            yield np.ascontiguousarray(rows[:height, : 3 * stored].reshape(-1, stored, 3)[:, :width])


def _why_not_decord(pyav: PyavFrames) -> str | None:
    """What keeps decord from giving PyAV's frames, or None."""
    pix_fmt, turned = pyav.info.pix_fmt, pyav.turn.transpose
    width, height = pyav.coded_size
    if not _DECORD_CONTAINERS & set(pyav.container_name.split(",")):
        return f"does not find every frame of the container {pyav.container_name}"
    if not pyav.has_closed_groups:
        return "does not find every frame of a clip whose groups of pictures may be open"
    if pyav.info.interlaced:
        return "does not deinterlace an interlaced clip"
    if pyav.turn.is_mirrored:
        return "does not mirror a clip that is to be seen mirrored"
    if pix_fmt not in _DECORD_FORMATS:
        return f"gives other colours than PyAV for {pix_fmt}"
    if "420" in pix_fmt and (height % 2 or (turned and width % 2)):
        return f"gives other colours than PyAV for {pix_fmt} of an odd size, {width}x{height}"
    if "422" in pix_fmt and turned:
        return f"gives other colours than PyAV for {pix_fmt} that is to be turned"
    if pyav.is_padded and pyav.turn.degrees:
        return "crops the wrong side of a padded clip that is to be turned"
    if height >= 720 and not pyav.matrix_is_told:
        return f"takes a clip of {height} lines without a colour matrix for BT.601, where players take BT.709"
    return None
