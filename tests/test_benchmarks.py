"""The scripts of benchmarks/: what they read off clips, what they draw, and what they refuse."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from videodit.datasets.toybox import COLORS, MOTIONS, split_of


@pytest.fixture(scope="module")
def pixels() -> ModuleType:
    """mini_pixels, learning from fewer clips."""
    module = importlib.import_module("mini_pixels")
    module.PALETTE_CLIPS, module.TRACK_CLIPS = 240, 180
    return module


@pytest.fixture(scope="module")
def sheets() -> ModuleType:
    return importlib.import_module("contact_sheet")


@pytest.fixture(scope="module")
def reader(pixels: ModuleType) -> Any:
    """What reads clips of 64 x 64 pixels."""
    return pixels.Reader.learn(pixels.ClipForm())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a minute model with random weights."""
    example = importlib.import_module("train_mini")
    out, recipe = tmp_path_factory.mktemp("model"), example.TINY
    torch.manual_seed(0)
    tokenizer = example.build_tokenizer(0, captions=100)
    dit = example.VideoDiT(**recipe.dit_config())
    text_model = example.T5EncoderModel(recipe.text_config(tokenizer))
    example.CausalVideoVAE(**recipe.vae_config()).save_pretrained(out / "vae" / "export")
    example.export(dit, text_model, tokenizer, recipe, out)
    return out / "mini"


# ---- reading pixels


@pytest.mark.slow
def test_real_clips_are_read_right(pixels: ModuleType, reader: Any) -> None:
    scenes = pixels.lone_scenes("validation", range(60))
    column = pixels.read_all("real", reader, scenes, lambda a, b: pixels.rendered(scenes[a:b], pixels.ClipForm()))
    shares = {key: row["share"] for key, row in column.shares(scenes).items()}
    assert min(shares["color"], shares["ground"], shares["light"]) >= 0.95
    assert shares["coarse"] >= shares["motion"] >= 0.85
    assert shares["all"] <= min(shares["color"], shares["motion"], shares["ground"], shares["light"])


@pytest.mark.slow
def test_a_clip_without_an_object_has_no_colour_and_no_motion(pixels: ModuleType, reader: Any) -> None:
    scenes = pixels.lone_scenes("validation", range(16))
    empty = [replace(s, objects=(replace(s.objects[0], motion="still", size="small", z=200.0),)) for s in scenes]
    for scene, clip in zip(scenes, pixels.rendered(empty, pixels.ClipForm()), strict=True):
        read = reader.read(clip)
        assert read == {"color": "none", "motion": "none", "ground": scene.ground, "light": scene.light}
        right = pixels.verdicts(pixels.asked(scene), read)
        assert {key for key, value in right.items() if value} == {"ground", "light"}


@pytest.mark.slow
def test_the_object_found_is_the_object_drawn(pixels: ModuleType, reader: Any) -> None:
    overlap = []
    for _, clip, mask in pixels.training_clips(5000, 24, pixels.ClipForm()):
        found, true = reader.palette.find(clip)[-1], mask > 0
        overlap.append((found & true).sum() / (found | true).sum())
    assert np.mean(overlap) > 0.8


def test_largest_piece_hangs_together_in_space_and_time(pixels: ModuleType) -> None:
    mask = np.zeros((4, 9, 9), bool)
    mask[:, 1, 1] = True  # one pixel over four frames
    mask[0, 4:8, 4], mask[1, 7, 5] = True, True  # five, over two frames and a corner
    mask[3, 6, 6:8] = True
    found = pixels.largest_piece(mask)
    assert found.sum() == 5
    assert found[0, 4:8, 4].all()
    assert found[1, 7, 5]
    assert not pixels.largest_piece(np.zeros((2, 3, 3), bool)).any()


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(95, 100, 0.888, 0.978), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0)]
)
def test_intervals_are_wilsons(pixels: ModuleType, right: int, n: int, low: float, high: float) -> None:
    assert pixels.wilson(right, n) == pytest.approx((low, high), abs=5e-4)


def test_coarse_motions_cover_all(pixels: ModuleType) -> None:
    assert set(pixels.COARSE) == set(MOTIONS)


