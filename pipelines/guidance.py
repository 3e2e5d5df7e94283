"""Classifier-free guidance (Ho and Salimans, 2022): how two predictions are made, and how one is led away from the
other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from einops import reduce, repeat
from torch import Tensor

from videodit.errors import InputError
from videodit.pipelines.predicting import Moment, Predict
from videodit.shapes import Size3D


class Pair(Protocol):
    """Makes a conditional and an unconditional prediction."""

    def both(self, latents: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
        """The conditional and the unconditional one."""

    def first(self, latents: Tensor, at: Moment) -> Tensor:
        """The conditional one alone."""


@dataclass(frozen=True)
class InTurn:
    """One after the other.

    Attributes:
        cond: the conditional prediction.
        uncond: the unconditional one.
    """

    cond: Predict
    uncond: Predict

    def both(self, latents: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
        """See :class:`Pair`."""
        return self.cond(latents, at), self.uncond(latents, at)

    def first(self, latents: Tensor, at: Moment) -> Tensor:
        """See :class:`Pair`."""
        return self.cond(latents, at)


@dataclass(frozen=True)
class Batched:
    """In one call, of twice the clips.

    Attributes:
        twice: predicts clips ``[2·B, …]``, the first half conditionally.
        cond: the conditional prediction alone.
    """

    twice: Predict
    cond: Predict

    def both(self, latents: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
        """See :class:`Pair`."""
        cond, uncond = self.twice(torch.cat([latents, latents]), at).chunk(2)
        return cond, uncond

    def first(self, latents: Tensor, at: Moment) -> Tensor:
        """See :class:`Pair`."""
        return self.cond(latents, at)


class Sharing(Protocol):
    """Two processes that make a prediction each: :class:`videodit.acceleration.parallel.Processes`."""

    def both(self, cond: Callable[[], Tensor], uncond: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Both predictions, one made here and the other there."""

    def first(self, cond: Callable[[], Tensor], like: Tensor) -> Tensor:
        """The conditional one, made by the first process alone."""


@dataclass(frozen=True)
class Shared:
    """By a process each.

    Attributes:
        cond: the conditional prediction.
        uncond: the unconditional one.
        processes: the two.
    """

    cond: Predict
    uncond: Predict
    processes: Sharing

    def both(self, latents: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
        """See :class:`Pair`."""
        return self.processes.both(lambda: self.cond(latents, at), lambda: self.uncond(latents, at))

    def first(self, latents: Tensor, at: Moment) -> Tensor:
        """See :class:`Pair`."""
        return self.processes.first(lambda: self.cond(latents, at), latents)


@dataclass(frozen=True)
class LedByReferences:
    """Two predictions, both led away from a third without references: ``+ (r − 1)·(uncond − bare)``.

    Guided by a scale ``s``, they are ``bare + r·(uncond − bare) + s·(cond − uncond)`` (Liu et al., "Phantom", 2025).

    Attributes:
        pair: makes the two, with references.
        bare: the unconditional prediction without references.
        scale: of references, ``r``.
    """

    pair: Pair
    bare: Predict
    scale: float

    def both(self, latents: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
        """See :class:`Pair`."""
        cond, uncond = self.pair.both(latents, at)
        led = (self.scale - 1) * (uncond - self.bare(latents, at))
        return cond + led, uncond + led

    def first(self, latents: Tensor, at: Moment) -> Tensor:
        """See :class:`Pair`."""
        return self.pair.first(latents, at)


def steady(scale: float, at: Moment) -> float:
    """A scale that stays as it is."""
    return scale


@dataclass
class Guided:
    """``uncond + s·(cond − uncond)``; the conditional prediction alone where the scale is at most 1.

    Attributes:
        pair: makes both.
        scale: at a moment.
        grown: what becomes of a scale above 1 before it is used, as in :class:`Growing`.
        negative: there is something to lead away from.
        above: the guidance scale, as a user counts it, that stands for a scale of 1 here.
        kept_norm: latents a token, of models whose guided prediction is as long in each token as the conditional one;
            ``None`` for others.
        may_shorten: where it is shorter, it stays so.
        actions: a letter a step; ``C`` computes the conditional prediction alone and takes the last difference of both.
            ``None``: every step computes both.
    """

    pair: Pair
    scale: Callable[[Moment], float]
    grown: Callable[[float, Moment], float] = steady
    negative: bool = True
    above: float = 1.0
    kept_norm: Size3D | None = None
    may_shorten: bool = False
    actions: str | None = None
    _difference: Tensor | None = field(default=None, init=False)

    def __call__(self, latents: Tensor, at: Moment) -> Tensor:
        """The guided prediction.

        Raises:
            InputError: guidance that was raised where there is no negative prompt.
        """
        scale = self.scale(at)
        if scale <= 1:
            self._difference = None
            return self.pair.first(latents, at)
        if not self.negative:
            raise InputError(
                f"a callback raised guidance_scale to {scale - 1 + self.above}, but the call has no encoded negative "
                f"prompt; pass negative_prompt_embeds, or begin with guidance_scale above {self.above:g}"
            )
        if self.actions is not None and self.actions[at.step] == "C" and self._difference is not None:
            cond = self.pair.first(latents, at)
            uncond = cond - self._difference
        else:
            cond, uncond = self.pair.both(latents, at)
            self._difference = cond - uncond
        guided = uncond + self.grown(scale, at) * self._difference
        if self.kept_norm is None:
            return guided
        return as_long(guided, cond, self.kept_norm, may_shorten=self.may_shorten)


def as_long(guided: Tensor, cond: Tensor, patch: Size3D, *, may_shorten: bool = False) -> Tensor:
    """A prediction whose tokens are as long as those of another, both ``[B, C, T, H, W]``.

    Args:
        guided: the prediction.
        cond: the other one.
        patch: latents a token.
        may_shorten: tokens that are shorter stay so.
    """
    t, h, w = patch

    def lengths(x: Tensor) -> Tensor:
        square = reduce(x.square(), "b c (t i) (h j) (w k) -> b 1 t h w", "sum", i=t, j=h, k=w)
        return repeat(square.sqrt(), "b 1 t h w -> b 1 (t i) (h j) (w k)", i=t, j=h, k=w)

    if may_shorten:
        return guided * (lengths(cond) / (lengths(guided) + 1e-8)).clamp(max=1)
    return guided * (lengths(cond) / lengths(guided))


@dataclass(frozen=True)
class Growing:
    """A scale that grows as CogVideoX's authors let it: ``1 + s·(1 − cos(π·((n − t)/n)⁵))/2``.

    Attributes:
        steps: of the sampler, ``n``.
    """

    steps: int

    def __call__(self, scale: float, at: Moment) -> float:
        return 1 + scale * (1 - math.cos(math.pi * ((self.steps - float(at.t)) / self.steps) ** 5)) / 2
