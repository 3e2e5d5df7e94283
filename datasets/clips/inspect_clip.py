"""The old place of what is in :mod:`videodit.datasets.clips.scanning` now, under its old names, for one release."""

from __future__ import annotations

import warnings

from videodit.datasets.clips.scanning.clip_features import extract_features as look
from videodit.datasets.clips.scanning.clip_features import range_features as look_at_range
from videodit.datasets.clips.scanning.opening import UnusableClip as Unusable
from videodit.datasets.clips.scanning.opening import check_file
from videodit.datasets.clips.scanning.worker import answer, main

__all__ = ["Unusable", "answer", "check_file", "look", "look_at_range", "main"]

warnings.warn(
    "videodit.datasets.clips.inspect_clip has moved: answer is in videodit.datasets.clips.scanning.worker, "
    "look_at_range in videodit.datasets.clips.scanning.clip_features as range_features",
    DeprecationWarning,
    stacklevel=2,
)
