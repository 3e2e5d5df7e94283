"""Cutting at changes of scene: a manifest of pieces that begin and end where the scenes do."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips_made import make_clip
from clips_panned import moving
from PIL import Image

from videodit.cli.main import main
from videodit.datasets.clips.reading.readers import read_window, usable_frames
from videodit.datasets.clips.reading.records import Clip, Media, Source
from videodit.datasets.clips.reading.sources import read_source
from videodit.datasets.clips.scanning import split_at_cuts
from videodit.datasets.clips.scanning.split_at_cuts import SplitResult, split

RATE = 16
needs_scenedetect = pytest.mark.skipif(
    importlib.util.find_spec("scenedetect") is None or importlib.util.find_spec("cv2") is None,
    reason="PySceneDetect is not installed",
)


def scene(num_frames: int, seed: int) -> np.ndarray:
    """uint8 ``[T, H, W, 3]``: a picture of its own, passed over slowly."""
    return moving(num_frames, seed=seed, step=1)


def write(path: Path, *scenes: np.ndarray, times: Sequence[float] | None = None) -> Path:
    options = {"crf": "20", "preset": "ultrafast"}
    make_clip(path, frames=np.concatenate(scenes), fps=RATE, times=times, options=options)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of two scenes, one without a cut, a short one, a picture, and a broken file."""
    path = tmp_path_factory.mktemp("films")
    write(path / "film.mp4", scene(24, 1), scene(20, 2))
    (path / "film.txt").write_text("two scenes, é", encoding="utf-8")
    write(path / "plain.mp4", scene(40, 3))
    write(path / "short.mp4", scene(4, 4))
    Image.fromarray(scene(1, 5)[0]).save(path / "picture.png")
    (path / "broken.mp4").write_text("no video " * 20)
    return path


@needs_scenedetect
def test_pieces_are_the_scenes_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    manifest = folder / "pieces.jsonl"
    try:
        result = split(read_source(folder), manifest)
        assert rows_of(manifest) == [
            {"video": "film.mp4", "caption": "two scenes, é", "end": 1.5},
            {"video": "film.mp4", "caption": "two scenes, é", "start": 1.5},
            {"video": "picture.png"},
            {"video": "plain.mp4"},
        ]
        reason = "it is neither a video nor an image of a kind that is read here"
        assert result == SplitResult(4, 44 / 16 + 40 / 16, 1, (("short.mp4", 1),), (("broken.mp4", reason),))
        assert sorted(path.name for path in folder.glob("*pieces*")) == ["pieces.jsonl"]
        first, second, _, plain = read_source(manifest)
        ends = [_first_and_last(clip, seconds) for clip, seconds in ((first, 1.5), (second, 1.25), (plain, 2.5))]
    finally:
        manifest.unlink()
    pictures = [scene(24, 1)[[0, -1]], scene(20, 2)[[0, -1]], scene(40, 3)[[0, -1]]]
    for read, drawn in zip(ends, pictures, strict=True):
        assert np.abs(read.astype(int) - drawn).mean() < 8


def _first_and_last(clip: Clip, seconds: float) -> np.ndarray:
    count = usable_frames(seconds, RATE)
    assert count == round(seconds * RATE)
    return read_window(clip, start=0.0, num_frames=count, fps=RATE)[[0, -1]]


@needs_scenedetect
def test_times_are_those_of_the_file(tmp_path: Path) -> None:
    """Frames of uneven length: a cut is where its frame is shown, not where its number would be."""
    times = [(i if i < 20 else 2 * i - 20) / RATE for i in range(40)]
    write(tmp_path / "uneven.mp4", scene(26, 1), scene(14, 2), times=times)
    split(read_source(tmp_path), tmp_path / "pieces.jsonl")
    time = times[26]
    assert rows_of(tmp_path / "pieces.jsonl") == [
        {"video": "uneven.mp4", "end": time},
        {"video": "uneven.mp4", "start": time},
    ]


@needs_scenedetect
def test_lengths_are_kept_within_bounds(folder: Path, tmp_path: Path) -> None:
    source = Source((Clip("film", Media(folder / "film.mp4"), "a film"),))
    manifest = folder / "parts.jsonl"
    try:
        result = split(source, manifest, min_seconds=0.4, max_seconds=1.3)
        assert [(row.get("start"), row.get("end")) for row in rows_of(manifest)] == [
            (None, 0.75),
            (0.75, 1.5),
            (1.5, None),
        ]
        assert (result.cuts, result.too_short) == (1, ())
        manifest.unlink()
        result = split(source, manifest, min_seconds=1.3)
        assert [(row.get("start"), row.get("end")) for row in rows_of(manifest)] == [(None, 1.5)]
        assert result.too_short == (("film", 1),)
        manifest.unlink()
        # A threshold that nothing reaches.
        assert split(source, manifest, threshold=1000.0).cuts == 0
    finally:
        manifest.unlink()


