"""`videodit edit`: a clip made into another, as a whole, inside a mask, or beyond its borders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videodit.cli.common import note, parse_size, slug
from videodit.cli.flags import ClipFlags, number, with_clip_flags
from videodit.cli.input_clips import clip_size, left_out, make_one, read_clip, request_fields, spec_of
from videodit.errors import InputError
from videodit.pipelines.request import Request

if TYPE_CHECKING:
    from videodit.pipelines.spec import ModelSpec


@with_clip_flags
def edit(
    clip: Annotated[Path, typer.Argument(help="The clip.", show_default=False)],
    prompt: Annotated[str, typer.Argument(help="What it should show instead.", show_default=False)],
    strength: Annotated[
        float | None,
        typer.Option(
            parser=number,
            metavar="X",
            help="How much may change, from 0 to 1. Left out: 0.6, and 1 with --mask or --outpaint.",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="A picture or a clip: what is white is made anew, what is black is kept."),
    ] = None,
    outpaint: Annotated[
        str | None, typer.Option(metavar="WxH", help="Put the clip in the middle of this size and make what is around.")
    ] = None,
    *,
    flags: ClipFlags,
) -> None:
    """Make a clip into another: all of it by strength, the white of a mask, or what is around it."""
    from videodit.pipelines.conditions import Edit, Region

    if mask is not None and outpaint is not None:
        raise InputError("give --mask or --outpaint, not both")
    if flags.size is not None and outpaint is not None:
        raise InputError("--outpaint is the size of the clip that is made; leave --size out")
    spec, inputs = spec_of(flags.model), (clip,) if mask is None else (clip, mask)
    own = clip_size(clip)
    fields = request_fields(clip, own, spec, flags, prompt=prompt)
    if outpaint is not None:
        _check_outpaint(outpaint, own)
    shape = None if outpaint is not None else (fields["height"], fields["width"])
    frames = read_clip(clip, spec, flags, size=shape)
    count = len(frames)
    legal = spec.geometry.snap_frames(count)
    if legal > count:
        legal = spec.geometry.snap_frames(max(1, count - spec.geometry.vae_stride.t))
    if legal != count:
        note(f"{left_out(count - legal, clip.name)}: the model makes {spec.geometry.frame_rule} frames")
        frames = frames[:legal]
    conditions: list[Any] = []
    if outpaint is not None:
        frames, white = _widened(frames, outpaint)
        fields["height"], fields["width"] = frames.shape[1:3]
        conditions.append(Region(white, frames))
    elif mask is not None:
        conditions.append(Region(_mask_for(mask, spec, flags, shape, count, len(frames)), frames))
    if strength is not None or not conditions:
        conditions.append(Edit(frames, 0.6 if strength is None else strength))
    fields |= {"conditions": tuple(conditions), "num_frames": len(frames)}
    make_one(Request(**fields), f"{slug(clip.stem)}-edit", flags, inputs)


def _mask_for(
    mask: Path, spec: ModelSpec, flags: ClipFlags, size: tuple[int, int] | None, count: int, kept: int
) -> Any:
    """A mask; one that is a clip as long as the edited one loses the frames at its end that that one lost."""
    from videodit.reading.files import Media
    from videodit.reading.pictures import SUFFIXES, is_picture

    if mask.suffix.lower() in SUFFIXES or (mask.is_file() and mask.stat().st_size and is_picture(Media(mask))):
        return mask
    white = read_clip(mask, spec, flags, size=size, name="the mask").mean(axis=-1, dtype="float32") / 255
    return white[:kept] if len(white) == count else white


def _check_outpaint(size: str, own: tuple[int, int]) -> None:
    """Raises InputError for a size that is not larger than the clip's own height and width."""
    width, height = parse_size(size, "--outpaint")
    if width < own[1] or height < own[0] or (height, width) == own:
        raise InputError(f"--outpaint is {size}; the clip is {own[1]}x{own[0]} already")


def _widened(frames: Any, size: str) -> tuple[Any, Any]:
    """A clip in the middle of a larger size, its borders drawn out, and a mask that is white around it."""
    import numpy as np

    width, height = parse_size(size, "--outpaint")
    own_height, own_width = frames.shape[1:3]
    top, left = (height - own_height) // 2, (width - own_width) // 2
    borders = ((top, height - own_height - top), (left, width - own_width - left))
    white = np.pad(np.zeros((own_height, own_width), bool), borders, constant_values=True)
    return np.pad(frames, ((0, 0), *borders, (0, 0)), mode="edge"), white
