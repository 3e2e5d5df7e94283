"""Animated GIFs and WebPs as clips that others start from: frames, times, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videodit.animations import write_clip
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.limits import current_limits, use_limits
from videodit.media import read_video
from videodit.pipelines.pixels import read_frames
from videodit.reading.clip import open_clip
from videodit.reading.files import Media

QUICK = ("--steps", "2", "--seed", "3", "--device", "cpu", "--dtype", "float32")


def moving(frames: int, side: int = 32) -> np.ndarray:
    """A bright edge that wanders, in few colours."""
    clip = np.full((frames, side, side, 3), 40, np.uint8)
    for i in range(frames):
        clip[i, :, : 1 + i % side] = (200, 120, 60)
    return clip


def timed(path: Path, milliseconds: list[int]) -> Path:
    images = [Image.fromarray(frame) for frame in moving(len(milliseconds))]
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, lossless=True)
    return path


@pytest.mark.parametrize("fps", [7.3, 12, 16, 50])
@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_what_is_written_is_read_at_its_rate(tmp_path: Path, suffix: str, fps: float) -> None:
    clip = moving(17)
    write_clip(tmp_path / f"a{suffix}", clip, fps=fps)
    found, notices = read_frames(tmp_path / f"a{suffix}", fps=fps)
    assert found.shape == clip.shape
    assert np.abs(found.astype(int) - clip).mean() <= (0 if suffix == ".gif" else 3)
    assert notices == []


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_frames_stand_for_as_long_as_the_file_says(tmp_path: Path, suffix: str) -> None:
    found, notices = read_frames(timed(tmp_path / f"a{suffix}", [100, 300, 200]), fps=10)
    assert (found == moving(3)[[0, 1, 1, 1, 2, 2]]).all()
    assert notices == [f"a{suffix}: it has 5 fps: 3 frames become 6 at 10 fps"]


def test_times_that_players_show_differently_are_refused(tmp_path: Path) -> None:
    for milliseconds in ([100, 0, 100], [100, 10, 100]):
        path = timed(tmp_path / "a.gif", milliseconds)
        message = rf"a\.gif': frame 2 of the animation lasts {milliseconds[1] / 1000:g} s, which players show for"
        with pytest.raises(InputError, match=message):
            read_frames(path, fps=10)


def test_damage_transparency_and_limits(tmp_path: Path) -> None:
    whole = timed(tmp_path / "a.webp", [100, 100, 100]).read_bytes()
    (tmp_path / "cut.webp").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"cut\.webp': the image does not decode"):
        read_frames(tmp_path / "cut.webp", fps=10)
    place = whole.index(b"ANMF", whole.index(b"ANMF") + 4) + 8 + 16 + 8  # the pixels of the second frame
    (tmp_path / "broken.webp").write_bytes(whole[:place] + b"\xff" * 6 + whole[place + 6 :])
    with pytest.raises(InputError, match=r"broken\.webp': .*does not decode"):
        read_frames(tmp_path / "broken.webp", fps=10)
    images = [Image.new("RGBA", (8, 8), (255, 0, 0, alpha)) for alpha in (255, 0)]
    images[0].save(tmp_path / "clear.webp", save_all=True, append_images=images[1:], duration=100, lossless=True)
    with pytest.raises(InputError, match=r"clear\.webp': it is transparent in places"):
        read_frames(tmp_path / "clear.webp", fps=10)
    with use_limits(current_limits().replace(["clip_frames=2"])), pytest.raises(InputError, match="it has 3 frames"):
        read_frames(tmp_path / "a.webp", fps=10)


def test_single_frames_are_not_sought_in_an_animation(tmp_path: Path) -> None:
    """Data tools read windows of clips, for which an animation would be decoded from its beginning each time."""
    with pytest.raises(InputError, match="animated image"), open_clip(Media(timed(tmp_path / "a.gif", [100, 100]))):
        pass


def test_numbered_pictures_are_no_clip(tmp_path: Path) -> None:
    write_clip(tmp_path / "a-%04d.png", moving(5), fps=16)
    with pytest.raises(InputError, match=r"a-%04d\.png': .*numbered pictures store no times"):
        read_frames(tmp_path / "a-%04d.png", fps=16)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_commands_start_from_what_they_write(
    suffix: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ("-m", str(tiny_model))
    assert main(["generate", "a red ball", *model, *QUICK, "--frames", "9", "-o", f"a{suffix}"]) == 0
    assert main(["edit", f"a{suffix}", "a blue ball", *model, *QUICK, "--strength", "1", "-o", "b.mp4"]) == 0
    assert len(read_video(tmp_path / "b.mp4").frames) == 9
    capsys.readouterr()
    assert main(["extend", f"a{suffix}", *model, *QUICK, "--seconds", "0.25", "-o", f"c{suffix}"]) == 0
    assert f"the prompt of a{suffix}: a red ball" in capsys.readouterr().err
    assert len(read_frames(tmp_path / f"c{suffix}")[0]) == 13
