"""Ask child processes about every clip of a source, and keep what they said."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, get_args

from videodit.datasets.clips.children import Answer, Job, ask_children
from videodit.datasets.clips.ledger import Ledger
from videodit.datasets.clips.readers import ReaderName
from videodit.datasets.clips.records import Clip
from videodit.errors import InputError
from videodit.limits import current_limits

# Large files take longer to read: this many bytes give one more second. A hard disk reads five times as fast.
_BYTES_PER_SECOND = 20_000_000

Report = Callable[[int, int], None]


def check_settings(*, reader: ReaderName, workers: int, timeout: float = 1.0) -> None:
    """Raises ValueError for a reader, a timeout or a number of workers that is none."""
    if not 0 < timeout < float("inf"):  # false for NaN, too
        raise InputError(f"timeout is {timeout}; it must be above 0 seconds")
    if workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1")
    if reader not in get_args(ReaderName):
        raise InputError(f"reader is {reader!r}; it must be one of {', '.join(get_args(ReaderName))}")


def ask_about(
    clips: Sequence[Clip],
    request: dict[str, Any],
    *,
    reader: ReaderName,
    timeout: float,
    workers: int,
    ledger: Ledger | None = None,
    report: Report | None = None,
) -> list[dict[str, Any]]:
    """What children say of each clip.

    Args:
        clips: the clips.
        request: the ``task`` and what it needs beside the file.
        reader: what decodes.
        timeout: seconds that a file may take without a sign of life, and one more for each 20 MB.
        workers: how many children work at the same time.
        ledger: what was said before, and where answers go that will hold.
        report: called with the number of clips that are done and of all.

    Returns:
        For each clip ``reason``, why there is no answer (and ``limit`` in seconds if it took too long), or what the
        task answers for its range and for its file.

    Raises:
        ChildProcessError: no process can be started.
    """
    request = {**request, "reader": reader, "bounds": dataclasses.asdict(current_limits())}
    keys = [_key(clip, request) for clip in clips]
    limits = [_limit(clip, timeout) for clip in clips]
    found: dict[int, dict[str, Any]] = {}
    for index, key in enumerate(keys):
        known = ledger.get(key) if ledger is not None else None
        # A file that was given up is tried again if it has more time now.
        if known is not None and (known.get("limit") is None or known["limit"] >= limits[index]):
            found[index] = known
    unknown = [index for index in range(len(clips)) if index not in found]
    # Neighbours in one file are looked at in one go.
    groups = [list(group) for _, group in groupby(unknown, lambda index: (clips[index].media, clips[index].fps))]
    jobs = [_job([clips[i] for i in group], request, limits[group[0]]) for group in groups]
    if report is not None:
        report(len(found), len(clips))
    with contextlib.closing(ask_children(jobs, workers=workers)) as answers:
        for place, answer in answers:
            for index, said in zip(groups[place], _each(answer, jobs[place]), strict=True):
                found[index] = said
                if ledger is not None and answer.lasting:
                    ledger.put(keys[index], said)
            if report is not None:
                report(len(found), len(clips))
    return [found[index] for index in range(len(clips))]


def _limit(clip: Clip, timeout: float) -> float:
    try:
        return timeout + clip.media.num_bytes / _BYTES_PER_SECOND
    except OSError:  # the child says why
        return timeout


def _job(clips: Sequence[Clip], request: dict[str, Any], limit: float) -> Job:
    media = clips[0].media
    where = {"path": os.path.abspath(media.path), "offset": media.offset, "size": media.size, "fps": clips[0].fps}
    return Job({**request, **where, "ranges": [(clip.start, clip.end) for clip in clips]}, limit)


def _each(answer: Answer, job: Job) -> list[dict[str, Any]]:
    """What was said of each range of a job."""
    if answer.value is None:
        said = {"reason": answer.reason, **({"limit": job.limit} if answer.timed_out else {})}
        return [said] * len(job.request["ranges"])
    shared = {name: value for name, value in answer.value.items() if name != "ranges"}
    return [{**shared, **one} for one in answer.value["ranges"]]


def _key(clip: Clip, request: dict[str, Any]) -> str | None:
    """What is kept is kept for this file as it is now and this question; ``None`` for a file that is not there."""
    media = clip.media
    try:
        status = media.path.stat()
    except OSError:
        return None
    size = status.st_size if media.size is None else media.size
    file = [os.path.abspath(media.path), media.offset, size, status.st_mtime_ns]
    return json.dumps([*file, clip.start, clip.end, clip.fps, request], sort_keys=True)
