"""`videodit connect --server`: the two clips as the ends of a longer one, by what the server tells of its model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from videodit.cli.common import note
from videodit.cli.server_client import Server
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.media import probe
from videodit.pipelines.conditions import Frames
from videodit.pipelines.request import Request


def bridge_request(request: Request, clips: tuple[Path, Path], seconds: float, url: str) -> Request:
    """A request for a bridge between two clips, with these as its ends.

    Args:
        request: the rest of what was asked for; without conditions and a length.
        clips: the first one and the second one.
        seconds: of the bridge.
        url: of the server.

    Raises:
        InputError: a clip that cannot be read, or a length that is not above 0.
        RemoteError: the server cannot be reached.
    """
    if not seconds > 0:
        raise InputError(f"--seconds is {seconds:g}; it must be above 0")
    with contextlib.closing(Server(url)) as server:
        model = server.call("GET", f"/v1/models/{quote(request.model, safe='')}")
    rate = float(request.fps or model["defaults"]["fps"])
    stride, causal = _groups(model)
    counts = [max(1, round(info.num_frames / float(info.fps) * rate)) for info in map(probe, clips)]
    if counts[1] < stride:
        what = f"{str(clips[1])!r} has {counts[1]} frames at {rate:g} fps"
        raise InputError(f"{what}; {request.model} needs {stride} at least")
    between = max(1, round(seconds * rate / stride)) * stride
    wholes = (max(1, _whole(counts[0], stride, causal)), _whole(counts[1], stride, 0))
    _tell_loose(clips, counts, wholes)
    conditions = (Frames(clips[0]), Frames(clips[1], -counts[1]))
    total = wholes[0] + between + wholes[1]
    while total < sum(counts) + stride:  # what is left of groups at both ends has its place, too
        total += stride
    return replace(_sized(request, clips[0], model), conditions=conditions, num_frames=total)


def _groups(model: JsonObject) -> tuple[int, int]:
    """How many frames a model stores together, and how many stand alone before them: ``"4k+1"`` says both."""
    group, _, lead = str(model["sizes"]["frame_rule"]).partition("k")
    return int(group), int(lead or 0)


def _whole(count: int, group: int, lead: int) -> int:
    """The frames of so many that fill groups."""
    return (count - lead) // group * group + lead


def _tell_loose(clips: tuple[Path, Path], counts: Sequence[int], wholes: Sequence[int]) -> None:
    for clip, which, count, whole in zip(clips, ("last", "first"), counts, wholes, strict=True):
        if count > whole:
            note(f"the {which} {count - whole} frames of {clip.name} may change: whole groups of frames are kept")


def _sized(request: Request, clip: Path, model: JsonObject) -> Request:
    """The size of the first clip, where the model can make it and none was said; else the model's own."""
    if request.width is not None and request.height is not None:
        return request
    info, sizes = probe(clip), model["sizes"]
    own = [int(side) for side in model["defaults"]["size"].split("x")]
    fits = info.width % sizes["width_step"] == 0 and info.height % sizes["height_step"] == 0
    if not fits or info.width * info.height > 2 * own[0] * own[1]:
        return replace(request, width=own[0], height=own[1])
    return replace(request, width=info.width, height=info.height)
