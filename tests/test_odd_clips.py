"""Clips as cameras, phones and old programs leave them: every reader gives the same frames, or the same refusal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.stream import Disposition
from clips_made import _add_silence, make_clip, numbered_frames, numbers_of

from videodit.cli.main import main
from videodit.datasets.clips.reading.readers import open_clip, read_window
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.datasets.clips.scanning.worker import answer
from videodit.errors import InputError
from videodit.limits import Limits, use_limits
from videodit.media import probe, read_video
from videodit.pipelines.pixels import read_frames

NUMBERS = list(range(30))


def looked_at(path: Path, reader: str = "pyav") -> dict[str, Any]:
    """What the scan finds, as its workers answer; raises the reason why there is nothing."""
    ranges = [(0.0, None)]
    request = {"task": "look", "reader": reader, "path": str(path), "offset": 0, "size": None, "fps": None}
    said = answer({**request, "ranges": ranges}, lambda: None)
    if "value" not in said:
        raise InputError(f"cannot read {str(path)!r}: {said['reason']}")
    return said["value"]


def everywhere(path: Path) -> tuple[list[int], float]:
    """The numbers of a clip's frames and its frames a second, about which all that reads clips must agree."""
    video, info = read_video(path), probe(path)
    frames, _ = read_frames(path)
    with open_clip(Media(path)) as clip:
        data, shown = clip.frames(np.arange(len(clip.times))), clip.info
    scanned = looked_at(path)["info"]
    assert (video.frames == frames).all()
    assert numbers_of(data) == numbers_of(frames)
    assert info.num_frames == scanned["num_frames"] == len(frames) == len(data)
    assert (info.height, info.width) == (scanned["height"], scanned["width"]) == frames.shape[1:3]
    assert float(video.fps) == float(info.fps) == pytest.approx(shown.fps, rel=0.02)
    assert info.duration == scanned["duration"] == shown.duration
    return numbers_of(frames), float(info.fps)


def refused(path: Path) -> str:
    """Why a clip is refused, which must be the same everywhere."""
    readers: list[Callable[[Path], object]] = [read_video, probe, read_frames, looked_at]
    readers.append(lambda path: read_window(Clip("clip", Media(path)), start=0, num_frames=24, fps=25))
    reasons = []
    for read in readers:
        with pytest.raises(InputError) as caught:
            read(path)
        reasons.append(str(caught.value))
    assert len(set(reasons)) == 1, reasons
    return reasons[0]


def copied(old: Path, new: Path, change: Callable[[Any], None] = lambda packet: None, **options: str) -> None:
    """The packets of a clip in another container, each changed first."""
    with av.open(str(old)) as source, av.open(str(new), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                change(packet)
                packet.stream = stream
                target.mux(packet)


def annexb(path: Path) -> bytes:
    """An MP4's H.264 as a raw stream."""
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        unpack = BitStreamFilterContext("h264_mp4toannexb", stream)
        packets = [one for packet in source.demux(stream) if packet.size for one in unpack.filter(packet)]
        return b"".join(map(bytes, packets))


# ---- the order and the time of frames --------------------------------------------------------------


def pack_b_frames(path: Path) -> None:
    """MPEG-4 in AVI as DivX wrote it: a B-frame travels with the frame that it needs, and a blank takes its place."""
    old = path.with_name("unpacked.mp4")
    make_clip(old, num_frames=30, b_frames=1, gop=12, codec="mpeg4", options={"b": "2M", "sc_threshold": "1000000000"})
    with av.open(str(old)) as source:
        stream = source.streams.video[0]
        header = bytes(stream.codec_context.extradata or b"")
        frames = [bytes(packet) for packet in source.demux(stream) if packet.size]
    chunks: list[bytes] = []
    for i, frame in enumerate(frames):
        if frame[frame.index(b"\0\0\1\xb6") + 4] >> 6 != 2:
            chunks.append(frame)
        else:
            chunks[-1] += frame
            chunks.append(b"\0\0\1\xb6\x6a\x7f")
        assert i < len(frames)
    with av.open(str(path), "w") as target:
        new: Any = target.add_stream("mpeg4", rate=25)
        new.width, new.height, new.pix_fmt = 64, 48, "yuv420p"
        for i, chunk in enumerate(chunks):
            packet = av.Packet(header + b"\0\0\1\xb2DivX503b1393p" + chunk if i == 0 else chunk)
            packet.pts = packet.dts = i
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), new, i == 0
            target.mux(packet)


