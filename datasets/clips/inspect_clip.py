"""What runs in a child process: it opens files, looks at some frames, and answers in lines of JSON.

See :mod:`videodit.datasets.clips.children` for the other end of the pipes.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import queue
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from videodit.datasets.clips.looks import (
    HASHED,
    SAMPLED,
    FrameLook,
    find_bars,
    is_black,
    is_static,
    look_at,
)
from videodit.datasets.clips.readers import ClipReader, frame_indices, open_clip
from videodit.datasets.clips.records import Media
from videodit.limits import Limits, use_limits
from videodit.reading.timing import parts_between

_BLOCK_BYTES = 2**26  # decoded at once; a frame of 4K has 25 MB

Beat = Callable[[], None]


class Unusable(Exception):
    """A file that cannot be used. ``lasting`` is false if it may be usable another time."""

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


def main() -> None:
    """Answer the requests on stdin until it is closed, which ends the process wherever it is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which kills this process
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer

    def say(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    say({})
    while True:
        say(answer(json.loads(requests.get()), lambda: say({})))


def _listen(requests: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent is gone; the file that the main thread is at may never end


def answer(request: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """A value, or the reason why there is none and whether it lasts.

    Args:
        request: ``task`` ("look" or "cuts"), where the file is, and what the task needs.
        beat: called in long work, to show that it goes on.
    """
    media = Media(Path(request["path"]), request["offset"], request["size"])
    try:
        check_file(media)
        with use_limits(Limits(**request["bounds"])) if "bounds" in request else contextlib.nullcontext():
            if request["task"] == "look":
                return {"value": look(media, request, beat)}
            from videodit.datasets.clips.cuts import find_cuts

            return {"value": find_cuts(media, request, beat)}
    except Unusable as error:
        return {"reason": str(error), "lasting": error.lasting}
    except OSError as error:
        return {"reason": f"cannot be read: {error.strerror or error}", "lasting": False}


def check_file(media: Media) -> None:
    """Find what is no clip without a decoder.

    Raises:
        Unusable: no file, or an empty one.
        OSError: it cannot be looked at.
    """
    # A pipe or a device would be waited for without end.
    if not stat.S_ISREG(media.path.stat().st_mode):
        raise Unusable("not a file", lasting=False)
    if media.num_bytes == 0:
        raise Unusable("zero bytes")


def look(media: Media, request: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """The content's hash, the file's :class:`VideoInfo` as a dictionary, notices, and the look of each range.

    Args:
        media: the file.
        request: ``reader``, ``fps`` and ``ranges``, pairs of a start and an end in seconds, an end of ``None`` being
            the file's.
        beat: called after each range.
    """
    content = media.content_hash()
    beat()
    ranges = []
    if request["reader"] == "decord":  # it brings all frames to the first one's size, where others refuse the clip
        with opened(media, {**request, "reader": "pyav"}) as clip:
            clip.frames([len(clip.times) - 1])
    with opened(media, request) as clip:
        info, notices = dataclasses.asdict(clip.info), list(clip.notices)
        for start, end in request["ranges"]:
            ranges.append(look_at_range(clip, start, end))
            beat()
    return {"content": content, "info": info, "notices": notices, "ranges": ranges}


@contextlib.contextmanager
def opened(media: Media, request: dict[str, Any]) -> Iterator[ClipReader]:
    """The clip, open, by the request's ``reader`` and ``fps``.

    Raises:
        Unusable: it cannot be read, then or inside the block.
    """
    try:
        with open_clip(media, reader=request["reader"], fps=request["fps"]) as clip:
            yield clip
    except ValueError as error:
        # A report has the name beside the reason.
        raise Unusable(str(error).removeprefix(f"cannot read {str(media)!r}: ")) from error


def look_at_range(clip: ClipReader, start: float, end: float | None) -> dict[str, Any]:
    """What a stretch of an open clip looks like, or the reason why it cannot be used.

    Args:
        clip: the reader.
        start: in seconds.
        end: in seconds; ``None`` for the file's.

    Returns:
        ``reason``, or ``flags``, ``bars``, ``hashes``, ``thumbs`` (base64), ``seconds`` and ``parts``, the starts and
        ends in seconds of what gaps in the time stamps leave of it.

    Raises:
        InputError: a frame does not decode.
    """
    duration = clip.info.duration
    stop = duration if end is None else min(end, duration)
    if clip.info.is_image:
        indices, hashed = np.zeros(1, np.int64), [0]
    elif not start < stop:
        return {"reason": f"it starts at {start:g} s, and the file ends at {stop:.2f} s"}
    else:
        indices, hashed = _sample(clip, start, stop)
    numbers, back = np.unique(indices, return_inverse=True)
    looks = _look_at_frames(clip, numbers)
    told = [looks[back[place]] for place in hashed]
    parts = [(0.0, 0.0)] if clip.info.is_image else parts_between(clip.times, start, stop)
    found = {"static": is_static(looks), "black": is_black(looks), "letterboxed": find_bars(looks) is not None}
    found |= {"interlaced": clip.interlaced, "time gaps": parts != [(start, stop)] and not clip.info.is_image}
    return {
        "flags": [flag for flag, is_so in found.items() if is_so],
        "bars": find_bars(looks),
        "hashes": [look.phash for look in told],
        "thumbs": base64.b64encode(b"".join(look.thumb.tobytes() for look in told)).decode(),
        "seconds": 0.0 if clip.info.is_image else stop - start,
        "parts": parts,
    }


def _sample(clip: ClipReader, start: float, stop: float) -> tuple[np.ndarray, list[int]]:
    """Numbers of frames that are spread over a stretch, its last one behind them; and which of them are hashed."""
    step = (stop - start) / SAMPLED
    spread = frame_indices(clip.times, start=start + step / 2, fps=1 / step, num_frames=SAMPLED, end=stop)
    last = max(int(np.searchsorted(clip.times, stop)) - 1, int(spread[-1]))
    if spread[0] == last:
        return spread[:1], [0]
    return np.append(spread, last), [int(share * SAMPLED) for share in HASHED]


def _look_at_frames(clip: ClipReader, numbers: np.ndarray) -> list[FrameLook]:
    block = max(1, _BLOCK_BYTES // (clip.info.width * clip.info.height * 3))
    return [look_at(frame) for at in range(0, len(numbers), block) for frame in clip.frames(numbers[at : at + block])]
