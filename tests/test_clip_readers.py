"""Reading clips: the right frames at the right times, upright, the same from both readers, and reasons where not."""

from __future__ import annotations

import importlib
import importlib.util
import json
import struct
import sys
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest
from clips_made import make_clip, numbered_frames, numbers_of
from PIL import Image

from videodit.datasets.clips.reading.readers import ReaderName, frame_indices, open_clip, read_window, usable_frames
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.media import write_video

HAS_DECORD = importlib.util.find_spec("decord") is not None
needs_decord = pytest.mark.skipif(not HAS_DECORD, reason="there is no wheel of decord for this machine")
READERS = [pytest.param(name, marks=needs_decord) if name == "decord" else name for name in get_args(ReaderName)]
VFR = [0, 0.04, 0.05, 0.3, 0.31, 0.5, 0.9, 1.0, 1.5, 1.6, 1.7, 2.0]

# Clips that both readers read, by what is special about them.
COMMON: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "b-frames.mp4": {"num_frames": 40, "gop": 10, "b_frames": 3},
    "b-frames.mkv": {"num_frames": 40, "gop": 10, "b_frames": 3, "fps": 16},
    "vfr.mp4": {"times": VFR, "b_frames": 2},
    "audio.mp4": {"audio": True},
    "ntsc.mp4": {"fps": Fraction(30000, 1001)},
    "quarter.mp4": {"rotation": 90},
    "half.mp4": {"rotation": 180},
    "three-quarters.mp4": {"rotation": 270, "height": 64, "width": 128},
    "narrow.mp4": {"height": 32, "width": 16},
    "not-of-16.mp4": {"height": 50, "width": 70},
    "wide-chroma.mp4": {"pix_fmt": "yuv422p"},
    "full-chroma.mp4": {"pix_fmt": "yuv444p"},
    "bt601.mp4": {"matrix": 6},
    "bt2020.mp4": {"matrix": 9},
    "no-matrix.mp4": {"matrix": 2},
    "hevc.mp4": {"codec": "libx265", "num_frames": 40, "gop": 10, "b_frames": 3},
    "vp9.webm": {"codec": "libvpx-vp9", "num_frames": 30, "gop": 10},
    "10-bit.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "stills.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "matrix": 5},
}
# Clips that decord would read wrongly, and what it says.
PYAV_ONLY: dict[str, tuple[dict[str, Any], str]] = {
    "10-bit.mp4": ({"codec": "libx265", "pix_fmt": "yuv420p10le"}, "gives other colours than PyAV for yuv420p10le"),
    "odd.webm": ({"codec": "libvpx-vp9", "height": 49, "width": 65}, "yuv420p of an odd size, 65x49"),
    "mirrored.mp4": ({"mirrored": True}, "does not mirror"),
    "open.mp4": (
        {
            "codec": "libx265",
            "num_frames": 40,
            "options": {"x265-params": "log-level=none:keyint=10:min-keyint=10:open-gop=1:bframes=3"},
        },
        "groups of pictures may be open",
    ),
    "packed.mp4": ({"codec": "mpeg4", "num_frames": 20, "gop": 6, "b_frames": 2}, "groups of pictures may be open"),
    "hidden.webm": (
        {"codec": "libvpx", "num_frames": 30, "options": {"auto-alt-ref": "1", "lag-in-frames": "10"}},
        "groups of pictures may be open",
    ),
    "stream.ts": ({"num_frames": 40, "gop": 10, "b_frames": 3}, "of the container mpegts"),
    "mpeg2.ts": ({"codec": "mpeg2video", "num_frames": 20, "gop": 6, "b_frames": 2}, "of the container mpegts"),
    "old.avi": ({"codec": "mpeg4", "num_frames": 20, "b_frames": 2}, "of the container avi"),
    "hd.mp4": ({"matrix": 2, "height": 720, "width": 64, "num_frames": 2}, "BT.601, where players take BT.709"),
}


def read_all(path: Path, reader: ReaderName = "pyav") -> np.ndarray:
    with open_clip(Media(path), reader=reader) as clip:
        return clip.frames(range(clip.info.num_frames))


def decoded(path: Path) -> np.ndarray:
    """All frames as FFmpeg's decoder gives them from the start, as they are stored."""
    with av.open(str(path)) as container:
        images = []
        for frame in container.decode(video=0):
            matrix = frame.colorspace if frame.colorspace != 2 else (1 if frame.height >= 720 else 5)
            images.append(frame.reformat(format="rgb24", src_colorspace=matrix, interpolation="BICUBIC").to_ndarray())
    return np.stack(images)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9)))