@pytest.mark.parametrize("name", ["packed.avi", "plain.avi"])
def test_b_frames_in_avi_come_in_order(tmp_path: Path, name: str) -> None:
    if name == "packed.avi":
        pack_b_frames(tmp_path / name)
    else:
        make_clip(tmp_path / name, num_frames=30, b_frames=2, gop=12, codec="mpeg4", options={"b": "2M"})
    assert everywhere(tmp_path / name) == (NUMBERS, 25)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4"])
def test_times_may_begin_below_zero(tmp_path: Path, name: str) -> None:
    make_clip(tmp_path / "old.mp4", num_frames=30, b_frames=3, gop=10)

    def earlier(packet: Any) -> None:
        packet.pts, packet.dts = packet.pts - 20 * 512, packet.dts - 20 * 512

    copied(tmp_path / "old.mp4", tmp_path / name, earlier, avoid_negative_ts="disabled", use_editlist="0")
    assert everywhere(tmp_path / name) == (NUMBERS, 25)


def test_a_last_frame_of_avi_lasts_as_long_as_the_others(tmp_path: Path) -> None:
    """Its unit of time, which FFmpeg takes for the length of a frame, may be far shorter than a frame."""
    with av.open(str(tmp_path / "clip.avi"), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=500)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i, image in enumerate(numbered_frames(10)):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = 20 * i, Fraction(1, 500)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert everywhere(tmp_path / "clip.avi") == (list(range(10)), 25)
    assert probe(tmp_path / "clip.avi").duration == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("name", "codec"), [("one.mp4", "libx264"), ("one.webm", "libvpx-vp9"), ("one.avi", "mpeg4"), ("one.mkv", "ffv1")]
)
def test_a_clip_may_have_one_frame(tmp_path: Path, name: str, codec: str) -> None:
    make_clip(tmp_path / name, num_frames=1, codec=codec, gop=1)
    assert everywhere(tmp_path / name) == ([0], 25)


# ---- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_the_picture_of_a_cover_is_not_the_clip(tmp_path: Path, first: bool) -> None:
    make_clip(tmp_path / "old.mp4", num_frames=30, b_frames=3)
    make_clip(tmp_path / "cover.avi", num_frames=1, height=480, width=640, codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(tmp_path / "cover.avi")) as source:
        jpeg = next(bytes(packet) for packet in source.demux(video=0))
    with av.open(str(tmp_path / "old.mp4")) as source, av.open(str(tmp_path / "clip.mp4"), "w") as target:
        streams: dict[str, Any] = {}
        for kind in ("cover", "clip") if first else ("clip", "cover"):
            if kind == "clip":
                streams[kind] = target.add_stream_from_template(source.streams.video[0])
                continue
            streams[kind] = target.add_stream("mjpeg", rate=1)
            streams[kind].width, streams[kind].height, streams[kind].pix_fmt = 640, 480, "yuvj420p"
            streams[kind].disposition = Disposition.attached_pic
        cover = av.Packet(jpeg)
        cover.pts = cover.dts = 0
        cover.stream, cover.is_keyframe = streams["cover"], True
        target.mux(cover)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = streams["clip"]
                target.mux(packet)
    assert everywhere(tmp_path / "clip.mp4") == (NUMBERS, 25)
    assert probe(tmp_path / "clip.mp4").notices == ()


