"""One reader for clips and pictures: what players show, the same for commands and data tools, within limits."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips_made import make_clip, numbered_frames, numbers_of
from PIL import Image, ImageCms

from videodit.datasets.clips.reading.readers import open_clip
from videodit.datasets.clips.reading.records import Media
from videodit.datasets.clips.scanning.clip_features import range_features
from videodit.errors import InputError
from videodit.limits import Limits, use_limits
from videodit.media import probe, read_video, write_video
from videodit.pipelines.pixels import read_frames
from videodit.reading.timing import find_gaps, parts_between, settle_times


def sides(path: Path) -> list[tuple[int, ...] | str]:
    """What the data tools, the commands, and `info` say of a clip: its height and width, or why it is refused."""

    def data() -> tuple[int, ...]:
        with open_clip(Media(path)) as clip:
            return clip.frames([0]).shape[1:3]

    found: list[tuple[int, ...] | str] = []
    for read in (
        data,
        lambda: read_frames(path, fps=16.0)[0].shape[1:3],
        lambda: read_video(path).frames.shape[1:3],
        lambda: (probe(path).height, probe(path).width),
    ):
        try:
            found.append(read())
        except InputError as error:
            found.append(str(error))
    return found


# ---- the same everywhere ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "size"),
    [
        ({"rotation": 90}, (64, 48)),
        ({"rotation": 180}, (48, 64)),
        ({"options": {"x264-params": "sar=2/1"}}, (48, 128)),
        ({"rotation": 270, "options": {"x264-params": "sar=2/1"}}, (128, 48)),
    ],
)
def test_a_clip_has_the_size_that_players_show(tmp_path: Path, made: dict[str, Any], size: tuple[int, int]) -> None:
    make_clip(tmp_path / "clip.mp4", **made)
    assert sides(tmp_path / "clip.mp4") == [size] * 4


def tagged_as_transparent(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["alpha_mode"] = "1"
        for image in numbered_frames(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("kind", ["PQ", "HLG", "yuva420p", "alpha_mode", "30 degrees"])
def test_what_is_refused_is_refused_everywhere(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("clip.webm" if kind == "alpha_mode" else "clip.mkv" if kind == "yuva420p" else "clip.mp4")
    if kind == "alpha_mode":
        tagged_as_transparent(path)
    elif kind == "yuva420p":
        make_clip(path, codec="ffv1", pix_fmt="yuva420p", gop=1)
    elif kind == "30 degrees":
        make_clip(path, rotation=30)
    else:
        transfer = {"PQ": "smpte2084", "HLG": "arib-std-b67"}[kind]
        make_clip(path, matrix=9, options={"x264-params": f"transfer={transfer}"})
    found = sides(path)
    assert len(set(found)) == 1
    assert re.search("HDR|transparent|quarter turn", str(found[0]))


def test_interlaced_clips_lose_their_comb_and_are_flagged(tmp_path: Path) -> None:
    """A white bar that moves 8 pixels from one field to the next."""
    fields = np.zeros((32, 48, 160, 3), np.uint8)
    for i, field in enumerate(fields):
        field[:, 4 * i : 4 * i + 16] = 255
    frames = np.zeros((16, 96, 160, 3), np.uint8)
    frames[:, ::2], frames[:, 1::2] = fields[::2], fields[1::2]
    options = {"crf": "5", "flags": "+ildct+ilme", "x264-params": "tff=1"}
    make_clip(tmp_path / "clip.mp4", frames=frames, options=options)
    with open_clip(Media(tmp_path / "clip.mp4")) as clip:
        assert clip.info.interlaced
        assert "interlaced" in range_features(clip, 0.0, None)["flags"]
        found = clip.frames([3])[0].astype(int)
    commands, notices = read_frames(tmp_path / "clip.mp4", fps=25.0)
    for frame in (found, commands[3].astype(int)):
        assert np.abs(frame[10:80:2] - frame[11:81:2]).mean() < 2
    assert any("interlaced" in notice for notice in notices)


def test_a_picture_is_told_by_its_bytes(tmp_path: Path) -> None:
    Image.fromarray(numbered_frames(1)[0]).save(tmp_path / "still.png")
    with pytest.raises(InputError, match="it is a picture, not a video"):
        read_video(tmp_path / "still.png")
    (tmp_path / "still.png").rename(tmp_path / "still.mp4")  # told by its bytes, not by its name
    assert read_frames(tmp_path / "still.mp4")[0].shape == (1, 48, 64, 3)


# ---- time ------------------------------------------------------------------------------------------


def test_a_variable_rate_is_brought_to_another_by_time(tmp_path: Path) -> None:
    times = [k / 4 for k in range(8)] + [2 + k / 32 for k in range(56)]
    make_clip(tmp_path / "clip.mp4", num_frames=64, times=[round(t, 3) for t in times])
    frames, notices = read_frames(tmp_path / "clip.mp4", fps=16.0)
    assert abs(len(frames) - 60) <= 1
    assert numbers_of(frames[[8, 16, 24]]) == [2, 4, 6]
    assert "become" in notices[0]
    info = probe(tmp_path / "clip.mp4")
    assert (float(info.fps), info.duration) == (pytest.approx(17, abs=0.3), pytest.approx(3.75, abs=0.05))


def test_a_jump_in_time_is_named_or_cuts_the_clip(tmp_path: Path) -> None:
    times = [*(i / 25 for i in range(20)), *(600 + i / 25 for i in range(20))]
    make_clip(tmp_path / "clip.mp4", num_frames=40, times=times)
    with pytest.raises(InputError, match=r"its time stamps jump by 599\.2 s behind 0\.76 s"), use_limits(
        Limits(clip_seconds=1000)
    ):  # fmt: skip
        read_frames(tmp_path / "clip.mp4", fps=16.0)
    with open_clip(Media(tmp_path / "clip.mp4")) as clip:
        look = range_features(clip, 0.0, None)
    assert "time gaps" in look["flags"]
    assert [(round(a, 2), round(b, 2)) for a, b in look["parts"]] == [(0, 0.8), (600, 600.8)]


def test_gaps_are_what_the_rate_does_not_explain() -> None:
    assert find_gaps(np.arange(9) / 25) == []
    assert find_gaps(np.arange(9) * 2.0) == []  # a time lapse
    assert find_gaps(np.array([0.0, 5000.0, 10000.0])) == [(0, 5000), (5000, 10000)]
    assert parts_between(np.array([0, 0.5, 9.0, 9.5]), 0.0, 10.0) == [(0.0, 1.0), (9.0, 10.0)]


def test_time_stamps_that_files_get_wrong() -> None:
    base = Fraction(1, 10)
    assert settle_times([0, 2, 1, 4, 3], [None] * 5, base, None)[0].tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert settle_times([5, 5, 6], [1, 2, 3], base, None)[0].tolist() == pytest.approx([0, 0.1, 0.2])
    times, notice = settle_times([None] * 3, [None] * 3, base, Fraction(4))
    assert times.tolist() == [0, 0.25, 0.5]
    assert notice == "its frames have no time stamps: its frames are played at 4 fps"
    from videodit.reading.files import Unreadable

    with pytest.raises(Unreadable, match=r"do not rise \(frame 1\), and it does not say its frame rate"):
        settle_times([5, 5], [None, None], base, None)


@pytest.mark.parametrize("name", ["raw.h264", "coding.mkv"])
def test_streams_without_right_time_stamps_are_read_in_order(tmp_path: Path, name: str) -> None:
    make_clip(tmp_path / "clip.mp4", num_frames=30, b_frames=3, gop=10)
    with av.open(str(tmp_path / "clip.mp4")) as old, av.open(str(tmp_path / name), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(one for one in old.demux(video=0) if one.size):
            packet.pts = packet.dts = i * 512  # the order of coding
            packet.stream = stream
            new.mux(packet)
    with open_clip(Media(tmp_path / name)) as clip:
        assert numbers_of(clip.frames(range(30))) == list(range(30))
        assert numbers_of(clip.frames([4, 21])) == [4, 21]
    assert numbers_of(read_video(tmp_path / name).frames) == list(range(30))


# ---- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(clip_pixels=2000), "clip_pixels"),
        (Limits(clip_frames=11), "clip_frames"),
        (Limits(file_bytes=100), "file_bytes"),
        (Limits(kept_bytes=10_000), "kept_bytes"),
    ],
)
def test_a_clip_that_asks_for_too_much_is_refused_with_the_way_out(tmp_path: Path, limits: Limits, name: str) -> None:
    make_clip(tmp_path / "clip.mp4")
    for read in (read_video, lambda path: read_frames(path, fps=16.0)):
        with use_limits(limits), pytest.raises(InputError, match=rf"clip\.mp4'.*raise it with --limit {name}="):
            read(tmp_path / "clip.mp4")
        read(tmp_path / "clip.mp4")


def test_a_slow_clip_does_not_become_many_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "slow.mp4", numbered_frames(3), fps=0.0002)
    with pytest.raises(InputError, match="it lasts 15,000 s; the limit clip_seconds is 600"):
        read_frames(tmp_path / "slow.mp4", fps=16.0)
    with open_clip(Media(tmp_path / "slow.mp4")) as clip:
        parts = range_features(clip, 0.0, None)["parts"]
    assert sum(b - a for a, b in parts) <= 3


def test_a_large_picture_is_refused_by_its_header(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    Image.new("L", (9000, 8000)).save(tmp_path / "large.png")
    for path in (tmp_path / "large.png", str(tmp_path / "large.png")):
        with pytest.raises(InputError, match="it has 9000x8000 pixels; the limit picture_pixels is 64,000,000"):
            read_frames(path)
    with use_limits(Limits(picture_pixels=80_000_000)):
        assert read_frames(tmp_path / "large.png")[0].shape == (1, 8000, 9000, 3)
    assert not recwarn.list


def test_frames_are_fitted_as_they_are_read(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", num_frames=25)
    with use_limits(Limits(kept_bytes=25 * 16 * 16 * 3)):
        frames, notices = read_frames(tmp_path / "clip.mp4", fps=25.0, size=(16, 16))
    assert frames.shape == (25, 16, 16, 3)
    assert notices == ["clip: of 64x48 the middle 48x48 is taken"]


# ---- what is never opened --------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXTINF:1,\nother.mp4\n"])
def test_a_clip_leads_to_no_other_file(tmp_path: Path, content: str) -> None:
    make_clip(tmp_path / "other.mp4")
    (tmp_path / "clip.mp4").write_text(content)
    found = sides(tmp_path / "clip.mp4")
    assert len(set(found)) == 1
    assert "neither a video nor an image" in str(found[0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["pipe.mp4", "pipe.png"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="it is not a regular file"):
        read_frames(tmp_path / name)


def test_media_are_opened_in_one_place(root: Path) -> None:
    others = "VideoCapture|imread|open_video|read_image|load_image|load_video|decode_image|FFmpegReader"
    opened = re.compile(rf"\b(av\.open|Image\.open|VideoReader|imageio|{others})\(|^import (imageio|torchvision)", re.M)
    found = {
        str(file.relative_to(root))
        for folder in ("videodit", "pipelines", "datasets", "examples", "benchmarks")
        for file in (root / folder).rglob("*.py")
        if opened.search(file.read_text(encoding="utf-8"))
    }
    # The writer, what stamps the files that it wrote, decord, and what reads screenshots that it has just taken.
    writers = {"videodit/media.py", "videodit/recipes_in_clips.py", "datasets/clips/reading/readers.py"}
    writers.add("benchmarks/page_pictures.py")
    assert found == {"videodit/reading/files.py", "videodit/reading/pictures.py"} | writers


# ---- pictures --------------------------------------------------------------------------------------


def both(path: Path) -> tuple[np.ndarray, list[str]]:
    """A picture's pixels, which the data tools and the commands must agree about, and the notices."""
    with open_clip(Media(path)) as clip:
        data = clip.frames([0])
    frames, notices = read_frames(path)
    assert (data == frames).all()
    return frames[0], notices