# ---- frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*COMMON, *PYAV_ONLY])
def test_any_frame_is_found_from_anywhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    made = {**COMMON, **{key: value for key, (value, _) in PYAV_ONLY.items()}}[name]
    drawn = make_clip(path, **made)
    stored = decoded(path)
    assert len(stored) == len(drawn)
    with open_clip(Media(path)) as clip:
        assert clip.info.num_frames == len(clip.times) == len(drawn)
        whole = clip.frames(range(len(drawn)))
        upright = np.rot90(stored, -made.get("rotation", 0) // 90, axes=(1, 2))
        assert (whole == (upright[:, :, ::-1] if made.get("mirrored") else upright)).all()
        rng = np.random.default_rng(0)
        for _ in range(25):
            indices = np.sort(rng.integers(0, len(drawn), 3))
            assert (clip.frames(indices) == whole[indices]).all()
    if name != "hd.mp4":
        assert numbers_of(stored) == list(range(len(drawn)))
    assert psnr(stored, drawn) > 22


@needs_decord
@pytest.mark.parametrize("name", COMMON)
def test_both_readers_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    make_clip(path, **COMMON[name])
    with open_clip(Media(path)) as pyav, open_clip(Media(path), reader="decord") as decord:
        assert decord.info == pyav.info
        assert (decord.times == pyav.times).all()
        whole = pyav.frames(range(pyav.info.num_frames))
        assert (decord.frames(range(pyav.info.num_frames)) == whole).all()
        rng = np.random.default_rng(0)
        for _ in range(25):
            indices = np.sort(rng.integers(0, len(whole), 3))
            assert (decord.frames(indices) == whole[indices]).all()


@needs_decord
@pytest.mark.parametrize("name", PYAV_ONLY)
def test_decord_refuses_what_it_would_read_otherwise(tmp_path: Path, name: str) -> None:
    made, reason = PYAV_ONLY[name]
    make_clip(tmp_path / name, **made)
    with pytest.raises(ValueError, match=rf"{name}.*decord .*{reason}.*; read it with the reader 'pyav'"):
        read_all(tmp_path / name, "decord")


@needs_decord
def test_decord_refuses_what_it_cannot_decode(tmp_path: Path) -> None:
    make_clip(tmp_path / "av1.mp4", codec="libsvtav1", height=64, options={"preset": "12"})
    assert numbers_of(read_all(tmp_path / "av1.mp4")) == list(range(12))
    with pytest.raises(ValueError, match=r"decord cannot open it; read it with the reader 'pyav'"):
        read_all(tmp_path / "av1.mp4", "decord")


def test_decord_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ValueError, match="decord is not installed here; read with the reader 'pyav'"):
        read_all(tmp_path / "clip.mp4", "decord")


