"""`videodit data encode`: clips and captions into a cache of latents that training reads."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from videodit.cli.common import count_of, note, printable, quiet_libraries
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
    print_plan,
    reporter,
    sample_spec_for,
)
from videodit.cli.flags import Device, DryRun, Dtype
from videodit.cli.progress import show_progress
from videodit.cli.ray_batches import EncodeOnRay, read_on_ray
from videodit.cli.results import emit
from videodit.cli.stopping import when_stopped
from videodit.control.reference_layouts import CHOSEN
from videodit.errors import InputError
from videodit.on_ray import start_ray

if TYPE_CHECKING:
    from videodit.datasets.clips.latents.buckets import SamplePlan
    from videodit.datasets.clips.latents.encode_clips import EncodeResult


# Long, since reading, planning and encoding follow each other, each with its own line of progress.
def encode(
    source: SourceArgument,
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The cache's folder; made if it is not there.")],
    fps: Fps = None,
    frames: Frames = None,
    max_tokens: MaxTokens = None,
    max_buckets: MaxBuckets = 8,
    windows: Windows = "all",
    drop: Drop = DEFAULT_DROP,
    split: Split = "train",
    reader: Reader = "pyav",
    device: Device = None,
    dtype: Dtype = None,
    timeout: Timeout = 30.0,
    workers: Workers = 1,
    ray: OnRay = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what is in the folder: latents, controls and references.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove files of latents that no clip of the source needs any more.")
    ] = False,
    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            metavar="KIND[=FOLDER]",
            help="Controls of the clips, too, to train a control branch: derived from them, or clips of their names in "
            "a folder; may be given several times.",
        ),
    ] = None,
    control_pixels: Annotated[
        bool, typer.Option("--control-pixels", help="Keep controls as pixels, for a branch with an encoder of its own.")
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FOLDER",
            help="A picture for each clip, of the clip's name, to train with references; for guides, a clip.",
        ),
    ] = None,
    reference_layout: Annotated[
        str | None,
        typer.Option(
            "--reference-layout",
            metavar="NAME",
            help="How they will be taken: behind (if left out), edit, apart or guide.",
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Encode clips and captions for training, into a folder that training reads.

    What is there already is not encoded again: started again, it goes on where it was stopped, and a clip that was
    added costs one clip. Clips without a caption get the empty prompt where --drop does not name them.
    """
    started = time.monotonic()
    one_of("reader", reader, READERS)
    flags, counts, controls = parse_drop(drop), parse_frames(frames), _parse_controls(control or [], control_pixels)
    layout = _parse_layout(reference, reference_layout)
    _check_writable(out)
    if ray:
        start_ray()
    with when_stopped("what was read is kept, and the same command goes on"), show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.datasets.clips.latents.buckets import plan_samples
        from videodit.datasets.clips.latents.latent_cache import check_folder
        from videodit.datasets.clips.reading.readers import ReaderName
        from videodit.datasets.clips.reading.sources import read_source
        from videodit.datasets.clips.scanning.scan_clips import scan
        from videodit.hardware import parse_device, parse_dtype

        check_folder(out)
        decoder = cast(ReaderName, reader)
        where = parse_device(device)
        kind = parse_dtype(dtype, where)
        spec, notices = sample_spec_for(
            model, fps=fps, frames=counts, max_tokens=max_tokens, max_buckets=max_buckets, windows=windows
        )
        progress.stage("listing the clips")
        clips = read_source(source, split=split)
        show = reporter(progress)
        scanned = scan(
            clips,
            cache=default_cache(source),
            timeout=timeout,
            workers=workers,
            reader=decoder,
            report=lambda done, total: show("reading clips", done, total),
            run=read_on_ray if ray else None,
        )
        plan = plan_samples(scanned, spec, drop_flags=flags)
    _check_own_files(plan, out, controls, control_pixels, reference, layout, restart)
    for message in (*clips.notices, *notices, *plan.notices):
        note(message)
    print_plan(scanned, plan, "; videodit data scan --report FILE lists them all")
    check_usable(source, scanned, plan, flags)
    if dry_run:
        return
    kept = f"what is encoded is kept in {str(out)!r}, and the same command goes on"
    with when_stopped(kept), show_progress() as progress:
        progress.stage("loading the model")
        quiet_libraries()
        from videodit.datasets.clips.latents.encode_clips import encode as encode_plan
        from videodit.pipelines.clip_encoder import ClipEncoder

        encoder = ClipEncoder(model, device=where, dtype=kind)
        result = encode_plan(
            plan,
            encoder,
            out,
            reader=decoder,
            workers=workers,
            restart=restart,
            prune=prune,
            spread=EncodeOnRay(model, where, kind, decoder) if ray else None,
            report=reporter(progress),
        )
        failed = {name for name, _ in result.failed}
        plan = replace(plan, samples=tuple(one for one in plan.samples if one.scanned.clip.name not in failed))
        if controls:
            from videodit.datasets.clips.latents.cached_controls import encode_controls

            made = encode_controls(
                plan, encoder, out, controls, pixels=control_pixels, reader=decoder, report=reporter(progress)
            )
        if reference is not None:
            from videodit.datasets.clips.latents.cached_references import encode_references

            seen = encode_references(plan, encoder, out, reference, layout, reader=decoder, report=reporter(progress))
        removed = _prune_beside(out) if prune else 0
    if reference is not None:
        note(f"references of the layout {layout}: {seen} encoded now")
    if controls:
        note(f"controls of kinds {', '.join(controls)}: {made} encoded now")
    _print_result(replace(result, removed=result.removed + removed), out, time.monotonic() - started, prune, model)


