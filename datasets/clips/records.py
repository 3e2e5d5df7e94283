"""The old place of :mod:`videodit.datasets.clips.reading.records`, for one release."""

from __future__ import annotations

import warnings

from videodit.datasets.clips.reading.records import Clip, Media, Source

__all__ = ["Clip", "Media", "Source"]

warnings.warn(
    "videodit.datasets.clips.records has moved: import from videodit.datasets.clips.reading.records",
    DeprecationWarning,
    stacklevel=2,
)
