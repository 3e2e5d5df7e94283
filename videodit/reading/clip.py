"""An open clip: its frames by number and by time, and a clip read whole at the size and the rate that are wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import av
import numpy as np
import PIL.Image

from videodit.errors import InputError
from videodit.limits import current_limits
from videodit.reading.animation_frames import AnimationFrames, is_animation
from videodit.reading.files import Media, Unreadable
from videodit.reading.pictures import Picture, is_picture, read_picture
from videodit.reading.timing import check_positive, find_gaps, frame_indices
from videodit.reading.video import Frames, PyavFrames, VideoInfo

_LONGEST_HELD = 10.0
"""Seconds that one frame may stand still in a clip that is read whole."""

Fitted = Callable[[np.ndarray], np.ndarray]


class ClipReader:
    """An open clip; :func:`open_clip` makes them.

    Attributes:
        info: what the file holds. Frames have square pixels: where the stored ones are not, they are stretched, and
            width and height are those of the stretched picture.
        times: when each frame is shown, float64 ``[N]``, in seconds from the first one, rising.
        notices: what a user should know of the file.
    """

    def __init__(
        self, name: str, info: VideoInfo, times: np.ndarray, source: Frames, notices: Sequence[str] = ()
    ) -> None:
        self._stored = (info.height, info.width, 3)
        wide, high = max(1.0, info.pixel_aspect), max(1.0, 1 / info.pixel_aspect)
        self.info = replace(info, width=round(info.width * wide), height=round(info.height * high))
        self.times, self.notices = times, tuple(notices)
        self._name, self._source = name, source
        size = f"{self.info.width}x{self.info.height}"
        with naming_clip(name):
            limit = "picture_pixels" if info.is_image else "clip_pixels"
            current_limits().check(limit, self.info.width * self.info.height, f"its picture is {size} when it is shown")

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The frames of these numbers, uint8 RGB ``[T, H, W, 3]``.

        Decoding goes on from the last frame that was read, or starts anew at a keyframe where that saves work.

        Args:
            indices: 0 to ``info.num_frames - 1``, never falling; a number may come twice.

        Raises:
            InputError: no index, one out of range or order, or a frame that does not decode.
        """
        wanted = np.asarray(indices)
        unique, back = np.unique(wanted, return_inverse=True)
        frames = np.stack(list(self.one_by_one(wanted)))
        return frames if len(unique) == len(wanted) else frames[back]

    def one_by_one(self, indices: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        """The frames of these numbers as they are decoded, uint8 RGB ``[H, W, 3]``; one that comes twice comes once.

        Raises:
            InputError: see :meth:`frames`.
        """
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or not wanted.size or wanted.dtype.kind not in "iu":
            raise InputError(f"indices of frames are {indices!r}; they must be at least one whole number")
        if wanted[0] < 0 or wanted[-1] >= len(self.times) or (np.diff(wanted) < 0).any():
            raise InputError(
                f"indices of frames are {wanted.tolist()}; they must not fall, and be 0 to {len(self.times) - 1}"
            )
        with naming_clip(self._name):
            for frame in self._source.frames(np.unique(wanted).tolist()):
                if frame.shape != self._stored:
                    raise Unreadable(
                        f"a frame is {frame.shape[1]}x{frame.shape[0]} pixels, "
                        f"where the clip is {self._stored[1]}x{self._stored[0]}"
                    )
                yield frame if self.info.pixel_aspect == 1 else self._squared(frame)

    @property
    def interlaced(self) -> bool:
        """Whether the first frame, or one that was read since, is of two fields."""
        return self.info.interlaced or self._source.saw_fields

    def close(self) -> None:
        """Let go of what decodes."""
        self._source = _Closed()

    def _squared(self, frame: np.ndarray) -> np.ndarray:
        """A frame with square pixels."""
        size = (self.info.width, self.info.height)
        return np.asarray(PIL.Image.fromarray(frame).resize(size, PIL.Image.Resampling.BICUBIC))


@contextlib.contextmanager
def open_clip(
    media: Media,
    *,
    fps: float | None = None,
    whole: bool = False,
    animations: bool = False,
    threads: int = 1,
    smooth_chroma: bool = False,
    instead: Callable[[PyavFrames], Frames] | None = None,
) -> Iterator[ClipReader]:
    """Open a clip or a picture for reading.

    Args:
        media: the clip's bytes; what they hold is told from them, not from a name.
        fps: play the frames at this rate, in place of the file's time stamps.
        whole: all of it will be read, so that the limits on frames and seconds hold.
        animations: take animated GIFs and WebPs, too, whose frames come in order alone; else they are refused.
        threads: that decode; 0 for as many as there are cores.
        smooth_chroma: interpolate the colours of 4:2:0, in place of giving each to two by two pixels.
        instead: what decodes in PyAV's place, made from PyAV's view of the file.

    Raises:
        InputError: a rate that is none, or a clip that cannot be read, with its path and the reason.
    """
    if fps is not None:
        check_positive("fps", fps)
    name = str(media)
    with contextlib.ExitStack() as stack:
        notices: Sequence[str]
        source: Frames
        with naming_clip(name):
            if animations and is_picture(media) and is_animation(media):
                source = animation = AnimationFrames(media)
                info, times, notices = animation.info, animation.times, animation.notices
            elif is_picture(media):
                picture = read_picture(media)
                info, times, notices = _picture_info(picture), np.zeros(1), picture.notices
                source = _PictureFrame(picture.pixels)
            else:
                pyav = PyavFrames(media, whole=whole, threads=threads, smooth_chroma=smooth_chroma)
                stack.enter_context(contextlib.closing(pyav))
                info, times, notices = pyav.info, pyav.times, pyav.notices
                source = pyav if instead is None else instead(pyav)
        if fps is not None and not info.is_image:
            info = replace(info, fps=float(fps), duration=len(times) / fps)
            times = np.arange(len(times)) / fps
        reader = ClipReader(name, info, times, source, notices)
        try:
            yield reader
        finally:
            # decord gives memory back when its reader is collected, not when it is told to close.
            reader.close()
            del source


def read_whole(clip: ClipReader, *, fps: float | None, fit: Fitted | None = None) -> tuple[np.ndarray, list[str]]:
    """All of a clip at a rate, each frame fitted as it is decoded, so that memory is bounded by what is kept.

    Args:
        clip: open.
        fps: frames per second, by the frame that is shown in the middle of each new one; ``None`` takes all frames.
        fit: what brings a frame ``[H, W, 3]`` to the size that is kept.

    Returns:
        uint8 ``[T, H, W, 3]``, and what should be announced.

    Raises:
        InputError: a frame that does not decode, one that would stand still for too long, or more than the limits
            allow.
    """
    with naming_clip(clip._name):
        notices = [*clip.notices, *_told_of_gaps(clip)]
        count, indices = len(clip.times), np.arange(len(clip.times))
        if fps is not None and len(clip.times) > 1:  # one frame alone is a picture, however long it lasts
            check_positive("fps", fps)
            count = max(1, round(clip.info.duration * fps))
            what = f"it lasts {clip.info.duration:g} s, which are {count:,} frames at {fps:g} fps"
            current_limits().check("clip_frames", count, what)
            middle = min(0.5 / fps, clip.info.duration / 2)
            end = max(clip.info.duration, middle + (count - 0.5) / fps)
            indices = frame_indices(clip.times, start=middle, fps=fps, num_frames=count, end=end)
        unique, times_each = np.unique(indices, return_counts=True)
        kept = None
        place = 0
        for frame, copies in zip(clip.one_by_one(unique), times_each, strict=True):
            frame = frame if fit is None else fit(frame)
            if kept is None:
                size = count * frame.nbytes
                current_limits().check("kept_bytes", size, f"{count:,} frames of it take {size:,} bytes")
                kept = np.empty((count, *frame.shape), np.uint8)
            kept[place : place + copies] = frame
            place += copies
    assert kept is not None
    if clip.interlaced:
        notices.append("it is interlaced: of two fields in a frame the upper one is shown")
    if count != len(clip.times) or (indices != np.arange(count)).any():
        notices.append(f"it has {clip.info.fps:.5g} fps: {len(clip.times)} frames become {count} at {fps:g} fps")
    return kept, notices


def _told_of_gaps(clip: ClipReader) -> list[str]:
    gaps = find_gaps(clip.times)
    for before, after in gaps:
        if after - before > _LONGEST_HELD:
            raise Unreadable(
                f"its time stamps jump by {after - before:.4g} s behind {before:.4g} s, where the picture would stand "
                "still; cut it there, or encode it anew"
            )
    return [f"no frame comes from {a:.4g} to {b:.4g} s, and the one before stands still" for a, b in gaps]


@contextlib.contextmanager
def naming_clip(name: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes one InputError that names the clip and the reason."""
    try:
        yield
    except Unreadable as error:
        raise InputError(f"cannot read {name!r}: {error}") from error.__cause__
    except InputError as error:
        if str(error).startswith("cannot read "):
            raise
        raise InputError(f"cannot read {name!r}: {error}") from error.__cause__
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"cannot read {name!r}: {error.strerror or error}") from error


class _Closed(Frames):
    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        raise InputError("the clip is closed; it is read inside its `with` block only")


class _PictureFrame(Frames):
    def __init__(self, image: np.ndarray) -> None:
        self._image = image

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        return iter([self._image] * len(indices))


def _picture_info(one: Picture) -> VideoInfo:
    return VideoInfo(
        width=one.pixels.shape[1],
        height=one.pixels.shape[0],
        num_frames=1,
        fps=0.0,
        duration=0.0,
        codec=one.kind.lower(),
        pix_fmt=one.mode,
        rotation=one.rotation,
        has_audio=False,
        is_image=True,
    )
