"""The training example: its stages at a minute size, resuming, stopping, two processes, and what it refuses."""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mini.ahead
import mini.batches
import mini.clips
import mini.dit
import mini.latents
import mini.processes
import mini.trainer
import mini.vae
import mini.validate
import mini_levers
import numpy as np
import pytest
import torch
import train_mini
import train_mini_session
from mini.models import assemble, start_dit, start_text, weights_hash
from mini.recipe import PRESETS
from mini.words import build_tokenizer
from PIL import Image
from safetensors import safe_open

from videodit import VideoDiTPipeline
from videodit.datasets.toybox import known_words, sample_scene
from videodit.errors import Stopped
from videodit.training.checkpoints import CheckpointStore

SCRIPT = Path(train_mini.__file__)
TINY = PRESETS["tiny"]
CPU = torch.device("cpu")
RATES = {"color": 0.75, "camera": 0.25, "all": 0.1}


@pytest.fixture(autouse=True, scope="module")
def _every_step_counts() -> Iterator[None]:
    """Every step is logged and saved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini.trainer.Trainer, "seconds_between_logs", 0)
        patch.setattr(mini.trainer.Trainer, "seconds_between_saves", 0)
        yield


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A probe that reads the same rates in all clips; the list gets the shapes of what it was shown."""
    shown: list[Any] = []

    def adherence(clips: torch.Tensor, scenes: list[Any], probe: Any) -> dict[str, float]:
        assert clips.dtype == torch.uint8
        assert len(clips) == len(scenes)
        assert all(a == sample_scene(i, split="validation") for i, a in enumerate(scenes))
        shown.append(tuple(clips.shape))
        return RATES

    def from_pretrained(folder: Path) -> Any:
        assert folder.is_dir()
        return SimpleNamespace(to=lambda device: "probe")

    monkeypatch.setattr(mini.validate, "adherence", adherence)
    monkeypatch.setattr(mini.validate.ToyboxProbe, "from_pretrained", from_pretrained)
    return shown


def stage(name: str, out: Path, minutes: float, *more: str) -> None:
    """Run one stage as the command line does, with errors as they are raised."""
    with pytest.MonkeyPatch.context() as patch:
        words = ["--stage", name, "--out", str(out), "--minutes", str(minutes), "--preset", "tiny", "--device", "cpu"]
        patch.setattr(sys, "argv", ["train_mini.py", *words, *more])
        train_mini.train(train_mini.parse())


