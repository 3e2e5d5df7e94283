"""`videodit data split`: cut videos at their changes of scene."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, cast

import typer

from videodit.cli.common import count_of, note, one_line, printable
from videodit.cli.data_options import (
    READERS,
    Reader,
    SourceArgument,
    Split,
    Timeout,
    Workers,
    one_of,
    print_groups,
    reporter,
)
from videodit.cli.flags import number
from videodit.cli.progress import show_progress
from videodit.cli.stopping import when_stopped


def split(
    source: SourceArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The .jsonl manifest to write, in a folder above the clips."),
    ],
    threshold: Annotated[
        float,
        typer.Option(parser=number, metavar="X", help="How many times more than around it the picture must change."),
    ] = 3.0,
    min_seconds: Annotated[
        float, typer.Option(parser=number, metavar="X", help="Leave out pieces that are shorter.")
    ] = 1.0,
    max_seconds: Annotated[
        float | None, typer.Option(parser=number, metavar="X", help="Cut longer pieces into equal parts.")
    ] = None,
    part: Split = "train",
    reader: Reader = "pyav",
    timeout: Timeout = 30.0,
    workers: Workers = 1,
) -> None:
    """Write a manifest of the pieces between the cuts of each video. The videos stay as they are.

    Started again with the same flags after it was stopped, it goes on where it was.
    """
    one_of("reader", reader, READERS)
    kept = "the clips that were looked through are kept, and the same command goes on"
    with when_stopped(kept), show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.datasets.clips.reading.readers import ReaderName
        from videodit.datasets.clips.reading.sources import read_source
        from videodit.datasets.clips.scanning.split_at_cuts import split as split_source

        progress.stage("listing the clips")
        clips = read_source(source, split=part)

        show = reporter(progress)
        result = split_source(
            clips,
            output,
            threshold=threshold,
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            timeout=timeout,
            workers=workers,
            reader=cast(ReaderName, reader),
            report=lambda done, total: show("looking for cuts in clips", done, total),
        )
    for notice in clips.notices:
        note(notice)
    print(
        f"{printable(str(output))}: {count_of(result.pieces, 'piece')} of {count_of(len(clips), 'clip')}, "
        f"{result.seconds:.1f} s; {count_of(result.cuts, 'cut')}"
    )
    print_groups("cannot be read", result.broken)
    print_groups(
        "left out",
        [(name, f"{count_of(short, 'piece')} shorter than {min_seconds:g} s") for name, short in result.too_short],
    )
    print(f"next: videodit data scan {one_line(shlex.quote(str(output)))}")
