"""`videodit toybox`: what lies in the folder is what the world shows, however often the run was stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videodit.cli.main import main
from videodit.datasets.toybox import (
    Rendering,
    Scene,
    ToyboxDataset,
    ToyObject,
    canonical_caption,
    caption,
    export,
    render,
    sample_scene,
)
from videodit.media import read_video

CLIPS, SEED = 4, 3
FORM = {"height": 32, "width": 48, "num_frames": 5, "fps": 12}
FLAGS = ["--size", "48x32", "--frames", "5", "--fps", "12", "--split", "test", "--seed", str(SEED)]


def run(out: Path | str, *flags: str, clips: int = CLIPS) -> int:
    return main(["toybox", "--out", str(out), "--clips", str(clips), *FLAGS, *flags])


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that one run has written."""
    out = tmp_path_factory.mktemp("toybox") / "data" / "set"
    assert run(out) == 0
    return out


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.fixture(scope="module")
def rendered() -> list[Rendering]:
    """Each clip by itself, straight from the world."""
    data = ToyboxDataset(CLIPS, split="test", seed=SEED)
    return [render([data.scene(i)], ground_truth=True, **FORM) for i in range(CLIPS)]


# ---- what is written


def test_folder_holds_the_clips_and_nothing_else(made: Path) -> None:
    names = {f"clips/{i:06d}.mp4" for i in range(CLIPS)} | {f"truth/{i:06d}.npz" for i in range(CLIPS)}
    assert set(contents(made)) == names | {"toybox.json", "manifest.jsonl"}


def test_manifest_says_what_each_clip_is(made: Path) -> None:
    data = ToyboxDataset(CLIPS, split="test", seed=SEED)
    lines = lines_of(made)
    assert len(lines) == CLIPS
    for i, line in enumerate(lines):
        scene = line.pop("scene")
        objects = tuple(ToyObject(**fields) for fields in scene.pop("objects"))
        read = Scene(objects=objects, **scene)
        assert read == data.scene(i) == sample_scene(line["seed"], split="test")
        assert line == {
            "video": f"clips/{i:06d}.mp4",
            "truth": f"truth/{i:06d}.npz",
            "caption": caption(read, seed=line["seed"]),
            "canonical_caption": canonical_caption(read),
            "seed": data.clip_seed(i),
            "split": "test",
            "frames": 5,
            "fps": 12,
            "width": 48,
            "height": 32,
        }


def test_videos_show_what_the_world_shows(made: Path, rendered: list[Rendering]) -> None:
    for line, clip in zip(lines_of(made), rendered, strict=True):
        video = read_video(made / line["video"])
        assert video.fps == 12
        expected = clip.video[0].permute(1, 2, 3, 0).numpy()
        assert video.frames.shape == expected.shape == (5, 32, 48, 3)
        # H.264 blurs the ground's texture, which at this size is coarse; another clip is far off.
        assert np.abs(video.frames.astype(int) - expected).mean() < 8
        others = [other.video[0].permute(1, 2, 3, 0).numpy() for other in rendered if other is not clip]
        assert min(np.abs(video.frames.astype(int) - other).mean() for other in others) > 16


def test_truth_equals_the_worlds(made: Path, rendered: list[Rendering]) -> None:
    for line, clip in zip(lines_of(made), rendered, strict=True):
        with np.load(made / line["truth"], allow_pickle=False) as truth:
            assert sorted(truth) == sorted(export.TRUTH)
            for name in export.TRUTH:
                expected = getattr(clip, name)[0].numpy()
                assert truth[name].dtype == expected.dtype
                np.testing.assert_array_equal(truth[name], expected)
            assert len(truth["boxes"]) == len(truth["tracks"]) == len(line["scene"]["objects"])
            assert truth["mask"].max() > 0


def test_a_clip_depends_on_its_own_number_alone(copied: Path, made: Path) -> None:
    whole = contents(made)
    for name in ("clips/000002.mp4", "truth/000002.npz"):
        (copied / name).unlink()
    assert run(copied) == 0
    assert contents(copied) == whole
    fewer = copied.parent / "fewer"
    assert run(fewer, clips=2) == 0
    for name, content in contents(fewer).items():
        if name.startswith(("clips", "truth")):
            assert content == whole[name]
    assert (made / "manifest.jsonl").read_bytes().startswith((fewer / "manifest.jsonl").read_bytes())
    assert run(fewer) == 0  # and more can follow later
    assert contents(fewer) == whole


def test_command_says_what_it_wrote(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "clips" / "000001.mp4").unlink()
    assert run(copied) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{copied}: 4 clips of 48x32, 5 frames at 12 fps, split test, seed 3; 1 written in ")
    assert said.endswith(" s, 3 were there\n")


def test_defaults_are_the_dataset_s_own(tmp_path: Path) -> None:
    assert main(["toybox", "--out", str(tmp_path), "--clips", "1"]) == 0
    (line,) = lines_of(tmp_path)
    item = ToyboxDataset(1)[0]
    assert (line["caption"], line["seed"], line["split"]) == (item["caption"], item["seed"], "train")
    assert (line["frames"], line["fps"], line["height"], line["width"]) == (17, 16, 64, 64)
    frames = torch.from_numpy(read_video(tmp_path / line["video"]).frames).permute(3, 0, 1, 2)
    assert (frames / 127.5 - 1 - item["video"]).abs().mean() < 0.04


