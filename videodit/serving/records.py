"""What a server keeps of a job: plain data, for the store, the workers and the API."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from videodit.json_types import JsonObject

State = Literal["queued", "in_progress", "completed", "failed"]
"""Queued jobs wait, those in progress have a worker, the others are finished. A cancelled job failed as `cancelled`."""

Kind = Literal["create", "remix", "edit", "extension"]
"""What a job was asked for as; see :mod:`videodit.serving.videos`."""

Cancel = Literal["drop", "keep"]
"""How to stop a job: with nothing left of it, or with what is finished as a shorter clip."""

STATES: tuple[State, ...] = get_args(State)
FINISHED: tuple[State, ...] = ("completed", "failed")
MOST_ATTEMPTS = 3
"""Times that a job is begun; after a worker was lost that often, it fails."""

_ID = re.compile(r"(?:video|upload)_[0-9a-f]{24}")


def new_id(kind: Literal["video", "upload"]) -> str:
    """A random id, which is also a legal file name."""
    return f"{kind}_{secrets.token_hex(12)}"


def is_id(text: str, kind: Literal["video", "upload"]) -> bool:
    """Whether a text from outside is an id of a kind, and so may become a file's name."""
    return _ID.fullmatch(text) is not None and text.startswith(kind)


def ids_in(text: str, kind: Literal["video", "upload"]) -> set[str]:
    """All ids of a kind that a text holds."""
    return {id for id in _ID.findall(text) if id.startswith(kind)}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A clip that was asked for, and what became of it.

    Times are seconds since 1970.

    Attributes:
        id: ``video_`` and 24 hexadecimal digits.
        owner: the name of the key that asked for it.
        kind: see :data:`Kind`.
        parent: the job that it goes on from.
        model: name of a registered model.
        request: a :class:`videodit.pipelines.request.Request` as JSON; media are upload ids.
        extra: what the request does not say, such as the seconds to add to a clip.
        settings: what was planned: ``width``, ``height``, ``num_frames``, ``fps``, ``steps``, ``seed`` …
        notices: what differs from what was asked for.
        state: see :data:`State`.
        position: jobs with lower ones come first.
        paused: it stays queued until it is resumed.
        cancel: a stop was asked for, and how.
        cancelled_at: when.
        worker: who makes it.
        attempts: how often it was begun; also tells one worker's claim from a later one's.
        beats: signs of life of its worker.
        stage: what the worker does, such as ``sampling``.
        step: steps that are done.
        steps: steps in all.
        seconds_left: estimate of the worker.
        preview: number of the newest preview; 0: there is none.
        error: ``code`` and ``message`` of a failed job.
        output: ``bytes``, ``width``, ``height``, ``num_frames``, ``fps`` of the finished clip.
        recipe: of the finished clip.
        favourite: marked by its owner.
        binned: when it was put into the bin.
        created: when it was asked for.
        started: when a worker first began it.
        finished: when it was completed or failed.
        expires: when its files are removed, unless it is a favourite.
        removed: when its files were removed, because their time was over or the room short.
        deleted: when it was deleted.
        revision: grows with each change of any job.
    """

    id: str
    owner: str
    kind: Kind = "create"
    parent: str | None = None
    model: str
    request: JsonObject
    extra: JsonObject = field(default_factory=dict)
    settings: JsonObject = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    state: State = "queued"
    position: float = 0.0
    paused: bool = False
    cancel: Cancel | None = None
    cancelled_at: float | None = None
    worker: str | None = None
    attempts: int = 0
    beats: int = 0
    stage: str | None = None
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    preview: int = 0
    error: JsonObject | None = None
    output: JsonObject | None = None
    recipe: JsonObject | None = None
    favourite: bool = False
    binned: float | None = None
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    expires: float | None = None
    removed: float | None = None
    deleted: float | None = None
    revision: int = 0

    @property
    def progress(self) -> int:
        """Per cent: of a job that runs at most 99, of one that failed what it had reached."""
        if self.state == "completed":
            return 100
        return min(99, 100 * self.step // self.steps) if self.steps else 0

    @property
    def claim(self) -> Claim | None:
        """Of its worker; ``None`` if it has none."""
        return (
            None if self.worker is None or self.state != "in_progress" else Claim(self.id, self.worker, self.attempts)
        )


@dataclass(frozen=True)
class Claim:
    """A worker's right to a job: it ends when another one begins the job, or when the job is finished."""

    job: str
    worker: str
    attempt: int


@dataclass(frozen=True)
class Upload:
    """A picture or a clip that was sent.

    Attributes:
        id: ``upload_`` and 24 hexadecimal digits; also its file's name.
        owner: the name of the key that sent it.
        kind: ``picture`` or ``clip``.
        bytes: of the file.
        info: ``width``, ``height`` and, of a clip, ``num_frames``, ``fps`` and ``recipe``.
        created: seconds since 1970.
        expires: when it is removed.
    """

    id: str
    owner: str
    kind: str
    bytes: int
    info: dict[str, Any]
    created: float
    expires: float
