"""What a model would see of the controls of a request, as pictures for users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from videodit.control.control import check_controls
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.pipelines.request import Request
from videodit.serving.controlling import ask_for_controls
from videodit.serving.errors import APIError
from videodit.serving.sources import original_file, source_file, with_files
from videodit.serving.wording import without_paths

if TYPE_CHECKING:
    from videodit.serving.records import Job
    from videodit.serving.state import ServerState

PICTURES = 6
"""Frames of a control that users are shown."""


async def show_controls(job: Job, state: ServerState) -> JsonObject:
    """What a model would see of a job's controls: ``controls``, each with a ``picture``, and ``notices``.

    Args:
        job: that need not be queued.
        state: of the server.

    Raises:
        APIError: what cannot be read or derived.
    """
    if not job.request.get("control"):
        raise APIError(400, "the request has no control; name one in control", code="invalid_value", param="control")
    kept = {id: source["kept_by"] for id, source in job.extra["sources"].items()}

    def file(id: str) -> Path:
        return original_file(state.data, id) if kept[id] is None else source_file(state.data, kept[id], id)

    takers = state.card(job.model).spec.takers

    def place() -> JsonObject:
        request = with_files(Request.from_json(job.request), file)
        told, _ = ask_for_controls(
            check_controls(request.control, takers),
            job.settings,
            fit=request.fit,
            folder=state.data.path,
            limits=state.config.limits.of_controls,
            media=state.config.media,
            pictures=PICTURES,
        )
        return told

    try:
        told = await anyio.to_thread.run_sync(place, limiter=state.uploads.lookers)
    except InputError as error:
        raise APIError(400, without_paths(str(error)), code="invalid_value", param="control") from None
    return told | {"notices": [without_paths(one) for one in told["notices"]]}
