"""benchmarks/conditions.py: what it measures of clips, what it hands to the model, what it tells, keeps and refuses."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from videodit import Edit, Region, Storyboard
from videodit.datasets.toybox import Scene, canonical_caption, split_of
from videodit.datasets.toybox.probe import FoundObject, Reading, ToyboxProbe


@pytest.fixture(scope="module")
def measures() -> ModuleType:
    return importlib.import_module("abilities.measures")


@pytest.fixture(scope="module")
def conditions() -> ModuleType:
    return importlib.import_module("conditions")


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a probe that has learned nothing."""
    folder = tmp_path_factory.mktemp("probe")
    torch.manual_seed(0)
    ToyboxProbe(width=16, early=0, late=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def arguments(tiny_model: Path, probe: Path) -> list[str]:
    small = ["--clips", "1", "--steps", "4", "--seconds", "2", "--window", "17", "--device", "cpu"]
    return ["-m", str(tiny_model), "--probe", str(probe), *small]


@pytest.fixture(scope="module")
def bench(conditions: ModuleType, arguments: list[str]) -> Any:
    return conditions.prepare(conditions.parse([*arguments, "--clips", "3"]))


def perfect(scene: Scene, center: tuple[float, float] = (0.5, 0.5)) -> Reading:
    """What should be read of a scene."""
    things = (FoundObject(o.shape, o.color, o.size, o.motion, 0.9, center) for o in scene.objects)
    return Reading(tuple(things), scene.ground, scene.light, scene.camera, scene.interaction)


def moving(frames: int, step: int = 1) -> np.ndarray:
    """A clip that gets brighter by a grey level a step."""
    levels = np.arange(frames) * step
    return np.broadcast_to(levels[:, None, None, None], (frames, 4, 4, 3)).astype(np.uint8)


# ---- figures


def test_psnr_is_of_the_pixels_that_are_asked_for(measures: ModuleType) -> None:
    given = np.zeros((2, 4, 4, 3), np.uint8)
    made = given.copy()
    made[:, :, 2:] = 16
    right = np.zeros((2, 4, 4), bool)
    right[:, :, 2:] = True
    assert measures.psnr(made, given, right) == pytest.approx(20 * np.log10(255 / 16))
    assert measures.psnr(made, given) == pytest.approx(20 * np.log10(255 / 16) + 10 * np.log10(2))
    assert measures.psnr(made, given, ~right) == 99
    assert measures.psnr(given[0], made[0]) == measures.psnr(made[0], given[0])  # no byte wraps


def test_seams_are_told_in_steps_of_the_clip(measures: ModuleType) -> None:
    clip = moving(9, step=2)
    assert measures.seam_ratio(clip, 5) == 1
    clip = clip.copy()
    clip[5:] += 4
    assert measures.seam_ratio(clip, 5) == 3
    assert measures.seam_ratio(clip, 4) == 1
    assert measures.closing_ratio(moving(9)) == 8
    ring = np.concatenate([moving(5), moving(4)[::-1]])
    assert measures.closing_ratio(ring[:-1]) == 1
    still = moving(9, step=0).copy()
    still[5:] = 10
    assert measures.seam_ratio(still, 5) == 10 / measures.STILLEST


def test_colours_are_those_of_the_cie(measures: ModuleType) -> None:
    """By the values that are told for sRGB's corners everywhere."""
    told = {
        (1, 1, 1): (100, 0, 0),
        (0, 0, 0): (0, 0, 0),
        (1, 0, 0): (53.24, 80.09, 67.20),
        (0, 0, 1): (32.30, 79.19, -107.86),
    }
    for rgb, lab in told.items():
        assert measures.lab(np.array(rgb, float)) == pytest.approx(lab, abs=0.05)
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    assert measures.color_drift(white, white) == 0
    assert measures.color_drift(white, 0 * white) == pytest.approx(100)


def test_intervals_hold_what_they_should(measures: ModuleType) -> None:
    """95 % of the intervals of normal numbers hold the true middle, 0."""
    rng = np.random.default_rng(0)
    for figure, least in ((measures.mean, 0.92), (measures.median, 0.93)):
        drawn = [figure("", "", rng.normal(size=40)) for _ in range(1000)]
        assert least <= np.mean([one.low <= 0 <= one.high for one in drawn]) <= 0.985
    assert measures.mean("", "", [3.0]).low is None
    few = measures.median("", "", [3.0, 1.0, 2.0])
    assert (few.low, few.value, few.high) == (1, 2, 3)


def test_figures_come_back_from_json(measures: ModuleType) -> None:
    target, beside = measures.Target(0.7, 1.3), {"real": np.float64(1)}
    figure = measures.share("loop", "good", [True, False], target=target, beside=beside)
    values = json.loads(json.dumps(figure.as_json()))
    assert values["met"] is False
    assert measures.Figure.from_json(values) == figure
    assert figure.cells() == ["loop", "good", "0.500 (0.095–0.905)", "2", "0.7–1.3, no", "real 1.000"]
    assert [measures.Target(least=1).met(value) for value in (0.9, 1.0, float("nan"))] == [False, True, False]
    assert str(measures.Target(most=3)) == "≤ 3"


# ---- scenes and masks


def test_scenes_are_held_out_and_what_was_asked_for(bench: Any) -> None:
    scenes = bench.lasting(4)
    assert [scene.objects[0].motion for scene in scenes] == ["bounce", "spin", "circle", "still"]
    assert {scene.camera for scene in scenes} == {"static"}
    for scene in [*scenes, *bench.scenes()]:
        (thing,) = scene.objects
        assert split_of(thing.shape, thing.color, thing.motion) == "test"


def test_masks_grow_to_whole_tokens_and_groups(bench: Any) -> None:
    mask = np.zeros((17, 32, 32), bool)
    mask[6, 3, 20] = True
    grown = bench.grid(mask)
    tokens = bench.pipe.spec.geometry.vae_stride.h * bench.pipe.spec.geometry.patch.h
    assert grown.sum() == 4 * tokens**2
    assert grown[5:9, 3, 20].all()
    plan = bench.pipe.check_inputs("a ball", conditions=[Region(grown, np.zeros((17, 32, 32, 3), np.uint8))])
    assert (plan.conditions.level > 0).sum() == (tokens // bench.pipe.spec.geometry.vae_stride.h) ** 2


def test_things_to_inpaint_are_where_nothing_was(bench: Any) -> None:
    parts = importlib.import_module("abilities.parts")
    for job in parts._other_half(bench):
        _, objects = parts.with_mask(bench, job.given)
        assert not (objects & job.mask).any()
        assert job.asked.objects[0] == job.given.objects[0]
        column = np.nonzero(job.mask[0].all(axis=0))[0].mean() / job.mask.shape[2]
        assert parts._is_inside(job, perfect(job.asked, (column, 0.5)))
        assert not parts._is_inside(job, perfect(job.asked, (1 - column, 0.5)))
        assert not parts._is_inside(job, perfect(job.given, (column, 0.5)))
    for job in parts._around_object(bench):
        _, objects = parts.with_mask(bench, job.given)
        assert not (objects & ~job.mask).any()
        assert job.asked.objects[0].color != job.given.objects[0].color


def test_what_lies_near_a_mask_is_told_apart() -> None:
    parts = importlib.import_module("abilities.parts")
    mask = np.zeros((2, 12, 12), bool)
    mask[1, 0, 5] = True
    grown = parts._grown(mask, 3)
    assert not grown[0].any()
    assert np.array_equal(np.argwhere(grown[1]).max(axis=0), [3, 8])
    assert grown.sum() == 4 * 7
    assert np.array_equal(parts._grown(mask, 0), mask)


# ---- what a model that makes no mistake is told, and gets


@pytest.fixture
def ideal(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Scene]], list[dict[str, Any]]]:
    """Lets the bench get the world's own clips in place of made ones, and a probe that reads them right."""

    def install(scenes: list[Scene]) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        by_prompt = {canonical_caption(scene): scene for scene in scenes}

        def make(prompts: list[str], clip: int, **options: Any) -> np.ndarray:
            calls.append({"prompts": prompts, "clip": clip, **options})
            return np.stack([bench.real(by_prompt[one], options.get("num_frames")) for one in prompts])

        def verdicts(scenes: list[Scene], clips: list[np.ndarray]) -> list[Any]:
            module = importlib.import_module("abilities.bench")
            assert {len(clip) for clip in clips} == {bench.form.num_frames}
            return [module.verdict(scene, perfect(scene)) for scene in scenes]

        monkeypatch.setattr(bench, "make", make)
        monkeypatch.setattr(bench, "verdicts", verdicts)
        return calls

    return install