@pytest.mark.parametrize("reader", READERS)
def test_padding_of_an_odd_size_is_cropped(tmp_path: Path, reader: ReaderName) -> None:
    drawn = numbered_frames(5, 33, 47)
    write_video(tmp_path / "odd.mp4", drawn, fps=8)
    frames = read_all(tmp_path / "odd.mp4", reader)
    assert frames.shape == drawn.shape
    assert psnr(frames, drawn) > 25


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_phone_clips_are_upright(tmp_path: Path, rotation: int, mirrored: bool) -> None:
    upright = numbered_frames(8)
    turned = np.rot90(upright[:, :, ::-1] if mirrored else upright, rotation // 90, axes=(1, 2))
    make_clip(tmp_path / "clip.mp4", frames=np.ascontiguousarray(turned), rotation=rotation, mirrored=mirrored)
    with open_clip(Media(tmp_path / "clip.mp4")) as clip:
        assert (clip.info.height, clip.info.width) == upright.shape[1:3]
        assert clip.info.rotation == rotation
        frames = clip.frames(range(8))
    assert numbers_of(frames) == list(range(8))
    assert psnr(frames, upright) > 22


def test_a_turn_that_is_no_quarter_is_refused(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", rotation=30)
    with pytest.raises(ValueError, match=r"clip\.mp4.*an angle that is no quarter turn"):
        read_all(tmp_path / "clip.mp4")


@pytest.mark.parametrize("reader", READERS)
def test_a_stretch_of_a_file_is_a_clip(tmp_path: Path, reader: ReaderName) -> None:
    make_clip(tmp_path / "clip.mp4", num_frames=20, gop=5)
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "a tar, so: to say").write_bytes(b"x" * 1000 + content + b"y" * 1000)
    whole = read_all(tmp_path / "clip.mp4", reader)
    with open_clip(Media(tmp_path / "a tar, so: to say", 1000, len(content)), reader=reader) as clip:
        assert (clip.frames([3, 17]) == whole[[3, 17]]).all()


@pytest.mark.parametrize("first", [7, 12])
def test_a_clip_that_an_edit_list_cuts_begins_at_the_cut(tmp_path: Path, first: int) -> None:
    """As editors cut without encoding: what precedes the cut is in the file, and not shown."""
    make_clip(tmp_path / "whole.mp4", num_frames=30, gop=10, b_frames=2)
    disabled = {"avoid_negative_ts": "disabled"}
    with (
        av.open(str(tmp_path / "whole.mp4")) as old,
        av.open(str(tmp_path / "cut.mp4"), "w", container_options=disabled) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        shift = round(first / 25 / old.streams.video[0].time_base)
        for packet in old.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                new.mux(packet)
    with open_clip(Media(tmp_path / "cut.mp4")) as clip:
        assert numbers_of(clip.frames(range(clip.info.num_frames))) == list(range(first, 30))
        assert numbers_of(clip.frames([0, 9])) == [first, first + 9]
        assert clip.info.duration == pytest.approx((30 - first) / 25)
    if HAS_DECORD:
        with pytest.raises(ValueError, match="decord finds other frames in it than PyAV"):
            read_all(tmp_path / "cut.mp4", "decord")


def test_what_is_told_of_a_clip(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", num_frames=10, fps=20, rotation=90, audio=True)
    with open_clip(Media(tmp_path / "clip.mp4")) as clip:
        info = clip.info
        np.testing.assert_allclose(clip.times, np.arange(10) / 20)
    assert (info.width, info.height, info.num_frames, info.rotation) == (48, 64, 10, 90)
    assert (info.codec, info.pix_fmt, info.has_audio, info.is_image) == ("h264", "yuv420p", True, False)
    assert (info.fps, info.duration) == (pytest.approx(20), pytest.approx(0.5))
    make_clip(tmp_path / "silent.mp4", times=VFR, b_frames=2)
    with open_clip(Media(tmp_path / "silent.mp4")) as clip:
        assert not clip.info.has_audio
        np.testing.assert_allclose(clip.times, VFR, atol=1e-9)


def test_a_rate_takes_the_place_of_time_stamps(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", times=VFR)
    with open_clip(Media(tmp_path / "clip.mp4"), fps=8) as clip:
        np.testing.assert_allclose(clip.times, np.arange(12) / 8)
        assert (clip.info.fps, clip.info.duration) == (8, 1.5)
    window = read_window(Clip("c", Media(tmp_path / "clip.mp4"), fps=8), start=0.25, num_frames=3, fps=4)
    assert numbers_of(window) == [2, 4, 6]


# ---- times -----------------------------------------------------------------------------------------


def test_a_player_would_show_these_frames() -> None:
    assert frame_indices(np.array(VFR), start=0, fps=10, num_frames=20).tolist() == [
        0, 2, 2, 3, 4, 5, 5, 5, 5, 6, 7, 7, 7, 7, 7, 8, 9, 10, 10, 10,
    ]  # fmt: skip
    times = np.arange(50) / 25
    assert frame_indices(times, start=0.4, fps=25, num_frames=5).tolist() == [10, 11, 12, 13, 14]
    assert frame_indices(times, start=0, fps=50, num_frames=6).tolist() == [0, 0, 1, 1, 2, 2]
    indices = frame_indices(times, start=0, fps=10, num_frames=20)
    assert indices.dtype == np.int64
    assert indices.tolist() == [int(i * 2.5) for i in range(20)]


@pytest.mark.parametrize("fps", [16, 24, 30000 / 1001, 60])
def test_rounding_to_milliseconds_shifts_no_frame(fps: float) -> None:
    times = np.round(np.arange(500) / fps, 3)
    assert frame_indices(times, start=0, fps=fps, num_frames=500).tolist() == list(range(500))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fps": 0}, "fps is 0; it must be above 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"num_frames": 0}, "num_frames is 0; it must be at least 1"),
        ({"start": -0.1}, "from -0.1 s"),
        ({"start": 0.5}, "need frames up to 1.1 s; the clip goes from 0 to 1 s"),
        ({"end": 0.5}, "the clip goes from 0 to 0.5 s"),
        ({"start": float("nan")}, "from nan s"),
    ],
)
def test_times_outside_of_the_clip_are_refused(arguments: dict[str, float], message: str) -> None:
    given = {"start": 0.0, "fps": 10.0, "num_frames": 7, **arguments}
    with pytest.raises(ValueError, match=message):
        frame_indices(np.arange(10) / 10, **given)  # type: ignore[arg-type]


