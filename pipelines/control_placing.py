"""Controls as frames of the clip's size, rate and length, before any weights: what a model will see of each.

:mod:`videodit.pipelines.control_encoding` turns them into what a branch takes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videodit.control.boxes import draw_boxes
from videodit.control.branch_spec import OWN_CHANNELS
from videodit.control.control import MEDIA, CheckedControl, ShortClip
from videodit.control.drawn import plain
from videodit.control.extracting import extract
from videodit.control.kinds import CAMERA
from videodit.control.motion import draw_tracks
from videodit.control.palette import draw_palette
from videodit.control.rays import CameraPath, camera_path, draw_rays
from videodit.errors import InputError, ModelError
from videodit.json_types import JsonObject
from videodit.pipelines.conditions import Fit
from videodit.pipelines.pixels import as_bytes, fingerprint, read_frames, read_mask, resized
from videodit.pipelines.settings import Settings
from videodit.reading.files import Media

if TYPE_CHECKING:
    from videodit.control.control import Pixels

GREY = 128
"""The value of pixels that say nothing."""
_DRAWN = {"boxes": draw_boxes, "tracks": draw_tracks, "palette": draw_palette}


@dataclass(frozen=True, eq=False)
class PlacedControl:
    """A control as the model will see it.

    Attributes:
        slot: the key that it was passed under.
        kind: of it.
        branch: the name of the branch that takes it, or what stands for one where the model itself does.
        frames: uint8 ``[frames, height, width, 3]`` of the clip's own size and number.
        mask: boolean ``[frames, height, width]``, true where it says nothing; ``None``: it speaks everywhere.
        scale: how much it counts: one number, or one for each hint of the branch.
        start: the share of the steps from which on it counts.
        end: the share at which it ends.
        record: for the recipe: what it was made from, and which pixels came out.
        camera: of each frame, for models that see it in place of ``frames``, which show it.
    """

    slot: str
    kind: str
    branch: str
    frames: np.ndarray
    mask: np.ndarray | None
    scale: float | tuple[float, ...]
    start: float
    end: float
    record: JsonObject
    camera: CameraPath | None = None

    @property
    def by_model(self) -> bool:
        """Whether the model itself sees it, and no branch."""
        return self.branch == OWN_CHANNELS.name

    @property
    def shown(self) -> np.ndarray:
        """The frames with what says nothing in grey, uint8 ``[frames, height, width, 3]``."""
        return self.frames if self.mask is None else np.where(self.mask[..., None], np.uint8(GREY), self.frames)


def place_controls(
    controls: Sequence[CheckedControl], settings: Settings, *, fit: Fit = "crop"
) -> tuple[tuple[PlacedControl, ...], list[str]]:
    """Read and derive controls, and bring them to the clip's size, rate and length.

    Args:
        controls: checked.
        settings: of the call.
        fit: what becomes of pictures of another aspect ratio; see :func:`videodit.pipelines.pixels.fitted`.

    Returns:
        The controls, and what should be announced.

    Raises:
        InputError: a file that cannot be read, a clip that is too short, a mask that is empty or hides everything, or
            what cannot be derived.
    """
    placed, notices = [], list[str]()
    for control in controls:
        one, told = _place(control, settings, fit)
        placed.append(one)
        notices += told
    return tuple(placed), list(dict.fromkeys(notices))


def _place(checked: CheckedControl, settings: Settings, fit: Fit) -> tuple[PlacedControl, list[str]]:
    control, what = checked.control, f"control {checked.slot!r}"
    count, height, width = settings.num_frames, settings.height, settings.width
    notices: list[str] = []
    camera = None
    if checked.kind == CAMERA:
        camera = camera_path(checked.drawn, count)  # type: ignore[arg-type]  # of its reader
        frames = draw_rays(camera, height, width)
        if 1 < len(checked.drawn) != count:
            notices.append(f"{what}: {len(checked.drawn)} poses are spread over the clip's {count} frames")
    elif checked.drawn:
        draw: Any = _DRAWN[checked.kind]
        frames = draw(checked.drawn, count, height, width)
    else:
        source = control.source if control.source is not None else control.from_clip
        assert source is not None
        frames, notices = _read(source, what, settings, fit, control.fit, derived=control.from_clip is not None)
        if control.from_clip is not None:
            try:
                found = extract(frames, checked.kind, control.options)
            except (InputError, ModelError) as error:
                raise type(error)(f"{what}: {error}") from error
            frames = found.frames
            notices += [f"{what}: {notice}" for notice in found.notices]
        frames, told = _of_length(frames, count, control.fit, what)
        notices += told
    mask = None
    if control.mask is not None:
        mask, told = _mask(control.mask, f"the mask of {what}", settings, fit, control.fit)
        notices += told
    if checked.is_off:
        notices.append(f"{what} has weight 0 and does nothing")
    record = _record(checked, frames, mask)
    scale = 0.0 if checked.is_off else checked.scale
    placed = PlacedControl(
        checked.slot, checked.kind, checked.branch.name, frames, mask, scale, control.start, control.end, record, camera
    )
    return placed, notices


def _read(
    source: Pixels, what: str, settings: Settings, fit: Fit, short: ShortClip, *, derived: bool
) -> tuple[np.ndarray, list[str]]:
    """Frames of the clip's size, uint8 ``[T, H, W, 3]``, at most as many as the clip has, and what is announced.

    Args:
        source: a picture or a clip.
        what: it is, for messages.
        settings: of the call.
        fit: to another aspect ratio.
        short: what becomes of a clip that is too short.
        derived: a control is derived from them: they are checked here, so that nothing is derived in vain.
    """
    size = settings.height, settings.width
    frames, notices = read_frames(source, fps=float(settings.fps), name=what, size=size, fit=fit)
    if derived and 1 < len(frames) < settings.num_frames and short == "error":
        _of_length(frames, settings.num_frames, short, what)
    frames, told = _cut(frames, settings.num_frames, what)
    notices += told
    if (own := _own_size(source, frames)) != size:
        notices.append(f"{what}: {own[1]}x{own[0]} becomes {size[1]}x{size[0]}")
    frames, told = resized(frames, *size, fit, name=what)
    return as_bytes(frames), [*notices, *told]


def _own_size(source: Pixels, frames: np.ndarray) -> tuple[int, int]:
    """Height and width before they were changed."""
    from videodit.pipelines.clip_requests import ClipFile, clip_size

    if not isinstance(source, (str, os.PathLike)) or len(frames) == 1:
        return frames.shape[1], frames.shape[2]
    return clip_size(ClipFile(Path(source)))


def _cut(frames: np.ndarray, count: int, what: str) -> tuple[np.ndarray, list[str]]:
    if len(frames) <= count:
        return frames, []
    return frames[:count], [f"{what}: of {len(frames)} frames the first {count} are used, as many as the clip has"]


def _of_length(frames: np.ndarray, count: int, fit: ShortClip, what: str) -> tuple[np.ndarray, list[str]]:
    """As many frames as the clip has; a picture holds for all of it."""
    frames, notices = _cut(frames, count, what)
    own = len(frames)
    if own == count:
        return frames, notices
    if own == 1:
        return np.repeat(frames, count, axis=0), notices
    if fit == "error":
        raise InputError(
            f"{what} has {own} frames and the clip {count}, and Control.fit is 'error': valid values are hold (its "
            "last frame) and loop (from its beginning)"
        )
    index = np.arange(count) % own if fit == "loop" else np.minimum(np.arange(count), own - 1)
    does = "begins again" if fit == "loop" else "holds its last frame"
    return frames[index], [f"{what} has {own} frames and {does} until the clip's {count} are full"]


def _mask(source: Pixels, what: str, settings: Settings, fit: Fit, short: ShortClip) -> tuple[np.ndarray, list[str]]:
    """Where a control says nothing, boolean ``[frames, height, width]``, and what is announced."""
    shape, notices = (settings.num_frames, settings.height, settings.width), list[str]()
    array = getattr(source, "shape", None)
    if array is None or len(array) == 4 or (len(array) == 3 and array[-1] == 3):  # a picture or a clip in colours
        frames, notices = _read(source, what, settings, fit, short, derived=False)
        frames, told = _of_length(frames, settings.num_frames, short, what)
        notices += told
        source = frames.mean(-1, dtype=np.float32) / 255
    meaning = "white is where the control says nothing, black where it holds"
    free, told = read_mask(source, *shape, fps=float(settings.fps), fit=fit, name=what, meaning=meaning)
    return free.numpy(), [*notices, *told]


# ---- the recipe ----------------------------------------------------------------------------------


def _record(checked: CheckedControl, frames: np.ndarray, mask: np.ndarray | None) -> JsonObject:
    """What a control was made from: files by their names and SHA-256, data as they are, and the pixels' fingerprint."""
    control = checked.control
    weight = checked.scale
    record: JsonObject = {
        "kind": checked.kind,
        "branch": checked.branch.name,
        "weight": weight if isinstance(weight, float) else list(weight),
        "start": control.start,
        "end": control.end,
        "fit": control.fit,
        "frames": fingerprint(frames),
    }
    for name in MEDIA:
        if isinstance(value := getattr(control, name), (str, os.PathLike)):
            path = Path(value)
            record[name] = {"file": path.name, "sha256": sha256_of(path)}
    if checked.drawn:
        record["data"] = plain(checked.drawn)
    if control.options:
        record["options"] = dict(control.options)
    if mask is not None:
        record["mask_pixels"] = fingerprint(mask)
    if any(getattr(control, name) is not None and name not in record for name in MEDIA):
        record["not_recorded"] = [name for name in MEDIA if getattr(control, name) is not None and name not in record]
    return record


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return Media(path).content_hash()
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