def test_a_clip_from_a_picture_is_compared_where_its_object_should_be(
    conditions: ModuleType, bench: Any, ideal: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    ideal(bench.scenes())
    make, parts = bench.make, importlib.import_module("abilities.parts")

    def brighter(prompts: list[str], clip: int, **options: Any) -> np.ndarray:
        """Eight levels brighter where the object is, 100 elsewhere."""
        made = make(prompts, clip, **options)
        for one, scene in zip(made, bench.scenes()[clip:], strict=False):
            mask = parts.with_mask(bench, scene)[1]
            one[:] = np.where(mask[..., None], np.where(one < 128, one + 8, one - 8), one ^ 100)
        return made

    monkeypatch.setattr(bench, "make", brighter)
    figures = {figure.name: figure for figure in conditions.CASES["image"](bench).figures}
    assert figures["where the object should be, grey levels off"].value == pytest.approx(8)


@pytest.mark.parametrize(("more", "anchored"), [([], True), (["--no-anchor"], False), (["--anchor"], True)])
def test_windows_are_the_model_s_unless_it_is_said(
    more: list[str], anchored: bool, conditions: ModuleType, arguments: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"anchor": True}))
    bench = conditions.prepare(conditions.parse([*arguments, "-m", str(folder), "--case", "long", *more]))
    assert bench.pipe.check_inputs("a clip", **bench.options(num_frames=41)).anchor == anchored


