"""`/workers`: what a worker on another machine asks of a server, as one on the same machine asks the store.

It is there only where :attr:`ServerConfig.worker_key` is set, and for those alone that send it. Files come with the
word that a job is done, and take their places only if it still is the worker's, so that one that has lost a job
overwrites nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import FileResponse

from videodit.json_types import JsonObject
from videodit.serving.claims import ClaimLost
from videodit.serving.config import ServerLimits
from videodit.serving.delivered import CLIP_FILES, SAID
from videodit.serving.errors import APIError, not_found
from videodit.serving.previews import PREVIEW
from videodit.serving.records import Claim, is_id
from videodit.serving.sources import CLIP, source_file
from videodit.serving.spooling import Spool, spool_body, spool_form
from videodit.serving.state import ServerState, state_of
from videodit.serving.store import JobStore

_LONGEST_WAIT = 30.0  # seconds for which a question for a job stays open
_LOOK = 0.02  # seconds between two looks at the store meanwhile
_ARRIVED = "arrived-{}"  # in a job's folder: the preview that the worker of an attempt has sent
_FORM = ServerLimits(form_parts=1 + len(CLIP_FILES), form_files=1 + len(CLIP_FILES))  # of a finished clip; not clients'
_REACHED = {"stage", "step", "steps", "seconds_left", "preview", "settings", "notices"}

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
    _check_reached(reached)
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


@router.put("/{worker}/jobs/{id}/{attempt}/preview")
async def put_preview(claim: ItsClaim, request: Request, state: State) -> Any:
    """A preview. It takes its place with the beat that tells of it, if the job is still the worker's then."""
    _check_held(claim, state)
    with Spool(state.data.spool) as spool:
        file = await spool_body(request.stream(), spool)
        folder = state.data.job(claim.job) / _ARRIVED.format(claim.attempt)
        folder.mkdir(parents=True, exist_ok=True)
        file.replace(folder / PREVIEW)
    return {}


@router.post("/{worker}/jobs/{id}/{attempt}/complete")
async def complete(claim: ItsClaim, request: Request, state: State) -> Any:
    """A job is done: a form of what is said of it, and of its files, which take their places if it still is the
    worker's."""
    _check_held(claim, state)
    keep = state.config.limits.keep_seconds
    expires = None if keep is None else time.time() + keep
    with Spool(state.data.spool) as spool:
        content_type = request.headers.get("content-type", "")
        files = dict(await spool_form(content_type, request.stream(), spool, _FORM))
        said = _said(files)

        def take(store: JobStore) -> None:
            store.beat(claim, **said["reached"])
            folder = state.data.job(claim.job)
            folder.mkdir(parents=True, exist_ok=True)
            for name in CLIP_FILES:
                if name in files:
                    Path(files[name]).replace(folder / name)
            (folder / PREVIEW).unlink(missing_ok=True)

        try:
            await state.write(take)
        except ClaimLost:
            raise lost(claim) from None
    await asyncio.to_thread(state.data.keep, claim.job)

    def write(store: JobStore) -> bool:
        return store.complete(claim, output=said["output"], recipe=said["recipe"], expires=expires)

    return {"counts": await _ended(claim, state, write)}


def _said(files: dict[str, str | Path]) -> dict[str, JsonObject]:
    """What the form of a finished clip says of it.

    Raises:
        APIError: it is another form.
    """
    if unknown := sorted(files.keys() - {SAID, *CLIP_FILES}):
        raise APIError(400, f"the file is {unknown[0][:64]!r}; valid values are {', '.join((SAID, *CLIP_FILES))}")
    if not all(isinstance(file, Path) for file in files.values()) or SAID not in files or CLIP not in files:
        raise APIError(400, f"the form must hold the files {SAID} and {CLIP}")
    try:
        told = json.loads(Path(files[SAID]).read_bytes())
        said = {name: dict(told[name]) for name in ("output", "recipe", "reached")}
    except (ValueError, TypeError, KeyError) as error:
        raise APIError(400, f"{SAID} must hold output, recipe and reached: {error}") from None
    _check_reached(said["reached"])
    return said


@router.post("/{worker}/jobs/{id}/{attempt}/fail")
async def fail(
    claim: ItsClaim,
    state: State,
    code: Annotated[str, Body()],
    message: Annotated[str, Body()],
    reached: Annotated[dict[str, Any], Body(default_factory=dict)],
) -> Any:
    """A job failed."""
    _check_reached(reached)

    def write(store: JobStore) -> bool:
        with contextlib.suppress(ClaimLost):
            store.beat(claim, **reached)
        return store.fail(claim, code, message)

    return {"counts": await _ended(claim, state, write)}


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


def _check_reached(reached: dict[str, Any]) -> None:
    """See that a beat tells what there is to tell.

    Raises:
        APIError: it tells something else.
    """
    if unknown := sorted(reached.keys() - _REACHED):
        raise APIError(400, f"unknown field {unknown[0]!r}; valid values are {', '.join(sorted(_REACHED))}")


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


async def _ended(claim: Claim, state: ServerState, write: Callable[[JobStore], Any]) -> Any:
    def end(store: JobStore) -> Any:
        result = write(store)
        shutil.rmtree(state.data.job(claim.job) / _ARRIVED.format(claim.attempt), ignore_errors=True)
        state.data.clear(claim.job, store.needs(claim.job))
        return result

    return await state.write(end)
