"""`/v1/uploads`: pictures and clips that requests name by their ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from videodit.json_types import JsonObject
from videodit.serving.documented import ERRORS
from videodit.serving.errors import APIError
from videodit.serving.records import Upload
from videodit.serving.spooling import Spool, spool_body, spool_form
from videodit.serving.state import ServerState, owner_of, state_of

router = APIRouter(prefix="/v1", responses=ERRORS)
State = Annotated[ServerState, Depends(state_of)]
Owner = Annotated[str, Depends(owner_of)]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "image/png": _BINARY,
            "image/jpeg": _BINARY,
            "image/webp": _BINARY,
            "video/mp4": _BINARY,
            "application/octet-stream": _BINARY,
        },
    }
}


def as_upload(upload: Upload) -> JsonObject:
    """An upload as clients see it."""
    return {
        "id": upload.id,
        "object": "upload",
        "kind": upload.kind,
        "bytes": upload.bytes,
        "created_at": int(upload.created),
        "expires_at": int(upload.expires),
        **upload.info,
    }


@router.post("/uploads", openapi_extra=_BODY)
async def upload(request: Request, state: State, owner: Owner) -> Any:
    """Send a picture or a clip: as the file of a form, or as the body itself."""
    content_type = request.headers.get("content-type", "")
    with Spool(state.data.spool) as spool:
        if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
            fields = await spool_form(content_type, request.stream(), spool, state.config.limits)
            files = [value for _, value in fields if isinstance(value, Path)]
            if len(files) != 1:
                raise APIError(400, f"the form has {len(files)} files; one is taken", code="invalid_form")
            file = files[0]
        else:
            file = await spool_body(request.stream(), spool)
        return as_upload(await state.uploads.take(file, owner))


@router.get("/uploads/{id}")
async def retrieve_upload(id: str, state: State, owner: Owner) -> Any:
    """What a file is. The file itself is not served."""
    return as_upload(state.uploads.find(id, owner))


@router.delete("/uploads/{id}")
async def delete_upload(id: str, state: State, owner: Owner) -> Any:
    """Delete a file. Clips that wait and need it will fail."""
    found = state.uploads.find(id, owner)
    state.uploads.remove(found.id)
    return {"id": found.id, "deleted": True, "object": "upload.deleted"}
