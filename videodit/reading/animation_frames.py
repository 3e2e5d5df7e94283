"""Animated GIFs and WebPs as clips: their frames one after the other, and when each of them is shown."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from videodit.limits import current_limits
from videodit.reading.animations import look_at
from videodit.reading.files import Media, Unreadable
from videodit.reading.pictures import open_picture, to_rgb
from videodit.reading.video import Frames, VideoInfo

_KINDS = ("GIF", "WEBP")
_SHORTEST = {"GIF": 0.02, "WEBP": 0.001}
"""Seconds. Players show frames of a GIF that are shorter for ten times as long, and not all of them do."""


def is_animation(media: Media) -> bool:
    """Whether a file is a GIF or a WebP of more than one frame.

    Raises:
        Unreadable: it is cut short or damaged, not a regular file, or empty.
        InputError: more frames or bytes than the limits allow.
        OSError: it cannot be opened.
    """
    found = look_at(media)
    return found is not None and found.kind in _KINDS and found.num_frames > 1


class AnimationFrames(Frames):
    """Frames of an animation, decoded in order; what it repeats is read once.

    Attributes:
        times: when each frame is shown, float64 ``[N]``, in seconds from the first one.
        info: what the file holds.
        notices: what a user should know of it.

    Raises:
        Unreadable: a damaged file, or a frame without a time that all players agree on.
        InputError: more pixels, frames or seconds than the limits allow.
    """

    def __init__(self, media: Media) -> None:
        found = look_at(media)
        assert found is not None
        self._media, self._kind = media, found.kind
        for number, seconds in enumerate(found.durations, start=1):
            if seconds < _SHORTEST[found.kind]:
                raise Unreadable(
                    f"frame {number} of the animation lasts {seconds:g} s, which players show for different times; "
                    "make a video of it"
                )
        limits, size = current_limits(), f"{found.width}x{found.height}"
        limits.check("clip_pixels", found.width * found.height, f"its picture is {size}")
        limits.check("clip_seconds", found.seconds, f"it lasts {found.seconds:,.0f} s")
        self.times = np.cumsum([0.0, *found.durations[:-1]])
        self.notices: list[str] = []
        self.info = VideoInfo(
            width=found.width,
            height=found.height,
            num_frames=found.num_frames,
            fps=found.fps,
            duration=found.seconds,
            codec=found.kind.lower(),
            pix_fmt="rgb24",
            rotation=0,
            has_audio=False,
            is_image=False,
        )

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        with self._media.open() as file, open_picture(file, self._kind, "the animation") as image:
            if getattr(image, "n_frames", 1) != self.info.num_frames:
                raise Unreadable("the animation does not decode: its frames cannot be counted")
            for index in indices:
                try:
                    image.seek(index)
                    image.load()
                except Exception as error:  # Pillow's plugins raise nearly anything for damaged files
                    raise Unreadable(
                        f"frame {index + 1} does not decode: {str(error) or type(error).__name__}"
                    ) from error
                rgb, notices = to_rgb(image)
                self.notices += [one for one in notices if one not in self.notices]
                yield np.asarray(rgb)
