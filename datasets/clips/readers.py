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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, Literal, cast, get_args

import av
import numpy as np
import PIL.Image

from videodit.datasets.clips.pyav_frames import Frames, PyavFrames, Unreadable, VideoInfo
from videodit.datasets.clips.records import Clip, Media

__all__ = ["ClipReader", "ReaderName", "VideoInfo", "frame_indices", "open_clip", "read_window", "usable_frames"]

ReaderName = Literal["pyav", "decord"]

_DECORD_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv422p10le"})
_DECORD_CONTAINERS = frozenset({"mp4", "matroska"})
_IMAGES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff", "WEBP": b"RIFF"}
_EXIF_ORIENTATION = 0x0112
# Matroska and FLV round time stamps to milliseconds, the first one's as well as any other's.
_ROUNDING = 1e-3


class ClipReader:
    """An open clip; :func:`open_clip` makes them.

    Attributes:
        info: what the file holds. Frames have square pixels: where the stored ones are not, they are stretched, and
            width and height are those of the stretched picture.
        times: when each frame is shown, float64 ``[N]``, in seconds from the first one, rising.
    """

    def __init__(self, name: str, info: VideoInfo, times: np.ndarray, source: Frames) -> None:
        self._stored = (info.height, info.width, 3)
        wide, high = max(1.0, info.pixel_aspect), max(1.0, 1 / info.pixel_aspect)
        self.info = replace(info, width=round(info.width * wide), height=round(info.height * high))
        self.times, self._name, self._source = times, name, source

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The frames of these numbers, uint8 RGB ``[T, H, W, 3]``.

        Decoding goes on from the last frame that was read, or starts anew at a keyframe where that saves work.

        Args:
            indices: 0 to ``info.num_frames - 1``, never falling; a number may come twice.

        Raises:
            ValueError: no index, one out of range or order, or a frame that does not decode.
        """
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or not wanted.size or wanted.dtype.kind not in "iu":
            raise ValueError(f"indices of frames are {indices!r}; they must be at least one whole number")
        if wanted[0] < 0 or wanted[-1] >= len(self.times) or (np.diff(wanted) < 0).any():
            raise ValueError(
                f"indices of frames are {wanted.tolist()}; they must not fall, and be 0 to {len(self.times) - 1}"
            )
        unique, back = np.unique(wanted, return_inverse=True)
        with _told(self._name):
            frames = np.stack(list(self._source.frames(unique.tolist())))
        if frames.shape[1:] != self._stored:
            raise ValueError(
                f"cannot read {self._name!r}: a frame is {frames.shape[2]}x{frames.shape[1]} pixels, "
                f"where the clip is {self._stored[1]}x{self._stored[0]}"
            )
        if self.info.pixel_aspect != 1:
            frames = np.stack([self._squared(frame) for frame in frames])
        return frames if len(unique) == len(wanted) else frames[back]

    def _squared(self, frame: np.ndarray) -> np.ndarray:
        """A frame with square pixels."""
        size = (self.info.width, self.info.height)
        return np.asarray(PIL.Image.fromarray(frame).resize(size, PIL.Image.Resampling.BICUBIC))


@contextlib.contextmanager
def open_clip(media: Media, *, reader: ReaderName = "pyav", fps: float | None = None) -> Iterator[ClipReader]:
    """Open a clip for reading. One thread decodes: a loader has a process for each core.

    Args:
        media: the clip's bytes; what they hold is told from them, not from a name.
        reader: "pyav", which reads everything, or "decord".
        fps: play the frames at this rate, in place of the file's time stamps.

    Raises:
        ValueError: an unknown reader, a rate that is none, or a clip that cannot be read, with its path and the
            reason: missing, broken, cut short, no video, transparency, HDR colours, a turn by other than quarters,
            and what decord does not do as PyAV does.
    """
    if reader not in get_args(ReaderName):
        raise ValueError(f"reader is {reader!r}; it must be one of {', '.join(get_args(ReaderName))}")
    if fps is not None:
        _check_positive("fps", fps)
    name = str(media)
    with contextlib.ExitStack() as stack:
        with _told(name):
            image = _image_of(media)
            if image is not None:
                info, times, source = image
            else:
                pyav = stack.enter_context(contextlib.closing(PyavFrames(media)))
                info, times, source = pyav.info, pyav.times, cast(Frames, pyav)
                if reader == "decord":
                    source = _DecordFrames(media, pyav)
        if fps is not None and not info.is_image:
            info = replace(info, fps=float(fps), duration=len(times) / fps)
            times = np.arange(len(times)) / fps
        clip_reader = ClipReader(name, info, times, source)
        try:
            yield clip_reader
        finally:
            # decord gives memory back when its reader is collected, not when it is told to close.
            clip_reader._source = _Closed()
            del source


def frame_indices(
    times: np.ndarray, *, start: float, fps: float, num_frames: int, end: float | None = None
) -> np.ndarray:
    """Which frames a player would show at ``start + i / fps``, int64 ``[num_frames]``.

    That is the last one whose time has come. A time stamp within a millisecond (or a quarter of ``1 / fps``, if that
    is less) counts as reached, since some containers round to milliseconds.

    Args:
        times: of the frames in seconds, rising from 0, ``[N]``.
        start: of the first wanted frame, in the same seconds.
        fps: wanted frames per second.
        num_frames: how many are wanted, at least 1.
        end: where the last frame ends; ``None`` holds it as long as frames last on average.

    Raises:
        ValueError: a number that is none, or a wanted time before the first frame or past the end.
    """
    _check_positive("fps", fps)
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; it must be at least 1")
    if not len(times):
        raise ValueError("a clip without frames has no frame to show")
    slack = min(_ROUNDING, 0.25 / fps)
    wanted = start + np.arange(num_frames) / fps
    if end is None:
        end = float(times[-1]) + (float(times[-1]) / (len(times) - 1) if len(times) > 1 else 1 / fps)
    if not (wanted[0] >= -slack and wanted[-1] < max(end, slack)):
        raise ValueError(
            f"{num_frames} frames at {fps:g} fps from {start:g} s need frames up to {wanted[-1]:g} s; "
            f"the clip goes from 0 to {end:g} s"
        )
    return np.maximum(np.searchsorted(times, wanted + slack, side="right") - 1, 0).astype(np.int64)


def usable_frames(duration: float, fps: float) -> int:
    """How many frames at ``fps`` a stretch of ``duration`` seconds gives: those at ``i / fps`` before its end.

    A stretch of no length, an image, gives one.

    Raises:
        ValueError: a negative duration or a rate that is none.
    """
    _check_positive("fps", fps)
    if not 0 <= duration < float("inf"):
        raise ValueError(f"duration is {duration}; it must be 0 or more seconds")
    slack = min(_ROUNDING, 0.25 / fps)
    return max(1, int(np.ceil((duration - slack) * fps)))


def read_window(clip: Clip, *, start: float, num_frames: int, fps: float, reader: ReaderName = "pyav") -> np.ndarray:
    """Frames of a clip at ``fps``, uint8 RGB ``[T, H, W, 3]``.

    Args:
        clip: its ``start``, ``end`` and ``fps`` hold; with ``fps``, the two others count at that rate.
        start: of the first frame, in seconds from the clip's own start.
        num_frames: how many; an image gives one.
        fps: frames per second, whatever the file's are.
        reader: see :func:`open_clip`.

    Raises:
        ValueError: the clip cannot be read, or is shorter than asked for.
    """
    with open_clip(clip.media, reader=reader, fps=clip.fps) as opened:
        end = opened.info.duration if clip.end is None else min(clip.end, opened.info.duration)
        try:
            if start < 0:
                raise ValueError(f"start is {start:g}; it must be 0 or more seconds")
            indices = frame_indices(opened.times, start=clip.start + start, fps=fps, num_frames=num_frames, end=end)
        except ValueError as error:
            raise ValueError(f"cannot read {clip.name!r}: {error}") from None
        return opened.frames(indices)


# ---- what all readers share ------------------------------------------------------------------------


class _Closed(Frames):
    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        raise ValueError("the clip is closed; it is read inside its `with` block only")


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes one ValueError that names the clip and the reason."""
    try:
        yield
    except Unreadable as error:
        raise ValueError(f"cannot read {name!r}: {error}") from error.__cause__
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"cannot read {name!r}: {error.strerror or error}") from error


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):  # false for NaN, too
        raise ValueError(f"{name} is {value}; it must be above 0")


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
                where: Any = f"file:{media.path}" if media.size is None else stack.enter_context(media.open())
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


