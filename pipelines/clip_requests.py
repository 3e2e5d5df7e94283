"""Requests that go on from clips: one that is edited, extended, or connected with another.

The commands and the server share these. What the numbers of a clip decide (:func:`sized`, :func:`edited_frames`,
:func:`extended_frames`) loads no library; :func:`edit_request`, :func:`extend_request` and :func:`connect_request`
read the clips, each once, at the model's speed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.errors import InputError
from videodit.pipelines.conditions import AnyCondition, Edit, Frames, Region
from videodit.pipelines.request import Request

if TYPE_CHECKING:
    import numpy as np

    from videodit.pipelines.spec import ModelSpec

MAX_SECONDS = 86_400
_Read = tuple[Request, list[str]]


@dataclass(frozen=True, kw_only=True)
class ByPrompts:
    """An edit by what two prompts differ in; see :class:`~videodit.Edit`."""

    source_prompt: str | None = None
    source_guidance_scale: float | None = None
    n_avg: int | None = None
    auto_mask: bool | None = None

    @property
    def said(self) -> dict[str, Any]:
        """The arguments of an :class:`~videodit.Edit` that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class ClipFile:
    """A clip or a picture, and what messages call it.

    Attributes:
        path: the file.
        name: for messages; ``None``: the file's own.
    """

    path: Path
    name: str | None = None

    @property
    def called(self) -> str:
        """What messages call it."""
        return self.path.name if self.name is None else self.name


# ---- what numbers decide -------------------------------------------------------------------------


def sized(request: Request, own: tuple[int, int], spec: ModelSpec) -> Request:
    """A request with the size of the clip that it starts from, where it says none.

    That is the clip's own, where the model can make it and it has at most twice the pixels of the model's own size;
    else the model's.

    Args:
        request: what was asked for.
        own: height and width of the clip.
        spec: the model.
    """
    if request.height is not None and request.width is not None:
        return request
    height, width = own
    default = spec.defaults.height, spec.defaults.width
    if spec.geometry.snap_size(height, width) != (height, width) or height * width > 2 * default[0] * default[1]:
        height, width = default
    return replace(request, height=height, width=width)


def rate_of(request: Request, spec: ModelSpec) -> float:
    """Frames per second that clips are brought to.

    Raises:
        InputError: what is no frame rate.
    """
    from videodit.frame_rates import frame_rate

    fps = spec.defaults.fps if request.fps is None else request.fps
    frame_rate(fps)
    return float(fps)


def edited_frames(count: int, spec: ModelSpec) -> int:
    """How many of a clip's frames are edited: the most that the model can make, and at least as few as it can."""
    legal = spec.geometry.snap_frames(count)
    if legal > count:
        legal = spec.geometry.snap_frames(max(1, count - spec.geometry.vae_stride.t))
    return legal


def whole_groups(count: int, spec: ModelSpec, *, leading: bool) -> int:
    """How many of a clip's frames fill groups of the autoencoder, at most ``count``.

    Args:
        count: frames.
        spec: the model.
        leading: they begin the clip that is made, where the first frame is a group of its own.

    Raises:
        InputError: too few for one group.
    """
    stride, lead = spec.geometry.vae_stride.t, 1 if spec.geometry.causal and leading else 0
    whole = (count - lead) // stride * stride + lead
    if whole < 1:
        many = f"{count} frame{'' if count == 1 else 's'}"
        raise InputError(f"the clip has {many} and is too short; at least {stride} are needed")
    return whole


def added_frames(seconds: float, spec: ModelSpec, rate: float, *, name: str = "seconds") -> tuple[int, list[str]]:
    """Whole groups of frames that last about so long, and what is announced of that.

    Args:
        seconds: asked for.
        spec: the model.
        rate: frames per second.
        name: of the argument, for messages.

    Raises:
        InputError: a length that is not above 0.
    """
    if not 0 < seconds <= MAX_SECONDS:  # false for NaN, too
        raise InputError(f"{name} is {seconds:g}; it must be above 0 and at most {MAX_SECONDS}")
    stride = spec.geometry.vae_stride.t
    frames = max(1, round(seconds * rate / stride)) * stride
    if abs(frames / rate - seconds) <= 1e-6:
        return frames, []
    return frames, [
        f"{seconds:g} s become {frames / rate:.4g} s, {frames} frames: frames are made in groups of {stride}"
    ]


def extended_frames(kept: int, added: int, spec: ModelSpec, *, backward: bool) -> int:
    """Frames of an extended clip.

    Args:
        kept: frames of the clip that it starts from.
        added: of :func:`added_frames`.
        spec: the model.
        backward: they come before it, where the first frame is a group of its own.
    """
    return kept + added + (1 if backward and spec.geometry.causal else 0)


