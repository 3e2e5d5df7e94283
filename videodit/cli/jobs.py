"""From a request to a clip: the one way that all commands share which make one.

First everything is checked (:func:`plan_jobs`), then everything runs (:func:`run_jobs`), so that a mistake
in the last line of a prompts file costs no time.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.cli import results
from videodit.cli.common import count_of, file_size, note, print_rows, printable, quiet_libraries
from videodit.cli.controls import show_controls
from videodit.cli.estimates import confirm, keep_measured
from videodit.cli.loras import check_loras, load_loras
from videodit.cli.orders import MAX_SEED, Job, Order, named
from videodit.cli.output_files import check_order, check_output, check_outputs_differ
from videodit.cli.previewing import check_preview_place, preview_callback
from videodit.cli.progress import Progress, show_progress
from videodit.cli.sheets import check_sheet
from videodit.cli.stopping import when_stopped
from videodit.cli.takes import takes_of
from videodit.cli.typed_names import as_typed
from videodit.errors import InputError
from videodit.files import sole_maker
from videodit.importing import quick_imports
from videodit.path_kinds import check_output_name
from videodit.pipelines.request import Request, as_list
from videodit.prompts import is_blank

if TYPE_CHECKING:
    from videodit.adapters import LoRAInfo
    from videodit.pipelines import VideoDiTPipeline
    from videodit.pipelines.acceleration import Timings
    from videodit.pipelines.planning import Plan
    from videodit.pipelines.spec import ModelFolder
    from videodit.prompt_reader import PromptReader


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
    note(f"{output.name} was begun before with seed {seed}; it goes on from there")
    return seed


def plan_jobs(orders: Sequence[Order]) -> list[Job]:
    """Check every order without loading weights, and announce what was adjusted. ``--count`` makes takes of it.

    Raises:
        InputError: a value is out of range, a model unknown, an output not writable, named twice, an input of its
            own, or there already. The message starts with the order's origin.
    """
    jobs: list[Job] = []
    notices: list[str] = []
    orders = takes_of(orders, results.current().count)
    with when_stopped("nothing was made"), show_progress() as progress:
        _import_libraries(progress)
        planner = _Planner()
        if any(order.output == results.STDOUT for order in orders):
            results.check_stdout(len(orders))
        check_outputs_differ(orders)
        for index, order in enumerate(orders):
            progress.stage(f"checking request {index + 1}/{len(orders)}")
            with named(order):
                jobs.append(planner.plan(order))
                notices += map(as_typed, [*jobs[-1].plan.notices, *_rates(jobs[-1])])
    for message in dict.fromkeys(notices):
        note(message)
    if (sheet := jobs[0].order.show_control) is not None:
        show_controls(sheet, jobs)
    return jobs


def _import_libraries(progress: Progress) -> None:
    """Import what checks need, under its own name: on a busy machine that takes longer than they do.

    Diffusers takes as long as the two together, and is not among it: a dry run and a mistake answer without it.
    """
    with quick_imports():
        progress.stage("importing torch")
        import torch  # noqa: F401

        progress.stage("importing transformers")
        from transformers import PreTrainedTokenizerBase  # noqa: F401


class _Planner:
    """Plans orders; what several of them share is looked up once."""

    def __init__(self) -> None:
        self._models: dict[tuple[object, ...], ModelFolder] = {}
        self._readers: dict[tuple[object, ...], PromptReader] = {}
        self._loras: dict[tuple[object, ...], tuple[LoRAInfo, ...]] = {}  # by model, LoRAs and branches

    def plan(self, order: Order) -> Job:
        """One order.

        Raises:
            InputError: see :func:`plan_jobs`.
        """
        from videodit.hardware import parse_device, parse_dtype
        from videodit.pipelines.branches import branch_specs
        from videodit.pipelines.planning import plan
        from videodit.pipelines.prompt_expansion import expand_request
        from videodit.pipelines.prompt_readers import load_prompt_reader
        from videodit.pipelines.request import Inputs
        from videodit.pipelines.spec import ModelFolder

        request, notices = expand_request(order.request)
        order = replace(order, request=request)
        _check_words(request)
        _check_place(order)  # before the model: finding one may fetch it
        named = (request.model, request.vae, request.text_encoders)
        if named not in self._models:
            self._models[named] = ModelFolder.find(
                request.model,
                parts={} if request.vae is None else {"vae": Path(request.vae).expanduser()},
                encoders=[Path(one).expanduser() for one in request.text_encoders],
            )
        model = self._models[named]
        if named not in self._readers:
            self._readers[named] = load_prompt_reader(model)
        if request.has_weights:
            self._readers[named].check_weights()
        branches = branch_specs(request.control_models, model.path, model.spec.experts)
        spec = replace(model.spec, branches=branches) if branches else model.spec
        planned = plan(request, Inputs(), spec, text_notices=self._readers[named].notices)
        planned = replace(planned, notices=[*notices, *planned.notices])
        device = parse_device(request.device)
        _check_memory(request, device)
        dtype = parse_dtype(request.dtype, device)
        _check_acceleration(request, planned, model)
        if (key := (model.path, request.loras, request.control_models)) not in self._loras:
            self._loras[key] = check_loras(request.loras, model.path, request.control_models)
        return Job(order, planned, model, device, dtype, self._loras[key])


def _check_place(order: Order) -> None:
    """See that a clip can be written to a file of its name, which destroys nothing, or to stdout.

    Raises:
        InputError: it cannot.
    """
    from videodit import clip_files

    check_order(order, results.current().sheet)
    if order.preview is not None:
        check_preview_place(order)
    if order.show_control is not None:
        check_sheet(order.show_control, overwrite=order.overwrite)
    if order.output == results.STDOUT:
        return
    check_output_name(order.output)
    check_output(order.output, inputs=order.inputs, overwrite=order.overwrite)
    clip_files.check_output(order.output)
    results.check_format(order.output)


def _rates(job: Job) -> list[str]:
    """What becomes of a clip's rate in the format of its file."""
    from videodit.clip_files import rate_notices

    output = job.output
    if output == results.STDOUT:
        output = Path(f"stdout.{results.current().stdout_format or 'mp4'}")
    return rate_notices(output, job.plan.fps)


