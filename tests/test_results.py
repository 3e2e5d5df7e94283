"""How commands tell of their results: formats, stdout, takes, JSON, little, and the system's viewer.

The fake model of test_cli.py stands in for the real one.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips_made import numbered_frames
from conftest import ROOT
from PIL import Image
from test_cli import FakePipeline, _fake_model, _restored_logging, fails, make_model_folder, mini_folder

from videodit.cli import opening, result_flags
from videodit.cli.config import app as config
from videodit.cli.data import app as data
from videodit.cli.main import app, main
from videodit.media import probe, read_recipe, read_video, write_video
from videodit.reading.animations import look_at
from videodit.reading.files import Media

__all__ = ["_fake_model", "_restored_logging", "mini_folder"]

RECIPE = {"prompt": "a \x1b[31mred\x1b[0m ball", "seed": 7}
GENERATE = ["generate", "a ball", "--seed", "7", "--steps", "1"]


def documented_keys() -> dict[str, list[set[str]]]:
    """Kind -> the keys that docs/results.md says, for each of its rows."""
    keys: dict[str, list[set[str]]] = {}
    _, _, text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").partition("## For programs")
    for line in text.splitlines():
        cells = line.split("|")
        if len(cells) == 5 and "`" in cells[2]:
            kind = re.findall(r"`(\w+)`", cells[2])[-1]
            keys.setdefault(kind, []).append({"kind", *re.findall(r"`(\w+)`", cells[3])})
    return keys


def documents(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What stdout holds: JSON on every line, each of the keys that are documented."""
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for document in found:
        assert "error" in document or set(document) in documented_keys()[document["kind"]], document
    return found


# ---- formats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "first"), [("x.gif", "x.gif"), ("x.webp", "x.webp"), ("f/%04d.png", "f/0001.png")])
def test_a_clip_of_another_format_is_shown_and_made_again(
    capsys: pytest.CaptureFixture[str], name: str, first: str
) -> None:
    assert main([*GENERATE, "-o", name]) == 0
    assert f"{name}: 32x16, 5 frames at 8 fps" in capsys.readouterr().out
    assert main(["info", first]) == 0
    assert "a ball" in capsys.readouterr().out
    assert main(["remake", first, "-o", "again.mp4"]) == 0
    assert read_recipe("again.mp4") == read_recipe(first)


def test_a_gifs_rate_is_announced_once_and_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GENERATE, "-o", "x.gif", "--dry-run"]) == 0
    assert "note: a GIF counts time in hundredths of a second" in capsys.readouterr().err
    assert main([*GENERATE, "-o", "x.gif"]) == 0
    assert capsys.readouterr().err.count("hundredths") == 1


def test_info_tells_of_an_animation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GENERATE, "-o", "x.gif", "--fps", "10"]) == 0
    capsys.readouterr()
    assert main(["info", "x.gif"]) == 0
    rows = capsys.readouterr().out
    assert "32x16" in rows
    assert "5 at 10 fps" in rows
    assert "animated GIF, plays for ever" in rows


# ---- stdout ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp4", "gif", "webp"])
def test_a_clip_goes_to_stdout_alone(capsysbinary: pytest.CaptureFixture[bytes], kind: str) -> None:
    assert main([*GENERATE, "-o", "-", "--profile", *(() if kind == "mp4" else ("--format", kind))]) == 0
    out, err = capsysbinary.readouterr()
    assert b"stdout: 32x16, 5 frames" in err
    assert os.listdir() == []
    Path("x").write_bytes(out)
    found = probe("x").num_frames if kind == "mp4" else look_at(Media(Path("x"))).num_frames  # type: ignore[union-attr]
    assert found == 5
    recipe = read_recipe("x")
    assert recipe is not None
    assert recipe["seed"] == 7


