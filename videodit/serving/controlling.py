"""Controls of a clip, placed by :mod:`videodit.serving.control_process`: pictures for users, arrays for workers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from videodit.control.control import CheckedControl, check_controls, to_json
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.limits import Limits, current_limits
from videodit.pipelines.request import Request
from videodit.serving.child import ChildLimits, ask
from videodit.serving.errors import APIError
from videodit.serving.sources import original_file, source_file, with_files
from videodit.serving.wording import without_paths

if TYPE_CHECKING:
    from videodit.pipelines.conditions import Fit
    from videodit.pipelines.control_placing import PlacedControl
    from videodit.pipelines.settings import Settings
    from videodit.serving.records import Job
    from videodit.serving.state import ServerState

PICTURES = 6
"""Frames of a control that users are shown."""
_MOST_TOLD = 20_000_000  # bytes beside the arrays


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

    request = with_files(Request.from_json(job.request), file)
    checked = check_controls(request.control, state.card(job.model).spec.takers)
    limits = state.config.limits
    place = partial(
        _placed,
        checked,
        job.settings,
        fit=request.fit,
        folder=state.data.path,
        limits=ChildLimits(limits.control_seconds, limits.control_bytes),
        media=state.config.media,
        pictures=PICTURES,
    )
    try:
        told, _ = await anyio.to_thread.run_sync(place, limiter=state.uploads.lookers)
    except InputError as error:
        raise APIError(400, without_paths(str(error)), code="invalid_value", param="control") from None
    return told | {"notices": [without_paths(one) for one in told["notices"]]}


def place_in_child(
    checked: Sequence[CheckedControl],
    settings: Settings,
    *,
    fit: Fit,
    folder: Path,
    limits: ChildLimits,
    tick: Callable[[], object],
) -> tuple[tuple[PlacedControl, ...], list[str]]:
    """As :func:`videodit.pipelines.control_placing.place_controls`; what is derived comes from a process of its own.

    Args:
        checked: the controls, their media as files.
        settings: of the clip.
        fit: of other aspect ratios.
        folder: that the process runs in.
        limits: of the process.
        tick: is called while it runs; what it raises ends the process.

    Raises:
        InputError: what cannot be read or derived.
    """
    import numpy as np

    from videodit.pipelines.control_placing import PlacedControl, place_controls

    if all(one.control.from_clip is None for one in checked):
        return place_controls(checked, settings, fit=fit)
    numbers = {name: getattr(settings, name) for name in ("width", "height", "num_frames")}
    numbers["fps"] = float(settings.fps)
    told, data = _placed(checked, numbers, fit, folder, limits, current_limits(), 0, tick)
    shape, at, found = (settings.num_frames, settings.height, settings.width), 0, []
    pixels = settings.num_frames * settings.height * settings.width
    for one in told["controls"]:
        masked = one.pop("masked")
        frames = np.frombuffer(data, np.uint8, 3 * pixels, at).reshape(*shape, 3).copy()
        at += 3 * pixels
        mask = np.frombuffer(data, np.bool_, pixels, at).reshape(shape).copy() if masked else None
        at += pixels * masked
        scale = one.pop("scale")
        scale = tuple(scale) if isinstance(scale, list) else scale
        found.append(PlacedControl(**one, scale=scale, frames=frames, mask=mask))
    return tuple(found), told["notices"]


def _placed(
    checked: Sequence[CheckedControl],
    settings: Mapping[str, Any],
    fit: Fit,
    folder: Path,
    limits: ChildLimits,
    media: Limits,
    pictures: int,
    tick: Callable[[], object] | None = None,
) -> tuple[JsonObject, bytes]:
    job = {
        "control": to_json({one.slot: one.control for one in checked}),
        "branches": [dataclasses.asdict(one.branch) for one in checked],
        **{name: settings[name] for name in ("width", "height", "num_frames", "fps")},
        "fit": fit,
        "limits": dataclasses.asdict(media),
        "memory": limits.memory,
        "seconds": limits.seconds,
        "pictures": pictures,
    }
    pixels = settings["width"] * settings["height"] * settings["num_frames"]
    most = _MOST_TOLD + (0 if pictures else 4 * pixels * len(checked))
    module = "videodit.serving.control_process"
    code, text = ask(module, job, folder, limits.seconds, most=most, tick=tick)
    line, _, data = text.partition(b"\n")
    told: Any = None
    with contextlib.suppress(ValueError):
        told = json.loads(line)
    if isinstance(told, dict) and isinstance(told.get("error"), str):
        raise InputError(told["error"])
    if code or not isinstance(told, dict):
        raise InputError("to derive the control takes more time or memory than this server allows")
    return told, data