def _check_words(request: Request) -> None:
    """See that a clip is asked for, and that its seed is one.

    Raises:
        InputError: an empty prompt, or a seed out of range.
    """
    request.check_texts()
    if any(is_blank(text) for text in as_list(request.prompt)):
        raise InputError("the prompt is empty; say what the clip should show")
    if request.seed is not None and not 0 <= request.seed <= MAX_SEED:
        raise InputError(f"seed must be 0 to {MAX_SEED}, got {request.seed}")


def _check_memory(request: Request, device: str) -> None:
    """See that weights can wait elsewhere as it is asked for.

    Raises:
        InputError: they cannot on this device, or not together with an acceleration.
    """
    from videodit.pipelines.memory import check_offload

    check_offload(request.offload, device)
    wanted = request.accel_config
    if wanted is None or not request.offloads:
        return
    if wanted.quantize is not None or wanted.offload is not None or request.offload == "sequential":
        raise InputError(f"offload {request.offload!r} and acceleration {wanted!r} do not go together; leave one out")


def _check_acceleration(request: Request, plan: Plan, model: ModelFolder) -> None:
    """See that the schedule that is asked for is there and fits.

    Raises:
        InputError: it does not.
    """
    config = request.accel_config
    if config is None or config.cache is None:
        return
    from videodit.acceleration.finding import find_schedules
    from videodit.acceleration.schedule import pick_schedule

    wanted, steps = request.acceleration, plan.num_inference_steps
    found, _ = find_schedules(config.cache, folder=model.path, model_hash=model.weights_hash)
    if isinstance(found, dict):
        pick_schedule(found, model.index["scheduler"][1], steps, what=f"acceleration {wanted!r}", model=request.model)
    elif len(found) != steps:
        raise InputError(f"acceleration {found!r} is for {len(found)} steps, not {steps}")


def run_jobs(jobs: Sequence[Job], *, profile: bool = False) -> list[dict[str, Any]]:
    """Make each clip, print a line about it, and return the recipes. The jobs share one model, not their LoRAs.

    Args:
        jobs: what to make.
        profile: print how long the parts of each took.

    Raises:
        InputError: the model's files are damaged or not a model.
        Stopped: the work takes more than an hour, and the answer to whether it should begin is no.
    """
    confirm(jobs)
    if jobs[0].output == results.STDOUT:
        with results.clip_to_stdout() as path:
            (job,) = jobs
            return _run_jobs([replace(job, order=replace(job.order, output=path))], profile=profile, keep=False)
    return _run_jobs(jobs, profile=profile)


def _run_jobs(jobs: Sequence[Job], *, profile: bool, keep: bool = True) -> list[dict[str, Any]]:
    started = time.monotonic()
    for job in jobs:  # before the model is loaded
        with sole_job(job):
            pass
    recipes: list[dict[str, Any]] = []
    with when_stopped(lambda: _left_behind(jobs, len(recipes)) if keep else "no clip was written"):
        maker = Maker(jobs[0])
        loading = time.monotonic() - started
        for index, job in enumerate(jobs, start=1):
            with sole_job(job):
                _announce(job, keep)
                with show_progress(f"clip {index}/{len(jobs)}: " if len(jobs) > 1 else "") as progress:
                    recipe, timings = maker.make(job, progress)
            recipes.append(recipe)
            keep_measured(job, timings, loading)
            report(job, str(job.output) if keep else "stdout", time.monotonic() - started, recipe, timings)
            if profile:
                _print_timings(timings)
            started = time.monotonic()
    return recipes


class Maker:
    """A model with its LoRAs, loaded for one job and used for all others of the same model.

    Args:
        job: the first one.
    """

    def __init__(self, job: Job) -> None:
        self._pipe, self._loaded = _load_all(job), job.request.loras

    def make(self, job: Job, progress: Progress) -> tuple[dict[str, Any], Timings]:
        """Write a clip. Returns its recipe, and how long its parts took."""
        pipe = self._pipe
        if job.request.loras != self._loaded:  # a line's prompt may call others than the one before
            if job.request.offloads:  # what moves weights knows those that were there
                pipe.remove_all_hooks()
            pipe.unload_lora_weights()
            load_loras(pipe, job.request.loras, job.loras)
            if job.request.offloads:
                pipe.offload(job.request.offload, job.device)
            self._loaded = job.request.loras
        return _make_clip(pipe, job, progress)


