"""Look at every clip of a source once: which can be used, what they hold, and which show nearly the same."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videodit.datasets.clips.asking import ask_about, check_settings
from videodit.datasets.clips.duplicates import Fingerprint, first_alike
from videodit.datasets.clips.ledger import Ledger
from videodit.datasets.clips.readers import ReaderName, VideoInfo
from videodit.datasets.clips.records import Clip, Source
from videodit.datasets.clips.typed import typed

_VERSION = 3  # of what is looked for: another one reads every file again
_NO_CAPTION = "no caption"


@dataclass(frozen=True)
class Scanned:
    """What a scan found out about a clip.

    Attributes:
        clip: the clip.
        reason: why it cannot be used; ``None`` if it can. Then the others are unset, but for "no caption".
        content: SHA-256 of the file's bytes.
        info: what the file holds.
        flags: of "static", "black", "letterboxed", "interlaced", "time gaps" and "no caption".
        duplicate_of: the name of a clip that looks nearly the same and comes before it.
        phash: hashes of its frames, 16 hexadecimal digits each; ``None`` if all of them are flat.
        bars: pixels of dark bars at the top, bottom, left and right of a letterboxed clip.
        parts: starts and ends in seconds of what gaps in the time stamps leave of the clip; empty if there are none.
        notices: what was made of the file that a user should know, such as which of its video streams is read.
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
) -> list[Scanned]:
    """Read some frames of every clip, in processes of their own, and compare the clips with each other.

    Args:
        source: the clips.
        cache: a JSONL file that keeps what was found; files whose size and time of change are as before are not read
            again. An interrupted scan goes on from it.
        timeout: seconds that a file may take before it is given up, and one more for each 20 MB.
        workers: files that are read at the same time.
        reader: what decodes.
        report: called with the number of clips that are done and of all.

    Returns:
        What was found, in the source's order. Of clips that look nearly the same the first one with a caption counts
        as the original.

    Raises:
        InputError: a number or reader that is none, or a cache whose folder is not there.
        ChildProcessError: no process can be started.
    """
    check_settings(reader=reader, timeout=timeout, workers=workers)
    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(Ledger(cache, _Outcome.from_json)) if cache is not None else None
        answers = ask_about(
            source.clips,
            {"task": "look", "version": _VERSION},
            reader=reader,
            timeout=timeout,
            workers=workers,
            ledger=ledger,
            report=report,
        )
    return _compared(source.clips, [_Outcome.from_json(answer) for answer in answers])


@dataclass(frozen=True)
class _Outcome:
    """What a child said of a clip: a reason, or all the others."""

    reason: str | None = None
    content: str = ""
    info: VideoInfo | None = None
    flags: tuple[str, ...] = ()
    bars: tuple[int, int, int, int] | None = None
    parts: tuple[tuple[float, float], ...] = ()
    fingerprint: Fingerprint | None = None
    notices: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> _Outcome:
        """Raises KeyError, TypeError or ValueError for what is no answer."""
        if data.get("reason") is not None:
            return cls(reason=str(data["reason"]))
        thumbs = base64.b64decode(data["thumbs"], validate=True)
        return cls(
            content=str(data["content"]),
            info=typed(VideoInfo, data["info"]),
            flags=tuple(data["flags"]),
            bars=None if data["bars"] is None else tuple(data["bars"]),
            parts=tuple((float(a), float(b)) for a, b in data["parts"]) if "time gaps" in data["flags"] else (),
            fingerprint=Fingerprint(tuple(data["hashes"]), thumbs, float(data["seconds"])),
            notices=tuple(map(str, data["notices"])),
        )


def _compared(clips: Sequence[Clip], outcomes: Sequence[_Outcome]) -> list[Scanned]:
    originals = _originals(clips, outcomes)
    return [
        Scanned(
            clip=clip,
            reason=outcome.reason,
            content=outcome.content,
            info=outcome.info,
            flags=(*outcome.flags, *([_NO_CAPTION] if not (clip.caption or "").strip() else [])),
            duplicate_of=None if original is None else clips[original].name,
            phash=outcome.fingerprint.phash if outcome.fingerprint else None,
            bars=outcome.bars,
            parts=outcome.parts,
            notices=outcome.notices,
        )
        for clip, outcome, original in zip(clips, outcomes, originals, strict=True)
    ]


def _originals(clips: Sequence[Clip], outcomes: Sequence[_Outcome]) -> list[int | None]:
    """For each clip the place of the one that it nearly repeats."""
    # A copy without a caption never stands for one that has one.
    order = sorted(range(len(clips)), key=lambda index: (not (clips[index].caption or "").strip(), index))
    found: list[int | None] = [None] * len(clips)
    seen: dict[tuple[Any, ...], int] = {}
    fresh: list[int] = []
    for index in order:
        clip, outcome = clips[index], outcomes[index]
        if outcome.info is not None:
            # The same bytes are the same clip, and flat pictures can be told by nothing else.
            first = seen.setdefault((outcome.content, clip.start, clip.end, clip.fps), index)
            if first == index:
                fresh.append(index)
            else:
                found[index] = first
    alike = first_alike([outcomes[index].fingerprint for index in fresh])
    for index, place in zip(fresh, alike, strict=True):
        if place is not None:
            found[index] = fresh[place]
    # A copy of a copy is told as a copy of the original.
    return [first if first is None or found[first] is None else found[first] for first in found]
