"""`/workers`: what a worker on another machine asks of a server, as one on the same machine asks the store.

It is there only where :attr:`ServerConfig.worker_key` is set, and for those alone that send it. Files come before the
word that a job is done, each into a folder of its claim, so that a worker that has lost a job overwrites nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import FileResponse

from videodit.json_types import JsonObject
from videodit.serving.claims import ClaimLost
from videodit.serving.errors import APIError, not_found
from videodit.serving.pictures import SPRITESHEET, THUMBNAIL
from videodit.serving.previews import PREVIEW
from videodit.serving.records import Claim, is_id
from videodit.serving.sources import CLIP, source_file
from videodit.serving.spooling import Spool, spool_body
from videodit.serving.state import ServerState, state_of
from videodit.serving.store import JobStore

WORKER_FILES = (CLIP, THUMBNAIL, SPRITESHEET, PREVIEW)
"""What a worker sends of a job."""
_LONGEST_WAIT = 30.0  # seconds for which a question for a job stays open
_LOOK = 0.02  # seconds between two looks at the store meanwhile
_ARRIVED = "arrived-{}"  # in a job's folder: what the worker of an attempt has sent

router = APIRouter(prefix="/workers", include_in_schema=False)
State = Annotated[ServerState, Depends(state_of)]


async def _claim_of(worker: str, id: str, attempt: int) -> Claim:
    if not is_id(id, "video"):
        raise not_found(f"video {id[:64]!r}")
    return Claim(id, worker, attempt)


ItsClaim = Annotated[Claim, Depends(_claim_of)]


@router.post("/{worker}/claim")
async def claim(
    worker: str,
    request: Request,
    state: State,
    models: Annotated[list[str], Body()],
    wait: Annotated[float, Body(ge=0, le=_LONGEST_WAIT)] = 0,
) -> Any:
    """The first job that waits, once there is one; none after some seconds."""
    end, job = time.monotonic() + wait, None
    while True:
        if state.store.has_work(models) and not await request.is_disconnected():
            job = await state.write(lambda store: store.claim(worker, models))
        if job is not None or time.monotonic() >= end:
            break
        await asyncio.sleep(_LOOK)
    told = None if job is None else dataclasses.asdict(job)
    return {"job": told, "lease": state.config.lease_seconds}


@router.post("/{worker}/jobs/{id}/{attempt}/beat")
async def beat(claim: ItsClaim, state: State, reached: Annotated[dict[str, Any], Body(embed=True)]) -> Any:
    """A sign of life, and what the job has reached."""
    fields = {"stage", "step", "steps", "seconds_left", "preview", "settings", "notices"}
    if unknown := sorted(reached.keys() - fields):
        raise APIError(400, f"unknown field {unknown[0]!r}; valid values are {', '.join(sorted(fields))}")
    if "preview" in reached:
        arrived = state.data.job(claim.job) / _ARRIVED.format(claim.attempt) / PREVIEW
        with contextlib.suppress(FileNotFoundError):
            arrived.replace(state.data.job(claim.job) / PREVIEW)
    try:
        return dataclasses.asdict(await state.write(lambda store: store.beat(claim, **reached)))
    except ClaimLost:
        shutil.rmtree(state.data.job(claim.job) / _ARRIVED.format(claim.attempt), ignore_errors=True)
        raise lost(claim) from None


@router.get("/{worker}/jobs/{id}/{attempt}/sources/{source}")
async def source(claim: ItsClaim, source: str, state: State) -> Any:
    """A file that a job starts from."""
    try:
        path = source_file(state.data, claim.job, source)
    except ValueError:
        raise not_found(f"file {source[:64]!r}") from None
    if not path.is_file():
        raise not_found(f"file {source!r}")
    return FileResponse(path, media_type="application/octet-stream")


@router.put("/{worker}/jobs/{id}/{attempt}/files/{name}")
async def put_file(claim: ItsClaim, name: str, request: Request, state: State) -> Any:
    """A file of the finished clip, or a preview."""
    if name not in WORKER_FILES:
        raise APIError(400, f"the file is {name[:64]!r}; valid values are {', '.join(WORKER_FILES)}")
    _check_held(claim, state)
    with Spool(state.data.spool) as spool:
        file = await spool_body(request.stream(), spool)
        folder = state.data.job(claim.job) / _ARRIVED.format(claim.attempt)
        folder.mkdir(parents=True, exist_ok=True)
        file.replace(folder / name)
    return {}


@router.post("/{worker}/jobs/{id}/{attempt}/complete")
async def complete(
    claim: ItsClaim, state: State, output: Annotated[dict[str, Any], Body()], recipe: Annotated[dict[str, Any], Body()]
) -> Any:
    """A job is done; what was sent of it takes its place."""
    keep = state.config.limits.keep_seconds
    expires = None if keep is None else time.time() + keep

    def take(store: JobStore) -> bool:
        try:
            store.beat(claim)
        except ClaimLost:
            return False
        _take_files(state.data.job(claim.job), claim)
        return True

    if await state.write(take):
        await asyncio.to_thread(state.data.keep, claim.job)

    def write(store: JobStore) -> bool:
        return store.complete(claim, output=output, recipe=recipe, expires=expires)

    return {"counts": await _ended(claim, state, write)}


@router.post("/{worker}/jobs/{id}/{attempt}/fail")
async def fail(claim: ItsClaim, state: State, code: Annotated[str, Body()], message: Annotated[str, Body()]) -> Any:
    """A job failed."""
    return {"counts": await _ended(claim, state, lambda store: store.fail(claim, code, message))}


@router.post("/{worker}/jobs/{id}/{attempt}/put_back")
async def put_back(claim: ItsClaim, state: State) -> Any:
    """A job is to be begun by another worker, since this one was asked to end."""
    return {"state": await _ended(claim, state, lambda store: store.put_back(claim, counted=False))}


@router.post("/{worker}/publish")
async def publish(
    worker: str,
    state: State,
    is_now: Annotated[Literal["starting", "ready", "gone"] | None, Body()] = None,
    cards: Annotated[dict[str, dict[str, Any]] | None, Body()] = None,
    problems: Annotated[dict[str, str] | None, Body()] = None,
    machine: Annotated[dict[str, Any] | None, Body()] = None,
) -> Any:
    """What a worker is, and what its models are."""

    def write(store: JobStore) -> None:
        for name, card in (cards or {}).items():
            store.publish(name, card)
        for name, problem in (problems or {}).items():
            store.publish_problem(name, problem)
        if machine is not None:
            store.publish_machine(worker, machine)
        if is_now is not None:
            store.set_worker(worker, None if is_now == "gone" else is_now)

    await state.write(write)
    return {}


@router.get("/queue")
async def queue(state: State) -> JsonObject:
    """How many jobs wait or run: workers come and go by it."""
    return {name: state.store.count(name) for name in ("queued", "in_progress")}


def lost(claim: Claim) -> APIError:
    """A job is no longer a worker's."""
    return APIError(409, f"the claim of {claim.worker!r} on {claim.job} is lost", code="claim_lost")


def _check_held(claim: Claim, state: ServerState) -> None:
    """See that a job is a worker's before its file is read.

    Raises:
        APIError: it is not.
    """
    job = state.store.get(claim.job)
    if job is None or job.claim != claim:
        raise lost(claim)


async def _ended(claim: Claim, state: ServerState, write: Any) -> Any:
    result = await state.write(write)

    def clear(store: JobStore) -> None:
        shutil.rmtree(state.data.job(claim.job) / _ARRIVED.format(claim.attempt), ignore_errors=True)
        state.data.clear(claim.job, store.needs(claim.job))

    await state.write(clear)
    return result


def _take_files(folder: Path, claim: Claim) -> None:
    arrived = folder / _ARRIVED.format(claim.attempt)
    for name in (THUMBNAIL, SPRITESHEET, CLIP):
        with contextlib.suppress(FileNotFoundError):
            (arrived / name).replace(folder / name)
    (folder / PREVIEW).unlink(missing_ok=True)
