"""What clients see of a job."""

from __future__ import annotations

from videodit.json_types import JsonObject
from videodit.serving.records import Job
from videodit.serving.state import ServerState

POLL_HEADER = {"openai-poll-after-ms": "500"}
"""How long the SDK waits before it asks again."""


def as_video(job: Job, state: ServerState) -> JsonObject:
    """A job as clients see it: the SDK's ``Video``, and beside its fields our own."""
    settings, output = job.settings, job.output or {}
    frames, fps = output.get("num_frames", settings.get("num_frames")), output.get("fps", settings.get("fps"))
    width, height = output.get("width", settings.get("width")), output.get("height", settings.get("height"))
    return {
        "id": job.id,
        "object": "video",
        "model": job.model,
        "status": job.state,
        "progress": job.progress,
        "prompt": job.request.get("prompt") if isinstance(job.request.get("prompt"), str) else None,
        "seconds": f"{frames / fps:.6g}" if frames and fps else None,
        "size": f"{width}x{height}" if width and height else None,
        "created_at": int(job.created),
        "completed_at": None if job.finished is None or job.state != "completed" else int(job.finished),
        "expires_at": None if job.expires is None else int(job.expires),
        "remixed_from_video_id": job.parent if job.kind == "remix" else None,
        "error": job.error,
        # ours
        "created": job.created,  # as created_at, with fractions: several are made in a second
        "kind": job.kind,
        "parent": job.parent,
        "request": job.extra.get("body"),
        "seed": settings.get("seed"),
        "settings": settings,
        "notices": job.notices,
        "stage": job.stage,
        "step": job.step,
        "steps": job.steps,
        "seconds_left": job.seconds_left,
        "preview": job.preview,
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
