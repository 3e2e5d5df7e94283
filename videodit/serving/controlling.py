"""Controls of a clip, placed by :mod:`videodit.serving.control_process`: arrays for workers, pictures for users."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.control.control import CheckedControl, to_json
from videodit.json_types import JsonObject
from videodit.limits import Limits, current_limits
from videodit.serving.child import ChildLimits, ask

if TYPE_CHECKING:
    from videodit.pipelines.conditions import Fit
    from videodit.pipelines.control_placing import PlacedControl
    from videodit.pipelines.settings import Settings

_MOST_TOLD = 20_000_000  # bytes beside the arrays


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
    told, data = ask_for_controls(checked, numbers, fit, folder, limits, current_limits(), 0, tick)
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


def ask_for_controls(
    checked: Sequence[CheckedControl],
    settings: Mapping[str, Any],
    fit: Fit,
    folder: Path,
    limits: ChildLimits,
    media: Limits,
    pictures: int,
    tick: Callable[[], object] | None = None,
) -> tuple[JsonObject, bytes]:
    """What :mod:`videodit.serving.control_process` says of controls, and the bytes of their arrays.

    Args:
        checked: the controls, their media as files.
        settings: ``width``, ``height``, ``num_frames`` and ``fps`` of the clip.
        fit: of other aspect ratios.
        folder: that the process runs in.
        limits: of the process.
        media: what one file may ask for.
        pictures: frames of each control that are wanted as pictures; 0 for all as arrays.
        tick: is called while it runs; what it raises ends the process.

    Raises:
        InputError: what cannot be read or derived.
    """
    job = {
        "control": to_json({one.slot: one.control for one in checked}),
        "branches": [dataclasses.asdict(one.branch) for one in checked],
        **{name: settings[name] for name in ("width", "height", "num_frames", "fps")},
        "fit": fit,
        "pictures": pictures,
    }
    pixels = settings["width"] * settings["height"] * settings["num_frames"]
    most = _MOST_TOLD + (0 if pictures else 4 * pixels * len(checked))
    module = "videodit.serving.control_process"
    return ask(module, job, folder, limits, media, what="to derive the control", most=most, tick=tick)
