"""Split videos at the changes of scene: a manifest of their pieces. Nothing is encoded again."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from videodit.datasets.clips.json_fields import JsonObject
from videodit.datasets.clips.jsonl import write_jsonl
from videodit.datasets.clips.reading.readers import ReaderName
from videodit.datasets.clips.reading.records import Clip, Source
from videodit.datasets.clips.scanning.ledger import Ledger
from videodit.datasets.clips.scanning.run_task import check_settings, run_task
from videodit.errors import InputError

_VERSION = 1  # of how cuts are found: with another one they are looked for again
# Times in a manifest have four decimals, rounded down: far less than a frame, and never into the next scene.
_DECIMALS = 10_000


@dataclass(frozen=True)
class SplitResult:
    """The result of a split.

    Attributes:
        pieces: rows of the manifest.
        seconds: length of all of them.
        cuts: changes of scene that were found.
        too_short: names of clips that have pieces below the least length, each with how many.
        broken: names of clips that cannot be read, each with the reason.
    """

    pieces: int
    seconds: float
    cuts: int
    too_short: tuple[tuple[str, int], ...]
    broken: tuple[tuple[str, str], ...]


def split(
    source: Source,
    manifest: Path,
    *,
    threshold: float = 3.0,
    min_seconds: float = 1.0,
    max_seconds: float | None = None,
    timeout: float = 30.0,
    workers: int = 1,
    reader: ReaderName = "pyav",
    report: Callable[[int, int], None] | None = None,
) -> SplitResult:
    """Find the cuts of every clip by PySceneDetect's adaptive detector, and write the pieces as a JSONL manifest.

    What was found so far is in ``manifest`` with ``.partial`` behind its name, from which an interrupted run goes on.
    Images are taken over as they are.

    Args:
        source: clips that are files, all of them in the manifest's folder or below it.
        manifest: the ``.jsonl`` file to write; it must not be there yet.
        threshold: how many times a frame's change must exceed its neighbours' to be a cut.
        min_seconds: shorter pieces are left out.
        max_seconds: longer pieces are cut into equal parts; ``None`` leaves them.
        timeout: seconds that a file may take without a sign of life, and one more for each 20 MB.
        workers: files that are read at the same time.
        reader: what decodes.
        report: called with the number of clips that are done and of all.

    Raises:
        InputError: a number that is none, a library that is missing, a manifest that is there already or cannot be
            written, clips that it could not name, or not one piece.
        ChildProcessError: no process can be started.
    """
    _check_numbers(threshold, min_seconds, max_seconds)
    check_settings(reader=reader, timeout=timeout, workers=workers)
    _check_libraries()
    paths = _paths(source, manifest)
    partial = manifest.with_name(manifest.name + ".partial")
    with Ledger(partial, _check_result) as ledger:
        results = run_task(
            source.clips,
            "cuts",
            {"threshold": threshold, "version": _VERSION},
            reader=reader,
            timeout=timeout,
            workers=workers,
            ledger=ledger,
            report=report,
        )
    rows, seconds, too_short = [], 0.0, []
    for clip, path, result in zip(source.clips, paths, results, strict=True):
        if result.get("reason") is not None:
            continue
        pieces, short = _pieces(result, min_seconds, max_seconds)
        rows += [_row(clip, path, result, piece) for piece in pieces]
        seconds += sum(end - start for start, end in pieces)
        if short:
            too_short.append((clip.name, short))
    broken = [(clip.name, a["reason"]) for clip, a in zip(source.clips, results, strict=True) if a.get("reason")]
    if not rows:
        raise InputError(_nothing(len(broken), len(source), min_seconds))
    write_jsonl(manifest, rows)
    partial.unlink(missing_ok=True)
    cuts = sum(len(result.get("cuts", ())) for result in results)
    return SplitResult(len(rows), seconds, cuts, tuple(too_short), tuple(broken))


def _check_numbers(threshold: float, min_seconds: float, max_seconds: float | None) -> None:
    if not 0 < threshold < math.inf:  # false for NaN, too
        raise InputError(f"threshold is {threshold}; it must be above 0")
    if not 0 <= min_seconds < math.inf:
        raise InputError(f"min_seconds is {min_seconds}; it must be 0 or more")
    # Equal parts of a piece that is just too long are half as long.
    if max_seconds is not None and not max(2 * min_seconds, 1e-3) <= max_seconds < math.inf:
        raise InputError(f"max_seconds is {max_seconds}; it must be at least twice min_seconds, {2 * min_seconds:g}")


def _check_libraries() -> None:
    if missing := _missing():
        raise InputError(f'splitting needs {" and ".join(missing)}: pip install "videodit[data]"')


def _missing() -> list[str]:
    return [name for name in ("scenedetect", "cv2") if importlib.util.find_spec(name) is None]


def _paths(source: Source, manifest: Path) -> list[str]:
    """The clips' paths as the manifest names them."""
    folder = manifest.absolute().parent
    if manifest.suffix.lower() != ".jsonl" or not folder.is_dir():
        raise InputError(f"the manifest is {str(manifest)!r}; it must be a .jsonl file in a folder that is there")
    if manifest.exists():
        raise InputError(f"{str(manifest)!r} is there already; remove it, or give the manifest another name")
    paths = []
    for clip in source:
        if clip.media.size is not None:
            raise InputError(f"{clip.name!r} is inside a tar, where a manifest cannot name it; unpack the tar first")
        path = Path(os.path.abspath(clip.media.path))
        if not path.is_relative_to(folder):
            raise InputError(
                f"{str(clip.media.path)!r} is not below {str(folder)!r}, and a manifest names files of its own folder "
                f"alone; write it to {str(path.parent / manifest.name)!r} or above"
            )
        paths.append(path.relative_to(folder).as_posix())
    return paths


