"""`videodit extend` and `videodit connect`: what comes after a clip, before it, or between two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videodit.cli.common import note, slug
from videodit.cli.flags import ClipFlags, number, with_clip_flags
from videodit.cli.input_clips import (
    clip_size,
    left_out,
    make_one,
    rate_of,
    read_clip,
    request_fields,
    spec_of,
    whole_groups,
)
from videodit.errors import InputError
from videodit.pipelines.request import Request

if TYPE_CHECKING:
    from videodit.pipelines.spec import ModelSpec

_Prompt = Annotated[str | None, typer.Argument(help="What it shows. Left out: the clip's own prompt, if it has one.")]


@with_clip_flags
def extend(
    clip: Annotated[Path, typer.Argument(help="The clip to go on from.", show_default=False)],
    prompt: _Prompt = None,
    seconds: Annotated[float, typer.Option(parser=number, metavar="X", help="Seconds to add.")] = 2.0,
    backward: Annotated[bool, typer.Option("--backward", help="Make what comes before the clip.")] = False,
    *,
    flags: ClipFlags,
) -> None:
    """Make what comes after a clip, or before it. The MP4 holds both, as the model sees them."""
    from videodit.pipelines.conditions import Frames

    spec = spec_of(flags.model)
    fields = request_fields(clip, clip_size(clip), spec, flags, prompt=prompt)
    frames = read_clip(clip, spec, flags, size=(fields["height"], fields["width"]))
    count = whole_groups(len(frames), spec, leading=not backward)
    if count < len(frames):
        which = "first" if backward else "last"
        note(f"{left_out(len(frames) - count, clip.name, which)}: whole groups of frames are kept")
        frames = frames[-count:] if backward else frames[:count]
    added = _groups(seconds, spec, flags)
    fields |= {
        "conditions": (Frames(frames, -count if backward else 0),),
        "num_frames": count + added + (1 if backward and spec.geometry.causal else 0),
    }
    make_one(Request(**fields), f"{slug(clip.stem)}-{'before' if backward else 'after'}", flags, (clip,))


@with_clip_flags
def connect(
    first: Annotated[Path, typer.Argument(help="The clip that it begins with.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="The clip that it ends with.", show_default=False)],
    prompt: _Prompt = None,
    seconds: Annotated[float, typer.Option(parser=number, metavar="X", help="Length of the bridge in seconds.")] = 1.0,
    *,
    flags: ClipFlags,
) -> None:
    """Make a bridge from one clip to another. The MP4 holds all three, as the model sees them."""
    from videodit.pipelines.conditions import Frames

    spec = spec_of(flags.model)
    fields = request_fields(first, clip_size(first), spec, flags, prompt=prompt)
    shape = fields["height"], fields["width"]
    clips = [read_clip(path, spec, flags, size=shape) for path in (first, second)]
    for i, path in enumerate((first, second)):
        count = whole_groups(len(clips[i]), spec, leading=i == 0)
        if count < len(clips[i]):
            note(f"{left_out(len(clips[i]) - count, path.name)}: whole groups of frames are kept")
            clips[i] = clips[i][:count]
    fields |= {
        "conditions": (Frames(clips[0]), Frames(clips[1], -len(clips[1]))),
        "num_frames": len(clips[0]) + _groups(seconds, spec, flags) + len(clips[1]),
    }
    make_one(Request(**fields), f"{slug(first.stem)}-to-{slug(second.stem)}", flags, (first, second))


def _groups(seconds: float, spec: ModelSpec, flags: ClipFlags) -> int:
    """Whole groups of frames that last about so long.

    Raises:
        InputError: a length that is not above 0.
    """
    if not 0 < seconds <= 86_400:  # false for NaN, too
        raise InputError(f"--seconds is {seconds:g}; it must be above 0 and at most 86400")
    stride, fps = spec.geometry.vae_stride.t, rate_of(spec, flags)
    frames = max(1, round(seconds * fps / stride)) * stride
    if abs(frames / fps - seconds) > 1e-6:
        note(f"{seconds:g} s become {frames / fps:.4g} s, {frames} frames: frames are made in groups of {stride}")
    return frames
