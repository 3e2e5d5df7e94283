"""Pictures and clips that jobs start from: where their files are, and links to them in a job's own folder.

A job has what it starts from in its folder, so that it can begin whatever becomes of an upload or of the clip that it
goes on from, and so that it can be asked for again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from videodit.control.control import MEDIA
from videodit.pipelines.request import Request
from videodit.serving.folder import SOURCES, DataFolder
from videodit.serving.records import Job, is_id

CLIP = "video.mp4"
"""Name in a job's folder: its clip."""


def source_file(data: DataFolder, job: str, id: str) -> Path:
    """The file of an upload, or of a job's clip, that a job starts from.

    Args:
        data: of the server.
        job: the job's id.
        id: of the upload or the other job.

    Raises:
        ValueError: no id.
    """
    own = _own(data, job, id)
    return own if own.is_file() else original_file(data, id)


def original_file(data: DataFolder, id: str) -> Path:
    """The file of an upload, or of a job's clip.

    Raises:
        ValueError: no id.
    """
    return data.upload(id) if is_id(id, "upload") else data.fetch(id, CLIP)


def has_clip(data: DataFolder, job: Job) -> bool:
    """Whether the clip of a job can be started from, as far as it is known without asking the store of clips."""
    in_store = data.outputs is not None and job.removed is None
    return job.state == "completed" and (in_store or (data.job(job.id) / CLIP).is_file())


def fetch_clips(data: DataFolder, sources: Mapping[str, str | None]) -> None:
    """Bring clips here that are in the store alone, which takes its time; see :func:`keep_sources`.

    Raises:
        OSError: the store cannot be used.
    """
    for id, keeper in sources.items():
        original_file(data, id) if keeper is None else source_file(data, keeper, id)


def keep_sources(data: DataFolder, job: str, sources: Mapping[str, str | None]) -> None:
    """Link files into a job's folder.

    Args:
        data: of the server.
        job: the job's id.
        sources: ids of what it starts from, and for each a job that has kept it, where it may be gone elsewhere.

    Raises:
        FileNotFoundError: one is gone.
    """
    for id, keeper in sources.items():
        target = _own(data, job, id)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = original_file(data, id) if keeper is None else source_file(data, keeper, id)
        with contextlib.suppress(FileExistsError):
            _link(kept, target)


def with_files(request: Request, upload: Callable[[str], Path]) -> Request:
    """A request whose media are upload ids, with the files in their places.

    Args:
        request: of a job.
        upload: gives the file of an upload's id.
    """
    ends: dict[str, Any] = {
        name: upload(str(one)) for name in ("image", "last_image") if (one := getattr(request, name)) is not None
    }
    conditions = []
    for one in request.conditions:
        media: dict[str, Any] = {
            name: upload(str(value)) for name, value in vars(one).items() if name in ("content", "clip", "mask")
        }
        conditions.append(replace(one, **media))
    control = None
    if request.control is not None:
        control = {
            slot: replace(one, **{name: upload(str(id)) for name in MEDIA if (id := getattr(one, name)) is not None})
            for slot, one in request.control.items()
        }
    references = tuple(replace(one, source=upload(str(one.source))) for one in request.references)
    return replace(request, **ends, conditions=tuple(conditions), control=control, references=references)


def _own(data: DataFolder, job: str, id: str) -> Path:
    if not (is_id(id, "upload") or is_id(id, "video")):
        raise ValueError(f"{id!r} is not the id of an upload or a video")
    return data.job(job) / SOURCES / id


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
