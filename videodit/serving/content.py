"""`/v1/videos/{id}/content`: a finished clip's file, its small pictures, and the clip as an animated picture."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse, Response

from videodit.serving.documented import ERRORS
from videodit.serving.errors import APIError, not_found
from videodit.serving.pictures import SPRITESHEET, THUMBNAIL
from videodit.serving.preparing import find_job
from videodit.serving.previews import PREVIEW
from videodit.serving.sources import CLIP
from videodit.serving.state import ServerState, owner_of, state_of

router = APIRouter(prefix="/v1", responses=ERRORS)
Variant = Literal["video", "thumbnail", "spritesheet", "gif", "webp"]
_FILES: dict[Variant, tuple[str, str]] = {
    "video": (CLIP, "video/mp4"),
    "thumbnail": (THUMBNAIL, "image/webp"),
    "spritesheet": (SPRITESHEET, "image/webp"),
    "gif": ("video.gif", "image/gif"),
    "webp": ("video.webp", "image/webp"),
}
_ANIMATED = ("gif", "webp")
_LONGEST = 300.0  # seconds that an animated picture may take
_AT_ONCE = 2
_making: dict[Path, asyncio.Task[None]] = {}
_BINARY = {"type": "string", "format": "binary"}
_files = {media: {"schema": _BINARY} for _, media in _FILES.values()}
_WATCHED = 10.0  # seconds for which previews are drawn after one was asked for


@router.get(
    "/videos/{id}/content",
    response_class=FileResponse,
    responses={200: {"content": _files, "description": "The file"}},
)
async def content(
    id: str,
    state: Annotated[ServerState, Depends(state_of)],
    owner: Annotated[str, Depends(owner_of)],
    variant: Variant = "video",
) -> Any:
    """The file of a finished clip."""
    job = find_job(id, owner, state)
    name, media = _FILES[variant]
    folder = state.data.job(job.id)
    path = folder / name
    if job.state == "completed" and state.data.outputs is not None:
        await asyncio.to_thread(state.data.fetch, job.id, CLIP)
    if job.state != "completed" or not (folder / CLIP).is_file():
        why = f"it is {job.state}" if job.state != "completed" else "its file was removed"
        raise APIError(404, f"video {job.id} has no file: {why}", code="not_ready")
    if variant in _ANIMATED and not path.is_file():
        await _animate(folder / CLIP, path)
        if state.store.get(job.id, owner) is None:  # deleted meanwhile
            state.data.remove_job(job.id)
            raise not_found(f"video {job.id!r}")
    try:
        found = path.stat()
    except FileNotFoundError:  # some clips have none, and any may be deleted meanwhile
        raise APIError(404, f"video {job.id} has no {variant}", code="not_found") from None
    suffix = Path(name).suffix
    filename = f"{job.id}{suffix}" if variant in ("video", *_ANIMATED) else f"{job.id}-{variant}{suffix}"
    headers = {"X-Content-Type-Options": "nosniff"}
    return FileResponse(path, media_type=media, filename=filename, headers=headers, stat_result=found)


@router.get(
    "/videos/{id}/preview",
    response_class=FileResponse,
    responses={200: {"content": {"image/webp": {"schema": _BINARY}}, "description": "The file"}},
)
async def preview(
    id: str, state: Annotated[ServerState, Depends(state_of)], owner: Annotated[str, Depends(owner_of)]
) -> Any:
    """The newest preview of a clip that is being made; they are drawn while somebody listens to the events or asks."""
    job = find_job(id, owner, state)
    await state.write(lambda store: store.watch("previews", _WATCHED))
    path = state.data.job(job.id) / PREVIEW
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise APIError(404, f"video {job.id} has no preview: it is {job.state}", code="not_ready") from None
    return Response(content, media_type="image/webp", headers={"X-Content-Type-Options": "nosniff"})


async def _animate(clip: Path, path: Path) -> None:
    """Make an animated picture of a clip in a process of its own; who asks for the same meanwhile waits for it, too.

    Raises:
        APIError: it failed, or too many are made at once.
    """
    task = _making.get(path)
    if task is None:
        if len(_making) >= _AT_ONCE:
            why = "other animated pictures are being made; ask again"
            raise APIError(429, why, code="busy", headers={"Retry-After": "5"})
        task = _making[path] = asyncio.create_task(_run(clip, path))
        task.add_done_callback(lambda _: _making.pop(path, None))
    await asyncio.shield(task)


async def _run(clip: Path, path: Path) -> None:
    command = (sys.executable, "-m", "videodit.serving.animating", str(clip), str(path))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, cwd=clip.parent
    )
    try:
        code = await asyncio.wait_for(process.wait(), _LONGEST)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code:
        raise APIError(500, f"the clip could not be written as {path.suffix[1:]}", code="internal_error")