def test_ends_of_a_real_clip_are_given(conditions: ModuleType, bench: Any, ideal: Callable) -> None:
    scenes = bench.scenes()
    calls = ideal(scenes)
    outcome = conditions.CASES["first-last"](bench)
    assert [call["clip"] for call in calls] == [0, 1, 2]
    assert all(np.array_equal(call["image"], bench.real(s)[0]) for call, s in zip(calls, scenes, strict=True))
    assert all(np.array_equal(call["last_image"], bench.real(s)[-1]) for call, s in zip(calls, scenes, strict=True))
    assert [figure.value for figure in outcome.figures] == [99, 99, 1, 1]
    assert all(figure.beside["VAE"] < 99 for figure in outcome.figures[:2])


def test_bridges_are_as_long_as_what_is_missing(conditions: ModuleType, bench: Any, ideal: Callable) -> None:
    scenes = bench.lasting(3, ("bounce", "spin", "circle"))
    calls = ideal(scenes)
    outcome = conditions.CASES["connect"](bench)
    for call, scene in zip(calls, scenes, strict=True):
        clip = bench.real(scene, call["num_frames"])
        first, last = call["conditions"]
        assert len(clip) == 25
        assert np.array_equal(first.content, clip[:9])
        assert np.array_equal(last.content, clip[last.at :])
        assert len(last.content) == 8
    assert outcome.figures[0].value == outcome.figures[0].beside["real"]
    assert outcome.figures[0].n == 6


def test_clips_are_extended_from_either_end(conditions: ModuleType, bench: Any, ideal: Callable) -> None:
    scenes = bench.lasting(3)
    calls = ideal(scenes)
    outcome = conditions.CASES["extend"](bench)
    assert len(calls) == 6
    for k, call in enumerate(calls):
        clip = bench.real(scenes[k % 3], 17 + 64)
        (given,) = call["conditions"]
        assert call["num_frames"] == len(clip)
        assert np.array_equal(given.content, clip[:17] if k < 3 else clip[-16:])
        assert given.at == (0 if k < 3 else -16)
    assert [f.value for f in outcome.figures if f.target is not None] == [1, 1]


# ---- the command
@pytest.mark.slow
def test_short_cases_are_measured_kept_and_drawn(
    conditions: ModuleType,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["image", "first-last", "loop", "inpaint", "edit", "recolor"]
    asked = [word for name in names for word in ("--case", name)]
    out = tmp_path / "conditions.json"
    command = [*arguments, *asked, "--json", str(out), "--sheets", str(tmp_path)]
    given: list[type] = []
    call = conditions.Bench.make

    def make(self: Any, prompts: Any, clip: int, **options: Any) -> np.ndarray:
        given.extend(type(one) for one in options.get("conditions", ()))
        return call(self, prompts, clip, **options)

    monkeypatch.setattr(conditions.Bench, "make", make)
    conditions.main(command)
    assert given == [Region, Region, *[Edit] * 4, Edit, Region, *[Edit] * 2, Region, Edit]
    printed = capsys.readouterr().out
    assert all(
        f"\n{name}" in printed
        for name in ("image", "first-last", "loop", "inpaint, half", "edit, 0.9", "recolor, prompts")
    )
    measured = json.loads(out.read_text())
    assert list(measured["cases"]) == names
    assert str(tmp_path) not in out.read_text()
    for name in names:
        figures, picture = measured["cases"][name]["figures"], tmp_path / f"conditions-{name}.png"
        assert figures
        assert all(one["low"] is None or one["low"] <= one["value"] <= one["high"] for one in figures)
        assert picture.stat().st_size <= conditions.LARGEST
        with Image.open(picture) as sheet:
            assert sheet.width > 8 * 32

    monkeypatch.setattr(conditions, "CASES", dict.fromkeys(conditions.CASES))  # none can be run
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nbehind\n")
    conditions.main([*command, "--page", str(page)])
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "behind")
    assert "old" not in lines
    assert sum(line.startswith("| image |") for line in lines) == 4
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert json.loads(out.read_text()) == measured
    assert capsys.readouterr().out.split("\ncase ")[1] == printed.split("\ncase ")[1]
    with pytest.raises(SystemExit, match=r"cases of clips 1, not 2; delete it"):
        conditions.main([*command, "--clips", "2"])


