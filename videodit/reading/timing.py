"""When frames are shown: time stamps that files get wrong, gaps in them, and the frames for wanted times."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from videodit.errors import InputError
from videodit.reading.files import Unreadable

# Matroska and FLV round time stamps to milliseconds, the first one's as well as any other's.
_ROUNDING = 1e-3
# A gap is longer than a second and than so many of the clip's usual steps from frame to frame.
_SHORTEST_GAP = 1.0
_STEPS_OF_A_GAP = 10
_LONGEST_STEP = 10.0  # seconds; nothing that moves is slower
_MOST_REORDERED = 16  # frames that a stream in coding order may move one


def settle_times(
    pts: Sequence[int | None], dts: Sequence[int | None], base: Fraction, rate: Fraction | None
) -> tuple[np.ndarray, str | None]:
    """When frames are shown that came out of the decoder in order, in seconds from the first one.

    Args:
        pts: their time stamps, as the file has them.
        dts: when they were decoded.
        base: seconds of a unit of both.
        rate: frames per second that the stream states.

    Returns:
        float64 ``[N]``, rising; and what should be announced.

    Raises:
        Unreadable: the time stamps do not rise and there is no rate to go by.
    """
    if _rises(pts):
        return _seconds(pts, base), None
    if all(one is not None for one in pts) and len(set(pts)) == len(pts):
        order = np.argsort(np.array(pts, np.int64), kind="stable")
        if np.abs(order - np.arange(len(order))).max() <= _MOST_REORDERED:  # the order of coding, not of showing
            return _seconds(sorted(pts), base), None  # type: ignore[type-var]
    if _rises(dts):
        return _seconds(dts, base), None
    fault = _fault(pts)
    if not rate:
        raise Unreadable(f"{fault}, and it does not say its frame rate")
    return np.arange(len(pts)) / float(rate), f"{fault}: its frames are played at {float(rate):g} fps"


def find_gaps(times: np.ndarray) -> list[tuple[float, float]]:
    """Stretches without a frame that the clip's rate does not explain: the times of the frames around each."""
    if len(times) < 2:
        return []
    steps = np.diff(times)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    places = np.flatnonzero(steps > min(_LONGEST_STEP, max(_SHORTEST_GAP, _STEPS_OF_A_GAP * usual)))
    return [(float(times[i]), float(times[i + 1])) for i in places]


def parts_between(times: np.ndarray, start: float, stop: float) -> list[tuple[float, float]]:
    """The parts of a stretch that its gaps leave, in seconds. A frame before a gap lasts as long as usual."""
    gaps = find_gaps(times)
    if stop - times[-1] > _LONGEST_STEP:  # the last frame stands still
        stop = float(times[-1]) + _SHORTEST_GAP
    steps = np.sort(np.diff(times))
    usual = min(_SHORTEST_GAP, float(steps[(len(steps) - 1) // 2])) if gaps else 0.0
    edges = [start]
    for before, after in gaps:
        edges += [before + usual, after]
    edges.append(stop)
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(max(a, start), min(b, stop)) for a, b in pairs if max(a, start) < min(b, stop)]


def frame_indices(
    times: np.ndarray, *, start: float, fps: float, num_frames: int, end: float | None = None
) -> np.ndarray:
    """Which frames a player would show at ``start + i / fps``, int64 ``[num_frames]``.

    That is the last one whose time has come. A time stamp within a millisecond (or a quarter of ``1 / fps``, if that
    is less) counts as reached, since some containers round to milliseconds.

    Args:
        times: of the frames in seconds, rising from 0, ``[N]``.
        start: of the first wanted frame, in the same seconds.
        fps: wanted frames per second.
        num_frames: how many are wanted, at least 1.
        end: where the last frame ends; ``None`` holds it as long as frames last on average.

    Raises:
        InputError: a number that is none, or a wanted time before the first frame or past the end.
    """
    check_positive("fps", fps)
    if num_frames < 1:
        raise InputError(f"num_frames is {num_frames}; it must be at least 1")
    if not len(times):
        raise InputError("a clip without frames has no frame to show")
    slack = min(_ROUNDING, 0.25 / fps)
    wanted = start + np.arange(num_frames) / fps
    if end is None:
        end = float(times[-1]) + (float(times[-1]) / (len(times) - 1) if len(times) > 1 else 1 / fps)
    if not (wanted[0] >= -slack and wanted[-1] < max(end, slack)):
        raise InputError(
            f"{num_frames} frames at {fps:g} fps from {start:g} s need frames up to {wanted[-1]:g} s; "
            f"the clip goes from 0 to {end:g} s"
        )
    return np.maximum(np.searchsorted(times, wanted + slack, side="right") - 1, 0).astype(np.int64)


def usable_frames(duration: float, fps: float) -> int:
    """How many frames at ``fps`` a stretch of ``duration`` seconds gives: those at ``i / fps`` before its end.

    A stretch of no length, an image, gives one.

    Raises:
        InputError: a negative duration or a rate that is none.
    """
    check_positive("fps", fps)
    if not 0 <= duration < float("inf"):
        raise InputError(f"duration is {duration}; it must be 0 or more seconds")
    slack = min(_ROUNDING, 0.25 / fps)
    return max(1, int(np.ceil((duration - slack) * fps)))


def check_positive(name: str, value: float) -> None:
    """Raises ValueError for a number that is not above 0 and finite."""
    if not 0 < value < float("inf"):  # false for NaN, too
        raise InputError(f"{name} is {value}; it must be above 0")


def _rises(stamps: Sequence[int | None]) -> bool:
    return None not in stamps and all(b > a for a, b in pairwise(stamps))  # type: ignore[operator]


def _seconds(stamps: Sequence[int | None], base: Fraction) -> np.ndarray:
    whole = np.array(stamps, np.int64)
    return np.asarray((whole - whole[0]).astype(np.float64) * float(base))


def _fault(pts: Sequence[int | None]) -> str:
    """What is wrong with time stamps."""
    missing = sum(one is None for one in pts)
    if missing == len(pts):
        return "its frames have no time stamps"
    if missing:
        return f"{missing} of its {len(pts)} frames have no time stamps"
    place = next(i for i, (a, b) in enumerate(pairwise(pts), start=1) if b <= a)  # type: ignore[operator]
    return f"the time stamps of its frames do not rise (frame {place})"
