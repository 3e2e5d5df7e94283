"""Where the scenes of a video change, by PySceneDetect. Runs in a worker; its libraries load when they are needed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from videodit.datasets.clips.reading.readers import ClipReader
from videodit.datasets.clips.reading.records import Media
from videodit.datasets.clips.scanning.messages import ClipRequest, FileCuts, Heartbeat, RangeCuts
from videodit.datasets.clips.scanning.opening import open_usable

_BLOCK_BYTES = 2**26  # decoded at once
_WIDTH = 256  # PySceneDetect compares pictures of about this width


def find_cuts(media: Media, request: ClipRequest, beat: Heartbeat) -> FileCuts:
    """The times of the cuts in each range of a file.

    Args:
        media: the file.
        request: its reader, rate, threshold and ranges count.
        beat: called after each block of frames.

    Raises:
        UnusableClip: the file cannot be read.
    """
    threshold = request["threshold"]
    with open_usable(media, reader=request["reader"], fps=request["fps"]) as clip:
        return {"ranges": [_cuts_of(clip, start, end, threshold, beat) for start, end in request["ranges"]]}


def _cuts_of(clip: ClipReader, start: float, end: float | None, threshold: float, beat: Heartbeat) -> RangeCuts:
    from scenedetect import AdaptiveDetector, FrameTimecode

    duration = clip.info.duration
    stop = duration if end is None else min(end, duration)
    if clip.info.is_image:
        return {"cuts": [], "start": 0.0, "stop": 0.0, "is_image": True}
    if not start < stop:
        return {"reason": f"it starts at {start:g} s, and the file ends at {stop:.2f} s"}
    # One frame long at least: which pieces are too short is decided by time, and later.
    detector = AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=1)
    first, last = np.searchsorted(clip.times, [start, stop])
    cuts: list[int] = []
    for number, frame in _frames(clip, np.arange(first, last), beat):
        # The detector counts frames; their times are known here.
        cuts += [first + code.frame_num for code in detector.process_frame(FrameTimecode(number, fps=1.0), frame)]
    return {"cuts": clip.times[cuts].tolist(), "start": start, "stop": stop, "is_image": False}


def _frames(clip: ClipReader, numbers: np.ndarray, beat: Heartbeat) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers from 0 and frames, BGR and small, as the detector takes them."""
    import cv2

    block = max(1, _BLOCK_BYTES // (clip.info.width * clip.info.height * 3))
    factor = max(1.0, clip.info.width / _WIDTH)
    size = (max(1, round(clip.info.width / factor)), max(1, round(clip.info.height / factor)))
    for begin in range(0, len(numbers), block):
        for offset, frame in enumerate(clip.frames(numbers[begin : begin + block])):
            small = frame if factor == 1 else cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
            yield begin + offset, np.ascontiguousarray(small[..., ::-1])
        beat()
