"""References of what a clip should show, as a plan has them: checked, read and placed; see
:mod:`videodit.pipelines.reference_placing`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from videodit.control.reference_layouts import OF_PICTURES
from videodit.control.references import check_reference_guidance
from videodit.errors import InputError
from videodit.pipelines.storyboard import Storyboard

if TYPE_CHECKING:
    from videodit.control.control import CheckedControl
    from videodit.control.references import CheckedReferences
    from videodit.pipelines.conditions import AnyCondition
    from videodit.pipelines.reference_placing import PlacedReference
    from videodit.pipelines.request import Inputs, Request
    from videodit.pipelines.settings import Settings
    from videodit.pipelines.spec import ModelSpec

_ALIKE = 1.1
"""How far proportions may be apart without a word."""


def plan_references(
    request: Request,
    inputs: Inputs,
    spec: ModelSpec,
    settings: Settings,
    *,
    conditions: Sequence[AnyCondition],
    controls: Sequence[CheckedControl],
    guided: bool,
    read_media: bool,
) -> tuple[tuple[PlacedReference, ...], list[str]]:
    """References of a call, checked against all else that is asked for, read and placed.

    Args:
        request: what is asked for.
        inputs: live objects beside it.
        spec: the model.
        settings: of the call.
        conditions: what else of the clips is fixed.
        controls: what steers them.
        guided: two predictions are led apart by the prompt.
        read_media: off, nothing is read, and nothing placed.

    Returns:
        The references, and what should be announced.

    Raises:
        InputError: naming what is wrong, or what they do not go with.
    """
    rules = spec.references
    checked = spec.check_references(inputs.references or request.references, request.reference_layout)
    if checked is None:
        if request.reference_guidance is not None:
            raise InputError("reference_guidance is for references, and there are none; leave it out")
        if rules is not None and rules.needed:
            raise InputError("this model changes a picture; pass it in references (--reference FILE)")
        return (), []
    check_reference_guidance(request.reference_guidance, checked.layout, guided=guided)
    _check_beside(checked, request, inputs, settings, conditions, controls)
    if not read_media:
        return (), []
    from videodit.pipelines.reference_placing import check_along, place_references

    placed, notices = place_references(checked, spec, settings, fit=request.fit)
    if checked.layout.name in OF_PICTURES and request.width is None and request.height is None:
        notices += _proportions(placed[0], settings)
    if settings.windows is not None:
        check_along(placed, settings, parts="windows")
    elif isinstance(request.prompt, Storyboard):
        check_along(placed, settings, parts="a storyboard")
    return placed, notices


def _proportions(first: PlacedReference, settings: Settings) -> list[str]:
    """That a picture which nobody gave a size has other proportions than the one that it is made from."""
    height, width = first.frames.shape[1:3]
    ratio = width / height / (settings.width / settings.height)
    if 1 / _ALIKE <= ratio <= _ALIKE:
        return []
    return [
        f"reference 1 is {width}x{height} and the picture {settings.width}x{settings.height}, the model's own size; "
        "width and height set another one"
    ]


def _check_beside(
    checked: CheckedReferences,
    request: Request,
    inputs: Inputs,
    settings: Settings,
    conditions: Sequence[AnyCondition],
    controls: Sequence[CheckedControl],
) -> None:
    """See that references go with what else is asked for.

    Raises:
        InputError: they do not.
    """
    name, branch = checked.layout.name, checked.branch
    others = {"stagger": bool(request.stagger), "a loop": request.loop and name in ("guide", "front", "lead")}
    if branch is not None:  # which sees them as frames in front of the clip
        others |= {
            "windows": settings.windows is not None,
            "latents": inputs.latents is not None,
            "images, frames or an edit": bool(conditions),
            f"control for another branch than {branch.name!r}": any(one.branch != branch for one in controls),
        }
    if what := [other for other, there in others.items() if there]:
        raise InputError(f"references of the layout {name!r} and {what[0]} exclude each other; leave one out")
