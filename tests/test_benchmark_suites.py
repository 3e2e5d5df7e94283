"""benchmarks/run.py and its suites: what is compared, what is told, and what happens when something cannot be run."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from videodit.hardware import default_dtype


@pytest.fixture
def run() -> Iterator[ModuleType]:
    yield importlib.import_module("run")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    return importlib.import_module("suites.measure")


@pytest.fixture(autouse=True)
def _no_collections(measure: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one before each turn, and here they would walk through all that a whole session of tests holds."""
    monkeypatch.setattr(measure, "gc", SimpleNamespace(collect=lambda: 0))


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    return importlib.import_module("suites.quality")


@pytest.fixture
def bench(measure: ModuleType) -> Any:
    return measure.Bench(torch.device("cpu"), seconds=5, rounds=3, tiny=True)


def measured(run: ModuleType, tmp_path: Path, suite: str, case: str) -> list[dict[str, Any]]:
    """The cases of a suite whose names hold a text, at toy size."""
    out = tmp_path / "speed.json"
    options = ["--tiny", "--device", "cpu", "--seconds", "0.01", "--out", str(out)]
    code = run.main(["--suite", suite, "--case", case, *options])
    found = json.loads(out.read_text())["cases"]
    assert found, f"no case of {suite} is called {case!r}"
    assert code == 0, found
    return found


# ---- how it is measured ------------------------------------------------------------------------------


def test_sides_take_turns_and_are_compared_with_the_first(measure: ModuleType, bench: Any) -> None:
    calls: list[tuple[str, int]] = []

    def side(name: str, value: float) -> Any:
        def call(turn: int) -> Tensor:
            calls.append((name, turn))
            return torch.tensor([value, -4.0])

        return measure.Side(name, call, weights=1000, facts=lambda: {"told": name})

    sides = [side("diffusers", 4.0), side("videodit", 3.0)]
    first, second = measure.compare(bench, sides, flops=10**9, reference=torch.tensor([4.0, -3.0]))
    warm = [(name, turn) for name in ("diffusers", "videodit") for turn in (-2, -1)]
    turns = [("diffusers", 0), ("videodit", 0), ("videodit", 1), ("diffusers", 1), ("diffusers", 2), ("videodit", 2)]
    assert calls == warm + turns
    assert "times" not in first
    assert "difference" not in first
    ratios = sorted(sides[0].seconds[i] / sides[1].seconds[i] for i in range(3))
    assert second["times"] == ratios[1]
    assert second["difference"] == pytest.approx(0.25)
    assert [row["error"] for row in (first, second)] == pytest.approx([0.2, 0.2 * 2**0.5])
    assert second["tflops"] == pytest.approx(1e-3 / second["seconds"])
    assert 0 < second["fastest"] <= second["seconds"] <= second["slowest"]
    assert (second["rounds"], second["told"]) == (3, "videodit")


def test_a_case_ends_when_its_time_is_up(measure: ModuleType, bench: Any) -> None:
    bench.seconds = 1e-9
    (row,) = measure.compare(bench, [measure.Side("diffusers", lambda _: None)])
    assert row["rounds"] == 1


@pytest.mark.parametrize(
    ("error", "note", "failed"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "does not fit in memory", False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "does not fit in memory", False),
        (ImportError("No module named 'xformers'"), "not installed: No module named 'xformers'", False),
        (ValueError("a\nmistake"), "ValueError: a mistake", True),
    ],
)
def test_a_side_that_cannot_run_says_so_and_the_others_go_on(
    measure: ModuleType, bench: Any, error: Exception, note: str, failed: bool
) -> None:
    def refuse(turn: int) -> None:
        raise error

    rows = measure.compare(bench, [measure.Side("diffusers", refuse), measure.Side("videodit", lambda _: None)])
    assert rows[0] == {"side": "diffusers", "dtype": None, "note": note, "failed": failed}
    assert rows[1]["rounds"] == 3
    assert "times" not in rows[1]


