"""From a request to a clip: the one way that `generate` and `remake` share.

First everything is checked (:func:`plan_jobs`), then everything runs (:func:`run_jobs`), so that a mistake
in the last line of a prompts file costs no time.
"""

from __future__ import annotations

import math
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.cli.common import file_size, note, print_rows, printable, quiet_libraries
from videodit.cli.loras import LoRARequest, check_loras, load_loras, weight_of
from videodit.cli.progress import Progress, show_progress
from videodit.errors import InputError
from videodit.files import sole_maker
from videodit.prompts import check_text, is_blank

if TYPE_CHECKING:
    from videodit.acceleration import AccelConfig
    from videodit.adapters import LoRAInfo
    from videodit.pipelines import VideoDiTPipeline
    from videodit.pipelines.conditions import AnyCondition, Given
    from videodit.pipelines.pixels import Fit
    from videodit.pipelines.registry import GenerationPlan
    from videodit.pipelines.storyboard import Storyboard

MAX_SEED = 2**63 - 1
MAX_SECONDS = 86_400


@dataclass(frozen=True)
class Request:
    """One clip to make. None stands for the model's default; ``seconds`` for a number of frames.

    ``origin`` says where the request was written ("prompts.jsonl, line 3"), for error messages.
    """

    prompt: str | Storyboard
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
    conditions: tuple[AnyCondition, ...] = ()
    fit: Fit = "crop"
    loop: bool = False
    window: int | None = None
    overlap: int | None = None
    loras: tuple[LoRARequest, ...] = ()
    acceleration: str | AccelConfig | None = None
    device: str | None = None
    dtype: str | None = None
    dtypes: dict[str, str] | None = None
    max_sequence_length: int | None = None
    sigmas: list[float] | None = None
    timesteps: list[float] | None = None
    eta: float = 0.0
    attention_kwargs: dict[str, Any] | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        for text in self.prompts:
            check_text(text)
            if is_blank(text):
                raise InputError("the prompt is empty; say what the clip should show")
        if self.negative_prompt is not None:
            check_text(self.negative_prompt, "the negative prompt")
        if not 0 <= self.seed <= MAX_SEED:
            raise InputError(f"seed is {self.seed}; it must be 0 to {MAX_SEED}")
        if self.seconds is not None and not 0 < self.seconds <= MAX_SECONDS:  # false for NaN, too
            raise InputError(f"seconds is {self.seconds}; it must be above 0 and at most {MAX_SECONDS}")
        if self.seconds is not None and self.num_frames is not None:
            raise InputError(f"give seconds ({self.seconds}) or frames ({self.num_frames}), not both")

    @property
    def prompts(self) -> list[str]:
        """All that is to be read of it."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt.prompts


@dataclass(frozen=True)
class Job:
    """A request, and what it comes to with this model on this machine."""

    request: Request
    plan: GenerationPlan
    given: Given
    loras: tuple[LoRAInfo, ...] = ()


def draw_seed() -> int:
    """A random seed, short enough to be typed again."""
    return secrets.randbelow(2**31)


def begun_seed(output: Path | None) -> int:
    """The seed of a long clip that was begun under this name and not finished, or a random one."""
    if output is None or output.is_dir() or not (folder := window_folder(output)).is_dir():
        return draw_seed()
    from videodit.pipelines.windows import WindowStore

    if (seed := WindowStore.seed(folder)) is None:
        return draw_seed()
    note(f"{output.name} was begun before with seed {seed}, and goes on")
    return seed


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
                plan = _plan(request)
                given = _given(request, plan)
                _check_acceleration(request, plan)
                if (key := (plan.folder, request.loras)) not in checked:
                    checked[key] = check_loras(request.loras, plan.folder)
                path = request.output.resolve()
                if path in takers:
                    raise InputError(f"output {request.output.name!r} is taken by {takers[path]}")
            except ValueError as error:
                raise InputError(f"{request.origin}: {error}" if request.origin else str(error)) from error
            takers[path] = request.origin
            jobs.append(Job(request, plan, given, checked[key]))
    for message in dict.fromkeys(message for job in jobs for message in _notices(job)):
        note(message)
    return jobs


def _quantizes(wanted: str | AccelConfig) -> bool:
    from videodit.acceleration import AccelConfig

    return (AccelConfig.preset(wanted) if isinstance(wanted, str) else wanted).quantize is not None


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
            raise InputError(
                f"acceleration {wanted!r} is for {len(actions)} steps, not {plan.num_inference_steps}: "
                f"videodit calibrate --steps {plan.num_inference_steps} finds another"
            )


def _given(request: Request, plan: GenerationPlan) -> Given:
    """What the clip starts from, read and checked.

    Raises:
        ValueError: it cannot be read, or the model cannot take it.
    """
    from videodit.pipelines.conditions import ends_given, settle_conditions
    from videodit.pipelines.pipeline import images_as_frames
    from videodit.pipelines.registry import ModelSpec, check_conditions

    spec = ModelSpec.from_folder(plan.folder)
    conditions = [*images_as_frames(request.image, request.last_image), *request.conditions]
    if request.loop and conditions:
        raise InputError("a loop has no beginning and no end: it takes no image and no other condition")
    if not isinstance(request.prompt, str):
        request.prompt.check(plan.num_frames / float(plan.fps))
    first, last = ends_given(conditions, plan.num_frames)
    check_conditions(
        spec,
        image=first,
        last_image=last,
        negative_prompt=request.negative_prompt,
        guidance_scale_2=request.guidance_scale_2,
    )
    return settle_conditions(conditions, spec, plan, fit=request.fit)


def _notices(job: Job) -> list[str]:
    """Where the plan is not exactly what was asked for."""
    asked, seconds = job.request.seconds, job.plan.num_frames / float(job.plan.fps)
    told = [*job.plan.notices, *job.given.notices]
    if asked is None or math.isclose(asked, seconds):
        return told
    return [*told, f"{asked:g} s becomes {seconds:.4g} s, {job.plan.num_frames} whole frames"]


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
        loop=request.loop,
        window=request.window,
        overlap=request.overlap,
    )


def describe_jobs(jobs: Sequence[Job]) -> None:
    """Print what :func:`run_jobs` would do."""
    for job in jobs:
        request, plan = job.request, job.plan
        print_rows(
            [
                *_prompt_rows(request),
                *((name, path) for name, path in (("image", request.image), ("last", request.last_image)) if path),
                ("negative", request.negative_prompt or "(none)"),
                ("model", plan.model),
                *(
                    ("lora", f"{info.name} at {weight_of(asked)}, {info.matched}/{info.total} modules, {info.layout}")
                    for asked, info in zip(request.loras, job.loras, strict=True)
                ),
                ("size", f"{plan.width}x{plan.height}"),
                ("frames", f"{plan.num_frames} at {float(plan.fps):g} fps{', a loop' if plan.loop else ''}"),
                *(("given", _told(record)) for record in job.given.record),
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


def _prompt_rows(request: Request) -> list[tuple[str, str]]:
    if isinstance(request.prompt, str):
        return [("prompt", request.prompt)]
    return [("prompt", f"from {at:g} s: {prompt}") for at, prompt in request.prompt.scenes]


def _told(record: dict[str, Any]) -> str:
    """A line about something that is given."""
    if "frames" in record:
        first, count = record["at"], record["count"]
        which = f"frame {first}" if count == 1 else f"frames {first} to {first + count - 1}"
        return f"{which}, strength {record['strength']:g}"
    if "edit" in record:
        return f"a clip to start from, strength {record['strength']:g}"
    return "a clip, what is black in the mask"


def make_one(request: Request, *, dry_run: bool) -> None:
    """Make a single clip, or print what would be made.

    Raises:
        ValueError: see :func:`plan_jobs` and :func:`run_jobs`.
    """
    jobs = plan_jobs([request])
    if dry_run:
        describe_jobs(jobs)
    else:
        run_jobs(jobs)


def run_jobs(jobs: Sequence[Job], *, profile: bool = False) -> list[dict[str, Any]]:
    """Make each clip, print a line about it, and return the recipes. The jobs share one model.

    Args:
        jobs: what to make.
        profile: print how long the parts of each took.

    Raises:
        ValueError: the model's files are damaged or not a model.
    """
    started = time.monotonic()
    for job in jobs:  # before the model is loaded
        with sole_maker(job.request.output):
            pass
    with show_progress() as progress:
        progress.stage("loading")
        pipe = _load(jobs[0].plan, jobs[0].request.dtypes)
        wanted = jobs[0].request.acceleration
        quantized = wanted is not None and _quantizes(wanted)
        if wanted is not None and quantized:  # LoRAs go beside quantized weights, which cannot be made under them
            pipe.accelerate(wanted)
        load_loras(pipe, jobs[0].request.loras, jobs[0].loras)
        if wanted is not None and not quantized:
            pipe.accelerate(wanted)
    recipes = []
    for index, job in enumerate(jobs, start=1):
        with sole_maker(job.request.output):
            _announce(pipe, job)
            with show_progress(f"clip {index}/{len(jobs)}: " if len(jobs) > 1 else "") as progress:
                recipe, timings = _make_clip(pipe, job, progress)
        recipes.append(recipe)
        _report(job, time.monotonic() - started)
        if profile:
            _print_timings(timings)
        started = time.monotonic()
    return recipes


def _load(plan: GenerationPlan, dtypes: dict[str, str] | None) -> VideoDiTPipeline:
    import torch

    from videodit.pipelines import VideoDiTPipeline

    quiet_libraries()
    dtype: Any = getattr(torch, _dtype_name(plan))
    if dtypes is not None:
        dtype = {"default": dtype} | {name: getattr(torch, one) for name, one in dtypes.items()}
    pipe = VideoDiTPipeline.from_pretrained(plan.model, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(plan.device)


def _announce(pipe: VideoDiTPipeline, job: Job) -> None:
    request = job.request
    note(f"seed {request.seed}")
    if job.plan.windows is not None:
        note(
            f"finished windows are kept in {str(window_folder(request.output))!r} until the clip is whole; "
            f"after a stop the same command goes on with --seed {request.seed} -o {request.output}"
        )
    if request.output.exists():
        note(f"{str(request.output)!r} exists and will be overwritten")
    for text in (*request.prompts, request.negative_prompt or ""):
        for message in pipe.text_encoder_notices(text):
            note(message)


def _make_clip(pipe: VideoDiTPipeline, job: Job, progress: Progress) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its recipe, and how long its parts took."""
    import torch

    request, plan = job.request, job.plan
    total, done = _steps(job), 0
    folder = window_folder(request.output) if plan.windows is not None else None

    def on_step_end(_: Any, __: int, ___: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        done += 1
        if done == 1:  # its time went into the stage before, together with the text's
            progress.stage("sampling", total, done=1)
        progress.step(done)
        if done == total:
            progress.stage("decoding and writing")
        return kwargs

    progress.stage("encoding the text, first step")
    output: Any = pipe(  # an output object, not a tuple, as return_dict is left alone
        request.prompt,
        negative_prompt=request.negative_prompt,
        height=plan.height,
        width=plan.width,
        num_frames=plan.num_frames,
        num_inference_steps=plan.num_inference_steps,
        guidance_scale=plan.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        guidance_scale_2=request.guidance_scale_2,
        dynamic_guidance=request.dynamic_guidance,
        fps=request.fps,
        image=request.image,
        last_image=request.last_image,
        conditions=request.conditions,
        fit=request.fit,
        loop=request.loop,
        window=request.window,
        overlap=request.overlap,
        keep_windows=folder,
        max_sequence_length=request.max_sequence_length,
        sigmas=request.sigmas,
        timesteps=request.timesteps,
        eta=request.eta,
        attention_kwargs=request.attention_kwargs,
        callback_on_step_end=on_step_end,
        output_type="stream",  # decoded while it is written, below
    )
    # The frames are the same at any rate; only the file plays them faster or slower.
    output.fps = output.recipes[0]["fps"] = plan.fps
    output.save(request.output)
    if folder is not None:
        shutil.rmtree(folder)
    return output.recipes[0], output.timings


def window_folder(output: Path) -> Path:
    """Where the latents of a long clip are kept until the clip is whole."""
    return output.with_name(f".{output.stem}.windows")


def _steps(job: Job) -> int:
    """Steps that are left to make a clip."""
    plan, steps = job.plan, job.plan.num_inference_steps
    for record in job.given.record:
        if "edit" in record:
            from videodit.pipelines.conditions import edit_steps

            steps = edit_steps(steps, record["strength"])
    if plan.windows is None:
        return steps
    from videodit.pipelines.windows import windows_of

    folder = window_folder(job.request.output)
    made = len(list(folder.glob("[0-9][0-9][0-9][0-9][0-9].safetensors")))
    total = len(windows_of(plan, None if job.given.renoised else job.given.level))
    if made:
        note(f"{made} of {total} windows are there from before")
    return steps * (total - made)


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