def test_frames_that_a_stretch_gives() -> None:
    assert usable_frames(1.0, 10) == 10
    assert usable_frames(0.95, 10) == 10
    assert usable_frames(0.9, 10) == 9
    assert usable_frames(81 / 16, 16) == 81
    assert usable_frames(1.0004, 10) == 10  # milliseconds, rounded
    assert usable_frames(0.0, 10) == 1
    with pytest.raises(ValueError, match="duration is -1; it must be 0 or more"):
        usable_frames(-1, 10)
    for duration in np.linspace(0.01, 3, 97):
        count = usable_frames(duration, 16)
        assert (
            len(frame_indices(np.arange(0, duration, 0.04), start=0, fps=16, num_frames=count, end=duration)) == count
        )


@pytest.mark.parametrize("reader", READERS)
def test_a_window_is_resampled_by_time(tmp_path: Path, reader: ReaderName) -> None:
    make_clip(tmp_path / "clip.mp4", times=VFR, b_frames=2)
    clip = Clip("c", Media(tmp_path / "clip.mp4"), start=0.3, end=1.6)
    assert numbers_of(read_window(clip, start=0, num_frames=13, fps=10, reader=reader)) == [
        3, 4, 5, 5, 5, 5, 6, 7, 7, 7, 7, 7, 8,
    ]  # fmt: skip
    assert numbers_of(read_window(clip, start=0.6, num_frames=2, fps=5, reader=reader)) == [6, 7]
    with pytest.raises(ValueError, match=r"cannot read 'c': 14 frames at 10 fps from 0.3 s need frames up to 1.6 s"):
        read_window(clip, start=0, num_frames=14, fps=10, reader=reader)
    with pytest.raises(ValueError, match=r"cannot read 'c': start is -0.1; it must be 0 or more"):
        read_window(clip, start=-0.1, num_frames=1, fps=10, reader=reader)


@pytest.mark.parametrize("indices", [[], [2, 1], [-1], [12], [0.5], [[0, 1]]])
def test_frames_that_are_none_are_refused(tmp_path: Path, indices: list[Any]) -> None:
    make_clip(tmp_path / "clip.mp4")
    with open_clip(Media(tmp_path / "clip.mp4")) as clip, pytest.raises(ValueError, match="indices of frames are"):
        clip.frames(indices)


def test_a_closed_clip_is_not_read(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4")
    with open_clip(Media(tmp_path / "clip.mp4")) as clip:
        pass
    with pytest.raises(ValueError, match="the clip is closed"):
        clip.frames([0])


# ---- what cannot be read ---------------------------------------------------------------------------


def test_an_unknown_reader_or_rate_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reader is 'opencv'; it must be one of pyav, decord"), open_clip(
        Media(tmp_path / "clip.mp4"), reader="opencv"  # type: ignore[arg-type]
    ):  # fmt: skip
        pass
    with pytest.raises(ValueError, match="fps is -3; it must be above 0"), open_clip(Media(tmp_path / "c"), fps=-3):
        pass


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "it is empty"),
        (b"not a video, just text\n" * 50, "neither a video nor an image"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n", "neither a video nor an image"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "neither a video nor an image"),
        (b"<?xml version='1.0'?><MPD><BaseURL>other.mp4</BaseURL></MPD>", "neither a video nor an image"),
    ],
)
def test_what_is_no_clip_is_told(tmp_path: Path, reader: ReaderName, content: bytes | None, reason: str) -> None:
    make_clip(tmp_path / "other.mp4")
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"cannot read '.*clip\.mp4': .*{reason}"):
        read_all(path, reader)