def two_streams(path: Path) -> None:
    make_clip(path.with_name("a.mp4"), num_frames=30, b_frames=3)
    make_clip(path.with_name("b.mp4"), num_frames=20, height=96, width=128)
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(av.open(str(path.with_name(name)))) for name in ("a.mp4", "b.mp4")]
        target = stack.enter_context(av.open(str(path), "w"))
        streams = [target.add_stream_from_template(source.streams.video[0]) for source in sources]
        for source, stream in zip(sources, streams, strict=True):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)


def test_of_two_streams_the_same_one_is_read_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips").mkdir()
    two_streams(tmp_path / "two.mp4")
    (tmp_path / "two.mp4").rename(tmp_path / "clips" / "two.mp4")
    path = tmp_path / "clips" / "two.mp4"
    everywhere(path)
    told = "it has 2 video streams, of which number 1 is read"
    assert probe(path).notices == (told,)
    assert read_frames(path)[1] == [f"two.mp4: {told}"]
    assert main(["data", "scan", str(path.parent), "--drop", "none"]) == 0
    assert f"{told}: 1\n    two.mp4" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["grows.h264", "shrinks.h264", "grows.webm", "grows.ts"])
def test_a_size_that_changes_in_the_middle_is_refused(tmp_path: Path, name: str) -> None:
    kind = ("clip.webm", "libvpx-vp9") if name.endswith("webm") else ("clip.mp4", "libx264")
    small, large = tmp_path / f"small-{kind[0]}", tmp_path / f"large-{kind[0]}"
    make_clip(small, codec=kind[1])
    make_clip(large, codec=kind[1], height=96, width=128)
    parts = [large, small] if name.startswith("shrinks") else [small, large]
    if name.endswith("h264"):
        (tmp_path / name).write_bytes(b"".join(map(annexb, parts)))
    elif name.endswith("ts"):
        raw = tmp_path / "raw.h264"
        raw.write_bytes(b"".join(map(annexb, parts)))
        place = iter(range(1000))

        def in_order(packet: Any) -> None:
            packet.time_base = Fraction(1, 25)
            packet.pts = packet.dts = next(place)

        copied(raw, tmp_path / name, in_order)
    else:
        with av.open(str(small)) as source, av.open(str(tmp_path / name), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for i, packet in enumerate(packet for part in parts for packet in packets_of(part) if packet.size):
                packet.pts = packet.dts = 40 * i
                packet.time_base, packet.stream = Fraction(1, 1000), stream
                target.mux(packet)
    assert "pixels, where the clip is" in refused(tmp_path / name)
    if name.endswith("webm"):
        pytest.importorskip("decord")
        with pytest.raises(InputError, match="a frame is 128x96 pixels, where the clip is 64x48"):
            looked_at(tmp_path / name, "decord")


def packets_of(path: Path) -> list[Any]:
    with av.open(str(path)) as source:
        return list(source.demux(video=0))


def test_fields_that_begin_in_the_middle_are_found(tmp_path: Path) -> None:
    """Of an interlaced frame one field is shown, whatever the frames before it were."""
    combed = np.zeros((12, 96, 160, 3), np.uint8)
    for i in range(12):
        combed[i, ::2, 8 * i : 8 * i + 16], combed[i, 1::2, 8 * i + 4 : 8 * i + 20] = 255, 255
    plain = np.repeat(combed[:, ::2], 2, axis=1)
    make_clip(tmp_path / "plain.mp4", frames=plain, options={"crf": "5"})
    make_clip(
        tmp_path / "combed.mp4", frames=combed, options={"crf": "5", "flags": "+ildct+ilme", "x264-params": "tff=1"}
    )
    path = tmp_path / "clip.h264"
    path.write_bytes(annexb(tmp_path / "plain.mp4") + annexb(tmp_path / "combed.mp4"))
    assert looked_at(path)["ranges"][0]["flags"][-1] == "interlaced"
    assert "it is interlaced" in probe(path).notices
    frames, notices = read_frames(path)
    assert notices[-1] == "clip.h264: it is interlaced: of two fields in a frame the upper one is shown"
    assert (read_video(path).frames == frames).all()
    later = frames[18].astype(int)
    assert np.abs(later[10:80:2] - later[11:81:2]).mean() < 2


def test_sound_alone_and_a_stream_without_frames_are_no_clips(tmp_path: Path) -> None:
    for name, codec in (("sound.mp4", None), ("empty.mkv", "libvpx-vp9")):
        with av.open(str(tmp_path / name), "w") as container:
            if codec is not None:
                stream: Any = container.add_stream(codec, rate=25)
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            sound: Any = container.add_stream("aac", rate=8000, layout="mono")
            _add_silence(container, sound, 1.0)
    assert "it has no video stream" in refused(tmp_path / "sound.mp4")
    assert "it holds no frame that decodes" in refused(tmp_path / "empty.mkv")


def test_the_length_of_a_clip_is_that_of_its_frames(tmp_path: Path) -> None:
    """Neither the sound's nor what the header says, which is checked against limits, too."""
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound: Any = container.add_stream("aac", rate=8000, layout="mono")
        for i, image in enumerate(numbered_frames(25)):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        _add_silence(container, sound, 5.0)
    with use_limits(Limits(clip_seconds=2)):
        assert everywhere(tmp_path / "clip.mp4") == (list(range(25)), 25)
    with use_limits(Limits(clip_seconds=1)):
        make_clip(tmp_path / "long.mp4", num_frames=60)
        for read in (read_video, read_frames):
            with pytest.raises(InputError, match="the limit clip_seconds is 1: raise it"):
                read(tmp_path / "long.mp4")


# ---- colours ---------------------------------------------------------------------------------------

PATCHES = [(81, 90, 240), (145, 54, 34), (41, 240, 110), (180, 128, 128), (60, 100, 150), (16, 128, 128)]
WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Of red and blue in the brightness, by the matrix's code point in ITU-T H.273."""


def write_patches(path: Path, codec: str, pix_fmt: str, matrix: int, color_range: int) -> None:
    """A frame of each colour, in the values that the file stores, without any conversion."""
    dtype, scale = (np.dtype("<u2"), 4) if "10" in pix_fmt else (np.dtype("u1"), 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options={"crf": "1"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = 128, 96, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        for i, patch in enumerate(PATCHES):
            frame = av.VideoFrame(128, 96, pix_fmt)
            for plane, value in zip(frame.planes, patch, strict=True):
                plane.update(np.full(plane.buffer_size // dtype.itemsize, value * scale, dtype).tobytes())
            frame.colorspace, frame.color_range = matrix, color_range
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def converted(patch: tuple[int, ...], matrix: int, full: bool) -> np.ndarray:
    """A colour as RGB, by the definitions of ITU-R BT.601, 709 and 2020."""
    red, blue = WEIGHTS[matrix if matrix != 2 else 6]
    y, u, v = patch[0], patch[1] - 128.0, patch[2] - 128.0
    if not full:
        y, u, v = (y - 16) * 255 / 219, u * 255 / 224, v * 255 / 224
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    return np.clip([r, (y - red * r - blue * b) / (1 - red - blue), b], 0, 255)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 6, 9, 2], ids=["bt709", "bt601", "bt2020", "untagged"])
@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("clip.mp4", "libx264", "yuv420p"),
        ("clip.mp4", "libx264", "yuv444p"),
        ("clip.mp4", "libx264", "yuv420p10le"),
        ("clip.webm", "libvpx-vp9", "yuv420p"),
        ("clip.mkv", "ffv1", "yuv420p10le"),
    ],
)
def test_colours_are_those_of_the_tags(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, matrix: int, full: bool
) -> None:
    path = tmp_path / name
    write_patches(path, codec, pix_fmt, matrix, 2 if full else 1)
    right = np.array([converted(patch, matrix, full) for patch in PATCHES])
    with open_clip(Media(path)) as clip:
        data = clip.frames(range(len(PATCHES)))
    for frames in (read_video(path).frames, read_frames(path)[0], data):
        assert np.abs(frames[:, 40, 60] - right).max() < 3.5
