"""What a user says of a reference: a picture or a clip of what a clip should show. Plain data, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from videodit.control.reference_layouts import CHOSEN, LAYOUTS, OF_PICTURES, Layout
from videodit.errors import InputError
from videodit.ranges import short

if TYPE_CHECKING:
    from videodit.control.branch_spec import BranchSpec
    from videodit.control.control import Pixels


@dataclass(frozen=True)
class Reference:
    """A picture, or for some models a clip, of what a clip should show.

    Attributes:
        source: a picture or a clip; see :func:`videodit.pipelines.pixels.read_frames` for all that can stand for one.
        role: what it is a reference of, one of the roles of the layout; ``None`` for the first of these. The published
            models are not told it: the prompt says what should become of a reference.
        at: for the layout ``guide``, the frame of the clip that its first frame stands at.
    """

    source: Pixels
    role: str | None = None
    at: int = 0


AnyReferences = Any
"""What may be passed for references: one or a list of :class:`Reference`, files and pixels."""


@dataclass(frozen=True)
class CheckedReferences:
    """References all of whose entries are legal; their files are not read yet.

    Attributes:
        layout: in which the model takes them.
        references: with ``role`` set.
        branch: the control branch that sees them, for the layout ``front``.
    """

    layout: Layout
    references: tuple[Reference, ...]
    branch: BranchSpec | None = None


def as_references(values: object) -> tuple[Reference, ...]:
    """What is passed for references: one, or a list; a file or pixels stand for a :class:`Reference` of their own.

    Raises:
        InputError: something else.
    """
    if values is None:
        return ()
    if not isinstance(values, (list, tuple)):
        return (_as_reference(values, "references"),)
    return tuple(_as_reference(value, "each of references") for value in values)


def _as_reference(value: Any, what: str) -> Reference:
    if value is None or isinstance(value, (bytes, Mapping, int, float)):
        raise InputError(f"{what} must be a Reference, a file or pixels, got {short(value)}")
    return value if isinstance(value, Reference) else Reference(value)


def check_references(
    references: object,
    *,
    own: str | None,
    chosen: str | None,
    obstacle: str | None,
    images: bool,
    most: int = 0,
    branches: Sequence[BranchSpec] = (),
) -> CheckedReferences | None:
    """See that references make sense for a model. No file is opened.

    Args:
        references: see :func:`as_references`.
        own: the layout that the model was trained with; ``None``: none that is known.
        chosen: the layout that the user says it takes, with a LoRA or with weights that were trained for it.
        obstacle: why the model can have no references among its tokens; see :func:`obstacle_to_references`.
        images: it makes pictures alone.
        most: references that it takes at once, in a layout of its own; 0: as many as the layout has.
        branches: control branches beside it.

    Raises:
        InputError: naming what is wrong, and what is legal.
    """
    found = as_references(references)
    if chosen is not None and chosen not in CHOSEN:
        raise InputError(f"reference_layout is {short(chosen)}; valid values are {', '.join(CHOSEN)}")
    if not found:
        if chosen is not None:
            raise InputError(f"reference_layout is {chosen!r}, and there are no references; leave it out")
        return None
    branch = next((one for one in branches if one.layout == "vace"), None)
    if chosen is None and branch is not None:
        layout = LAYOUTS["front"]
    else:
        layout, branch = _layout(own, chosen, obstacle), None
        if layout.name in OF_PICTURES and not images:
            legal = ", ".join(name for name in CHOSEN if name not in OF_PICTURES)
            raise InputError(
                f"reference_layout {layout.name!r} is for models of pictures: its references stand where a clip has "
                f"later frames; valid values are {legal}"
            )
    most = most if most and layout.name == own else layout.most
    if len(found) > most:
        who = "this model" if layout.name == own else f"a model with the layout {layout.name!r}"
        raise InputError(f"there are {len(found)} references; {who} takes at most {most}")
    return CheckedReferences(
        layout, tuple(_checked(one, f"reference {i}", layout) for i, one in enumerate(found, start=1)), branch
    )


def _layout(own: str | None, chosen: str | None, obstacle: str | None) -> Layout:
    if own is None and chosen is None:
        trained = ", ".join(one.published for one in LAYOUTS.values())
        raise InputError(
            f"this model was not trained with references, as {trained} were; for a LoRA or other weights that take "
            f"them, reference_layout says how: valid values are {', '.join(CHOSEN)}"
        )
    if obstacle is not None:
        raise InputError(f"this model takes no references: {obstacle}")
    if own is not None and chosen not in (None, own):
        raise InputError(f"reference_layout is {chosen!r}; this model was trained with {own!r}: leave it out")
    return LAYOUTS[chosen or own or ""]


def _checked(reference: Reference, what: str, layout: Layout) -> Reference:
    role, at = reference.role, reference.at
    if role is None:
        role = layout.roles[0]
    if role not in layout.roles:
        raise InputError(
            f"the role of {what} is {short(role)}; valid values with the layout {layout.name!r} are "
            f"{', '.join(layout.roles)}"
        )
    if isinstance(at, bool) or not isinstance(at, int) or at < 0:
        raise InputError(f"at of {what} is {short(at)}; it must be a frame of the clip, counted from 0")
    if at and layout.name != "guide":
        raise InputError(f"{what} stands at frame {at}; the layout {layout.name!r} has no frames for references")
    return replace(reference, role=role)


def check_reference_guidance(scale: object, layout: Layout, *, guided: bool) -> None:
    """See that references can lead a third prediction.

    Args:
        scale: how far; ``None``: they do not.
        layout: in which the model takes them.
        guided: two predictions are led apart by the prompt.

    Raises:
        InputError: no number from 0 to 100, a layout without it, or a call without guidance.
    """
    if scale is None:
        return
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 <= scale <= 100:
        raise InputError(f"reference_guidance is {short(scale)}; it must be a number from 0 to 100")
    if layout.name != "behind":
        raise InputError(f"reference_guidance is for the layout 'behind'; this call has {layout.name!r}: leave it out")
    if not guided:
        raise InputError("reference_guidance needs guidance by the prompt: a guidance_scale above 1")


_OTHER_PLACES = ("grid", "fractional", "centred", "text_axis")
"""Values of VideoDiT's ``rope`` whose tables have places for references."""


