"""Conditions on the pixels of a clip, before any weights: what each covers, what contradicts another, what is kept.

:mod:`videodit.pipelines.latent_conditions` turns what comes out into what the sampling loop takes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import reduce, repeat
from torch import Tensor

from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.pipelines.conditions import AnyCondition, Edit, Fit, Frames, Region, check_fit, edit_steps, edit_strength
from videodit.pipelines.flow_terms import FlowTerms, flow_terms
from videodit.pipelines.pixels import fingerprint, fitted, read_frames, read_mask
from videodit.pipelines.settings import Settings, check_frames
from videodit.pipelines.spec import ModelSpec

if TYPE_CHECKING:
    from videodit.pipelines.conditions import Pixels

FREE = math.inf
"""The level of latents that nothing is known of."""
Pictures = tuple[np.ndarray | None, np.ndarray | None]
"""Of the first and of the last frame, ``[H, W, 3]`` each."""


@dataclass(frozen=True)
class PlacedConditions:
    """Conditions as they were settled.

    Attributes:
        clip: fp32 ``[3, frames, height, width]`` in [-1, 1]: what is given; frames that are not are those nearest in
            time, since the autoencoder sees what is before a frame. ``None``: nothing is given.
        known: boolean ``[frames]``: the frames of every :class:`Frames`.
        level: fp32 ``[T, H, W]``, a value a latent, those in front of the clip's own among them: the noise level that
            it holds, 0 where it is kept as it is, :data:`FREE` where nothing is known. The same for all latents of a
            token.
        start: fp32 as ``clip``: what an :class:`Edit` starts from.
        strength: of the edit.
        flow: of an edit by two prompts, whose ``clip`` is what it starts from, and whose ``level`` says where that may
            change; ``None``: there is none.
        renoised: given latents, and those that windows share, get the noise level of the rest, since the model was not
            trained with clean ones.
        pictures: what was given for the first and the last frame, as uint8 or float ``[H, W, 3]`` of its own size, for
            models with an image encoder.
        record: for the recipe: which pixels these were, and where they went.
        notices: what differs from what was asked.
    """

    clip: Tensor | None = None
    known: Tensor | None = None
    level: Tensor | None = None
    start: Tensor | None = None
    strength: float = 1.0
    flow: FlowTerms | None = None
    renoised: bool = False
    pictures: Pictures = (None, None)
    record: list[JsonObject] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def place_conditions(
    conditions: Sequence[AnyCondition], spec: ModelSpec, settings: Settings, *, fit: Fit = "crop"
) -> PlacedConditions:
    """Read and check what is given.

    Args:
        conditions: in any order; no two may say something of the same pixels.
        spec: the model.
        settings: of the call.
        fit: what becomes of pictures of another aspect ratio; see :func:`videodit.pipelines.pixels.fitted`.

    Raises:
        InputError: a position outside the clip, a strength outside (0, 1], a clip or a mask of another length, two
            conditions for the same frame, what cannot be read, or what the model cannot take.
    """
    check_fit(fit)
    check_frames(spec, conditions, settings.num_frames)
    placer = _Placer(spec, settings, fit)
    for condition in conditions:
        if isinstance(condition, Frames):
            placer.add_frames(condition)
        elif isinstance(condition, Region):
            placer.add_region(condition)
        elif isinstance(condition, Edit):
            placer.add_edit(condition)
        else:
            raise InputError(f"a condition must be Frames, Region or Edit, got {type(condition).__name__}")
    return placer.finish()


class _Placer:
    """Puts conditions where they belong, one after the other."""

    def __init__(self, spec: ModelSpec, settings: Settings, fit: Fit) -> None:
        self.spec, self.settings, self.fit = spec, settings, fit
        self.geometry = replace(spec.geometry, causal=spec.geometry.causal and not settings.loop)
        self.size = settings.height, settings.width
        self.frames = settings.num_frames
        self.latent = self.geometry.latent_size(self.frames, *self.size)
        self.clip = torch.zeros(()).expand(3, self.frames, *self.size)  # takes memory once something is given
        self.known = torch.zeros(self.frames, dtype=torch.bool)
        self.level = torch.full(self.latent, FREE)
        self.region: Tensor | None = None  # where pixels are kept, [frames, height, width]
        self.start: Tensor | None = None
        self.strength = 1.0
        self.flow: FlowTerms | None = None
        self.edited = self.kept = ""  # fingerprints of the clips of an Edit and a Region
        self.pictures: dict[int, np.ndarray] = {}
        self.record: list[JsonObject] = []
        self.notices: list[str] = []

    def add_frames(self, condition: Frames) -> None:
        strength = _checked_strength("strength", condition.strength)
        fps = float(self.settings.fps)
        pixels, notices = read_frames(condition.content, fps=fps, name="the clip", size=self.size, fit=self.fit)
        count = len(pixels)
        if not isinstance(condition.at, Integral) or isinstance(condition.at, bool):
            raise InputError(f"at must be the number of a frame, got {condition.at!r}")
        first = int(condition.at) + (self.frames if condition.at < 0 else 0)
        if not 0 <= first <= self.frames - count:
            many = "" if count == 1 else f" and is {count} frames long"
            raise InputError(
                f"{_named(condition)} is placed at frame {condition.at}{many}; this clip has frames 0 to "
                f"{self.frames - 1} (-{self.frames} to -1 from the end)"
            )
        span = slice(first, first + count)
        if self.known[span].any() or (self.region is not None and self.region[span].any()):
            raise InputError(f"{_frames(first, count)} set twice; set each frame once")
        groups = [self.geometry.frames_of(k) for k in range(self.latent.t)]
        inside = [k for k, group in enumerate(groups) if first <= group[0] and group[-1] < first + count]
        touched = [k for k, group in enumerate(groups) if group[0] < first + count and first <= group[-1]]
        kept = inside or touched
        if taken := [k for k in kept if (self.level[k] < FREE).any()]:
            group = groups[taken[0]]
            raise InputError(
                f"frames {group[0]} to {group[-1]} are one group of the autoencoder, and set by two conditions"
            )
        rest = [f for f in range(first, first + count) if all(f not in groups[k] for k in kept)]
        if rest:
            notices.append(
                f"{len(rest)} of the {count} frames at {condition.at} share a group of the autoencoder with frames "
                "that are made: they guide the clip and may change"
            )
        pictures, told = fitted(pixels, *self.size, self.fit, name="the picture")
        self.clip = self.clip.contiguous()
        self.clip[:, span] = pictures
        self.known[span] = True
        if not self.spec.sees_pictures:  # those see frames beside the latents
            self.level[kept] = 1 - strength
        self.pictures |= {first: pixels[0], first + count - 1: pixels[-1]}
        self.notices += [*notices, *told]
        self.record.append({"frames": fingerprint(pixels), "count": count, "at": first, "strength": strength})

    def add_region(self, condition: Region) -> None:
        if self.region is not None:
            raise InputError("there are two Regions; put them into one mask")
        clip, fingerprint_of = self._whole(condition.clip, "the clip of a Region")
        self.kept = fingerprint_of
        made, told = read_mask(condition.mask, self.frames, *self.size, fps=float(self.settings.fps), fit=self.fit)
        self.notices += told
        free = self._per_latent(made)
        if free.all():
            raise InputError("the mask keeps no whole token of the model; make its black parts larger")
        if (self.level[~free] < FREE).any() or (~made)[self.known].any():
            raise InputError("a Region and Frames keep the same latents; make them white in the mask of the Region")
        self.level[~free] = 0.0
        self.region = ~made
        self.clip = torch.where(self.known[None, :, None, None], self.clip, clip)
        self.record.append({"region": fingerprint_of, "mask": fingerprint(made)})

    def add_edit(self, condition: Edit) -> None:
        if self.start is not None:
            raise InputError("there are two Edits; a clip can start from one")
        self.strength = _checked_strength("strength", edit_strength(condition, sees_clip=self.spec.sees_clip))
        steps = self.settings.num_inference_steps
        if edit_steps(steps, self.strength) < 1:
            least = math.ceil(1000 / steps) / 1000
            raise InputError(f"strength is {self.strength:g}, which leaves none of {steps} steps; {least:g} leaves one")
        self.flow = flow_terms(condition)
        self.start, fingerprint_of = self._whole(condition.clip, "the clip of an Edit")
        self.edited = fingerprint_of
        self.record.append(
            {"edit": fingerprint_of, "strength": self.strength} | ({} if self.flow is None else self.flow.record)
        )

    def finish(self) -> PlacedConditions:
        anything = bool(self.known.any()) or self.region is not None
        if self.flow is not None and self.kept not in ("", self.edited):
            raise InputError("the clip of the Region is another than that of the Edit with source_prompt; use one clip")
        only_first = not self.known[1:].any() and not (self.level[1:] < FREE).any() and self.region is None
        if self.region is None and anything:
            at = self.known.nonzero()[:, 0]
            group = torch.tensor([k for k in range(self.latent.t) for _ in self.geometry.frames_of(k)])
            away = (torch.arange(self.frames)[:, None] - at).abs()
            away += self.frames * (group[:, None] != group[at])  # those of a frame's own group come first
            self.clip = self.clip[:, at[away.argmin(dim=1)]]
        self.level = self._per_token(self.level)
        beside = self.spec.sees_pictures and bool(self.known.any())
        if anything and (self.level == FREE).all() and not beside:
            raise InputError(
                f"the frames fill no whole token of the model, which is {self.geometry.patch.t} latent frames long"
            )
        if anything and not (self.level == FREE).any():
            raise InputError(
                f"the conditions fix all {self.frames} frames, so that nothing is left to make; fix fewer of them, or "
                "make a longer clip"
            )
        given = self.known.nonzero()[:, 0].tolist()
        if self.spec.takes_first_alone and given not in ([], [0]):
            raise InputError(
                f"this model takes the first frame alone, not {_frames(given[0], given[-1] - given[0] + 1, be=False)}"
            )
        return PlacedConditions(
            clip=self.clip if anything else None,
            known=self.known if anything else None,
            level=self.level if anything else None,
            start=self.start,
            strength=self.strength,
            flow=self.flow,
            renoised=not (
                self.spec.keeps_any
                or (self.spec.keeps_frames and self.region is None)
                or (self.spec.keeps_first and only_first)
            ),
            pictures=(self.pictures.get(0), self.pictures.get(self.frames - 1) if self.frames > 1 else None),
            record=self.record,
            notices=list(dict.fromkeys(self.notices)),
        )

    def _whole(self, source: Pixels, name: str) -> tuple[Tensor, str]:
        """A clip as long as the one that is made."""
        pixels, notices = read_frames(source, fps=float(self.settings.fps), name=name, size=self.size, fit=self.fit)
        if len(pixels) != self.frames:
            raise InputError(f"{name} has {len(pixels)} frames at {float(self.settings.fps):g} fps, not {self.frames}")
        clip, told = fitted(pixels, *self.size, self.fit, name=name)
        self.notices += [*notices, *told]
        return clip, fingerprint(pixels)

    def _per_latent(self, made: Tensor) -> Tensor:
        """Which latents are free, ``[T, H, W]``, if pixels ``[frames, height, width]`` are made anew: every latent of a
        token of which any pixel is."""
        _, sh, sw = self.geometry.vae_stride
        cells = reduce(made, "t (h i) (w j) -> t h w", "max", i=sh, j=sw)
        free = torch.stack([cells[list(self.geometry.frames_of(k))].any(dim=0) for k in range(self.latent.t)])
        return self._per_token(free)[self.settings.front :]

    def _per_token(self, values: Tensor) -> Tensor:
        """The largest of the values ``[T, H, W]`` of a token for all of its latents, those in front of the clip's own
        among them, which have the first one's."""
        values = torch.cat([values[:1]] * self.settings.front + [values])
        pt, ph, pw = self.geometry.patch
        tokens = reduce(values, "(t a) (h b) (w c) -> t h w", "max", a=pt, b=ph, c=pw)
        return repeat(tokens, "t h w -> (t a) (h b) (w c)", a=pt, b=ph, c=pw)


def _frames(first: int, count: int, *, be: bool = True) -> str:
    """Frames in a row, in words, and a verb if something comes behind them."""
    if count == 1:
        return f"frame {first}{' is' * be}"
    return f"frames {first} to {first + count - 1}{' are' * be}"


def _named(condition: Frames) -> str:
    """What a condition fixes, for messages."""
    return repr(os.fspath(condition.content)) if isinstance(condition.content, (str, os.PathLike)) else "a condition"


def _checked_strength(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:  # false for NaN, too
        raise InputError(f"{name} must be above 0 and at most 1, got {value!r}")
    return float(value)
