"""Acceleration: what is exact, what is left out on purpose, and what cannot be bound."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

from videodit import VideoDiTPipeline
from videodit.acceleration import AccelConfig, Calibration, Schedule
from videodit.acceleration.attention import fastest
from videodit.acceleration.calibrate import MAX_PSNR, choose, descend, evaluator, psnr
from videodit.acceleration.places import user_file
from videodit.acceleration.schedule import FILE, read_calibrations, write_calibrations
from videodit.cli.main import main
from videodit.media import read_recipe, read_video
from videodit.pipelines.folders import model_hash, resolve_model

PROMPT = "a red ball bounces on the grass"


@pytest.fixture
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: VideoDiTPipeline, prompt: str | list[str] = PROMPT, **options: Any) -> torch.Tensor:
    options = {"num_inference_steps": 6, "guidance_scale": 4.0, "output_type": "latent"} | options
    return pipe(prompt, generator=torch.Generator().manual_seed(3), return_dict=False, **options)[0]


# ---- exact -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"negative_prompt": "a blue cone at night"}, {"num_videos_per_prompt": 2}])
def test_both_predictions_in_one_forward_are_the_same(pipe, deviation, options) -> None:
    alone = latents(pipe, **options)
    plan = pipe.accelerate(AccelConfig(guidance="batched"))
    assert plan.bound["guidance"] == "both predictions in one forward"
    assert 0 <= deviation(latents(pipe, **options), alone) <= 1e-5


def test_an_image_and_several_prompts_in_one_forward(pipe, deviation) -> None:
    image = np.random.default_rng(0).random((32, 32, 3), np.float32)
    options = {"prompt": [PROMPT, "two rings"], "image": torch.from_numpy(image).permute(2, 0, 1)}
    alone = latents(pipe, **options)
    pipe.accelerate(AccelConfig(guidance="batched"))
    assert deviation(latents(pipe, **options), alone) <= 1e-5


def test_lossless_is_lossless(pipe, deviation) -> None:
    alone = latents(pipe)
    plan = pipe.accelerate("lossless")
    assert set(plan.bound) == {"attention", "guidance"}
    assert "native" in str(plan)
    assert deviation(latents(pipe), alone) <= 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's own compiler
def test_compiled_blocks_are_the_same(pipe, deviation) -> None:
    alone = latents(pipe)
    pipe.accelerate(AccelConfig(compile=True))
    assert deviation(latents(pipe), alone) <= 1e-5
    wide = latents(pipe, width=48)
    assert wide.shape[-1] == 6


def test_a_compiled_decoder_is_bound(pipe, monkeypatch) -> None:
    calls: list[torch.Size] = []

    def compiled(function: Callable[..., torch.Tensor], **options: Any) -> Callable[..., torch.Tensor]:
        def call(decoder: Any, z: torch.Tensor) -> torch.Tensor:
            calls.append(z.shape)
            return function(decoder, z)

        assert options["fullgraph"]
        return call

    before = latents(pipe, output_type="pt")
    monkeypatch.setattr(torch, "compile", compiled)
    plan = pipe.accelerate(AccelConfig(vae="compiled", guidance="sequential"))
    assert plan.bound["vae"] == "compiled at its first call"
    assert torch.equal(latents(pipe, output_type="pt"), before)
    assert len(calls) == 1


@pytest.mark.parametrize("way", ["streamed", "compiled"])
def test_ways_of_decoding_need_our_autoencoder(pipe, way) -> None:
    pipe.vae = torch.nn.Identity()
    with pytest.raises(ValueError, match=f"vae='{way}' needs a CausalVideoVAE, this pipeline has a Identity"):
        pipe.accelerate(AccelConfig(vae=way))


def test_modulation_is_not_quantized() -> None:
    pytest.importorskip("torchao", reason="an extra")
    from videodit import VideoDiT
    from videodit.acceleration.quantize import quantize_blocks

    options = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "text_dim": 16, "ffn_dim": 32}
    dit = VideoDiT(**options, num_layers=1, num_single_layers=1, block="joint", final_layer="linear")
    assert quantize_blocks(dit, "int8-weights") == "int8-weights in 17 linear layers of the blocks"
    weights = {name: type(weight) for name, weight in dit.blocks.named_parameters() if name.endswith("n.weight")}
    assert {kind for name, kind in weights.items() if name.endswith("modulation.weight")} == {torch.nn.Parameter}


def test_the_backend_is_measured_once(monkeypatch) -> None:
    shape = (torch.device("cpu"), torch.float32, 32, 2, 16)
    best, found = fastest(*shape)
    assert isinstance(found[best], float)
    assert all(isinstance(value, str) for name, value in found.items() if name.startswith("_native_cudnn"))
    assert fastest(*shape)[1] is found


def test_a_fast_backend_without_masks_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of different lengths come with masks, which flash attention refuses."""
    from videodit.acceleration import attention

    shape = (torch.device("cpu"), torch.float32, 48, 2, 16)
    monkeypatch.setattr(attention, "_seconds", lambda *given: 0.001 if given[-1] == "_native_flash" else 1.0)
    best, found = fastest(*shape)
    assert found["_native_flash"] == 0.001
    assert best == "native"
    assert not attention.takes_masks("_native_flash", *shape[:2])