@pytest.mark.slow
def test_longer_cases_are_measured(
    conditions: ModuleType,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    longer = importlib.import_module("abilities.longer")
    monkeypatch.setattr(longer, "measured", lambda bench, frames: (1000.0 + frames, 3.0))
    out = tmp_path / "conditions.json"
    asked = [word for name in ("connect", "extend", "long", "windows", "storyboard") for word in ("--case", name)]
    conditions.main([*arguments, *asked, "--json", str(out)])
    cases = json.loads(out.read_text())["cases"]
    memory = cases["long"]["figures"][0]
    assert memory["value"] == pytest.approx((1000 + 33) / (1000 + 65))  # clips of 2 s beside those of 4 s
    assert memory["low"] is None
    assert {one["case"] for one in cases["windows"]["figures"]} == {
        "windows, 17 sharing 4",
        "windows, 17 sharing 8",
        "windows, 9 sharing 4",
    }
    parts = [one for one in cases["long"]["figures"] if one["name"].startswith("motion")]
    assert parts[0]["n"] == 4 * 1  # of 33 frames, 17 and not another 17
    assert "storyboard, second" in capsys.readouterr().out


def test_scenes_of_a_storyboard_differ_in_colour_and_ground(
    conditions: ModuleType, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "clips", 1)
    boards: list[Any] = []
    make = bench.make
    monkeypatch.setattr(bench, "make", lambda prompt, clip, **how: boards.append(prompt) or make(prompt, clip, **how))
    conditions.CASES["storyboard"](bench)
    (board,) = [one for one in boards if isinstance(one, Storyboard)]
    (start, before), (turn, after) = board.scenes
    (scene,) = bench.lasting(1)
    assert (start, before) == (0, canonical_caption(scene))
    assert turn * bench.form.fps >= bench.form.num_frames
    assert scene.objects[0].color not in after
    assert scene.objects[0].shape in after
    assert scene.ground not in after


@pytest.mark.slow
def test_memory_is_that_of_a_clip_which_nobody_keeps(tiny_model: Path) -> None:
    longer = importlib.import_module("abilities.longer")
    sent: list[Any] = []

    class Answer:
        send = staticmethod(sent.append)

    how = {"device": "cpu", "steps": 1, "cfg": 1.0}
    longer.stream_clip(str(tiny_model), how, {"num_frames": 33, "window": 17, "num_inference_steps": 1}, 0, Answer())
    ((memory, seconds),) = sent
    assert memory > 50e6  # torch alone takes more
    assert seconds > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--case", "dance"], "dance"),
        (["--clips", "0"], "at least 1; got 0"),
        (["--seconds", "nan"], "above 0; got nan"),
        (["--json", "nowhere/counts.json"], "nowhere/counts.json"),
        (["--sheets", "nowhere"], "a folder that exists; got nowhere"),
        (["--page", "nowhere.md"], "nowhere.md"),
        (["--window", "17", "--overlap", "6"], "overlap must be a multiple of 4 frames, got 6"),
        (["--window", "17", "--overlap", "16"], "can share 4 to 12 of them"),
        (["--steps", "3"], "strength is 0.3, which leaves none of 3 steps"),
        (["--anchor"], "--anchor goes with --case long and --case windows alone"),
        (["--anchor", "--case", "long", "--overlap", "4"], "with an anchor it must be at least 8"),
        (["--history-noise", "1"], "history_noise must be a number from 0 to below 1, got 1"),
        (["--probe", "nowhere"], "no probe in nowhere"),
        (["-m", "nosuch"], "nosuch"),
    ],
)
def test_bad_arguments_are_named(
    conditions: ModuleType, arguments: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        conditions.main([*arguments, *more])
    assert message in capsys.readouterr().err + str(stop.value)
