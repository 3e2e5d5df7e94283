"""The scripts of benchmarks/ that train: what they count, what they find, and what they refuse."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file

from videodit.datasets.clips.latents.latent_cache import LatentCache
from videodit.datasets.clips.latents.verify_cache import check_entries

FORMS = ((32, 32, 5), (32, 64, 1))
"""Height, width and frames."""


@pytest.fixture(scope="module")
def common() -> ModuleType:
    return importlib.import_module("_common")


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """loader, on smaller clips."""
    module = importlib.import_module("loader")
    monkeypatch.setattr(module, "FORMS", FORMS)
    return module


@pytest.fixture
def resume() -> ModuleType:
    return importlib.import_module("resume")


@pytest.fixture
def train_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """train_step, without collections, which here would walk through all that a whole session of tests holds."""
    module = importlib.import_module("train_step")
    monkeypatch.setattr(module, "gc", SimpleNamespace(collect=lambda: 0))
    yield module
    AcceleratorState._reset_state(reset_partial_state=True)


def written(common: ModuleType, model: Path, folder: Path, *, seed: int = 0) -> LatentCache:
    forms = [common.ClipForm(*form) for form in FORMS]
    settings = {"samples": 6, "captions": 4, "longest": 5, "dtype": torch.bfloat16, "seed": seed}
    common.write_random_cache(folder, str(model), forms, **settings)
    return LatentCache(folder)


# ---- caches of random numbers


def test_a_random_cache_is_a_cache_of_its_seed(common: ModuleType, tiny_model: Path, tmp_path: Path) -> None:
    one, same, other = (written(common, tiny_model, tmp_path / str(i), seed=i // 2) for i in range(3))
    assert len(one) == 2 * 6
    assert {sample.bucket for sample in one.samples} == {(5, 32, 32), (1, 32, 64)}
    assert {sample.content for sample in one.samples} == {sample.content for sample in same.samples}
    assert len({sample.content for sample in one.samples}) == 12
    for sample in one.samples:
        mean, std = one.latents(sample.key)
        assert mean.shape == (4, *one.info.geometry.latent_size(*sample.bucket))
        assert (mean.dtype, float(std.min())) == (torch.bfloat16, pytest.approx(0.1, abs=1e-3))
        embeds = one.text(sample.text_key).embeds
        assert len(embeds) == sample.text_tokens
        assert 3 <= len(embeds) <= 5
    first = one.samples[0]
    assert torch.equal(one.latents(first.key)[0], same.latents(first.key)[0])
    assert {sample.key for sample in other.samples}.isdisjoint(sample.key for sample in one.samples)
    assert check_entries(one) == []  # as `videodit data verify` finds them


# ---- the loader


def measured(loader: ModuleType, model: Path, tmp_path: Path, *more: str) -> dict[str, Any]:
    out = tmp_path / "loader.json"
    common = ["-m", str(model), "--samples", "6", "--batch", "2", "--rounds", "2", "--seconds", "0.02"]
    loader.main([*common, "--device", "cpu", "--json", str(out), *more])
    return json.loads(out.read_text())


def test_a_loader_is_counted_beside_a_step(
    loader: ModuleType, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(loader, tiny_model, tmp_path, "--workers", "0", "--step", "--against", "50")
    assert found["settings"]["random_numbers"] is True
    assert [record.get("workers", "step") for record in found["records"]] == ["step", 0, "step", 0]
    for step, loads in zip(found["records"][::2], found["records"][1::2], strict=True):
        rate = loads["samples_per_second"]
        assert loads["ratios"] == pytest.approx({"against": rate / 50, "step": rate / step["samples_per_second"]})
        assert 0 < loads["slowest"] <= rate <= loads["fastest"]
        assert loads["own_cpu_ms_per_sample"] == pytest.approx(loads["cpu_ms_per_sample"])
    printed = capsys.readouterr().out
    assert "12 samples of random numbers, bfloat16, batch 2" in printed
    assert "loader / against" in printed
    assert "32x32, 5 frames: twice 50 samples/s takes" in printed


def test_a_cache_of_ones_own_is_counted(
    loader: ModuleType, common: ModuleType, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(common, tiny_model, tmp_path / "cache")
    found = measured(loader, tiny_model, tmp_path, "--workers", "0", "--cache", str(tmp_path / "cache"))
    assert found["settings"]["random_numbers"] is False
    assert len(found["records"]) == 2
    assert "12 samples of a cache" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_count_with_their_cpu_time(loader: ModuleType, tiny_model: Path, tmp_path: Path) -> None:
    found = measured(loader, tiny_model, tmp_path, "--workers", "1", "--per-step", "3")
    pairs = [(record["own_cpu_ms_per_sample"], record["cpu_ms_per_sample"]) for record in found["records"]]
    assert all(0 < own <= both for own, both in pairs)
    assert any(own < both for own, both in pairs)  # the system counts a worker's time in hundredths of a second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "--batch is 0"),
        (["--per-step", "0"], "--per-step is 0"),
        (["--workers", "2", "-1"], "--workers is -1"),
        (["--seconds", "0"], "above 0; got 0.0"),
        (["--against", "-5"], "and -5.0"),
        (["--cache", "nowhere"], "nowhere holds no latents"),
        (["-m", "nosuch"], "nosuch"),
    ],
)
def test_bad_loader_arguments_are_named(
    loader: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        loader.main(arguments)
    assert message in capsys.readouterr().err


# ---- resuming


def pretend_run(folder: Path, name: str, losses: list[float], *, weight: float = 1.0) -> None:
    """What a run leaves that is compared."""
    (folder / name).mkdir()
    rows = [{"kind": "train", "step": i, "losses": [loss]} for i, loss in enumerate(losses, 1)]
    rows.append({"kind": "validation", "step": len(losses), "loss": 1.0})
    (folder / name / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_file({"a": torch.full((2,), weight)}, folder / name / "pytorch_lora_weights.safetensors")


@pytest.mark.parametrize(
    ("losses", "weight", "found"),
    [
        ([0.5, 0.25, 0.1], 1.0, None),
        ([0.5, 0.25 + 2**-50, 0.1], 1.0, "1 losses differ, first of step 2"),
        ([0.5, 0.25], 1.0, "2 losses instead of 3"),
        ([0.5, 0.25, 0.1], 1.0 + 2**-20, "the LoRA is not"),
    ],
)
def test_the_last_bit_counts(
    resume: ModuleType, tmp_path: Path, losses: list[float], weight: float, found: str | None
) -> None:
    plan = resume.Plan(tmp_path, "mini", 3, 1, 2)
    pretend_run(tmp_path, "whole", [0.5, 0.25, 0.1])
    pretend_run(tmp_path, "other", losses, weight=weight)
    told = resume.difference(plan, "whole", "other")
    assert told is None if found is None else found in told
    longer = resume.Plan(tmp_path, "mini", 4, 1, 2)
    assert "3 losses of 4 steps" in resume.difference(longer, "whole", "other")


def test_losses_of_other_steps_are_far_apart(resume: ModuleType) -> None:
    assert resume.furthest({1: [0.5], 2: [0.25]}, {1: [0.5], 2: [0.75]}) == 0.5
    assert resume.furthest({1: [0.5]}, {1: [0.5], 2: [0.5]}) == float("inf")
    assert resume.furthest({}, {}) == float("inf")


def test_moments_are_anywhere_in_a_run_and_of_their_seed(resume: ModuleType) -> None:
    found = resume.moments(500, steps=10, step_seconds=0.5, seed=3)
    assert {moment.steps for moment in found} == set(range(9))
    assert 0 <= min(moment.seconds for moment in found) < 0.05
    assert 0.45 < max(moment.seconds for moment in found) < 0.5
    assert found[:20] == resume.moments(20, steps=10, step_seconds=0.5, seed=3)
    assert found[:20] != resume.moments(20, steps=10, step_seconds=0.5, seed=4)


@pytest.mark.parametrize(
    ("differences", "two", "code"), [([None, None], 1e-6, 0), ([None, "a loss"], 0.0, 1), ([None, None], 1e-4, 1)]
)
def test_a_difference_is_a_failure(
    resume: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    differences: list[str | None],
    two: float,
    code: int,
) -> None:
    found = {"tries": [{"difference": text} for text in differences], "two": two}
    monkeypatch.setattr(resume, "run", lambda plan, args: found)
    assert resume.main(["--tries", "2", "--two"]) == code
    assert f"seed 0: {differences.count(None)} of 2" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_killed_and_goes_on(
    resume: ModuleType, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "resume.json"
    size = ["--size", "32", "--frames", "5", "--steps", "12", "--every", "2"]
    code = resume.main(["-m", str(tiny_model), "--tries", "1", *size, "--two", "--json", str(out)])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "try-00: killed after " in printed
    assert "seed 0: 1 of 1" in printed
    found = json.loads(out.read_text())
    assert found["tries"][0]["difference"] is None
    assert found["two"] <= 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--tries", "0"], "--tries is 0"), (["--every", "0"], "--every is 0"), (["-m", "nosuch"], "nosuch")],
)
def test_bad_resume_arguments_are_named(
    resume: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        resume.main(arguments)
    assert message in capsys.readouterr().err


# ---- a training step


@pytest.mark.slow
def test_both_classes_take_the_same_steps(
    train_step: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "steps.json"
    train_step.main(["--device", "cpu", "--tiny", "--rounds", "2", "--rank", "2", "--json", str(out)])
    found = json.loads(out.read_text())
    cases = [(m, k, c) for m in ("full", "lora") for k in train_step.KINDS for c in ("videodit", "diffusers")]
    assert [(r["method"], r["checkpointing"], r["class"]) for r in found["records"]] == cases
    for ours, theirs in zip(found["records"][::2], found["records"][1::2], strict=True):
        assert ours["first_loss"] == pytest.approx(theirs["first_loss"], rel=1e-2)
        assert ours["rounds"] == theirs["rounds"] == 2
        flops = ours["tflops"] * ours["seconds"]
        assert flops == pytest.approx(theirs["tflops"] * theirs["seconds"])
        assert ours["share_of_peak"] == pytest.approx(ours["tflops"] / found["settings"]["matmul_tflops"])
    losses = [record["first_loss"] for record in found["records"][:6:2]]
    assert losses == sorted(losses, reverse=True)  # they are steps: full fine-tuning learns from one case to the next
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(cases)


def test_what_does_not_fit_is_told_and_skipped(
    train_step: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = train_step.Side.step

    def small(side: Any, batch: Any, device: torch.device) -> tuple[float, float]:
        if side.name == "videodit" and not side.model.gradient_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(side, batch, device)

    monkeypatch.setattr(train_step.Side, "step", small)
    out = tmp_path / "steps.json"
    cases = ["--method", "full", "--checkpointing", "none", "full"]
    train_step.main(["--device", "cpu", "--tiny", "--rounds", "1", *cases, "--json", str(out)])
    assert [record["fits"] for record in json.loads(out.read_text())["records"]] == [False, True, True, True]
    told = capsys.readouterr().out.splitlines()[2]
    assert told.split()[:3] == ["full", "none", "videodit"]
    assert "does not fit" in told


def test_another_network_is_not_compared(train_step: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    make = train_step.make_sides

    def spoilt(*args: Any) -> Any:
        sides = make(*args)
        with torch.no_grad():
            sides[0].model.proj_out.weight.mul_(2)
        return sides

    monkeypatch.setattr(train_step, "make_sides", spoilt)
    with pytest.raises(SystemExit, match="not the same network"):
        train_step.main(["--device", "cpu", "--tiny", "--rounds", "1", "--checkpointing", "none"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "a CPU takes hours"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--seconds", "nan"], "--seconds is nan"),
        (["--device", "warp"], "warp"),
        (["--device", "cpu", "--tiny", "--attention", "nosuch"], "nosuch"),
    ],
)
def test_bad_step_arguments_are_named(
    train_step: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train_step.main(arguments)
    assert message in capsys.readouterr().err
