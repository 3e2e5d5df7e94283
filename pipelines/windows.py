"""Clips that are longer than what a model makes at once: windows over latent frames, each going on from the last."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from videodit.errors import InputError
from videodit.shapes import Size3D, VideoGeometry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Latent frames that are made at once.

    Attributes:
        span: which, of the whole clip.
        keep: which of them are there already, counted within the span.
        fresh: which of the clip's this window adds.
        anchored: in place of the first latent frame of its span, it sees the first one of the clip.
    """

    span: slice
    keep: slice
    fresh: slice
    anchored: bool = False

    @property
    def frames(self) -> slice | list[int]:
        """Which latent frames of the clip it sees, as an index."""
        return [0, *range(self.span.start + 1, self.span.stop)] if self.anchored else self.span

    @property
    def leads(self) -> bool:
        """Whether it begins with the first latent frame of the clip."""
        return self.anchored or self.span.start == 0

    def added_shape(self, noise: Tensor) -> tuple[int, ...]:
        """``[B, C, t, H, W]`` of what it adds to clips of ``noise``."""
        return (*noise.shape[:2], self.fresh.stop - self.fresh.start, *noise.shape[3:])


def plan_windows(length: int, window: int, overlap: int, *, front: int = 0, back: int = 0) -> list[Window]:
    """Windows that together make all latent frames of a clip, in the order in which they are made.

    They go forward from the beginning, or from the frames that are given there; backward where only those at the end
    are given. The last one is moved so that it ends with the clip, or among the given frames at its end. Latents in
    the middle of a clip differ from those at a clip's beginning, where the first frame stands alone; so what a backward
    window begins with counts only at the beginning of the clip.

    Args:
        length: latent frames of the clip.
        window: latent frames that are made at once.
        overlap: latent frames that a window shares with those before; at least 1, and it must add two.
        front: latent frames that are given as a whole at the beginning.
        back: latent frames that are given as a whole at the end.

    Raises:
        InputError: an overlap that leaves too little to add.
    """
    if not 1 <= overlap <= window - 2:
        raise InputError(f"windows of {window} latent frames can share 1 to {window - 2} of them, not {overlap}")
    windows: list[Window] = []
    if back and not front:
        left = length - back  # everything from here on is there
        while left > 0:
            start = max(0, min(left + overlap, length) - window)
            stop = min(start + window, length)
            fresh = slice(start if start == 0 else start + 1, left)
            windows.append(Window(slice(start, stop), slice(left - start, stop - start), fresh))
            left = fresh.start
        return windows
    right, end = front, length - back
    behind = min(back, overlap, window - 1 - overlap)  # given latents that the last window sees at its end
    while right < end:
        stop = max(0, right - overlap) + window
        stop = end + behind if stop >= end + behind else min(stop, end - 1)
        start, made = max(0, stop - window), min(stop, end)
        windows.append(Window(slice(start, stop), slice(0, max(0, right - start)), slice(right, made)))
        right = made
    return windows


def windows_of(
    length: int, windows: tuple[int, int] | None, level: Tensor | None, *, anchor: bool = False
) -> list[Window]:
    """Which latent frames of a clip are made together.

    Args:
        length: latent frames of the clip.
        windows: latent frames that are made at once, and how many of them windows share; ``None``: all at once.
        level: the noise levels of what is given, ``[..., T, H, W]``; ``None``: nothing is.
        anchor: the first of the latent frames that a window shares is the first one of the clip; windows that go
            backward, which make it last, share none.
    """
    if windows is None:
        return [Window(slice(0, length), slice(0, 0), slice(0, length))]
    front = back = 0
    if level is not None:
        whole = (level.reshape(length, -1) == 0).all(dim=1).tolist()
        front, back = [*whole, False].index(False), [*reversed(whole), False].index(False)
    planned = plan_windows(length, *windows, front=front, back=back)
    if not anchor or (back and not front):
        return planned
    return [replace(one, anchored=one.span.start > 0) for one in planned]


def latent_window(geometry: VideoGeometry, window: int, overlap: int, height: int, width: int) -> tuple[int, int]:
    """A window and an overlap in frames as latent frames.

    Raises:
        InputError: a window that is no legal number of frames or holds less than three latent ones, or an overlap that
            is no multiple of the stride or leaves less than two latent frames to add.
    """
    stride = geometry.vae_stride.t
    if (legal := geometry.snap_frames(window)) != window:
        raise InputError(f"window is {window}; it must be {geometry.frame_rule}, such as {legal}")
    if overlap < stride or overlap % stride:
        raise InputError(f"overlap must be a multiple of {stride} frames, got {overlap}")
    latents = geometry.latent_size(window, height, width).t
    if latents < 3:
        least = geometry.pixel_size(Size3D(3, 1, 1)).t
        raise InputError(f"window is {window}; it must be at least {least} frames, to share some and to add some")
    if (most := (latents - 2) * stride) < overlap:
        raise InputError(f"overlap is {overlap}; windows of {window} frames can share {stride} to {most} of them")
    return latents, overlap // stride
