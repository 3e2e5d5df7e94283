"""The predicted clean latents that callbacks get: against formulas in float64, for every sampler, and in every run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from videodit import Edit, Frames, Region, Storyboard, VideoDiTPipeline
from videodit.errors import InputError
from videodit.pipelines.clean_prediction import predicted_clean
from videodit.pipelines.scheduling import SchedulerStep, set_timesteps

PROMPT = "a red ball bounces on the grass"
STEPS = 4
SHIFT = 3.0
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": SHIFT}
NOISY = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
SNR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "snr_shift_scale": 3.0}


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- every sampler ---------------------------------------------------------------------------------


def trace(scheduler: Any, objective: Any) -> list[tuple[float, Tensor, Tensor, Tensor]]:
    """Of each step of a run with a made-up model: the timestep, what the model saw and said, and the clean latents."""
    set_timesteps(scheduler, STEPS, spacing="to_last_step", num_tokens=10, device=torch.device("cpu"))
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    step = SchedulerStep(scheduler, [seeded()], frames_first=False)
    latents = torch.randn(1, 2, 3, 4, 4, generator=seeded()) * getattr(scheduler, "init_noise_sigma", 1.0)
    found = []
    for i, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents
        said = torch.tanh(0.8 * seen + 0.1)
        clean = predicted_clean(objective, scheduler, latents, said, i)
        found.append((float(t), seen.double(), said.double(), clean))
        latents = step(said, t, latents)
    return found


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        diffusers.FlowMatchHeunDiscreteScheduler(shift=SHIFT),
        diffusers.FlowMatchLCMScheduler(shift=SHIFT),
        diffusers.UniPCMultistepScheduler(**FLOW),
        diffusers.DPMSolverMultistepScheduler(**FLOW),
        diffusers.DPMSolverMultistepScheduler(**FLOW, algorithm_type="sde-dpmsolver++"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_velocity_is_solved_for_the_clean_latents(scheduler: Any) -> None:
    found = trace(scheduler, "flow")
    assert len({t for t, *_ in found}) == STEPS
    for t, seen, said, clean in found:
        sigma = t / 1000
        ends = {"UniPCMultistepScheduler": (1.0, 0.001), "DPMSolverMultistepScheduler": (0.999, 0.0)}
        if (end := ends.get(type(scheduler).__name__)) is not None:  # whose timesteps, but not levels, are rounded
            levels = np.linspace(*end, STEPS + 1)[:-1]
            shifted = SHIFT * levels / (1 + (SHIFT - 1) * levels)
            sigma = float(shifted[np.abs(shifted - sigma).argmin()])
        torch.testing.assert_close(clean.double(), seen - sigma * said, atol=5e-6, rtol=1e-5)


def diffusion_schedulers() -> list[Callable[..., Any]]:
    names = [
        "DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler", "SASolverScheduler", "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler", "LCMScheduler", "TCDScheduler",
    ]  # fmt: skip
    plain = [partial(getattr(diffusers, name), **NOISY) for name in names]
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **SNR}
    return [*plain, *(partial(getattr(diffusers, f"CogVideoX{name}Scheduler"), **zero) for name in ("DDIM", "DPM"))]


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # numpy of KDPM2 in diffusers
@pytest.mark.parametrize("objective", ["epsilon", "v"])
@pytest.mark.parametrize("make", diffusion_schedulers(), ids=lambda make: make.func.__name__)
def test_noise_and_v_are_solved_for_the_clean_latents(make: Any, objective: str) -> None:
    if make.func.__name__.startswith("CogVideoX"):  # whose first step has no signal at all, and so takes v alone
        objective = "v"
    scheduler = make(prediction_type={"epsilon": "epsilon", "v": "v_prediction"}[objective])
    if make.func.__name__.startswith("CogVideoX"):
        roots = np.sqrt(np.cumprod(1 - np.linspace(SNR["beta_start"] ** 0.5, SNR["beta_end"] ** 0.5, 1000) ** 2))
        roots = np.sqrt(roots**2 / (SNR["snr_shift_scale"] + (1 - SNR["snr_shift_scale"]) * roots**2))
        squares = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    else:
        squares = np.cumprod(1 - np.linspace(NOISY["beta_start"], NOISY["beta_end"], 1000))
    for t, seen, said, clean in trace(scheduler, objective):
        square = float(squares[round(t)])
        if t != round(t):  # between two levels of the training
            ratio = np.exp(np.interp(t, np.arange(1000), 0.5 * np.log((1 - squares) / squares)))
            square = 1 / (1 + ratio**2)
        alpha, sigma = square**0.5, (1 - square) ** 0.5
        expected = (seen - sigma * said) / alpha if objective == "epsilon" else alpha * seen - sigma * said
        torch.testing.assert_close(clean.double(), expected, atol=2e-4 / alpha if alpha else 2e-4, rtol=2e-3)


# ---- in a run --------------------------------------------------------------------------------------


class Note:
    """Keeps what it is called with; ``model_calls`` are what the transformer saw and said since the last step."""

    def __init__(self, pipe: VideoDiTPipeline) -> None:
        self.steps: list[tuple[float, Tensor, Tensor]] = []
        self.calls: list[tuple[Tensor, Tensor]] = []
        self._hook = pipe.transformer.register_forward_hook(
            lambda module, args, out: self.calls.append((args[0].double(), out[0].double()))
        )

    def __call__(self, pipe: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> None:
        self.steps.append((float(t), tensors["latents"], tensors["clean"]))

    def close(self) -> None:
        self._hook.remove()


BOTH = ["latents", "clean"]
QUICK: dict[str, Any] = {"num_inference_steps": 3, "output_type": "latent", "guidance_scale": 1.0}


def noted(pipe: VideoDiTPipeline, prompt: Any = PROMPT, **call: Any) -> tuple[Note, Tensor]:
    note = Note(pipe)
    inputs = {"callback_on_step_end": note, "callback_on_step_end_tensor_inputs": BOTH}
    try:
        out = pipe(prompt, generator=seeded(1), **QUICK | inputs | call)
    finally:
        note.close()
    return note, out.frames


def test_each_step_tells_its_clean_latents_and_the_last_ones_are_the_clip(pipe: VideoDiTPipeline) -> None:
    note, made = noted(pipe, [PROMPT, "a blue cone"], num_frames=9)
    for (t, latents, clean), (seen, said) in zip(note.steps, note.calls, strict=True):
        assert clean.shape == latents.shape == (2, 4, 3, 4, 4)
        torch.testing.assert_close(clean.double(), seen - t / 1000 * said, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(note.steps[-1][2], made, atol=1e-5, rtol=1e-5)


def test_guided_predictions_are_solved(pipe: VideoDiTPipeline) -> None:
    note, _ = noted(pipe, num_frames=5, guidance_scale=4.0)
    for index, (t, _, clean) in enumerate(note.steps):
        (seen, cond), (_, uncond) = note.calls[2 * index : 2 * index + 2]
        expected = seen - t / 1000 * (uncond + 4 * (cond - uncond))
        torch.testing.assert_close(clean.double(), expected, atol=1e-5, rtol=1e-5)


def test_nobody_computes_them_unasked(pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError

    monkeypatch.setattr("videodit.pipelines.sampling.predicted_clean", never)
    pipe(PROMPT, num_frames=5, callback_on_step_end=lambda *_: None, **QUICK)
    pipe(PROMPT, num_frames=5, callback_on_step_end_tensor_inputs=BOTH, **QUICK)


def test_to_look_at_them_changes_neither_clip_nor_recipe(pipe: VideoDiTPipeline) -> None:
    call = {**QUICK, "num_frames": 5, "callback_on_step_end_tensor_inputs": BOTH}
    plain = pipe(PROMPT, generator=seeded(1), **QUICK, num_frames=5)
    for callback in (lambda *a: None, lambda *a: a[3], lambda *a: {"clean": a[3]["clean"].zero_()}):
        out = pipe(PROMPT, generator=seeded(1), callback_on_step_end=callback, **call)
        assert torch.equal(out.frames, plain.frames)
        assert out.recipes == plain.recipes


def test_they_cannot_be_replaced(pipe: VideoDiTPipeline) -> None:
    for names in (BOTH, ["latents"]):
        with pytest.raises(InputError, match="another clean, which is only to look at"):
            pipe(
                PROMPT, num_frames=5, callback_on_step_end_tensor_inputs=names,
                callback_on_step_end=lambda _, __, ___, x: {"clean": torch.zeros_like(x["latents"])}, **QUICK,
            )  # fmt: skip


def test_windows_and_storyboards_tell_those_of_what_is_made_at_once(pipe: VideoDiTPipeline) -> None:
    board = Storyboard([(0, "a red ball"), (1.0, "a blue cone")])
    note, made = noted(pipe, board, num_frames=33, window=17, overlap=4)
    assert len(note.steps) == 2 * 3
    assert {clean.shape for _, _, clean in note.steps} == {(1, 4, 5, 4, 4)}
    first, second = note.steps[2][2], note.steps[3][2]
    torch.testing.assert_close(second[:, :, :1], first[:, :, -1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made[:, :, -5:], note.steps[-1][2], atol=1e-5, rtol=1e-5)


def test_a_loop_tells_its_ring(pipe: VideoDiTPipeline) -> None:
    note, made = noted(pipe, num_frames=16, loop=True)
    assert note.steps[0][2].shape == made.shape
    torch.testing.assert_close(note.steps[-1][2], made, atol=1e-5, rtol=1e-5)


def test_what_is_kept_is_as_it_is_from_the_first_step_on(pipe: VideoDiTPipeline) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    note, made = noted(pipe, num_frames=9, image=picture)
    for _, _, clean in note.steps:
        torch.testing.assert_close(clean[:, :, :1], made[:, :, :1], atol=0, rtol=0)
    assert not torch.allclose(note.steps[0][2][:, :, 1:], made[:, :, 1:], atol=1e-2)

    clip = np.random.default_rng(1).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[:, 16:] = True
    note, made = noted(pipe, num_frames=9, conditions=[Region(mask, clip)])
    for _, _, clean in note.steps:
        torch.testing.assert_close(clean[..., :2], made[..., :2], atol=0, rtol=0)


def test_what_is_held_until_a_level_is_as_it_is_until_then(pipe: VideoDiTPipeline) -> None:
    clip = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    call = {"num_frames": 9, "num_inference_steps": 6}
    note, _ = noted(pipe, conditions=[Frames(clip, strength=0.5)], **call)
    firm, _ = noted(pipe, conditions=[Frames(clip)], **call)
    given = firm.steps[0][2][:, :, :2]
    same = [bool(torch.equal(clean[:, :, :2], given)) for _, _, clean in note.steps]
    assert same[0]
    assert not same[-1]
    assert same == sorted(same, reverse=True)
    for (t, _, clean), (seen, said) in zip(note.steps, note.calls, strict=True):
        free = slice(2, None) if torch.equal(clean[:, :, :2], given) else slice(None)
        expected = (seen - t / 1000 * said)[:, :, free]
        torch.testing.assert_close(clean[:, :, free].double(), expected, atol=1e-5, rtol=1e-5)


def test_an_edit_begins_where_it_begins(pipe: VideoDiTPipeline) -> None:
    clip = np.random.default_rng(1).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    note, made = noted(pipe, num_frames=9, num_inference_steps=4, conditions=[Edit(clip, strength=0.5)])
    assert len(note.steps) == 2
    torch.testing.assert_close(note.steps[-1][2], made, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["latte", "cogvideox-5b", "flux-dev"])
def test_of_other_families_the_last_ones_are_the_clip(name: str, folder: Callable[[str], Path]) -> None:
    """All of these samplers take their last step to the clean latents."""
    pipe = VideoDiTPipeline.from_pretrained(folder(name))
    pipe.set_progress_bar_config(disable=True)
    frames = {"num_frames": 9} if name == "cogvideox-5b" else {}
    note, made = noted(pipe, **frames)
    scale = made.abs().max()
    assert note.steps[-1][2].shape == made.shape
    assert (note.steps[-1][2] - made).abs().max() / scale < (1e-4 if pipe.objective == "flow" else 0.1)