# ---- images ----------------------------------------------------------------------------------------


class _ImageFrame(Frames):
    def __init__(self, image: np.ndarray) -> None:
        self._image = image

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        return iter([self._image] * len(indices))


def _image_of(media: Media) -> tuple[VideoInfo, np.ndarray, Frames] | None:
    """An image's one frame, or None for what does not begin like an image."""
    with media.open() as file:
        head = file.read(12)
        kind = next((kind for kind, magic in _IMAGES.items() if head.startswith(magic)), None)
        if kind is None or (kind == "WEBP" and head[8:] != b"WEBP"):
            return None
        file.seek(0)
        return _decoded_image(file, kind)


def _decoded_image(file: BinaryIO, kind: str) -> tuple[VideoInfo, np.ndarray, Frames]:
    from PIL import Image, ImageOps

    try:
        with cast(Image.Image, Image.open(file, formats=[kind])) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise Unreadable("it is an animated image; make a video of it")
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                raise Unreadable("it is transparent in places; lay it over a background first")
            if image.mode.startswith(("I", "F")):
                raise Unreadable(f"its pixels are of the kind {image.mode}, which does not fit 8 bits")
            mode = image.mode
            turned = image.getexif().get(_EXIF_ORIENTATION, 1)
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unreadable(f"the image does not decode: {error}") from error
    info = VideoInfo(
        width=pixels.shape[1],
        height=pixels.shape[0],
        num_frames=1,
        fps=0.0,
        duration=0.0,
        codec=kind.lower(),
        pix_fmt=mode,
        rotation={3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}.get(turned, 0),
        has_audio=False,
        is_image=True,
    )
    return info, np.zeros(1), _ImageFrame(pixels)