def logged(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def state_of(folder: Path) -> dict[str, Any]:
    store = CheckpointStore(folder / "checkpoints", keep=1)
    (path,) = store.all()
    checkpoint = store.open(path)
    return {"step": checkpoint.step, **checkpoint.about}


def at_call(call: int, function: Callable[..., Any], happens: Callable[[], Any]) -> Callable[..., Any]:
    """`function`, but at one call of it something happens first."""
    calls = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            happens()
        return function(*args, **kwargs)

    return wrapper


def lose_power() -> None:
    raise RuntimeError("power is out")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run through the stages that need no probe."""
    out = tmp_path_factory.mktemp("run")
    stage("vae", out, 0.03)
    stage("latents", out, 1)
    stage("text", out, 0.03)
    stage("dit", out, 0.03)
    return out


# ---- stages


@pytest.mark.slow
def test_stages_lead_to_a_model_that_loads_and_generates(run: Path) -> None:
    report = json.loads((run / "vae" / "report.json").read_text())
    assert set(report["psnr_db"]) == {str(form) for form in TINY.forms()}
    assert min(report["psnr_db"].values()) > 5
    pipe = VideoDiTPipeline.from_pretrained(run / "mini")
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        "a red ball bounces",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        return_dict=False,
    )[0]
    assert frames.shape == (1, 17, 32, 32, 3)
    assert np.isfinite(frames).all()
    assert frames.std() > 0
    assert pipe.text.known_words == frozenset(known_words())
    assert pipe.defaults.num_frames == 17
    assert pipe.vae.config.latents_std is not None
    assert all(str(run) not in path.read_text(encoding="utf-8") for path in (run / "mini").rglob("*.json"))
    assert max(path.stat().st_size for path in (run / "mini").rglob("*.safetensors")) < 16_000_000


@pytest.mark.slow
def test_every_form_is_encoded_and_trained_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = mini.latents.load_latents(run)
    assert set(stored) == set(TINY.forms())
    for form, (latents, scenes, _) in stored.items():
        size = (4, 1 + (form.frames - 1) // 4, form.height // 8, form.width // 8)
        assert latents.shape == (len(scenes), *size)
        scene = mini.clips.scene_from(scenes[-1])
        assert scene == sample_scene(scene.seed)
    seen = set()

    def describe(scene: Any, form: Any, seed: int) -> str:
        if form not in seen:
            seen.add(form)
            if seen == set(TINY.forms()):
                signal.raise_signal(signal.SIGTERM)
        return mini.clips.describe(scene, form, seed)

    monkeypatch.setattr(mini.batches, "describe", describe)
    out = run.parent / "forms"
    for part in ("latents", "vae/export"):
        shutil.copytree(run / part, out / part)
    monkeypatch.setattr(TINY.__class__, "draw_form", lambda self, seed, step, among: among[step % len(among)])
    with pytest.raises(Stopped, match=f"dit stopped at step {len(TINY.forms())};"):
        stage("dit", out, 1.0)


@pytest.mark.slow
def test_log_tells_loss_speed_and_flops(run: Path) -> None:
    for row in (*logged(run / "vae"), *logged(run / "dit")):
        assert row["loss"] > 0
        assert row["samples_per_second"] > 0
    assert sum(row["tflops"] for row in logged(run / "vae")) > 0


@pytest.mark.slow
def test_init_starts_from_an_exported_model(run: Path, tmp_path: Path) -> None:
    """In no time at all, what comes out is what went in."""
    mini.vae.train_vae(TINY, tmp_path, 0.0, CPU, 0, init=run / "mini")
    mini.latents.encode_latents(TINY, tmp_path, 0.001, CPU, 0)
    mini.dit.train_dit(TINY, tmp_path, 0.0, CPU, 0, init=run / "mini")
    before, after = (VideoDiTPipeline.from_pretrained(folder / "mini") for folder in (run, tmp_path))
    for part in ("vae", "text_encoder", "transformer"):
        old, new = (getattr(pipe, part).state_dict() for pipe in (before, after))
        assert all(torch.equal(new[key], value) for key, value in old.items()), part


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "dit"])
def test_finished_stage_goes_on_with_more_minutes(run: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(run, tmp_path / "run")  # other autoencoders would not fit the latents
    before = state_of(run / name)
    assert [row["step"] for row in logged(run / name)] == list(range(1, before["step"] + 1))
    stage(name, run, before["seconds"] / 60 + 0.02)
    after = state_of(run / name)
    assert after["step"] > before["step"]
    assert after["seconds"] > before["seconds"]
    assert [row["step"] for row in logged(run / name)] == list(range(1, after["step"] + 1))
    stage(name, run, 0.01)  # fewer minutes than it has trained
    assert state_of(run / name)["step"] == after["step"]


@pytest.mark.slow
def test_killed_stage_resumes_where_it_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def scenes(first: int, count: int, *split: Any) -> Any:
        if not split:
            drawn.append(first)
        return mini.clips.scenes(first, count, *split)

    monkeypatch.setattr(mini.vae, "scenes", scenes)
    with monkeypatch.context() as patch:
        patch.setattr(mini.vae, "rendered", at_call(4, mini.vae.rendered, lose_power))
        with pytest.raises(RuntimeError, match="power"):
            stage("vae", tmp_path, 1.0)
    killed = state_of(tmp_path / "vae")
    assert killed["step"] == 3
    assert not (tmp_path / "vae" / "export").exists()
    with (tmp_path / "vae" / "log.jsonl").open("a") as file:  # logged, but never saved
        file.write('{"kind": "train", "step": 4, "seconds": 99}\n')
    stage("vae", tmp_path, killed["seconds"] / 60 + 0.02)
    assert [row["step"] for row in logged(tmp_path / "vae")][:4] == [1, 2, 3, 4]
    assert max(row["seconds"] for row in logged(tmp_path / "vae")) < 99
    apart = drawn[1] - drawn[0]
    assert drawn[:5] == [0, apart, 2 * apart, 3 * apart, 3 * apart]  # step 4 again, with the same scenes
    assert (tmp_path / "vae" / "export" / "config.json").is_file()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_resumed_transformer_goes_on_with_the_next_batch(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(run, tmp_path / "run")
    before, starts = state_of(run / "dit"), []

    def ahead(make: Any, indices: range, workers: int, device: torch.device) -> Any:
        starts.append((indices.start, workers))
        return mini.ahead.ahead(make, indices, workers, device)

    monkeypatch.setattr(mini.batches, "ahead", ahead)
    stage("dit", run, before["seconds"] / 60 + 0.01, "--workers", "1")
    assert starts == [(before["step"], 1)]
    assert state_of(run / "dit")["step"] > before["step"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stage_that_is_asked_to_stop_saves_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr(mini.trainer.Trainer, "seconds_between_saves", 1e9)
    monkeypatch.setattr(mini.vae, "rendered", at_call(3, mini.vae.rendered, lambda: signal.raise_signal(number)))
    with pytest.raises(Stopped, match="vae stopped at step 3"):
        stage("vae", tmp_path, 1.0)
    assert signal.getsignal(number) == before
    assert state_of(tmp_path / "vae")["step"] == 3
    assert not (tmp_path / "vae" / "export").exists()


@pytest.mark.slow
def test_killed_latents_are_whole_shards_and_the_rest_follows(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run / "vae" / "export", tmp_path / "vae" / "export")
    shards = list(mini.latents.plan_shards(TINY))[:5]
    monkeypatch.setattr(mini.latents, "plan_shards", lambda recipe: iter(shards))
    encode = functools.partial(mini.latents.encode_latents, TINY, tmp_path, 10.0, CPU, 7)
    with monkeypatch.context() as patch:
        patch.setattr(mini.latents, "rendered", at_call(3, mini.latents.rendered, lose_power))
        with pytest.raises(RuntimeError, match="power"):
            encode()
    folder = tmp_path / "latents"
    first = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    names = [f"{shard.first:07d}.safetensors" for shard in shards]
    assert sorted(first) == names[:2]
    encode()
    assert sorted(path.name for path in folder.iterdir()) == names
    assert all((folder / name).stat().st_mtime_ns == time for name, time in first.items())
    for name, shard in zip(names, shards, strict=True):
        with safe_open(folder / name, "pt") as file:
            assert len(file.get_tensor("latents")) == shard.clips
            assert json.loads(file.metadata()["form"]) == list(shard.form)
            assert file.metadata()["seed"] == "7"
            scenes = json.loads(file.metadata()["scenes"])
        assert [scene["seed"] for scene in scenes] == list(range(7 + shard.first, 7 + shard.first + shard.clips))


# ---- validation


@pytest.mark.slow
def test_validation_is_logged_and_the_best_is_exported(
    run: Path, tmp_path: Path, probe: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("latents", "vae/export"):
        shutil.copytree(run / part, tmp_path / part)
    (tmp_path / "probe" / "export").mkdir(parents=True)
    means = iter([0.9, *[0.1] * 1000])
    monkeypatch.setattr(mini.dit, "measure", lambda *_, **__: {"adherence": next(means)})
    mini.dit.train_dit(TINY, tmp_path, 0.06, CPU, 0, validate_minutes=1e-9, steps=3)
    rows = logged(tmp_path / "dit", "validation")
    assert [row["adherence"] for row in rows] == [0.9] + [0.1] * (len(rows) - 1)
    assert [row["step"] for row in rows] == [1, 2, 3]
    last = state_of(tmp_path / "dit")
    assert rows[-1]["step"] == last["step"]  # the end is measured, too
    assert logged(tmp_path / "dit")[-1]["adherence"] in (0.9, 0.1)
    assert f"exporting the best validated weights, of step {rows[0]['step']} of " in capsys.readouterr().out
    exported = VideoDiTPipeline.from_pretrained(tmp_path / "mini").transformer.state_dict()
    with safe_open(tmp_path / "dit" / "best.safetensors", "pt") as file:
        assert file.metadata()["step"] == str(rows[0]["step"])
        for key, value in exported.items():
            assert torch.equal(file.get_tensor(f"transformer.{key}"), value.bfloat16())
    (averages,) = (tmp_path / "dit" / "checkpoints").glob("*/ema.safetensors")
    with safe_open(averages, "pt") as file:  # those of the end are others
        last_ones = {key: file.get_tensor(f"ema.transformer.{key}") for key in exported}
    assert any(not torch.equal(last_ones[key].bfloat16(), value.bfloat16()) for key, value in exported.items())


@pytest.mark.slow
def test_tune_writes_its_table_and_the_choice(
    run: Path, tmp_path: Path, probe: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run / "mini", tmp_path / "mini")
    with monkeypatch.context() as patch:
        patch.setattr(mini.validate, "BUNDLED", tmp_path / "none")
        with pytest.raises(SystemExit, match="--stage probe first"):
            stage("tune", tmp_path, 1)
    (tmp_path / "probe" / "export").mkdir(parents=True)
    stage("tune", tmp_path, 1e-9)
    assert len(probe) == 1  # no time for a second row
    stage("tune", tmp_path, 1)
    assert probe == [(4, 3, 17, 32, 32)] * 4
    report = json.loads((tmp_path / "tune" / "report.json").read_text())
    assert [(row["guidance"], row["steps"]) for row in report["rows"]] == [(1.0, 1), (3.0, 1), (1.0, 2), (3.0, 2)]
    assert all(row["adherence"] == 0.5 for row in report["rows"])
    assert all(row.items() >= RATES.items() for row in report["rows"])
    assert (report["best"]["guidance"], report["best"]["steps"]) == (1.0, 1)  # all are equal
    pipe = VideoDiTPipeline.from_pretrained(tmp_path / "mini")
    assert (pipe.defaults.guidance_scale, pipe.defaults.num_inference_steps) == (1.0, 1)
    stage("tune", tmp_path, 1)
    assert len(probe) == 4  # the rows of these weights are there


@pytest.mark.slow
def test_dit_says_once_that_there_is_no_probe(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("latents", "vae/export"):
        shutil.copytree(run / part, tmp_path / part)
    monkeypatch.setattr(mini.validate, "BUNDLED", tmp_path / "none")
    stage("dit", tmp_path, 0.02, "--validate-minutes", "0.001")
    told = capsys.readouterr().out
    assert told.count("nothing is validated") == 1
    assert logged(tmp_path / "dit", "validation") == []
    assert "exporting the last weights" in told


@pytest.mark.slow
def test_bundled_probe_measures_a_run_that_has_none_of_its_own(run: Path) -> None:
    rows = logged(run / "dit", "validation")
    assert rows[-1]["step"] == state_of(run / "dit")["step"]
    for row in rows:
        assert 0 <= row["adherence"] <= 1
        assert {"color", "shape", "motion", "camera"} <= row.keys()
    with safe_open(run / "dit" / "best.safetensors", "pt") as file:
        about = file.metadata()
    assert float(about["adherence"]) == max(row["adherence"] for row in rows)
    assert about["vae"] == weights_hash(run / "vae" / "export")
    assert about["probe"] == weights_hash(mini.validate.BUNDLED)


@pytest.mark.slow
def test_curves_are_drawn(run: Path) -> None:
    stage("curves", run, 1)
    with Image.open(run / "curves.png") as picture:
        assert picture.height == 4 * importlib.import_module("mini.curves").SIZE[1]  # three losses and the adherence
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 3


# ---- what is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "--minutes must be above 0; got 0.0"),
        (["--minutes", "nan"], "--minutes must be above 0"),
        (["--validate-minutes", "-1"], "--validate-minutes must be above 0"),
        (["--preset", "huge"], "invalid choice: 'huge'"),
        (["--stage", "sleep"], "invalid choice: 'sleep'"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--workers", "-1"], "--workers must be at least 0; got -1"),
        (["--device", "abacus"], "--device abacus is not here"),
        (["--out", __file__], "is a file"),
        (["--init", "nowhere"], "nowhere holds no model_index.json"),
    ],
)
def test_bad_arguments_are_named(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        stage("vae", tmp_path, 1, *words)
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "first"), [("latents", "vae"), ("dit", "latents"), ("tune", "dit"), ("curves", "vae or dit")]
)
def test_stage_says_which_one_it_needs(name: str, first: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"run --stage {first} first"):
        stage(name, tmp_path, 1)


def test_init_of_another_size_is_refused(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stage("vae", tmp_path, 1, "--init", str(tiny_model))
    assert "does not fit this preset: vae has base_dim=8, not 16" in capsys.readouterr().err


# ---- a session on a machine that is lent


def opened(results: Path, folder: Path) -> Path:
    """What the pieces of a session's results hold."""
    folder.mkdir()
    whole = folder / "whole.tar"
    whole.write_bytes(b"".join(path.read_bytes() for path in sorted(results.glob("model.tar.*"))))
    with tarfile.open(whole) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_results_of_a_session_are_small_files_that_hold_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_mini_session, "PIECE", 4000)
    out, results = tmp_path / "run", tmp_path / "results"
    (out / "dit").mkdir(parents=True)
    assert [file.name for file in train_mini_session.keep(out, results)] == ["logs.tar"]  # no model yet
    best = os.urandom(9000)
    (out / "dit" / "best.safetensors").write_bytes(best)
    (out / "dit" / "log.jsonl").write_text("{}")
    kept = train_mini_session.keep(out, results)
    assert sorted(results.iterdir()) == kept
    assert [file.name for file in kept[1:]] == [f"model.tar.{n:02}" for n in range(len(kept) - 1)]
    assert max(file.stat().st_size for file in kept[1:]) == 4000
    assert (opened(results, tmp_path / "a") / "dit" / "best.safetensors").read_bytes() == best
    with tarfile.open(results / "logs.tar") as logs:
        assert logs.getnames() == ["dit/log.jsonl"]
    (out / "mini" / "vae").mkdir(parents=True)
    (out / "mini" / "vae" / "config.json").write_text("{}")
    assert train_mini_session.keep(out, results) == sorted(results.iterdir())  # the whole model, and no piece of before
    whole = opened(results, tmp_path / "b")
    assert [path.relative_to(whole).as_posix() for path in whole.rglob("*.json")] == ["mini/vae/config.json"]


