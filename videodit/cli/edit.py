"""`videodit edit`: a clip made into another, as a whole, inside a mask, or beyond its borders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from videodit.cli.common import parse_size, slug
from videodit.cli.flags import ClipFlags, number, with_clip_flags
from videodit.cli.input_clips import make_one, make_remotely, spec_of, started_request
from videodit.pipelines.clip_requests import ClipFile, edit_request

_NAMES = {"mask": "--mask", "outpaint": "--outpaint", "size": "--size"}


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
    size = None if outpaint is None else parse_size(outpaint, "--outpaint")
    request = started_request(clip, flags, prompt=prompt)
    if flags.server is not None:
        files = {"video": clip} | ({} if mask is None else {"mask": mask})
        name = f"{slug(clip.stem)}-edit"
        make_remotely(request, name, flags, "edit", files, strength=strength, outpaint=outpaint)
        return
    made = edit_request(
        request,
        ClipFile(clip),
        spec_of(flags.model),
        strength=strength,
        mask=None if mask is None else ClipFile(mask),
        outpaint=None if size is None else size[::-1],
        names=_NAMES,
    )
    make_one(made, f"{slug(clip.stem)}-edit", flags, (clip,) if mask is None else (clip, mask))