def _check_result(result: JsonObject) -> None:
    """Raises KeyError, TypeError or ValueError for what is no result."""
    if result.get("reason") is None:
        _ = [float(time) for time in (*result["cuts"], result["start"], result["stop"])], bool(result["is_image"])


def _pieces(result: JsonObject, min_seconds: float, max_seconds: float | None) -> tuple[list[tuple[float, float]], int]:
    """The ranges between the cuts in seconds, and how many of them were too short."""
    if result["is_image"]:
        return [(0.0, 0.0)], 0
    edges = [result["start"], *result["cuts"], result["stop"]]
    pieces, short = [], 0
    for start, end in itertools.pairwise(edges):
        # A clip's length is known to less than its rounding.
        if end - start < min_seconds - 1e-6:
            short += 1
            continue
        parts = 1 if max_seconds is None else math.ceil((end - start) / max_seconds - 1e-6)
        marks = [start + (end - start) * part / parts for part in range(parts)] + [end]
        pieces += list(itertools.pairwise(marks))
    return pieces, short


def _row(clip: Clip, path: str, result: JsonObject, piece: tuple[float, float]) -> JsonObject:
    start, end = piece
    row: JsonObject = {"video": path}
    if clip.caption is not None:
        row["caption"] = clip.caption
    if start > result["start"] or clip.start > 0:
        row["start"] = start if start == result["start"] else _down(start)
    if end < result["stop"] or clip.end is not None:
        row["end"] = clip.end if end == result["stop"] and clip.end is not None else _down(end)
    if clip.fps is not None:
        row["fps"] = clip.fps
    return row


def _down(seconds: float) -> float:
    return math.floor(seconds * _DECIMALS) / _DECIMALS


def _nothing(broken: int, total: int, min_seconds: float) -> str:
    return (
        f"there is no piece of at least {min_seconds:g} s: {broken} of {total} clips cannot be read, and the others "
        "are too short; try a smaller min_seconds"
    )
