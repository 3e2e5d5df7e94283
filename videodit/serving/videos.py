"""`/v1/videos`: the contract of OpenAI's SDK, which the open servers speak, and what this server adds to it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import ValidationError

from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.pipelines.planning import plan
from videodit.pipelines.request import Inputs
from videodit.pipelines.request import Request as ClipRequest
from videodit.serving.bodies import read_body
from videodit.serving.cards import Card
from videodit.serving.errors import APIError, not_found
from videodit.serving.making import CLIP
from videodit.serving.records import Job, is_id, new_id
from videodit.serving.requests import CreateVideo
from videodit.serving.state import ServerState, owner_of, state_of
from videodit.serving.store import QueueFull

router = APIRouter(prefix="/v1")
State = Annotated[ServerState, Depends(state_of)]
Owner = Annotated[str, Depends(owner_of)]
POLL_HEADER = {"openai-poll-after-ms": "500"}


def as_video(job: Job, state: ServerState) -> JsonObject:
    """A job as clients see it: the SDK's ``Video``, and beside its fields our own."""
    settings, output = job.settings, job.output or {}
    frames, fps = output.get("num_frames", settings.get("num_frames")), output.get("fps", settings.get("fps"))
    return {
        "id": job.id,
        "object": "video",
        "model": job.model,
        "status": job.state,
        "progress": job.progress,
        "prompt": job.request.get("prompt") if isinstance(job.request.get("prompt"), str) else None,
        "seconds": f"{frames / fps:.6g}" if frames and fps else None,
        "size": f"{settings['width']}x{settings['height']}" if "width" in settings else None,
        "created_at": int(job.created),
        "completed_at": None if job.finished is None or job.state != "completed" else int(job.finished),
        "expires_at": None if job.expires is None else int(job.expires),
        "remixed_from_video_id": job.parent if job.kind == "remix" else None,
        "error": job.error,
        # ours
        "kind": job.kind,
        "parent": job.parent,
        "seed": settings.get("seed"),
        "settings": settings,
        "notices": job.notices,
        "stage": job.stage,
        "step": job.step,
        "steps": job.steps,
        "seconds_left": job.seconds_left,
        "queue_position": state.store.queue_position(job),
        "paused": job.paused,
        "cancelling": job.cancel is not None and job.state == "in_progress",
        "attempts": job.attempts,
        "favourite": job.favourite,
        "binned_at": None if job.binned is None else int(job.binned),
        "bytes": output.get("bytes"),
        "complete": output.get("complete"),
        "revision": job.revision,
    }


def plan_request(request: ClipRequest, card: Card, state: ServerState) -> tuple[JsonObject, list[str]]:
    """Check a request by the model's card, without reading media.

    Returns:
        Settings of a job, and what differs from what was asked for.

    Raises:
        APIError: what cannot be made, or is above a limit.
    """
    numbers = dataclasses.replace(request, image=None, last_image=None, conditions=())
    try:
        planned = plan(numbers, Inputs(), card.spec)
    except InputError as error:
        raise APIError(400, str(error), code="invalid_value") from None
    settings = {
        "width": planned.width,
        "height": planned.height,
        "num_frames": planned.num_frames,
        "fps": float(planned.fps),
        "steps": planned.steps_taken,
        "guidance_scale": planned.guidance_scale,
        "seed": request.seed,
        **planned.estimate,
    }
    state.check_limits(settings)
    return settings, planned.notices


def add_job(job: Job, state: ServerState, answer: tuple[str, str] | None = None) -> Job:
    """Put a job into the queue.

    Raises:
        APIError: the queue is full, or the room for clips.
    """
    if state.data.full:
        why = "no room is left: favourites and uploads have all that the operator allows; delete some"
        raise APIError(507, why, code="storage_full", headers={"Retry-After": "60"})
    limits = state.config.limits
    try:
        return state.store.add(job, queue_limit=limits.queue, owner_limit=limits.per_key, answer=answer)
    except QueueFull as full:
        raise APIError(429, str(full), code="queue_full", headers={"Retry-After": "5"}) from None


def find_job(id: str, owner: str, state: ServerState) -> Job:
    """A job of this owner.

    Raises:
        APIError: there is none of that id.
    """
    job = state.store.get(id, owner) if is_id(id, "video") else None
    if job is None:
        raise not_found(f"video {id[:64]!r}")
    return job


@router.post("/videos")
async def create(request: Request, state: State, owner: Owner) -> Any:
    """Ask for a clip."""
    body = await read_body(request, state, owner)
    try:
        asked = CreateVideo.model_validate(body)
        card = state.card(asked.model)
        made = asked.as_request(card.name)
    except ValidationError as error:
        raise APIError(400, _first_error(error), code="invalid_value", param=_first_place(error)) from None
    except InputError as error:
        raise APIError(400, str(error), code="invalid_value") from None
    settings, notices = plan_request(made, card, state)
    job = Job(
        id=new_id("video"),
        owner=owner,
        model=card.name,
        request=made.to_json(),
        settings=settings,
        notices=notices,
    )
    return as_video(add_job(job, state), state)


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{_first_place(error)}: {first['msg']}"


def _first_place(error: ValidationError) -> str:
    return ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"])) or "body"


@router.get("/videos")
async def list_videos(
    state: State,
    owner: Owner,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Any:
    """The clips of this key, a page at a time."""
    try:
        jobs, more = state.store.page(owner, after=after, limit=limit, order=order)
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


@router.get("/videos/{id}")
async def retrieve(id: str, response: Response, state: State, owner: Owner) -> Any:
    """What became of a clip."""
    job = find_job(id, owner, state)
    response.headers.update(POLL_HEADER)
    return as_video(job, state)


@router.get("/videos/{id}/content")
async def content(id: str, state: State, owner: Owner, variant: Literal["video"] = "video") -> Any:
    """The file of a finished clip."""
    job = find_job(id, owner, state)
    path = state.data.job(job.id) / CLIP
    if job.state != "completed" or not path.is_file():
        raise APIError(404, f"video {job.id} has no file: it is {job.state}", code="not_ready")
    return FileResponse(
        path, media_type="video/mp4", filename=f"{job.id}.mp4", headers={"X-Content-Type-Options": "nosniff"}
    )


@router.delete("/videos/{id}")
async def delete(id: str, state: State, owner: Owner) -> Any:
    """Delete a clip; one that is being made is stopped."""
    job = find_job(id, owner, state)
    state.store.delete(job.id)
    if job.state != "in_progress":
        state.data.remove_job(job.id)
    return {"id": job.id, "deleted": True, "object": "video.deleted"}


@router.post("/videos/{id}/cancel")
async def cancel(id: str, state: State, owner: Owner, keep: bool = False) -> Any:
    """Stop a clip; with ``keep``, what is finished of a long one stays."""
    job = find_job(id, owner, state)
    return as_video(state.store.cancel(job.id, "keep" if keep else "drop") or job, state)
