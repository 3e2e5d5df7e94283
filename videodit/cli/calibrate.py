"""`videodit calibrate`: find out once which steps of the sampler a checkpoint can do without."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videodit.cli.common import note, quiet_libraries
from videodit.cli.flags import Device, Dtype, integer, number
from videodit.cli.progress import show_progress
from videodit.cli.results import emit
from videodit.cli.stopping import when_stopped
from videodit.errors import InputError
from videodit.files import sole_maker

if TYPE_CHECKING:
    from videodit.acceleration import Calibration, Schedule
    from videodit.json_types import JsonObject

PROMPTS = (
    "a red ball bounces on the grass",
    "a large green cube slides to the left on the snow",
    "a small blue cone spins at night",
    "a purple ring falls on the sand at sunset while the camera zooms in",
)
"""Of the bundled model's world; other models want prompts of their own kind."""


def calibrate(
    model: Annotated[str, typer.Option("--model", "-m", help="A model's name or its folder.")] = "mini",
    psnr: Annotated[
        float, typer.Option(parser=number, metavar="DB", help="What 'balanced' keeps to clips of every step whole.")
    ] = 26.0,
    psnr_fast: Annotated[float, typer.Option(parser=number, metavar="DB", help="The same for 'fast'.")] = 20.0,
    prompts: Annotated[
        Path | None, typer.Option(help="A text file with one prompt a line, of the kind that the model is for.")
    ] = None,
    steps: Annotated[int | None, typer.Option(parser=integer, metavar="N", help="Sampling steps.")] = None,
    cfg: Annotated[float | None, typer.Option(parser=number, metavar="X", help="Guidance scale.")] = None,
    frames: Annotated[int | None, typer.Option(parser=integer, metavar="N", help="Length of the clips.")] = None,
    seed: Annotated[int, typer.Option(parser=integer, metavar="N", help="Of the first prompt's noise.")] = 0,
    batch: Annotated[int, typer.Option(parser=integer, metavar="N", help="Clips at a time.")] = 4,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write; left out: acceleration.json in the model's folder, and for a bundled model or one "
            "of the Hub in your own data folder.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what was found before for these steps and this sampler.")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Find out which steps of the sampler a checkpoint can do without, and keep that for `--accelerate`.

    Clips of a few prompts are made again and again, each time with one more step left out: the one that changes them
    least. `balanced` and `fast` are the cheapest ways that keep the PSNRs that were asked for. A file holds them for
    each number of steps and each sampler; the others in it stay.
    """
    from videodit.acceleration import Calibration
    from videodit.acceleration.calibrate import choose, descend, evaluator
    from videodit.acceleration.places import file_to_write
    from videodit.acceleration.schedule import write_calibrations
    from videodit.hardware import parse_device, parse_dtype
    from videodit.pipelines.folders import model_hash
    from videodit.pipelines.request import Request
    from videodit.pipelines.settings import plan_settings
    from videodit.pipelines.spec import ModelFolder

    for name, value in (("psnr", psnr), ("psnr-fast", psnr_fast)):
        if not 10 <= value <= 60:
            raise InputError(f"--{name} is {value:g}; it must be 10 to 60 dB")
    if batch < 1:
        raise InputError(f"--batch is {batch}; it must be at least 1")
    source = ModelFolder.find(model)
    asked = Request(num_inference_steps=steps, guidance_scale=cfg, num_frames=frames)
    planned = plan_settings(asked, source.spec)
    place = parse_device(device)
    weights, count = model_hash(source.path), planned.num_inference_steps
    key = (weights, source.index["scheduler"][1], count)
    target = output or file_to_write(source.path, weights)
    others = _others(target, key, overwrite=overwrite)
    told = _read_prompts(prompts) if prompts is not None else list(PROMPTS)
    if prompts is None and model != "mini":
        note("calibrating with prompts about toys; use --prompts FILE for prompts of the kind that this model is for")
    started = time.monotonic()
    kept = f"; {str(target)!r} is as it was" if target.exists() else ""
    stopped = when_stopped(f"nothing is kept, calibration begins anew next time{kept}")
    with sole_maker(target), stopped, show_progress() as progress:
        progress.stage("loading the model")
        quiet_libraries()
        from videodit import VideoDiTPipeline

        pipe = VideoDiTPipeline.from_pretrained(model, dtype=parse_dtype(dtype, place)).to(place)
        pipe.set_progress_bar_config(disable=True)
        pipe.accelerate("lossless")
        progress.stage("clips of every step whole")
        size = {} if frames is None else {"num_frames": planned.num_frames}
        evaluate = evaluator(
            pipe, told, steps=count, guidance=planned.guidance_scale, seed=seed, batch=batch, size=size
        )
        progress.stage("leaving steps out, try", 5 * count)
        tries = 0

        def show(schedule: Schedule) -> None:
            nonlocal tries
            tries += 1
            progress.step(min(tries, 5 * count - 1))

        found = descend(count, evaluate, psnr=min(psnr, psnr_fast), report=show)
        schedules = {"balanced": choose(found, target=psnr), "fast": choose(found, target=psnr_fast)}
        scheduler, guidance = type(pipe.scheduler).__name__, planned.guidance_scale
        calibration = Calibration(weights, scheduler, count, guidance, schedules)
        write_calibrations(target, [*others, calibration])
    values = {name: _values(one) for name, one in schedules.items()}
    emit("calibration", output=target, prompts=len(told), seed=seed, num_inference_steps=count, schedules=values)
    print(f"{target}: {len(told)} prompts, seed {seed}, {tries} tries, {time.monotonic() - started:.0f} s")
    for name, one in schedules.items():
        print(f"{name:<9} {one.actions}  {one.evaluations} of {2 * count} predictions, {one.psnr:.1f} dB")


def _values(schedule: Schedule) -> JsonObject:
    """What a schedule is, under the keys of ``--json``."""
    return {key: getattr(schedule, key) for key in ("actions", "evaluations", "psnr")}


def _others(target: Path, key: tuple[str, str, int], *, overwrite: bool) -> list[Calibration]:
    """What else than a calibration of this key a file holds, and goes on to hold.

    Raises:
        InputError: a file that cannot be written, is no calibration, or is damaged or has one of this key already.
    """
    from videodit.acceleration.schedule import is_calibration, read_calibrations

    if not target.parent.is_dir():
        raise InputError(f"cannot write {str(target)!r}: there is no folder {str(target.parent)!r}")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"cannot write {str(target)!r}: the folder is read-only; pass another name with --output")
    if not target.exists():
        return []
    if not is_calibration(target):
        raise InputError(f"{str(target)!r} exists and is not a calibration; pass another name with --output")
    try:
        there = read_calibrations(target)
    except InputError:
        if not overwrite:
            raise
        note(f"{str(target)!r} cannot be read and is written anew")
        return []
    if not overwrite and any(one.key == key for one in there):
        raise InputError(
            f"{str(target)!r} has schedules for {key[2]} steps of {key[1]} already; --overwrite replaces them"
        )
    return [one for one in there if one.key != key]


def _read_prompts(file: Path) -> list[str]:
    """The lines of a file that are not blank.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read prompts file {str(file)!r}: {error}") from error
    if not (found := [line for line in lines if line]):
        raise InputError(f"prompts file {str(file)!r} is empty; it must hold a prompt a line")
    return found
