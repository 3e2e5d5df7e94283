"""`edit`, `extend`, `connect`, and `generate` with pictures, loops, storyboards and windows: files, errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_cli import _restored_logging

from videodit import VideoDiTPipeline
from videodit.cli.main import main
from videodit.media import read_recipe, read_video, write_video

__all__ = ["_restored_logging"]

QUICK = ("--steps", "2", "--seed", "3", "--device", "cpu", "--dtype", "float32")
PROMPT = "a red ball"


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def smooth_clip(frames: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """A bright stripe that wanders: something that survives an MP4."""
    clip = np.full((frames, *size, 3), 40, np.uint8)
    for i in range(frames):
        clip[i, :, (2 * i) % size[1] : (2 * i) % size[1] + 8] = (200, 120, 60)
    return clip


def written(name: str, frames: int, fps: float = 16, size: tuple[int, int] = (32, 32), **recipe: Any) -> str:
    write_video(name, smooth_clip(frames, size), fps=fps, recipe=recipe or None)
    return name


def picture(name: str, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> str:
    Image.fromarray(smooth_clip(1, size)[0]).convert(mode).save(name)
    return name


def frames_of(path: str) -> np.ndarray:
    return read_video(path).frames


def run(model: Path, *arguments: str) -> None:
    assert main([*arguments, "--model", str(model), *QUICK]) == 0


# ---- clips that are made ----------------------------------------------------------------------------


def test_edit_makes_a_clip_of_the_same_length(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny_model, "edit", written("in.mp4", 19), PROMPT, "--strength", "0.5")
    assert "the last 2 frames of in.mp4 are left out: the model makes 4k+1 frames" in capsys.readouterr().err
    found = frames_of("in-edit-3.mp4")
    assert found.shape == (17, 32, 32, 3)
    recipe = read_recipe("in-edit-3.mp4")
    assert recipe is not None
    (record,) = recipe["conditions"]
    assert record["strength"] == 0.5
    assert recipe["prompt"] == PROMPT


def test_edit_by_two_prompts(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terms = ("--source-prompt", "a blue ball", "--source-cfg", "2", "--n-avg", "2", "--auto-mask")
    run(tiny_model, "edit", written("in.mp4", 17), PROMPT, *terms, "--strength", "0.5")
    (record,) = read_recipe("in-edit-3.mp4")["conditions"]  # type: ignore[index]
    del record["edit"]
    assert record == {
        "strength": 0.5,
        "source_prompt": "a blue ball",
        "source_guidance_scale": 2.0,
        "n_avg": 2,
        "auto_mask": True,
    }
    Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save("mask.png")
    run(tiny_model, "edit", "in.mp4", PROMPT, *terms[:2], "--mask", "mask.png", "-o", "b.mp4")
    region, edit = read_recipe("b.mp4")["conditions"]  # type: ignore[index]
    assert ("region" in region, edit["strength"], edit["auto_mask"]) == (True, 0.8, False)
    assert main(["edit", "in.mp4", PROMPT, "--auto-mask", "--model", str(tiny_model), *QUICK]) == 2
    assert "--auto-mask is True, which is for an Edit with --source-prompt" in capsys.readouterr().err
    assert main(["edit", "in.mp4", PROMPT, *terms[:2], "--outpaint", "48x48", "--model", str(tiny_model), *QUICK]) == 2
    assert "--outpaint makes what is around a clip" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["100%d of ünïcode", "back\\slash"])
def test_paths_with_odd_signs(tiny_model: Path, name: str) -> None:
    """A backslash is a sign of a name here and divides folders on Windows: both have to work."""
    folder, model = Path(f"{name} dir"), Path("my model")
    folder.mkdir(parents=True)
    shutil.copytree(tiny_model, model)
    prompts = folder / "some prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": PROMPT, "frames": 5, "output": "l 1.mp4"}))
    run(model, "generate", "--prompts", str(prompts), "-o", str(folder))
    source = f"{folder}{os.sep}a {Path(name).name}.mp4"
    run(model, "generate", PROMPT, "--frames", "9", "-o", source)
    run(model, "edit", source, "a blue ball", "--strength", "1", "-o", f"{name} dir/b.gif")
    run(model, "edit", f"{name} dir/b.gif", "a blue ball", "--strength", "1", "-o", str(folder / "c.mp4"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [Path(source).name, "b.gif", "c.mp4", "l 1.mp4", "some prompts.jsonl"]
    )
    assert main(["remake", source, "-m", str(model), "-o", str(folder / "again.mp4")]) == 0


def test_edit_inside_a_mask_keeps_the_rest(tiny_model: Path) -> None:
    """The kept half is the autoencoder's own, whatever is made beside it."""
    written("in.mp4", 17)
    white = np.zeros((32, 32), np.uint8)
    white[:, 16:] = 255
    Image.fromarray(white).save("mask.png")
    run(tiny_model, "edit", "in.mp4", PROMPT, "--mask", "mask.png", "-o", "a.mp4")
    run(tiny_model, "edit", "in.mp4", "a blue cone", "--mask", "mask.png", "-o", "b.mp4")
    (record,) = read_recipe("a.mp4")["conditions"]  # type: ignore[index]
    assert "region" in record
    a, b = (frames_of(name).astype(float) for name in ("a.mp4", "b.mp4"))
    assert np.abs(a - b)[:, :, :8].mean() < np.abs(a - b)[:, :, 16:].mean()