def obstacle_to_references(attention: str, position_embedding: str | None, rope: str | None) -> str | None:
    """Why tokens cannot follow those of a clip in a model; ``None`` where they can.

    Args:
        attention: of its config.
        position_embedding: likewise.
        rope: likewise.
    """
    if attention != "full":
        return f"attention={attention!r} sees frames and lines of time of one grid alone; 'full' can have them"
    if position_embedding is not None:
        return f"position_embedding={position_embedding!r} knows the places of a clip alone"
    if rope not in _OTHER_PLACES:
        *others, last = map(repr, _OTHER_PLACES)
        return f"rope={rope!r} knows the places of a clip alone; {', '.join(others)} and {last} have others"
    return None


# ---- requests that are stored --------------------------------------------------------------------


def to_json(references: Sequence[Reference]) -> list[dict[str, Any]]:
    """References as JSON holds them."""
    found = []
    for one in references:
        source = one.source
        values: dict[str, Any] = {"source": os.fspath(source) if isinstance(source, os.PathLike) else source}
        values |= {key: value for key, value in (("role", one.role), ("at", one.at)) if value}
        found.append(values)
    return found


def from_json(values: object) -> tuple[Reference, ...]:
    """What :func:`to_json` wrote.

    Raises:
        InputError: another form.
    """
    names = [one.name for one in fields(Reference)]
    if not isinstance(values, (list, tuple)):
        raise InputError(f"references must be a list, got {short(values)}")
    for value in values:
        if not isinstance(value, Mapping) or value.keys() - set(names) or "source" not in value:
            raise InputError(f"a reference is {short(value)}; its keys are {', '.join(names)}")
    return tuple(Reference(**value) for value in values)


def names_files(references: Sequence[Reference]) -> bool:
    """Whether references name their pictures and clips by path, and hold no pixels."""
    return all(isinstance(one.source, (str, os.PathLike)) for one in references)
