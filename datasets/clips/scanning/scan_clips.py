"""Scan every clip of a source once: which can be used, what they hold, and which show nearly the same."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from videodit.datasets.clips.json_fields import JsonObject, dataclass_from_json
from videodit.datasets.clips.reading.readers import ReaderName, VideoInfo
from videodit.datasets.clips.reading.records import Clip, Source
from videodit.datasets.clips.scanning.duplicates import Fingerprint, find_duplicates
from videodit.datasets.clips.scanning.ledger import Ledger
from videodit.datasets.clips.scanning.run_task import RunJobs, check_settings, run_task

_VERSION = 3  # of the features: with another one every file is read again
_NO_CAPTION = "no caption"


@dataclass(frozen=True)
class ScannedClip:
    """The result of a scan for one clip.

    Attributes:
        clip: the clip.
        reason: why it cannot be used; ``None`` if it can. Then the others are unset, but for "no caption".
        content: SHA-256 of the file's bytes.
        info: what the file holds.
        flags: of "static", "black", "letterboxed", "interlaced", "time gaps" and "no caption".
        duplicate_of: the name of a clip that looks nearly the same and comes before it.
        phash: perceptual hashes of its frames, 16 hexadecimal digits each; ``None`` if all of them are flat.
        bars: pixels of dark bars at the top, bottom, left and right of a letterboxed clip.
        parts: starts and ends in seconds of what gaps in the time stamps leave of the clip; empty if there are none.
        notices: what a user should know about how the file is read, such as which of its video streams.
    """

    clip: Clip
    reason: str | None = None
    content: str = ""
    info: VideoInfo | None = None
    flags: tuple[str, ...] = ()
    duplicate_of: str | None = None
    phash: str | None = None
    bars: tuple[int, int, int, int] | None = None
    parts: tuple[tuple[float, float], ...] = ()
    notices: tuple[str, ...] = ()


def scan(
    source: Source,
    *,
    cache: Path | None = None,
    timeout: float = 30.0,
    workers: int = 1,
    reader: ReaderName = "pyav",
    report: Callable[[int, int], None] | None = None,
    run: RunJobs | None = None,
) -> list[ScannedClip]:
    """Read some frames of every clip, in processes of their own, and compare the clips with each other.

    Args:
        source: the clips.
        cache: a JSONL file that keeps what was found; files whose size and time of change are as before are not read
            again. An interrupted scan goes on from it.
        timeout: seconds that a file may take before it is given up, and one more for each 20 MB.
        workers: files that are read at the same time.
        reader: what decodes.
        report: called with the number of clips that are done and of all.
        run: reads the files elsewhere; see :data:`videodit.datasets.clips.scanning.run_task.RunJobs`.

    Returns:
        What was found, in the source's order. Of clips that look nearly the same the first one with a caption counts
        as the original.

    Raises:
        InputError: a number or reader that is none, or a cache whose folder is not there.
        ChildProcessError: no process can be started.
    """
    check_settings(reader=reader, timeout=timeout, workers=workers)
    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(Ledger(cache, _ClipResult.from_json)) if cache is not None else None
        results = run_task(
            source.clips,
            "look",
            {"version": _VERSION},
            reader=reader,
            timeout=timeout,
            workers=workers,
            ledger=ledger,
            report=report,
            run=run,
        )
    return _compared(source.clips, [_ClipResult.from_json(result) for result in results])


@dataclass(frozen=True)
class _ClipResult:
    """What a worker found in a clip: a reason, or all the others."""

    reason: str | None = None
    content: str = ""
    info: VideoInfo | None = None
    flags: tuple[str, ...] = ()
    bars: tuple[int, int, int, int] | None = None
    parts: tuple[tuple[float, float], ...] = ()
    fingerprint: Fingerprint | None = None
    notices: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: JsonObject) -> _ClipResult:
        """Raises KeyError, TypeError or ValueError for what is no result."""
        if data.get("reason") is not None:
            return cls(reason=str(data["reason"]))
        thumbs = base64.b64decode(data["thumbs"], validate=True)
        return cls(
            content=str(data["content"]),
            info=dataclass_from_json(VideoInfo, data["info"]),
            flags=tuple(data["flags"]),
            bars=None if data["bars"] is None else tuple(data["bars"]),
            parts=tuple((float(a), float(b)) for a, b in data["parts"]) if "time gaps" in data["flags"] else (),
            fingerprint=Fingerprint(tuple(data["hashes"]), thumbs, float(data["seconds"])),
            notices=tuple(map(str, data["notices"])),
        )


def _compared(clips: Sequence[Clip], results: Sequence[_ClipResult]) -> list[ScannedClip]:
    originals = _originals(clips, results)
    return [
        ScannedClip(
            clip=clip,
            reason=result.reason,
            content=result.content,
            info=result.info,
            flags=(*result.flags, *([_NO_CAPTION] if not (clip.caption or "").strip() else [])),
            duplicate_of=None if original is None else clips[original].name,
            phash=result.fingerprint.phash if result.fingerprint else None,
            bars=result.bars,
            parts=result.parts,
            notices=result.notices,
        )
        for clip, result, original in zip(clips, results, originals, strict=True)
    ]


def _originals(clips: Sequence[Clip], results: Sequence[_ClipResult]) -> list[int | None]:
    """For each clip the index of the one that it nearly repeats."""
    # A copy without a caption never stands for one that has one.
    order = sorted(range(len(clips)), key=lambda index: (not (clips[index].caption or "").strip(), index))
    found: list[int | None] = [None] * len(clips)
    seen: dict[tuple[str, float, float | None, float | None], int] = {}
    fresh: list[int] = []
    for index in order:
        clip, result = clips[index], results[index]
        if result.info is not None:
            # The same bytes are the same clip, and flat pictures can be told by nothing else.
            first = seen.setdefault((result.content, clip.start, clip.end, clip.fps), index)
            if first == index:
                fresh.append(index)
            else:
                found[index] = first
    alike = find_duplicates([results[index].fingerprint for index in fresh])
    for index, place in zip(fresh, alike, strict=True):
        if place is not None:
            found[index] = fresh[place]
    # A copy of a copy is reported as a copy of the original.
    return [first if first is None or found[first] is None else found[first] for first in found]