def test_an_error_leaves_stdout_empty(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(step: int) -> None:
        raise MemoryError

    monkeypatch.setattr(FakePipeline, "on_step", staticmethod(fail))
    assert main([*GENERATE, "-o", "-"]) == 4
    assert capsysbinary.readouterr().out == b""


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--count", "2"], "one clip to stdout, not 2"),
        (["--sheet", "s.png"], "--sheet"),
        (["--open"], "--open"),
        (["--format", "png"], "mp4, gif, webp"),
    ],
)
def test_what_cannot_go_to_stdout_is_refused(capsys: pytest.CaptureFixture[str], flags: list[str], word: str) -> None:
    assert word in fails(capsys, *GENERATE, "-o", "-", *flags)


def test_no_clip_goes_to_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "which is a terminal" in fails(capsys, *GENERATE, "-o", "-")
    assert FakePipeline.loaded == 0


def test_a_format_is_for_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert "name a file x.gif" in fails(capsys, *GENERATE, "-o", "x.mp4", "--format", "gif")


# ---- takes -----------------------------------------------------------------------------------------


def test_takes_have_seeds_that_follow_each_other_and_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GENERATE, "--count", "3"]) == 0
    assert main([*GENERATE, "--count", "2", "-o", "x.gif"]) == 0
    names = ["a-ball-7.mp4", "a-ball-8.mp4", "a-ball-9.mp4", "x-7.gif", "x-8.gif"]
    assert sorted(os.listdir()) == names
    recipes = [read_recipe(name) or {} for name in names]
    assert [one["seed"] for one in recipes] == [7, 8, 9, 7, 8]
    assert FakePipeline.loaded == 2
    assert main([*GENERATE, "-o", "one.mp4"]) == 0
    assert np.array_equal(read_video("one.mp4").frames, read_video("a-ball-7.mp4").frames)


def test_a_sheet_has_a_row_for_each_clip(capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (("x.mp4", 3), ("x.gif", 2), ("x.webp", 1), ("x-%d.png", 2)):
        assert main([*GENERATE, "--count", str(rows), "-o", name, "--sheet", "s.png", "--overwrite"]) == 0
        assert f"s.png: a sheet of {rows} clip{'' if rows == 1 else 's'}, " in capsys.readouterr().out
        with Image.open("s.png") as sheet:
            assert sheet.size == (4 + 4 * 36, rows * (16 + 4 + 16) + 4)
            pixels = np.asarray(sheet.convert("RGB"))
        for row in range(rows):
            label = pixels[row * 36 : row * 36 + 16]
            assert (label < 128).any()
            assert label[:, 90:].min() == 255
            assert (pixels[row * 36 + 16 : row * 36 + 32, 4:36] != 255).any()


def test_many_clips_make_a_sheet_that_can_be_shown() -> None:
    from videodit.cli.takes import write_sheet

    write_video("x.mp4", numbered_frames(2), fps=8)
    write_sheet(Path("s.png"), [(Path("x.mp4"), None)] * 600)
    with Image.open("s.png") as sheet:
        assert sheet.height <= 25_000


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--count", "0"], "--count is 0"),
        (["--count", "many"], "'many' is not a whole number"),
        (["--count", "2", "--seed", str(2**63 - 1)], str(2**63)),
        (["--sheet", "s.jpg"], "must end in .png"),
        (["--sheet", "none/s.png"], "there is no folder 'none'"),
    ],
)
def test_takes_and_sheets_are_checked_first(capsys: pytest.CaptureFixture[str], flags: list[str], word: str) -> None:
    assert word in fails(capsys, *GENERATE, *flags)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--image", "a.png", "--sheet", "a.png"], "--sheet is 'a.png', which is an input, too"),
        (["--image", "a.png", "--sheet", "link.png"], "--sheet is 'link.png', which is an input, too"),
        (["--image", "a.png", "--preview", "link.png"], "--preview is 'link.png', which is an input, too"),
        (["--image", "a.png", "-o", "-", "--preview", "a.png"], "--preview is 'a.png', which is an input, too"),
        (["--image", "f-0001.png", "-o", "f-%04d.png"], "is the same file as the input 'f-0001.png'"),
        (["--preview", "p.png", "--sheet", "./p.png"], "--sheet is 'p.png', which is the file of --preview, too"),
        (["--sheet", "x-7-0001.png", "-o", "x-7-%04d.png"], "--sheet is 'x-7-0001.png', which is the output, too"),
        (
            ["--sheet", "x-0002-8.png", "-o", "x-%04d.png", "--count", "2"],
            "--sheet is 'x-0002-8.png', which is the out",
        ),
        (
            ["--control", "depth=a.png", "--show-control", "link.png"],
            "--show-control is 'link.png', which is an input, too",
        ),
        (
            ["--control", "depth=a.png", "--show-control", "s.png", "--sheet", "s.png"],
            "--sheet is 's.png', which is the file of --show-control, too",
        ),
    ],
)
def test_what_is_written_beside_a_clip_destroys_nothing(
    capsys: pytest.CaptureFixture[str], flags: list[str], word: str
) -> None:
    for name in ("a.png", "f-0001.png"):
        Image.new("RGB", (32, 16)).save(name)
    Path("link.png").hardlink_to("a.png")
    before = Path("a.png").read_bytes()
    assert word in fails(capsys, *GENERATE, "--overwrite", *flags)
    assert Path("a.png").read_bytes() == before


