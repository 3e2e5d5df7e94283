"""Scanning clips: what is said of broken files, of still, black and barred ones, and of near-duplicates."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest
from clips_panned import moving, source_of, write

from videodit.cli import data_options
from videodit.cli.main import main
from videodit.datasets.clips.reading.records import Clip, Media, Source
from videodit.datasets.clips.reading.sources import read_source
from videodit.datasets.clips.scanning import worker_pool
from videodit.datasets.clips.scanning.scan_clips import ScannedClip, scan
from videodit.limits import current_limits

# What a test's workers do in place of reading a file whose name says so. Without core dumps.
_ODD_WORKER = """
import sys; sys.path[:] = sys.argv[1:]
import importlib.util, os, resource, signal, time
from videodit.datasets.clips.scanning import worker
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
real, harmed = worker.extract_features, []
def extract_features(media, request, beat):
    name = media.path.name
    if "hang" in name:
        (media.path.parent / "hanging").write_text(str(os.getpid()))
        time.sleep(600)
    if "crash" in name or harmed:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "greedy" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "harm" in name:
        harmed.append(name)
    if "loud" in name:
        os.write(1, b"what a library prints")
    if "bug" in name:
        raise RuntimeError("something unforeseen")
    if "where" in name:
        raise worker.UnusableClip(importlib.util.find_spec("datasets").origin)
    return real(media, request, beat)
