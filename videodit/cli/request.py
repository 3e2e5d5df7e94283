"""From a request to a clip: the one way that `generate` and `remake` share.

First everything is checked (:func:`plan_jobs`), then everything runs (:func:`run_jobs`), so that a mistake
in the last line of a prompts file costs no time.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.cli.common import file_size, note, print_rows, printable, quiet_libraries
from videodit.cli.loras import LoRARequest, check_loras, load_loras, weight_of
from videodit.cli.progress import Progress, show_progress

if TYPE_CHECKING:
    from videodit.acceleration import AccelConfig
    from videodit.adapters import LoRAInfo
    from videodit.pipelines import VideoDiTPipeline
    from videodit.pipelines.registry import GenerationPlan

MAX_SEED = 2**63 - 1
MAX_SECONDS = 86_400


@dataclass(frozen=True)
class Request:
    """One clip to make. None stands for the model's default; ``seconds`` for a number of frames.

    ``origin`` says where the request was written ("prompts.jsonl, line 3"), for error messages.
    """

    prompt: str
    output: Path
    seed: int
    model: str = "mini"
    negative_prompt: str | None = None
    seconds: float | None = None
    num_frames: int | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    dynamic_guidance: bool = False
    image: Path | None = None
    last_image: Path | None = None
    loras: tuple[LoRARequest, ...] = ()
    acceleration: str | AccelConfig | None = None
    device: str | None = None
    dtype: str | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("the prompt is empty; say what the clip should show")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}; it must be 0 to {MAX_SEED}")
        if self.seconds is not None and not 0 < self.seconds <= MAX_SECONDS:  # false for NaN, too
            raise ValueError(f"seconds is {self.seconds}; it must be above 0 and at most {MAX_SECONDS}")
        if self.seconds is not None and self.num_frames is not None:
            raise ValueError(f"give seconds ({self.seconds}) or frames ({self.num_frames}), not both")


@dataclass(frozen=True)
class Job:
    """A request, and what it comes to with this model on this machine."""

    request: Request
    plan: GenerationPlan
    loras: tuple[LoRAInfo, ...] = ()


def draw_seed() -> int:
    """A random seed, short enough to be typed again."""
    return secrets.randbelow(2**31)


def plan_jobs(requests: Sequence[Request]) -> list[Job]:
    """Check every request without loading weights, and announce what was adjusted.

    Raises:
        ValueError: a value is out of range, a model unknown, an output not writable or named twice. The
            message starts with the request's origin.
    """
    jobs: list[Job] = []
    checked: dict[tuple[Path, tuple[LoRARequest, ...]], tuple[LoRAInfo, ...]] = {}
    takers: dict[Path, str] = {}
    with show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.media import check_writable

        for index, request in enumerate(requests):
            progress.stage(f"checking request {index + 1}/{len(requests)}")
            try:
                check_writable(request.output)  # first: a plan may fetch a model
                for picture in (request.image, request.last_image):
                    if picture is not None:
                        _open_image(picture)
                plan = _plan(request)
                _check_acceleration(request, plan)
                if (key := (plan.folder, request.loras)) not in checked:
                    checked[key] = check_loras(request.loras, plan.folder)
                path = request.output.resolve()
                if path in takers:
                    raise ValueError(f"output {request.output.name!r} is taken by {takers[path]}")
            except ValueError as error:
                raise ValueError(f"{request.origin}: {error}" if request.origin else str(error)) from error
            takers[path] = request.origin
            jobs.append(Job(request, plan, checked[key]))
    for message in dict.fromkeys(message for job in jobs for message in _notices(job)):
        note(message)
    return jobs


def _check_acceleration(request: Request, plan: GenerationPlan) -> None:
    """See that the schedule that is asked for is there and fits.

    Raises:
        ValueError: it does not.
    """
    if request.acceleration is None:
        return
    from videodit.acceleration import AccelConfig
    from videodit.acceleration.bind import find_schedule
    from videodit.pipelines.registry import model_hash

    wanted = request.acceleration
    config = AccelConfig.preset(wanted) if isinstance(wanted, str) else wanted
    if config.cache is not None:
        actions, _ = find_schedule(config.cache, folder=plan.folder, model_hash=model_hash(plan.folder))
        if len(actions) != plan.num_inference_steps:
            raise ValueError(
                f"acceleration {wanted!r} is for {len(actions)} steps, not {plan.num_inference_steps}: "
                f"videodit calibrate --steps {plan.num_inference_steps} finds another"
            )


def _open_image(path: Path) -> Any:
    """A picture in RGB.

    Raises:
        ValueError: a file that is missing or no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise ValueError(f"cannot read the image {str(path)!r}: {error.strerror or error}") from error


def _notices(job: Job) -> list[str]:
    """Where the plan is not exactly what was asked for."""
    asked, seconds = job.request.seconds, job.plan.num_frames / float(job.plan.fps)
    if asked is None or math.isclose(asked, seconds):
        return job.plan.notices
    return [*job.plan.notices, f"{asked:g} s becomes {seconds:.4g} s, {job.plan.num_frames} whole frames"]


def _plan(request: Request) -> GenerationPlan:
    from videodit.pipelines.registry import plan

    num_frames = request.num_frames
    if request.seconds is not None:
        fps = plan(model=request.model, fps=request.fps).fps
        num_frames = max(1, round(request.seconds * float(fps)))
    return plan(
        model=request.model,
        height=request.height,
        width=request.width,
        num_frames=num_frames,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        fps=request.fps,
        device=request.device,
        dtype=request.dtype,
        image=request.image is not None,
        last_image=request.last_image is not None,
        negative_prompt=request.negative_prompt,
        guidance_scale_2=request.guidance_scale_2,
    )