def test_a_mask_that_moves_may_be_as_long_as_the_clip_was(tiny_model: Path) -> None:
    written("in.mp4", 19)
    white = np.zeros((19, 32, 32, 3), np.uint8)
    white[:, 16:] = 255
    write_video("mask.mp4", white, fps=16)
    run(tiny_model, "edit", "in.mp4", PROMPT, "--mask", "mask.mp4", "-o", "out.mp4")
    assert len(frames_of("out.mp4")) == 17


def test_outpaint_makes_what_is_around(tiny_model: Path) -> None:
    run(tiny_model, "edit", written("in.mp4", 5), PROMPT, "--outpaint", "64x48", "-o", "out.mp4")
    assert frames_of("out.mp4").shape == (5, 48, 64, 3)


@pytest.mark.parametrize(
    ("flags", "name", "frames", "at"),
    [((), "in-after-3.mp4", 17 + 16, 0), (("--backward",), "in-before-3.mp4", 16 + 16 + 1, 17)],
)
def test_extend_holds_both(tiny_model: Path, flags: tuple[str, ...], name: str, frames: int, at: int) -> None:
    """A second is 16 frames; backward clips keep whole groups, and begin with a frame of their own."""
    run(tiny_model, "extend", written("in.mp4", 17), PROMPT, "--seconds", "1", *flags)
    assert len(frames_of(name)) == frames
    (record,) = read_recipe(name)["conditions"]  # type: ignore[index]
    assert (record["at"], record["count"]) == (at, frames - 16 - (1 if flags else 0))


def test_extend_takes_the_clips_own_prompt(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny_model, "extend", written("in.mp4", 9, prompt="a blue cone"), "--seconds", "0.5", "-o", "out.mp4")
    assert "the prompt of in.mp4: a blue cone" in capsys.readouterr().err
    assert read_recipe("out.mp4")["prompt"] == "a blue cone"  # type: ignore[index]


def test_a_clip_of_another_rate_is_resampled_aloud(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny_model, "extend", written("in.mp4", 8, fps=8), PROMPT, "--seconds", "0.5", "-o", "out.mp4")
    told = capsys.readouterr().err
    assert "in.mp4: it has 8 fps: 8 frames become 16 at 16 fps" in told
    assert "the last 3 frames of in.mp4 are left out" in told
    assert len(frames_of("out.mp4")) == 13 + 8


