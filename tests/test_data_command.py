"""`videodit data encode` and `videodit data verify`: from a folder of clips to a cache, and what goes wrong there."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clips_made import make_clip, numbered_frames
from PIL import Image

from videodit.cli.main import main
from videodit.datasets.clips.latents import latent_shards
from videodit.datasets.clips.latents.latent_cache import LatentCache

SMALL = ["--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips and a picture with captions, one clip without, and a file that is no clip."""
    folder = tmp_path_factory.mktemp("source")
    forms = {"square": (40, 40, 16), "wide": (48, 80, 30), "tall": (80, 48, 24), "silent": (32, 32, 16)}
    for seed, (name, (height, width, fps)) in enumerate(forms.items()):
        make_clip(folder / f"{name}.mp4", fps=fps, frames=numbered_frames(36, height, width, seed=seed))
        if name != "silent":
            (folder / f"{name}.txt").write_text(f"a red ball bounces on the {'grass' if seed else 'left'}")
    Image.fromarray(numbered_frames(1, 60, 60, seed=9)[0]).save(folder / "picture.png")
    (folder / "picture.txt").write_text("two rings at night")
    (folder / "broken.mp4").write_bytes(b"this is text")
    return folder


@pytest.fixture
def source(clips: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clips, tmp_path / "clips"))


def encode(source: Path, model: object, out: Path, *words: str) -> int:
    return main(["data", "encode", str(source), "-m", str(model), "-o", str(out), *SMALL, *words])