@pytest.mark.slow
def test_a_model_is_counted_beside_the_world(
    pixels: ModuleType, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "counts.json"
    pixels.main(["-m", str(model), "--num-prompts", "10", "--steps", "1", "--device", "cpu", "--json", str(out)])
    counts = json.loads(out.read_text())
    assert counts["settings"]["clips"] == "32x32, 17 frames at 16 fps"
    assert counts["settings"]["steps"] == 1
    assert str(tmp_path) not in out.read_text()
    assert list(counts["shares"]) == ["real", "decoded", "generated"]
    assert counts["shares"]["real"]["light"]["n"] == len(counts["clips"]) == 10
    assert counts["shares"]["real"]["light"]["share"] > counts["shares"]["generated"]["all"]["share"]
    printed = capsys.readouterr().out
    assert all(f"\n{title}" in printed for title in pixels.ROWS.values())


@pytest.mark.slow
def test_the_world_alone_needs_no_model(
    pixels: ModuleType, reader: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels.Reader, "learn", lambda form: reader)
    pixels.main(["--real", "--num-prompts", "8", "--split", "validation"])
    printed = capsys.readouterr().out
    assert "split validation, clips 64x64" in printed
    assert "generated" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-prompts", "0"], "at least 1; got 0"),
        (["--split", "train"], "train"),
        (["--json", "nowhere/counts.json"], "nowhere/counts.json"),
        (["-m", "nosuch"], "nosuch"),
        (["-m", "{model}", "--cfg", "nan"], "nan"),
        (["-m", "{model}", "--steps", "0"], "got 0"),
    ],
)
def test_bad_arguments_are_named(
    pixels: ModuleType, model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        pixels.main([argument.format(model=model) for argument in arguments])
    assert message in capsys.readouterr().err + str(stop.value)


# ---- contact sheets


def test_fixed_prompts_are_held_out_and_show_everything_once(sheets: ModuleType) -> None:
    objects = [scene.objects[0] for scene in sheets.lone_scenes("test", sheets.SCENES)]
    assert {split_of(o.shape, o.color, o.motion) for o in objects} == {"test"}
    assert sorted(o.color for o in objects) == sorted(COLORS)
    assert sorted(o.motion for o in objects) == sorted(set(MOTIONS) - {"still"})


def test_sheet_of_the_fixed_prompts_beside_the_world(sheets: ModuleType, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    sheets.main(
        ["-m", str(model), "--beside-real", "--frames", "5", "--steps", "1", "--device", "cpu", "--out", str(out)]
    )
    with Image.open(out) as picture:
        shown = np.asarray(picture)
    wide = 5 * 128 + 4 * 2
    assert shown.shape[1] == 2 * wide + 3 * sheets.GAP
    assert 8 * 128 < shown.shape[0] < 8 * 180
    right = shown[:, wide + 2 * sheets.GAP :]
    sky = (np.abs(right.astype(int) - (84, 153, 242)).max(-1) < 40).mean()
    assert sky > 0.02  # days of the world


def test_sheet_of_own_prompts(sheets: ModuleType, model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red ball\n\n" + "a blue cube " * 40 + "\n", encoding="utf-8")
    out = tmp_path / "sheet.png"
    common = ["-m", str(model), "--steps", "1", "--device", "cpu", "--out", str(out)]
    heights = []
    for prompts in (["--prompts", str(tmp_path / "prompts.txt"), "--prompt", "a cone"], ["--prompt", "a cone"]):
        sheets.main([*common, *prompts])
        with Image.open(out) as picture:
            heights.append(picture.height - sheets.GAP)
    assert heights[0] > 3 * heights[1]  # one caption takes several lines


def test_rows_keep_their_noise_whatever_the_batch(sheets: ModuleType, model: Path) -> None:
    common = importlib.import_module("_common")
    pipe, how = common.load(str(model), device="cpu", steps=1, cfg=1.0)
    prompts = ["a red ball", "a blue cube"]
    both = common.generate(pipe, how, prompts, first_seed=3)
    alone = common.generate(pipe, how, prompts[1:], first_seed=4)
    assert both.shape == (2, 17, 32, 32, 3)
    assert np.abs(both[1].astype(int) - alone[0]).mean() < 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "0"], "got 0"),
        (["--out", "sheet.jpg"], "sheet.jpg"),
        (["--beside-real", "--prompt", "a red ball"], "fixed prompts"),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--prompts", "{empty}"], "holds no prompts"),
    ],
)
def test_bad_sheet_arguments_are_named(
    sheets: ModuleType, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SystemExit):
        sheets.main([argument.format(empty=tmp_path / "empty.txt") for argument in arguments])
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_scripts_run_from_anywhere(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "benchmarks" / "contact_sheet.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "--beside-real" in done.stdout