def test_what_is_refused_later_is_not_timed_any_more(measure: ModuleType, bench: Any) -> None:
    def refuse(turn: int) -> None:
        if turn == 1:
            raise MemoryError

    side = measure.Side("videodit", refuse)
    (row,) = measure.compare(bench, [side])
    assert row["note"] == "does not fit in memory"
    assert list(side.seconds) == [0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_is_how_far_it_rises(measure: ModuleType, bench: Any) -> None:
    side = measure.Side("videodit", lambda _: torch.ones(20, 2**20).sum(), weights=10**9)
    (row,) = measure.compare(bench, [side])
    assert 1.06 < row["peak_memory_gb"] < 1.3  # 84 MB above the weights


def test_a_case_that_fails_is_told_and_the_next_one_runs(
    run: ModuleType, measure: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail() -> list[dict[str, Any]]:
        raise KeyError("nothing")

    def fine() -> list[dict[str, Any]]:
        return [{"side": "videodit", "dtype": None, "seconds": 1.5, "parts": {"vae": 0.25}}]

    cases = [("dit", measure.Case("broken", fail)), ("vae", measure.Case("sound", fine))]
    monkeypatch.setattr(run, "chosen", lambda *_: iter(cases))
    out = tmp_path / "speed.json"
    assert run.main(["--suite", "all", "--device", "cpu", "--out", str(out)]) == 1
    found = json.loads(out.read_text())
    assert [case["rows"][0].get("note") for case in found["cases"]] == ["KeyError: 'nothing'", None]
    assert found["settings"]["suites"] == list(run.SUITES)
    lines = capsys.readouterr().out.splitlines()
    assert "all  KeyError: 'nothing'" in lines
    assert ["videodit", "1.5", "0.25"] in [line.split() for line in lines]
    assert ["median", "s", "vae", "s"] in [line.split() for line in lines]

    assert run.main(["--suite", "all", "--device", "cpu", "--out", str(out), "--minutes", "1e-9"]) == 0
    assert "left out after 1e-09 minutes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "speed"], "invalid choice: 'speed'"),
        (["--suite", "dit", "--seconds", "0"], "above 0; got 0.0"),
        (["--suite", "dit", "--minutes", "-1"], "and -1.0"),
        (["--suite", "dit", "--out", "nowhere/speed.json"], "nowhere/speed.json"),
        (["--suite", "dit", "--device", "tpu"], "'tpu' is not here"),
    ],
)
def test_bad_arguments_are_named(run: ModuleType, arguments: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        run.main(arguments)
    assert message in capsys.readouterr().err


# ---- likeness ----------------------------------------------------------------------------------------


def test_structural_similarity(quality: ModuleType) -> None:
    clips = torch.rand(2, 3, 16, 20)
    assert quality.ssim(clips, clips) == pytest.approx(1)
    # Of flat pictures only the means count: (2·a·b + C1) / (a² + b² + C1).
    flat = quality.ssim(torch.full((1, 12, 12), 0.5), torch.full((1, 12, 12), 0.25))
    assert flat == pytest.approx((0.25 + 1e-4) / (0.3125 + 1e-4))
    assert quality.ssim(clips, 1 - clips) < 0
    with pytest.raises(ValueError, match="11 pixels"):
        quality.ssim(clips[..., :10], clips[..., :10])


# ---- the suites, at toy size -------------------------------------------------------------------------


def test_predictions_are_the_same(run: ModuleType, tmp_path: Path) -> None:
    for name in ("wan toy, float32, guided", "wan toy, float32, backend"):
        (case,) = measured(run, tmp_path, "dit", name)
        for row in case["rows"]:
            assert row["error"] <= 1e-5
            assert row["tflops"] > 0
        assert [row["side"].split(",")[0] for row in case["rows"][:2]] == ["diffusers", "videodit"]


def test_low_precision_costs_no_more_than_in_diffusers(run: ModuleType, tmp_path: Path) -> None:
    for case in measured(run, tmp_path, "dit", "bfloat16, eager"):
        theirs, ours = case["rows"]
        assert 1e-4 < ours["error"] < 1.25 * theirs["error"]


def test_flops_of_a_forward_are_those_of_its_products(measure: ModuleType, bench: Any) -> None:
    dit = importlib.import_module("suites.dit")
    pair = dit.Pair(dit.Shape("", dit.mini_member(), (5, 8, 8), ()), torch.float32, bench)
    pair.make()
    d, ffn, s, text, layers = 256, 1024, 80, 16, 9
    block = s * (4 + 2) * d * d + text * 2 * d * d + 2 * s * d * ffn + 2 * s * s * d + 2 * s * text * d
    around = s * (64 * d + d * 64) + text * (192 * d + d * d) + 256 * d + d * d + d * 6 * d
    assert pair.flops() == 2 * (layers * block + around)
    assert pair.flops(2) == 2 * pair.flops()


def test_backends_that_are_missing_are_named(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dit = importlib.import_module("suites.dit")
    monkeypatch.setitem(dit.PACKAGES, "xformers", "no_such_package")
    (case,) = measured(run, tmp_path, "dit", "wan toy, float32, attention")
    rows = {row["side"]: row for row in case["rows"]}
    assert rows["native"]["seconds"] > 0
    assert rows["xformers"]["note"] == "no_such_package is not installed"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # in torch's compiler
def test_compiled_blocks_are_the_same(run: ModuleType, tmp_path: Path) -> None:
    (wan,) = measured(run, tmp_path, "dit", "wan toy, float32, compiled")
    assert [row["error"] <= 1e-5 for row in wan["rows"]] == [True, True]
    (latte,) = measured(run, tmp_path, "dit", "latte toy, bfloat16, compiled")
    assert "_repeated_blocks" in latte["rows"][0]["note"]
    assert latte["rows"][1]["seconds"] > 0


@pytest.mark.slow
def test_autoencoders_are_the_same(run: ModuleType, tmp_path: Path) -> None:
    for way in ("decode", "encode"):
        (case,) = measured(run, tmp_path, "vae", f"toy 32x32x5, float32, {way}")
        forms = ["parallel", "streamed", "streamed by 5", "parallel, channels last", "streamed by 5, channels last"]
        assert [row["side"] for row in case["rows"]] == ["diffusers", *(f"videodit, {form}" for form in forms)]
        assert max(row["error"] for row in case["rows"]) <= 1e-5
    (case,) = measured(run, tmp_path, "vae", "mini 32x32x5, bfloat16, decode")
    assert 1e-4 < case["rows"][1]["error"] <= 1.1 * case["rows"][0]["error"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # in torch's compiler
def test_a_compiled_decoder_is_near_and_its_compiling_is_told(run: ModuleType, tmp_path: Path) -> None:
    dtype, _ = default_dtype("cpu")
    (case,) = measured(run, tmp_path, "vae", f"toy 32x32x5, {str(dtype).removeprefix('torch.')}, compiled")
    (row,) = case["rows"]
    least, most = (1e-4, 0.02) if dtype is torch.bfloat16 else (0, 1e-5)
    assert least <= row["error"] < most
    assert row["parts"]["first call"] > row["seconds"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*_stable_hash_for_caching:UserWarning")  # of torchao's tensors
def test_quantized_blocks_are_near(run: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="an extra")
    (case,) = measured(run, tmp_path, "dit", "wan toy quantized, bfloat16, quantized")
    plain, int8, fp8 = case["rows"]
    assert plain["error"] < int8["error"] < 0.1
    assert "error" in fp8 or "needs a GPU" in fp8["note"]


def test_streamed_blocks_give_the_same(run: ModuleType, tmp_path: Path) -> None:
    (case,) = measured(run, tmp_path, "offload", "toy")
    whole, streamed = case["rows"]
    assert (whole["side"], streamed["side"]) == ("on the device", "blocks streamed")
    assert streamed["difference"] == 0


@pytest.mark.slow
def test_presets_are_laid_beside_none(run: ModuleType, tmp_path: Path) -> None:
    (case,) = measured(run, tmp_path, "pipeline", "presets")
    none, lossless, balanced, fast = case["rows"]
    assert [row["side"] for row in case["rows"]] == ["none", "lossless", "balanced", "fast"]
    # Toys of 16x16 pixels are not what the schedules were found for: they tell none from another.
    assert lossless["psnr"] > max(balanced["psnr"], fast["psnr"])
    assert min(balanced["psnr"], fast["psnr"]) > 5
    assert 1 >= lossless["ssim"] > fast["ssim"] > 0
    assert "psnr" not in none
    for row in case["rows"]:
        assert set(row["parts"]) == {"text", "prepare", "steps", "vae", "mp4"}
        assert sum(row["parts"].values()) <= row["seconds"]
    assert fast["plan"]["cache"].startswith(("F", "C"))
    assert " of 40 predictions" in fast["plan"]["cache"]


@pytest.mark.slow
def test_previews_leave_the_latents_as_they_are(run: ModuleType, tmp_path: Path) -> None:
    (case,) = measured(run, tmp_path, "pipeline", "previews")
    assert [row["side"] for row in case["rows"]] == ["none", "preview, webp", "preview, gif", "preview, png"]
    assert all(row["difference"] == 0 < row["overhead"] for row in case["rows"][1:])


@pytest.mark.slow
def test_whole_pipelines_are_the_same(run: ModuleType, tmp_path: Path) -> None:
    (case,) = measured(run, tmp_path, "pipeline", "wan in mini's shape 16x16x1, float32")
    theirs, ours, lossless, fast = case["rows"]
    assert theirs["side"] == "diffusers"
    for row in (ours, lossless):
        assert row["difference"] <= 1 / 255  # of pixels that are rounded to 8 bits
    assert "difference" not in fast


def test_training_steps_are_those_of_the_script(run: ModuleType, tmp_path: Path) -> None:
    (case,) = measured(run, tmp_path, "train", "lora, checkpointing none")
    theirs, ours = case["rows"]
    assert (theirs["side"], ours["side"]) == ("diffusers", "videodit")
    assert ours["times"] == pytest.approx(theirs["seconds"] / ours["seconds"])
    assert ours["difference"] < 0.02


def test_what_a_script_gives_up_with_is_told(measure: ModuleType) -> None:
    train = importlib.import_module("suites.train")
    loader = importlib.import_module("loader")
    with pytest.raises(RuntimeError, match="--batch is 0"):
        train.figures(loader.main, ["--batch", "0"])


def test_readers_and_loader_are_told_by_the_sample(run: ModuleType, tmp_path: Path) -> None:
    (case,) = measured(run, tmp_path, "data", "readers")
    assert case["rows"][0]["side"] == "toy, pyav"
    assert all(row["fastest"] <= row["seconds"] <= row["slowest"] for row in case["rows"] if "seconds" in row)


@pytest.mark.slow
def test_a_loader_is_laid_beside_a_step(run: ModuleType, tmp_path: Path) -> None:
    (case,) = measured(run, tmp_path, "data", "loader")
    step, loader = case["rows"][:2]
    assert loader["times"] == pytest.approx(step["seconds"] / loader["seconds"], rel=1e-3)


def test_a_program_is_run_to_its_end(measure: ModuleType, bench: Any) -> None:
    cli = importlib.import_module("suites.cli")
    nothing = ("-c", "import time; time.sleep(0.2)")  # long enough to be looked at on a busy machine
    programs = {"nothing": nothing, "broken": ("-c", "raise SystemExit('no such thing')")}
    nothing, broken = cli.measure(bench, programs, "nothing")
    assert nothing["seconds"] > 0
    if sys.platform == "linux":
        assert 0.001 < nothing["peak_memory_gb"] < 0.1  # of the program, not of this process
        assert nothing["cpu_seconds"] > 0
    assert broken["note"] == "RuntimeError: exit code 1: no such thing"
    assert broken["failed"]


@pytest.mark.slow
def test_the_command_makes_clips_cold(run: ModuleType, tmp_path: Path) -> None:
    (case,) = measured(run, tmp_path, "cli", "generate")
    assert [row["side"] for row in case["rows"]] == ["none", "lossless", "fast"]


# ---- adherence of accelerated clips ------------------------------------------------------------------


@pytest.mark.slow
def test_adherence_of_accelerated_clips_is_counted(tmp_path: Path, capsys: Any) -> None:
    adherence = importlib.import_module("adherence")
    out = tmp_path / "fast.json"
    adherence.main(["--num-prompts", "2", "--accelerate", "fast", "--device", "cpu", "--json", str(out)])
    settings = json.loads(out.read_text())["settings"]
    assert settings["acceleration"] == "fast"
    assert len(settings["actions"]) == settings["steps"]
    assert f"actions {settings['actions']}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds clips of acceleration fast, not balanced"):
        adherence.main(["--num-prompts", "2", "--accelerate", "balanced", "--device", "cpu", "--json", str(out)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--accelerate", "warp"], "'warp'"),
        (["--accelerate", "fast", "--steps", "7"], "for 20 steps of .*, not 7"),
    ],
)
def test_accelerations_that_do_not_fit_are_refused(arguments: list[str], message: str) -> None:
    adherence = importlib.import_module("adherence")
    with pytest.raises(SystemExit, match=message):
        adherence.main(["--num-prompts", "1", "--device", "cpu", *arguments])


def test_real_clips_are_not_accelerated(capsys: Any) -> None:
    adherence = importlib.import_module("adherence")
    with pytest.raises(SystemExit):
        adherence.main(["--real", "--accelerate", "fast"])
    assert "--accelerate go with a model" in capsys.readouterr().err
