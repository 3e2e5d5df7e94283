"""`GET /v1/events`: one stream of server-sent events for all jobs of a key.

Events are states, not steps in between: ``video`` holds a job as ``GET /v1/videos/{id}`` does, with ``deleted`` where
it is gone, and its id is a revision of the store. Whoever comes back with ``Last-Event-ID`` gets each job that changed
meanwhile once, as it is now. ``queue`` says where the own jobs stand that wait.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from sse_starlette import EventSourceResponse, ServerSentEvent

from videodit.serving.documented import ERRORS
from videodit.serving.state import ServerState
from videodit.serving.videos import Owner, State, as_video

router = APIRouter(prefix="/v1", responses=ERRORS)
_PING = 15  # seconds between comments that keep a quiet stream open


async def changes(state: ServerState, owner: str, after: int | None) -> AsyncIterator[ServerSentEvent]:
    """The events of an owner, without an end.

    Args:
        state: of the server.
        owner: whose jobs.
        after: the revision that was seen last; ``None`` begins with the jobs that are not finished.
    """
    async with state.hub.stream():
        if after is None:
            after = state.store.revision
            for job in state.store.unfinished(owner):
                yield _event(state, job, job.revision)
        yield ServerSentEvent(event="open", data=json.dumps({"revision": after}), id=str(after))
        positions: dict[str, int] = {}
        seen = -1
        while True:
            jobs = state.store.changes(after, owner)
            for job in jobs:
                after = job.revision
                yield _event(state, job, after)
            if len(jobs) > 0:
                continue
            if (now := state.store.queue_positions(owner)) != positions:
                positions = now
                yield ServerSentEvent(event="queue", data=json.dumps({"positions": positions}))
            seen = await state.hub.wait(seen)


def _event(state: ServerState, job: Any, revision: int) -> ServerSentEvent:
    video = as_video(job, state) if job.deleted is None else {"id": job.id, "object": "video", "deleted": True}
    return ServerSentEvent(event="video", data=json.dumps(video), id=str(revision))


@router.get("/events")
async def events(
    request: Request,
    state: State,
    owner: Owner,
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
    after: Annotated[int | None, Query(ge=0)] = None,
) -> Any:
    """A stream of changes; ``after`` is for clients that cannot send the header ``Last-Event-ID``."""
    state.hub.check_room()
    since = last_event_id if last_event_id is not None else after
    if since is not None and not state.store.forgotten <= since <= state.store.revision:
        since = None  # of another server's store, or so old that deletions since then are not known any more
    return EventSourceResponse(changes(state, owner, since), ping=_PING)
