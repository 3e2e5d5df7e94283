"""Clips as GIF, WebP and PNGs: what is in the files, what carries the recipe, and what is refused."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips_made import numbered_frames
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from videodit.animations import write_clip
from videodit.clip_files import check_output, files_of, rate_notices
from videodit.errors import InputError
from videodit.limits import Limits, use_limits
from videodit.media import read_recipe, write_video
from videodit.pipelines import VideoDiTPipelineOutput
from videodit.reading.animations import look_at
from videodit.reading.files import Media

RECIPE = {"prompt": "a <b>größer</b> ball", "seed": 7, "fps": 16}
NAMES = ["clip.mp4", "clip.gif", "clip.webp", "clip-%04d.png"]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def stored_frames(name: str) -> tuple[np.ndarray, list[int], Any]:
    """Frames, their milliseconds, and how often they play."""
    with Image.open(name) as image:
        frames, durations = [], []
        for index in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
        return np.stack(frames), durations, image.info["loop"]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def output_of(clips: int = 1, **recipe: Any) -> VideoDiTPipelineOutput:
    frames = np.stack([numbered_frames(5, seed=seed) for seed in range(clips)]).astype(np.float32) / 255
    return VideoDiTPipelineOutput(frames, 8, [{**RECIPE, **recipe} for _ in range(clips)], "np")


# ---- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_name_decides_the_format_and_the_recipe_travels(name: str) -> None:
    assert output_of().save(name) == [Path(name)]
    files = files_of(name)
    assert len(files) == (5 if name.endswith(".png") else 1)
    assert all(read_recipe(file) == RECIPE for file in files)
    assert sorted(os.listdir()) == [file.name for file in files]


@pytest.mark.parametrize(("name", "least"), [("clip.gif", 30), ("clip.webp", 30)])
def test_animations_show_the_frames_and_play_for_ever(name: str, least: float) -> None:
    frames = numbered_frames(7)
    write_clip(name, frames, fps=10)
    shown, durations, plays = stored_frames(name)
    assert shown.shape == frames.shape
    assert psnr(shown, frames) > least
    assert durations == [100] * 7
    assert plays == 0


def test_pngs_are_lossless_and_numbered_from_one() -> None:
    frames = numbered_frames(3)
    write_clip("new/%02d.png", iter([frames[:1], torch.from_numpy(frames[1:])]), fps=10)
    assert sorted(os.listdir("new")) == ["01.png", "02.png", "03.png"]
    assert all((np.asarray(Image.open(f"new/0{i + 1}.png")) == frames[i]).all() for i in range(3))


def test_few_colours_are_exact_and_equal_frames_stay_frames() -> None:
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[:, :8] = 200, 10, 10
    write_clip("clip.gif", frames, fps=4)
    shown, durations, _ = stored_frames("clip.gif")
    assert (shown == frames).all()
    assert durations == [250] * 4


def test_a_gif_keeps_a_rate_on_average_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    write_clip("clip.gif", numbered_frames(9), fps=24)
    assert sum(stored_frames("clip.gif")[1]) == 380  # 375 ms
    assert "frames last 4 or 5 of them, 24 fps on average" in caplog.text
    assert rate_notices("clip.gif", 25) == rate_notices("clip.mp4", 24) == rate_notices("clip.webp", 24) == []


def test_a_gif_slower_than_its_clip_says_so(caplog: pytest.LogCaptureFixture) -> None:
    write_clip("clip.gif", numbered_frames(3), fps=60)
    assert stored_frames("clip.gif")[1] == [20] * 3
    assert "the clip plays at 50, not 60 fps" in caplog.text
    with pytest.raises(InputError, match="lasts too long"):
        write_clip("clip.gif", numbered_frames(3), fps=0.001)


def test_several_clips_are_numbered_in_every_format() -> None:
    assert output_of(2).save("a.gif") == [Path("a-1.gif"), Path("a-2.gif")]
    assert output_of(2).save("b-%d.png") == [Path("b-%d-1.png"), Path("b-%d-2.png")]
    assert (len(files_of("b-%d-1.png")), len(files_of("b-%d-2.png"))) == (5, 5)


def test_a_shorter_sequence_replaces_a_longer_one_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (8, 8)).save("clip-0009.png")
    output_of().save("clip-%04d.png")
    write_clip("clip-%04d.png", numbered_frames(2), fps=8, recipe=RECIPE)
    assert sorted(os.listdir()) == ["clip-0001.png", "clip-0002.png", "clip-0009.png"]
    assert "3 files of the longer 'clip-%04d.png'" in caplog.text
    assert "1 files named as 'clip-%04d.png' are not of this clip and stay" in caplog.text


@pytest.mark.parametrize("name", [*NAMES, "new/clip-%04d.png"])
def test_an_error_leaves_nothing_and_what_was_there(name: str) -> None:
    def broken() -> Any:
        yield numbered_frames(2)
        raise RuntimeError("no more")

    if "new" not in name:
        output_of().save(name)
    before = {file: Path(file).read_bytes() for file in os.listdir()}
    with pytest.raises(RuntimeError, match="no more"):
        write_clip(name, broken(), fps=8)
    assert {file: Path(file).read_bytes() for file in os.listdir()} == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip.avi", r"must end in \.mp4, \.gif, \.webp, or -%04d\.png"),
        ("clip", r"must end in \.mp4"),
        ("clip.png", r"such as 'clip-%04d\.png'"),
        ("clip-%s.png", "one place for the frame's number"),
        ("clip-%d-%d.png", "one place for the frame's number"),
        ("clip-%99d.png", "one place for the frame's number"),
        ("none/clip.gif", "there is no folder 'none'"),
        ("none/none/%04d.png", "there is no folder"),
        ("folder.gif", "it is a folder"),
    ],
)
def test_names_that_cannot_be_written_are_refused_before_anything_is_made(name: str, message: str) -> None:
    Path("folder.gif").mkdir()
    with pytest.raises(InputError, match=message):
        check_output(name)
    with pytest.raises(InputError, match=message):
        output_of().save(name)


def test_frames_are_checked_in_every_format() -> None:
    for name in NAMES:
        with pytest.raises(InputError, match="no frames"):
            write_clip(name, iter(()), fps=8)
        with pytest.raises(InputError, match="uint8"):
            write_clip(name, np.zeros((1, 8, 8, 3)), fps=8)
        with pytest.raises(InputError, match="32x32 pixels; the file is 16x16"):
            write_clip(name, iter([np.zeros((1, n, n, 3), np.uint8) for n in (16, 32)]), fps=8)
    with pytest.raises(InputError, match="1 to 16383"):
        write_clip("clip.webp", np.zeros((1, 1, 16_384, 3), np.uint8), fps=8)


# ---- reading back ----------------------------------------------------------------------------------


def test_recipes_of_others_are_none() -> None:
    image, text = Image.new("RGB", (8, 8)), PngInfo()
    text.add_text("Comment", '{"prompt": "x"}')
    image.save("a.png", pnginfo=text)
    image.save("a.gif", comment=b'{"format": "other"}')
    image.save("a.webp", exif=b"Exif\0\0MM\0*\0\0\0\x08damaged")
    image.save("a.jpg")
    assert [read_recipe(f"a.{suffix}") for suffix in ("png", "gif", "webp", "jpg")] == [None] * 4


@pytest.mark.parametrize("name", NAMES[1:])
def test_files_that_are_cut_short_are_read_or_refused_by_name(name: str) -> None:
    output_of().save(name)
    file = files_of(name)[0]
    content = file.read_bytes()
    for length in [*range(1, 64), *range(64, len(content), 97)]:
        file.write_bytes(content[:length])
        with contextlib.suppress(InputError):  # nothing else is raised
            assert read_recipe(file) in (None, RECIPE)


def test_limits_hold_for_what_is_counted() -> None:
    write_clip("clip.gif", numbered_frames(9), fps=8, recipe=RECIPE)
    with use_limits(Limits(clip_frames=8)), pytest.raises(InputError, match="clip_frames"):
        read_recipe("clip.gif")
    with use_limits(Limits(file_bytes=100)), pytest.raises(InputError, match="file_bytes"):
        read_recipe("clip.gif")


def test_a_comment_that_is_too_long_is_passed_over() -> None:
    block = b"\xff" + b'{"a": "' + b"x" * 248
    long = b"\x21\xfe" + block * 5000 + b"\0"
    write_clip("clip.gif", numbered_frames(1), fps=8, recipe=RECIPE)
    content = Path("clip.gif").read_bytes()
    Path("clip.gif").write_bytes(content[:13] + long + content[13:])
    assert read_recipe("clip.gif") == RECIPE


def test_an_animated_png_is_counted() -> None:
    images = [Image.fromarray(frame) for frame in numbered_frames(3)]
    images[0].save("a.png", save_all=True, append_images=images[1:], duration=50)
    found = look_at(Media(Path("a.png")))
    assert found is not None
    assert (found.num_frames, found.width, found.height, found.plays) == (3, 64, 48, 0)
    assert found.seconds == pytest.approx(0.15)


def test_blocks_of_an_unknown_kind_are_refused() -> None:
    Path("a.gif").write_bytes(b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"\x99")
    with pytest.raises(InputError, match=r"cannot read 'a\.gif': the image does not decode"):
        read_recipe("a.gif")


# ---- notebooks -------------------------------------------------------------------------------------


def test_a_notebook_shows_the_clip_and_no_foreign_html() -> None:
    page = output_of(2, prompt='<script>alert("x")</script>', seed="<i>7</i>")._repr_html_()
    assert page is not None
    assert page.count('<video controls loop muted playsinline src="data:video/mp4;base64,') == 2
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in page
    assert "seed &lt;i&gt;7&lt;/i&gt;" in page
    assert "<script" not in page
    assert "<i>" not in page


def test_a_notebook_shows_what_there_is() -> None:
    board = output_of(prompt=[[0, "a <ball>"], [2.5, "a box"]])._repr_html_()
    assert board is not None
    assert "0: a &lt;ball&gt;<br>2.5: a box" in board
    bare = VideoDiTPipelineOutput(output_of().frames, 8, [], "np")._repr_html_()
    assert bare is not None
    assert "<figcaption></figcaption>" in bare
    assert VideoDiTPipelineOutput(torch.zeros(1, 4, 2, 2, 2), 8, [], "latent")._repr_html_() is None


def test_a_clip_that_is_too_large_for_a_page_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videodit.pipelines.html._LARGEST", 10)
    page = output_of()._repr_html_()
    assert page is not None
    assert "too many for a page" in page
    assert "base64" not in page


def test_a_video_without_a_recipe_has_none() -> None:
    write_video("clip.mp4", numbered_frames(2), fps=8)
    assert read_recipe("clip.mp4") is None
