"""MP4 in and out, and the recipe that a clip carries.

Files written here are H.264 in yuv420p with BT.709 colour and the index in front (faststart): the form
that browsers, phones and editors all play. A clip's recipe (what it takes to make it again) travels as
JSON in the container's standard ``comment`` tag, which survives a remux by stream copy.

Frames are uint8 RGB everywhere: ``[T, H, W, 3]``, ``T`` frames, ``H`` and ``W`` in pixels.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream

from videodit.arguments import check_iterable, check_path
from videodit.clip_files import check_writable
from videodit.errors import InputError
from videodit.files import replacing
from videodit.frame_rates import frame_rate
from videodit.json_types import JsonObject
from videodit.limits import current_limits
from videodit.reading.animations import look_at
from videodit.reading.clip import naming_clip, open_clip
from videodit.reading.files import Media
from videodit.reading.pictures import is_picture
from videodit.reading.timing import find_gaps
from videodit.reading.video import COMMENT_FORMAT, SMOOTH_CHROMA, VideoInfo, open_stream, parse_comment, unpack_comment

if TYPE_CHECKING:
    import torch

__all__ = [
    "MediaInfo",
    "VideoClip",
    "VideoWriter",
    "check_writable",
    "frame_rate",
    "probe",
    "read_recipe",
    "read_video",
    "write_video",
]

logger = logging.getLogger(__name__)

MAX_SIDE = 16384  # libx264 opens nothing wider or higher
# On pictures of a few macroblocks a row, libx264's macroblock tree now and then decides by memory that nothing wrote:
# of files of the same noise, one in about 150 came out different at 32 to 64 pixels' width, none of 4,800 at 128, and
# none of 5,000 without the tree (`pytest tests/test_media.py -k same_file` tries it).
_MIN_WIDTH_FOR_MBTREE = 128
_AHEAD = 2
"""Chunks that are with the encoder at once: one that it works on, and one that waits."""

# Code points of ITU-T H.273, spelt as ffprobe spells them. Matrix, primaries and transfer share these.
_H273 = {1: "bt709", 2: "unknown", 5: "bt470bg", 6: "smpte170m", 9: "bt2020"}
_BT709 = 1
_RANGES = {0: "unknown", 1: "tv", 2: "pc"}
_LIMITED_RANGE = 1


@dataclass(frozen=True, eq=False)
class VideoClip:
    """A decoded clip: ``frames`` uint8 RGB ``[T, H, W, 3]``, ``fps`` frames per second, the recipe if any."""

    frames: np.ndarray
    fps: Fraction
    recipe: JsonObject | None


@dataclass(frozen=True)
class MediaInfo:
    """What a video file says about itself.

    ``width`` and ``height`` are the picture as it is meant to be seen; ``coded_width`` and
    ``coded_height`` include the padding of an odd size. ``duration`` is in seconds, ``size_bytes`` the
    file's size. Colour tags are ffprobe's names ("bt709", "tv", "unknown", …). ``notices`` say what is unusual.
    """

    width: int
    height: int
    coded_width: int
    coded_height: int
    fps: Fraction
    num_frames: int
    duration: float
    codec: str
    pix_fmt: str
    color_space: str
    color_primaries: str
    color_transfer: str
    color_range: str
    size_bytes: int
    recipe: JsonObject | None
    notices: tuple[str, ...] = ()


class VideoWriter:
    """Write an MP4 frame by frame, in constant memory; the file appears only once it is whole.

    ::

        with VideoWriter("clip.mp4", width=128, height=128, fps=16, recipe=recipe) as writer:
            for chunk in chunks:  # uint8 [T, H, W, 3]
                writer.write(chunk)

    H.264 (libx264), yuv420p, converted to and tagged as BT.709 in TV range, index in front. Everything
    goes to a hidden file beside the target, which takes the target's name when the ``with`` block ends.
    An exception (Ctrl-C is one) removes the hidden file and leaves the target as it was.

    There is a keyframe at least once a second, so that a player scrubs and a training job starts
    anywhere without decoding much; more would cost size, since keyframes are the largest.

    yuv420p stores even sizes only: an odd one is padded by repeating the last row or column. That is
    logged, and the real size is stored beside the recipe, so that :func:`read_video` crops back to it.

    Args:
        path: where to write; the suffix must be ``.mp4``. An existing file is replaced.
        width: of the frames in pixels, 1 to 16384.
        height: of the frames in pixels, 1 to 16384.
        fps: frames per second, whole or fractional; see :func:`frame_rate`.
        recipe: JSON-serialisable values, stored as they are. The file will be passed on, so whoever
            builds the recipe keeps local paths out of it.
        crf: libx264's quality, 0 (lossless but for the chroma) to 51 (worst).

    Raises:
        InputError: one of the above is not as described, or ``path`` cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        width: int,
        height: int,
        fps: float | Fraction,
        recipe: JsonObject | None = None,
        crf: int = 16,
    ) -> None:
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise InputError(f"size is {width}x{height}; both sides must be 1 to {MAX_SIDE} pixels")
        if not 0 <= crf <= 51:
            raise InputError(f"crf is {crf}; it must be 0 (best) to 51 (worst)")
        self.path = Path(path)
        self.width, self.height = width, height
        self.fps = frame_rate(fps)
        self.num_frames = 0
        self._crf = crf
        self._padding = (height % 2, width % 2)
        needs_comment = recipe is not None or any(self._padding)
        self._comment = pack_comment(recipe, width, height) if needs_comment else None
        self._reformatter = VideoReformatter()
        self._place = contextlib.ExitStack()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        check_writable(self.path)
        if any(self._padding):
            padded = f"{self.width + self._padding[1]}x{self.height + self._padding[0]}"
            logger.warning(
                "%dx%d is odd and yuv420p is not: stored as %s, the last row or column repeated",
                self.width,
                self.height,
                padded,
            )
        try:
            self._open(self._place.enter_context(replacing(self.path)))
        except BaseException as error:
            self._discard(error)
            raise
        return self

    def _open(self, partial: Path) -> None:
        container = av.open(_url(partial), "w", format="mp4", options={"movflags": "+faststart"})
        self._container = container
        if self._comment is not None:
            container.metadata["comment"] = self._comment
        keyframe_interval = max(1, round(self.fps))
        options = {"crf": str(self._crf), "g": str(keyframe_interval)}
        if self.width < _MIN_WIDTH_FOR_MBTREE:
            options["x264-params"] = "mbtree=0"
        stream = container.add_stream("libx264", rate=self.fps, options=options)
        stream.width = self.width + self._padding[1]
        stream.height = self.height + self._padding[0]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        self._stream = stream

    def write(self, frames: np.ndarray | torch.Tensor) -> None:
        """Append ``frames``, uint8 RGB ``[T, H, W, 3]``, an array or a tensor on any device.

        Raises:
            InputError: another shape, size or dtype.
            RuntimeError: the writer is not open.
        """
        if self._container is None or self._stream is None:
            raise RuntimeError("VideoWriter writes inside its `with` block only")
        array = as_frames(frames)
        if array.shape[1:3] != (self.height, self.width):
            raise InputError(
                f"frames are {array.shape[2]}x{array.shape[1]} pixels; the file is {self.width}x{self.height}"
            )
        bottom, right = self._padding
        if bottom or right:
            array = np.pad(array, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")
        for image in array:
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            # swscale would convert by BT.601, whatever the file is tagged as.
            frame = self._reformatter.reformat(
                rgb, format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=SMOOTH_CHROMA
            )
            frame.pts, frame.time_base = self.num_frames, 1 / self.fps
            self._container.mux(self._stream.encode(frame))
            self.num_frames += 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc_type is None:
                self._finish()
        except BaseException as error:
            self._discard(error)
            raise
        self._discard(exc)

    def _finish(self) -> None:
        assert self._container is not None
        assert self._stream is not None
        if self.num_frames == 0:
            raise InputError(f"no frames to write to {str(self.path)!r}; a clip has at least one")
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None

    def _discard(self, error: BaseException | None) -> None:
        """Let go of everything that is still held; the file takes its place if there was no error."""
        container, self._container, self._stream = self._container, None, None
        if container is not None:
            with contextlib.suppress(av.FFmpegError):  # the first error is the one to report
                container.close()
        self._place.__exit__(type(error) if error is not None else None, error, None)


def write_video(
    path: str | os.PathLike[str],
    frames: np.ndarray | torch.Tensor | Iterable[np.ndarray | torch.Tensor],
    *,
    fps: float | Fraction,
    recipe: JsonObject | None = None,
    crf: int = 16,
) -> float:
    """Write ``frames`` to an MP4; see :class:`VideoWriter` for the format and the options.

    ``frames`` is one uint8 RGB array or tensor ``[T, H, W, 3]``, or an iterable of them. Chunks are drawn in the
    calling thread and encoded in another one, while the next are drawn; no more than two wait or are encoded, so
    that memory is bounded by the size of a chunk. The path is checked before the first chunk is drawn. Whatever is
    raised in either thread reaches the caller, and no file is left then.

    Returns:
        Seconds that the encoder worked.

    Raises:
        InputError: no frames, frames of another shape or dtype, or ``path`` cannot be written.
    """
    check_writable(path)
    check_iterable(frames, "an array or a tensor [T, H, W, 3], or several of them", "frames")
    chunks = iter(cast("Iterable[np.ndarray | torch.Tensor]", [frames] if hasattr(frames, "shape") else frames))
    first = next(chunks, None)
    if first is None:
        raise InputError(f"no frames to write to {str(path)!r}; a clip has at least one")
    first = as_frames(first)
    height, width = first.shape[1:3]
    with VideoWriter(path, width=width, height=height, fps=fps, recipe=recipe, crf=crf) as writer:
        with _Encoder(writer) as encoder:
            encoder.put(first)
            del first  # a chunk may be large, and the encoder has it
            for chunk in chunks:
                encoder.put(chunk)
        started = time.perf_counter()
    return encoder.seconds + time.perf_counter() - started  # the end of the file is written here


class _Encoder(threading.Thread):
    """Gives chunks to a :class:`VideoWriter`, which nobody else uses meanwhile, in a thread of its own."""

    def __init__(self, writer: VideoWriter) -> None:
        super().__init__(name="mp4")
        self.seconds = 0.0
        self._writer = writer
        self._chunks: queue.SimpleQueue[np.ndarray | torch.Tensor | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_AHEAD)
        self._error: BaseException | None = None
        self._stopped = False
        self._done = threading.Event()

    def run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            started = time.perf_counter()
            try:
                self._write(chunk)
            except BaseException as error:
                self._error, self._stopped = error, True
            del chunk
            self.seconds += time.perf_counter() - started
            self._room.release()
        self._done.set()

    def _write(self, chunk: np.ndarray | torch.Tensor) -> None:
        frames = as_frames(chunk)
        for i in range(len(frames)):  # one by one, so that an interrupted run need not wait for a whole clip
            if self._stopped:
                return
            self._writer.write(frames[i : i + 1])

    def put(self, chunk: np.ndarray | torch.Tensor) -> None:
        """Hand a chunk over, as soon as there is room; raises what the encoder raised before."""
        self._room.acquire()
        if self._error is not None:
            raise self._error
        self._chunks.put(chunk)

    def __enter__(self) -> _Encoder:
        self.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        self._stopped = self._stopped or exc_type is not None
        self._chunks.put(None)
        interrupt: KeyboardInterrupt | None = None
        # The writer is not closed under its hands, however often somebody presses Ctrl-C. A join() that is interrupted
        # takes the thread for dead (CPython before 3.13), so that neither it nor is_alive() says when the end is there.
        while not self._done.is_set():
            try:
                self._done.wait()
            except KeyboardInterrupt as error:
                interrupt, self._stopped = error, True
        if exc_type is not None:
            return
        failure = interrupt or self._error
        if failure is not None:
            raise failure


def read_video(path: str | os.PathLike[str], *, max_frames: int | None = None) -> VideoClip:
    """Decode a clip, or at most the first ``max_frames`` frames of it.

    Colours are converted by the file's own tags; an untagged file counts as BT.709 from 720 lines on and
    as BT.601 below, as players do. Frames come out as they are meant to be seen: upright, of square pixels,
    deinterlaced, without the padding of an odd size.

    Raises:
        InputError: the file is missing, broken, cut short, has no video, is transparent or HDR, or is larger
            than the limits allow (:mod:`videodit.limits`); ``max_frames`` is below 1.
    """
    if max_frames is not None and max_frames < 1:
        raise InputError(f"max_frames is {max_frames}; it must be at least 1")
    media = Media(Path(path))
    with open_clip(media, whole=max_frames is None, threads=0, smooth_chroma=True) as clip:
        if clip.info.is_image:
            raise InputError(f"cannot read {os.fspath(path)!r}: it is a picture, not a video")
        count = min(len(clip.times), max_frames or len(clip.times))
        size = count * clip.info.height * clip.info.width * 3
        with naming_clip(str(media)):
            current_limits().check("kept_bytes", size, f"{count:,} frames of it take {size:,} bytes")
        frames = np.empty((count, clip.info.height, clip.info.width, 3), np.uint8)
        for place, frame in enumerate(clip.one_by_one(np.arange(count))):
            frames[place] = frame
        for notice in clip.notices:
            logger.warning("%s: %s", media.path.name, notice)
        info = clip.info
    with naming_clip(str(media)), _opened(media) as (container, stream):
        return VideoClip(frames, _rate_of(stream, info), unpack_comment(container)[0])


def probe(path: str | os.PathLike[str]) -> MediaInfo:
    """Read what ``path`` says about itself, decoding no more than its ends where its packets tell the rest.

    Raises:
        InputError: the file cannot be read as a clip; see :func:`read_video`.
    """
    media = Media(check_path(path))
    with open_clip(media, threads=0) as clip:
        info = clip.info
        if info.is_image:
            raise InputError(f"cannot read {os.fspath(path)!r}: it is a picture, not a video")
        next(clip.one_by_one([info.num_frames - 1]))  # its size may change in the middle, or its end be damaged
        interlaced = clip.interlaced
        notices = [*clip.notices, *(f"no frame comes from {a:.4g} to {b:.4g} s" for a, b in find_gaps(clip.times))]
    if interlaced:
        notices.append("it is interlaced")
    with naming_clip(str(media)), _opened(media) as (container, stream):
        context = stream.codec_context
        return MediaInfo(
            width=info.width,
            height=info.height,
            coded_width=context.width,
            coded_height=context.height,
            fps=_rate_of(stream, info),
            num_frames=info.num_frames,
            duration=info.duration,
            codec=context.name,
            pix_fmt=context.pix_fmt or "unknown",
            color_space=_color_name(context.colorspace),
            color_primaries=_color_name(context.color_primaries),
            color_transfer=_color_name(context.color_trc),
            color_range=_RANGES.get(context.color_range, "unknown"),
            size_bytes=media.num_bytes,
            recipe=unpack_comment(container)[0],
            notices=tuple(notices),
        )


def read_recipe(path: str | os.PathLike[str]) -> JsonObject | None:
    """The recipe that ``path`` carries, a video, a GIF, a WebP or a PNG, or None where it has none.

    The recipe is whatever the file says: check the values before using them.

    Raises:
        InputError: the file is missing, broken, or neither a video nor a picture.
    """
    media = Media(check_path(path))
    with naming_clip(str(media)):
        if is_picture(media):
            picture = look_at(media)
            return None if picture is None else parse_comment(picture.comment)[0]
        with _opened(media) as (container, _):
            return unpack_comment(container)[0]


@contextlib.contextmanager
def _opened(media: Media) -> Iterator[tuple[InputContainer, VideoStream]]:
    container, stream = open_stream(media)
    with contextlib.closing(container):
        yield container, stream


def _url(path: str | os.PathLike[str]) -> str:
    """``path`` such that ffmpeg takes it for a file, even with a colon in it, never for an address."""
    return f"file:{os.fspath(path)}"


def as_frames(frames: np.ndarray | torch.Tensor) -> np.ndarray:
    """Frames as a uint8 array ``[T, H, W, 3]``, from an array or a tensor on any device.

    Raises:
        InputError: another shape or dtype.
    """
    if hasattr(frames, "detach"):  # a tensor, told apart without importing torch
        frames = cast("torch.Tensor", frames).detach().cpu().numpy()
    array = np.asarray(frames)
    if array.dtype != np.uint8:
        raise InputError(f"frames are {array.dtype}; they must be uint8, 0 to 255")
    if array.ndim != 4 or array.shape[3] != 3:
        raise InputError(f"frames have shape {list(array.shape)}; it must be [T, H, W, 3]")
    return array


def pack_comment(recipe: JsonObject | None, width: int, height: int) -> str:
    """The comment that carries a recipe. Plain ASCII, since not every tool that copies it knows of UTF-8.

    Raises:
        InputError: the recipe is not JSON.
    """
    content: JsonObject = {"format": COMMENT_FORMAT, "width": width, "height": height}
    if recipe is not None:
        content["recipe"] = recipe
    try:
        return json.dumps(content, allow_nan=False)
    except TypeError as error:
        raise InputError(f"the recipe must be JSON: {error}") from error


def _rate_of(stream: VideoStream, info: VideoInfo) -> Fraction:
    """Frames per second: what the stream states, unless its frames' time stamps say otherwise."""
    stated = stream.average_rate or stream.guessed_rate
    if stated is not None and abs(float(stated) - info.fps) <= 0.02 * info.fps:
        return stated
    return Fraction(info.fps).limit_denominator(10_000)


def _color_name(code: int) -> str:
    return _H273.get(code, f"h273:{code}")
