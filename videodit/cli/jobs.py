"""From a request to a clip: the one way that `generate` and `remake` share.

First everything is checked (:func:`plan_jobs`), then everything runs (:func:`run_jobs`), so that a mistake
in the last line of a prompts file costs no time.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.cli.common import file_size, note, print_rows, printable, quiet_libraries
from videodit.cli.loras import check_loras, load_loras, weight_of
from videodit.cli.progress import Progress, show_progress
from videodit.errors import InputError, ModelError
from videodit.files import sole_maker
from videodit.path_kinds import check_output_name
from videodit.pipelines.request import LoRARequest, Request, as_list
from videodit.pipelines.storyboard import Storyboard
from videodit.prompts import is_blank

if TYPE_CHECKING:
    from videodit.acceleration import AccelConfig
    from videodit.adapters import LoRAInfo
    from videodit.pipelines import VideoDiTPipeline
    from videodit.pipelines.acceleration import Timings
    from videodit.pipelines.planning import Plan
    from videodit.pipelines.spec import ModelFolder
    from videodit.prompt_reader import PromptReader

MAX_SEED = 2**63 - 1
_FLAGS = {
    "num_inference_steps": "steps",
    "guidance_scale": "cfg",
    "guidance_scale_2": "cfg",
    "num_frames": "frames",
    "negative_prompt": "negative",
    "last_image": "last-image",
}
"""What fields of a request are called on the command line, where that differs."""
_FIELD = re.compile(rf"\b({'|'.join(sorted(_FLAGS, key=len, reverse=True))})\b")


@dataclass(frozen=True)
class Order:
    """A clip to make, and where it goes.

    Attributes:
        request: what is asked for, with a seed.
        output: the MP4 to write.
        origin: where it was written ("prompts.jsonl, line 3"), for error messages.
    """

    request: Request
    output: Path
    origin: str = ""


@dataclass(frozen=True)
class Job:
    """An order, and what it comes to with this model on this machine."""

    order: Order
    plan: Plan
    model: ModelFolder
    device: str
    dtype: Any
    loras: tuple[LoRAInfo, ...] = ()

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self.order.request

    @property
    def output(self) -> Path:
        """The MP4 to write."""
        return self.order.output


def draw_seed() -> int:
    """A random seed, short enough to be typed again."""
    return secrets.randbelow(2**31)


def begun_seed(output: Path | None) -> int:
    """The seed of a long clip that was begun under this name and not finished, or a random one."""
    if output is None or output.is_dir() or not (folder := window_folder(output)).is_dir():
        return draw_seed()
    from videodit.pipelines.window_store import WindowStore

    if (seed := WindowStore.seed(folder)) is None:
        return draw_seed()
    note(f"{output.name} was begun before with seed {seed}, and goes on")
    return seed


def plan_jobs(orders: Sequence[Order]) -> list[Job]:
    """Check every order without loading weights, and announce what was adjusted.

    Raises:
        InputError: a value is out of range, a model unknown, an output not writable or named twice. The
            message starts with the order's origin.
    """
    jobs: list[Job] = []
    models: dict[str, ModelFolder] = {}
    readers: dict[str, PromptReader] = {}
    checked: dict[tuple[Path, tuple[LoRARequest, ...]], tuple[LoRAInfo, ...]] = {}
    takers: dict[Path, str] = {}
    with show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.hardware import parse_device, parse_dtype
        from videodit.media import check_writable
        from videodit.pipelines.planning import plan
        from videodit.pipelines.prompt_readers import load_prompt_reader
        from videodit.pipelines.request import Inputs
        from videodit.pipelines.spec import ModelFolder

        for index, order in enumerate(orders):
            progress.stage(f"checking request {index + 1}/{len(orders)}")
            request = order.request
            try:
                _check_words(request)
                check_output_name(order.output)
                check_writable(order.output)  # first: finding a model may fetch it
                if request.model not in models:
                    models[request.model] = ModelFolder.find(request.model)
                model = models[request.model]
                if request.model not in readers:
                    readers[request.model] = load_prompt_reader(model)
                planned = plan(request, Inputs(), model.spec, text_notices=readers[request.model].notices)
                device = parse_device(request.device)
                dtype = parse_dtype(request.dtype, device)
                _check_acceleration(request, planned, model.path)
                if (key := (model.path, request.loras)) not in checked:
                    checked[key] = check_loras(request.loras, model.path)
                path = order.output.resolve()
                if path in takers:
                    raise InputError(f"output {order.output.name!r} is taken by {takers[path]}")
            except ValueError as error:
                kind = ModelError if isinstance(error, ModelError) else InputError
                raise kind(_as_typed(str(error), order.origin)) from error
            takers[path] = order.origin
            jobs.append(Job(order, planned, model, device, dtype, checked[key]))
    for message in dict.fromkeys(message for job in jobs for message in job.plan.notices):
        note(message)
    return jobs


def _as_typed(message: str, origin: str) -> str:
    """A message about a request with the names that a user typed: flags, or keys of a prompts file's line."""
    dashes = "" if origin else "--"
    message = _FIELD.sub(lambda match: dashes + _FLAGS[match[0]], message)
    return f"{origin}: {message}" if origin else message


