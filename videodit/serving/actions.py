"""What a user does with jobs that wait: change, move, pause and repeat them."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict

from videodit.serving.bodies import read_body
from videodit.serving.documented import ERRORS, VideoAnswer, body_of
from videodit.serving.errors import APIError
from videodit.serving.records import Job
from videodit.serving.requests import CreateVideo, merged
from videodit.serving.store import JobStore
from videodit.serving.videos import Owner, State, add_jobs, as_video, find_job, keep_sources_of, new_job, source_gone

router = APIRouter(prefix="/v1", responses=ERRORS)
MOST_COPIES = 64


class Move(BaseModel):
    """Where a job goes: before another one, or behind all others of the same key."""

    model_config = ConfigDict(extra="forbid")
    before: str | None = None


def _no_longer_waits(job: Job) -> APIError:
    return APIError(409, f"video {job.id} is not queued any more: it is {job.state}", code="not_queued")


@router.patch("/videos/{id}", openapi_extra=body_of(CreateVideo), responses={200: {"model": VideoAnswer}})
async def change(id: str, request: Request, state: State, owner: Owner) -> Any:
    """Change a clip that waits: the fields that are sent take the place of those of its request."""
    job = find_job(id, owner, state)
    body = await read_body(request, state, owner)
    fields = merged(job.extra.get("body", {}), body)
    new = new_job(fields, state, owner, kind=job.kind, parent=job.parent, again=job)

    def write(store: JobStore) -> bool:
        keep_sources_of(new, id, state)
        changed = store.replan(id, new)
        state.data.clear(id, store.needs(id))  # of a job that was deleted meanwhile nothing comes back
        return changed

    try:
        changed = await state.write(write)
    except FileNotFoundError:
        raise source_gone() from None
    job = find_job(id, owner, state)
    if not changed:
        raise _no_longer_waits(job)
    return as_video(job, state)


@router.post("/videos/{id}/copy")
async def copy(id: str, state: State, owner: Owner, count: Annotated[int, Query(ge=1, le=MOST_COPIES)] = 1) -> Any:
    """Ask for a clip again, with other seeds."""
    job = find_job(id, owner, state)
    body = job.extra.get("body", {})
    bodies = [body | {"seed": secrets.randbelow(2**31)} for _ in range(count)]
    copies = [new_job(one, state, owner, kind=job.kind, parent=job.parent, again=job) for one in bodies]
    return {"object": "list", "data": [as_video(one, state) for one in await add_jobs(copies, state)]}


@router.post("/videos/{id}/move")
async def move(id: str, to: Move, state: State, owner: Owner) -> Any:
    """Make a clip that waits come earlier or later, among the own ones."""
    job = find_job(id, owner, state)
    if to.before is not None:
        find_job(to.before, owner, state)
    if not await state.write(lambda store: store.move(job.id, owner, to.before)):
        raise _no_longer_waits(find_job(id, owner, state))
    return as_video(find_job(id, owner, state), state)


@router.post("/videos/{id}/pause")
async def pause(id: str, state: State, owner: Owner) -> Any:
    """Have a clip that waits be passed over until it is resumed."""
    return await _pause(id, state, owner, paused=True)


@router.post("/videos/{id}/resume")
async def resume(id: str, state: State, owner: Owner) -> Any:
    """Undo a pause."""
    return await _pause(id, state, owner, paused=False)


async def _pause(id: str, state: State, owner: str, *, paused: bool) -> Any:
    job = find_job(id, owner, state)
    if not await state.write(lambda store: store.pause(job.id, paused)):
        raise _no_longer_waits(find_job(id, owner, state))
    return as_video(find_job(id, owner, state), state)
