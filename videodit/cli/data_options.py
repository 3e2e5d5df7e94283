"""What `videodit data scan` and `videodit data encode` share: their flags, and how a plan is printed."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videodit.cli.common import count_of, note, one_line, print_rows, printable
from videodit.cli.flags import integer, number
from videodit.cli.results import emit
from videodit.errors import InputError

if TYPE_CHECKING:
    from videodit.cli.progress import Progress
    from videodit.datasets.clips.latents.buckets import SamplePlan, SampleSpec
    from videodit.datasets.clips.scanning.scan_clips import ScannedClip

# The words of --drop, and what a plan calls them.
DROPPABLE = {
    "static": "static",
    "black": "black",
    "letterboxed": "letterboxed",
    "interlaced": "interlaced",
    "gaps": "time gaps",
    "duplicate": "duplicate",
    "uncaptioned": "no caption",
}
DEFAULT_DROP = "duplicate,uncaptioned"
READERS = ("pyav", "decord")
WINDOWS = ("all", "first")
_LISTED = 10  # names printed of each group; the report has them all

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="A folder, a .jsonl or .csv manifest, WebDataset shards (a.tar, a-{000..009}.tar), "
        "or hf:owner/name for a Hugging Face dataset.",
        show_default=False,
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", help="The model to train: a name, a folder or an id on the Hub.")]
Fps = Annotated[
    float | None,
    typer.Option(parser=number, metavar="X", help="Frames per second of the samples. Left out: the model's own."),
]
Frames = Annotated[
    str | None,
    typer.Option(metavar="N,N", help="Lengths of the samples in frames, such as 1,17. Left out: 1 and the model's."),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(parser=integer, metavar="N", help="The most tokens of a sample. Left out: what the model makes."),
]
MaxBuckets = Annotated[
    int, typer.Option(parser=integer, metavar="N", help="The most kinds of samples (length × size).")
]
Windows = Annotated[str, typer.Option(help="all: a long clip gives several samples; first: its beginning alone.")]
Drop = Annotated[
    str,
    typer.Option(metavar="A,B", help=f"Which clips to leave out, of {', '.join(DROPPABLE)}; or none."),
]
Split = Annotated[str, typer.Option("--split", help="Of a Hugging Face dataset.")]
Reader = Annotated[str, typer.Option(help="What decodes: pyav or decord.")]
Timeout = Annotated[
    float, typer.Option(parser=number, metavar="X", help="Seconds that a file may take before it is given up.")
]
OnRay = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Work on a Ray cluster (RAY_ADDRESS, or this machine's) in place of --workers; docs/scale-out.md.",
    ),
]
Workers = Annotated[int, typer.Option(parser=integer, metavar="N", help="How many files are read at the same time.")]


def one_of(name: str, value: str, legal: Sequence[str]) -> str:
    """``value`` if it is among ``legal``.

    Raises:
        InputError: it is not.
    """
    if value not in legal:
        raise InputError(f"--{name} is {value!r}; it must be {' or '.join(legal)}")
    return value


def parse_frames(text: str | None) -> tuple[int, ...] | None:
    """The lengths that ``--frames 1,17`` names, each once, in rising order; ``None`` stays ``None``.

    Raises:
        InputError: something in it is no whole number above 0.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--frames is {text!r}; it must be whole numbers above 0 with commas between, such as 1,17")
    return tuple(sorted(set(map(int, parts))))


