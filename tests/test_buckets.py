"""Windows and buckets: which form a clip is brought into, and that nothing is lost in silence."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from videodit.datasets.clips.latents.buckets import Bucket, SamplePlan, SampleSpec, bucket_for, lost_share, plan_samples
from videodit.datasets.clips.reading.readers import VideoInfo
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.datasets.clips.scanning.scan_clips import ScannedClip
from videodit.shapes import Size3D, VideoGeometry

MINI = VideoGeometry(Size3D(4, 8, 8), Size3D(1, 2, 2))
SHAPES = [(64, 64), (1920, 1080), (1080, 1920), (640, 480), (480, 640), (320, 100), (100, 330), (40, 40), (20, 500)]


def spec_for(
    frames: tuple[int, ...] = (1, 17),
    *,
    max_tokens: int = 80,
    max_buckets: int = 8,
    windows: str = "all",
    fps: float = 16.0,
    geometry: VideoGeometry = MINI,
    max_pixels: int | None = None,
    size: tuple[int, int] | None = None,
) -> SampleSpec:
    return SampleSpec(geometry, fps, frames, max_tokens, max_buckets, windows, max_pixels, size)  # type: ignore[arg-type]


def scanned(
    name: str,
    width: int = 640,
    height: int = 360,
    seconds: float = 1.2,
    *,
    image: bool = False,
    start: float = 0.0,
    end: float | None = None,
    reason: str | None = None,
    flags: tuple[str, ...] = (),
    duplicate_of: str | None = None,
) -> ScannedClip:
    fps = 0.0 if image else 30.0
    info = VideoInfo(
        width, height, 1 if image else round(seconds * 30), fps, 0.0 if image else seconds, "h264", "yuv420p", 0,
        has_audio=False, is_image=image,
    )  # fmt: skip
    clip = Clip(name, Media(Path(f"{name}.mp4")), "a clip", start, end)
    return ScannedClip(clip, reason, "0" * 64, info, flags, duplicate_of, None)


def forms(plan: SamplePlan) -> list[tuple[str, float, Bucket]]:
    return [(sample.scanned.clip.name, sample.start, sample.bucket) for sample in plan.samples]


# ---- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(512, 512, (64, 64)), (1280, 720, (48, 80)), (1920, 1080, (48, 80)), (720, 1280, (80, 48)), (854, 480, (48, 80))],
)
def test_mini_gets_its_three_sizes(width: int, height: int, expected: tuple[int, int]) -> None:
    assert bucket_for(width, height, 17, spec_for()) == (17, *expected)


@pytest.mark.parametrize("geometry", [MINI, VideoGeometry(Size3D(4, 16, 16)), VideoGeometry(Size3D(8, 32, 32))])
@pytest.mark.parametrize("budget", [3, 7, 16, 100, 1560])
def test_sizes_are_legal_and_within_the_budget(geometry: VideoGeometry, budget: int) -> None:
    mh, mw = geometry.size_multiple
    frames = geometry.vae_stride.t + 1
    wish = spec_for((frames,), max_tokens=2 * budget, geometry=geometry)
    for width, height in SHAPES:
        bucket = bucket_for(width, height, frames, wish)
        assert geometry.num_tokens(*bucket) <= 2 * budget
        assert bucket.width <= max(width, mw)
        assert bucket.height <= max(height, mh)


@pytest.mark.parametrize("budget", [7, 16, 100])
def test_no_size_is_better_by_the_measure_that_is_documented(budget: int) -> None:
    """All pairs of sides are tried, where the code looks at a few of them."""
    wish = spec_for((5,), max_tokens=2 * budget)

    def score(bucket: Bucket, width: int, height: int) -> float:
        return (1 - lost_share(width, height, bucket)) ** 2 * MINI.num_tokens(*bucket)

    for width, height in SHAPES:
        legal = [
            Bucket(5, 16 * rows, 16 * columns)
            for rows in range(1, budget + 1)
            for columns in range(1, budget // rows + 1)
            if rows <= max(1, height // 16) and columns <= max(1, width // 16)
        ]
        best = max(score(bucket, width, height) for bucket in legal)
        assert score(bucket_for(width, height, 5, wish), width, height) == pytest.approx(best, rel=1e-12)


def test_a_large_budget_keeps_nearly_all_of_the_picture_and_uses_nearly_all_of_the_budget() -> None:
    wish = spec_for((81,), max_tokens=32760)
    for width, height in ((1920, 1080), (1080, 1920), (1000, 1000), (2560, 1080)):
        bucket = bucket_for(width, height, 81, wish)
        assert lost_share(width, height, bucket) < 0.04
        assert MINI.num_tokens(*bucket) > 0.95 * 32760


def test_a_small_clip_gets_a_small_size_and_is_enlarged_only_if_there_is_none() -> None:
    plan = plan_samples([scanned("small", 40, 40), scanned("tiny", 12, 30), scanned("wide", 640, 360)], spec_for((17,)))
    assert {name: bucket for name, _, bucket in forms(plan)} == {
        "small": (17, 32, 32),
        "tiny": (17, 16, 16),
        "wide": (17, 48, 80),
    }
    assert plan.notices[-1] == "1 clip is smaller than the bucket and enlarged: tiny (12x30)"


def test_an_image_is_as_large_as_a_clip_has_tokens_unless_pixels_are_limited_too() -> None:
    picture = [scanned("picture", 1000, 1000, image=True)]
    free, limited = (plan_samples(picture, spec_for(max_pixels=limit)) for limit in (None, 64 * 64))
    assert list(free.counts()) == [(1, 128, 128)]
    assert list(limited.counts()) == [(1, 64, 64)]


def test_a_model_with_one_size_gets_it_whatever_the_clip_is() -> None:
    plan = plan_samples([scanned("wide"), scanned("small", 40, 40)], spec_for((17,), size=(64, 64)))
    assert plan.counts() == {(17, 64, 64): 2}
    assert plan.notices[-1] == "1 clip is smaller than the bucket and enlarged: small (40x40)"


# ---- lengths ---------------------------------------------------------------------------------------


def test_a_clip_gets_the_longest_length_that_it_fills() -> None:
    clips = [scanned("short", seconds=0.5), scanned("exact", seconds=17 / 16), scanned("long", seconds=1.9)]
    plan = plan_samples([*clips, scanned("picture", image=True)], spec_for((1, 17)))
    assert {name: bucket.frames for name, _, bucket in forms(plan)} == {
        "short": 1, "exact": 17, "long": 17, "picture": 1,
    }  # fmt: skip


def test_what_is_too_short_is_dropped_with_the_reason() -> None:
    plan = plan_samples([scanned("short", seconds=0.5), scanned("picture", image=True)], spec_for((9, 17)))
    assert plan.samples == ()
    assert plan.dropped == [
        ("picture", "an image, and samples have at least 9 frames"),
        ("short", "0.50 s are 8 frames at 16 fps; the shortest sample has 9"),
    ]


@pytest.mark.parametrize("seconds", [1.0625, 3.0, 7.77, 60.0])
def test_windows_cover_a_clip_without_gap_or_overlap_and_the_rest_is_told(seconds: float) -> None:
    plan = plan_samples([scanned("clip", seconds=seconds)], spec_for((17,)))
    starts = [start for _, start, _ in forms(plan)]
    assert starts == pytest.approx([i * 17 / 16 for i in range(len(starts))])
    usable = math.ceil((seconds - 1e-3) * 16)
    rest = usable - 17 * len(starts)
    assert 0 <= rest < 17
    assert (f"{rest / 16:.1f} s of the clips" in "".join(plan.notices)) == (rest > 0)


def test_first_takes_one_window_and_tells_the_seconds_that_it_leaves() -> None:
    plan = plan_samples([scanned("clip", seconds=4.25), scanned("other", seconds=17 / 16)], spec_for(windows="first"))
    assert [(name, start) for name, start, _ in forms(plan)] == [("clip", 0.0), ("other", 0.0)]
    assert plan.notices == ["3.2 s of the clips are in no sample: all but the first windows"]


def test_the_range_of_a_clip_counts_and_not_its_file() -> None:
    plan = plan_samples(
        [scanned("part", seconds=60, start=50.0, end=52.2), scanned("tail", seconds=60, start=58.5)], spec_for((17,))
    )
    assert [(name, start) for name, start, _ in forms(plan)] == [("part", 0.0), ("part", 17 / 16), ("tail", 0.0)]


# ---- drops -----------------------------------------------------------------------------------------


def test_flags_drop_what_is_asked_for_and_nothing_else() -> None:
    clips = [
        scanned("a", flags=("static", "no caption")),
        scanned("b", flags=("letterboxed",)),
        scanned("c", duplicate_of="a"),
        scanned("d", reason="the file is empty"),
    ]
    everything = plan_samples(clips, spec_for())
    assert [name for name, _, _ in forms(everything)] == ["a", "b", "c"]
    assert everything.dropped == [("d", "the file is empty")]
    some = plan_samples(clips, spec_for(), drop_flags=frozenset({"static", "duplicate", "no caption"}))
    assert some.dropped == [("a", "static, no caption"), ("c", "nearly the same as a"), ("d", "the file is empty")]
    with pytest.raises(
        ValueError,
        match="dropped for ugly; valid values are static, black, letterboxed, interlaced, time gaps, no caption, dup",
    ):
        plan_samples(clips, spec_for(), drop_flags=frozenset({"ugly"}))


# ---- merging ---------------------------------------------------------------------------------------


def many(count: int = 60) -> list[ScannedClip]:
    draw = random.Random(3)
    return [
        scanned(f"{i:03d}", draw.randrange(20, 2000), draw.randrange(20, 2000), draw.uniform(0.2, 4))
        for i in range(count)
    ]


@pytest.mark.parametrize("max_buckets", [2, 3, 5, 8])
def test_no_more_buckets_than_wanted_and_no_sample_lost(max_buckets: int) -> None:
    free = plan_samples(many(), spec_for(max_tokens=400, max_buckets=1000))
    few = plan_samples(many(), spec_for(max_tokens=400, max_buckets=max_buckets))
    assert len(free.counts()) > 8
    assert len(few.counts()) == max_buckets
    assert [(n, s, b.frames) for n, s, b in forms(few)] == [(n, s, b.frames) for n, s, b in forms(free)]
    moved = sum(a != b for a, b in zip(forms(free), forms(few), strict=True))
    told = [int(notice.split()[0]) for notice in few.notices if "go into" in notice]
    assert sum(told) == moved


def test_a_merge_says_what_it_crops() -> None:
    clips = [*(scanned(f"wide{i}", 1920, 1080) for i in range(3)), *(scanned(f"tall{i}", 1080, 1920) for i in range(2))]
    plan = plan_samples([*clips, scanned("square", 500, 500)], spec_for((17,), max_buckets=2))
    assert plan.counts() == {(17, 48, 80): 4, (17, 80, 48): 2}
    (notice,) = [notice for notice in plan.notices if "go into" in notice]
    assert notice.startswith("1 sample of 64x64, 17 frames go into ")
    assert notice.endswith("up to 40% of the picture are cropped away instead of 0%")


def test_a_merge_that_enlarges_comes_last() -> None:
    """A picture of 40 pixels fits the smaller bucket, whose shape is further from its own."""
    clips = [scanned(f"big{i}", 512, 512) for i in range(3)] + [scanned(f"low{i}", 33, 20) for i in range(3)]
    plan = plan_samples([*clips, scanned("small", 40, 40)], spec_for((17,), max_buckets=2))
    assert {name: bucket for name, _, bucket in forms(plan)}["small"] == (17, 16, 32)


def test_the_order_of_the_clips_plays_no_part() -> None:
    clips = many()
    expected = plan_samples(clips, spec_for(max_tokens=400, max_buckets=4))
    random.Random(5).shuffle(clips)
    assert plan_samples(clips, spec_for(max_tokens=400, max_buckets=4)) == expected


# ---- what may be wanted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": (16,)}, r"4k\+1 for this model, got 16; the nearest are 13 and 17"),
        ({"frames": (0,)}, r"got 0; the nearest is 1$"),
        ({"frames": ()}, "one or more different counts"),
        ({"frames": (17, 17)}, "one or more different counts"),
        (
            {"max_tokens": 4},
            "max_tokens is 4; it must be at least 5, which 17 frames of the smallest size, 16x16, take",
        ),
        ({"size": (60, 64)}, "size is 64x60; sides must be multiples of 16 and 16"),
        ({"size": (80, 64)}, "max_tokens is 80; it must be at least 100, which 17 frames of the one size, 64x80, take"),
        ({"max_pixels": 255}, "max_pixels is 255, less than the 256 of 16x16"),
        ({"fps": 0.0}, "fps must be a positive number, got 0.0"),
        ({"fps": math.nan}, "fps must be a positive number, got nan"),
        ({"max_buckets": 1}, "max_buckets is 1, fewer than the 2 frame counts"),
        ({"windows": "last"}, "windows must be one of all, first.*, got 'last'"),
    ],
)
def test_what_is_not_legal_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_for(**change)


def test_a_patch_in_time_and_a_vae_without_a_lone_first_frame_have_their_own_counts() -> None:
    patched = VideoGeometry(Size3D(4, 8, 8), Size3D(2, 2, 2))
    with pytest.raises(ValueError, match="got 9; the nearest are 5 and 13"):
        spec_for((9,), geometry=patched)
    assert spec_for((5, 13), geometry=patched).frames == (5, 13)
    with pytest.raises(ValueError, match="frames must be 4k for this model, got 17; the nearest are 16 and 20"):
        spec_for((17,), geometry=VideoGeometry(Size3D(4, 8, 8), causal=False))
