"""Which range of which clip is trained on, and in which shape: frames × size under a budget of tokens.

A bucket is the shape of a sample. Its size follows from the clip's own shape: of all legal sizes within
the budget the one with the highest ``kept² · used``, where ``kept`` is the share of the picture that is left after the
crop and ``used`` the share of the budget that the size fills.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Literal, NamedTuple, get_args

from videodit.arguments import check_choice
from videodit.datasets.clips.reading.readers import usable_frames
from videodit.datasets.clips.scanning.scan_clips import ScannedClip
from videodit.errors import InputError
from videodit.shapes import VideoGeometry

Windows = Literal["all", "first"]
DROPPABLE = ("static", "black", "letterboxed", "interlaced", "time gaps", "no caption", "duplicate")
"""Reasons of a scan for which :func:`plan_samples` can leave out clips: its flags, and near-duplicates."""
_NAMES_SHOWN = 3


class Bucket(NamedTuple):
    """The shape of a sample: frames, and height and width in pixels."""

    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.frames} frame{'s' * (self.frames > 1)}"


@dataclass(frozen=True)
class SampleSpec:
    """What the samples of a data set may look like: rate, lengths, and the budget of tokens.

    Args:
        geometry: of the model that they are for.
        fps: frames per second at which clips are read.
        frames: legal frame counts to use; a clip gives windows of the largest of them that it is long enough for.
        max_tokens: of a sample, as the transformer counts them.
        max_buckets: how many there may be; the rarest are merged into others.
        windows: cut a long clip into consecutive windows, or take its first alone.
        max_pixels: of a frame. Without this limit an image is as large as all the tokens of a clip allow.
        size: height and width that all samples have, for models with learned positions.

    Raises:
        InputError: a frame count that is not legal (the nearest are named) or comes twice, a rate that is none, a
            budget that the smallest size exceeds, fewer buckets than frame counts, another kind of windows, or a size
            that is not legal or beyond the budget.
    """

    geometry: VideoGeometry
    fps: float
    frames: tuple[int, ...]
    max_tokens: int
    max_buckets: int = 8
    windows: Windows = "all"
    max_pixels: int | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.frames or len(set(self.frames)) < len(self.frames):
            raise InputError(f"frames must be one or more different counts, got {self.frames}")
        height, width = least_size = self.geometry.size_multiple if self.size is None else self.size
        if self.geometry.snap_size(height, width) != least_size:
            mh, mw = self.geometry.size_multiple
            raise InputError(f"size is {width}x{height}; sides must be multiples of {mw} and {mh}")
        if self.max_pixels is not None and self.max_pixels < height * width:
            raise InputError(f"max_pixels is {self.max_pixels}, less than the {height * width} of {width}x{height}")
        for count in self.frames:
            if count < 1 or self.geometry.snap_frames(count) != count:
                raise InputError(_illegal_frames(self.geometry, count))
            least = self.geometry.num_tokens(count, height, width)
            if least > self.max_tokens:
                what = "the smallest size" if self.size is None else "the one size"
                frames = "1 frame" if count == 1 else f"{count} frames"
                raise InputError(
                    f"max_tokens is {self.max_tokens}; it must be at least {least}, which {frames} of {what}, "
                    f"{width}x{height}, {'takes' if count == 1 else 'take'}"
                )
        if not 0 < self.fps < math.inf:  # false for NaN, too
            raise InputError(f"fps must be a positive number, got {self.fps}")
        if self.max_buckets < len(self.frames):
            raise InputError(f"max_buckets is {self.max_buckets}, fewer than the {len(self.frames)} frame counts")
        check_choice(self.windows, get_args(Windows), "windows")


def _illegal_frames(geometry: VideoGeometry, count: int) -> str:
    above = geometry.snap_frames(max(count, 1))
    while above < count:
        above = geometry.snap_frames(above + geometry.vae_stride.t * geometry.patch.t)
    below = above - geometry.vae_stride.t * geometry.patch.t
    nearest = f"the nearest are {below} and {above}" if 1 <= below < count else f"the nearest is {above}"
    return f"frames must be {geometry.frame_rule} for this model, got {count}; {nearest}"


@dataclass(frozen=True)
class Sample:
    """A window of a clip, in the shape of a bucket.

    Args:
        scanned: the clip.
        start: of the window, in seconds from the clip's own start.
        bucket: its shape.
    """

    scanned: ScannedClip
    start: float
    bucket: Bucket


@dataclass(frozen=True)
class SamplePlan:
    """The samples of a source's clips.

    Attributes:
        spec: what samples may look like.
        samples: by the names of the clips, then by time.
        dropped: names of clips that give no sample, each with the reason, by name.
        notices: what a user should know: seconds that no window covers, merged buckets, pictures that are enlarged.
    """

    spec: SampleSpec
    samples: tuple[Sample, ...] = ()
    dropped: list[tuple[str, str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def counts(self) -> dict[Bucket, int]:
        """How many samples each bucket has, in the order of the buckets."""
        found: dict[Bucket, int] = {}
        for sample in sorted(self.samples, key=lambda s: s.bucket):
            found[sample.bucket] = found.get(sample.bucket, 0) + 1
        return found


def plan_samples(
    scanned: Iterable[ScannedClip], spec: SampleSpec, *, drop_flags: frozenset[str] = frozenset()
) -> SamplePlan:
    """Choose windows and buckets for the clips of a source. The order in which the clips come plays no part.

    Args:
        scanned: what a scan found.
        spec: what samples may look like.
        drop_flags: which of `DROPPABLE` are left out.

    Raises:
        InputError: a flag that no scan gives.
    """
    if unknown := sorted(drop_flags - set(DROPPABLE)):
        raise InputError(f"clips cannot be dropped for {', '.join(unknown)}; valid values are {', '.join(DROPPABLE)}")
    samples: list[Sample] = []
    dropped: list[tuple[str, str]] = []
    uncovered = 0.0
    for one in sorted(scanned, key=lambda s: s.clip.name):
        reason = _reason_to_drop(one, drop_flags)
        found: int | str = reason if reason is not None else _frames_of(one, spec)
        if isinstance(found, str):
            dropped.append((one.clip.name, found))
            continue
        windows, rest = _windows(one, found, spec)
        samples += windows
        uncovered += rest
    notices = []
    if uncovered:
        notices.append(
            f"{uncovered:.1f} s of the clips are in no sample: "
            + (
                "what remains of each clip after its last window"
                if spec.windows == "all"
                else "all but the first windows"
            )
        )
    samples, merged = _merge(samples, spec)
    return SamplePlan(spec, tuple(samples), dropped, [*notices, *merged, *_enlarged(samples)])


def lost_share(width: int, height: int, bucket: Bucket) -> float:
    """The share of a picture's area that is cropped away when it is brought into a bucket, from 0 to 1."""
    return float(1 - _kept(Fraction(width, height), Fraction(bucket.width, bucket.height)))