def parse_drop(text: str) -> frozenset[str]:
    """What ``--drop static,black`` names, as ``plan_samples`` calls it; "none" is nothing.

    Raises:
        InputError: a kind that there is not.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if names == ["none"]:
        return frozenset()
    for name in names:
        if name not in DROPPABLE:
            raise InputError(f"--drop names {name!r}; valid values are {', '.join(DROPPABLE)}, or none alone")
    return frozenset(DROPPABLE[name] for name in names)


def sample_spec_for(
    model: str,
    *,
    fps: float | None = None,
    frames: tuple[int, ...] | None = None,
    max_tokens: int | None = None,
    max_buckets: int = 8,
    windows: str = "all",
) -> tuple[SampleSpec, list[str]]:
    """What samples ``model`` is to be trained on. Reads the model's configs and no weights.

    Args:
        model: a bundled model, a folder or a hub id.
        fps: frames per second; ``None`` for the model's own.
        frames: lengths in frames; ``None`` for 1 (where the model can make it) and the model's own.
        max_tokens: the most tokens that the transformer may see of a sample; ``None`` for as many as a clip of the
            model's own size and length has.
        max_buckets: the most pairs of length and size.
        windows: "all" or "first".

    Returns:
        The spec, and a notice that names the model's defaults in it.

    Raises:
        InputError: an unknown model, or a value that it cannot do, with the nearest legal one.
    """
    from videodit.datasets.clips.latents.buckets import SampleSpec
    from videodit.pipelines.folders import resolve_model
    from videodit.pipelines.spec import ModelSpec

    one_of("windows", windows, WINDOWS)
    model_spec = ModelSpec.from_folder(resolve_model(model))
    geometry, own, taken = model_spec.geometry, model_spec.defaults, []
    if fps is None:
        fps = float(own.fps)
        taken.append(f"{fps:g} fps")
    if frames is None:
        frames = tuple(sorted({own.num_frames, *({1} if geometry.snap_frames(1) == 1 else ())}))
        taken.append(f"{' or '.join(map(str, frames))} frames")
    if max_tokens is None:
        max_tokens = geometry.num_tokens(own.num_frames, own.height, own.width)
        taken.append(f"at most {max_tokens} tokens")
    fixed = (own.height, own.width) if model_spec.learned_grid is not None else None
    spec = SampleSpec(
        geometry, fps, frames, max_tokens, max_buckets, "all" if windows == "all" else "first", size=fixed
    )
    height, width = fixed or geometry.size_multiple
    # Shorter clips and images get no larger frames than the longest clips have.
    cells = max_tokens // geometry.num_tokens(max(frames), height, width)
    spec = replace(spec, max_pixels=cells * height * width)
    return spec, [f"{', '.join(taken)} a sample: the defaults of {model}"] if taken else []


def default_cache(source: str) -> Path | None:
    """Where a source's scan is kept: a file of its own in the user's cache folder, which is made.

    ``None``, and a note, where that cannot be written: then a scan reads everything anew.
    """
    where = source if source.startswith("hf:") else os.path.abspath(source)
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        path = base / "videodit" / "scans" / f"{hashlib.sha256(os.fsencode(where)).hexdigest()[:32]}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        note(f"results cannot be kept for the next scan: {error}")
        return None
    return path


def check_usable(source: str, scanned: Sequence[ScannedClip], plan: SamplePlan, drop_flags: frozenset[str]) -> None:
    """Tell how clips without a caption get one, and see that there is something to train on.

    Raises:
        InputError: nothing can be used.
    """
    if "no caption" in drop_flags and any(item.reason is None and "no caption" in item.flags for item in scanned):
        print(
            "captions: write what a clip shows into a .txt file of the same name, or into the manifest; "
            "clips without one can be kept by leaving uncaptioned out of --drop"
        )
    if not plan.samples:
        broken = sum(item.reason is not None for item in scanned)
        raise InputError(
            f"nothing in {printable(source)!r} can be used: {broken} of {count_of(len(scanned), 'clip')} cannot be "
            f"read, and {len(scanned) - broken} are left out"
        )


def print_plan(scanned: Sequence[ScannedClip], plan: SamplePlan, hint: str) -> None:
    """Print what of the scanned clips is kept, by bucket, and what is not and why.

    Args:
        scanned: every clip of the source.
        plan: the samples that come of them.
        hint: where long lists are told whole.
    """
    broken = [(item.clip.name, item.reason) for item in scanned if item.reason is not None]
    names = {name for name, _ in broken}
    others = [(name, reason) for name, reason in plan.dropped if name not in names]
    used = {sample.scanned.clip.name for sample in plan.samples}
    emit(
        "samples",
        clips=len(scanned),
        used=len(used),
        left_out=dict(others),
        unreadable=dict(broken),
        buckets={str(bucket): windows for bucket, windows in plan.counts().items()},
    )
    print(f"{count_of(len(scanned), 'clip')}: {len(used)} used, {len(others)} left out, {len(broken)} unreadable")
    _print_buckets(plan)
    print_groups("unreadable", broken, hint)
    print_groups("left out", others, hint)


def _print_buckets(plan: SamplePlan) -> None:
    clips = Counter(bucket for _, bucket in {(sample.scanned.clip.name, sample.bucket) for sample in plan.samples})
    if not clips:
        return
    print("buckets")
    rows = [
        (
            str(bucket),
            f"{count_of(clips[bucket], 'clip')}, {count_of(windows, 'window')}, "
            f"{windows * bucket.frames / plan.spec.fps:.1f} s",
        )
        for bucket, windows in plan.counts().items()
    ]
    print_rows(rows, indent=2)


def print_groups(title: str, pairs: Iterable[tuple[str, str]], hint: str = "") -> None:
    """Names under the reason that they share, the largest group first; long lists are cut, and ``hint`` follows."""
    groups: dict[str, list[str]] = {}
    for name, reason in pairs:
        groups.setdefault(reason, []).append(name)
    if not groups:
        return
    print(title)
    for reason, names in sorted(groups.items(), key=lambda pair: -len(pair[1])):
        print(f"  {one_line(reason)}: {len(names)}")
        print_names(names, hint)


def print_names(names: Sequence[str], hint: str = "") -> None:
    """Print names one a line, and how many more there are."""
    for name in names[:_LISTED]:
        print(f"    {one_line(name)}")
    if len(names) > _LISTED:
        print(f"    and {len(names) - _LISTED} more{hint}")


def reporter(progress: Progress) -> Callable[[str, int, int], None]:
    """A function that shows the stages that a function of the data sets reports."""

    def report(stage: str, done: int, total: int) -> None:
        if (progress.name, progress.total) != (stage, total):
            progress.stage(stage, total, done=done)
        progress.step(done)

    return report