# ---- schedules ---------------------------------------------------------------------------------------


class Counting:
    """Counts the transformer's predictions, clip by clip."""

    def __init__(self, pipe: VideoDiTPipeline) -> None:
        self.count = 0
        pipe.transformer.register_forward_pre_hook(self.add, with_kwargs=True)

    def add(self, module: Any, args: Any, kwargs: Any) -> None:
        self.count += len(args[0])


@pytest.mark.parametrize(("actions", "predictions"), [("FFFFFF", 12), ("FCCRRF", 6), ("FRRRRR", 2), ("FFRCRF", 7)])
def test_a_schedule_computes_what_it_says(pipe, actions, predictions) -> None:
    counting = Counting(pipe)
    pipe.accelerate(AccelConfig(cache=actions))
    latents(pipe)
    assert counting.count == predictions
    assert Schedule(actions, 30.0, 26.0).evaluations == predictions


def test_a_schedule_of_whole_steps_changes_nothing(pipe) -> None:
    alone = latents(pipe)
    pipe.accelerate(AccelConfig(cache="FFFFFF", guidance="sequential"))
    assert torch.equal(latents(pipe), alone)


def test_a_step_that_is_left_out_lies_on_the_line_of_the_two_before(pipe) -> None:
    """Against a loop of its own: Euler steps of a flow, guidance by hand."""
    pipe.accelerate(AccelConfig(cache="FFRCR", guidance="sequential"))
    made = latents(pipe, num_inference_steps=5)
    pipe.step_actions = None
    start = torch.randn(4, 5, 4, 4, generator=torch.Generator().manual_seed(3))[None]
    cond, uncond = pipe.text([PROMPT]), pipe.text([""])
    x, known, difference = start, [], None
    sigmas = [*(float(s) for s in pipe.scheduler.sigmas)]
    for action, t, sigma, after in zip("FFRCR", pipe.scheduler.timesteps, sigmas[:-1], sigmas[1:], strict=True):
        with torch.no_grad():
            if action == "R":
                (t0, v0), (t1, v1) = known[-2:]
                v = v1 + (v1 - v0) * (float(t) - t1) / (t1 - t0)
            else:
                given = pipe.transformer(x, t[None], cond.embeds).sample
                if action == "F":
                    difference = given - pipe.transformer(x, t[None], uncond.embeds).sample
                v = given + 3.0 * difference  # c + (s - 1)(c - u)
                known.append((float(t), v))
        x = x + (after - sigma) * v
    torch.testing.assert_close(made, x, atol=1e-4, rtol=1e-4)


def test_a_schedule_for_other_steps_is_refused(pipe) -> None:
    pipe.accelerate(AccelConfig(cache="FRF"))
    for make in (latents, lambda pipe: pipe.check_inputs(PROMPT, num_inference_steps=6)):
        with pytest.raises(ValueError, match="is for 3 steps, this call has 6: videodit calibrate --steps 6"):
            make(pipe)


