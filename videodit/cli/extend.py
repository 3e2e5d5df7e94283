"""`videodit extend` and `videodit connect`: what comes after a clip, before it, or between two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from videodit.cli.common import note, slug
from videodit.cli.flags import (
    Cfg,
    Device,
    DryRun,
    Dtype,
    Fitting,
    Limit,
    Model,
    Negative,
    Output,
    Seed,
    Size,
    Steps,
    number,
)
from videodit.cli.given import clip_size, read_clip, settings_for, spec_of, whole_groups
from videodit.cli.request import Request, make_one
from videodit.errors import InputError

_Prompt = Annotated[str | None, typer.Argument(help="What it shows. Left out: the clip's own prompt, if it has one.")]


def extend(
    clip: Annotated[Path, typer.Argument(help="The clip to go on from.", show_default=False)],
    prompt: _Prompt = None,
    seconds: Annotated[float, typer.Option(parser=number, metavar="X", help="Seconds to add.")] = 2.0,
    backward: Annotated[bool, typer.Option("--backward", help="Make what comes before the clip.")] = False,
    model: Model = "mini",
    output: Output = None,
    size: Size = None,
    fit: Fitting = "crop",
    steps: Steps = None,
    cfg: Cfg = None,
    seed: Seed = None,
    negative: Negative = None,
    device: Device = None,
    dtype: Dtype = None,
    limit: Limit = None,
    dry_run: DryRun = False,
) -> None:
    """Make what comes after a clip, or before it. The MP4 holds both, as the model sees them."""
    from videodit.pipelines.conditions import Frames

    spec = spec_of(model)
    settings = settings_for(clip, clip_size(clip), spec, prompt=prompt, size=size, seed=seed, output=output)
    frames = read_clip(clip, spec, size=(settings["height"], settings["width"]), fit=fit)
    count = whole_groups(len(frames), spec, leading=not backward)
    if count < len(frames):
        which = "first" if backward else "last"
        note(f"the {which} {len(frames) - count} of {len(frames)} frames are left out, to leave whole groups of frames")
        frames = frames[-count:] if backward else frames[:count]
    added = _groups("seconds", seconds, spec)
    request = Request(
        output=output or Path(f"{slug(clip.stem)}-{'before' if backward else 'after'}-{settings['seed']}.mp4"),
        conditions=(Frames(frames, -count if backward else 0),),
        num_frames=count + added + (1 if backward and spec.geometry.causal else 0),
        model=model,
        fit=fit,  # type: ignore[arg-type]  # checked where it is used
        num_inference_steps=steps,
        guidance_scale=cfg,
        negative_prompt=negative,
        device=device,
        dtype=dtype,
        **settings,
    )
    make_one(request, dry_run=dry_run)


def connect(
    first: Annotated[Path, typer.Argument(help="The clip that it begins with.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="The clip that it ends with.", show_default=False)],
    prompt: _Prompt = None,
    seconds: Annotated[float, typer.Option(parser=number, metavar="X", help="Length of the bridge in seconds.")] = 1.0,
    model: Model = "mini",
    output: Output = None,
    size: Size = None,
    fit: Fitting = "crop",
    steps: Steps = None,
    cfg: Cfg = None,
    seed: Seed = None,
    negative: Negative = None,
    device: Device = None,
    dtype: Dtype = None,
    limit: Limit = None,
    dry_run: DryRun = False,
) -> None:
    """Make a bridge from one clip to another. The MP4 holds all three, as the model sees them."""
    from videodit.pipelines.conditions import Frames

    spec = spec_of(model)
    settings = settings_for(first, clip_size(first), spec, prompt=prompt, size=size, seed=seed, output=output)
    shape = settings["height"], settings["width"]
    clips = [read_clip(path, spec, size=shape, fit=fit) for path in (first, second)]
    for i, path in enumerate((first, second)):
        count = whole_groups(len(clips[i]), spec, leading=i == 0)
        if count < len(clips[i]):
            note(
                f"the last {len(clips[i]) - count} frames of {path.name} are left out, to leave whole groups of frames"
            )
            clips[i] = clips[i][:count]
    request = Request(
        output=output or Path(f"{slug(first.stem)}-to-{slug(second.stem)}-{settings['seed']}.mp4"),
        conditions=(Frames(clips[0]), Frames(clips[1], -len(clips[1]))),
        num_frames=len(clips[0]) + _groups("seconds", seconds, spec) + len(clips[1]),
        model=model,
        fit=fit,  # type: ignore[arg-type]  # checked where it is used
        num_inference_steps=steps,
        guidance_scale=cfg,
        negative_prompt=negative,
        device=device,
        dtype=dtype,
        **settings,
    )
    make_one(request, dry_run=dry_run)


def _groups(name: str, seconds: float, spec: Any) -> int:
    """Whole groups of frames that last about so long.

    Raises:
        InputError: a length that is not above 0.
    """
    if not 0 < seconds <= 86_400:  # false for NaN, too
        raise InputError(f"{name} is {seconds}; it must be above 0 and at most 86400")
    stride, fps = spec.geometry.vae_stride.t, float(spec.defaults.fps)
    frames = max(1, round(seconds * fps / stride)) * stride
    if abs(frames / fps - seconds) > 1e-6:
        note(f"{seconds:g} s become {frames / fps:.4g} s, {frames} frames")
    return frames
