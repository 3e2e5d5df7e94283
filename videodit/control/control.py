"""What a user says of one control: where it comes from, how much it counts, and when. Plain data, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args

from videodit.control.drawn import READERS, Drawn, plain
from videodit.control.kinds import OptionValue, checked_options, kind_named
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
        data: boxes, tracks or the colours of a palette; see :mod:`videodit.control.drawn`.
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
        control: itself, with ``kind`` set, and weights as floats.
        drawn: its data, where it has some.
    """

    slot: str
    kind: str
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


AnyControl = Control | str | os.PathLike[str] | Sequence[Any]
"""What may be passed under a kind: a :class:`Control`, a file, or data."""


def as_control(slot: str, value: object) -> Control:
    """What is passed under a kind, or under the name of a branch, as a :class:`Control`.

    Raises:
        InputError: something else.
    """
    if isinstance(value, Control):
        return value
    if isinstance(value, (str, os.PathLike)):
        return Control(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes) and slot in READERS:
        return Control(data=value)
    raise InputError(
        f"control {slot!r} is {short(value)}; it must be a Control, a file"
        + (", or a list" if slot in READERS else "; only boxes, tracks and palette may be lists")
    )


def check_control(slot: str, value: object, kind: str | None = None) -> CheckedControl:
    """See that a control makes sense by itself.

    Args:
        slot: the key that it is passed under.
        value: see :func:`as_control`.
        kind: of it, where neither the control nor the key says one.

    Raises:
        InputError: naming the value that is wrong.
    """
    control = as_control(slot, value)
    named = kind_named(control.kind or kind or slot)
    what = f"control {slot!r}"
    sources = [name for name in ("source", "from_clip", "data") if getattr(control, name) is not None]
    if len(sources) != 1:
        told = " and ".join(sources) if sources else "nothing"
        raise InputError(f"{what} has {told}; give one of source, from_clip and data")
    if control.data is not None and named.data is None:
        raise InputError(f"{what} has data, but {named.name} is made of frames; give source or from_clip")
    if control.from_clip is not None and named.home is None:
        raise InputError(f"{what}: {named.name} is derived from no clip; give source")
    if control.fit not in get_args(ShortClip):
        raise InputError(f"fit of {what} is {control.fit!r}; valid values are {', '.join(get_args(ShortClip))}")
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
    checked = replace(control, kind=named.name, weight=weight, start=start, end=end, options=options)
    return CheckedControl(slot, named.name, checked, drawn)


def check_controls(controls: object) -> list[CheckedControl]:
    """See that each control of a call makes sense by itself.

    Args:
        controls: by kind, or by the name of a branch, for which :class:`Control` says the kind.

    Raises:
        InputError: naming the control, and what is wrong with it.
    """
    if controls is None:
        return []
    if not isinstance(controls, Mapping):
        raise InputError(f"control must be a dict by kind, such as {{'depth': 'depth.mp4'}}, got {short(controls)}")
    found = []
    for slot, value in controls.items():
        if not isinstance(slot, str):
            raise InputError(f"control has the key {short(slot)}; keys are kinds, or names of branches")
        found.append(check_control(slot, value))
    return found


# ---- requests that are stored --------------------------------------------------------------------


def names_files(controls: object) -> bool:
    """Whether controls name their pictures and clips by path, and hold no pixels."""
    if not isinstance(controls, Mapping):
        return True
    return all(
        getattr(one, name) is None or isinstance(getattr(one, name), (str, os.PathLike))
        for one in controls.values()
        if isinstance(one, Control)
        for name in MEDIA
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


def _share(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise InputError(f"{what} must be a number from 0 to 1, got {short(value)}")
    return float(value)


def _weights(value: object, what: str) -> float | tuple[float, ...]:
    many = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    weights = list(value) if many else [value]  # type: ignore[call-overload]
    for one in weights:
        if isinstance(one, bool) or not isinstance(one, Real) or not 0 <= one <= MAX_WEIGHT:
            raise InputError(f"weight of {what} must be a number from 0 to {MAX_WEIGHT:g}, got {short(one)}")
    if not weights:
        raise InputError(f"weight of {what} is an empty list; give one number, or one for each layer of the branch")
    return tuple(map(float, weights)) if many else float(weights[0])
