"""The field ``control`` of a request: what steers a clip besides its prompt, its media named by their ids."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from videodit.control.branch_spec import OWN_CAMERA, BranchSpec, branch_for
from videodit.control.control import MEDIA, CheckedControl, Control, check_controls
from videodit.control.drawn import MOST
from videodit.control.kinds import KINDS
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.serving.fields import Fields, Number, OptionalSource, blank_is_none, json_text, scalar, with_source

MOST_CONTROLS = 8


def _as_control(value: Any) -> Any:
    """A list stands for data, and ``{"id": …}`` with what else is said of it for a control with that source."""
    value = json_text(value)
    if isinstance(value, list):
        return {"data": value}
    return with_source(value) if isinstance(value, dict) else value


def _weight(value: Any) -> Any:
    return json_text(value) if isinstance(value, str) and value.lstrip().startswith("[") else scalar(value)


def _option(value: Any) -> Any:
    """A number; what options say in texts are names of models and paths, which requests do not choose."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError("it is a text; the options that requests take are numbers") from None
        return int(value) if value.is_integer() else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("it must be a number")
    return value


class ControlField(Fields):
    """One control; see docs/control.md. Exactly one of ``source``, ``from_clip`` and ``data`` is there.

    ``{"id": …}`` is short for ``{"source": {"id": …}}``, and a list for ``{"data": […]}``.
    """

    source: OptionalSource = None
    from_clip: OptionalSource = None
    data: Annotated[list[Any] | None, BeforeValidator(json_text)] = Field(None, max_length=MOST)
    kind: Annotated[str | None, BeforeValidator(blank_is_none)] = Field(None, max_length=100)
    weight: Annotated[float | list[float] | None, BeforeValidator(_weight)] = None
    start: Number = None
    end: Number = None
    mask: OptionalSource = None
    fit: Annotated[Literal["error", "hold", "loop"] | None, BeforeValidator(blank_is_none)] = None
    options: Annotated[dict[str, Annotated[Any, BeforeValidator(_option)]] | None, BeforeValidator(json_text)] = Field(
        None, max_length=20
    )

    def as_control(self) -> Control:
        """The control, its media named by their ids."""
        said: JsonObject = {name: one.id for name in MEDIA if (one := getattr(self, name)) is not None}
        for name in ("kind", "weight", "start", "end", "fit", "options"):
            if (value := getattr(self, name)) is not None:
                said[name] = tuple(value) if isinstance(value, list) else value
        return Control(**said, data=None if self.data is None else tuple(self.data))


Slot = Annotated[str, Field(max_length=200)]
Controls = Annotated[
    dict[Slot, Annotated[ControlField, BeforeValidator(_as_control)]] | None, BeforeValidator(json_text)
]
"""By kind, or by the name of a branch."""


def sources_of(controls: Mapping[str, ControlField] | None) -> dict[str, str]:
    """Ids of the media that controls name, by the names of their fields."""
    return {
        f"control.{slot}.{name}": one.id
        for slot, field in (controls or {}).items()
        for name in MEDIA
        if (one := getattr(field, name)) is not None
    }


def is_derivable(kind: str) -> bool:
    """Whether this server derives a kind of control from a clip: without a network, with the libraries that it has."""
    known = KINDS[kind]
    if known.home is None or known.needs not in (None, "opencv"):
        return False
    return known.needs is None or importlib.util.find_spec("cv2") is not None


def check_control(
    controls: Mapping[str, Control] | None, branches: tuple[BranchSpec, ...], model: str
) -> list[CheckedControl]:
    """See that each control makes sense for a model, and that this server can derive those that come from clips.

    Args:
        controls: of a request.
        branches: that the model has here.
        model: its name.

    Raises:
        InputError: naming the control, and what is wrong with it.
    """
    if not controls:
        return []
    if not branches:
        raise InputError(f"model {model!r} takes no control: no branch for it is registered here; leave control out")
    for slot, control in controls.items():
        if OWN_CAMERA in branches and branch_for(slot, control.kind, branches)[0] == OWN_CAMERA:
            raise InputError(f"control {slot!r} is a camera, which servers do not take; use videodit generate")
    checked = check_controls(controls, branches)
    for one in checked:
        if one.control.from_clip is not None and not is_derivable(one.kind):
            legal = ", ".join(kind for kind in KINDS if is_derivable(kind))
            raise InputError(
                f"control {one.slot!r} is of the kind {one.kind}, which this server does not derive from a clip; send "
                f"the control itself, or one of the kinds {legal}"
            )
    return checked