def describe_jobs(jobs: Sequence[Job]) -> None:
    """Print what :func:`run_jobs` would do."""
    for job in jobs:
        request, plan = job.request, job.plan
        print_rows(
            [
                ("prompt", request.prompt),
                *((name, path) for name, path in (("image", request.image), ("last", request.last_image)) if path),
                ("negative", request.negative_prompt or "(none)"),
                ("model", plan.model),
                *(
                    ("lora", f"{info.name} at {weight_of(asked)}, {info.matched}/{info.total} modules, {info.layout}")
                    for asked, info in zip(request.loras, job.loras, strict=True)
                ),
                ("size", f"{plan.width}x{plan.height}"),
                ("frames", f"{plan.num_frames} at {float(plan.fps):g} fps"),
                ("seconds", f"{plan.num_frames / float(plan.fps):.2f}"),
                ("steps", plan.num_inference_steps),
                *([("accelerate", request.acceleration)] if request.acceleration is not None else []),
                ("cfg", f"{plan.guidance_scale:g}"),
                ("seed", request.seed),
                ("tokens", plan.num_tokens),
                ("device", plan.device),
                ("dtype", _dtype_name(plan)),
                ("output", _output_name(request)),
            ]
        )
        if job is not jobs[-1]:
            print()


def run_jobs(jobs: Sequence[Job], *, profile: bool = False) -> list[dict[str, Any]]:
    """Make each clip, print a line about it, and return the recipes. The jobs share one model.

    Args:
        jobs: what to make.
        profile: print how long the parts of each took.

    Raises:
        ValueError: the model's files are damaged or not a model.
    """
    started = time.monotonic()
    with show_progress() as progress:
        progress.stage("loading")
        pipe = _load(jobs[0].plan)
        load_loras(pipe, jobs[0].request.loras, jobs[0].loras)
        if (wanted := jobs[0].request.acceleration) is not None:
            pipe.accelerate(wanted)
    recipes = []
    for index, job in enumerate(jobs, start=1):
        _announce(pipe, job)
        with show_progress(f"clip {index}/{len(jobs)}: " if len(jobs) > 1 else "") as progress:
            recipe, timings = _make_clip(pipe, job, progress)
        recipes.append(recipe)
        _report(job, time.monotonic() - started)
        if profile:
            _print_timings(timings)
        started = time.monotonic()
    return recipes


def _load(plan: GenerationPlan) -> VideoDiTPipeline:
    import torch

    from videodit.pipelines import VideoDiTPipeline

    quiet_libraries()
    pipe = VideoDiTPipeline.from_pretrained(plan.model, dtype=getattr(torch, _dtype_name(plan)))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(plan.device)


def _announce(pipe: VideoDiTPipeline, job: Job) -> None:
    request = job.request
    note(f"seed {request.seed}")
    if request.output.exists():
        note(f"{str(request.output)!r} exists and will be overwritten")
    for text in (request.prompt, request.negative_prompt or ""):
        for message in pipe.text_encoder_notices(text):
            note(message)


def _make_clip(pipe: VideoDiTPipeline, job: Job, progress: Progress) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its recipe, and how long its parts took."""
    import torch

    request, plan = job.request, job.plan
    total = plan.num_inference_steps

    def on_step_end(_: Any, step: int, __: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:  # its time went into the stage before, together with the text's
            progress.stage("sampling", total, done=1)
        progress.step(step + 1)
        if step + 1 == total:
            progress.stage("decoding and writing")
        return kwargs

    progress.stage("encoding the text, first step")
    pictures = {"image": request.image, "last_image": request.last_image}
    said: dict[str, Any] = {
        "guidance_scale_2": request.guidance_scale_2,
        "dynamic_guidance": request.dynamic_guidance,
        "fps": request.fps,
    }
    output: Any = pipe(  # an output object, not a tuple, as return_dict is left alone
        request.prompt,
        negative_prompt=request.negative_prompt,
        height=plan.height,
        width=plan.width,
        num_frames=plan.num_frames,
        num_inference_steps=total,
        guidance_scale=plan.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        callback_on_step_end=on_step_end,
        output_type="stream",  # decoded while it is written, below
        **{name: _open_image(path) for name, path in pictures.items() if path is not None},
        **{name: value for name, value in said.items() if value},
    )
    # The frames are the same at any rate; only the file plays them faster or slower.
    output.fps = output.recipes[0]["fps"] = plan.fps
    output.save(request.output)
    return output.recipes[0], output.timings


def _report(job: Job, seconds: float) -> None:
    path, plan = job.request.output, job.plan
    print(
        f"{printable(str(path))}: {plan.width}x{plan.height}, "
        f"{plan.num_frames} frames at {float(plan.fps):g} fps, "
        f"{file_size(path.stat().st_size)}, seed {job.request.seed}, made in {seconds:.1f} s",
        flush=True,
    )


def _print_timings(timings: dict[str, Any]) -> None:
    """Seconds of each part; of steps their sum, the first, and the middle of the others."""
    rows = []
    for name, value in timings.items():
        if not isinstance(value, list):
            rows.append((name, f"{value:.3f} s"))
            continue
        rest = sorted(value[1:]) or value
        text = f"{sum(value):.3f} s: {len(value)} steps, the first {value[0]:.3f} s, then {rest[len(rest) // 2]:.3f} s"
        rows.append((name, text))
    print_rows(rows, indent=2)


def _output_name(request: Request) -> str:
    return f"{request.output} (overwrites)" if request.output.exists() else str(request.output)


def _dtype_name(plan: GenerationPlan) -> str:
    return str(plan.dtype).removeprefix("torch.")
