"""`videodit data scan`: look at every clip before anything is trained on it."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from videodit.cli.common import note, one_line
from videodit.cli.data_options import (
    DEFAULT_DROP,
    READERS,
    Drop,
    Fps,
    Frames,
    MaxBuckets,
    MaxTokens,
    Model,
    OnRay,
    Reader,
    SourceArgument,
    Split,
    Timeout,
    Windows,
    Workers,
    check_usable,
    default_cache,
    one_of,
    parse_drop,
    parse_frames,
    print_groups,
    print_plan,
    reporter,
    sample_spec_for,
)
from videodit.cli.progress import show_progress
from videodit.cli.ray_batches import read_on_ray
from videodit.cli.stopping import when_stopped
from videodit.errors import InputError
from videodit.on_ray import start_ray

if TYPE_CHECKING:
    from videodit.datasets.clips.latents.buckets import SamplePlan
    from videodit.datasets.clips.scanning.scan_clips import ScannedClip

_SEE_REPORT = ", see --report"
_LINE = 10**8  # bytes of a report's line: a clip with its caption and its windows


def scan(
    source: SourceArgument,
    model: Model = "mini",
    fps: Fps = None,
    frames: Frames = None,
    max_tokens: MaxTokens = None,
    max_buckets: MaxBuckets = 8,
    windows: Windows = "all",
    drop: Drop = DEFAULT_DROP,
    split: Split = "train",
    reader: Reader = "pyav",
    timeout: Timeout = 30.0,
    workers: Workers = 1,
    ray: OnRay = False,
    report: Annotated[
        Path | None,
        typer.Option(help="A .jsonl file to write what was found to, one clip a line, in place of an older report."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Where what was found is kept for the next scan. Left out: in the user's cache folder."),
    ] = None,
) -> None:
    """Say which clips can be trained on, in which buckets, and which cannot and why.

    Each file is read in a process of its own with a time limit. A second scan reads only what is new, and an
    interrupted one goes on.
    """
    one_of("reader", reader, READERS)
    drop_flags = parse_drop(drop)
    if report is not None:
        _check_report(report)
    if ray:
        start_ray()
    kept_in = cache or default_cache(source)
    kept = "nothing is kept" if kept_in is None else "what was read is kept, and the same command goes on"
    with when_stopped(kept), show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.datasets.clips.latents.buckets import plan_samples
        from videodit.datasets.clips.reading.readers import ReaderName
        from videodit.datasets.clips.reading.sources import read_source
        from videodit.datasets.clips.scanning.scan_clips import scan as scan_source

        spec, notices = sample_spec_for(
            model,
            fps=fps,
            frames=parse_frames(frames),
            max_tokens=max_tokens,
            max_buckets=max_buckets,
            windows=windows,
        )
        progress.stage("listing the clips")
        clips = read_source(source, split=split)

        show = reporter(progress)
        scanned = scan_source(
            clips,
            cache=kept_in,
            timeout=timeout,
            workers=workers,
            reader=cast(ReaderName, reader),
            report=lambda done, total: show("reading clips", done, total),
            run=read_on_ray if ray else None,
        )
        plan = plan_samples(scanned, spec, drop_flags=drop_flags)
    for notice in (*clips.notices, *notices, *plan.notices):
        note(notice)
    print_plan(scanned, plan, _SEE_REPORT)
    _print_flags(scanned, drop_flags)
    if report is not None:
        _write_report(report, scanned, plan)
    check_usable(source, scanned, plan, drop_flags)
    _print_next(source, model)


def _print_flags(scanned: Sequence[ScannedClip], drop_flags: frozenset[str]) -> None:
    """What is told and not left out."""
    told: list[tuple[str, str]] = []
    for item in scanned:
        if item.reason is not None:
            continue
        told += [(_with_bars(item, flag), flag) for flag in item.flags if flag not in drop_flags]
        told += [(item.clip.name, notice) for notice in item.notices]
        if item.duplicate_of is not None and "duplicate" not in drop_flags:
            told.append((f"{item.clip.name} ({item.duplicate_of})", "nearly the same as another"))
    print_groups("used, but look at them", told, _SEE_REPORT)


def _with_bars(item: ScannedClip, flag: str) -> str:
    if flag != "letterboxed" or item.bars is None:
        return item.clip.name
    sides = zip(item.bars, ("top", "bottom", "left", "right"), strict=True)
    return f"{item.clip.name} ({', '.join(f'{pixels} px {side}' for pixels, side in sides if pixels)})"


def _check_report(path: Path) -> None:
    """Make sure before long work that a report can be written, and that it takes the place of nothing else.

    Raises:
        InputError: another suffix, a folder that is not there or read-only, or a file that is no report.
    """
    if path.suffix.lower() != ".jsonl" or path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"--report is {str(path)!r}; it must be a .jsonl file in a folder that is there")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise InputError(f"--report is {str(path)!r}, where nothing can be written")
    if not path.exists():
        return
    with path.open("rb") as file:
        beginning = file.readline(_LINE)
    try:
        older = not beginning or {"name", "left_out", "windows"} <= json.loads(beginning).keys()
    except (ValueError, AttributeError, RecursionError):
        older = False
    if not older:
        raise InputError(f"--report is {str(path)!r}, which holds something else; remove it or choose another name")


def _write_report(path: Path, scanned: Sequence[ScannedClip], plan: SamplePlan) -> None:
    """One line a clip, in the source's order."""
    from videodit.datasets.clips.jsonl import write_jsonl

    dropped = dict(plan.dropped)
    windows: dict[str, list[dict[str, Any]]] = {}
    for sample in plan.samples:
        entry = {"start": sample.start, **sample.bucket._asdict()}
        windows.setdefault(sample.scanned.clip.name, []).append(entry)
    rows = (
        {
            "name": item.clip.name,
            "file": str(item.clip.media),
            "start": item.clip.start,
            "end": item.clip.end,
            "caption": item.clip.caption,
            "reason": item.reason,
            "left_out": dropped.get(item.clip.name) if item.reason is None else None,
            "flags": item.flags,
            "bars": item.bars,
            "duplicate_of": item.duplicate_of,
            "notices": item.notices,
            "content": item.content or None,
            "phash": item.phash,
            "info": None if item.info is None else asdict(item.info),
            "windows": windows.get(item.clip.name, []),
        }
        for item in scanned
    )
    write_jsonl(path, rows)


def _print_next(source: str, model: str) -> None:
    """What to do now."""
    command = f"videodit data encode {shlex.quote(source)} -m {shlex.quote(model)} -o cache/"
    print(f"next: {one_line(command)}, with the same flags as here")
