"""The features of a clip: its content's hash, what its container holds, and what a few of its frames look like."""

from __future__ import annotations

import base64
import dataclasses

import numpy as np

from videodit.datasets.clips.reading.readers import ClipReader, frame_indices
from videodit.datasets.clips.reading.records import Media
from videodit.datasets.clips.scanning.frame_features import (
    COMPARED,
    SAMPLED,
    FrameFeatures,
    find_bars,
    frame_features,
    is_black,
    is_static,
)
from videodit.datasets.clips.scanning.messages import ClipRequest, FileFeatures, Heartbeat, RangeFeatures
from videodit.datasets.clips.scanning.opening import open_usable
from videodit.reading.timing import parts_between

_BLOCK_BYTES = 2**26  # decoded at once; a frame of 4K has 25 MB


def extract_features(media: Media, request: ClipRequest, beat: Heartbeat) -> FileFeatures:
    """The features of a file and of each range of it.

    Args:
        media: the file.
        request: its reader, rate and ranges count.
        beat: called after each range.

    Raises:
        UnusableClip: the file cannot be read.
    """
    content = media.content_hash()
    beat()
    ranges = []
    if request["reader"] == "decord":  # it brings all frames to the first one's size, where others refuse the clip
        with open_usable(media, reader="pyav", fps=request["fps"]) as clip:
            clip.frames([len(clip.times) - 1])
    with open_usable(media, reader=request["reader"], fps=request["fps"]) as clip:
        info, notices = dataclasses.asdict(clip.info), list(clip.notices)
        for start, end in request["ranges"]:
            ranges.append(range_features(clip, start, end))
            beat()
    return {"content": content, "info": info, "notices": notices, "ranges": ranges}


def range_features(clip: ClipReader, start: float, end: float | None) -> RangeFeatures:
    """What a range of an open clip looks like, or the reason why it cannot be used.

    Args:
        clip: the reader.
        start: in seconds.
        end: in seconds; ``None`` for the file's.

    Raises:
        InputError: a frame does not decode.
    """
    duration = clip.info.duration
    stop = duration if end is None else min(end, duration)
    if clip.info.is_image:
        indices, compared = np.zeros(1, np.int64), [0]
    elif not start < stop:
        return {"reason": f"it starts at {start:g} s, and the file ends at {stop:.2f} s"}
    else:
        indices, compared = _sample_frames(clip, start, stop)
    numbers, back = np.unique(indices, return_inverse=True)
    features = _features_of(clip, numbers)
    hashed = [features[back[place]] for place in compared]
    parts = [(0.0, 0.0)] if clip.info.is_image else parts_between(clip.times, start, stop)
    found = {"static": is_static(features), "black": is_black(features), "letterboxed": find_bars(features) is not None}
    found |= {"interlaced": clip.interlaced, "time gaps": parts != [(start, stop)] and not clip.info.is_image}
    return {
        "flags": [flag for flag, is_so in found.items() if is_so],
        "bars": find_bars(features),
        "hashes": [frame.phash for frame in hashed],
        "thumbs": base64.b64encode(b"".join(frame.thumb.tobytes() for frame in hashed)).decode(),
        "seconds": 0.0 if clip.info.is_image else stop - start,
        "parts": parts,
    }


def _sample_frames(clip: ClipReader, start: float, stop: float) -> tuple[np.ndarray, list[int]]:
    """Numbers of frames spread over a range, with its last one added, and which of them are compared with others."""
    step = (stop - start) / SAMPLED
    spread = frame_indices(clip.times, start=start + step / 2, fps=1 / step, num_frames=SAMPLED, end=stop)
    last = max(int(np.searchsorted(clip.times, stop)) - 1, int(spread[-1]))
    if spread[0] == last:
        return spread[:1], [0]
    return np.append(spread, last), [int(share * SAMPLED) for share in COMPARED]


def _features_of(clip: ClipReader, numbers: np.ndarray) -> list[FrameFeatures]:
    block = max(1, _BLOCK_BYTES // (clip.info.width * clip.info.height * 3))
    return [
        frame_features(frame) for at in range(0, len(numbers), block) for frame in clip.frames(numbers[at : at + block])
    ]