def _check_words(request: Request) -> None:
    """See that a clip is asked for, and that its seed is one.

    Raises:
        InputError: an empty prompt, or a seed out of range.
    """
    request.check_texts()
    if any(is_blank(text) for text in as_list(request.prompt)):
        raise InputError("the prompt is empty; say what the clip should show")
    if request.seed is not None and not 0 <= request.seed <= MAX_SEED:
        raise InputError(f"seed is {request.seed}; it must be 0 to {MAX_SEED}")


def _quantizes(wanted: str | AccelConfig) -> bool:
    from videodit.acceleration import AccelConfig

    return (AccelConfig.preset(wanted) if isinstance(wanted, str) else wanted).quantize is not None


def _check_acceleration(request: Request, plan: Plan, folder: Path) -> None:
    """See that the schedule that is asked for is there and fits.

    Raises:
        InputError: it does not.
    """
    if request.acceleration is None:
        return
    from videodit.acceleration import AccelConfig
    from videodit.acceleration.bind import find_schedule
    from videodit.pipelines.folders import model_hash

    wanted = request.acceleration
    config = AccelConfig.preset(wanted) if isinstance(wanted, str) else wanted
    if config.cache is not None:
        actions, _ = find_schedule(config.cache, folder=folder, model_hash=model_hash(folder))
        if len(actions) != plan.num_inference_steps:
            raise InputError(
                f"acceleration {wanted!r} is for {len(actions)} steps, not {plan.num_inference_steps}: "
                f"videodit calibrate --steps {plan.num_inference_steps} finds another"
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
                ("model", job.model.name),
                *(
                    ("lora", f"{info.name} at {weight_of(asked)}, {info.matched}/{info.total} modules, {info.layout}")
                    for asked, info in zip(request.loras, job.loras, strict=True)
                ),
                ("size", f"{plan.width}x{plan.height}"),
                ("frames", f"{plan.num_frames} at {float(plan.fps):g} fps{', a loop' if plan.loop else ''}"),
                *(("given", _told(record)) for record in plan.condition_record),
                ("seconds", f"{plan.seconds:.2f}"),
                ("steps", plan.num_inference_steps),
                *([("accelerate", request.acceleration)] if request.acceleration is not None else []),
                ("cfg", f"{plan.guidance_scale:g}"),
                ("seed", request.seed),
                ("tokens", plan.num_tokens),
                ("device", job.device),
                ("dtype", _dtype_name(job)),
                ("output", _output_name(job.output)),
            ]
        )
        if job is not jobs[-1]:
            print()


def _prompt_rows(request: Request) -> list[tuple[str, str]]:
    if isinstance(request.prompt, Storyboard):
        return [("prompt", f"from {at:g} s: {prompt}") for at, prompt in request.prompt.scenes]
    return [("prompt", prompt) for prompt in as_list(request.prompt)]


def _told(record: dict[str, Any]) -> str:
    """A line about something that is given."""
    if "frames" in record:
        first, count = record["at"], record["count"]
        which = f"frame {first}" if count == 1 else f"frames {first} to {first + count - 1}"
        return f"{which}, strength {record['strength']:g}"
    if "edit" in record:
        return f"a clip to start from, strength {record['strength']:g}"
    return "a clip, what is black in the mask"


