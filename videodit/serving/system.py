"""`GET /v1/system`: what makes the clips here, and how much of it there is. No path, and nobody's name."""

from __future__ import annotations

import shutil
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

import videodit
from videodit.serving.documented import ERRORS
from videodit.serving.state import ServerState, owner_of, state_of

router = APIRouter(prefix="/v1", responses=ERRORS)
_LIMITS = ("queue", "pixels", "frames", "seconds", "steps", "body_bytes", "keep_seconds", "bin_seconds")
"""Those limits that a person who asks for clips wants to know."""


@router.get("/system")
async def system(
    request: Request,
    state: Annotated[ServerState, Depends(state_of)],
    owner: Annotated[str, Depends(owner_of)],
) -> Any:
    """The machine's devices, memory and versions, the queue and its limits, and the room that is left."""
    limits, disk = state.config.limits, shutil.disk_usage(state.data.path)
    return {
        "object": "system",
        "version": videodit.__version__,
        "uptime_seconds": int(time.monotonic() - state.started),
        "owner": owner,
        "needs_key": not state.keys.is_empty or not state.config.is_local,
        "workers": request.app.state.supervisor.report,
        "machines": list(state.store.machines().values()),
        "queue": {
            "waiting": state.store.count("queued"),
            "running": state.store.count("in_progress"),
            "limit": limits.queue,
            "own_limit": state.owner_limit(owner),
        },
        "storage": {
            "own_bytes": state.uploads.own_bytes(owner),
            "own_limit_bytes": limits.owner_bytes,
            "free_bytes": disk.free,
            "disk_bytes": disk.total,
        },
        "limits": {name: getattr(limits, name) for name in _LIMITS},
    }
