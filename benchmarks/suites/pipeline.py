"""Whole clips: `mini` with each preset of ``pipe.accelerate``, and a pipeline of its shape beside diffusers' own.

The presets are compared with the same pipeline without any: PSNR and SSIM over all pixels of all clips that were made,
and the seconds of each part. ``mini`` is trained, so these say something; adherence to prompts is told by
``benchmarks/adherence.py --accelerate``. What diffusers' WanPipeline makes has a transformer of the same shape with
random weights, since its class cannot hold ``mini``'s; text encoder and VAE are those of ``mini``.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suites import dit, vae
from suites.measure import Bench, Case, Row, Side, compare, dtype_name, weights_of
from suites.quality import ssim
from videodit.acceleration import AccelConfig

PRESETS = {"none": None, "lossless": "lossless", "balanced": "balanced", "fast": "fast"}
EIGHT_BITS = {"none": None} | {kind: AccelConfig(quantize=kind) for kind in ("int8", "int8-weights")}
OFFLOADS = {"none": None} | {f"{kind} offloaded": AccelConfig(offload=kind) for kind in ("model", "blocks")}
MAX_TEXT = 48
"""Tokens to which both pipelines of the second case pad their text."""


@dataclass(frozen=True)
class Form:
    """Of the clips: ``num_frames``, ``height`` and ``width``, and how many are made at most."""

    num_frames: int
    height: int
    width: int
    clips: int

    @property
    def size(self) -> dict[str, int]:
        return {"num_frames": self.num_frames, "height": self.height, "width": self.width}

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.num_frames}"


def forms(bench: Bench) -> list[Form]:
    return [Form(1, 16, 16, clips=1)] if bench.tiny else [Form(17, 128, 128, clips=8), Form(33, 128, 128, clips=4)]


@dataclass
class Maker:
    """Makes clips with one pipeline, and keeps what came of it.

    Attributes:
        pipe: ours.
        plan: what is bound, by part, in words.
        clips: by round, ``[1, T, 3, H, W]`` with values from 0 to 1.
        timings: of each round, by part.
    """

    pipe: Any
    plan: dict[str, str] = field(default_factory=dict)
    clips: dict[int, Tensor] = field(default_factory=dict)
    timings: list[dict[str, float]] = field(default_factory=list)

    def make(self, turn: int, *, prompt: str, seed: int, target: Path, **options: Any) -> Tensor:
        """A clip and its MP4; the pixels as the file gets them, in fp32."""
        out = self.pipe(
            prompt, generator=torch.Generator().manual_seed(seed), output_type="pt", return_dict=True, **options
        )
        out.save(target)
        pixels = (out.frames.float() * 255).round().div(255).cpu()
        if turn >= 0:
            self.clips[turn] = pixels
            found = out.timings
            self.timings.append({name: sum(x) if isinstance(x, list) else x for name, x in found.items()})
        return pixels

    def parts(self) -> Row:
        """The median seconds of each part."""
        names = self.timings[0] if self.timings else ()
        return {"parts": {name: statistics.median(one[name] for one in self.timings) for name in names}}

    def quality(self, other: Maker) -> Row:
        """PSNR and SSIM to the clips of another one, in the rounds that both have made."""
        from videodit.acceleration.calibrate import psnr

        rounds = sorted(self.clips.keys() & other.clips.keys())
        if not rounds:
            return {}
        mine, theirs = (torch.cat([maker.clips[i] for i in rounds]) for maker in (self, other))
        return {"clips": len(rounds), "psnr": psnr(mine, theirs), "ssim": ssim(mine, theirs)}


def prompts_of(count: int) -> list[str]:
    """Captions of the test split."""
    from videodit.datasets.toybox import canonical_caption, sample_scene

    return [canonical_caption(sample_scene(seed, split="test")) for seed in range(count)]


# ---- presets -----------------------------------------------------------------------------------------


def presets(bench: Bench, form: Form, wanted: Mapping[str, str | AccelConfig | None]) -> list[Row]:
    """`mini` with each of some accelerations, in turns; the first is none."""
    from _common import load

    prompts, sides = prompts_of(form.clips), []
    with tempfile.TemporaryDirectory() as folder:
        makers: dict[str, Maker] = {}
        for name, preset in wanted.items():
            pipe, _ = load("mini", device=str(bench.device), steps=None, cfg=None)
            plan = {} if preset is None else pipe.accelerate(preset).bound
            makers[name] = Maker(pipe, plan)
            target = Path(folder) / f"{name}.mp4"
            sides.append(_side(name, makers[name], prompts, bench, target, form.size, makers["none"]))
        few = _at_most(bench, form.clips)
        return compare(few, sides, dtype=makers["none"].pipe.dtype, baseline="none", warm_ups=1)


def _side(
    name: str,
    maker: Maker,
    prompts: Sequence[str],
    bench: Bench,
    target: Path,
    options: dict[str, Any],
    reference: Maker | None,
) -> Side:
    """A maker as a side; round i is prompt i from the noise of seed i."""

    def call(turn: int) -> Tensor:
        number = max(0, turn)
        return maker.make(turn, prompt=prompts[number], seed=bench.seed + number, target=target, **options)

    def facts() -> Row:
        told = maker.parts() | ({"plan": maker.plan} if maker.plan else {})
        return told if reference is None or reference is maker else told | maker.quality(reference)

    return Side(name, call, weights=weights_of(*_networks(maker.pipe)), facts=facts)


def _networks(pipe: Any) -> list[Any]:
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def _at_most(bench: Bench, rounds: int) -> Bench:
    """The same, with a round for each prompt at most."""
    return Bench(bench.device, bench.seconds, min(rounds, bench.rounds), bench.tiny, bench.seed, bench.peaks)


# ---- previews ------------------------------------------------------------------------------------------


def previews(bench: Bench, form: Form) -> list[Row]:
    """Sampling alone, with nobody looking and with a preview of every step in each of its formats."""
    from _common import load

    from videodit import Preview

    pipe, _ = load("mini", device=str(bench.device), steps=None, cfg=None)
    prompt, sides = prompts_of(1)[0], []
    with tempfile.TemporaryDirectory() as folder:

        class Timed(Preview):
            """Knows the processor seconds that it took of those of the sampling, a pair a round."""

            def __init__(self, path: Path) -> None:
                super().__init__(path)
                self.rounds: list[tuple[float, float]] = []
                self.own = 0.0

            def callback_fn(self, *arguments: Any) -> Any:
                started = time.process_time()
                returned = super().callback_fn(*arguments)
                self.own += time.process_time() - started
                return returned

            def facts(self) -> Row:
                return {"overhead": statistics.median(own / (whole - own) for own, whole in self.rounds)}

        def sampled(callback: Timed | None, turn: int) -> Tensor:
            generator = torch.Generator().manual_seed(bench.seed + max(0, turn))
            call = {"callback_on_step_end": callback, "output_type": "latent", **form.size}
            started = time.process_time()
            latents: Tensor = pipe(prompt, generator=generator, **call).frames
            if callback is not None:
                if turn >= 0:
                    callback.rounds.append((callback.own, time.process_time() - started))
                callback.own = 0.0
            return latents

        sides.append(Side("none", partial(sampled, None), weights=weights_of(*_networks(pipe))))
        for name in ("webp", "gif", "png"):
            callback = Timed(Path(folder) / f"preview.{name}")
            call = partial(sampled, callback)
            sides.append(Side(f"preview, {name}", call, weights=weights_of(*_networks(pipe)), facts=callback.facts))
        return compare(bench, sides, dtype=pipe.dtype, baseline="none", warm_ups=1)


# ---- beside diffusers' pipeline ----------------------------------------------------------------------


def beside_diffusers(bench: Bench, form: Form, dtype: torch.dtype) -> list[Row]:
    """Both pipelines around the same networks, ours with what each preset does."""
    from videodit.acceleration.schedule import FILE, read_calibrations
    from videodit.pipelines.folders import resolve_model

    folder = resolve_model("mini")
    calibration = read_calibrations(folder / FILE)[0]
    options = {"num_inference_steps": calibration.steps, "guidance_scale": calibration.guidance, **form.size}
    prompts = prompts_of(form.clips)
    theirs, ours = networks(bench, dtype)
    shared = text_parts(folder, bench, dtype)
    wan = wan_pipeline(shared, *theirs)
    sides = [Side("diffusers", partial(_their_clip, wan, prompts, options, bench), weights=weights_of(*_networks(wan)))]
    fast = calibration.schedules["fast"].actions
    wanted: dict[str, AccelConfig | str | None] = {
        "videodit": None,
        "videodit, lossless": "lossless",
        "videodit, fast schedule": AccelConfig(attention="auto", cache=fast),
    }
    with tempfile.TemporaryDirectory() as where:
        for name, config in wanted.items():
            pipe = our_pipeline(shared, *ours, form)
            plan = {} if config is None else pipe.accelerate(config).bound
            target = Path(where) / "clip.mp4"
            sides.append(_side(name, Maker(pipe, plan), prompts, bench, target, options, None))
        rows = compare(_at_most(bench, form.clips), sides, dtype=dtype, warm_ups=1)
    for row in rows:
        if row["side"].endswith("schedule"):  # what random weights lose by it says nothing
            row.pop("difference", None)
    return rows


def networks(bench: Bench, dtype: torch.dtype) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Transformer and VAE of diffusers' classes, and the same of ours."""
    pair = dit.Pair(dit.Shape("", dit.mini_member(), (1, 2, 2), ()), dtype, bench)
    pair.make()
    their_vae, our_vae = (one.to(bench.device, dtype).eval() for one in vae.bundled())
    return (pair.theirs, their_vae), (pair.ours, our_vae)