def check_outpaint(size: tuple[int, int], own: tuple[int, int], name: str = "outpaint") -> None:
    """See that a size is larger than a clip's own.

    Args:
        size: height and width.
        own: of the clip.
        name: of the argument, for messages.

    Raises:
        InputError: it is not.
    """
    height, width = size
    if width < own[1] or height < own[0] or (height, width) == own:
        raise InputError(f"{name} is {width}x{height}; the clip is {own[1]}x{own[0]} already")


def check_by_prompts(prompts: ByPrompts, outpainted: bool, name: str = "outpaint") -> None:
    """See that what two prompts say goes with the rest.

    Args:
        prompts: of an edit.
        outpainted: something is made around the clip.
        name: of the argument that says so, for messages.

    Raises:
        InputError: it does not.
    """
    if prompts.said and outpainted:
        raise InputError(
            f"{name} makes what is around a clip, of which a source prompt says nothing; leave one of them out"
        )


# ---- what frames decide --------------------------------------------------------------------------


def clip_size(clip: ClipFile) -> tuple[int, int]:
    """Height and width of a clip as it is to be seen, without reading all of it.

    Raises:
        InputError: it cannot be read.
    """
    from videodit.reading.clip import open_clip
    from videodit.reading.files import Media

    with open_clip(Media(clip.path), whole=True, animations=True) as reader:
        return reader.info.height, reader.info.width


def edit_request(
    request: Request,
    clip: ClipFile,
    spec: ModelSpec,
    *,
    strength: float | None = None,
    mask: ClipFile | None = None,
    outpaint: tuple[int, int] | None = None,
    prompts: ByPrompts = ByPrompts(),
    names: dict[str, str] | None = None,
) -> _Read:
    """A request that makes a clip into another: all of it by strength, the white of a mask, or what is around it.

    Args:
        request: the rest of what was asked for; without conditions and a length.
        clip: that is edited.
        spec: the model.
        strength: how much may change, from 0 to 1; ``None`` for the model's own, and for all of what a mask or
            the new size says.
        mask: a picture or a clip: what is white is made anew.
        outpaint: height and width of a clip that has this one in its middle.
        prompts: what the clip shows, where it is edited by what that differs in from the request's prompt; a mask then
            says where it may change.
        names: of the arguments ``mask``, ``outpaint`` and ``size`` in messages, where they have others.

    Returns:
        The request, its conditions as pixels, and what should be announced.

    Raises:
        InputError: arguments that exclude each other, or a clip that cannot be read.
    """
    called = {"mask": "mask", "outpaint": "outpaint", "size": "size"} | (names or {})
    check_by_prompts(prompts, outpaint is not None, called["outpaint"])
    if mask is not None and outpaint is not None:
        raise InputError(f"give {called['mask']} or {called['outpaint']}, not both")
    if outpaint is not None and request.height is not None:
        raise InputError(f"{called['outpaint']} is the size of the clip that is made; leave {called['size']} out")
    own = clip_size(clip)
    if outpaint is not None:
        check_outpaint(outpaint, own, called["outpaint"])
    else:
        request = sized(request, own, spec)
    shape = None if request.height is None or request.width is None else (request.height, request.width)
    frames, notices = _read(clip, request, spec, shape)
    count = len(frames)
    legal = edited_frames(count, spec)
    if legal != count:
        notices.append(f"{_left_out(count - legal, clip)}: the model makes {spec.geometry.frame_rule} frames")
        frames = frames[:legal]
    conditions: list[AnyCondition] = []
    if outpaint is not None:
        frames, white = _widened(frames, outpaint)
        request = replace(request, height=outpaint[0], width=outpaint[1])
        conditions.append(Region(white, frames))
    elif mask is not None:
        white, told = _mask(mask, request, spec, shape, count, len(frames))
        notices += told
        conditions.append(Region(white, frames))
    if strength is not None or not conditions or prompts.said:
        conditions.append(Edit(frames, strength, **prompts.said))
    return replace(request, conditions=tuple(conditions), num_frames=len(frames)), notices


