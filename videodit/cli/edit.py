"""`videodit edit`: a clip made into another, as a whole, inside a mask, or beyond its borders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from videodit.cli.common import parse_size, slug
from videodit.cli.flags import ClipFlags, integer, number, with_clip_flags
from videodit.cli.input_clips import make_one, make_remotely, spec_of, started_request
from videodit.pipelines.clip_requests import ByPrompts, ClipFile, edit_request

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
            help="How much may change, from 0 to 1. Left out: 0.6; 0.8 with --source-prompt, and else 1 with --mask or "
            "--outpaint.",
        ),
    ] = None,
    source_prompt: Annotated[
        str | None,
        typer.Option(help="What the clip shows: only what the other prompt says differently changes (FlowEdit)."),
    ] = None,
    source_cfg: Annotated[
        float | None,
        typer.Option(parser=number, metavar="X", help="With --source-prompt: its guidance scale. Left out: 1."),
    ] = None,
    n_avg: Annotated[
        int | None,
        typer.Option(
            parser=integer, metavar="N", help="With --source-prompt: noises a step, whose mean is taken. Left out: 1."
        ),
    ] = None,
    auto_mask: Annotated[
        bool,
        typer.Option("--auto-mask", help="With --source-prompt: find out where the prompts differ; only that changes."),
    ] = False,
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
    """Make a clip into another: all of it by strength, what two prompts differ in, the white of a mask, or what is
    around it."""
    prompts = ByPrompts(
        source_prompt=source_prompt,
        source_guidance_scale=source_cfg,
        n_avg=n_avg,
        auto_mask=auto_mask or None,
    )
    size = None if outpaint is None else parse_size(outpaint, "--outpaint")
    request = started_request(clip, flags, prompt=prompt)
    if flags.server is not None:
        files = {"video": clip} | ({} if mask is None else {"mask": mask})
        name = f"{slug(clip.stem)}-edit"
        make_remotely(request, name, flags, "edit", files, strength=strength, outpaint=outpaint, **prompts.said)
        return
    made = edit_request(
        request,
        ClipFile(clip),
        spec_of(flags.model),
        strength=strength,
        mask=None if mask is None else ClipFile(mask),
        outpaint=None if size is None else size[::-1],
        prompts=prompts,
        names=_NAMES,
    )
    make_one(made, f"{slug(clip.stem)}-edit", flags, (clip,) if mask is None else (clip, mask))