def text_parts(folder: Path, bench: Bench, dtype: torch.dtype) -> dict[str, Any]:
    """Tokenizer, text encoder and scheduler of a model's folder."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from transformers import AutoTokenizer, T5EncoderModel

    encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype).to(bench.device).eval()
    return {
        "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
        "text_encoder": encoder,
        "scheduler": FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
    }


def wan_pipeline(shared: dict[str, Any], transformer: Any, autoencoder: Any) -> Any:
    """diffusers' pipeline."""
    from diffusers import WanPipeline

    own = {"scheduler": copy.deepcopy(shared["scheduler"])}
    lay_out = own["scheduler"].set_timesteps
    # By itself it applies its shift twice, as videodit does not; levels that it gets, it shifts once.
    own["scheduler"].set_timesteps = lambda n, device: lay_out(sigmas=np.linspace(1, 1 / n, n), device=device)
    pipe = WanPipeline(**shared | own, transformer=transformer, vae=autoencoder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def our_pipeline(shared: dict[str, Any], transformer: Any, autoencoder: Any, form: Form) -> Any:
    """Ours, which makes clips in the same way; ``form`` is what its attention is measured for."""
    from videodit import VideoDiTPipeline

    parts = shared | {"transformer": transformer, "vae": autoencoder}
    pipe = VideoDiTPipeline(**parts, sampled_as="WanPipeline", max_text_length=MAX_TEXT, **form.size)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _their_clip(pipe: Any, prompts: Sequence[str], options: dict[str, Any], bench: Bench, turn: int) -> Tensor:
    """A clip and its MP4 from diffusers' pipeline."""
    from videodit.media import write_video

    number = max(0, turn)
    generator = torch.Generator().manual_seed(bench.seed + number)
    more = {"output_type": "pt", "return_dict": False, "max_sequence_length": MAX_TEXT}
    frames = pipe(prompts[number], generator=generator, **more, **options)[0]
    pixels = (frames.float() * 255).round().div(255).cpu()
    with tempfile.TemporaryDirectory() as folder:
        clip = (pixels[0] * 255).byte().permute(0, 2, 3, 1).numpy()
        write_video(Path(folder) / "clip.mp4", clip, fps=16)
    return pixels


def cases(bench: Bench) -> Iterator[Case]:
    """A case for each form of clips."""
    dtypes = (torch.bfloat16,) if bench.on_gpu else (torch.bfloat16, torch.float32)
    for form in forms(bench):
        yield Case(f"mini {form}, presets", partial(presets, bench, form, PRESETS))
    yield Case(f"mini {forms(bench)[0]}, previews", partial(previews, bench, forms(bench)[0]))
    if not bench.tiny:
        yield Case(f"mini {forms(bench)[0]}, 8 bits", partial(presets, bench, forms(bench)[0], EIGHT_BITS))
    if bench.on_gpu:
        yield Case(f"mini {forms(bench)[0]}, offload", partial(presets, bench, forms(bench)[0], OFFLOADS))
    for dtype in dtypes:
        run: Callable[[], list[Row]] = partial(beside_diffusers, bench, forms(bench)[0], dtype)
        yield Case(f"wan in mini's shape {forms(bench)[0]}, {dtype_name(dtype)}", run)