def test_stage_of_a_session_that_takes_too_long_is_asked_to_stop(tmp_path: Path) -> None:
    words = [sys.executable, "-u", "-c", "import time; print('here'); time.sleep(60)"]
    assert train_mini_session.run_stage(words, 2.0, tmp_path / "told.txt") != 0
    assert (tmp_path / "told.txt").read_text().split() in (["here"], [])
    assert train_mini_session.run_stage([sys.executable, "-c", "print('again')"], 60, tmp_path / "told.txt") == 0
    assert (tmp_path / "told.txt").read_text().endswith("again\n")


def test_session_refuses_what_cannot_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, told in (
        (["--minutes", "1", "-1", "1"], "--minutes must be at least 0; got 1.0 -1.0 1.0"),
        (["--minutes", "1", "nan", "1"], "--minutes must be at least 0; got 1.0 nan 1.0"),
        (["--minutes", "1", "1", "1", "--processes", "0"], "--processes must be at least 1; got 0"),
    ):
        with pytest.raises(SystemExit):
            train_mini_session.main([*words, "--out", str(tmp_path / "a"), "--results", str(tmp_path / "b")])
        assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_session_leaves_a_model_that_goes_on(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_mini_session, "GRACE", 1200)  # on a busy machine imports alone take minutes
    out, results = tmp_path / "run", tmp_path / "results"
    words = ["--minutes", "1", "0.05", "0.001", "--preset", "tiny", "--device", "cpu", "--init", str(run / "mini")]
    assert train_mini_session.main([*words, "--out", str(out), "--results", str(results)]) == 0
    model = opened(results, tmp_path / "whole") / "mini"
    assert weights_hash(model / "transformer") == weights_hash(out / "mini" / "transformer")
    assert weights_hash(model / "vae") == weights_hash(run / "mini" / "vae")
    tuned = json.loads((out / "tune" / "report.json").read_text())["best"]
    assert json.loads((model / "model_index.json").read_text())["num_inference_steps"] == tuned["steps"]
    with tarfile.open(results / "logs.tar") as logs:
        assert {"latents.txt", "dit.txt", "tune.txt", "dit/log.jsonl", "tune/report.json"} <= set(logs.getnames())


