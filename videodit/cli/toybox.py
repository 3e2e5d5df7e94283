"""`videodit toybox`: write clips of the procedural world as a data set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, cast

import typer

from videodit.cli.common import count_of, parse_size, printable
from videodit.cli.flags import integer, number
from videodit.cli.orders import MAX_SEED
from videodit.cli.progress import show_progress
from videodit.cli.results import emit
from videodit.cli.stopping import when_stopped
from videodit.errors import InputError


def toybox(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write into; made if it is not there.")],
    clips: Annotated[int, typer.Option(parser=integer, metavar="N", help="How many clips.")],
    size: Annotated[str, typer.Option(metavar="WxH", help="Size in pixels; both sides even.")] = "64x64",
    frames: Annotated[int, typer.Option(parser=integer, metavar="N", help="Length of each clip in frames.")] = 17,
    fps: Annotated[float, typer.Option(parser=number, metavar="X", help="Frames per second.")] = 16,
    split: Annotated[
        str,
        typer.Option(help="Which combinations of shape, colour and motion: train, validation, test or all."),
    ] = "train",
    seed: Annotated[int, typer.Option(parser=integer, metavar="N", help="Another seed gives other clips.")] = 0,
) -> None:
    """Write clips of the toybox world, their captions and their exact ground truth as a data set.

    Started again with the same flags, it goes on where it was stopped; with more clips, it adds them.
    """
    width, height = parse_size(size, bounded=False)  # the world says itself which sizes it has
    if clips < 1:
        raise InputError(f"--clips is {clips}; it must be at least 1")
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"--seed is {seed}; it must be 0 to {MAX_SEED}")
    started = time.monotonic()
    kept = f"the clips that are written are kept in {str(out)!r}, and the same command goes on"
    with when_stopped(kept), show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.datasets.toybox import ToyboxDataset
        from videodit.datasets.toybox.export import export
        from videodit.datasets.toybox.scene import Split

        def report(done: int) -> None:
            if progress.total is None:
                progress.stage("writing clips", clips, done=done)
            progress.step(done)

        data = ToyboxDataset(
            clips, height=height, width=width, num_frames=frames, fps=fps, split=cast(Split, split), seed=seed
        )
        written = export(data, out, report=report)
    there = f", {clips - written} were there" if written < clips else ""
    emit(
        "toybox",
        output=out,
        clips=clips,
        written=written,
        width=width,
        height=height,
        num_frames=frames,
        fps=fps,
        split=split,
        seed=seed,
    )
    print(
        f"{printable(str(out))}: {count_of(clips, 'clip')} of {width}x{height}, {count_of(frames, 'frame')} at "
        f"{fps:g} fps, split {split}, seed {seed}; {written} written in {time.monotonic() - started:.1f} s{there}"
    )