def make_one(order: Order, *, dry_run: bool) -> None:
    """Make a single clip, or print what would be made.

    Raises:
        InputError: see :func:`plan_jobs` and :func:`run_jobs`.
    """
    jobs = plan_jobs([order])
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
        InputError: the model's files are damaged or not a model.
    """
    started = time.monotonic()
    for job in jobs:  # before the model is loaded
        with sole_maker(job.output):
            pass
    with show_progress() as progress:
        progress.stage("loading")
        pipe = _load(jobs[0])
        wanted = jobs[0].request.acceleration
        quantized = wanted is not None and _quantizes(wanted)
        if wanted is not None and quantized:  # LoRAs go beside quantized weights, which cannot be made under them
            pipe.accelerate(wanted)
        load_loras(pipe, jobs[0].request.loras, jobs[0].loras)
        if wanted is not None and not quantized:
            pipe.accelerate(wanted)
    recipes = []
    for index, job in enumerate(jobs, start=1):
        with sole_maker(job.output):
            _announce(job)
            with show_progress(f"clip {index}/{len(jobs)}: " if len(jobs) > 1 else "") as progress:
                recipe, timings = _make_clip(pipe, job, progress)
        recipes.append(recipe)
        _report(job, time.monotonic() - started)
        if profile:
            _print_timings(timings)
        started = time.monotonic()
    return recipes


def _load(job: Job) -> VideoDiTPipeline:
    import torch

    from videodit.pipelines import VideoDiTPipeline

    quiet_libraries()
    dtype: Any = getattr(torch, _dtype_name(job))
    if (dtypes := job.request.dtypes) is not None:
        dtype = {"default": dtype} | {name: getattr(torch, one) for name, one in dtypes.items()}
    pipe = VideoDiTPipeline.from_folder(job.model, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(job.device)


def _announce(job: Job) -> None:
    request, output = job.request, job.output
    note(f"seed {request.seed}")
    if job.plan.windows is not None:
        note(
            f"finished windows are kept in {str(window_folder(output))!r} until the clip is whole; "
            f"after a stop the same command goes on with --seed {request.seed} -o {output}"
        )
    if output.exists():
        note(f"{str(output)!r} exists and will be overwritten")


def _make_clip(pipe: VideoDiTPipeline, job: Job, progress: Progress) -> tuple[dict[str, Any], Timings]:
    """Its recipe, and how long its parts took."""
    plan, total, done = job.plan, _steps(job), 0
    folder = window_folder(job.output) if plan.windows is not None else None

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
    plan = replace(
        plan,
        request=replace(plan.request, keep_windows=folder),
        inputs=replace(plan.inputs, callback_on_step_end=on_step_end),
    )
    output = pipe.run(plan, output_type="stream")  # decoded while it is written, below
    output.save(job.output)
    if folder is not None:
        shutil.rmtree(folder)
    return output.recipes[0], output.timings


def window_folder(output: Path) -> Path:
    """Where the latents of a long clip are kept until the clip is whole."""
    return output.with_name(f".{output.stem}.windows")


def _steps(job: Job) -> int:
    """Steps that are left to make a clip."""
    plan, steps = job.plan, job.plan.steps_taken
    if plan.windows is None:
        return steps
    made = len(list(window_folder(job.output).glob("[0-9][0-9][0-9][0-9][0-9].safetensors")))
    total = len(plan.spans)
    if made:
        note(f"{made} of {total} windows are there from before")
    return steps * (total - made)


def _report(job: Job, seconds: float) -> None:
    path, plan = job.output, job.plan
    print(
        f"{printable(str(path))}: {plan.width}x{plan.height}, "
        f"{plan.num_frames} frames at {float(plan.fps):g} fps, "
        f"{file_size(path.stat().st_size)}, seed {job.request.seed}, made in {seconds:.1f} s",
        flush=True,
    )


def _print_timings(timings: Timings) -> None:
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


def _output_name(output: Path) -> str:
    return f"{output} (overwrites)" if output.exists() else str(output)


def _dtype_name(job: Job) -> str:
    return str(job.dtype).removeprefix("torch.")
