"""What a user fixes of a clip before it is made: frames, regions, or a clip to start from. Plain data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from videodit.arguments import check_choice
from videodit.errors import InputError
from videodit.path_kinds import kind_of

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from torch import Tensor

    Pixels = PIL.Image.Image | Sequence[PIL.Image.Image] | np.ndarray | Tensor | str | os.PathLike[str]
    """A picture or a clip; see :func:`videodit.pipelines.pixels.read_frames`."""

Fit = Literal["crop", "pad", "stretch", "error"]
"""What becomes of pictures of another aspect ratio; see :func:`videodit.pipelines.pixels.fitted`."""


@dataclass(frozen=True)
class Frames:
    """One frame or several in a row that the clip has.

    The autoencoder stores frames in groups (of four, for most; the first frame alone). A group is kept where all of its
    frames are given; of a single picture, or fewer frames than a group, the group that they are in, which then stands
    still.

    Attributes:
        content: a picture or a clip; see :func:`videodit.pipelines.pixels.read_frames` for all that can stand for one.
        at: where its first frame goes, from 0; negative ones count from the end, so that -1 is the last frame.
        strength: 1 keeps the frames as they are. Less lets them change: they hold a noise level of ``1 − strength``
            until the rest of the clip has come down to it, and go on from there with it.
    """

    content: Pixels
    at: int = 0
    strength: float = 1.0


@dataclass(frozen=True)
class Region:
    """A clip of which a part is made anew.

    Attributes:
        mask: white where the clip is made anew, black where it is kept, for all frames or for each; see
            :func:`videodit.pipelines.pixels.read_mask`.
        clip: as many frames as are made; see :func:`videodit.pipelines.pixels.read_frames`.
    """

    mask: Pixels
    clip: Pixels


@dataclass(frozen=True)
class Edit:
    """A clip that is made into another.

    With the prompt alone, by adding noise to the clip and starting from there (Meng et al., "SDEdit", 2022). With a
    ``source_prompt``, by what the two prompts differ in (Kulikov et al., "FlowEdit: Inversion-Free Text-Based Editing
    Using Pre-Trained Flow Models", 2024): in each step the model predicts the noisy clip by its own prompt, and the
    clip as it is edited by now, with the same noise, by the new one; the difference moves the clip. What both prompts
    say stays. See :mod:`videodit.pipelines.flow_editing`.

    Attributes:
        clip: as many frames as are made; see :func:`videodit.pipelines.pixels.read_frames`.
        strength: the share of the sampler's steps that are taken: near 0 the clip hardly changes, at 1 nothing of it is
            left. ``None`` takes 0.6; of models that see the clip beside the noise (Lucy Edit), 1; with a
            ``source_prompt`` 0.8. FlowEdit's ``n_max`` is this share of the steps.
        source_prompt: what the clip shows.
        source_guidance_scale: guidance of the prediction by ``source_prompt``; that of the other is the call's.
            ``None`` takes 1.
        n_avg: noises that each step's difference is the mean of.
        auto_mask: change only where the two prompts differ, which is found out first from predictions by both.
    """

    clip: Pixels
    strength: float | None = None
    source_prompt: str | None = None
    source_guidance_scale: float | None = None
    n_avg: int = 1
    auto_mask: bool = False


AnyCondition = Frames | Region | Edit


EDIT_STRENGTH = 0.6
"""Of an :class:`Edit` that says none, for models that see nothing of the clip but what they start from."""


FLOW_EDIT_STRENGTH = 0.8
"""The same of those with a ``source_prompt``."""
SOURCE_GUIDANCE_SCALE = 1.0
"""Of the prediction by a ``source_prompt``, where an :class:`Edit` says none."""
MOST_AVERAGED = 64
"""Noises of a step, at most."""


def edit_strength(edit: Edit, *, sees_clip: bool) -> float:
    """The strength of an edit, or what stands for one that says none.

    Args:
        edit: the edit.
        sees_clip: the model sees the clip beside the noise.
    """
    if edit.strength is not None:
        return edit.strength
    if edit.source_prompt is not None:
        return FLOW_EDIT_STRENGTH
    return 1.0 if sees_clip else EDIT_STRENGTH


def edit_steps(steps: int, strength: float) -> int:
    """How many of a sampler's steps an :class:`Edit` takes, rounded down."""
    return int(steps * strength + 1e-9)  # 100 * 0.29 is a little less than 29


def ends_given(conditions: Sequence[AnyCondition], num_frames: int) -> tuple[bool, bool]:
    """Whether a picture is given for the first frame, and for the last."""
    at = [condition.at for condition in conditions if isinstance(condition, Frames)]
    return any(one in (0, -num_frames) for one in at), any(one in (-1, num_frames - 1) for one in at)


def images_as_frames(image: Pixels | None, last_image: Pixels | None) -> list[Frames]:
    """The conditions that the short names for a first and a last image stand for.

    Raises:
        InputError: several images, a clip, or something else that is no image.
    """
    found = []
    for name, at, one in (("image", 0, image), ("last_image", -1, last_image)):
        if one is None:
            continue
        shape = getattr(one, "shape", None)
        if shape is not None and len(shape) == 4 and shape[0] != 1:
            raise InputError(f"{name} must be one PIL image, array or tensor, got {list(shape)}; Frames takes several")
        if shape is None and not isinstance(one, (str, os.PathLike)) and not hasattr(one, "getbands"):
            raise InputError(
                f"{name} must be one PIL image, array, tensor or path, got {type(one).__name__}; Frames takes several"
            )
        if isinstance(one, (str, os.PathLike)) and kind_of(one).kind == "clip":
            raise InputError(
                f"{name} is {os.fspath(one)!r}, a clip, and an image is one picture: save one of its frames, or go on "
                "from the clip with `videodit extend`, or with Frames as a condition"
            )
        found.append(Frames(one, at))
    return found


def check_fit(fit: object) -> None:
    """See that there is such a way to fit pictures.

    Raises:
        InputError: there is not.
    """
    check_choice(fit, get_args(Fit), "fit")
