"""Pictures and clips that a user hands over, as frames of the size and speed that a model works at."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.limits import current_limits
from videodit.pipelines.conditions import Fit, check_fit
from videodit.reading.animation_frames import is_animation
from videodit.reading.files import Media, Unreadable
from videodit.reading.pictures import SUFFIXES, Picture, is_picture, read_picture, to_rgb

logger = logging.getLogger(__name__)


def read_frames(
    source: object,
    *,
    fps: float | None = None,
    name: str = "clip",
    size: tuple[int, int] | None = None,
    fit: Fit = "crop",
) -> tuple[np.ndarray, list[str]]:
    """Frames of whatever stands for some.

    Args:
        source: a PIL image or a list of them; an array ``[H, W, 3]`` or ``[T, H, W, 3]`` or a tensor ``[3, H, W]`` or
            ``[T, 3, H, W]``, uint8 or floats in [0, 1]; or the path of a picture or a video.
        fps: frames per second that a video file is brought to, by the nearest frame in time; others are taken as they
            are.
        name: of the argument, for messages.
        size: height and width that the frames of a video file are brought to one by one, so that its own size takes no
            memory; ``None`` and everything else keep theirs.
        fit: how; see :func:`fitted`.

    Returns:
        ``[T, H, W, 3]``, uint8 or float32 in [0, 1], and what should be announced.

    Raises:
        InputError: something else, an alpha channel that hides anything, a file that cannot be read, or one that asks
            for more than the limits allow (:mod:`videodit.limits`).
    """
    if isinstance(source, (str, os.PathLike)):
        return _read_file(Path(source), fps, name, size, fit)
    if isinstance(source, PIL.Image.Image):
        source = [source]
    if isinstance(source, Sequence) and source and all(isinstance(one, PIL.Image.Image) for one in source):
        return _stacked(source, name)
    if not isinstance(source, (Tensor, np.ndarray)):
        raise InputError(
            f"{name} must be a PIL image, a list of them, an array [T, H, W, 3], a tensor [T, 3, H, W] or a path, "
            f"got {type(source).__name__}"
        )
    if source.ndim not in (3, 4):
        raise InputError(f"{name} must have 3 or 4 axes, got {list(source.shape)}")
    if 0 in source.shape:
        raise InputError(f"{name} has no pixels, got {list(source.shape)}")
    if source.is_complex() if isinstance(source, Tensor) else source.dtype.kind not in "uifb":
        raise InputError(f"{name} must be of real numbers, got {source.dtype}")
    frames = source if source.ndim == 4 else source[None]
    if isinstance(frames, Tensor):
        frames = frames.detach().cpu().movedim(1, -1)
        array = (frames if frames.dtype == torch.uint8 else frames.float()).numpy()
    else:
        array = frames if frames.dtype == np.uint8 else frames.astype(np.float32)
    if array.shape[-1] != 3:
        alpha = ": flatten its alpha channel first" if array.shape[-1] == 4 else ""
        raise InputError(f"{name} must have 3 colour channels, got {list(source.shape)}{alpha}")
    if array.dtype != np.uint8:
        _check_range(array, name)
    return array, []


def open_picture(path: Path) -> PIL.Image.Image:
    """A picture file, decoded, turned as its camera says, as 8-bit sRGB.

    Raises:
        InputError: a file that is missing, no picture, several, transparent in places, or too large.
    """
    picture = _picture_of(path)
    for notice in picture.notices:
        logger.warning("%s: %s", path.name, notice)
    return PIL.Image.fromarray(picture.pixels)


def _picture_of(path: Path) -> Picture:
    media = Media(path)
    try:
        return read_picture(media)
    except (Unreadable, InputError) as error:
        raise InputError(f"cannot read the image {str(path)!r}: {error}") from error.__cause__
    except OSError as error:
        raise InputError(f"cannot read the image {str(path)!r}: {error.strerror or error}") from error


def _stacked(pictures: Sequence[PIL.Image.Image], name: str) -> tuple[np.ndarray, list[str]]:
    """Pictures of one size as uint8 ``[T, H, W, 3]``, and what should be announced."""
    frames: list[np.ndarray] = []
    notices: list[str] = []
    for picture in pictures:
        current_limits().check("picture_pixels", picture.width * picture.height, f"{name} has {picture.size} pixels")
        try:
            rgb, told = to_rgb(picture)
        except Unreadable as error:
            raise InputError(f"{name}: {error}") from None
        notices += [f"{name}: {notice}" for notice in told]
        frames.append(np.asarray(rgb))
        if frames[-1].shape != frames[0].shape:
            sizes = " and ".join(f"{one.shape[1]}x{one.shape[0]}" for one in (frames[0], frames[-1]))
            raise InputError(f"the pictures of {name} must have one size, got {sizes}")
    return np.stack(frames), list(dict.fromkeys(notices))


def _read_file(
    path: Path, fps: float | None, name: str, size: tuple[int, int] | None, fit: Fit
) -> tuple[np.ndarray, list[str]]:
    from videodit.reading.clip import naming_clip, open_clip, read_whole

    media = Media(path)
    try:
        picture = is_picture(media)
    except (Unreadable, InputError, OSError):  # said below, by the kind that its name promises
        picture = False
    animation = False
    with naming_clip(str(media)), suppress(Unreadable, OSError):  # damage is said below, too
        animation = picture and is_animation(media)
    if not animation and (picture or path.suffix.lower() in SUFFIXES):
        found = _picture_of(path)
        return found.pixels[None], [f"{path.name}: {notice}" for notice in found.notices]
    with open_clip(media, whole=True, animations=True, threads=0, smooth_chroma=True) as clip:
        box = None
        if size is not None:
            box = Fitting(clip.info.height, clip.info.width, *size, fit, name=name)
        frames, notices = read_whole(clip, fps=fps, fit=None if box is None else box.apply)
    return frames, [f"{path.name}: {notice}" for notice in notices] + ([] if box is None else box.notices)


class Fitting:
    """How frames become another size, by Lanczos' filter; see :func:`fitted` for the arguments.

    Attributes:
        notices: what should be announced.
    """

    def __init__(self, h: int, w: int, height: int, width: int, fit: Fit, *, name: str) -> None:
        check_fit(fit)
        self.notices: list[str] = []
        self._size = (height, width)
        self._box, self._inner = (0, 0, w, h), (width, height)  # what is taken, and how large it becomes
        if (h, w) != (height, width) and fit != "stretch":
            scale = max(width / w, height / h) if fit != "pad" else min(width / w, height / h)
            cut = min(w, max(1, round(width / scale))), min(h, max(1, round(height / scale)))
            self._inner = min(width, max(1, round(cut[0] * scale))), min(height, max(1, round(cut[1] * scale)))
            left, top = (w - cut[0]) // 2, (h - cut[1]) // 2
            self._box = (left, top, left + cut[0], top + cut[1])
            lost, added = w * h - cut[0] * cut[1], width * height - self._inner[0] * self._inner[1]
            if fit == "error" and max(lost / (w * h), added / (width * height)) > 0.01:
                raise InputError(f"{name} is {w}x{h}, not {width}x{height}; fit it with crop, pad or stretch")
            if lost:
                self.notices.append(f"{name}: of {w}x{h} the middle {cut[0]}x{cut[1]} is taken")
            if added:
                self.notices.append(f"{name}: {w}x{h} gets black bars to become {width}x{height}")

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """A frame ``[H, W, 3]``, uint8 or float32 in [0, 1], at the new size; uint8 stays uint8."""
        box, inner = self._box, self._inner
        part = frame[box[1] : box[3], box[0] : box[2]]
        if part.shape[:2] != inner[::-1]:
            part = np.asarray(PIL.Image.fromarray(as_bytes(part)).resize(inner, PIL.Image.Resampling.LANCZOS))
        height, width = self._size
        if (height, width) == part.shape[:2]:
            return part
        out = np.zeros((height, width, 3), part.dtype)
        top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
        out[top : top + inner[1], left : left + inner[0]] = part
        return out


def as_bytes(frames: np.ndarray) -> np.ndarray:
    """Frames, uint8 or floats in [0, 1], as uint8."""
    return frames if frames.dtype == np.uint8 else (frames * 255).round().astype(np.uint8)


def as_pixels(frames: np.ndarray, device: torch.device) -> Tensor:
    """Frames uint8 ``[T, H, W, 3]`` as an autoencoder takes a clip: fp32 ``[1, 3, T, H, W]`` in [-1, 1]."""
    writable = torch.from_numpy(np.require(frames, requirements=["C", "W"]))  # torch warns of others
    return writable.to(device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def resized(frames: np.ndarray, height: int, width: int, fit: Fit, *, name: str) -> tuple[np.ndarray, list[str]]:
    """Frames ``[T, H, W, 3]`` at another size, as they were: uint8, or where nothing changed, floats in [0, 1].

    See :func:`fitted` for the arguments and for what it raises.
    """
    if frames.shape[1:3] == (height, width):
        return frames, []
    box = Fitting(frames.shape[1], frames.shape[2], height, width, fit, name=name)
    return np.stack([box.apply(frame) for frame in frames]), box.notices


def fitted(frames: np.ndarray, height: int, width: int, fit: Fit, *, name: str = "clip") -> tuple[Tensor, list[str]]:
    """Frames at another size, by Lanczos' filter.

    Args:
        frames: ``[T, H, W, 3]``, uint8 or float32 in [0, 1].
        height: pixels.
        width: pixels.
        fit: what becomes of another aspect ratio: its middle is cut out, black bars are added, it is stretched, or it
            is an error.
        name: of the argument, for messages.

    Returns:
        fp32 ``[3, T, height, width]`` in [-1, 1], and what should be announced.

    Raises:
        InputError: another aspect ratio where that is an error, or an unknown way to fit.
    """
    box = Fitting(frames.shape[1], frames.shape[2], height, width, fit, name=name)
    out = np.empty((len(frames), height, width, 3), np.float32)
    for target, frame in zip(out, frames, strict=True):
        part = box.apply(frame)
        target[:] = part.astype(np.float32) / 255 if part.dtype == np.uint8 else part
    pixels = torch.from_numpy(out).permute(3, 0, 1, 2)
    return pixels.mul_(2).sub_(1), box.notices


def _check_range(array: np.ndarray, name: str) -> None:
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds values that are not finite (NaN or infinite)")
    if array.min() < 0 or array.max() > 1:
        raise InputError(f"{name} has values from {array.min():g} to {array.max():g}; floats must be within [0, 1]")


def read_mask(
    source: object,
    num_frames: int,
    height: int,
    width: int,
    *,
    fps: float | None = None,
    fit: Fit = "stretch",
    name: str = "the mask",
    meaning: str = "white is made anew, black is kept",
) -> tuple[Tensor, list[str]]:
    """Where something is to be made anew, or whatever else white means.

    Args:
        source: as for :func:`read_frames`, and arrays ``[H, W]`` or ``[T, H, W]``, boolean or numbers: what is half
            white or more counts. Floats are in [0, 1], other numbers in [0, 255].
        num_frames: of the clip; a mask of one frame holds for all.
        height: pixels; masks of other sizes are brought to this one as pictures are, so that a mask of a clip's own
            size goes on fitting it.
        width: pixels.
        fps: see :func:`read_frames`.
        fit: see :func:`fitted`.
        name: of the mask, for messages.
        meaning: of its colours, likewise.

    Returns:
        Boolean ``[num_frames, height, width]``, and what should be announced.

    Raises:
        InputError: a mask of another length, one without anything white or black, or what is none.
    """
    notices: list[str] = []
    if isinstance(source, (Tensor, np.ndarray)):
        if isinstance(source, Tensor):
            source = source.detach().cpu()
            source = (source.float() if source.is_floating_point() else source).numpy()  # numpy knows no bfloat16
        array = source
        if array.ndim not in (2, 3) or array.size == 0:
            raise InputError(f"{name} must be [H, W] or [T, H, W], got {list(array.shape)}")
        grey = array.astype(np.float32) / (255 if array.dtype.kind in "ui" and array.max() > 1 else 1)
        _check_range(grey, name)
        frames = np.repeat((grey if grey.ndim == 3 else grey[None])[..., None], 3, axis=-1)
    else:
        frames, notices = read_frames(source, fps=fps, name=name, size=(height, width), fit=fit)
    if len(frames) not in (1, num_frames):
        raise InputError(
            f"{name} has {len(frames)} frames and the clip {num_frames}; a mask has one frame, or as many as the clip"
        )
    pixels, told = fitted(frames, height, width, fit, name=name)
    made = (pixels.mean(dim=0) >= 0).expand(num_frames, -1, -1)
    if not made.any() or made.all():
        raise InputError(f"{name} is {'all white' if made.any() else 'all black'}; {meaning}")
    return made, [*notices, *told]


def fingerprint(frames: np.ndarray | Tensor) -> str:
    """16 hexadecimal digits that tell pixels from others."""
    array = frames.detach().cpu().numpy() if isinstance(frames, Tensor) else frames
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
