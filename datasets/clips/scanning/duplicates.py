"""Clips that show nearly the same: found by hashes of a few frames, confirmed by small thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videodit.datasets.clips.scanning.frame_features import THUMB_SIDE
from videodit.errors import InputError

# Bits of 64 in which the hashes of two frames may differ, as a mean over the frames. Toybox clips written again at half
# the size (64x48) and CRF 30 differ in at most 6, different ones in at least 14; unrelated pictures in about 32.
MAX_DISTANCE = 8
# The same for the first frame, by which candidates are found: a single frame may be further off than the mean.
_MAX_FIRST_DISTANCE = 16
# Levels by which a thumbnail of 4 × 4 pixels may differ at its worst pixel, as a mean over the frames. Hashes see the
# large lines alone, and clips of one series share these: a ball in another colour, or another place, is another clip.
# In the same trial at most 7, and at least 25 between different clips.
MAX_COLOR_CHANGE = 12
# Share by which the lengths may differ: another rate or a lost last frame, but not half a clip.
MAX_LENGTH_CHANGE = 0.1
_ROWS, _COLUMNS = 64, 2048  # compared at once; the block of distances stays in the processor's cache


@dataclass(frozen=True)
class Fingerprint:
    """What clips are compared by: hashes and thumbnails of a few frames, and the length.

    Attributes:
        hashes: 64 bits of each of a few frames, ``None`` for a flat one; one frame alone for an image.
        thumbs: their thumbnails one after the other, bytes.
        seconds: the clip's length.

    Raises:
        InputError: hashes and thumbnails do not fit each other.
    """

    hashes: tuple[int | None, ...]
    thumbs: bytes
    seconds: float

    def __post_init__(self) -> None:
        if not self.hashes or len(self.thumbs) != len(self.hashes) * THUMB_SIDE**2 * 3:
            raise InputError(f"{len(self.hashes)} hashes and {len(self.thumbs)} bytes of thumbnails are no fingerprint")
        if not all(bits is None or 0 <= bits < 2**64 for bits in self.hashes):
            raise InputError(f"hashes are {self.hashes}; they must be 64 bits each")

    @property
    def phash(self) -> str | None:
        """The hashes in hexadecimal, 16 digits a frame, dashes for a flat one; ``None`` if all are flat."""
        if all(one is None for one in self.hashes):
            return None
        return "".join("-" * 16 if one is None else f"{one:016x}" for one in self.hashes)


def find_duplicates(fingerprints: Sequence[Fingerprint | None]) -> list[int | None]:
    """For each clip the first one before it that looks the same and is no copy itself; ``None`` without one.

    Clips are alike when their hashes differ in at most `MAX_DISTANCE` bits a frame, their thumbnails in at most
    `MAX_COLOR_CHANGE` levels and their lengths in at most `MAX_LENGTH_CHANGE`. Clips whose frames are all flat resemble
    everything that is flat, and are like nothing here.

    Every clip is compared with every one before it that is kept: for 100,000 different clips 5·10⁹ comparisons, in
    numpy some 10 s (a minute before numpy 2).

    Args:
        fingerprints: of the clips in order; ``None`` for one that takes no part.
    """
    groups: dict[tuple[bool, ...], list[int]] = {}
    for index, one in enumerate(fingerprints):
        if one is not None and one.phash is not None:
            groups.setdefault(tuple(bits is None for bits in one.hashes), []).append(index)
    found: list[int | None] = [None] * len(fingerprints)
    for flat, members in groups.items():
        group = _Group([fingerprints[index] for index in members], flat)  # type: ignore[misc]
        for row, first in group.copies():
            found[members[row]] = members[first]
    return found


class _Group:
    """Clips of which the same frames are flat, as arrays: hashes ``[P, N]``, thumbnails ``[N, F, 48]``.

    ``F`` frames were looked at, of which ``P`` are not flat.
    """

    def __init__(self, prints: Sequence[Fingerprint], flat: tuple[bool, ...]) -> None:
        hashed = [position for position, is_flat in enumerate(flat) if not is_flat]
        self._hashes = np.array([[one.hashes[p] for one in prints] for p in hashed], np.uint64)
        self._thumbs = np.stack([np.frombuffer(one.thumbs, np.uint8).reshape(len(flat), -1) for one in prints])
        self._seconds = np.array([one.seconds for one in prints])

    def copies(self) -> list[tuple[int, int]]:
        """Pairs of a clip and the first one that it is like."""
        total, kept, found = len(self._seconds), np.zeros(len(self._seconds), np.int64), []
        count = 0
        for begin in range(0, total, _ROWS):
            rows = np.arange(begin, min(begin + _ROWS, total))
            before = self._first(rows, kept[:count])
            # Inside the block: one after the other, since each may be a copy or be what is copied.
            inside = {(int(a), int(b)) for a, b in zip(*self._alike(rows, rows), strict=True) if b < a}
            fresh: list[int] = []
            for row in rows.tolist():
                first = before.get(row, next((other for other in fresh if (row, other) in inside), None))
                if first is None:
                    fresh.append(row)
                else:
                    found.append((row, first))
            kept[count : count + len(fresh)] = fresh
            count += len(fresh)
        return found

    def _first(self, rows: np.ndarray, others: np.ndarray) -> dict[int, int]:
        a, b = self._alike(rows, others)
        found: dict[int, int] = {}
        for row, other in zip(a.tolist(), b.tolist(), strict=True):
            found.setdefault(row, other)
        return found

    def _alike(self, rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All pairs of ``rows`` and ``others`` that are alike; for each row the others rise."""
        first, found = self._hashes[0, rows][:, None], []
        for begin in range(0, len(others), _COLUMNS):
            part = others[begin : begin + _COLUMNS]
            # Of a flat array: numpy finds what is true in two dimensions 15 times slower.
            places = np.flatnonzero(_distance(first, self._hashes[0, part]) <= _MAX_FIRST_DISTANCE)
            found.append((rows[places // len(part)], part[places % len(part)]))
        a, b = (np.concatenate([rows[:0], *side]) for side in zip(*found, strict=True)) if found else (rows[:0],) * 2
        longer = np.maximum(self._seconds[a], self._seconds[b])
        near = np.abs(self._seconds[a] - self._seconds[b]) <= MAX_LENGTH_CHANGE * longer
        a, b = a[near], b[near]
        near = _distance(self._hashes[:, a], self._hashes[:, b]).mean(axis=0) <= MAX_DISTANCE
        a, b = a[near], b[near]
        change = np.abs(self._thumbs[a].astype(np.int16) - self._thumbs[b])
        near = change.max(axis=2).mean(axis=1) <= MAX_COLOR_CHANGE
        return a[near], b[near]


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many bits differ, element by element of uint64."""
    bits = a ^ b
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(bits)
    return _count_bits(bits)


def _count_bits(x: np.ndarray) -> np.ndarray:
    """Set bits of uint64: sums of neighbouring fields (H. S. Warren, "Hacker's Delight", 2nd edition, figure 5-2)."""
    one, two, four, top = (np.uint64(n) for n in (1, 2, 4, 56))
    x = x - ((x >> one) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> two) & np.uint64(0x3333333333333333))
    x = (x + (x >> four)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> top
