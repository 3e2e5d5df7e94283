"""What clips look like: still, black or barred, and which of them show nearly the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from clips_panned import HEIGHT, WIDTH, moving, source_of, write
from PIL import Image

from videodit.cli.main import main
from videodit.datasets.clips.reading.sources import read_source
from videodit.datasets.clips.scanning.duplicates import (
    MAX_COLOR_CHANGE,
    MAX_DISTANCE,
    Fingerprint,
    _count_bits,
    find_duplicates,
)
from videodit.datasets.clips.scanning.frame_features import (
    DARK,
    STILL_CHANGE,
    find_bars,
    frame_features,
    is_black,
    is_static,
    perceptual_hash,
    shrink,
)
from videodit.datasets.clips.scanning.scan_clips import scan


def resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames])


# --- still, black, barred ------------------------------------------------------------------------


def test_black_is_what_a_screen_shows_as_black() -> None:
    grey = np.full((1, HEIGHT, WIDTH, 3), DARK, np.uint8)
    assert is_black([frame_features(grey[0])])
    assert not is_black([frame_features(grey[0] + 1)])
    speck = grey.copy()
    speck[0, :4, :7] = 255  # 0.9 % of the picture
    assert is_black([frame_features(speck[0])])
    speck[0, :4, :9] = 255
    assert not is_black([frame_features(speck[0])])
    assert not is_black([frame_features(grey[0]), frame_features(speck[0])])


def test_noise_is_no_motion(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = moving(1, 96, 128)[0].astype(np.int16)
    noisy = [np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8) for _ in range(6)]
    assert is_static([frame_features(frame) for frame in noisy])
    thing = [frame.copy() for frame in noisy]
    thing[3][22:26, 30:34] = np.where(thing[3][22:26, 30:34] > 127, 0, 255)  # where four parts meet
    assert not is_static([frame_features(frame) for frame in thing])
    assert not is_static([frame_features(noisy[0])])
    for step, still in ((STILL_CHANGE - 1, True), (STILL_CHANGE + 1, False)):
        flat = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
        assert is_static([frame_features(flat), frame_features(flat + np.uint8(step))]) == still
    # As a file, compressed.
    path = write(tmp_path / "still.mp4", np.stack(noisy * 3), crf=28)
    (found,) = scan(source_of(path))
    assert found.flags == ("static",)


@pytest.mark.parametrize(
    ("top", "bottom", "left", "right", "expected"),
    [
        (6, 6, 0, 0, (6, 6, 0, 0)),
        (0, 0, 10, 9, (0, 0, 10, 9)),
        (6, 6, 8, 8, (6, 6, 8, 8)),
        (2, 2, 0, 0, (2, 2, 0, 0)),
        (1, 1, 0, 0, None),  # a capture's edge
        (6, 0, 0, 0, None),  # a dark sky
        (16, 8, 0, 0, None),
    ],
)
def test_bars_come_in_pairs(top: int, bottom: int, left: int, right: int, expected: tuple[int, ...] | None) -> None:
    frames = moving(3).copy()
    frames[:, :top] = frames[:, HEIGHT - bottom :] = 8
    frames[:, :, :left] = frames[:, :, WIDTH - right :] = 8
    assert find_bars([frame_features(frame) for frame in frames]) == expected


def test_a_bar_stays_through_the_clip(tmp_path: Path) -> None:
    frames = moving(9).copy()
    frames[:, :8] = frames[:, -8:] = 0
    frames[0] = 0  # fades in from black
    (found,) = scan(source_of(write(tmp_path / "film.mp4", frames)))
    assert found.flags == ("letterboxed",)
    assert found.bars == (8, 8, 0, 0)
    frames[4] = moving(1)[0]
    assert find_bars([frame_features(frame) for frame in frames]) is None
    assert find_bars([frame_features(np.zeros_like(frames[0]))]) is None


# --- near-duplicates -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toys() -> list[np.ndarray]:
    """Clips of one world: the same ground and sky behind different toys."""
    from videodit.datasets.toybox import ToyboxDataset

    data = ToyboxDataset(6, height=96, width=128, num_frames=17, fps=16, split="train", seed=5)
    videos = (data[i]["video"].permute(1, 2, 3, 0) for i in range(len(data)))
    return [((video + 1) * 127.5).round().clamp(0, 255).byte().numpy() for video in videos]


def test_a_clip_written_again_is_found_and_others_are_not(toys: list[np.ndarray], tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.mp4", frames) for i, frames in enumerate(toys)]
    paths += [write(tmp_path / f"{i}-again.mp4", resized(toys[i], 48, 64), crf=30) for i in range(3)]
    paths.append(write(tmp_path / "3-slower.mp4", toys[3][::2], fps=8))
    paths.append(write(tmp_path / "4-half.mp4", toys[4][:8]))
    found = scan(source_of(*paths), workers=2)
    assert {item.clip.name: item.duplicate_of for item in found if item.duplicate_of} == {
        "0-again.mp4": "0.mp4",
        "1-again.mp4": "1.mp4",
        "2-again.mp4": "2.mp4",
        "3-slower.mp4": "3.mp4",
    }


def test_flat_clips_are_no_duplicates_unless_their_bytes_are_equal(tmp_path: Path) -> None:
    paths = []
    for i, level in enumerate((0, 0, 128, 250)):
        paths.append(write(tmp_path / f"{i}.mp4", np.full((6 + i, HEIGHT, WIDTH, 3), level, np.uint8)))
    (tmp_path / "copy.mp4").write_bytes(paths[0].read_bytes())
    found = scan(source_of(*paths, tmp_path / "copy.mp4"))
    assert [item.phash for item in found] == [None] * 5
    assert [item.duplicate_of for item in found] == [None] * 4 + ["0.mp4"]


def test_the_original_is_the_first_with_a_caption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames, cache = moving(17), str(tmp_path / "scan.jsonl")
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.mp4", frames)
        if name != "a":
            (tmp_path / f"{name}.txt").write_text("a clip")
    found = scan(read_source(tmp_path))
    assert [item.duplicate_of for item in found] == ["b.mp4", None, "b.mp4"]
    assert main(["data", "scan", str(tmp_path), "--cache", cache, "--drop", "uncaptioned"]) == 0
    assert "nearly the same as another: 2\n    a.mp4 (b.mp4)\n    c.mp4 (b.mp4)" in capsys.readouterr().out


def fingerprint(hashes: Sequence[int | None], level: int = 100, seconds: float = 1.0) -> Fingerprint:
    return Fingerprint(tuple(hashes), bytes([level] * 48 * len(hashes)), seconds)


def test_alike_is_near_in_every_respect() -> None:
    rng = np.random.default_rng(0)
    bits = [int(value) for value in rng.integers(0, 2**63, 5)]
    near = [value ^ (2**MAX_DISTANCE - 1) for value in bits]
    first = fingerprint(bits)
    assert find_duplicates([first, fingerprint(near)]) == [None, 0]
    assert find_duplicates([first, fingerprint([value ^ (2 ** (MAX_DISTANCE + 1) - 1) for value in bits])]) == [
        None,
        None,
    ]
    assert find_duplicates([first, fingerprint(bits, level=100 + MAX_COLOR_CHANGE)]) == [None, 0]
    assert find_duplicates([first, fingerprint(bits, level=100 + MAX_COLOR_CHANGE + 1)]) == [None, None]
    assert find_duplicates([first, fingerprint(bits, seconds=1.1)]) == [None, 0]
    assert find_duplicates([first, fingerprint(bits, seconds=1.2)]) == [None, None]
    assert find_duplicates([first, fingerprint(bits[:1])]) == [None, None]
    assert find_duplicates([first, None, fingerprint([None] * 5), fingerprint([None] * 5), first]) == [None] * 4 + [0]
    assert find_duplicates([fingerprint([None, *bits[1:]]), fingerprint([None, *near[1:]])]) == [None, 0]


def test_a_chain_ends_at_the_first_that_is_kept() -> None:
    """b is like a, c like b but not like a: b is a copy, and c stays."""
    a, b, c = 0, 0b111111, 0b111111111111
    assert find_duplicates([fingerprint([bits]) for bits in (a, b, c)]) == [None, 0, None]
    assert find_duplicates([fingerprint([bits]) for bits in (b, a, c)]) == [None, 0, 0]


def test_many_clips_are_compared_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    centres = rng.integers(0, 2**63, 40)
    prints: list[Fingerprint | None] = []
    for _ in range(300):
        bits = int(rng.choice(centres))
        for _ in range(int(rng.integers(0, 7))):
            bits ^= 1 << int(rng.integers(0, 64))
        prints.append(fingerprint([bits], level=int(rng.choice([50, 60, 90]))))
    expected: list[int | None] = []
    for i, one in enumerate(prints):
        assert one is not None
        kept = (j for j in range(i) if expected[j] is None)
        expected.append(next((j for j in kept if _plainly_alike(one, prints[j])), None))
    assert find_duplicates(prints) == expected
    assert 30 < sum(first is None for first in expected) < 200


def _plainly_alike(one: Fingerprint, other: Fingerprint | None) -> bool:
    assert other is not None
    a, b = one.hashes[0], other.hashes[0]
    assert a is not None
    assert b is not None
    return (a ^ b).bit_count() <= MAX_DISTANCE and abs(one.thumbs[0] - other.thumbs[0]) <= MAX_COLOR_CHANGE


def test_bits_are_counted_without_numpy_2() -> None:
    values = np.random.default_rng(2).integers(0, 2**64, 1000, dtype=np.uint64, endpoint=False)
    values[:2] = 0, 2**64 - 1
    assert _count_bits(values).tolist() == [int(value).bit_count() for value in values]


def test_the_hash_survives_another_size_and_brightness() -> None:
    frame = moving(1, 96, 128, seed=4)[0]
    small = np.asarray(Image.fromarray(frame).resize((50, 38)))
    luma, other = (picture.astype(np.float32).mean(axis=2) for picture in (frame, small))
    bits = perceptual_hash(luma)
    assert bits is not None
    assert (bits ^ (perceptual_hash(0.7 * other + 30) or 0)).bit_count() <= 4
    assert 16 < (bits ^ (perceptual_hash(luma[::-1]) or 0)).bit_count() < 48
    assert perceptual_hash(np.full((40, 40), 9.0)) is None


def test_pictures_shrink_to_means() -> None:
    picture = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    assert shrink(picture, 2).tolist() == [
        [picture[:3, :4].mean(), picture[:3, 4:].mean()],
        [picture[3:, :4].mean(), picture[3:, 4:].mean()],
    ]
    assert shrink(np.array([[0.0, 30.0, 60.0]]), 2) == pytest.approx(np.array([[10.0, 50.0]] * 2))
    assert shrink(np.full((7, 5), 200, np.uint8), 3) == pytest.approx(np.full((3, 3), 200.0), rel=1e-6)