def test_a_schedule_with_a_scheduler_of_two_predictions_a_step_is_refused(pipe) -> None:
    pipe.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    pipe.accelerate(AccelConfig(cache="FFRCFF"))
    with pytest.raises(ValueError, match="FFRCFF has a letter a step, but FlowMatchHeunDiscreteScheduler predicts 2"):
        latents(pipe)


@pytest.mark.parametrize("actions", ["RFF", "CFF"])
def test_the_first_step_has_nothing_to_reuse(pipe, actions) -> None:
    with pytest.raises(ValueError, match="the first step must be F"):
        pipe.accelerate(AccelConfig(cache=actions))


# ---- finding one -------------------------------------------------------------------------------------


def test_psnr_is_that_of_the_formula() -> None:
    one, other = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    assert psnr(one, other) == pytest.approx(10 * np.log10(1 / ((one - other).double() ** 2).mean().item()))
    assert psnr(one, one) == MAX_PSNR


def test_the_descent_takes_the_cheapest_change_first() -> None:
    """Every step has its own price; prices add up, so the best schedule is known."""
    prices = {1: 8.0, 2: 1.0, 3: 4.0, 4: 2.0, 5: 16.0}
    tried: list[str] = []

    def evaluate(actions: str) -> float:
        tried.append(actions)
        error = sum(prices[i] * {"F": 0, "C": 0.4, "R": 1}[a] for i, a in enumerate(actions) if i)
        return -10 * np.log10(error * 1e-4) if error else MAX_PSNR

    found = descend(6, evaluate, psnr=33.0)
    assert [schedule.actions[0] for schedule in found] == ["F"] * len(found)
    assert all(a.evaluations > b.evaluations for a, b in itertools.pairwise(found))
    assert found[-1].psnr >= 33.0
    assert choose(found, target=36.0).actions == "FFRFCF"  # errors 1 + 0.8 of a budget of 2.5
    assert len(set(tried)) < 40


def test_a_schedule_is_found_used_and_told_in_the_recipe(tiny_model, tmp_path, capsys) -> None:
    model = tmp_path / "tiny"
    shutil.copytree(tiny_model, model)
    assert main(["calibrate", "-m", str(model), "--steps", "5", "--psnr", "30", "--psnr-fast", "15"]) == 0
    told = capsys.readouterr().out
    (found,) = read_calibrations(model / FILE)
    assert (found.steps, set(found.schedules)) == (5, {"balanced", "fast"})
    assert found.schedules["balanced"].psnr >= 30
    assert found.schedules["fast"].evaluations <= found.schedules["balanced"].evaluations < 10
    assert found.schedules["balanced"].actions in told

    clip = tmp_path / "a.mp4"
    words = ["generate", PROMPT, "-m", str(model), "--steps", "5", "--seed", "1", "--accelerate", "fast"]
    assert main([*words, "-o", str(clip)]) == 0
    recipe = read_recipe(clip)
    assert recipe["step_actions"] == found.schedules["fast"].actions
    assert main(["remake", str(clip), "-m", str(model), "-o", str(tmp_path / "b.mp4")]) == 0
    assert np.array_equal(read_video(clip).frames, read_video(tmp_path / "b.mp4").frames)

    assert main([*words[:-6], "--steps", "6", "--accelerate", "fast", "-o", str(tmp_path / "c.mp4")]) == 2
    told = "is for 5 steps of FlowMatchEulerDiscreteScheduler, not 6 steps of FlowMatchEulerDiscreteScheduler"
    error = capsys.readouterr().err
    assert told in error
    assert f"videodit calibrate -m {model} --steps 6" in error

    pipe = VideoDiTPipeline.from_pretrained(model)
    assert found.schedules["fast"].actions in str(pipe.accelerate("fast"))
    evaluate = evaluator(pipe, [PROMPT], steps=5, guidance=5.0, seed=0, batch=1, size={})
    assert evaluate("FFFFF") == MAX_PSNR


# ---- a schedule for each number of steps -------------------------------------------------------------


def calibration(
    pipe: VideoDiTPipeline, actions: str, *, scheduler: str = "FlowMatchEulerDiscreteScheduler", psnr: float = 30.0
) -> Calibration:
    return Calibration(pipe.model_hash, scheduler, len(actions), 5.0, {"fast": Schedule(actions, psnr, 26.0)})


