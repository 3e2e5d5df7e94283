"""What steers a clip, as a plan has it: checked first, later read and placed; see
:mod:`videodit.pipelines.control_placing`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from videodit.control.control import check_controls, check_own_control, check_steps
from videodit.errors import InputError

if TYPE_CHECKING:
    from videodit.control.control import CheckedControl
    from videodit.pipelines.control_placing import PlacedControl
    from videodit.pipelines.request import Inputs, Request
    from videodit.pipelines.settings import Settings
    from videodit.pipelines.spec import ModelSpec

    PlaceControls = Callable[..., tuple[tuple[PlacedControl, ...], list[str]]]
    """As :func:`videodit.pipelines.control_placing.place_controls`."""


def checked_controls(request: Request, inputs: Inputs, spec: ModelSpec) -> list[CheckedControl]:
    """What steers the clips, checked as far as that goes without its files.

    Raises:
        InputError: see :func:`videodit.control.control.check_controls`; or a loop, which takes none.
    """
    checked = check_controls(request.control if inputs.control is None else inputs.control, spec.takers)
    check_own_control(checked, spec.own_taker)
    if checked and request.loop:
        raise InputError(
            "a loop takes no control: a control has a first frame and a last one, and a loop has neither; leave one "
            "of them out"
        )
    return checked


def plan_controls(
    checked: Sequence[CheckedControl],
    request: Request,
    settings: Settings,
    *,
    steps_taken: int,
    read_media: bool,
    place: PlaceControls | None = None,
) -> tuple[tuple[PlacedControl, ...], list[str]]:
    """What steers the clips, read, derived and placed.

    Args:
        checked: see :func:`checked_controls`.
        request: what is asked for.
        settings: of the call.
        steps_taken: of the sampler's steps, the last ones.
        read_media: off, nothing is read, and nothing placed.
        place: see :func:`videodit.pipelines.planning.plan`.

    Returns:
        The controls, and what should be announced.

    Raises:
        InputError: one that counts in no step, or see :func:`videodit.pipelines.control_placing.place_controls`.
    """
    steps = settings.num_inference_steps
    for one in checked:
        check_steps(one, steps, steps - steps_taken)
    if not checked or not read_media:
        return (), []
    if place is None:
        from videodit.pipelines.control_placing import place_controls

        place = place_controls
    return place(checked, settings, fit=request.fit)
