"""References as pixels, before any weights: read, checked, and brought to the size in which a model takes them.

:mod:`videodit.pipelines.reference_encoding` turns them into tokens, or into what a branch sees.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videodit.control.reference_layouts import OF_PICTURES
from videodit.control.reference_pictures import on_white
from videodit.control.reference_rules import ReferenceRules, in_area
from videodit.control.references import CheckedReferences, Reference
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.pipelines.conditions import Fit
from videodit.pipelines.control_placing import sha256_of
from videodit.pipelines.pixels import as_bytes, fingerprint, read_frames, resized
from videodit.pipelines.settings import Settings
from videodit.pipelines.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class PlacedReference:
    """A reference as the model will see it.

    Attributes:
        layout: in which the model takes it.
        frames: uint8 ``[T, H, W, 3]``.
        at: the frame of the clip that its first one stands at, for the layout ``guide``.
        tokens: that the transformer sees of it.
        branch: the control branch that sees it, for the layout ``front``.
        timestep: of its tokens, where the model has one of its own for them.
        read: what the text encoder reads of it, uint8 ``[h, w, 3]``; ``None``: nothing.
        record: for the recipe: what it was made from, and which pixels came out.
    """

    layout: str
    frames: np.ndarray
    at: int
    tokens: int
    branch: str | None
    timestep: float | None
    read: np.ndarray | None
    record: JsonObject


def place_references(
    checked: CheckedReferences, spec: ModelSpec, settings: Settings, *, fit: Fit = "crop"
) -> tuple[tuple[PlacedReference, ...], list[str]]:
    """Read references, and bring them to the size that a model takes.

    Args:
        checked: the references.
        spec: the model.
        settings: of the call.
        fit: what becomes of a guide of another aspect ratio; see :func:`videodit.pipelines.pixels.fitted`. Pictures of
            the other layouts keep theirs.

    Returns:
        The references, and what should be announced.

    Raises:
        InputError: a file that cannot be read, a clip where pictures are taken, or a guide that does not fit the clip.
    """
    placed, notices = [], list[str]()
    for number, reference in enumerate(checked.references, start=1):
        what = f"reference {number}"
        one, told = _place(reference, checked, what, spec, settings, fit)
        placed.append(one)
        notices += told
    return tuple(placed), list(dict.fromkeys(notices))


def _place(
    reference: Reference, checked: CheckedReferences, what: str, spec: ModelSpec, settings: Settings, fit: Fit
) -> tuple[PlacedReference, list[str]]:
    layout = checked.layout
    size = (settings.height, settings.width) if layout.clips else None
    frames, notices = read_frames(reference.source, fps=float(settings.fps), name=what, size=size, fit=fit)
    frames, read = as_bytes(frames), None
    rules = spec.references if spec.references is not None and spec.references.layout == layout.name else None
    if len(frames) > 1 and not layout.clips:
        raise InputError(f"{what} is a clip of {len(frames)} frames; the layout {layout.name!r} takes pictures alone")
    if layout.name == "guide":
        frames, told = _guide(frames, reference, what, spec, settings, fit)
    elif layout.name == "lead":
        frames, told = resized(frames, settings.height, settings.width, fit, name=what)
    elif layout.name in OF_PICTURES:
        if rules is not None and rules.read_area:
            wide, high = in_area(rules.read_area, (frames.shape[2], frames.shape[1]), rules.multiple)
            read = resized(frames, high, wide, "stretch", name=what)[0][0]
        frames, told = _picture(frames, what, rules, spec, settings)
    elif layout.name == "behind":
        frames, told = on_white(frames[0], settings.height, settings.width)[None], []
    else:
        told = []  # its branch fits it
    record: JsonObject = {
        "role": reference.role,
        "layout": layout.name,
        **({"at": reference.at} if layout.name == "guide" else {}),
        "frames": fingerprint(frames),
    }
    if isinstance(reference.source, (str, os.PathLike)):
        path = Path(reference.source)
        record |= {"file": path.name, "sha256": sha256_of(path)}
    branch = None if checked.branch is None else checked.branch.name
    seen = frames.shape[:3] if branch is None else (1, settings.height, settings.width)  # fitted into the clip's size
    tokens = spec.geometry.num_tokens(*seen)
    timestep = None if rules is None else rules.timestep
    placed = PlacedReference(layout.name, frames, reference.at, tokens, branch, timestep, read, record)
    return placed, [*notices, *told]


def _guide(
    frames: np.ndarray, reference: Reference, what: str, spec: ModelSpec, settings: Settings, fit: Fit
) -> tuple[np.ndarray, list[str]]:
    """Frames that the clip goes along with, at its size and no longer than it is from there on."""
    at, count, notices = reference.at, settings.num_frames, list[str]()
    if at >= count:
        raise InputError(f"{what} stands at frame {at} of a clip of {count}; valid values are 0 to {count - 1}")
    own, room = len(frames), count - at
    if own > 1:
        legal = _legal_length(min(own, room), spec)
        if legal < own:
            notices.append(f"{what}: of {own} frames the first {legal} are used, as many as go with the clip from {at}")
        frames = frames[:legal]
    frames, told = resized(frames, settings.height, settings.width, fit, name=what)
    notices += told
    if at == 0:
        notices.append(
            f"{what} guides the clip from its first frame on, for which a model needs a LoRA that was trained for it "
            "(IC-LoRA)"
        )
    return frames, notices


def _legal_length(most: int, spec: ModelSpec) -> int:
    """The largest number of frames that the autoencoder takes."""
    legal = spec.geometry.snap_frames(most)
    while legal > most and legal > 1:
        legal = spec.geometry.snap_frames(legal - spec.geometry.vae_stride.t)
    return legal


def _picture(
    frames: np.ndarray, what: str, rules: ReferenceRules | None, spec: ModelSpec, settings: Settings
) -> tuple[np.ndarray, list[str]]:
    """A picture ``[1, H, W, 3]`` of about its own proportions: as the model was trained with, or of as many pixels as
    what is made."""
    height, width = frames.shape[1:3]
    rows, columns = spec.geometry.size_multiple
    if rules is not None:
        rules.check_size(width, height, what)
    sizes = None if rules is None else rules.size_of(width, height, (columns, rows))
    if sizes is None:
        area, ratio = settings.height * settings.width, width / height
        wide, high = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        kept = max(columns, wide // columns * columns), max(rows, high // rows * rows)
        sizes = kept, kept
    (wide, high), kept = sizes
    frames, _ = resized(frames, high, wide, "stretch", name=what)
    left, top = (wide - kept[0]) // 2, (high - kept[1]) // 2
    frames = frames[:, top : top + kept[1], left : left + kept[0]]
    told = [] if (width, height) == kept else [f"{what}: {width}x{height} becomes {kept[0]}x{kept[1]}"]
    return np.ascontiguousarray(frames), told


def check_along(references: Sequence[PlacedReference], settings: Settings, *, parts: str) -> None:
    """See that guides can be cut where a clip is made in parts.

    Args:
        references: of the clip.
        settings: of it.
        parts: what cuts it, such as windows.

    Raises:
        InputError: a guide that does not go along with the whole clip.
    """
    for number, one in enumerate(references, start=1):
        if one.layout == "guide" and (one.at or len(one.frames) != settings.num_frames):
            raise InputError(
                f"reference {number} goes along with {len(one.frames)} of {settings.num_frames} frames from frame "
                f"{one.at}; with {parts} a guide must be a clip as long as the one that is made"
            )
