"""`/v1/videos`: the contract of OpenAI's SDK, which the open servers speak, and what this server adds to it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from videodit.json_types import JsonObject
from videodit.serving.answers import POLL_HEADER, as_video
from videodit.serving.bodies import forget_files, read_body
from videodit.serving.control_pictures import show_controls
from videodit.serving.documented import ERRORS, ControlsAnswer, VideoAnswer, VideoDeleted, VideoList, VideoPlan, body_of
from videodit.serving.errors import APIError, not_found
from videodit.serving.estimates import estimate
from videodit.serving.finding import Found, Sort
from videodit.serving.preparing import find_job, new_job, remixed
from videodit.serving.records import Job, Kind, is_id
from videodit.serving.requests import CreateVideo, EditVideo, ExtendVideo, PlanVideo, RemixVideo
from videodit.serving.sources import fetch_clips, keep_sources, original_file
from videodit.serving.state import ServerState, owner_of, queue_full, state_of
from videodit.serving.store import Answered, JobStore, QueueFull

__all__ = ["Owner", "State", "add_jobs", "as_video", "find_job", "new_job", "router"]

router = APIRouter(prefix="/v1", responses=ERRORS)
State = Annotated[ServerState, Depends(state_of)]
Owner = Annotated[str, Depends(owner_of)]


async def add_jobs(jobs: Sequence[Job], state: ServerState, answer: tuple[str, str] | None = None) -> list[Job]:
    """Put jobs of one owner into the queue, all or none, with what they start from in their folders.

    The gate has seen that the disk has room.

    Args:
        jobs: of :func:`videodit.serving.preparing.new_job`; one, where there is an answer.
        state: of the server.
        answer: see :meth:`videodit.serving.store.JobStore.add`.

    Returns:
        The jobs, or the one that was added before with the same answer.

    Raises:
        APIError: the queue is full, what they start from is gone, or the key of the answer was used for something else.
    """
    owner = jobs[0].owner
    most, own = state.config.limits.queue, state.owner_limit(owner)

    def write(store: JobStore) -> list[Job]:
        if answer is not None and (before := _answered(answer, owner, store)) is not None:
            return [before]
        store.check_room(owner, queue_limit=most, owner_limit=own, more=len(jobs))
        added = list[Job]()
        try:
            for job in jobs:
                keep_sources_of(job, job.id, state)
            for job in jobs:
                added.append(store.add(job, queue_limit=most, owner_limit=own, answer=answer))
        except BaseException:
            for job in jobs[len(added) :]:
                state.data.remove_job(job.id)
            raise
        return added

    try:
        if state.data.outputs is not None:  # before the thread that writes, for which others wait
            for job in jobs:
                await asyncio.to_thread(fetch_clips, state.data, _keepers(job))
        try:
            return await state.write(write)
        except Answered:
            return await state.write(write)  # which finds the answer
    except FileNotFoundError:
        raise source_gone() from None
    except QueueFull as full:
        raise queue_full(full) from None


def keep_sources_of(job: Job, id: str, state: ServerState) -> None:
    """Link what a job starts from into the folder of the job with that id.

    Raises:
        FileNotFoundError: one is gone.
    """
    keep_sources(state.data, id, _keepers(job))


def _keepers(job: Job) -> dict[str, str | None]:
    """What a job starts from, and for each the job that has kept it."""
    return {one: said.get("kept_by") for one, said in job.extra.get("sources", {}).items()}


def source_gone() -> APIError:
    """A file that a job starts from was removed between two looks."""
    return APIError(404, "what the clip starts from is gone", code="not_found")


def _answered(answer: tuple[str, str], owner: str, store: JobStore) -> Job | None:
    """The job of an earlier request with the same ``Idempotency-Key``.

    Args:
        answer: the key, and the fingerprint of the request.
        owner: who asks.
        store: to look at.

    Raises:
        APIError: it was another request, or its job was deleted.
    """
    key, fingerprint = answer
    if (before := store.answered(owner, key)) is None:
        return None
    if before[0] != fingerprint:
        why = "this Idempotency-Key was sent before with another request; send a new key"
        raise APIError(409, why, code="idempotency_key_reused")
    if (job := store.get(before[1], owner)) is None:
        why = "the video of this Idempotency-Key was deleted; send a new key"
        raise APIError(409, why, code="idempotency_key_reused")
    return job


# ---- asking for clips ----------------------------------------------------------------------------


async def _take(
    request: Request, body: JsonObject, state: ServerState, owner: str, kind: Kind, parent: str | None = None
) -> JsonObject:
    """A job from a body. The same body under the same ``Idempotency-Key`` is the same job."""
    answer, key = None, request.headers.get("idempotency-key")
    if key is not None:
        if not 0 < len(key) <= 255:
            raise APIError(400, "Idempotency-Key must have 1 to 255 characters", code="invalid_value")
        answer = (key, await asyncio.to_thread(_fingerprint, request.url.path, body, state))
        if (before := _answered(answer, owner, state.store)) is not None:
            forget_files(request, state)
            return as_video(before, state)
    job = new_job(body, state, owner, kind=kind, parent=parent)
    (taken,) = await add_jobs([job], state, answer)
    if taken.id != job.id:
        forget_files(request, state)
    return as_video(taken, state)


def _fingerprint(path: str, body: JsonObject, state: ServerState) -> str:
    """Of a request; files that come along are told by what is in them, since each has another id."""

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {"id"} and isinstance(value["id"], str) and is_id(value["id"], "upload"):
                file = original_file(state.data, value["id"])
                if file.is_file():
                    with file.open("rb") as opened:
                        digest = hashlib.sha256()
                        while block := opened.read(2**20):
                            digest.update(block)
                    return {"sha256": digest.hexdigest()}
            return {key: told(one) for key, one in value.items()}
        return [told(one) for one in value] if isinstance(value, list) else value

    return hashlib.sha256(f"{path}\n{json.dumps(told(body), sort_keys=True)}".encode()).hexdigest()


@router.post("/videos", openapi_extra=body_of(CreateVideo), responses={200: {"model": VideoAnswer}})
async def create(request: Request, state: State, owner: Owner) -> Any:
    """Ask for a clip."""
    return await _take(request, await read_body(request, state, owner), state, owner, "create")


@router.post("/videos/edits", openapi_extra=body_of(EditVideo), responses={200: {"model": VideoAnswer}})
async def edit(request: Request, state: State, owner: Owner) -> Any:
    """Ask for a clip made into another."""
    return await _take(request, await read_body(request, state, owner), state, owner, "edit")


@router.post("/videos/extensions", openapi_extra=body_of(ExtendVideo), responses={200: {"model": VideoAnswer}})
async def extend(request: Request, state: State, owner: Owner) -> Any:
    """Ask for what comes after a clip, or before it."""
    return await _take(request, await read_body(request, state, owner), state, owner, "extension")


@router.post("/videos/{id}/remix", openapi_extra=body_of(RemixVideo), responses={200: {"model": VideoAnswer}})
async def remix(id: str, request: Request, state: State, owner: Owner) -> Any:
    """Ask for a clip again from another prompt, with the same seed and settings."""
    before = find_job(id, owner, state)
    body = remixed(before, await read_body(request, state, owner))
    return await _take(request, body, state, owner, "remix", before.id)


@router.post("/videos/plan", openapi_extra=body_of(PlanVideo), responses={200: {"model": VideoPlan}})
async def plan(request: Request, state: State, owner: Owner) -> Any:
    """Say what would be made, and make nothing."""
    task, job = _planned(await read_body(request, state, owner), state, owner)
    video = as_video(job, state)
    return {
        "object": "video.plan",
        "task": task,
        **{name: video[name] for name in ("model", "prompt", "seconds", "size", "seed", "settings", "notices")},
        "estimate": estimate(job, state),
    }


@router.post("/videos/controls", openapi_extra=body_of(PlanVideo), responses={200: {"model": ControlsAnswer}})
async def controls(request: Request, state: State, owner: Owner) -> Any:
    """Show what the model would see of the controls of a request, and make nothing."""
    _, job = _planned(await read_body(request, state, owner), state, owner)
    return {"object": "video.controls", **await show_controls(job, state)}


def _planned(body: JsonObject, state: ServerState, owner: str) -> tuple[str, Job]:
    """The task of a body, and the job that it would be.

    Raises:
        APIError: what cannot be made.
    """
    task, parent = body.pop("task", "create"), None
    if task not in ("create", "edit", "extension", "remix"):
        why = f"task is {str(task)[:100]!r}; valid values are create, edit, extension, remix"
        raise APIError(400, why, code="invalid_value", param="task")
    if task == "remix":
        video = body.pop("video", None)
        named = video.get("id") if isinstance(video, dict) else None
        if not isinstance(named, str):
            why = "video must be the id of the clip that is remixed"
            raise APIError(400, why, code="invalid_value", param="video")
        before = find_job(named, owner, state)
        body, parent = remixed(before, body), before.id
    return task, new_job(body, state, owner, kind=task, parent=parent)


# ---- looking at them -----------------------------------------------------------------------------


@router.get("/videos", responses={200: {"model": VideoList}})
async def list_videos(
    state: State,
    owner: Owner,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    query: Annotated[
        str | None, Query(max_length=500, description="Words of prompts, a size, a model, a LoRA, or `seed=7`.")
    ] = None,
    status: Literal["queued", "in_progress", "completed", "failed"] | None = None,
    favourite: bool | None = None,
    binned: Annotated[bool, Query(description="What is in the bin, in place of what is not.")] = False,
    sort: Annotated[Sort, Query(description="What they are ordered by.")] = "created",
) -> Any:
    """The clips of this key, a page at a time."""
    found = Found(query=query, status=status, favourite=favourite, binned=binned, sort=sort)

    def look(store: JobStore) -> tuple[list[Job], bool]:
        return store.page(owner, after=after, limit=limit, order=order, found=found)

    try:  # what looks at every job of the owner does so in a thread, so that neither polls nor writes wait for it
        jobs, more = await state.search(look) if found.reads_all else look(state.store)
    except KeyError:
        raise not_found(f"video {str(after)[:64]!r} to go on after") from None
    videos = [as_video(job, state) for job in jobs]
    return {
        "object": "list",
        "data": videos,
        "has_more": more,
        "first_id": videos[0]["id"] if videos else None,
        "last_id": videos[-1]["id"] if videos else None,
    }


@router.get("/videos/{id}", responses={200: {"model": VideoAnswer}})
async def retrieve(id: str, response: Response, state: State, owner: Owner) -> Any:
    """What became of a clip."""
    job = find_job(id, owner, state)
    response.headers.update(POLL_HEADER)
    return as_video(job, state)


# ---- changing them -------------------------------------------------------------------------------


@router.delete("/videos/{id}", responses={200: {"model": VideoDeleted}})
async def delete(id: str, state: State, owner: Owner) -> Any:
    """Delete a clip; one that is being made is stopped."""
    job = find_job(id, owner, state)

    def write(store: JobStore) -> None:
        store.delete(job.id)
        state.data.clear(job.id, store.needs(job.id))  # those of one that is being made are its worker's to remove

    await state.write(write)
    return {"id": job.id, "deleted": True, "object": "video.deleted"}


@router.post("/videos/{id}/cancel", responses={200: {"model": VideoAnswer}})
async def cancel(id: str, state: State, owner: Owner, keep: bool = False) -> Any:
    """Stop a clip; with ``keep``, what is finished of a long one stays."""
    job = find_job(id, owner, state)
    cancelled = await state.write(lambda store: store.cancel(job.id, "keep" if keep else "drop"))
    return as_video(cancelled or job, state)


class Favourite(BaseModel):
    """Whether a clip is a favourite."""

    model_config = ConfigDict(extra="forbid")
    favourite: bool = True


class Binned(BaseModel):
    """Whether a clip is in the bin."""

    model_config = ConfigDict(extra="forbid")
    binned: bool = True


@router.post("/videos/{id}/favourite", responses={200: {"model": VideoAnswer}})
async def mark_favourite(id: str, state: State, owner: Owner, mark: Favourite | None = None) -> Any:
    """Mark a clip, or take the mark away."""
    job = find_job(id, owner, state)
    favourite = mark is None or mark.favourite
    marked = await state.write(lambda store: store.mark(job.id, favourite=favourite))
    return as_video(marked or job, state)


@router.post("/videos/{id}/bin", responses={200: {"model": VideoAnswer}})
async def put_into_bin(id: str, state: State, owner: Owner, mark: Binned | None = None) -> Any:
    """Put a clip into the bin, or take it out."""
    job = find_job(id, owner, state)
    binned = mark is None or mark.binned
    marked = await state.write(lambda store: store.mark(job.id, binned=binned))
    return as_video(marked or job, state)