def test_connect_holds_all_three(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny_model, "connect", written("a.mp4", 10), written("b.mp4", 9), PROMPT, "--seconds", "0.5")
    told = capsys.readouterr().err
    assert "the last frame of a.mp4 is left out" in told
    assert "the last frame of b.mp4 is left out" in told
    assert len(frames_of("a-to-b-3.mp4")) == 9 + 8 + 8
    first, last = read_recipe("a-to-b-3.mp4")["conditions"]  # type: ignore[index]
    assert [(one["at"], one["count"]) for one in (first, last)] == [(0, 9), (17, 8)]


def test_key_frames_and_ways_to_fit(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture("a.png", (32, 64))
    run(
        tiny_model, "generate", PROMPT, "--keyframe", "a.png@0", "--keyframe", "a.png@-1", "--fit", "pad", "-o", "o.mp4"
    )  # fmt: skip
    assert "64x32 gets black bars to become 32x32" in capsys.readouterr().err
    records = read_recipe("o.mp4")["conditions"]  # type: ignore[index]
    assert [one["at"] for one in records] == [0, 16]


def test_a_loop_has_whole_groups(tiny_model: Path) -> None:
    run(tiny_model, "generate", PROMPT, "--loop", "--frames", "16", "-o", "out.mp4")
    assert len(frames_of("out.mp4")) == 16
    assert read_recipe("out.mp4")["loop"] is True  # type: ignore[index]


def test_a_loop_takes_a_length_that_it_can_have(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody asked for frames: the command chooses, and says what it has chosen without a warning."""
    assert main(["generate", PROMPT, "--loop", "--model", str(tiny_model), "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert re.search("frames +16 at 16 fps, a loop", captured.out)
    assert "the loop has 16 frames: the nearest to the model's own 17 that a loop can have" in captured.err
    assert "worse" not in captured.err
    assert "become" not in captured.err
    assert main(["generate", PROMPT, "--loop", "--frames", "17", "--model", str(tiny_model), "--dry-run"]) == 0
    assert "17 frames become 16: the count must be 4k" in capsys.readouterr().err


def test_a_storyboard_says_how_long_the_clip_is(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last scene lasts as long as the one before it, rounded up to what the model can make."""
    Path("s.txt").write_text("0, a red ball\n2, a blue cone\n")
    command = ["generate", "--storyboard", "s.txt", "--model", str(tiny_model), "--dry-run"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert re.search("frames +65 at 16 fps", captured.out)
    assert "the storyboard makes the clip 4.062 s long, 65 frames: its last scene lasts as long as" in captured.err
    assert "worse" not in captured.err
    assert main([*command, "--seconds", "3"]) == 0
    assert re.search("frames +49 at 16 fps", capsys.readouterr().out)
    Path("s.txt").write_text("0, a red ball\n3.09, a blue cone\n3.1, a ring\n")  # 49.8 frames, nearest to 49
    assert main(command) == 0
    assert re.search("frames +53 at 16 fps", capsys.readouterr().out)


# ---- nothing is replaced unasked ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("edit", "in.mp4", PROMPT),
        ("edit", "link.mp4", PROMPT),
        ("edit", "a.mp4", PROMPT, "--mask", "in.mp4"),
        ("extend", "in.mp4", PROMPT),
        ("connect", "in.mp4", "a.mp4", PROMPT),
        ("connect", "a.mp4", "in.mp4", PROMPT),
        ("generate", PROMPT, "--image", "in.mp4"),
        ("generate", PROMPT, "--last-image", "in.mp4"),
        ("generate", PROMPT, "--keyframe", "in.mp4@0"),
        ("generate", "--storyboard", "in.mp4"),
    ],
)
@pytest.mark.parametrize("output", ["in.mp4", "link.mp4", "hard.mp4", "./in.mp4"])
def test_no_clip_replaces_what_it_is_made_from(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], output: str
) -> None:
    """Under whatever name, and with --overwrite, too."""
    if "--storyboard" in arguments:
        Path("in.mp4").write_text("0, a ball\n")
    elif "--image" in arguments or "--last-image" in arguments:
        picture("in.png")
        Path("in.png").rename("in.mp4")
    else:
        written("in.mp4", 17)
        written("a.mp4", 17)
    before = Path("in.mp4").read_bytes()
    Path("link.mp4").symlink_to("in.mp4")
    Path("hard.mp4").hardlink_to("in.mp4")
    assert main([*arguments, "--model", str(tiny_model), "-o", output, "--overwrite"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert f"--output {str(Path(output))!r} is the same file as the input" in line
    assert Path("in.mp4").read_bytes() == before


@pytest.mark.parametrize("arguments", [("edit", "in.mp4", PROMPT), ("extend", "in.mp4", PROMPT, "--seconds", "0.25")])
def test_other_clips_are_replaced_when_that_is_asked_for(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    written("in.mp4", 5)
    Path("out.mp4").write_text("old")
    command = [*arguments, "--model", str(tiny_model), *QUICK]
    assert main([*command, "-o", "out.mp4"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line == "error: 'out.mp4' exists; choose another name with -o, or replace it with --overwrite"
    assert Path("out.mp4").read_text() == "old"
    assert main([*command, "-o", "out.mp4", "--overwrite"]) == 0
    assert len(frames_of("out.mp4")) >= 5
    Path("clips").mkdir()
    for _ in range(2):
        assert main([*command, "-o", "clips"]) == 0
    kind = "edit" if arguments[0] == "edit" else "after"
    assert sorted(os.listdir("clips")) == [f"in-{kind}-3-2.mp4", f"in-{kind}-3.mp4"]


def test_clips_are_read_and_written_at_the_rate_that_is_asked_for(tiny_model: Path) -> None:
    run(tiny_model, "edit", written("in.mp4", 18), PROMPT, "--fps", "8", "-o", "out.mp4")
    assert read_recipe("out.mp4")["fps"] == 8  # type: ignore[index]
    assert len(frames_of("out.mp4")) == 9
    run(tiny_model, "extend", "in.mp4", PROMPT, "--fps", "8", "--seconds", "1", "-o", "longer.mp4")
    assert len(frames_of("longer.mp4")) == 9 + 8


def test_edits_tell_where_the_time_went(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny_model, "edit", written("in.mp4", 5), PROMPT, "--profile", "--accelerate", "lossless", "-o", "out.mp4")
    assert re.search(r"steps +[\d.]+ s: 1 steps?,", capsys.readouterr().out)


def test_a_storyboard_names_the_clip(tiny_model: Path) -> None:
    Path("s.txt").write_text("0, a red ball\n0.5, a blue cone\n")
    run(tiny_model, "generate", "--storyboard", "s.txt")
    assert read_recipe("a-red-ball-3.mp4")["prompt"] == [[0.0, "a red ball"], [0.5, "a blue cone"]]  # type: ignore[index]


# ---- tried dry ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (("edit", "in.mp4", PROMPT), ["frames +17 at 16 fps", "keeps +as much of the clip as strength 0.6 leaves"]),
        (
            ("edit", "in.mp4", PROMPT, "--outpaint", "64x64"),
            ["size +64x64", "keeps +the clip where the mask is black"],
        ),
        (("extend", "in.mp4", PROMPT), ["frames +49 at", "keeps +frames 0 to 16, strength 1"]),
        (("extend", "in.mp4", PROMPT, "--backward"), ["frames +49 at", "keeps +frames 33 to 48, strength 1"]),
        (("connect", "in.mp4", "in.mp4", PROMPT), ["frames +49 at", "frames 0 to 16", "frames 33 to 48"]),
        (("generate", PROMPT, "--keyframe", "a.png@8"), ["keeps +frame 8, strength 1"]),
        (("generate", PROMPT, "--loop", "--frames", "16"), ["frames +16 at 16 fps, a loop"]),
        (("generate", "--storyboard", "s.txt"), ["prompt +from 0 s: a ball", "prompt +from 0.5 s: a cone"]),
    ],
)
def test_dry_runs_say_what_is_given_and_make_nothing(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], rows: list[str],
) -> None:  # fmt: skip
    written("in.mp4", 17)
    picture("a.png")
    Path("s.txt").write_text("0, a ball\n0.5, a cone\n")
    before = sorted(os.listdir())
    monkeypatch.setattr(VideoDiTPipeline, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    assert main([*arguments, "--model", str(tiny_model), "--dry-run"]) == 0
    told = capsys.readouterr().out
    for row in rows:
        assert re.search(row, told), row
    assert sorted(os.listdir()) == before


# ---- errors before weights load -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("edit", "none.mp4", PROMPT), "cannot read 'none.mp4'"),
        (("edit", "text.mp4", PROMPT), "text.mp4"),
        (("edit", "in.mp4", PROMPT, "--strength", "1.5"), "--strength must be above 0 and at most 1, got 1.5"),
        (
            ("edit", "in.mp4", PROMPT, "--strength", "0.01", "--steps", "2"),
            "--strength is 0.01, which leaves none of 2 steps; 0.5 leaves one",
        ),
        (("edit", "in.mp4", PROMPT, "--mask", "none.png"), "cannot read the image 'none.png'"),
        (("edit", "in.mp4", PROMPT, "--mask", "short.mp4"), "--mask has 5 frames and the clip 17"),
        (("edit", "in.mp4", PROMPT, "--mask", "black.png"), "--mask is all black"),
        (("edit", "in.mp4", PROMPT, "--mask", "a.png", "--outpaint", "64x64"), "--mask or --outpaint, not both"),
        (("edit", "in.mp4", PROMPT, "--outpaint", "64x16"), "--outpaint is 64x16; the clip is 32x32"),
        (("edit", "in.mp4", PROMPT, "--outpaint", "64x64", "--size", "64x64"), "leave --size out"),
        (("edit", "wide.mp4", PROMPT, "--size", "32x32", "--fit", "error"), "64x32, not 32x32"),
        (("edit", "in.mp4", PROMPT, "--fit", "squash"), "--fit must be one of crop, pad, stretch, error, got 'squash'"),
        (("extend", "in.mp4"), "'in.mp4' carries no prompt; say what the clip should show"),
        (("extend", "in.mp4", PROMPT, "--seconds", "0"), "--seconds is 0; it must be above 0"),
        (("extend", "in.mp4", PROMPT, "--seconds", "nan"), "--seconds is nan"),
        (("extend", "tiny.mp4", PROMPT, "--backward"), "the clip has 3 frames and is too short; at least 4"),
        (("connect", "in.mp4", "none.mp4", PROMPT), "cannot read 'none.mp4'"),
        (("generate", PROMPT, "--keyframe", "a.png"), "--keyframe is 'a.png'; it must be like picture.png@24"),
        (
            ("generate", PROMPT, "--keyframe", "a.png@40"),
            "'a.png' is placed at frame 40; this clip has frames 0 to 16 (-17 to -1 from the end)",
        ),
        (("generate", PROMPT, "--keyframe", "none.png@0"), "cannot read the image 'none.png'"),
        (("generate", PROMPT, "--keyframe", "alpha.png@0"), "flatten its alpha channel"),
        (("generate", PROMPT, "--keyframe", "wide.png@0", "--fit", "error"), "64x32, not 32x32"),
        (("generate", PROMPT, "--keyframe", "a.png@0", "--image", "a.png"), "frame 0 is set twice"),
        (("generate", PROMPT, "--loop", "--frames", "16", "--image", "a.png"), "a loop has no beginning and no end"),
        (("generate", PROMPT, "--storyboard", "s.txt"), "a prompt and --storyboard exclude each other"),
        (("generate", "--storyboard", "late.txt", "--frames", "17"), "at 9 seconds, but the clip lasts 1.062 seconds"),
        (("edit", "in.mp4", PROMPT, "--cfg", "abc"), "--cfg is 'abc'; it must be a number such as 6"),
        (("edit", "in.mp4", PROMPT, "--steps", "0"), "--steps must be 1 to 1000, got 0"),
        (
            ("edit", "in.mp4", PROMPT, "--size", "32x99999"),
            "--size is '32x99999'; width and height must be 1 to 8192 pixels",
        ),
        (("edit", "in.mp4", PROMPT, "--outpaint", "big"), "--outpaint is 'big'; it must be WIDTHxHEIGHT"),
        (("edit", "in.mp4", PROMPT, "--lora", "none.safetensors"), "none.safetensors"),
        (
            ("edit", "in.mp4", PROMPT, "--accelerate", "warp"),
            "--accelerate must be one of lossless, balanced, fast, got 'warp'",
        ),
        (("extend", "in.mp4", PROMPT, "--fps", "0"), "--fps is 0.0; it must be 0.0001 to 1000"),
        (("connect", "in.mp4", "in.mp4", PROMPT, "--cfg", "3,4"), "the second --cfg is for models with two"),
        (("generate", PROMPT, "--loop", "--storyboard", "s.txt"), "exclude each other"),
        (("generate", "--storyboard", "endless.txt"), "the storyboard lasts 2e+09 seconds; at most 86400 are made"),
        (("generate", "--storyboard", "broken.txt"), "broken.txt, line 1: 'hello' is not like"),
    ],
)
def test_mistakes_are_named_before_weights_load(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    written("in.mp4", 17)
    written("short.mp4", 5)
    written("tiny.mp4", 3)
    written("wide.mp4", 17, size=(32, 64))
    picture("a.png")
    picture("wide.png", (32, 64))
    alpha = Image.open(picture("rgb.png")).convert("RGBA")
    alpha.putalpha(100)
    alpha.save("alpha.png")
    Image.new("L", (32, 32)).save("black.png")
    Path("text.mp4").write_text("hello")
    Path("s.txt").write_text("0, a ball\n")
    Path("late.txt").write_text("0, a ball\n9, a cone\n")
    Path("broken.txt").write_text("hello\n")
    Path("endless.txt").write_text("0, a ball\n1e9, a cone\n")
    before = sorted(os.listdir())
    monkeypatch.setattr(VideoDiTPipeline, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    assert main([*arguments, "--model", str(tiny_model)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *_, line = captured.err.splitlines()  # notes may stand before it
    assert line.startswith("error: ")
    assert message in line
    assert sorted(os.listdir()) == before


# ---- long clips, stopped and made again -------------------------------------------------------------------------

LONG = ("--frames", "41")


@pytest.fixture(scope="module")
def windowed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that makes 17 frames at once."""
    folder = tmp_path_factory.mktemp("models") / "windowed"
    shutil.copytree(tiny_model, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"window": 17}))
    return folder


def test_a_loop_is_made_at_once(windowed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", PROMPT, "--loop", "--frames", "40", "--model", str(windowed)]) == 2
    assert "a loop is made at once, of at most 17 frames, got 40" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_clip_goes_on_and_is_the_same(windowed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL once a window is kept; the same command, without a seed too, goes on to the same frames."""
    steps = ("--model", str(windowed), "--steps", "4", "--device", "cpu", "--dtype", "float32")
    # It waits for its end before it keeps the second window. The seed 0 is a seed like others.
    code = (
        "import sys, time; from videodit.pipelines.window_store import WindowStore as made; save = made.save; "
        "made.save = lambda self, number, *rest: (time.sleep(600 * number), save(self, number, *rest)); "
        "from videodit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["generate", PROMPT, *LONG, *steps, "--seed", "0", "-o", "out.mp4"]
    with subprocess.Popen([sys.executable, "-c", code, *words]) as process:
        folder = Path(".out.windows")
        deadline = time.monotonic() + 1200
        try:
            while not list(folder.glob("0*.safetensors")):
                assert process.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.kill()  # by SIGKILL
    assert process.returncode == -signal.SIGKILL
    assert not Path("out.mp4").exists()
    assert len(list(folder.glob("0*.safetensors"))) == 1
    assert main(["generate", PROMPT, *LONG, *steps, "-o", "out.mp4"]) == 0
    told = capsys.readouterr().err
    assert "out.mp4 was begun before with seed 0; it goes on from there" in told
    assert "1 of 3 windows were made before" in told
    assert not folder.exists()
    assert main(["generate", PROMPT, *LONG, *steps, "--seed", "0", "-o", "whole.mp4"]) == 0
    np.testing.assert_array_equal(frames_of("out.mp4"), frames_of("whole.mp4"))


def test_the_flags_that_go_on_after_a_stop_can_be_typed_as_they_are_printed(
    windowed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from videodit.pipelines.window_store import WindowStore

    save = WindowStore.save

    def stop(self: WindowStore, number: int, *rest: Any) -> None:
        if number == 1:
            raise KeyboardInterrupt
        save(self, number, *rest)

    monkeypatch.setattr(WindowStore, "save", stop)
    flags = ("--model", str(windowed), "--steps", "2", "--seed", "3", "--device", "cpu", "-o", "my out.mp4")
    assert main(["generate", PROMPT, *LONG, *flags]) == 130
    announced, stopped = (line for line in capsys.readouterr().err.splitlines() if "the same command" in line)
    assert announced.endswith("goes on with --seed 3 -o 'my out.mp4'")
    assert stopped.endswith("the same command with --seed 3 -o 'my out.mp4' goes on with them")


@pytest.mark.parametrize("command", ["extend", "extend --backward", "connect"])
def test_commands_on_clips_go_on_too(
    windowed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """An error while the file is written leaves the windows; without --seed the clip goes on with its own."""
    from videodit.pipelines.window_store import WindowStore

    name, *flags = command.split()
    clips = [written(f"{i}.mp4", 9) for i in range(2 if name == "connect" else 1)]
    call = [
        name, *clips, PROMPT, *flags, "--seconds", "1.5", "--model", str(windowed), "--steps", "2", "--device", "cpu",
        "--dtype", "float32", "-o", "out.mp4",
    ]  # fmt: skip
    save = WindowStore.save

    def fail(self: WindowStore, number: int, *rest: Any) -> None:
        if number == 1:
            raise OSError(28, "No space left on device")
        save(self, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(WindowStore, "save", fail)
        assert main(call) != 0
    assert [path.name for path in Path(".out.windows").glob("0*")] == ["00000.safetensors"]
    capsys.readouterr()
    assert main(call) == 0
    (seed,) = re.findall(r"begun before with seed (\d+)", capsys.readouterr().err)
    assert main([*call[:-1], "whole.mp4", "--seed", seed]) == 0
    np.testing.assert_array_equal(frames_of("out.mp4"), frames_of("whole.mp4"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", PROMPT, "--loop", "--frames", "16"),
        ("generate", "--storyboard", "s.txt"),
        ("generate", PROMPT, *LONG),
    ],
    ids=["loop", "storyboard", "windows"],
)
def test_clips_are_made_again_from_their_recipes(windowed: Path, arguments: tuple[str, ...]) -> None:
    Path("s.txt").write_text("0, a red ball\n0.5, a blue cone\n")
    run(windowed, *arguments, "-o", "out.mp4")
    assert main(["remake", "out.mp4", "--model", str(windowed), "-o", "again.mp4"]) == 0
    np.testing.assert_array_equal(frames_of("out.mp4"), frames_of("again.mp4"))
    a, b = (read_recipe(name) for name in ("out.mp4", "again.mp4"))
    assert a is not None
    assert b is not None
    assert a | {"model": ""} == b | {"model": ""}


def test_clips_from_pictures_are_not_remade(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny_model, "generate", PROMPT, "--image", picture("a.png"), "-o", "out.mp4")
    capsys.readouterr()
    assert main(["remake", "out.mp4", "--model", str(tiny_model)]) == 2
    assert "was made from an image or a clip, which it does not carry" in capsys.readouterr().err