def _parse_layout(reference: Path | None, layout: str | None) -> str:
    """How references will be taken.

    Raises:
        InputError: a folder that is not there, a layout that is unknown, or one without references.
    """
    if reference is None and layout is not None:
        raise InputError("--reference-layout needs --reference")
    if reference is not None and not reference.is_dir():
        raise InputError(f"--reference is {str(reference)!r}; it must be an existing folder")
    layout = "behind" if layout is None else layout
    one_of("reference-layout", layout, CHOSEN)
    return layout


def _check_own_files(
    plan: SamplePlan,
    out: Path,
    controls: dict[str, Path | None],
    pixels: bool,
    reference: Path | None,
    layout: str,
    restart: bool,
) -> None:
    """See before long work that each clip has its controls and its reference.

    Raises:
        InputError: one has none.
    """
    from videodit.datasets.clips.latents.cached_controls import own_controls
    from videodit.datasets.clips.latents.cached_references import own_references

    if controls:
        own_controls(plan, None if restart else out, controls, pixels=pixels)
    if reference is not None:
        own_references(plan, reference, layout)


def _prune_beside(out: Path) -> int:
    """Remove files of controls and references that no clip needs any more, and return how many they were."""
    from videodit.datasets.clips.latents.latent_cache import LatentCache
    from videodit.datasets.clips.latents.verify_cache import beside_of

    samples = LatentCache(out).samples
    return sum(kept(out).prune(samples) for _, kept in beside_of(out))


def _parse_controls(texts: list[str], pixels: bool) -> dict[str, Path | None]:
    """The kinds of controls, each with the folder of its clips, or ``None`` where it is derived.

    Raises:
        InputError: an unknown kind, one that is named twice, or a folder that is not there.
    """
    from videodit.control.kinds import derivable_kind

    found: dict[str, Path | None] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        kind = derivable_kind(name).name
        if kind in found:
            raise InputError(f"--control names {kind!r} twice")
        if equals and not Path(folder).is_dir():
            raise InputError(f"--control {text!r}: there is no folder {folder!r}")
        found[kind] = Path(folder) if equals else None
    if pixels and not found:
        raise InputError("--control-pixels needs --control")
    return found


def _check_writable(out: Path) -> None:
    """Make sure before long work that a cache can be written.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"cannot write into {str(out)!r}: {str(existing)!r} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"cannot write into {str(out)!r}: {str(existing)!r} is not writable")


def _print_result(result: EncodeResult, out: Path, seconds: float, prune: bool, model: str) -> None:
    for name, reason in result.failed:
        note(f"{name} is left out: {reason}")
    for message in result.notices:
        note(message)
    if result.removed:
        note(f"removed {count_of(result.removed, 'file')} that no clip needs any more")
    if result.unlisted:
        why = "share their files with others, so they stay" if prune else "are kept; see --prune"
        note(f"entries of the cache that belong to no clip of this source and {why}: {result.unlisted}")
    emit(
        "encoding",
        output=out,
        samples=result.samples,
        new_samples=result.new_samples,
        new_texts=result.new_texts,
        removed=result.removed,
        failed=dict(result.failed),
        notices=result.notices,
        seconds_taken=seconds,
    )
    print(
        f"{printable(str(out))}: {count_of(result.samples, 'sample')}, {result.new_samples} encoded now; "
        f"{count_of(result.new_texts, 'caption')} encoded now, the empty one counted; {seconds:.1f} s"
    )
    config = "mini-lora" if model == "mini" else "CONFIG"
    command = f"videodit train {config} data.cache={shlex.quote(str(out))} output=out"
    print(f"next: {printable(command)}")