def bucket_for(width: int, height: int, frames: int, spec: SampleSpec) -> Bucket:
    """The bucket of a clip.

    Args:
        width: of the clip in pixels; the bucket is no wider, unless no narrower one is legal.
        height: the same.
        frames: of the bucket.
        spec: the geometry and the budget.
    """
    if spec.size is not None:
        return Bucket(frames, *spec.size)
    mh, mw = spec.geometry.size_multiple
    cells = spec.max_tokens // spec.geometry.num_tokens(frames, mh, mw)
    if spec.max_pixels is not None:
        cells = min(cells, spec.max_pixels // (mh * mw))
    rows, columns = _best_grid(
        Fraction(width * mh, height * mw), cells, max(1, min(height // mh, cells)), max(1, min(width // mw, cells))
    )
    return Bucket(frames, rows * mh, columns * mw)


@cache  # most clips of a data set have one of a few sizes
def _best_grid(ratio: Fraction, cells: int, max_rows: int, max_columns: int) -> tuple[int, int]:
    """Rows and columns of tokens, at most ``cells`` of them, for a picture that is ``ratio`` columns to a row.

    For a given number of rows ``kept² · used`` rises with the columns up to the picture's own shape and falls behind
    it, so that only the columns around that have to be looked at.
    """

    def score(grid: tuple[int, int]) -> tuple[Fraction, Fraction, int]:
        kept = _kept(ratio, Fraction(grid[1], grid[0]))
        return kept**2 * Fraction(grid[0] * grid[1], cells), kept, grid[1]

    grids = set()
    for rows in range(1, max_rows + 1):
        widest = min(cells // rows, max_columns)
        grids |= {(rows, min(widest, max(1, columns))) for columns in (int(ratio * rows), int(ratio * rows) + 1)}
    return max(grids, key=score)


def _kept(shape: Fraction, other: Fraction) -> Fraction:
    """The share of a picture that is left after a crop from one ratio of the sides to another."""
    return min(shape / other, other / shape)


def _reason_to_drop(one: ScannedClip, drop_flags: frozenset[str]) -> str | None:
    if one.reason is not None:
        return one.reason
    if flags := [flag for flag in one.flags if flag in drop_flags]:
        return ", ".join(flags)
    if one.duplicate_of is not None and "duplicate" in drop_flags:
        return f"nearly the same as {one.duplicate_of}"
    return None


def _parts(one: ScannedClip, fps: float) -> list[tuple[float, int]]:
    """For each part of a clip where it begins, in seconds from the clip's start, and how many frames it gives."""
    assert one.info is not None
    if one.info.is_image:
        return [(0.0, 1)]
    start = one.clip.start
    end = one.info.duration if one.clip.end is None else min(one.clip.end, one.info.duration)
    parts = one.parts or ((start, max(start, end)),)
    return [(a - start, usable_frames(b - a, fps)) for a, b in parts]


def _frames_of(one: ScannedClip, spec: SampleSpec) -> int | str:
    """The frame count for a clip, or why there is none."""
    parts = _parts(one, spec.fps)
    usable = max(count for _, count in parts)
    if legal := [count for count in spec.frames if count <= usable]:
        return max(legal)
    assert one.info is not None
    least = min(spec.frames)
    if one.info.is_image:
        return f"an image, and samples have at least {least} frames"
    if len(parts) > 1:
        return f"gaps in its time stamps leave at most {usable} frames in one part; the shortest sample has {least}"
    end = one.info.duration if one.clip.end is None else min(one.clip.end, one.info.duration)
    duration = max(0.0, end - one.clip.start)
    return f"{duration:.2f} s are {usable} frames at {spec.fps:g} fps; the shortest sample has {least}"


def _windows(one: ScannedClip, frames: int, spec: SampleSpec) -> tuple[list[Sample], float]:
    """The windows of a clip, none across a gap in its time stamps, and how many seconds of it they do not cover."""
    assert one.info is not None
    bucket = bucket_for(one.info.width, one.info.height, frames, spec)
    starts: list[float] = []
    rest = 0
    for begin, usable in _parts(one, spec.fps):
        count = usable // frames if spec.windows == "all" and frames > 1 else min(1, usable // frames)
        if starts and (spec.windows != "all" or frames == 1):
            count = 0
        starts += [begin + index * frames / spec.fps for index in range(count)]
        rest += usable - count * frames
    return [Sample(one, start, bucket) for start in starts], rest / spec.fps


def _merge(samples: list[Sample], spec: SampleSpec) -> tuple[list[Sample], list[str]]:
    """Merge the rarest buckets into the nearest others until there are few enough, and say what that crops."""
    members: dict[Bucket, list[int]] = {}
    for index, sample in enumerate(samples):
        members.setdefault(sample.bucket, []).append(index)
    while len(members) > spec.max_buckets:
        # Frames are not lost by a merge: a bucket goes into one of the same length.
        lengths = [bucket.frames for bucket in members]
        movable = [bucket for bucket in members if lengths.count(bucket.frames) > 1]
        rarest = min(movable, key=lambda bucket: (len(members[bucket]), bucket))
        moved = members.pop(rarest)
        least = [min(side) for side in zip(*(_sides(samples[i]) for i in moved), strict=True)]
        nearest = min(
            (bucket for bucket in members if bucket.frames == rarest.frames),
            key=lambda bucket: (
                bucket.width > least[0] or bucket.height > least[1],  # enlarging comes last
                -_kept(Fraction(rarest.width, rarest.height), Fraction(bucket.width, bucket.height)),
                abs(bucket.width * bucket.height - rarest.width * rarest.height),
                bucket,
            ),
        )
        members[nearest] += moved
    final = {index: bucket for bucket, indices in members.items() for index in indices}
    notices: list[str] = []
    moves: dict[tuple[Bucket, Bucket], list[Sample]] = {}
    for index, sample in enumerate(samples):
        if final[index] != sample.bucket:
            moves.setdefault((sample.bucket, final[index]), []).append(sample)
    for (old, new), some in sorted(moves.items()):
        lost = max(lost_share(*_sides(sample), new) for sample in some)
        before = max(lost_share(*_sides(sample), old) for sample in some)
        notices.append(
            f"{_samples(len(some))} of {old} go into {new}, since there are more than {spec.max_buckets} buckets: "
            f"up to {lost:.0%} of the picture are cropped away instead of {before:.0%}"
        )
    return [Sample(s.scanned, s.start, final[index]) for index, s in enumerate(samples)], notices


def _sides(sample: Sample) -> tuple[int, int]:
    assert sample.scanned.info is not None
    return sample.scanned.info.width, sample.scanned.info.height


def _enlarged(samples: Sequence[Sample]) -> list[str]:
    names = {}
    for sample in samples:
        width, height = _sides(sample)
        if sample.bucket.width > width or sample.bucket.height > height:
            names[sample.scanned.clip.name] = f"{sample.scanned.clip.name} ({width}x{height})"
    if not names:
        return []
    shown = ", ".join(list(names.values())[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
    return [f"{len(names)} clip{'s are' if len(names) > 1 else ' is'} smaller than the bucket and enlarged: {shown}"]


def _samples(count: int) -> str:
    return f"{count} sample{'s' * (count > 1)}"
