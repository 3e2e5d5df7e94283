"""Run a task on every clip of a source in worker processes, and keep the results in a ledger."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Generator, Sequence
from itertools import groupby
from typing import get_args

from videodit.datasets.clips.json_fields import JsonObject
from videodit.datasets.clips.reading.readers import ReaderName
from videodit.datasets.clips.reading.records import Clip
from videodit.datasets.clips.scanning.ledger import Ledger
from videodit.datasets.clips.scanning.messages import ClipRequest, Task
from videodit.datasets.clips.scanning.worker_pool import Job, JobResult, run_jobs
from videodit.errors import InputError
from videodit.limits import current_limits

# Large files take longer to read: this many bytes give one more second. A hard disk reads five times as fast.
_BYTES_PER_SECOND = 20_000_000

Report = Callable[[int, int], None]
RunJobs = Callable[[Sequence[Job]], Generator[tuple[int, JobResult], None, None]]
"""Runs all jobs, such as on other machines, as :func:`~videodit.datasets.clips.scanning.worker_pool.run_jobs` does."""


def check_settings(*, reader: ReaderName, workers: int, timeout: float = 1.0) -> None:
    """Raises InputError for a reader, a timeout or a number of workers that is none."""
    if not 0 < timeout < float("inf"):  # false for NaN, too
        raise InputError(f"timeout is {timeout}; it must be above 0 seconds")
    if workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1")
    if reader not in get_args(ReaderName):
        raise InputError(f"reader is {reader!r}; it must be one of {', '.join(get_args(ReaderName))}")


def run_task(
    clips: Sequence[Clip],
    task: Task,
    options: JsonObject,
    *,
    reader: ReaderName,
    timeout: float,
    workers: int,
    ledger: Ledger | None = None,
    report: Report | None = None,
    run: RunJobs | None = None,
) -> list[JsonObject]:
    """The results of a task for each clip.

    Args:
        clips: the clips.
        task: what the workers do.
        options: the task's own fields of a :class:`~videodit.datasets.clips.scanning.messages.ClipRequest`.
        reader: what decodes.
        timeout: seconds that a file may take without a sign of life, and one more for each 20 MB.
        workers: how many processes work at the same time.
        ledger: earlier results, to which those are added that will hold.
        report: called with the number of clips that are done and of all.
        run: runs the jobs elsewhere than in processes of this machine.

    Returns:
        For each clip ``reason``, why there is no result (and ``limit`` in seconds if it took too long), or what the
        task returns for its range and for its file.

    Raises:
        ChildProcessError: no process can be started.
    """
    settings = {"task": task, **options, "reader": reader, "bounds": dataclasses.asdict(current_limits())}
    keys = [_key(clip, settings) for clip in clips]
    limits = [_limit(clip, timeout) for clip in clips]
    results: dict[int, JsonObject] = {}
    for index, key in enumerate(keys):
        known = ledger.get(key) if ledger is not None else None
        # A file that took too long is tried again if it has more time now.
        if known is not None and (known.get("limit") is None or known["limit"] >= limits[index]):
            results[index] = known
    unknown = [index for index in range(len(clips)) if index not in results]
    # Neighbours in one file are read in one go.
    groups = [list(group) for _, group in groupby(unknown, lambda index: (clips[index].media, clips[index].fps))]
    jobs = [Job(_request([clips[i] for i in group], settings), limits[group[0]]) for group in groups]
    if report is not None:
        report(len(results), len(clips))
    with contextlib.closing(run_jobs(jobs, workers=workers) if run is None else run(jobs)) as finished:
        for place, result in finished:
            for index, one in zip(groups[place], _by_range(result, jobs[place]), strict=True):
                results[index] = one
                if ledger is not None and result.lasting:
                    ledger.put(keys[index], one)
            if report is not None:
                report(len(results), len(clips))
    return [results[index] for index in range(len(clips))]


def _limit(clip: Clip, timeout: float) -> float:
    try:
        return timeout + clip.media.num_bytes / _BYTES_PER_SECOND
    except OSError:  # the worker gives the reason
        return timeout


def _request(clips: Sequence[Clip], settings: JsonObject) -> ClipRequest:
    media = clips[0].media
    return {
        **settings,  # type: ignore[typeddict-item]  # the task's own fields
        "path": os.path.abspath(media.path),
        "offset": media.offset,
        "size": media.size,
        "fps": clips[0].fps,
        "ranges": [(clip.start, clip.end) for clip in clips],
    }


def _by_range(result: JobResult, job: Job) -> list[JsonObject]:
    """The result of each range of a job."""
    if result.value is None:
        failed = {"reason": result.reason, **({"limit": job.limit} if result.timed_out else {})}
        return [failed] * len(job.request["ranges"])
    shared = {name: value for name, value in result.value.items() if name != "ranges"}
    return [{**shared, **one} for one in result.value["ranges"]]


def _key(clip: Clip, settings: JsonObject) -> str | None:
    """The ledger's key: of this file as it is now and of this task; ``None`` for a file that is not there."""
    media = clip.media
    try:
        status = media.path.stat()
    except OSError:
        return None
    size = status.st_size if media.size is None else media.size
    file = [os.path.abspath(media.path), media.offset, size, status.st_mtime_ns]
    return json.dumps([*file, clip.start, clip.end, clip.fps, settings], sort_keys=True)
