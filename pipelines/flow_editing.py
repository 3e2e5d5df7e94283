"""Edits by what two prompts differ in (Kulikov et al., "FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained
Flow Models", 2024, algorithm 1).

The clip ``z`` starts as the source ``x`` itself, and moves along the difference of two velocities. At a noise level
``σ``, with fresh noise ``ε``::

    source = (1 − σ)·x + σ·ε
    target = z + source − x
    z ← z + (σ' − σ) · (v(target; prompt) − v(source; source_prompt))

The sampling loop does the last line as any scheduler's step; :class:`FlowEdit` predicts the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from videodit._diffusers import cache_of
from videodit.errors import InputError
from videodit.pipelines.flow_terms import MASK_DRAWS
from videodit.pipelines.predicting import Moment, Predict
from videodit.pipelines.scheduling import draw_noise

if TYPE_CHECKING:
    from videodit.pipelines.protocols import Scheduler

_STEPPED = ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler")
"""Schedulers of diffusers' whose noise levels Euler's steps can follow: one prediction a step, and no noise of their
own."""


MASK_LEVEL = 0.6
"""The noise level at which it is found out where two prompts differ."""
MASK_SHARE = 0.3
"""Of the largest difference of predictions by two prompts; where it is above that, they differ."""


class EulerSteps:
    """Euler's step over the noise levels of a scheduler, which is FlowEdit's whatever the scheduler's own would be.

    Args:
        scheduler: with its timesteps set.
        begin: the number of the first step.
    """

    def __init__(self, scheduler: Scheduler, begin: int) -> None:
        self._sigmas, self._step = scheduler.sigmas, begin

    def __call__(self, prediction: Tensor, t: Tensor, latents: Tensor) -> Tensor:
        """Latents at the next noise level, ``[B, C, T, H, W]`` like the prediction."""
        here, there = (float(self._sigmas[self._step + i]) for i in (0, 1))
        self._step += 1
        return latents + (there - here) * prediction


def check_euler(scheduler: Scheduler) -> str | None:
    """See that Euler's steps can follow a scheduler's noise levels.

    Returns:
        What should be announced: that the scheduler's own steps are not taken.

    Raises:
        InputError: one that predicts twice a step, or draws noise.
    """
    name = type(scheduler).__name__
    if name not in _STEPPED or scheduler.config.get("stochastic_sampling") or "sde" in _algorithm(scheduler):
        how = " with noise of its own" if name in _STEPPED else ""
        raise InputError(
            f"the scheduler is {name}{how}; an edit with source_prompt takes Euler's steps: valid values are "
            f"{', '.join(_STEPPED)}"
        )
    if name == _STEPPED[0]:
        return None
    return f"an edit with source_prompt takes Euler's steps over the noise levels of {name}"


def _algorithm(scheduler: Scheduler) -> str:
    return str(scheduler.config.get("algorithm_type", ""))


def check_flow_run(scheduler: Scheduler, models: Sequence[object], actions: str | None) -> None:
    """See that a scheduler and caches go with an edit by two prompts.

    Args:
        scheduler: of the pipeline.
        models: its transformers; some may be ``None``.
        actions: what each step computes; ``None``: everything.

    Raises:
        InputError: they do not.
    """
    check_euler(scheduler)
    cache = next(filter(None, map(cache_of, models)), None)
    if actions is not None or cache is not None:
        what = f"the cache {cache} is on" if cache is not None else "pipe.accelerate() leaves some out"
        raise InputError(
            f"an edit with source_prompt computes every step, each with new noise, and {what}; turn that off"
        )


@dataclass
class FlowEdit:
    """The velocity from a clip to another: a prediction by the new prompt less one by the clip's own.

    Attributes:
        target: predicts by the new prompt.
        source: predicts by the clip's own.
        clip: latents ``[B, C, T, H, W]`` that are edited.
        free: ``[1 or B, 1, T, H, W]``: 1 where the clip may change, 0 where not; ``None``: everywhere.
        level: the noise level at which a step begins.
        generators: one a clip.
        frames_first: see :class:`videodit.families.sampling.Sampling`.
        n_avg: noises that each difference is the mean of.
        find: finds where the prompts differ before the first step; ``None``: that plays no part.
    """

    target: Predict
    source: Predict
    clip: Tensor
    free: Tensor | None
    level: Callable[[Moment], float]
    generators: Sequence[torch.Generator]
    frames_first: bool = False
    n_avg: int = 1
    find: Callable[[FlowEdit], Tensor] | None = None

    def __call__(self, latents: Tensor, at: Moment) -> Tensor:
        """The difference at the edited latents ``[B, C, T, H, W]``, 0 where nothing may change."""
        if self.find is not None:
            found = self.find(self)
            self.free, self.find = found if self.free is None else self.free * found, None
        sigma = self.level(at)
        difference = torch.zeros_like(latents)
        for _ in range(self.n_avg):
            moved = sigma * (self.noise() - self.clip)  # source − x
            difference += self.target(latents + moved, at) - self.source(self.clip + moved, at)
        difference /= self.n_avg
        return difference if self.free is None else difference * self.free

    def noise(self) -> Tensor:
        """Noise of unit deviation for all clips, drawn anew."""
        shape, place = tuple(self.clip.shape[1:]), self.clip.device
        drawn = [draw_noise(shape, g, place, frames_first=self.frames_first) for g in self.generators]
        return torch.stack(drawn)


@dataclass(frozen=True)
class PromptMask:
    """Where two prompts differ (after Couairon et al., "DiffEdit", 2022): where predictions by both do, for the same
    noisy clip, in the mean over several noises.

    Attributes:
        at: the moment whose noise level the clip gets.
    """

    at: Moment

    @classmethod
    def of(cls, scheduler: Scheduler) -> PromptMask:
        """At the noise level of a scheduler that is nearest to :data:`MASK_LEVEL`.

        Args:
            scheduler: with its timesteps set.
        """
        step = int((scheduler.sigmas[: len(scheduler.timesteps)].float() - MASK_LEVEL).abs().argmin())
        return cls(Moment(step, scheduler.timesteps[step]))

    def __call__(self, edit: FlowEdit) -> Tensor:
        """``[B, 1, T, H, W]``: 1 where the prompts differ, else 0."""
        probing = replace(edit, free=None, find=None, n_avg=MASK_DRAWS)
        return above(probing(edit.clip, self.at).norm(dim=1, keepdim=True))


def above(difference: Tensor) -> Tensor:
    """Where the mean of a difference ``[B, 1, T, H, W]`` over the latents around each is above a share of the largest.

    The largest is the 99th of a hundred, so that a single latent does not decide.
    """
    around = F.avg_pool3d(difference, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)
    most = around.flatten(1).quantile(0.99, dim=1)[:, None, None, None, None]
    return (around > MASK_SHARE * most).float()