def test_a_colour_profile_is_applied_and_a_damaged_one_told(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.fromarray(numbered_frames(1)[0])
    picture.save(tmp_path / "srgb.png", icc_profile=lab)
    pixels, notices = both(tmp_path / "srgb.png")
    assert np.abs(pixels.astype(int) - np.asarray(picture)).max() <= 1
    assert notices == []
    # The primaries of red and green change places.
    swapped = bytearray(lab)
    red, green = swapped.index(b"rXYZ"), swapped.index(b"gXYZ")
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    picture.save(tmp_path / "swapped.png", icc_profile=bytes(swapped))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(bytes(swapped)))
    right = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"))
    pixels, _ = both(tmp_path / "swapped.png")
    assert np.abs(pixels.astype(int) - np.asarray(right)).max() <= 1
    picture.save(tmp_path / "broken.png", icc_profile=b"no profile")
    pixels, notices = both(tmp_path / "broken.png")
    assert (pixels == np.asarray(picture)).all()
    assert "colour profile cannot be used and is left out" in notices[0]


def test_a_profile_of_other_pixels_is_left_out_aloud(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png", icc_profile=profile)
    pixels, notices = both(tmp_path / "grey.png")
    assert (pixels == 77).all()
    assert "its colour profile is for RGB, not for its pixels" in notices[0]


def test_a_gamma_is_applied(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (64, 64, 64)).save(tmp_path / "plain.png")
    content = (tmp_path / "plain.png").read_bytes()
    chunk = b"gAMA" + struct.pack(">I", 100_000)
    chunk = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "linear.png").write_bytes(content[:33] + chunk + content[33:])
    pixels, notices = both(tmp_path / "linear.png")
    assert pixels[0, 0, 0] == round(255 * (64 / 255) ** 0.45455)
    assert "gamma of 1" in notices[0]


@pytest.mark.parametrize("name", ["rgba.png", "palette.png", "still.gif", "still.webp"])
def test_transparency_of_pictures_is_refused_everywhere(tmp_path: Path, name: str) -> None:
    picture = Image.new("RGBA", (16, 16), (200, 10, 10, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 8, 8))
    (picture.quantize() if name == "palette.png" else picture).save(tmp_path / name)
    for read in (both, read_frames):
        with pytest.raises(InputError, match="transparent in places: flatten its alpha channel"):
            read(tmp_path / name)


def test_cmyk_and_grey_become_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    assert both(tmp_path / "cmyk.jpg")[0][4, 4, 0] > 200
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    assert (both(tmp_path / "grey.png")[0] == 77).all()


def test_other_formats_of_pictures_are_not_opened(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "page.eps")
    (tmp_path / "page.eps").rename(tmp_path / "page.png")
    with pytest.raises(InputError, match=r"page\.png': it is not a picture of a kind that is read here"):
        read_frames(tmp_path / "page.png")