# ---- stopped and started again


def test_run_that_is_killed_goes_on(tmp_path: Path, made: Path) -> None:
    """The process dies as it writes the third clip's truth: no handler runs and nothing is flushed."""
    code = (
        "import os, sys, numpy\n"
        "from videodit.cli.main import main\n"
        "save, calls = numpy.savez_compressed, []\n"
        "def dying(file, **arrays):\n"
        "    calls.append(file)\n"
        "    if len(calls) == 3:\n"
        "        file.write(b'half'); file.flush(); os._exit(9)\n"
        "    save(file, **arrays)\n"
        "numpy.savez_compressed = dying\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, "toybox", "--out", str(tmp_path), "--clips", str(CLIPS), *FLAGS]
    assert subprocess.run(command, check=False).returncode == 9
    assert len(lines_of(tmp_path)) == 2
    assert [path.name[:10] for path in (tmp_path / "truth").glob(".*.part")] == [".videodit-"]
    assert run(tmp_path) == 0
    assert contents(tmp_path) == contents(made)


@pytest.mark.parametrize("lost", [1, 30, 10_000])
def test_half_written_last_line_is_written_again(copied: Path, made: Path, lost: int) -> None:
    manifest = copied / "manifest.jsonl"
    content = manifest.read_bytes()
    manifest.write_bytes(content[: max(40, len(content) - lost)])
    assert run(copied) == 0
    assert contents(copied) == contents(made)


def test_interrupted_run_leaves_nothing_half_done(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(file: Any, **arrays: np.ndarray) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", interrupt)
        assert run(tmp_path) == 130
    assert lines_of(tmp_path) == []
    assert [path.name for path in tmp_path.rglob("*.part")] == []
    assert run(tmp_path) == 0
    assert contents(tmp_path) == contents(made)


# ---- what is refused


def refused(capsys: pytest.CaptureFixture[str], out: Path | str, *flags: str, clips: int = CLIPS) -> str:
    """Run a command that has to be refused before it writes; return its one line on stderr."""
    root = Path(out).parent
    before = contents(root), sorted(root.rglob("*"))
    assert run(out, *flags, clips=clips) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert (contents(root), sorted(root.rglob("*"))) == before
    return line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--clips", "0"], ["--clips is 0", "at least 1"]),
        (["--size", "63x32"], ["63x32", "even"]),
        (["--size", "32x63"], ["32x63", "even"]),
        (["--size", "14x32"], ["14x32", "16 to 16384"]),
        (["--size", "32x14"], ["32x14", "16 to 16384"]),
        (["--size", "32x16386"], ["32x16386", "16 to 16384"]),
        (["--size", "big"], ["'big'", "WIDTHxHEIGHT"]),
        (["--frames", "0"], ["--frames is 0", "at least 1"]),
        (["--frames", "many"], ["many"]),
        (["--fps", "0"], ["fps is 0.0", "0.0001 to 1000"]),
        (["--fps", "nan"], ["fps is nan"]),
        (["--split", "dev"], ["'dev'", "train, validation, test, all"]),
        (["--seed", "-1"], ["seed is -1", "0 to"]),
    ],
)
def test_bad_values_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: list[str]
) -> None:
    line = refused(capsys, tmp_path / "new", *flags)
    assert all(word in line for word in words), line


def test_folder_that_is_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file' is a file" in refused(capsys, tmp_path / "file")
    assert "file' is a file" in refused(capsys, tmp_path / "file" / "below")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clips", "truth", "manifest.jsonl"])
def test_what_is_not_ours_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / name).mkdir()
    assert f"its {name!r} is of something else" in refused(capsys, tmp_path)


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--clips", "3"], "clips 4 instead of 3"),
        (["--size", "32x32"], "width 48 instead of 32"),
        (["--size", "48x48"], "height 32 instead of 48"),
        (["--frames", "9"], "frames 5 instead of 9"),
        (["--fps", "12.5"], "fps 12 instead of 12.5"),
        (["--split", "all"], "split 'test' instead of 'all'"),
        (["--seed", "4"], "seed 3 instead of 4"),
    ],
)
def test_other_arguments_are_refused_by_name(
    copied: Path, capsys: pytest.CaptureFixture[str], flags: list[str], difference: str
) -> None:
    line = refused(capsys, copied, *flags)
    assert line.endswith(f"it was begun with {difference}")


def test_another_versions_folder_is_refused(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videodit.__version__", "9.9")
    assert "videodit '" in refused(capsys, copied)


def test_damaged_files_are_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = copied / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    for wrong in ([lines[1], lines[0]], [*lines, lines[0]], ["{}\n"]):
        manifest.write_text("".join(wrong))
        assert "'manifest.jsonl' is of another clip" in refused(capsys, copied)
    for content in ("{", "7"):
        (copied / "toybox.json").write_text(content)
        assert "'toybox.json' is damaged" in refused(capsys, copied)


def test_read_only_folder_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as for a user who may not write there
    assert f"{str(tmp_path)!r} is not writable" in refused(capsys, tmp_path / "new")
