"""The scripts of benchmarks/: what they read off clips, what they count and draw, and what they refuse."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from videodit.datasets.toybox import CAMERAS, COLORS, MOTIONS, SHAPES, Scene, split_of
from videodit.datasets.toybox.probe import FoundObject, Reading, ToyboxProbe
from videodit.errors import InputError
from videodit.shapes import Size3D


@pytest.fixture(scope="module")
def common() -> ModuleType:
    return importlib.import_module("_common")


@pytest.fixture(scope="module")
def adherence() -> ModuleType:
    return importlib.import_module("adherence")


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
def sentences() -> ModuleType:
    return importlib.import_module("sentences")


@pytest.fixture(scope="module")
def binding() -> ModuleType:
    return importlib.import_module("binding")


@pytest.fixture(scope="module")
def reader(pixels: ModuleType) -> Any:
    """What reads clips of 64 x 64 pixels."""
    return pixels.Reader.learn(pixels.ClipForm())


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a probe that has learned nothing."""
    folder = tmp_path_factory.mktemp("probe")
    torch.manual_seed(0)
    ToyboxProbe(width=16, early=0, late=1).save_pretrained(folder)
    return folder


def perfect(scene: Scene) -> Reading:
    """What should be read of a scene."""
    things = (FoundObject(o.shape, o.color, o.size, o.motion, 0.9, (0.5, 0.5)) for o in scene.objects)
    return Reading(tuple(things), scene.ground, scene.light, scene.camera, scene.interaction)


# ---- shares and clips


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(95, 100, 0.888, 0.978), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0)]
)
def test_intervals_are_wilsons(common: ModuleType, right: int, n: int, low: float, high: float) -> None:
    share = common.Share.of(right, n)
    assert (share.low, share.high) == pytest.approx((low, high), abs=5e-4)
    assert (share.right, share.n, share.share) == (right, n, right / n)


def test_clips_keep_their_noise_whatever_the_batch(common: ModuleType, tiny_model: Path) -> None:
    pipe, how = common.load(str(tiny_model), device="cpu", steps=1, cfg=1.0)
    prompts = ["a red ball", "a blue cube"]
    both = common.generate(pipe, how, prompts, first_seed=3)
    alone = common.generate(pipe, how, prompts[1:], first_seed=4)
    assert both.shape == (2, 17, 32, 32, 3)
    assert np.abs(both[1].astype(int) - alone[0]).mean() < 3
    assert common.through_vae(pipe, both).shape == both.shape


# ---- adherence


def test_scenes_are_those_of_their_seeds(adherence: ModuleType) -> None:
    for objects, numbers in {"mixed": [1, 2, 1, 2], "1": [1] * 4, "3": [3] * 4}.items():
        scenes = adherence.asked_scenes("test", 4, objects)
        assert [len(scene.objects) for scene in scenes] == numbers
        assert [scene.seed for scene in scenes] == [0, 1, 2, 3]
        assert scenes[:2] == adherence.asked_scenes("test", 2, objects)
        assert {split_of(o.shape, o.color, o.motion) for scene in scenes for o in scene.objects} == {"test"}
    numbers = Counter(len(scene.objects) for scene in adherence.asked_scenes("test", 60, "any"))
    assert set(numbers) == {1, 2, 3}


