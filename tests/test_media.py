"""MP4 in and out: pixels, colour, time, the recipe, and files that are whole or not there."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from videodit import media
from videodit.media import (
    VideoWriter,
    check_writable,
    frame_rate,
    probe,
    read_recipe,
    read_video,
    write_video,
)

RECIPE = {
    "prompt": "a red ball — “bounces”\n日本",
    "seed": 7,
    "guidance": 4.5,
    "versions": {"videodit": "0.1"},
}
BARS = [(255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255)]


def smooth_clip(num_frames: int = 9, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 ``[T, H, W, 3]`` of soft gradients that move, which chroma subsampling hardly hurts."""
    t = np.linspace(0, 1, num_frames)[:, None, None]
    y, x = np.linspace(0, 1, height)[None, :, None], np.linspace(0, 1, width)[None, None, :]
    waves = [np.sin(5 * (x + t)) + 0 * y, np.cos(4 * (y - t)) + 0 * x, np.sin(3 * (x - y + t))]
    return (127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


def color_bars(height: int = 32, bar: int = 16) -> np.ndarray:
    row = np.repeat(np.array(BARS, np.uint8), bar, axis=0)
    return np.broadcast_to(row, (2, height, *row.shape)).copy()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def remux(source: Path, target: Path) -> None:
    """Copy packets and metadata, as ``ffmpeg -c copy`` does."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        new.metadata.update(old.metadata)
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


# --- pixels and time -----------------------------------------------------------------------------


def test_a_round_trip_keeps_every_frame_and_its_look(tmp_path: Path) -> None:
    frames = smooth_clip(17)
    write_video(tmp_path / "clip.mp4", frames, fps=16)
    clip = read_video(tmp_path / "clip.mp4")
    assert clip.frames.shape == frames.shape
    assert clip.frames.dtype == np.uint8
    assert clip.fps == 16
    assert clip.recipe is None
    assert psnr(clip.frames, frames) > 36


@pytest.mark.parametrize("num_frames", [1, 2, 33])
def test_frame_count_is_exact(tmp_path: Path, num_frames: int) -> None:
    write_video(tmp_path / "clip.mp4", smooth_clip(num_frames), fps=16)
    info = probe(tmp_path / "clip.mp4")
    assert info.num_frames == num_frames
    assert info.duration == pytest.approx(num_frames / 16)
    assert len(read_video(tmp_path / "clip.mp4").frames) == num_frames


@pytest.mark.parametrize(
    ("fps", "stored"),
    [
        (16, Fraction(16)),
        (25.0, Fraction(25)),
        (12.5, Fraction(25, 2)),
        (23.976, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
        (0.5, Fraction(1, 2)),
    ],
)
def test_frame_rates_are_exact(tmp_path: Path, fps: float | Fraction, stored: Fraction) -> None:
    assert frame_rate(fps) == stored
    write_video(tmp_path / "clip.mp4", smooth_clip(5), fps=fps)
    assert probe(tmp_path / "clip.mp4").fps == stored
    assert read_video(tmp_path / "clip.mp4").fps == stored


@pytest.mark.parametrize("fps", [0, -1, 1e-5, float("nan"), float("inf"), 1001])
def test_an_impossible_frame_rate_is_named(fps: float) -> None:
    with pytest.raises(ValueError, match=rf"fps is {fps}; it must be 0\.0001 to 1000"):
        frame_rate(fps)


@pytest.mark.parametrize("size", [(21, 33), (20, 33), (21, 32), (1, 1)])
def test_odd_sizes_are_padded_aloud_and_cropped_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: tuple[int, int]
) -> None:
    height, width = size
    frames = smooth_clip(3, height, width)
    write_video(tmp_path / "clip.mp4", frames, fps=8)
    assert f"{width}x{height} is odd" in caplog.text
    info = probe(tmp_path / "clip.mp4")
    assert (info.width, info.height) == (width, height)
    assert (info.coded_width, info.coded_height) == (width + width % 2, height + height % 2)
    assert info.recipe is None
    clip = read_video(tmp_path / "clip.mp4")
    assert clip.frames.shape == frames.shape
    assert psnr(clip.frames, frames) > 32  # shifted or stretched it would be far below


def test_a_recorded_size_of_another_picture_is_not_believed(tmp_path: Path) -> None:
    write_video(tmp_path / "small.mp4", smooth_clip(2, 21, 33), fps=8)
    with av.open(str(tmp_path / "small.mp4")) as small, av.open(str(tmp_path / "big.mp4"), "w") as big:
        big.metadata.update(small.metadata)
        stream = big.add_stream("libx264", rate=8)
        stream.width, stream.height = 64, 48
        big.mux(stream.encode(av.VideoFrame.from_ndarray(smooth_clip(1)[0], "rgb24")))
        big.mux(stream.encode(None))
    assert read_video(tmp_path / "big.mp4").frames.shape[1:3] == (48, 64)


def test_max_frames_stops_early(tmp_path: Path) -> None:
    frames = smooth_clip(9)
    write_video(tmp_path / "clip.mp4", frames, fps=8)
    clip = read_video(tmp_path / "clip.mp4", max_frames=3)
    assert psnr(clip.frames, frames[:3]) > 36
    with pytest.raises(ValueError, match="max_frames is 0; it must be at least 1"):
        read_video(tmp_path / "clip.mp4", max_frames=0)


def test_chunks_arrays_and_tensors_make_the_same_file(tmp_path: Path) -> None:
    frames = smooth_clip(9)
    chunks: Iterator[torch.Tensor] = iter(torch.from_numpy(frames).split(4))
    write_video(tmp_path / "chunks.mp4", chunks, fps=16)
    write_video(tmp_path / "whole.mp4", frames, fps=16)
    assert (tmp_path / "chunks.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


# --- colour --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "tree"), [(16, 32, 0), (64, 64, 0), (128, 126, 0), (64, 128, 1)])
def test_narrow_pictures_go_without_the_macroblock_tree(tmp_path: Path, height: int, width: int, tree: int) -> None:
    write_video(tmp_path / "clip.mp4", smooth_clip(2, height, width), fps=8)
    assert f" mbtree={tree} ".encode() in (tmp_path / "clip.mp4").read_bytes()  # libx264 signs its files


@pytest.mark.slow
def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    """Whatever was encoded before: with the macroblock tree, one file in 200 was another one."""
    clip = np.random.randint(0, 256, (9, 32, 32, 3), np.uint8)
    path, files = tmp_path / "clip.mp4", set()
    for _ in range(500):
        frames, height, width = np.random.randint(1, 9), *2 * np.random.randint(4, 65, 2)
        write_video(path, np.random.randint(0, 256, (frames, height, width, 3), np.uint8), fps=8)
        write_video(path, clip, fps=8)
        files.add(path.read_bytes())
    assert len(files) == 1


def test_colours_are_bt709_in_the_pixels_and_in_the_tags(tmp_path: Path) -> None:
    bars = color_bars()
    write_video(tmp_path / "bars.mp4", bars, fps=8)
    info = probe(tmp_path / "bars.mp4")
    assert (info.codec, info.pix_fmt) == ("h264", "yuv420p")
    assert (info.color_space, info.color_primaries, info.color_transfer) == ("bt709",) * 3
    assert info.color_range == "tv"
    # The luma plane itself: BT.601 would put green at 145 and red at 81.
    with av.open(str(tmp_path / "bars.mp4")) as container:
        luma = next(container.decode(video=0)).to_ndarray()[16, 8 : 16 * len(BARS) : 16]
    weights = np.array([0.2126, 0.7152, 0.0722])
    expected = 16 + 219 * (np.array(BARS) / 255) @ weights
    assert np.abs(luma - expected).max() <= 2
    centres = read_video(tmp_path / "bars.mp4").frames[0, 16, 8 : 16 * len(BARS) : 16]
    assert np.abs(centres.astype(int) - np.array(BARS)).max() <= 5


# --- the container -------------------------------------------------------------------------------


def test_the_index_is_in_front(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", smooth_clip(), fps=8)
    content = (tmp_path / "clip.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_there_is_a_keyframe_every_second(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", smooth_clip(17), fps=8)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        keys = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.is_keyframe]
    assert max(b - a for a, b in itertools.pairwise(keys)) <= 1


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_video(tmp_path / "clip.mp4", smooth_clip(), fps=8)
    assert (tmp_path / "clip.mp4").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("folder", ["a:b", "späth & co", "100%d"])
def test_any_folder_name_will_do(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "c:d #1.mp4"
    path.parent.mkdir()
    write_video(path, smooth_clip(), fps=8)
    assert probe(path).num_frames == 9


# --- the recipe ----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [RECIPE, {"prompt": "long " * 10_000}, {}])
def test_the_recipe_comes_back_as_it_was(tmp_path: Path, recipe: dict) -> None:
    write_video(tmp_path / "clip.mp4", smooth_clip(), fps=16, recipe=recipe)
    assert read_recipe(tmp_path / "clip.mp4") == recipe
    assert probe(tmp_path / "clip.mp4").recipe == recipe
    assert read_video(tmp_path / "clip.mp4").recipe == recipe


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_the_recipe_and_the_size_survive_a_remux(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / "clip.mp4", smooth_clip(5, 21, 33), fps=16, recipe=RECIPE)
    remux(tmp_path / "clip.mp4", tmp_path / f"copy.{suffix}")
    assert read_recipe(tmp_path / f"copy.{suffix}") == RECIPE
    info = probe(tmp_path / f"copy.{suffix}")
    assert (info.width, info.height, info.num_frames, info.fps) == (33, 21, 5, 16)
    original, copy = read_video(tmp_path / "clip.mp4"), read_video(tmp_path / f"copy.{suffix}")
    assert np.array_equal(original.frames, copy.frames)


@pytest.mark.parametrize("comment", ["made with love", "[1]", '{"prompt": "x"}', "[" * 100_000, ""])
def test_another_tools_comment_is_no_recipe(tmp_path: Path, comment: str) -> None:
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height = 64, 48
        container.mux(stream.encode(av.VideoFrame.from_ndarray(smooth_clip(1)[0], "rgb24")))
        container.mux(stream.encode(None))
    assert read_recipe(tmp_path / "clip.mp4") is None


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_a_recipe_that_is_not_json_is_refused_first(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_video(tmp_path / "clip.mp4", smooth_clip(), fps=8, recipe={"prompt": value})
    assert list(tmp_path.iterdir()) == []


# --- whole files or none -------------------------------------------------------------------------


def test_an_interrupt_waits_for_the_frame_that_is_being_encoded() -> None:
    """The thread of the encoder is not left with a writer that is closed."""
    begun, sent, events = threading.Event(), threading.Event(), []

    class Slow:
        def write(self, frames: np.ndarray) -> None:
            begun.set()
            assert sent.wait(60)
            time.sleep(0.5)
            events.append("written")

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        sent.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: SIM117, PT012 - it comes while the block is left
            with media._Encoder(Slow()) as encoder:  # type: ignore[arg-type]
                encoder.put(np.zeros((1, 8, 8, 3), np.uint8))
                begun.wait()
                threading.Timer(0.1, interrupt).start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert events == ["written"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "clip.mp4"
    target.write_bytes(b"the old clip")

    def chunks() -> Iterator[np.ndarray]:
        yield smooth_clip()
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["clip.mp4"]
        raise error

    with pytest.raises(error):
        write_video(target, chunks(), fps=8)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert target.read_bytes() == b"the old clip"


def test_a_failed_last_step_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_video(tmp_path / "clip.mp4", smooth_clip(), fps=8)
    assert list(tmp_path.iterdir()) == []


def test_a_clip_without_frames_is_no_clip(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no frames to write to '.*clip\.mp4'"):
        write_video(tmp_path / "clip.mp4", [], fps=8)
    with (
        pytest.raises(ValueError, match="no frames"),
        VideoWriter(tmp_path / "clip.mp4", width=4, height=4, fps=8),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), r"frames are float32; they must be uint8"),
        (np.zeros((4, 4, 3), np.uint8), r"shape \[4, 4, 3\]; it must be \[T, H, W, 3\]"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"shape \[2, 3, 4, 4\]; it must be \[T, H, W, 3\]"),
        ([np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 6, 3), np.uint8)], "are 6x4 pixels.*is 4x4"),
    ],
)
def test_wrong_frames_are_described(tmp_path: Path, frames: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "clip.mp4", frames, fps=8)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "size is 0x4; both sides must be 1 to 16384"),
        ({"height": 16385}, "size is 4x16385; both sides must be 1 to 16384"),
        ({"crf": 52}, "crf is 52; it must be 0"),
    ],
)
def test_impossible_options_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoWriter(tmp_path / "clip.mp4", **{"width": 4, "height": 4, "fps": 8, **options})


def test_writing_outside_the_block_is_an_error(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "clip.mp4", width=4, height=4, fps=8)
    with pytest.raises(RuntimeError, match="`with` block"):
        writer.write(smooth_clip(1, 4, 4))


def test_check_writable_leaves_no_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "clip.mp4")
    check_writable(tmp_path / "CLIP.MP4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip.gif", r"clip\.gif': the name must end in \.mp4"),
        ("clip", r"clip': the name must end in \.mp4"),
        ("none/clip.mp4", "there is no folder '.*none'"),
        ("folder.mp4", "it is a folder"),
        ("x" * 300 + ".mp4", "xxx.*File name too long"),
    ],
)
def test_check_writable_names_what_is_wrong(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ValueError, match=message):
        check_writable(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, smooth_clip(), fps=8)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_check_writable_tries_the_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ValueError, match="Permission denied"):
            check_writable(tmp_path / "clip.mp4")
    finally:
        tmp_path.chmod(0o700)


def test_check_writable_reports_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ValueError, match=r"cannot write '.*clip\.mp4': Read-only file system"):
        check_writable(tmp_path / "clip.mp4")


@pytest.mark.parametrize("read", [read_video, probe, read_recipe])
def test_unreadable_files_are_named_with_the_reason(tmp_path: Path, read: object) -> None:
    assert callable(read)
    (tmp_path / "text.mp4").write_text("no video, just words")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"cannot read '.*none\.mp4': No such file"):
        read(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="one file is taken"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"text\.mp4': it is neither a video nor an image"):
        read(tmp_path / "text.mp4")
    with pytest.raises(ValueError, match=r"empty\.mp4': it is empty"):
        read(tmp_path / "empty.mp4")


def test_a_file_cut_short_is_not_taken_for_a_shorter_clip(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", smooth_clip(17), fps=8)
    content = (tmp_path / "clip.mp4").read_bytes()
    for length in (len(content) - 1, len(content) // 2):
        (tmp_path / "cut.mp4").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.mp4': "):
            read_video(tmp_path / "cut.mp4")


def test_a_file_without_pictures_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 48_000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"sound\.mp4': it has no video stream"):
        probe(tmp_path / "sound.mp4")