@pytest.fixture
def own_model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in a folder of the user's, and a data folder with nothing in it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    shutil.copytree(tiny_model, tmp_path / "tiny")
    return tmp_path / "tiny"


def test_each_call_takes_the_schedule_of_its_steps_and_its_sampler(own_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(own_model)
    pipe.set_progress_bar_config(disable=True)
    other = calibration(pipe, "FRF", scheduler="UniPCMultistepScheduler")
    write_calibrations(own_model / FILE, [calibration(pipe, "FFRR"), other, calibration(pipe, "FRRFR")])
    plan = pipe.accelerate("fast").bound["cache"]
    assert [actions in plan for actions in ("FFRR", "FRF:", "FRRFR")] == [True, True, True]
    for steps, predictions in ((4, 4), (5, 4)):
        counting = Counting(pipe)
        latents(pipe, num_inference_steps=steps)
        assert counting.count == predictions
    message = "is for 4 steps of FlowMatchEuler.*, not 3 steps of FlowMatchEuler.*: videodit calibrate --steps 3"
    with pytest.raises(ValueError, match=message):
        latents(pipe, num_inference_steps=3)


def test_a_file_of_the_form_before_holds_one_calibration(own_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(own_model)
    one = dataclasses.asdict(calibration(pipe, "FRF"))
    (own_model / FILE).write_text(json.dumps({"format": "videodit-acceleration/1"} | one))
    assert read_calibrations(own_model / FILE) == [calibration(pipe, "FRF")]
    assert "30.0 dB" in pipe.accelerate("fast").bound["cache"]


def test_the_users_own_schedule_goes_before_the_models(own_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(own_model)
    write_calibrations(own_model / FILE, [calibration(pipe, "FRF"), calibration(pipe, "FFFR")])
    mine = user_file(pipe.model_hash)
    assert mine is not None
    assert mine.parent.name == pipe.model_hash
    mine.parent.mkdir(parents=True)
    write_calibrations(mine, [calibration(pipe, "FRR", psnr=21.0)])
    pipe.accelerate("fast")
    assert (pipe.actions_for(3), pipe.actions_for(4)) == ("FRR", "FFFR")


@pytest.mark.slow
def test_calibrating_adds_to_a_file_and_replaces_only_when_asked(
    own_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["calibrate", "-m", str(own_model), "--psnr", "10", "--psnr-fast", "10", "--frames", "1", "--steps"]
    assert main([*command, "2"]) == 0
    assert main([*command, "3"]) == 0
    assert [one.steps for one in read_calibrations(own_model / FILE)] == [2, 3]
    before = (own_model / FILE).read_bytes()
    capsys.readouterr()
    assert main([*command, "2"]) == 2
    assert (
        "has schedules for 2 steps of FlowMatchEulerDiscreteScheduler already; --overwrite" in capsys.readouterr().err
    )
    assert (own_model / FILE).read_bytes() == before
    assert main([*command, "2", "--overwrite"]) == 0
    assert [one.steps for one in read_calibrations(own_model / FILE)] == [3, 2]


@pytest.mark.parametrize("kind", ["bundled", "installed", "hub"])
def test_nothing_is_written_beside_a_model_that_is_not_the_users(
    tiny_model: Path, own_model: Path, tmp_path: Path, kind: str
) -> None:
    """What `--accelerate fast --steps N` advises works, and leaves what is installed as it was."""
    model = {
        "bundled": resolve_model("mini"),
        "installed": tmp_path / "site-packages" / "thing" / "tiny",
        "hub": tmp_path / "models--some--one" / "snapshots" / "0123",
    }[kind]
    if kind != "bundled":
        shutil.copytree(tiny_model, model)
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    name = "mini" if kind == "bundled" else str(model)
    assert main(["calibrate", "-m", name, "--steps", "1", "--frames", "1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before
    (written,) = (tmp_path / "data").rglob(FILE)
    assert written == user_file(model_hash(model))
    pipe = VideoDiTPipeline.from_pretrained(name)
    pipe.accelerate("fast")
    assert pipe.actions_for(1) == "F"
    if kind == "bundled":
        (shipped,) = read_calibrations(model / FILE)
        assert pipe.actions_for(20) == shipped.schedules["fast"].actions
        clip = ["generate", PROMPT, "--accelerate", "fast", "--frames", "1", "-o", str(tmp_path / "a.mp4"), "--dry-run"]
        assert main(clip) == 0
        assert main([*clip, "--steps", "1"]) == 0


@pytest.mark.parametrize("name", [None, "", "../../x", "mini", "ABC" * 6, "0" * 7])
def test_a_folder_is_named_by_a_hash_alone(name: str | None) -> None:
    assert user_file(name) is None


# ---- what cannot be bound ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("quick", "acceleration must be one of lossless, balanced, fast, got 'quick'"),
        ("fast", "there is no .*acceleration.json: `videodit calibrate` finds out"),
        (AccelConfig(cache="nowhere.json:fast"), "there is no nowhere.json"),
        (AccelConfig(attention="flash"), "attention='flash' does not work here"),
        (AccelConfig(quantize="fp8"), "fp8' needs a GPU of the Ada or Hopper generation or later, not cpu"),
        (AccelConfig(offload="blocks"), "needs an accelerator to compute on; there is none here"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU lacks")
def test_what_cannot_be_bound_is_an_error_and_changes_nothing(pipe, wanted, message) -> None:
    before = latents(pipe)
    with pytest.raises(ValueError, match=message):
        pipe.accelerate(wanted)
    assert torch.equal(latents(pipe), before)


@pytest.mark.parametrize("values", [{"quantize": "int4"}, {"guidance": "both"}, {"offload": "disk"}, {"vae": "fast"}])
def test_a_config_names_what_is_legal(values) -> None:
    (name, value), *_ = values.items()
    with pytest.raises(ValueError, match=rf"{name} must be one of .+, got '{value}'"):
        AccelConfig(**values)


def other_weights(content: dict[str, Any]) -> None:
    content["calibrations"][0]["model_hash"] = "0" * 16


def no_format(content: dict[str, Any]) -> None:
    del content["format"]


def no_schedules(content: dict[str, Any]) -> None:
    content["calibrations"][0]["schedules"] = [1]


def another_name(content: dict[str, Any]) -> None:
    schedules = content["calibrations"][0]["schedules"]
    schedules["slow"] = schedules.pop("fast")


def other_count(content: dict[str, Any]) -> None:
    content["calibrations"][0]["steps"] = 7


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_weights, "was found for other weights"),
        (no_format, "of another format"),
        (no_schedules, "is damaged"),
        (another_name, "has no 'fast', but slow"),
        (other_count, "is damaged .*'fast' has 3 letters for 7 steps"),
    ],
)
def test_a_file_that_does_not_fit_is_named(
    tiny_model: Path, tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    model = tmp_path / "tiny"
    shutil.copytree(tiny_model, model)
    pipe = VideoDiTPipeline.from_pretrained(model)
    write_calibrations(model / FILE, [calibration(pipe, "FRF")])
    assert "30.0 dB" in pipe.accelerate("fast").bound["cache"]
    content = json.loads((model / FILE).read_text())
    spoil(content)
    (model / FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        pipe.accelerate("fast")


# ---- quantized ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "int8-weights"])
def test_quantized_blocks_are_near(pipe, deviation, kind) -> None:
    pytest.importorskip("torchao", reason="an extra")
    given = torch.randn(1, 4, 3, 4, 4), torch.tensor([500.0]), torch.randn(1, 5, 32)
    with torch.no_grad():
        before = pipe.transformer(*given).sample
        with torch.compiler.set_stance("force_eager"):
            plan = pipe.accelerate(AccelConfig(quantize=kind))
            after = pipe.transformer(*given).sample
    assert "linear layers of the blocks" in plan.bound["quantize"]
    assert 1e-5 < deviation(after, before) < 0.1


def test_timings_tell_every_part(pipe, tmp_path) -> None:
    out = pipe(PROMPT, num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    assert len(out.timings["steps"]) == 3
    out.save(tmp_path / "a.mp4")
    assert {"text", "prepare", "steps", "vae", "mp4"} == set(out.timings)
    assert all(seconds >= 0 for seconds in (*out.timings["steps"], out.timings["vae"], out.timings["mp4"]))