# ---- levers


@pytest.mark.slow
def test_levers_are_measured_side_by_side(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--init", str(run / "mini"), "--out", str(tmp_path), "--preset", "tiny", "--debug"]
    words += ["--samples", "8", "--prompts", "2", "--clips", "2"]
    assert mini_levers.main([*words, "--lever", "plain", "--lever", "contrast"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["before", "contrast-1", "plain-1"]
    first, second = (state_of(tmp_path / name / "dit")["step"] for name in ("plain-1", "contrast-1"))
    assert first == second == 2  # four samples each
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert mini_levers.main([*words, "--lever", "plain", "--seed", "2"]) == 0
    assert len(list(tmp_path.glob("*/result.json"))) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in results.items())
    with safe_open(next((tmp_path / "latents").iterdir()), "pt") as file:
        assert file.metadata()["seed"] == str(mini_levers.CLIPS_SEED)


# ---- processes


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What two processes printed, and their folder."""
    out = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, __file__, str(out)],
        cwd=out,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, out


@pytest.mark.slow
def test_two_processes_average_gradients_and_stay_equal(together: tuple[str, Path]) -> None:
    told, out = together
    assert told.count("equal weights") == 2
    assert state_of(out / "vae")["step"] >= 1


@pytest.mark.slow
def test_two_processes_validate_together(together: tuple[str, Path]) -> None:
    """The second has no prompt of its own when there is one."""
    told, out = together
    assert told.count("same clips") == 1
    for count in (1, 3):
        (row,) = logged(out / f"dit{count}", "validation")
        assert (row["step"], row["adherence"], row["color"]) == (5, 0.5, 0.75)
        assert state_of(out / f"dit{count}")["step"] == 5
        assert (out / f"dit{count}" / "best.safetensors").is_file()


def validate_together(out: Path) -> None:
    """Validate with fewer prompts than processes, then with more; the first process is shown all clips."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(0, 300)
    dit, text_model = start_dit(TINY, None), start_text(TINY, tokenizer, None)
    torch.nn.init.normal_(dit.proj_out.weight)
    pipe = assemble(dit, text_model, tokenizer, mini.vae.start_vae(TINY, None).eval(), TINY)
    shown: list[torch.Tensor] = []

    def adherence(clips: torch.Tensor, scenes: list[Any], probe: Any) -> dict[str, float]:
        shown.append(clips)
        return RATES

    mini.validate.adherence = adherence
    for count in (1, 3):
        options = {"count": count, "steps": 1, "guidance": 1.0, "batch": 1}
        measure = functools.partial(mini.validate.measure, pipe, "probe", **options)  # type: ignore[arg-type]
        trainer = mini.trainer.Trainer(out / f"dit{count}", {"transformer": dit}, [], minutes=1, validate=measure)
        trainer.step = 5
        trainer._validate()
    assert len(shown) == (0 if mini.processes.RANK else 2)
    if shown:
        assert [len(clips) for clips in shown] == [1, 3]
        assert torch.equal(shown[0][0], shown[1][0])
        assert not torch.equal(shown[1][0], shown[1][1])
        print("same clips", flush=True)


def worker(out: Path) -> None:
    """One of two processes: averages numbers, gathers others, trains a VAE for a moment, then validates."""
    from mini.processes import RANK, WORLD, agree, average, gather

    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    assert world == WORLD == 2
    assert rank == RANK

    gradients = [torch.full((2, 3), float(rank)), torch.arange(4.0) * (1 + 2 * rank)]
    average(gradients)
    assert torch.equal(gradients[0], torch.full((2, 3), 0.5))
    assert torch.equal(gradients[1], torch.arange(4.0) * 2)
    assert agree(10.0 + rank, False) == (10.0, False)
    assert agree(10.0 + rank, rank == 1) == (10.0, True)
    numbers = torch.arange(10, dtype=torch.uint8).view(5, 2)
    gathered = gather(numbers[rank::2])
    assert (gathered is None) == (rank == 1)
    assert gathered is None or torch.equal(gathered, numbers)

    losses = []
    trainer_run = mini.trainer.Trainer.run

    def run(self: Any, train_step: Callable[..., Any]) -> None:
        def step(generator: torch.Generator) -> Any:
            done = train_step(generator)
            losses.append(done.metrics["loss"].item())
            return done

        trainer_run(self, step)
        weights = torch.cat([p.detach().flatten() for p in self.modules["vae"].parameters()])
        both = [torch.empty_like(weights) for _ in range(world)]
        torch.distributed.all_gather(both, weights)
        assert torch.equal(*both)

    mini.trainer.Trainer.run = run  # type: ignore[method-assign]
    mini.vae.finish_vae = lambda *_: None
    mini.vae.train_vae(TINY, out, 0.03, CPU, 0)
    first = torch.tensor(losses[0])
    all_first = [torch.empty_like(first) for _ in range(world)]
    torch.distributed.all_gather(all_first, first)
    assert not torch.equal(*all_first)  # they saw different clips
    print("equal weights", flush=True)
    validate_together(out)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
