"""The flags that more than one command has, and how numbers are read from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def integer(text: str) -> int:
    """A flag's whole number. (typer's own message for a wrong one does not repeat it.)"""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """A flag's number."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def _hold_limits(context: typer.Context, written: list[str] | None) -> list[str] | None:
    """Has the limits that were raised hold until the command's end."""
    if written:
        from videodit.limits import current_limits, use_limits

        context.with_resource(use_limits(current_limits().replace(written)))
    return written


Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=NUMBER",
        callback=_hold_limits,
        is_eager=True,
        help="Raise or lower what one input may ask for, such as clip_seconds=1800. May be repeated.",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Left out: the fastest kind that is here.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. Left out: what the device is good at.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and load no weights.")]
Model = Annotated[str, typer.Option("--model", "-m", help="A model's name, its folder or its id on the Hub.")]
Seconds = Annotated[float | None, typer.Option(parser=number, metavar="X", help="Length of the clip in seconds.")]
Steps = Annotated[
    int | None, typer.Option(parser=integer, metavar="N", help="Sampling steps: more look better and take longer.")
]
Cfg = Annotated[
    float | None,
    typer.Option(parser=number, metavar="X", help="Guidance scale: higher keeps closer to the prompt."),
]
Seed = Annotated[
    int | None,
    typer.Option(parser=integer, metavar="N", help="The same seed makes the same clip; drawn and printed if left out."),
]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Size in pixels, such as 160x96.")]
Negative = Annotated[str | None, typer.Option(help="What the clip should not show.")]
Fitting = Annotated[
    str, typer.Option("--fit", help="What becomes of another aspect ratio: crop, pad, stretch or error.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The MP4 to write. Left out: named after what goes in, in the current folder."),
]