@needs_scenedetect
def test_a_stretch_of_a_file_is_split_inside(folder: Path) -> None:
    media, manifest = Media(folder / "film.mp4"), folder / "inside.jsonl"
    clips = (
        Clip("stretch", media, "a", start=0.5, end=2.5),
        Clip("faster", media, "b", fps=32.0),
        Clip("late", media, "c", start=7.0),
    )
    try:
        result = split(Source(clips), manifest, min_seconds=0.5)
        assert rows_of(manifest) == [
            {"video": "film.mp4", "caption": "a", "start": 0.5, "end": 1.5},
            {"video": "film.mp4", "caption": "a", "start": 1.5, "end": 2.5},
            {"video": "film.mp4", "caption": "b", "end": 0.75, "fps": 32.0},
            {"video": "film.mp4", "caption": "b", "start": 0.75, "fps": 32.0},
        ]
        assert result.broken == (("late", "it starts at 7 s, and the file ends at 2.75 s"),)
    finally:
        manifest.unlink()


@needs_scenedetect
def test_an_interrupted_split_goes_on(tmp_path: Path, asked: list[str]) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.mp4", scene(20, i))
    source, manifest = read_source(tmp_path), tmp_path / "pieces.jsonl"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        split(source, manifest, report=stop)
    partial = tmp_path / "pieces.jsonl.partial"
    assert not manifest.exists()
    with partial.open("ab") as file:
        file.write(b'{"key": ')
    asked.clear()
    assert split(source, manifest).pieces == 3
    assert asked == ["2.mp4"]
    assert not partial.exists()
    asked.clear()
    split(source, tmp_path / "others.jsonl")
    assert asked == ["0.mp4", "1.mp4", "2.mp4"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0.0}, "threshold is 0"),
        ({"min_seconds": -1.0}, "min_seconds is -1"),
        ({"max_seconds": 1.5}, "at least twice min_seconds, 2"),
        ({"max_seconds": float("nan")}, "max_seconds is nan"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"reader": "vlc"}, "reader is 'vlc'"),
    ],
)
def test_bad_numbers_are_told_before_anything_is_written(options: dict[str, Any], words: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=words):
        split(read_source(folder), folder / "pieces.jsonl", **options)
    assert list(folder.glob("*pieces*")) == []


def test_what_a_manifest_cannot_name_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_at_cuts, "_missing", list)
    source = read_source(folder)
    with pytest.raises(ValueError, match=r"write it to .*pieces\.jsonl' or above"):
        split(source, tmp_path / "pieces.jsonl")
    with pytest.raises(ValueError, match=r"must be a \.jsonl file"):
        split(source, folder / "pieces.csv")
    with pytest.raises(ValueError, match="in a folder that is there"):
        split(source, folder / "nowhere" / "pieces.jsonl")
    with pytest.raises(ValueError, match="inside a tar"):
        split(Source((Clip("a", Media(folder / "x.tar", 512, 100)),)), folder / "pieces.jsonl")
    there = tmp_path / "there.jsonl"
    there.write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        split(source, there)
    assert there.read_text() == "mine"


def test_missing_libraries_are_named_with_their_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "scenedetect" else real(name, *rest)
    )
    with pytest.raises(ValueError, match=r'needs scenedetect.*: pip install "videodit\[data\]"'):
        split(read_source(folder), folder / "pieces.jsonl")


@needs_scenedetect
def test_no_piece_at_all_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "short.mp4", scene(4, 1))
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match="1 of 2 clips cannot be read"):
        split(read_source(tmp_path), tmp_path / "pieces.jsonl")
    assert not (tmp_path / "pieces.jsonl").exists()


@needs_scenedetect
def test_the_command_writes_what_a_scan_reads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    manifest = folder / "all.jsonl"
    try:
        assert main(["data", "split", str(folder), "-o", str(manifest)]) == 0
        out = capsys.readouterr().out
        assert f"{manifest}: 4 pieces of 5 clips, 5.2 s; 1 cut\n" in out
        assert "    broken.mp4" in out
        assert "1 piece shorter than 1 s: 1\n    short.mp4" in out
        assert out.splitlines()[-1] == f"next: videodit data scan {manifest}"
        assert main(["data", "split", str(folder), "-o", str(manifest)]) == 2
        assert "is there already" in capsys.readouterr().err
        assert main(["data", "scan", str(manifest), "--frames", "17"]) == 0
        assert "film.mp4" not in capsys.readouterr().out
    finally:
        manifest.unlink(missing_ok=True)
