"""The old place of :mod:`videodit.datasets.clips.reading.readers`, for one release."""

from __future__ import annotations

import warnings

from videodit.datasets.clips.reading.readers import (
    ClipReader,
    ReaderName,
    VideoInfo,
    frame_indices,
    open_clip,
    read_window,
    usable_frames,
)

__all__ = ["ClipReader", "ReaderName", "VideoInfo", "frame_indices", "open_clip", "read_window", "usable_frames"]

warnings.warn(
    "videodit.datasets.clips.readers has moved: import from videodit.datasets.clips.reading.readers",
    DeprecationWarning,
    stacklevel=2,
)