def extend_request(
    request: Request, clip: ClipFile, spec: ModelSpec, *, seconds: float, backward: bool = False, name: str = "seconds"
) -> _Read:
    """A request that makes what comes after a clip, or before it; the clip that is made holds both.

    Args:
        request: the rest of what was asked for; without conditions and a length.
        clip: that it goes on from.
        spec: the model.
        seconds: to add.
        backward: before it.
        name: of ``seconds``, for messages.

    Returns:
        See :func:`edit_request`.

    Raises:
        InputError: a clip that cannot be read or is too short, or a length that is not above 0.
    """
    added, told = added_frames(seconds, spec, rate_of(request, spec), name=name)
    request = sized(request, clip_size(clip), spec)
    frames, notices = _read_groups(clip, request, spec, leading=not backward, end=backward)
    conditions = (Frames(frames, -len(frames) if backward else 0),)
    total = extended_frames(len(frames), added, spec, backward=backward)
    return replace(request, conditions=conditions, num_frames=total), [*notices, *told]


def connect_request(
    request: Request, clips: tuple[ClipFile, ClipFile], spec: ModelSpec, *, seconds: float, name: str = "seconds"
) -> _Read:
    """A request that makes a bridge from one clip to another; the clip that is made holds all three.

    Args:
        request: the rest of what was asked for; without conditions and a length.
        clips: the first one and the second one.
        spec: the model.
        seconds: of the bridge.
        name: of ``seconds``, for messages.

    Returns:
        See :func:`edit_request`.

    Raises:
        InputError: a clip that cannot be read or is too short, or a length that is not above 0.
    """
    added, told = added_frames(seconds, spec, rate_of(request, spec), name=name)
    request = sized(request, clip_size(clips[0]), spec)
    first, of_first = _read_groups(clips[0], request, spec, leading=True)
    second, of_second = _read_groups(clips[1], request, spec, leading=False)
    total = len(first) + added + len(second)
    conditions = (Frames(first), Frames(second, -len(second)))
    return replace(request, conditions=conditions, num_frames=total), [*of_first, *of_second, *told]


# ---- helpers -------------------------------------------------------------------------------------


def _read(
    clip: ClipFile, request: Request, spec: ModelSpec, size: tuple[int, int] | None, name: str = "the clip"
) -> tuple[np.ndarray, list[str]]:
    """A clip's frames ``[T, H, W, 3]`` at :func:`rate_of`, and what should be announced."""
    from videodit.pipelines.pixels import read_frames

    frames, notices = read_frames(clip.path, fps=rate_of(request, spec), name=name, size=size, fit=request.fit)
    return frames, [_renamed(notice, clip) for notice in notices]


def _read_groups(
    clip: ClipFile, request: Request, spec: ModelSpec, *, leading: bool, end: bool = False
) -> tuple[np.ndarray, list[str]]:
    """A clip of :func:`_read` in the request's size, cut to :func:`whole_groups`: its beginning, or its ``end``."""
    assert request.height is not None
    assert request.width is not None
    frames, notices = _read(clip, request, spec, (request.height, request.width))
    count = whole_groups(len(frames), spec, leading=leading)
    if count < len(frames):
        left = _left_out(len(frames) - count, clip, "first" if end else "last")
        notices.append(f"{left}: whole groups of frames are kept")
    return frames[-count:] if end else frames[:count], notices


def _renamed(notice: str, clip: ClipFile) -> str:
    own = f"{clip.path.name}: "
    return f"{clip.called}: {notice.removeprefix(own)}" if notice.startswith(own) else notice


def _mask(
    mask: ClipFile, request: Request, spec: ModelSpec, size: tuple[int, int] | None, count: int, kept: int
) -> tuple[Any, list[str]]:
    """A mask; one that is a clip as long as the edited one loses the frames at its end that that one lost."""
    from videodit.reading.files import Media
    from videodit.reading.pictures import SUFFIXES, is_picture

    path = mask.path
    if path.suffix.lower() in SUFFIXES or (path.is_file() and path.stat().st_size and is_picture(Media(path))):
        return path, []
    frames, notices = _read(mask, request, spec, size, "the mask")
    white = frames.mean(axis=-1, dtype="float32") / 255
    return white[:kept] if len(white) == count else white, notices


def _widened(frames: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A clip in the middle of a larger height and width, its borders drawn out, and a mask that is white around it."""
    import numpy as np

    height, width = size
    own_height, own_width = frames.shape[1:3]
    top, left = (height - own_height) // 2, (width - own_width) // 2
    borders = ((top, height - own_height - top), (left, width - own_width - left))
    white = np.pad(np.zeros((own_height, own_width), bool), borders, constant_values=True)
    return np.pad(frames, ((0, 0), *borders, (0, 0)), mode="edge"), white


def _left_out(count: int, clip: ClipFile, which: str = "last") -> str:
    """Says that frames at an end of a clip are not used."""
    if count == 1:
        return f"the {which} frame of {clip.called} is left out"
    return f"the {which} {count} frames of {clip.called} are left out"