def test_a_folder_becomes_a_cache_that_is_whole(
    source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"
    assert encode(source, tiny_model, out) == 0
    printed = capsys.readouterr()
    assert "6 clips: 4 used, 1 left out, 1 unreadable" in printed.out
    assert f"{out}: 5 samples, 5 encoded now; 4 captions encoded now" in printed.out
    assert f"next: videodit train CONFIG data.cache={out} output=out" in printed.out
    made = LatentCache(out)
    # tiny makes 32x32 of 17 frames: five times four tokens, and a picture is no larger
    assert {sample.clip.partition(".")[0]: sample.bucket for sample in made.samples} == {
        "square": (17, 32, 32), "wide": (17, 32, 32), "tall": (17, 32, 32), "picture": (1, 32, 32),
    }  # fmt: skip
    assert (made.info.model, made.info.dtype, made.info.fps) == ("tiny", "float32", 16.0)

    assert main(["data", "verify", str(out)]) == 0
    assert f"{out}: 5 samples in 2 files are whole\n" in capsys.readouterr().out
    again = ["data", "verify", str(out), str(source), "--encode", "3", "-m", str(tiny_model), "--device", "cpu"]
    assert main(again) == 0
    printed = capsys.readouterr()
    assert "3 samples encoded again: off by at most 0 of the largest latent; 0.001 is tolerated" in printed.out
    assert "whole, and what it was made of is as it was" in printed.out
    assert "clips of the source without a sample of their own: 2" in printed.err


def test_a_second_run_encodes_what_is_new_and_says_what_is_left_over(
    source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"
    assert encode(source, tiny_model, out) == 0
    make_clip(source / "new.mp4", fps=16, frames=numbered_frames(17, 32, 32, seed=20))
    (source / "new.txt").write_text("a tiny cube")
    (source / "picture.png").unlink()
    capsys.readouterr()
    assert encode(source, tiny_model, out) == 0
    printed = capsys.readouterr()
    assert "5 samples, 1 encoded now; 1 caption encoded now" in printed.out
    assert "entries of the cache that belong to no clip of this source and are kept; see --prune: 2" in printed.err
    assert encode(source, tiny_model, out, "--drop", "none", "--prune") == 0
    printed = capsys.readouterr()
    assert "7 samples, 2 encoded now; 0 captions encoded now" in printed.out
    assert "belong to no clip of this source and share their files with others, so they stay: 2" in printed.err
    assert "samples without a caption, which get the empty prompt: 2" in printed.err


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(source, tiny_model, tmp_path / "cache", "--dry-run", "--frames", "1,5", "--windows", "first") == 0
    assert "6 clips: 4 used" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_mini_gets_the_three_sizes_that_it_was_trained_on(source: Path, tmp_path: Path) -> None:
    for name, (height, width) in {"square": (160, 160), "wide": (108, 180), "tall": (180, 108)}.items():
        make_clip(source / f"{name}.mp4", fps=16, frames=numbered_frames(17, height, width, seed=height))
    assert encode(source, "mini", tmp_path / "cache") == 0
    made = LatentCache(tmp_path / "cache")
    assert {sample.clip.partition(".")[0]: sample.bucket for sample in made.samples} == {
        "square": (17, 128, 128), "wide": (17, 96, 160), "tall": (17, 160, 96), "picture": (1, 48, 48),
    }  # fmt: skip
    mean, std = made.latents(made.samples[0].key)
    assert 0.1 < float(mean.std()) < 3
    assert float(std.max()) < 1


def test_faults_are_listed_with_exit_code_2(
    source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"
    assert encode(source, tiny_model, out) == 0
    (shard,) = (out / "shards").glob("latents-*")
    content = bytearray(shard.read_bytes())
    content[-9] ^= 64
    shard.write_bytes(content)
    (source / "wide.txt").write_text("a blue cone")
    capsys.readouterr()
    assert main(["data", "verify", str(out), str(source)]) == 2
    printed = capsys.readouterr().out
    assert f"{out}: 2 faults\n  {shard.name}: " in printed
    assert "its bytes are not those that were written; remove it and encode again" in printed
    assert "the source has another caption by now; encode again" in printed
    shard.write_bytes(content[:-1])
    assert main(["data", "verify", str(out)]) == 2
    assert "damaged shards" in capsys.readouterr().err
    assert encode(source, tiny_model, out) == 0
    assert main(["data", "verify", str(out), str(source)]) == 0


@pytest.mark.parametrize(
    ("words", "target", "line"),
    [
        (["scan", "."], "scanning.scan_clips.scan", "stopped: what was read is kept, and the same command goes on"),
        (
            ["split", ".", "-o", "pieces.jsonl"],
            "scanning.split_at_cuts.split",
            "stopped: the clips that were looked through are kept, and the same command goes on",
        ),
        (
            ["verify", "cache"],
            "latents.latent_cache.LatentCache",
            "stopped: nothing was changed; the check begins anew",
        ),
        (
            ["encode", ".", "-m", "mini", "-o", "cache"],
            "scanning.scan_clips.scan",
            "stopped: what was read is kept, and the same command goes on",
        ),
    ],
)
def test_ctrl_c_says_what_is_kept(
    words: list[str], target: str, line: str, source: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(source)
    monkeypatch.setattr(f"videodit.datasets.clips.{target}", interrupt)
    assert main(["data", *words]) == 130
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(line)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "16"], "frames must be 4k+1 for this model, got 16; the nearest are 13 and 17"),
        (
            ["--max-tokens", "2"],
            "--max-tokens is 2; it must be at least 5, which 17 frames of the smallest size, 16x16, take",
        ),
        (["--reader", "vlc"], "--reader is 'vlc'; it must be pyav or decord"),
        (["--workers", "0"], "--workers is 0; it must be at least 1"),
        (["--drop", "ugly"], "--drop names 'ugly'"),
        (["--frames", "81", "--max-tokens", "999"], "can be used: 1 of 6 clips cannot be read, and 5 are left out"),
    ],
)
def test_what_is_not_legal_is_refused(
    words: list[str], message: str, source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(source, tiny_model, tmp_path / "cache", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache" / "samples.jsonl").exists()


def test_a_place_that_cannot_be_written_and_another_model_are_refused(
    source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert encode(source, tiny_model, tmp_path / "file" / "cache") == 2
    assert "is a file" in capsys.readouterr().err
    out = tmp_path / "cache"
    assert encode(source, tiny_model, out) == 0
    assert encode(source, tiny_model, out, "--fps", "8", "--frames", "1,9") == 2
    assert "fps 8.0 instead of 16.0; give another folder, or restart this one (--restart)" in capsys.readouterr().err
    assert LatentCache(out).info.fps == 16
    assert encode(source, tiny_model, out, "--fps", "8", "--frames", "1,9", "--restart") == 0
    assert LatentCache(out).info.fps == 8
    assert main(["data", "verify", str(out), "--encode", "2"]) == 2
    assert "--encode needs the source" in capsys.readouterr().err
    assert main(["data", "verify", str(out), str(source), "--encode", "1"]) == 2
    assert "say with -m where the model is" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_goes_on_to_the_same_cache(
    kind: signal.Signals, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "clips"
    source.mkdir()
    for index in range(20):
        make_clip(source / f"{index}.mp4", fps=16, frames=numbered_frames(17, 32, 32, seed=index))
        (source / f"{index}.txt").write_text("a red ball")
    # Small shards, and time for the signal, so that some are there and some are not when it comes.
    code = (
        "import sys, time; from videodit.datasets.clips.latents import latent_shards as made; "
        "made.MAX_SHARD_ENTRIES = 3; whole = made.write_whole; "
        "made.write_whole = lambda *file: (time.sleep(1), whole(*file)); "
        "from videodit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["data", "encode", str(source), "-m", str(tiny_model), "-o", str(tmp_path / "killed"), *SMALL]
    command = [sys.executable, "-c", code, *words, "--drop", "none"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "killed" / "shards").glob("latents-*"))) < 2 and running.poll() is None:
        time.sleep(0.005)
    running.send_signal(kind)
    assert running.wait(300) != 0
    assert len(list((tmp_path / "killed" / "shards").glob("latents-*"))) < 7
    monkeypatch.setattr(latent_shards, "MAX_SHARD_ENTRIES", 3)
    files = []
    for out in (tmp_path / "killed", tmp_path / "whole"):
        assert encode(source, tiny_model, out, "--drop", "none") == 0
        files.append({p.name: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "scan.jsonl"})
    assert files[0] == files[1]
    assert len(files[0]) == 3 + 1 + 7


def test_limits_hold_in_the_processes_that_read_clips(
    source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "encode", str(source), "-m", str(tiny_model), "-o", str(tmp_path / "cache"), *SMALL]
    assert main(["--limit", "clip_pixels=2000", *command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "6 clips: 2 used, 1 left out, 3 unreadable" in printed
    assert "its picture is 80x48; the limit clip_pixels is 2,000: raise it with --limit clip_pixels=NUMBER" in printed
    assert main(["--limit", "file_bytes=10", "data", "scan", str(source), "-m", str(tiny_model)]) == 2
    assert "the limit file_bytes is 10" in capsys.readouterr().out
    assert main([*command, "--dry-run"]) == 0  # what was found under other limits is not believed
    assert "6 clips: 4 used, 1 left out, 1 unreadable" in capsys.readouterr().out
