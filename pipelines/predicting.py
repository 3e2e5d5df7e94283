"""Predictions as functions of noisy latents and a moment of the run, and wrappers that make one of others.

A wrapper knows no transformer and no pipeline: whatever is called like a :data:`Predict` can stand in it.
:mod:`videodit.pipelines.denoising` puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

_GOLDEN = 0.382
"""The share of a ring that it is turned by from step to step; turned by that, no two steps in a row share a place."""


@dataclass(frozen=True)
class Moment:
    """Where a run is.

    Attributes:
        step: its number, from 0.
        t: the timestep.
        frames: that of each latent frame ``[T]``, where they differ.
        shift: by how many latent frames a loop is turned; ``None`` outside of loops.
    """

    step: int
    t: Tensor
    frames: Tensor | None = None
    shift: int | None = None


Predict = Callable[[Tensor, Moment], Tensor]
"""Latents ``[B, C, T, H, W]`` at a moment to a prediction of the same shape."""


@dataclass(frozen=True)
class Experts:
    """Each of two transformers for its own noise levels.

    Attributes:
        high: predicts from the boundary on.
        low: predicts below it.
        boundary: a timestep.
    """

    high: Predict
    low: Predict
    boundary: float

    def __call__(self, latents: Tensor, at: Moment) -> Tensor:
        return (self.high if float(at.t) >= self.boundary else self.low)(latents, at)


@dataclass(frozen=True)
class Ring:
    """Latent frames of which the first follows the last.

    In each step the seam is somewhere else; the frame before comes first, since nothing of a loop is a clip's
    beginning.

    Attributes:
        predict: predicts a clip with a frame more.
    """

    predict: Predict

    def __call__(self, latents: Tensor, at: Moment) -> Tensor:
        frames = latents.shape[2]
        shift = at.step * max(1, round(frames * _GOLDEN)) % frames
        turned = latents.roll(shift, dims=2)
        prediction = self.predict(torch.cat([turned[:, :, -1:], turned], dim=2), replace(at, shift=shift))
        return prediction[:, :, 1:].roll(-shift, dims=2)


@dataclass(frozen=True)
class Scene:
    """A part of a clip with a prompt of its own.

    Attributes:
        weights: how much it counts in each latent frame, ``[T]``.
        frames: the latent frames that it sees.
        predict: predicts these.
    """

    weights: Tensor
    frames: slice
    predict: Predict


@dataclass(frozen=True)
class Scenes:
    """Predictions of overlapping parts, averaged by weight as in Bar-Tal et al., "MultiDiffusion" (2023), along time.

    Attributes:
        scenes: their weights add up to 1 in each latent frame.
    """

    scenes: Sequence[Scene]

    def __call__(self, latents: Tensor, at: Moment) -> Tensor:
        total = torch.zeros_like(latents)
        for one in self.scenes:
            part = one.predict(latents[:, :, one.frames], at)
            total[:, :, one.frames] += one.weights[one.frames, None, None] * part
        return total


@dataclass
class Reused:
    """Leaves out steps: their predictions lie on the line through the last two that were computed, over timesteps.

    Attributes:
        predict: computes a prediction.
        actions: a letter a step; ``R`` leaves it out. The first step of a run is computed whatever it says, since an
            edit may begin at one that would be left out.
    """

    predict: Predict
    actions: str
    _computed: list[tuple[float, Tensor]] = field(default_factory=list, init=False)

    def __call__(self, latents: Tensor, at: Moment) -> Tensor:
        if self.actions[at.step] == "R" and self._computed:
            return self._extrapolated(float(at.t))
        prediction = self.predict(latents, at)
        self._computed = [*self._computed[-1:], (float(at.t), prediction)]
        return prediction

    def _extrapolated(self, t: float) -> Tensor:
        last_t, last = self._computed[-1]
        if len(self._computed) < 2:
            return last
        before_t, before = self._computed[0]
        return last + (last - before) * ((t - last_t) / (last_t - before_t))
