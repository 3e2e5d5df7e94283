"""`videodit data verify`: is a cache whole, and does it fit the clips that it was made of?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from videodit.cli.common import count_of, note, one_line, printable, quiet_libraries
from videodit.cli.data_options import READERS, Reader, Split, one_of, reporter
from videodit.cli.flags import Device, integer
from videodit.cli.progress import Progress, show_progress
from videodit.cli.results import emit
from videodit.cli.stopping import when_stopped
from videodit.errors import InputError

if TYPE_CHECKING:
    from videodit.datasets.clips.latents.latent_cache import LatentCache
    from videodit.datasets.clips.reading.readers import ReaderName
    from videodit.datasets.clips.reading.records import Source

_WRONG = 2


def verify(
    cache: Annotated[Path, typer.Argument(help="The folder that `videodit data encode` wrote.", show_default=False)],
    source: Annotated[
        str | None, typer.Argument(help="What it was made of: also compares the clips with the cache.")
    ] = None,
    encode: Annotated[
        int, typer.Option(parser=integer, metavar="N", help="Encode N samples again and compare; needs the source.")
    ] = 0,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="What encodes them. Left out: the model that the cache names.")
    ] = None,
    split: Split = "train",
    reader: Reader = "pyav",
    device: Device = None,
) -> None:
    """Check a cache of latents, controls and references: every tensor against its hash, its shape and the lists.

    Exit code 2 and a list if something is wrong.
    """
    one_of("reader", reader, READERS)
    if encode < 0:
        raise InputError(f"--encode is {encode}; it must be 0 or more")
    if encode and source is None:
        raise InputError("--encode needs the source: videodit data verify CACHE SOURCE --encode N")
    with when_stopped("nothing was changed; the check begins anew next time"), show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.datasets.clips.latents.latent_cache import LatentCache
        from videodit.datasets.clips.latents.verify_cache import check_beside, check_entries, check_source

        opened, summary = LatentCache(cache), ""
        notices: list[str] = []
        problems = check_entries(opened, report=reporter(progress)) + check_beside(opened, report=reporter(progress))
        if source is not None:
            from videodit.datasets.clips.reading.sources import read_source

            progress.stage("looking for clips")
            clips = read_source(source, split=split)
            found, notices = check_source(opened, clips, report=reporter(progress))
            problems += found
            if encode:
                found, summary = _encode_again(opened, clips, encode, model, reader, device, progress)
                problems += found
    for message in notices:
        note(message)
    if summary:
        print(summary)
    emit(
        "cache",
        path=cache,
        samples=len(opened),
        files=len(opened.shards),
        whole=not problems,
        faults=problems,
        notices=notices,
        encoded_again=summary or None,
    )
    where = printable(str(cache))
    if problems:
        print(f"{where}: {count_of(len(problems), 'fault')}")
        for problem in problems:
            print(f"  {one_line(problem)}")
        raise typer.Exit(_WRONG)
    against = "" if source is None else ", and what it was made of is as it was"
    print(f"{where}: {count_of(len(opened), 'sample')} in {count_of(len(opened.shards), 'file')} are whole{against}")


def _encode_again(
    cache: LatentCache,
    source: Source,
    count: int,
    model: str | None,
    reader: str,
    device: str | None,
    progress: Progress,
) -> tuple[list[str], str]:
    """What is wrong, and a line that says how far off the samples are."""
    from videodit.datasets.clips.latents.verify_cache import check_encoding
    from videodit.hardware import parse_device, parse_dtype
    from videodit.pipelines.clip_encoder import ClipEncoder

    progress.stage("loading the model")
    quiet_libraries()
    where = parse_device(device)
    dtype = parse_dtype(cache.info.dtype, where)
    try:
        encoder = ClipEncoder(model or cache.info.model, device=where, dtype=dtype)
    except ValueError as error:
        raise InputError(f"{error}; say with -m where the model is" if model is None else str(error)) from None
    result = check_encoding(cache, source, encoder, count, reader=cast("ReaderName", reader), report=reporter(progress))
    return result.problems, (
        f"{count_of(result.count, 'sample')} encoded again: off by at most {result.largest:.2g} of the largest latent; "
        f"{result.tolerance:g} is tolerated"
    )
