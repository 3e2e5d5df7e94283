"""What an edit by two prompts says, checked before any weights; see :mod:`videodit.pipelines.flow_editing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videodit.errors import InputError
from videodit.pipelines.conditions import MOST_AVERAGED, SOURCE_GUIDANCE_SCALE, AnyCondition, Edit, Frames
from videodit.pipelines.settings import check_scale, whole_number
from videodit.pipelines.storyboard import Storyboard
from videodit.prompts import check_text, is_blank
from videodit.ranges import short

if TYPE_CHECKING:
    from videodit.json_types import JsonObject
    from videodit.pipelines.request import Inputs, Request
    from videodit.pipelines.settings import Settings
    from videodit.pipelines.spec import ModelSpec

MASK_DRAWS = 4
"""Noises by which it is found out where two prompts differ."""


@dataclass(frozen=True)
class FlowTerms:
    """What an edit by two prompts is about.

    Attributes:
        source_prompt: what the clip shows.
        source_guidance_scale: of the prediction by it.
        n_avg: noises that each difference is the mean of.
        auto_mask: change only where the prompts differ.
    """

    source_prompt: str
    source_guidance_scale: float
    n_avg: int = 1
    auto_mask: bool = False

    @property
    def mask_draws(self) -> int:
        """Noises by which it is found out where the prompts differ."""
        return MASK_DRAWS if self.auto_mask else 0

    def predictions(self, scale: float, *, guided: bool, above: float = 1.0) -> int:
        """Of the transformer for each noise: by both prompts, and for guidance of each.

        Args:
            scale: of guidance, of the prediction by the new prompt.
            guided: the model has guidance by two predictions.
            above: the scale above which it makes both.
        """
        return 2 + sum(guided and one > above for one in (scale, self.source_guidance_scale))

    @property
    def record(self) -> JsonObject:
        """For the recipe."""
        return dict(vars(self))


def flow_terms(edit: Edit) -> FlowTerms | None:
    """What an edit says of its two prompts; ``None`` for one by strength alone.

    Raises:
        InputError: a source prompt that is no text, a number out of range, or numbers without a source prompt.
    """
    if not isinstance(edit.auto_mask, bool):
        raise InputError(f"auto_mask must be True or False, got {edit.auto_mask!r}")
    if edit.source_prompt is None:
        said = {"source_guidance_scale": edit.source_guidance_scale is not None, "n_avg": edit.n_avg != 1}
        for name, is_said in (said | {"auto_mask": edit.auto_mask}).items():
            if is_said:
                raise InputError(f"{name} is {getattr(edit, name)!r}, which is for an Edit with source_prompt")
        return None
    if not isinstance(edit.source_prompt, str):
        raise InputError(f"source_prompt must be a string, got {short(edit.source_prompt)}")
    check_text(edit.source_prompt, "the source prompt")
    if is_blank(edit.source_prompt):
        raise InputError("source_prompt is empty; say what the clip shows")
    scale = SOURCE_GUIDANCE_SCALE if edit.source_guidance_scale is None else edit.source_guidance_scale
    check_scale("source_guidance_scale", scale)
    count = whole_number("n_avg", edit.n_avg, 1, MOST_AVERAGED)
    return FlowTerms(edit.source_prompt, float(scale), count, edit.auto_mask)


def terms_of(conditions: Sequence[AnyCondition]) -> FlowTerms | None:
    """What an edit by two prompts among conditions is about; ``None``: there is none.

    Raises:
        InputError: see :func:`flow_terms`.
    """
    terms = [flow_terms(one) for one in conditions if isinstance(one, Edit)]
    return next((one for one in terms if one is not None), None)


def check_flow_edit(
    request: Request, inputs: Inputs, conditions: Sequence[AnyCondition], spec: ModelSpec, settings: Settings
) -> None:
    """See that an edit by two prompts goes with the model and with all else that is asked for.

    Raises:
        InputError: naming what it does not go with.
    """
    if terms_of(conditions) is None:
        return
    what = "an Edit with source_prompt"
    if spec.objective != "flow":
        raise InputError(
            f"{what} is for models of flow matching, and this one predicts {spec.objective}; leave source_prompt out"
        )
    if spec.sees_clip:
        raise InputError(f"this model sees the clip that it edits and takes no {what[3:]}; leave source_prompt out")
    if spec.needs_picture:
        raise InputError(f"this model starts from an image and takes no {what[3:]}; leave source_prompt out")
    if settings.windows is not None:
        most = spec.window if request.window is None else request.window
        raise InputError(f"{what} is made at once, of at most {most} frames, got {settings.num_frames}")
    for name, asked in (
        ("frames or images", any(isinstance(one, Frames) for one in conditions)),
        ("a storyboard", isinstance(request.prompt, Storyboard)),
        ("dynamic_guidance", request.dynamic_guidance),
        ("latents", inputs.latents is not None),
        ("references", bool(request.references or inputs.references)),
    ):
        if asked:
            raise InputError(f"{what} does not go with {name}; leave one of them out")