def test_takes_are_of_one_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert "--count is for one prompt, not 2" in fails(capsys, "generate", "--prompts", "p.jsonl", "--count", "2")


# ---- JSON ------------------------------------------------------------------------------------------


def test_every_command_has_json_and_quiet() -> None:
    for command in (*app.registered_commands, *data.registered_commands, *config.registered_commands):
        assert command.callback is not None
        names = set(inspect.signature(command.callback).parameters)
        assert {"as_json", "quiet"} <= names, command.callback


def test_every_command_prints_a_document() -> None:
    """Each module of a command calls emit(), itself or in what it shares with others."""
    folder = Path(result_flags.__file__).parent
    shared = {"generate", "edit", "extend", "remake"}  # jobs.py
    for command in (*app.registered_commands, *data.registered_commands, *config.registered_commands):
        module = inspect.unwrap(command.callback).__module__.rpartition(".")[2]  # type: ignore[arg-type, union-attr]
        source = (folder / f"{'jobs' if module in shared else module}.py").read_text()
        assert "emit(" in source or "print_plan(" in source, module


def test_a_clip_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GENERATE, "-o", "x.mp4", "--count", "2", "--sheet", "s.png", "--json"]) == 0
    first, second, sheet = documents(capsys)
    assert (first["kind"], first["output"], first["seed"]) == ("clip", "x-7.mp4", 7)
    assert (first["width"], first["height"], first["num_frames"], first["fps"]) == (32, 16, 5, 8)
    assert first["bytes"] == os.path.getsize("x-7.mp4")
    assert first["recipe"]["prompt"] == "a ball"
    assert second["seed"] == 8
    assert sheet == {"kind": "sheet", "output": "s.png", "clips": 2}


def test_a_dry_run_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", *GENERATE, "--dry-run"]) == 0
    (plan,) = documents(capsys)
    assert plan["kind"] == "plan"
    assert (plan["prompt"], plan["seed"], plan["output"], plan["overwrites"]) == ("a ball", 7, "a-ball-7.mp4", False)
    assert (plan["width"], plan["height"], plan["num_frames"], plan["num_inference_steps"]) == (32, 16, 5, 1)