worker.extract_features = extract_features
worker.main()
"""
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def by_name(found: Sequence[ScannedClip]) -> dict[str, ScannedClip]:
    return {item.clip.name: item for item in found}


@pytest.fixture
def odd_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "WORKER_CODE", _ODD_WORKER)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


# --- a folder with everything wrong --------------------------------------------------------------


def index_first(source: Path, target: Path) -> Path:
    """Copy packets into an MP4 whose index comes first."""
    options = {"movflags": "faststart"}
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "broken"
    folder.mkdir()
    good = write(folder / "good.mp4", moving(33)).read_bytes()
    (folder / "good.txt").write_text("a good clip")
    (folder / "index-last.mp4").write_bytes(good[: len(good) // 2])
    first = index_first(folder / "good.mp4", folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(first[: len(first) // 2])
    for kind in ("mkv", "avi"):
        whole = write(folder / f"cut.{kind}", moving(33)).read_bytes()
        (folder / f"cut.{kind}").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").touch()
    (folder / "renamed.mp4").write_text("this is a text\n" * 20)
    write(folder / "one.mp4", moving(1, seed=1))
    (folder / "one.txt").write_text("one frame")
    write(folder / "4k.mp4", moving(2, 2160, 3840, seed=2))
    (folder / "4k.txt").write_text("a large clip")
    write(folder / "silent.mp4", moving(17, seed=3))
    return folder


def test_a_broken_folder_costs_its_broken_files_alone(broken: Path) -> None:
    found = by_name(scan(read_source(broken)))
    assert {name: item.reason for name, item in found.items() if item.reason is not None} == {
        "cut.avi": "the file is cut short",
        "cut.mkv": "the file is cut short",
        "cut.mp4": "the file is cut short",
        "empty.mp4": "zero bytes",
        "index-last.mp4": "the file is cut short",
        "renamed.mp4": "it is neither a video nor an image of a kind that is read here",
    }
    assert {name: item.flags for name, item in found.items() if item.reason is None} == {
        "4k.mp4": (),
        "good.mp4": (),
        "one.mp4": (),
        "silent.mp4": ("no caption",),
    }
    large, one, good = (found[name] for name in ("4k.mp4", "one.mp4", "good.mp4"))
    assert large.info is not None
    assert (large.info.width, large.info.height, large.info.num_frames) == (3840, 2160, 2)
    assert one.info is not None
    assert (one.info.num_frames, one.info.is_image) == (1, False)
    assert good.content == Media(broken / "good.mp4").content_hash()
    assert good.phash is not None
    assert len(good.phash) == 5 * 16


def test_the_report_tells_what_is_kept_and_what_is_not(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "scan", str(broken), "-m", "mini", "--report", str(tmp_path / "report.jsonl")]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "10 clips: 3 used, 1 left out, 6 unreadable"
    assert lines[1] == "buckets"
    # The large clip and the one of one frame have shapes of their own.
    assert sorted(line.split("  ")[-1].strip() for line in lines[2:5]) == [
        "1 clip, 1 window, 0.1 s",
        "1 clip, 1 window, 0.1 s",
        "1 clip, 1 window, 1.1 s",
    ]
    at = lines.index("unreadable")
    assert lines[at + 1 : at + 5] == ["  the file is cut short: 4", "    cut.avi", "    cut.mkv", "    cut.mp4"]
    assert "  zero bytes: 1" in lines
    at = lines.index("left out")
    assert lines[at + 1 : at + 3] == ["  no caption: 1", "    silent.mp4"]
    assert "next: videodit data encode" in lines[-1]
    assert "16 fps, 1 or 17 frames" in err
    assert "the defaults of mini" in err
    rows = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == sorted(path.name for path in broken.iterdir() if path.suffix != ".txt")
    row = rows[[row["name"] for row in rows].index("good.mp4")]
    assert (row["caption"], row["reason"], row["info"]["num_frames"]) == ("a good clip", None, 33)
    assert [window["frames"] for window in row["windows"]] == [17]


def test_what_is_left_out_can_be_chosen(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "scan", str(broken), "--drop", "none", "--frames", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("10 clips: 4 used, 0 left out, 6 unreadable")
    assert "used, but look at them\n  no caption: 1\n    silent.mp4" in out


def test_long_lists_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(13):
        (tmp_path / f"{number:02d}.mp4").touch()
    write(tmp_path / "good.mp4", moving(2))
    assert main(["data", "scan", str(tmp_path), "--drop", "none"]) == 0
    out = capsys.readouterr().out
    assert "zero bytes: 13\n    00.mp4" in out
    assert "    09.mp4\n    and 3 more, see --report" in out
    assert "10.mp4" not in out


@pytest.mark.parametrize("flag", ["--cache", "--report"])
@pytest.mark.parametrize("name", ["list.jsonl", "other.jsonl", "a.mp4"])
def test_no_file_of_something_else_is_written_to(
    flag: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.mp4", moving(2))
    (tmp_path / "list.jsonl").write_text('{"video": "a.mp4", "caption": "x"}\n')
    (tmp_path / "other.jsonl").write_text("[1]\n")
    before = (tmp_path / name).read_bytes()
    assert main(["data", "scan", str(tmp_path / "list.jsonl"), flag, str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before


def test_a_report_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", moving(2))
    (tmp_path / "a.txt").write_text("x")
    for _ in range(2):
        assert main(["data", "scan", str(tmp_path), "--report", str(tmp_path / "report.jsonl")]) == 0


def test_a_home_that_cannot_be_written_to_costs_the_memory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.mp4", moving(2))
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a.txt"))
    assert main(["data", "scan", str(tmp_path)]) == 0
    assert "note: results cannot be kept for the next scan: " in capsys.readouterr().err


def test_nothing_usable_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").touch()
    write(tmp_path / "b.mp4", moving(2))
    assert main(["data", "scan", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "zero bytes: 1" in out
    assert "1 of 2 clips cannot be read, and 1 are left out" in err
    assert "write what a clip shows" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--drop", "static,foo"], "--drop names 'foo'"),
        (["--frames", "1,x"], "--frames is '1,x'"),
        (["--frames", "8"], "the nearest are 5 and 9"),
        (["--reader", "vlc"], "--reader is 'vlc'"),
        (["--windows", "some"], "--windows is 'some'"),
        (["--timeout", "0"], "timeout is 0"),
        (["--workers", "0"], "workers is 0"),
        (["--report", "nowhere/report.jsonl"], "--report is 'nowhere/report.jsonl'"),
        (["-m", "minni"], "did you mean 'mini'"),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    (tmp_path / "a.mp4").touch()
    assert main(["data", "scan", str(tmp_path), *flags]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert asked == []


def test_options_default_to_the_model(tiny_model: Path) -> None:
    wanted, notices = data_options.sample_spec_for(str(tiny_model))
    assert (wanted.fps, wanted.frames, wanted.max_buckets, wanted.windows) == (16.0, (1, 17), 8, "all")
    assert wanted.max_tokens == wanted.geometry.num_tokens(17, 32, 32)
    assert len(notices) == 1
    said = data_options.sample_spec_for(str(tiny_model), fps=8.0, frames=(5,), max_tokens=50, windows="first")
    assert (said[0].fps, said[0].frames, said[0].max_tokens, said[0].windows) == (8.0, (5,), 50, "first")
    assert said[1] == []
    assert data_options.parse_frames(" 17, 1,17") == (1, 17)
    assert data_options.parse_drop("static,uncaptioned") == {"static", "no caption"}
    assert data_options.parse_drop("none") == data_options.parse_drop("") == set()


# --- processes that look -------------------------------------------------------------------------


@posix
@pytest.mark.usefixtures("odd_worker")
def test_a_file_that_hangs_or_crashes_costs_itself_alone(tmp_path: Path) -> None:
    names = ["a.mp4", "bug.mp4", "crash.mp4", "d.mp4", "greedy.mp4", "hang.mp4", "harm.mp4", "innocent.mp4", "loud.mp4"]
    clip = write(tmp_path / "a.mp4", moving(3)).read_bytes()
    for name in names:
        (tmp_path / name).write_bytes(clip)
    found = scan(source_of(*(tmp_path / name for name in names)), timeout=8.0)
    assert {item.clip.name: item.reason for item in found if item.reason is not None} == {
        "bug.mp4": "crashed the decoder (RuntimeError: something unforeseen)",
        "crash.mp4": "crashed the decoder (SIGSEGV)",
        "greedy.mp4": "was killed while it was read, perhaps for lack of memory",
        "hang.mp4": "timed out after 8 s",
    }
    assert [item.clip.name for item in found] == names


def test_the_names_in_a_ledger_stay(tmp_path: Path) -> None:
    """Results of earlier releases are believed only as long as the keys and the fields are called the same."""
    clip, cache = write(tmp_path / "a.mp4", moving(3)), tmp_path / "scan.jsonl"
    scan(source_of(clip), cache=cache)
    (line,) = map(json.loads, cache.read_text().splitlines())
    *file, start, end, fps, settings = json.loads(line["key"])
    assert file == [str(clip), 0, clip.stat().st_size, clip.stat().st_mtime_ns]
    assert (start, end, fps) == (0.0, None, None)
    assert settings == {"task": "look", "version": 3, "reader": "pyav", "bounds": asdict(current_limits())}
    features = ["flags", "bars", "hashes", "thumbs", "seconds", "parts"]
    assert list(line["answer"]) == ["content", "info", "notices", *features]


@pytest.mark.usefixtures("odd_worker")
def test_children_import_from_where_the_parent_does(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "where.mp4", moving(2))
    monkeypatch.chdir(root)  # whose folder `datasets/` would hide Hugging Face's
    (found,) = scan(source_of(tmp_path / "where.mp4"))
    assert found.reason is not None
    assert not Path(found.reason).is_relative_to(root)


def test_several_workers_keep_the_order(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.mp4", moving(2 + i, seed=i)) for i in range(5)]
    seen: list[tuple[int, int]] = []
    found = scan(source_of(*paths), workers=2, report=lambda done, total: seen.append((done, total)))
    assert [item.info.num_frames for item in found if item.info] == [2, 3, 4, 5, 6]
    assert seen[0] == (0, 5)
    assert seen[-1] == (5, 5)


def test_a_child_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "WORKER_CODE", "raise SystemExit('no such library')")
    with pytest.raises(ChildProcessError, match="no such library"):
        scan(source_of(write(tmp_path / "a.mp4", moving(2))))


@posix
def test_a_pipe_is_no_clip_and_a_missing_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    found = scan(source_of(tmp_path / "pipe.mp4", tmp_path / "gone.mp4"))
    assert [item.reason for item in found] == ["not a file", "cannot be read: No such file or directory"]


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_scan_leaves_nothing_running(kind: signal.Signals, tmp_path: Path) -> None:
    write(tmp_path / "hang.mp4", moving(2))
    program = (
        "from videodit.datasets.clips.scanning import worker_pool\n"
        "from videodit.datasets.clips.scanning.scan_clips import scan\n"
        "from videodit.datasets.clips.reading.sources import read_source\n"
        f"worker_pool.WORKER_CODE = {_ODD_WORKER!r}\n"
        f"scan(read_source({str(tmp_path)!r}), timeout=500)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )
    mark, limit = tmp_path / "hanging", time.monotonic() + 300
    while not (mark.exists() and mark.read_text()):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    child = int(mark.read_text())
    assert is_running(child)
    process.send_signal(kind)
    _, errors = process.communicate(timeout=300)
    assert (b"KeyboardInterrupt" in errors) == (kind == signal.SIGINT)
    while is_running(child):
        assert time.monotonic() < limit
        time.sleep(0.05)


# --- what is kept --------------------------------------------------------------------------------


def test_a_second_scan_reads_only_what_is_new(tmp_path: Path, asked: list[str]) -> None:
    cache, paths = tmp_path / "scan.jsonl", [write(tmp_path / f"{i}.mp4", moving(3, seed=i)) for i in range(3)]
    (tmp_path / "broken.mp4").touch()
    paths.append(tmp_path / "broken.mp4")
    first = scan(source_of(*paths), cache=cache)
    assert len(asked) == 4
    asked.clear()
    assert scan(source_of(*paths), cache=cache) == first
    assert asked == []
    # Captions and duplicates are no matter of the file.
    assert [item.flags for item in scan(source_of(*paths, caption=None), cache=cache)] == [("no caption",)] * 4
    assert asked == []
    write(tmp_path / "1.mp4", moving(4, seed=9))
    found = scan(source_of(*paths, write(tmp_path / "new.mp4", moving(2, seed=7))), cache=cache)
    assert asked == ["1.mp4", "new.mp4"]
    assert found[1].info is not None
    assert found[1].info.num_frames == 4
    asked.clear()
    scan(source_of(*paths), cache=cache, reader="decord")
    assert len(asked) == 4


def test_members_of_a_tar_are_clips_of_their_own(tmp_path: Path, asked: list[str]) -> None:
    clips = [write(tmp_path / f"{i}.mp4", moving(2 + i, seed=i)) for i in range(2)]
    (tmp_path / "2.mp4").write_bytes(b"no video" * 9)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in (*clips, tmp_path / "2.mp4"):
            tar.add(path, path.name)
    source = read_source(tmp_path / "shard.tar")
    found = scan(source, cache=tmp_path / "scan.jsonl")
    assert [item.info and item.info.num_frames for item in found] == [2, 3, None]
    assert [item.content for item in found[:2]] == [Media(path).content_hash() for path in clips]
    assert found[2].reason is not None
    assert len(asked) == 3
    assert scan(source, cache=tmp_path / "scan.jsonl") == found
    assert len(asked) == 3


def test_an_interrupted_scan_goes_on_after_a_broken_line(tmp_path: Path, asked: list[str]) -> None:
    cache, paths = tmp_path / "scan.jsonl", [write(tmp_path / f"{i}.mp4", moving(3, seed=i)) for i in range(3)]

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(source_of(*paths), cache=cache, report=stop)
    lines = cache.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    cache.write_bytes(lines[0] + b'{"key": "x", "answer": {}}\n' + lines[1][: len(lines[1]) // 2])
    asked.clear()
    found = scan(source_of(*paths), cache=cache)
    assert asked == ["1.mp4", "2.mp4"]
    asked.clear()
    assert scan(source_of(*paths), cache=cache) == found
    assert asked == []


@posix
@pytest.mark.usefixtures("odd_worker")
def test_files_that_were_given_up_are_tried_again_with_more_time(tmp_path: Path, asked: list[str]) -> None:
    cache, clip = tmp_path / "scan.jsonl", tmp_path / "hang.mp4"
    crashed = tmp_path / "crash.mp4"
    for path in (clip, crashed):
        write(path, moving(2))
    assert scan(source_of(clip), cache=cache, timeout=0.5)[0].reason == "timed out after 0.5 s"
    assert scan(source_of(clip), cache=cache, timeout=0.4)[0].reason == "timed out after 0.5 s"
    assert asked == ["hang.mp4"]
    assert scan(source_of(clip), cache=cache, timeout=0.6)[0].reason == "timed out after 0.6 s"
    asked.clear()
    for _ in range(2):  # memory may have been short: a crash is not kept
        scan(source_of(crashed), cache=cache)
    assert asked == ["crash.mp4", "crash.mp4"]


def test_ranges_of_one_file_are_looked_at_in_one_go(tmp_path: Path, asked: list[str]) -> None:
    still, other = np.repeat(moving(2, seed=1)[:1], 16, axis=0), moving(16, seed=2)
    path = write(tmp_path / "a.mp4", np.concatenate([still, other]))
    clips = [
        Clip("still", Media(path), "a", 0.0, 1.0),
        Clip("moves", Media(path), "a", 1.0),
        Clip("late", Media(path), "a", 2.5, 3.0),
        Clip("faster", Media(path), "a", 0.0, None, 32.0),
    ]
    found = scan(Source(tuple(clips)), cache=tmp_path / "scan.jsonl")
    assert len(asked) == 2
    assert [item.flags for item in found] == [("static",), (), (), ()]
    assert found[2].reason == "it starts at 2.5 s, and the file ends at 2.00 s"
    assert found[3].info is not None
    assert found[3].info.duration == 1.0
