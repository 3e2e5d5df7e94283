"""`videodit extend` and `videodit connect`: what comes after a clip, before it, or between two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from videodit.cli.common import slug
from videodit.cli.flags import ClipFlags, number, with_clip_flags
from videodit.cli.input_clips import make_one, make_remotely, spec_of, started_request
from videodit.pipelines.clip_requests import ClipFile, connect_request, extend_request

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
    request = started_request(clip, flags, prompt=prompt)
    name = f"{slug(clip.stem)}-{'before' if backward else 'after'}"
    if flags.server is not None:
        make_remotely(request, name, flags, "extension", {"video": clip}, seconds=seconds, backward=backward or None)
        return
    made = extend_request(
        request, ClipFile(clip), spec_of(flags.model), seconds=seconds, backward=backward, name="--seconds"
    )
    make_one(made, name, flags, (clip,))


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
    request, name = started_request(first, flags, prompt=prompt), f"{slug(first.stem)}-to-{slug(second.stem)}"
    if flags.server is not None:
        from videodit.cli.remote_bridge import bridge_request

        request = bridge_request(request, (first, second), seconds, flags.server)
        make_remotely(request, name, flags, "create", {}, inputs=(first, second))
        return
    clips = ClipFile(first), ClipFile(second)
    made = connect_request(request, clips, spec_of(flags.model), seconds=seconds, name="--seconds")
    make_one(made, name, flags, (first, second))