def test_a_model_is_counted_beside_the_world(
    adherence: ModuleType, tiny_model: Path, probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "counts.json"
    model = ["-m", str(tiny_model), "--steps", "1", "--device", "cpu"]
    adherence.main([*model, "--probe", str(probe), "--num-prompts", "3", "--batch", "2", "--json", str(out)])
    counts = json.loads(out.read_text())
    assert counts["settings"]["clips"] == "32x32, 17 frames at 16 fps"
    assert counts["settings"]["steps"] == 1
    assert str(tmp_path) not in out.read_text() + out.with_name("counts.json.clips.jsonl").read_text()
    assert list(counts["shares"]) == ["one object", "two objects"]
    for columns in counts["shares"].values():
        assert list(columns) == ["real", "decoded", "generated"]
    share = counts["shares"]["one object"]["real"]["light"]
    assert share["n"] == 2
    assert share["low"] <= share["share"] <= share["high"]
    assert len(counts["clips"]) == 3
    assert set(counts["clips"][0]) == {"prompt", "asked", "real", "decoded", "generated"}
    printed = capsys.readouterr().out
    assert "two objects, 1 prompts" in printed
    assert "all colours and shapes, bound" in printed
    assert "motions, generated:" in printed
    kept = out.with_name("counts.json.clips.jsonl").read_text()
    again = ["--num-prompts", "3", "--batch", "2", "--json", str(out), "--generated"]
    adherence.main([*model, "--probe", str(probe), *again])
    alone = json.loads(out.read_text())
    assert list(alone["shares"]["one object"]) == ["generated"]
    assert alone["clips"] == [{key: clip[key] for key in ("prompt", "asked", "generated")} for clip in counts["clips"]]
    assert out.with_name("counts.json.clips.jsonl").read_text() == kept  # no clip was made again


def test_clips_are_read_after_an_mp4(
    adherence: ModuleType, common: ModuleType, monkeypatch: pytest.MonkeyPatch, probe: Path
) -> None:
    """What the probe gets is what the decoder gave, frame by frame."""
    decoded, given = [], []

    def through_mp4(clip: np.ndarray, **options: Any) -> np.ndarray:
        assert options == {"fps": 16}
        decoded.append(255 - clip)
        return decoded[-1]

    monkeypatch.setattr(adherence, "through_mp4", through_mp4)
    network = ToyboxProbe.from_pretrained(probe)
    monkeypatch.setattr(network, "read", lambda clips: given.extend(clips) or [perfect(scenes[0])] * len(clips))
    scenes = adherence.asked_scenes("test", 2, "1")
    clips = common.rendered(scenes, common.ClipForm(32, 32, 3))
    adherence.read_all("real", 2, 8, lambda first, last: clips[first:last], 16, network, adherence.Kept(None, {}))
    assert len(given) == 2
    assert all(np.array_equal(a, 255 - b) for a, b in zip(given, clips, strict=True))


def test_a_stopped_run_goes_on(
    adherence: ModuleType,
    probe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, made = tmp_path / "counts.json", []
    command = ["--real", "--probe", str(probe), "--batch", "1", "--device", "cpu", "--json", str(out)]
    rendered = adherence.rendered

    def until_third(scenes: list[Scene], form: Any, device: Any) -> np.ndarray:
        made.append(scenes[0].seed)
        if len(made) == 3:
            raise KeyboardInterrupt
        return rendered(scenes, form._replace(num_frames=2), device)

    monkeypatch.setattr(adherence, "rendered", until_third)
    with pytest.raises(SystemExit, match=r"stopped; .*counts.json.clips.jsonl keeps what is finished"):
        adherence.main([*command, "--num-prompts", "4"])
    assert not out.exists()
    kept = tmp_path / "counts.json.clips.jsonl"
    with kept.open("a") as file:
        file.write('{"source": "real", "cl')  # killed as it wrote
    adherence.main([*command, "--num-prompts", "4"])
    assert made == [0, 1, 2, 2, 3]
    assert len(kept.read_text().splitlines()) == 1 + 4
    first = json.loads(out.read_text())
    adherence.main([*command, "--num-prompts", "4"])
    assert len(made) == 5
    assert json.loads(out.read_text()) == first
    with pytest.raises(SystemExit, match=r"clips of objects mixed, not 2; delete it"):
        adherence.main([*command, "--objects", "2"])
    capsys.readouterr()


def test_a_reading_comes_back_from_json(adherence: ModuleType, tmp_path: Path) -> None:
    (scene,) = adherence.asked_scenes("test", 1, "3")
    result = adherence.Result(perfect(scene), 0.5)
    adherence.Kept(tmp_path / "kept", {"a": 1}).add("real", 0, result)
    assert adherence.Kept(tmp_path / "kept", {"a": 1}).results == {("real", 0): result}


def test_tables_and_motions_are_counted_object_by_object(
    adherence: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = adherence.asked_scenes("test", 40, "mixed")
    kept = adherence.Kept(None, {})
    for i, scene in enumerate(scenes):
        read = perfect(scene)
        kept.add("real", i, adherence.Result(read, 0.0))
        still = tuple(replace(o, motion="still") for o in read.objects)
        kept.add("generated", i, adherence.Result(replace(read, objects=still if i else ()), 0.0))
    measured = adherence.report(scenes, ["real", "generated"], {}, kept)
    real, generated = (measured["shares"]["two objects"][source] for source in ("real", "generated"))
    assert {share["share"] for share in real.values()} == {1.0}
    assert real["color"]["n"] == 2 * real["bound"]["n"] == 40
    assert generated["bound"]["share"] == 1.0
    assert generated["bound_motion"]["share"] < 0.2
    assert measured["shares"]["one object"]["generated"]["color"]["right"] == 19  # one clip was empty
    read = measured["motions"]["generated"]
    assert sum(words["none"] for words in read.values()) == 1
    assert all(set(words) <= {"still", "none"} for words in read.values())
    printed = capsys.readouterr().out
    one, two = printed.split("two objects")
    assert "bound" not in one
    assert "everything" in two


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-prompts", "0"], "at least 1; got 0"),
        (["--batch", "0"], "at least 1; got 0"),
        (["--split", "train"], "train"),
        (["--objects", "4"], "4"),
        (["--json", "nowhere/counts.json"], "nowhere/counts.json"),
        (["--json", "."], "--json must be a file"),
        (["--real", "--cfg", "3"], "go with a model"),
        (["--real", "--generated"], "not allowed with"),
        (["--real", "--device", "warp"], "warp"),
        (["--real", "--probe", "nowhere"], "no probe in nowhere"),
        (["--probe", "{probe}", "-m", "nosuch"], "nosuch"),
        (["--probe", "{probe}", "-m", "{model}", "--cfg", "nan"], "nan"),
        (["--probe", "{probe}", "-m", "{model}", "--steps", "0"], "got 0"),
    ],
)
def test_bad_arguments_are_named(
    adherence: ModuleType,
    tiny_model: Path,
    probe: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        adherence.main([argument.format(model=tiny_model, probe=probe) for argument in arguments])
    assert message in capsys.readouterr().err + str(stop.value)


# ---- pixels


@pytest.mark.slow
def test_pixels_of_real_clips_are_read_right(pixels: ModuleType, reader: Any) -> None:
    scenes = pixels.static_scenes("validation", 0, 60)
    assert {scene.camera for scene in scenes} == {"static"}
    read = [reader.read(clip) for clip in pixels.rendered(scenes, pixels.ClipForm())]
    true = [pixels.of_scene(scene) for scene in scenes]
    assert np.mean([a.color == b.color for a, b in zip(read, true, strict=True)]) >= 0.95
    assert np.mean([a.direction == b.direction for a, b in zip(read, true, strict=True)]) >= 0.85


@pytest.mark.slow
def test_a_clip_without_an_object_has_no_colour_and_no_direction(pixels: ModuleType, reader: Any) -> None:
    scenes = pixels.static_scenes("validation", 0, 16)
    empty = [replace(s, objects=(replace(s.objects[0], motion="still", size="small", z=200.0),)) for s in scenes]
    assert {reader.read(clip) for clip in pixels.rendered(empty, pixels.ClipForm())} == {pixels.NOTHING}


@pytest.mark.slow
def test_the_object_found_is_the_object_drawn(pixels: ModuleType, reader: Any) -> None:
    overlap = []
    for _, clip, mask in pixels.training_clips(5000, 24, pixels.ClipForm()):
        found, true = reader.palette.find(clip)[1], mask > 0
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


def test_every_motion_has_a_direction(pixels: ModuleType) -> None:
    assert set(pixels.DIRECTIONS) == set(MOTIONS)


def test_the_probes_opinion_is_of_the_object_that_it_is_surest_of(pixels: ModuleType) -> None:
    (scene,) = pixels.static_scenes("test", 0, 1)
    read = perfect(scene)
    assert pixels.of_reading(read) == pixels.of_scene(scene)
    assert pixels.of_reading(replace(read, objects=())) == pixels.NOTHING


@pytest.mark.slow
def test_pixels_and_probe_are_laid_beside_each_other(
    pixels: ModuleType, tiny_model: Path, probe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels.main(["-m", str(tiny_model), "--probe", str(probe), "--num-prompts", "6", "--steps", "1", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "split test, 6 clips of 32x32, 17 frames at 16 fps" in printed
    real, generated = printed.split("\ngenerated")
    for table in (real, generated):
        assert all(word in table for word in ("both agree", "\ncolour", "\ndirection, 7 ways"))
    colour = next(line for line in real.splitlines() if line.startswith("colour"))
    assert float(colour.split()[1]) >= 0.5  # pixels know colours; this probe knows nothing


@pytest.mark.parametrize(("arguments", "message"), [(["--num-prompts", "0"], "got 0"), (["--split", "all"], "all")])
def test_bad_pixel_arguments_are_named(
    pixels: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        pixels.main(arguments)
    assert message in capsys.readouterr().err


# ---- contact sheets


def test_fixed_prompts_are_held_out_and_show_everything(sheets: ModuleType) -> None:
    scenes = sheets.fixed_scenes(16)
    assert {split_of(o.shape, o.color, o.motion) for scene in scenes for o in scene.objects} == {"test"}
    alone = [scene.objects[0] for scene in scenes[:8]]
    assert sorted(o.color for o in alone) == sorted(COLORS)
    assert sorted(o.motion for o in alone) == sorted(set(MOTIONS) - {"still"})
    assert {o.shape for o in alone} == set(SHAPES)
    assert {scene.camera for scene in scenes[:8]} == set(CAMERAS)
    assert sorted(len(scene.objects) for scene in scenes) == [1] * 8 + [2] * 5 + [3] * 3
    assert {scene.interaction for scene in scenes} == {"none", "collide", "follow"}


def test_sheet_of_the_world_alone_needs_no_model(sheets: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "world.png"
    sheets.main(["-m", "nowhere", "--real", "--rows", "2", "--frames", "3", "--out", str(out)])
    with Image.open(out) as picture:
        assert picture.width == 3 * 128 + 2 * 2 + 2 * sheets.GAP
        assert np.asarray(picture)[-100:].std() > 10


def test_sheet_of_the_fixed_prompts_beside_the_world(sheets: ModuleType, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    sheets.main(
        [
            "-m",
            str(tiny_model),
            "--beside-real",
            "--rows",
            "8",
            "--frames",
            "5",
            "--steps",
            "1",
            "--device",
            "cpu",
            "--out",
            str(out),
        ]
    )
    with Image.open(out) as picture:
        shown = np.asarray(picture)
    wide = 5 * 128 + 4 * 2
    assert shown.shape[1] == 2 * wide + 3 * sheets.GAP
    assert 8 * 128 < shown.shape[0] < 8 * 180
    right = shown[:, wide + 2 * sheets.GAP :]
    sky = (np.abs(right.astype(int) - (84, 153, 242)).max(-1) < 40).mean()
    assert sky > 0.02  # days of the world


def test_sheet_of_own_prompts(sheets: ModuleType, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red ball\n\n" + "a blue cube " * 40 + "\n", encoding="utf-8")
    out = tmp_path / "sheet.png"
    common = ["-m", str(tiny_model), "--steps", "1", "--device", "cpu", "--out", str(out)]
    heights = []
    for prompts in (["--prompts", str(tmp_path / "prompts.txt"), "--prompt", "a cone"], ["--prompt", "a cone"]):
        sheets.main([*common, *prompts])
        with Image.open(out) as picture:
            heights.append(picture.height - sheets.GAP)
    assert heights[0] > 3 * heights[1]  # one caption takes several lines


def test_sheet_that_moves_has_all_frames(
    sheets: ModuleType, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "MOVING_SIDE", 32)  # larger ones take long to compress
    out = tmp_path / "moving.webp"
    common = ["-m", str(tiny_model), "--steps", "1", "--device", "cpu", "--out", str(out)]
    sheets.main([*common, *(part for name in "abcde" for part in ("--prompt", f"a ball called {name}"))])
    with Image.open(out) as picture:
        assert picture.n_frames > 1
        assert picture.width == 4 * (sheets.MOVING_SIDE + sheets.GAP) + sheets.GAP
        assert picture.height > 2 * sheets.MOVING_SIDE


# ---- sentences


def test_a_sentence_names_what_is_asked_for(sentences: ModuleType) -> None:
    assert [set(sentences.parts_of(prompt)) for prompt in sentences.PROMPTS] == [
        {"color", "shape", "motion", "ground"}
    ] * len(sentences.PROMPTS)
    assert sentences.parts_of("A green cube slides to the left on the snow at night") == {
        "color": "green",
        "shape": "cube",
        "motion": "left",
        "ground": "snow",
        "light": "night",
    }
    with pytest.raises(InputError, match="'a red ball' names no motion"):
        sentences.parts_of("a red ball")


def test_a_second_object_counts_against_a_clip(sentences: ModuleType) -> None:
    cube = FoundObject("cube", "green", "large", "left", 0.9, (0.5, 0.5))
    other = FoundObject("ball", "red", "large", "still", 0.8, (0.2, 0.5))
    asked = sentences.parts_of("a green cube slides to the left on the snow")

    def verdict(*objects: FoundObject, ground: str = "snow") -> tuple[bool, bool]:
        judged = sentences.verdict(asked, Reading(objects, ground, "daylight", "static", "none"))
        return judged["every"], judged["alone"]

    assert verdict(cube) == (True, True)
    assert verdict(cube, other) == (True, False)
    assert verdict(other, cube) == (False, False)
    assert verdict(cube, ground="sand") == (False, False)
    assert verdict() == (False, False)


# ---- binding


def test_false_sentences_speak_of_the_same_words_or_of_other_colours(binding: ModuleType) -> None:
    for scene in binding.scenes_of_two("validation", 20):
        one, other = scene.objects
        assert one.color != other.color
        assert one.shape != other.shape
        swapped = binding.exchanged(scene, "color").objects
        assert [(o.color, o.shape) for o in swapped] == [(other.color, one.shape), (one.color, other.shape)]
        assert binding.exchanged(binding.exchanged(scene, "shape"), "shape") == scene
        again = binding.recolored(scene).objects
        assert not {o.color for o in again} & {one.color, other.color}
        assert [o.shape for o in again] == [one.shape, other.shape]


def test_what_a_model_knows_of_a_sentence_shows_in_its_loss(binding: ModuleType) -> None:
    """A model that predicts rightly by "true" and is off by 0.2 by anything else, on objects alone."""
    latents, cover = torch.randn(2, 4, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    cover[:, :, 1:3, 2] = 0.5

    class Knowing:
        dtype = torch.float32
        spec = SimpleNamespace(geometry=SimpleNamespace(patch=Size3D(1, 2, 2)))

        def text(self, told: list[str]) -> Any:
            right = torch.tensor([float(sentence == "true") for sentence in told])
            return SimpleNamespace(embeds=right[:, None, None], mask=torch.ones(len(told), 1))

        def transformer(self, noisy: torch.Tensor, timestep: torch.Tensor, embeds: torch.Tensor, mask: Any) -> Any:
            sigma = timestep.flatten()[0] / 1000
            target = (noisy - latents) / sigma
            off = 0.2 * (cover[:, None] > 0) + 5 * (cover[:, None] == 0)  # the latter does not count
            return SimpleNamespace(sample=target + (1 - embeds[..., None, None]) * off)

    found = binding.losses(Knowing(), latents, cover, ["true", "false"], 0)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.04]), rtol=1e-3, atol=1e-5)


def test_latents_of_objects_are_where_they_are_drawn(binding: ModuleType, tiny_model: Path) -> None:
    pipe, how = binding.load(str(tiny_model), device="cpu", steps=None, cfg=None)
    scenes = binding.scenes_of_two("validation", 2)
    for frames in (1, 5):
        latents, cover = binding.encoded(pipe, scenes, frames, (how.height, how.width))
        assert cover.shape == (2, *latents.shape[2:])
        assert 0 < cover.mean() < 0.5
        assert cover.max() <= 1


@pytest.mark.slow
def test_the_bundled_model_knows_who_is_what(binding: ModuleType) -> None:
    """By the true sentence its loss on objects is lower than by that with their colours exchanged, in most images."""
    pipe, how = binding.load("mini", device="cpu", steps=None, cfg=None)
    scenes = binding.scenes_of_two("validation", 16)
    latents, cover = binding.encoded(pipe, scenes, 1, (how.height, how.width))
    found = [
        binding.losses(pipe, latents, cover, binding.sentences(scenes, of, 1), 0)
        for of in (lambda scene: scene, binding.FALSE["colours exchanged"])
    ]
    more = found[1] / found[0] - 1
    assert more.mean() > 0.03
    assert (more > 0).float().mean() > 0.6


def test_binding_is_measured_by_a_command(
    binding: ModuleType, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["-m", str(tiny_model), "--num-scenes", "3", "--device", "cpu"]
    binding.main(common)
    said = capsys.readouterr().out
    assert "3 clips" in said
    for name in binding.FALSE:
        assert name in said
    with pytest.raises(SystemExit, match=r"--num-frames must be .*; got 3"):
        binding.main([*common, "--num-frames", "3"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "0"], "got 0"),
        (["--out", "moving.webp", "--real"], "draw a .png"),
        (["--rows", "17"], "1 to 16; got 17"),
        (["--out", "sheet.jpg"], "sheet.jpg"),
        (["--beside-real", "--prompt", "a red ball"], "fixed prompts"),
        (["--real", "--prompt", "a red ball"], "fixed prompts"),
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
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "--beside-real" in done.stdout