def test_info_is_a_document(capsys: pytest.CaptureFixture[str], mini_folder: Path) -> None:
    make_model_folder(mini_folder)
    write_video("x.mp4", np.zeros((3, 16, 16, 3), np.uint8), fps=8, recipe=RECIPE)
    Image.new("RGB", (8, 6)).save("x.png")
    assert main([*GENERATE, "-o", "x.gif", "-q"]) == 0
    capsys.readouterr()
    for target in ("x.mp4", "x.png", "x.gif", "mini"):
        assert main(["info", target, "--json"]) == 0
    clip, picture, animation, model = documents(capsys)
    assert (clip["kind"], clip["num_frames"], clip["codec"], clip["recipe"]) == ("clip", 3, "h264", RECIPE)
    assert (picture["kind"], picture["width"], picture["height"], picture["recipe"]) == ("picture", 8, 6, None)
    assert (animation["kind"], animation["num_frames"], animation["plays"]) == ("animation", 5, 0)
    assert (model["kind"], model["fps"], model["parts"]["transformer"]["class"]) == ("model", 8, "VideoDiT")
    assert main(["info", "mini", "--vocabulary", "--json"]) == 0
    assert documents(capsys) == [{"kind": "vocabulary", "model": "mini", "words": ["ball", "red"]}]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "none.mp4", "--json"], 2, "none.mp4"),
        (["--json", "info", "none.mp4"], 2, "none.mp4"),
        (["generate", "a ball", "--stepz", "3", "--json"], 2, "--stepz"),
        (["generate", "a ball", "--size", "huge", "--json"], 2, "huge"),
        (["paint", "--json"], 2, "paint"),
        (["generate", "a ball", "-o", "-", "--json"], 2, "both write to stdout"),
    ],
)
def test_errors_are_documents(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str) -> None:
    assert main(arguments) == code
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert set(document) == {"error", "exit_code"}
    assert document["exit_code"] == code
    assert words in document["error"]
    assert captured.err.startswith("error: ")


def test_a_stop_is_a_document(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(step: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakePipeline, "on_step", staticmethod(stop))
    assert main([*GENERATE, "--json"]) == 130
    assert documents(capsys)[-1]["exit_code"] == 130


def test_what_one_command_said_does_not_hold_for_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GENERATE, "-o", "x.mp4", "--json", "--quiet"]) == 0
    capsys.readouterr()
    assert main([*GENERATE, "-o", "y.mp4"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("y.mp4: 32x16")
    assert "note: seed 7" in captured.err


def test_commands_without_a_model_print_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["doctor"],
        ["families"],
        ["toybox", "-o", "toys", "--clips", "2"],
        ["data", "scan", "toys/manifest.jsonl"],
    ):
        assert main([*command, "--json"]) == 0, command
        (document,) = documents(capsys)
        assert document["kind"] in ("doctor", "families", "toybox", "samples")


# ---- little, and the viewer ------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--quiet", *GENERATE], [*GENERATE, "--quiet"], [*GENERATE, "-q"]])
def test_quiet_is_results_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr("videodit.cli.progress._HEARTBEAT", 0.0001)
    assert main([*arguments, "-o", "x.gif"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("x.gif: 32x16")
    assert captured.err == ""


def test_quiet_keeps_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "none.mp4", "-q"]) == 2
    assert capsys.readouterr().err == "error: cannot read 'none.mp4': No such file or directory\n"


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["-o", "x.mp4"], ["x.mp4"]),
        (["-o", "x.mp4", "--count", "2"], ["x-7.mp4", "x-8.mp4"]),
        (["-o", "x.mp4", "--count", "2", "--sheet", "s.png"], ["s.png"]),
        (["-o", "x-%d.png"], ["x-1.png"]),
        (["-o", "x.mp4", "--dry-run"], []),
    ],
)
def test_what_was_made_is_opened(monkeypatch: pytest.MonkeyPatch, flags: list[str], shown: list[str]) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(result_flags, "open_file", opened.append)
    assert main([*GENERATE, *flags, "--open"]) == 0
    assert opened == [Path(name) for name in shown]


def test_the_systems_viewer_gets_an_absolute_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command))
    monkeypatch.setattr(sys, "platform", "linux")
    opening.open_file(Path("-x.mp4"))
    monkeypatch.setattr(sys, "platform", "darwin")
    opening.open_file(Path("x.mp4"))
    assert started == [["xdg-open", str(Path.cwd() / "-x.mp4")], ["open", str(Path.cwd() / "x.mp4")]]

    def missing(command: list[str], **_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(subprocess, "Popen", missing)
    opening.open_file(Path("x.mp4"))
    assert "note: cannot open 'x.mp4': open: No such file" in capsys.readouterr().err