@contextlib.contextmanager
def sole_job(job: Job) -> Iterator[None]:
    """Keep others from making the same file, and see that none has made it since it was planned."""
    with sole_maker(job.output):
        check_output(job.output, overwrite=job.order.overwrite)
        yield


def _left_behind(jobs: Sequence[Job], finished: int) -> str:
    """What a stop leaves, and how to go on."""
    there = f"{finished} of {len(jobs)} clips are finished and kept" if len(jobs) > 1 else ""
    if finished == len(jobs):
        return there or "the clip is finished and kept"
    job = jobs[finished]
    made, total = _windows_made(job), len(job.plan.spans)
    if made:
        begun = (
            f"{made} of {total} windows of {str(job.output)!r} are kept in {str(window_folder(job.output))!r}; "
            f"the same command with --seed {job.request.seed} -o {shlex.quote(str(job.output))} goes on with them"
        )
    else:
        begun = f"nothing of {str(job.output)!r} is kept"
    return f"{there}; {begun}" if there else begun


def _load_all(job: Job) -> VideoDiTPipeline:
    """The model with its LoRAs, accelerated as asked."""
    with show_progress() as progress:
        progress.stage("importing diffusers")
        with quick_imports():
            import videodit.pipelines.pipeline  # noqa: F401
        progress.stage(f"loading the weights of {printable(job.model.name)}")
        pipe = _load(job)
        if job.request.vae_tiling:
            pipe.enable_vae_tiling()
        for branch in job.request.control_models:  # before their model is accelerated: they are then, too
            pipe.add_control(branch.name, branch.source, branch.source_2)
        wanted = job.request.accel_config
        quantized = wanted is not None and wanted.quantize is not None
        if wanted is not None and quantized:  # LoRAs go beside quantized weights, which cannot be made under them
            pipe.accelerate(wanted)
        load_loras(pipe, job.request.loras, job.loras)
        if job.request.offloads:
            pipe.offload(job.request.offload, job.device)
        if wanted is not None and not quantized:
            pipe.accelerate(wanted)
    return pipe


def _load(job: Job) -> VideoDiTPipeline:
    import torch

    from videodit.pipelines import VideoDiTPipeline

    quiet_libraries()
    dtype: Any = getattr(torch, job.dtype_name)
    if (dtypes := job.request.dtypes) is not None:
        dtype = {"default": dtype} | {name: getattr(torch, one) for name, one in dtypes.items()}
    pipe = VideoDiTPipeline.from_folder(job.model, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe if job.request.offloads else pipe.to(job.device)


def _announce(job: Job, keep: bool) -> None:
    request, output = job.request, job.output
    note(f"seed {request.seed}")
    if job.plan.windows is not None and keep:
        note(
            f"finished windows are kept in {str(window_folder(output))!r} until the clip is whole; "
            f"after a stop the same command goes on with --seed {request.seed} -o {shlex.quote(str(output))}"
        )
    if job.there:
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

    callback = on_step_end if job.order.preview is None else preview_callback(pipe, job, on_step_end)
    progress.stage("encoding the text, first step")
    plan = replace(
        plan,
        request=replace(plan.request, keep_windows=folder),
        inputs=replace(plan.inputs, callback_on_step_end=callback),
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
    made, total = _windows_made(job), len(plan.spans)
    if made:
        note(f"{made} of {total} windows were made before")
    return steps * (total - made)


def _windows_made(job: Job) -> int:
    """Windows of a long clip that are finished and kept."""
    if job.plan.windows is None:
        return 0
    return len(list(window_folder(job.output).glob("[0-9][0-9][0-9][0-9][0-9].safetensors")))


def report(job: Job, name: str, seconds: float, recipe: dict[str, Any], timings: Timings) -> None:
    """Say that a clip was made."""
    path, plan = job.output, job.plan
    files = job.there
    size = sum(file.stat().st_size for file in files)
    results.current().made.append((path, job.request.seed))
    results.emit(
        "clip",
        output=path,
        files=files,
        width=plan.width,
        height=plan.height,
        num_frames=plan.num_frames,
        fps=plan.fps,
        bytes=size,
        seed=job.request.seed,
        seconds_taken=seconds,
        timings=timings,
        recipe=recipe,
    )
    print(
        f"{printable(name)}: {plan.width}x{plan.height}, "
        f"{count_of(plan.num_frames, 'frame')} at {float(plan.fps):g} fps, "
        f"{file_size(size)}, seed {job.request.seed}, made in {seconds:.1f} s",
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
        steps, middle = count_of(len(value), "step"), rest[len(rest) // 2]
        text = f"{sum(value):.3f} s: {steps}, the first {value[0]:.3f} s, then {middle:.3f} s"
        rows.append((name, text))
    print_rows(rows, indent=2)