def test_a_list_of_files_would_have_been_opened(tmp_path: Path) -> None:
    """What the test above keeps out: FFmpeg itself follows such a list."""
    make_clip(tmp_path / "other.mp4")
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.format.name == "concat"


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm", "clip.avi"])
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_a_file_that_is_cut_short_is_told(tmp_path: Path, name: str, share: float) -> None:
    codecs = {"clip.webm": "libvpx-vp9", "clip.avi": "mpeg4"}
    make_clip(tmp_path / name, num_frames=30, codec=codecs.get(name, "libx264"))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cannot read '.*clip\..*': the file is cut short"):
        read_all(tmp_path / name)
    (tmp_path / "tar").write_bytes(content)
    with (
        pytest.raises(ValueError, match=r"tar@0': the file is cut short"),
        open_clip(Media(tmp_path / "tar", 0, int(share * len(content)))),
    ):
        pass


def test_a_frame_that_does_not_decode_is_told(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", num_frames=30, gop=10)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        position, size = packets[10].pos, packets[10].size
    assert position is not None
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    content[position : position + size] = bytes(size)
    (tmp_path / "clip.mp4").write_bytes(content)
    with open_clip(Media(tmp_path / "clip.mp4")) as clip:
        assert numbers_of(clip.frames([0, 5])) == [0, 5]
        with pytest.raises(ValueError, match=r"cannot read '.*clip\.mp4': "):
            clip.frames([10])
        assert numbers_of(clip.frames([20, 25])) == [20, 25]  # which begin at a keyframe of their own


def test_sound_alone_is_no_clip(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"sound\.mp4': it has no video stream"):
        read_all(tmp_path / "sound.mp4")


def test_transparency_and_hdr_are_refused(tmp_path: Path) -> None:
    make_clip(tmp_path / "alpha.mkv", codec="ffv1", pix_fmt="yuva420p", gop=1)
    with pytest.raises(ValueError, match=r"alpha\.mkv': it is transparent in places \(yuva420p\)"):
        read_all(tmp_path / "alpha.mkv")
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        options = {"x264-params": f"transfer={'smpte2084' if name == 'PQ' else 'arib-std-b67'}"}
        make_clip(tmp_path / f"{transfer}.mp4", matrix=9, options=options)
        with pytest.raises(ValueError, match=rf"its colours are HDR \({name}\)"):
            read_all(tmp_path / f"{transfer}.mp4")
    make_clip(tmp_path / "long.mp4", options={"x264-params": "sar=5/1"})
    with pytest.raises(ValueError, match=r"5 times as wide as high; it must be 0\.25 to 4"):
        read_all(tmp_path / "long.mp4")


@pytest.mark.parametrize(
    ("sar", "rotation", "size"), [("2/1", 0, (128, 48)), ("1/2", 0, (64, 96)), ("2/1", 90, (48, 128))]
)
def test_long_pixels_are_made_square(tmp_path: Path, sar: str, rotation: int, size: tuple[int, int]) -> None:
    make_clip(tmp_path / "square.mp4", rotation=rotation)
    make_clip(tmp_path / "long.mp4", rotation=rotation, options={"x264-params": f"sar={sar}"})
    plain = read_all(tmp_path / "square.mp4")
    frames = {}
    for reader in ("pyav", "decord"):
        with open_clip(Media(tmp_path / "long.mp4"), reader=reader) as clip:
            assert (clip.info.width, clip.info.height) == size
            frames[reader] = clip.frames(range(3))
    assert frames["pyav"].shape[1:3] == size[::-1]
    assert np.array_equal(frames["pyav"], frames["decord"])
    shrunk = np.asarray(Image.fromarray(frames["pyav"][0]).resize(plain[0].shape[1::-1], Image.Resampling.BOX))
    assert np.abs(shrunk.astype(int) - plain[0]).mean() < 3


# ---- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_an_image_is_a_clip_of_one_frame(tmp_path: Path, suffix: str) -> None:
    drawn = numbered_frames(1, 33, 47)[0]
    Image.fromarray(drawn).save(tmp_path / f"still.{suffix}", quality=95)
    with open_clip(Media(tmp_path / f"still.{suffix}"), reader="decord", fps=5) as clip:  # Pillow reads it
        assert clip.info.is_image
        assert (clip.info.width, clip.info.height, clip.info.num_frames) == (47, 33, 1)
        assert (clip.info.fps, clip.info.duration, clip.times.tolist()) == (0, 0, [0])
        frames = clip.frames([0])
    assert frames.shape == (1, 33, 47, 3)
    assert psnr(frames[0], drawn) > (90 if suffix == "png" else 25)
    still = Clip("still", Media(tmp_path / f"still.{suffix}"))
    assert (read_window(still, start=0, num_frames=1, fps=16) == frames).all()
    with pytest.raises(ValueError, match=r"cannot read 'still': 2 frames at 16 fps"):
        read_window(still, start=0, num_frames=2, fps=16)


def test_what_a_camera_wrote_sideways_is_upright(tmp_path: Path) -> None:
    upright = numbered_frames(1, 32, 64)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(tmp_path / "phone.png", exif=exif)
    with open_clip(Media(tmp_path / "phone.png")) as clip:
        assert (clip.info.width, clip.info.height, clip.info.rotation) == (64, 32, 90)
        assert (clip.frames([0])[0] == upright).all()


def test_images_that_are_not_read(tmp_path: Path) -> None:
    image = Image.fromarray(numbered_frames(1)[0])
    clear = image.convert("RGBA")
    clear.save(tmp_path / "opaque.png")
    assert (read_all(tmp_path / "opaque.png")[0] == np.asarray(image)).all()
    clear.putpixel((3, 5), (0, 0, 0, 0))
    clear.save(tmp_path / "alpha.png")
    with pytest.raises(ValueError, match=r"alpha\.png': it is transparent in places: flatten its alpha channel"):
        read_all(tmp_path / "alpha.png")
    image.save(tmp_path / "moving.webp", save_all=True, append_images=[image.rotate(90)], lossless=True)
    with pytest.raises(ValueError, match=r"moving\.webp': it is an animated image; make a video of it"):
        read_all(tmp_path / "moving.webp")
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png': it has pixels of mode I;16"):
        read_all(tmp_path / "deep.png")
    image.save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.png': the image does not decode: "):
        read_all(tmp_path / "cut.png")
    huge = bytearray(content)
    huge[16:24] = struct.pack(">II", 30000, 30000)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    (tmp_path / "huge.png").write_bytes(huge)
    with pytest.raises(ValueError, match=r"huge\.png': it has 30000x30000 pixels; the limit picture_pixels is"):
        read_all(tmp_path / "huge.png")


# ---- speed -----------------------------------------------------------------------------------------


def test_the_benchmark_times_each_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = importlib.import_module("readers")
    monkeypatch.setattr(benchmark, "SIZES", ((64, 48), (48, 64)))
    benchmark.main(["--rounds", "2", "--frames", "5", "--json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["settings"]["frames"] == 5
    assert {(one["clips"], one["reader"]) for one in figures["readers"]} == {
        (size, reader) for size in ("64x48", "48x64") for reader in get_args(ReaderName)
    }
    for one in figures["readers"]:
        if HAS_DECORD or one["reader"] == "pyav":
            assert 0 < one["slowest"] <= one["samples_per_second"] <= one["fastest"]
            assert one["frames_per_second"] == pytest.approx(5 * one["samples_per_second"])
    assert "64x48  pyav" in capsys.readouterr().out


def test_the_benchmark_tells_what_a_reader_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = importlib.import_module("readers")
    make_clip(tmp_path / "clip.mp4", mirrored=True)
    benchmark.main(["--source", str(tmp_path), "--rounds", "1"])
    out = capsys.readouterr().out
    assert "clip.mp4': decord " in out
    with pytest.raises(SystemExit):
        benchmark.main(["--source", str(tmp_path / "missing")])
    assert "there is no source" in capsys.readouterr().err


# ---- memory ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_two_thousand_clips_take_no_more_memory_than_a_few(tmp_path: Path, reader: ReaderName) -> None:
    import psutil

    clips = []
    for i in range(20):
        make_clip(tmp_path / f"{i}.mp4", num_frames=20 + i, height=64 + 16 * (i % 4), width=96, gop=10, b_frames=2)
        clips.append(Clip(str(i), Media(tmp_path / f"{i}.mp4")))
    process = psutil.Process()

    def read(count: int) -> None:
        for i in range(count):
            read_window(clips[i % len(clips)], start=0.1, num_frames=9, fps=16, reader=reader)

    read(200)
    before, files, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
    read(2000)
    # A leak of one frame a clip would be 20 MB and more.
    assert process.memory_info().rss - before < 8 * 2**20
    assert process.num_fds() <= files  # what other tests have left may end meanwhile
    assert process.num_threads() <= threads
