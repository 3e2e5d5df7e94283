"""What a user says of one control: where it comes from, how much it counts, and when. Plain data, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args

from videodit.control.branch_spec import OWN_CAMERA, BranchSpec, branch_for
from videodit.control.camera import read_source
from videodit.control.drawn import READERS, Drawn, plain
from videodit.control.kinds import CAMERA, KINDS, OptionValue, checked_options, kind_named
from videodit.errors import InputError
from videodit.ranges import short

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from torch import Tensor

    Pixels = PIL.Image.Image | Sequence[PIL.Image.Image] | np.ndarray | Tensor | str | os.PathLike[str]
    """A picture or a clip; see :func:`videodit.pipelines.pixels.read_frames`."""

ShortClip = Literal["error", "hold", "loop"]
"""What becomes of a control clip that is shorter than the clip: an error, its last frame holds, or it begins again."""
MAX_WEIGHT = 10.0


@dataclass(frozen=True)
class Control:
    """One thing that steers a clip besides its prompt.

    Exactly one of ``source``, ``from_clip`` and ``data`` is set.

    Attributes:
        source: the control's own frames: a picture, which holds for the whole clip, or a clip; see
            :func:`videodit.pipelines.pixels.read_frames` for all that can stand for one.
        from_clip: an ordinary clip, from which the control is derived.
        data: boxes, tracks, the colours of a palette, or a camera's move or poses; see :mod:`videodit.control.drawn`.
        kind: one of :data:`videodit.control.kinds.KINDS`; ``None``: the key that it is passed under.
        weight: how much it counts, from 0 (not at all) to 10: one number, or one for each layer of the branch.
        start: the share of the steps from which on it counts.
        end: the share of the steps at which it ends, above ``start``.
        mask: a picture or a clip; where it is white, the control says nothing and the model is free.
        fit: what becomes of a control clip that is shorter than the clip.
        options: of what derives it from a clip; see `videodit control kinds`.
    """

    source: Pixels | None = None
    from_clip: Pixels | None = None
    data: Sequence[Any] | None = None
    kind: str | None = None
    weight: float | Sequence[float] = 1.0
    start: float = 0.0
    end: float = 1.0
    mask: Pixels | None = None
    fit: ShortClip = "error"
    options: Mapping[str, OptionValue] = field(default_factory=dict)


MEDIA = ("source", "from_clip", "mask")
"""Fields of a :class:`Control` that hold pictures and clips."""


@dataclass(frozen=True)
class CheckedControl:
    """A control all of whose numbers are legal; its files are not read yet.

    Attributes:
        slot: the key that it was passed under: a kind, or the name of a branch.
        kind: of it.
        branch: that takes it.
        control: itself, with ``kind`` set, and weights as floats.
        drawn: its data, where it has some.
    """

    slot: str
    kind: str
    branch: BranchSpec
    control: Control
    drawn: tuple[Drawn, ...] = ()

    @property
    def scale(self) -> float | tuple[float, ...]:
        """The weight, or the weights of all layers."""
        weight = self.control.weight
        return weight if isinstance(weight, float) else tuple(weight)  # type: ignore[arg-type]

    @property
    def is_off(self) -> bool:
        """Whether it counts nothing at all."""
        weight = self.scale
        return not weight if isinstance(weight, float) else not any(weight)


AnyControl = Any
"""What may be passed under a kind: a :class:`Control`, a file or pixels, which are its source, or a list of data."""


def as_control(slot: str, value: object) -> Control:
    """What is passed under a kind, or under the name of a branch, as a :class:`Control`.

    Raises:
        InputError: something else.
    """
    if isinstance(value, Control):
        return value
    if isinstance(value, (str, os.PathLike)) or _holds_pixels(value):
        return Control(value)  # type: ignore[arg-type]
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        if slot not in KINDS or KINDS[slot].data is not None:
            return Control(data=value)
        raise InputError(
            f"control {slot!r} is a list; only boxes, tracks, palette and camera are: pass a file, or a Control"
        )
    raise InputError(f"control {slot!r} is {short(value)}; it must be a Control, a file, pixels or a list")


def check_controls(controls: object, branches: Sequence[BranchSpec]) -> list[CheckedControl]:
    """See that each control makes sense by itself, and has a branch of its own. No file is opened but one of
    a camera's poses.

    Args:
        controls: by kind, or by the name of a branch.
        branches: that the model has.

    Raises:
        InputError: naming the control, and what is wrong with it.
    """
    if not controls:
        return []
    if not isinstance(controls, Mapping):
        raise InputError(f"control must be a dict by kind, such as {{'depth': 'depth.mp4'}}, got {short(controls)}")
    found: list[CheckedControl] = []
    for slot, value in controls.items():
        if not isinstance(slot, str):
            raise InputError(f"control has the key {short(slot)}; keys are kinds, or names of branches")
        control = as_control(slot, value)
        if control.kind is not None:
            kind_named(control.kind)
        if not any(branch.name == slot for branch in branches):
            kind_named(slot, [branch.name for branch in branches])
        branch, kind = branch_for(slot, control.kind, branches)
        taker = next((one.slot for one in found if one.branch == branch), None)
        if taker is not None:
            raise InputError(
                f"controls {taker!r} and {slot!r} are both for branch {branch.name!r}, which takes one at a time; add "
                "the branch once more under another name, or leave one out"
            )
        found.append(_checked(slot, kind, branch, control))
    return found


def check_own_control(controls: Sequence[CheckedControl], taker: BranchSpec | None) -> None:
    """See that a model which itself sees a control gets one, as it takes it: in every step, or not at all.

    Args:
        controls: of a call.
        taker: what stands for the model; ``None`` where it sees none.

    Raises:
        InputError: there is none, it should count in some of the steps, or with a weight between or above 0 and 1.
    """
    if taker is None:
        return
    own = next((one for one in controls if one.branch == taker), None)
    if own is None and taker == OWN_CAMERA:
        raise InputError("this model sees how the camera moves; give control, such as {'camera': 'zoom-in'}")
    if own is None:
        raise InputError("this model sees what steers a clip beside the noise; give control, such as {'depth': FILE}")
    if own.scale not in (0.0, 1.0):
        raise InputError(
            f"weight of control {own.slot!r} is {short(own.control.weight)}; this model sees it itself, which "
            "has no weight: valid values are 0 and 1"
        )
    if (own.control.start, own.control.end) != (0.0, 1.0):
        raise InputError(
            f"control {own.slot!r} counts from {own.control.start:g} to {own.control.end:g}; this model sees it "
            "in every step: valid values are 0 and 1"
        )


def _checked(slot: str, kind: str, branch: BranchSpec, control: Control) -> CheckedControl:
    """A control whose numbers are legal.

    Raises:
        InputError: naming the value that is wrong.
    """
    what, named = f"control {slot!r}", kind_named(kind)
    if kind == CAMERA:
        control = _camera(control, what, branch)
    sources = [name for name in ("source", "from_clip", "data") if getattr(control, name) is not None]
    if len(sources) != 1:
        told = " and ".join(sources) if sources else "nothing"
        raise InputError(f"{what} has {told}; give one of source, from_clip and data")
    if control.data is not None and named.data is None:
        raise InputError(f"{what} has data, but {kind} is made of frames; give source or from_clip")
    if control.fit not in get_args(ShortClip):
        raise InputError(f"fit of {what} is {short(control.fit)}; valid values are {', '.join(get_args(ShortClip))}")
    start, end = (_share(getattr(control, name), f"{name} of {what}") for name in ("start", "end"))
    if start >= end:
        raise InputError(f"{what} starts at {start:g} and ends at {end:g}; the start must come before the end")
    if not isinstance(control.options, Mapping):
        raise InputError(f"options of {what} must be a dict, got {short(control.options)}")
    if control.options and control.from_clip is None:
        raise InputError(f"{what} has options, which are for what is derived with from_clip")
    options = checked_options(named, control.options) if control.from_clip is not None else {}
    drawn = () if control.data is None or named.data is None else READERS[named.data](control.data)
    weight = _weights(control.weight, what)
    if isinstance(weight, tuple) and len(weight) != branch.hints:
        raise InputError(
            f"weight of {what} has {len(weight)} numbers; branch {branch.name!r} has {branch.hints} layers: give one "
            "number, or as many"
        )
    checked = replace(control, kind=kind, weight=weight, start=start, end=end, options=options)
    return CheckedControl(slot, kind, branch, checked, drawn)


def _camera(control: Control, what: str, branch: BranchSpec) -> Control:
    """The control of a camera, its file read or its move looked up.

    Raises:
        InputError: for a branch, or with what a camera does not have.
    """
    if branch != OWN_CAMERA:
        raise InputError(f"{what} is a camera, and branch {branch.name!r} takes none: only models themselves see one")
    if control.from_clip is not None:
        raise InputError(f"{what} has from_clip; no camera can be derived from a clip: give poses or a move")
    if control.mask is not None:
        raise InputError(f"{what} has a mask; a camera moves for the whole picture: leave the mask out")
    if control.source is None:
        return control
    if not isinstance(control.source, (str, os.PathLike)):
        raise InputError(f"{what} is {short(control.source)}; it must be a text file of poses, or the name of a move")
    if control.data is not None:
        raise InputError(f"{what} has source and data; give one of them")
    try:
        return replace(control, source=None, data=read_source(control.source))
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def check_steps(control: CheckedControl, steps: int, first: int = 0) -> None:
    """See that a control counts in at least one of a run's steps.

    Args:
        control: with its start and end.
        steps: of the run.
        first: the step that it begins with; an edit leaves some out.

    Raises:
        InputError: it counts in none.
    """
    start, end = control.control.start, control.control.end
    if not any(i / steps >= start and (i + 1) / steps <= end for i in range(first, steps)):
        left = f"the last {steps - first} of {steps} steps" if first else f"{steps} step{'' if steps == 1 else 's'}"
        raise InputError(
            f"control {control.slot!r} counts from {start:g} to {end:g}, and none of {left} lies in between; take more "
            "steps, or a longer part of them"
        )


# ---- requests that are stored --------------------------------------------------------------------


def names_files(controls: object) -> bool:
    """Whether controls name their pictures and clips by path, and hold no pixels."""
    if not isinstance(controls, Mapping):
        return True
    return not any(
        _holds_pixels(value)
        for one in controls.values()
        for value in ([getattr(one, name) for name in MEDIA] if isinstance(one, Control) else [one])
    )


def to_json(controls: Mapping[str, object]) -> dict[str, Any]:
    """Controls as JSON holds them."""
    return {slot: _control_json(as_control(slot, value)) for slot, value in controls.items()}


def _control_json(control: Control) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one, default in ((one, one.default) for one in fields(Control)):
        value = getattr(control, one.name)
        if value is None or value == default or (one.name == "options" and not value):
            continue
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        elif one.name == "data":
            value = plain(value) if all(isinstance(part, Drawn) for part in value) else list(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        found[one.name] = value
    return found


def from_json(values: object) -> dict[str, Control]:
    """What :func:`to_json` wrote.

    Raises:
        InputError: another form.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"control must be an object by kind, got {short(values)}")
    found = {}
    names = [one.name for one in fields(Control)]
    for slot, value in values.items():
        if not isinstance(value, Mapping) or (value.keys() - set(names)):
            raise InputError(f"control {slot!r} is {short(value)}; its keys are {', '.join(names)}")
        said = dict(value)
        for name in ("weight", "data"):
            if isinstance(said.get(name), list):
                said[name] = tuple(said[name])
        found[str(slot)] = Control(**said)
    return found


# ---- helpers -------------------------------------------------------------------------------------


def _holds_pixels(value: object) -> bool:
    """Whether something is an array, a tensor, a PIL image or a list of them."""
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    return hasattr(value, "getbands") or (hasattr(value, "shape") and hasattr(value, "dtype"))


def _is_number(value: object, high: float) -> bool:
    """Whether something is a number from 0 to ``high``."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= high


def _share(value: object, what: str) -> float:
    if not _is_number(value, 1):
        raise InputError(f"{what} must be a number from 0 to 1, got {short(value)}")
    return float(value)  # type: ignore[arg-type]


def _weights(value: object, what: str) -> float | tuple[float, ...]:
    many = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    weights: list[Any] = list(value) if isinstance(value, Sequence) and many else [value]
    for one in weights:
        if not _is_number(one, MAX_WEIGHT):
            raise InputError(f"weight of {what} must be a number from 0 to {MAX_WEIGHT:g}, got {short(one)}")
    if not weights:
        raise InputError(f"weight of {what} is an empty list; give one number, or one for each layer of the branch")
    return tuple(map(float, weights)) if many else float(weights[0])
