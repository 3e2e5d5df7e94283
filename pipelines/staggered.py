"""The steps of a scheduler for latent frames that are denoised one block after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from videodit.objectives import Objective
from videodit.pipelines.clean_prediction import predicted_clean
from videodit.pipelines.protocols import Scheduler
from videodit.pipelines.scheduling import SchedulerStep
from videodit.pipelines.stagger import Stagger


class StaggeredSteps:
    """Takes for each block the step that is its turn, by a copy of the scheduler, since schedulers remember.

    Args:
        scheduler: with its timesteps set.
        stagger: how blocks follow one another.
        frames: latent frames.
        ready: how many of them are clean at the beginning.
        make: gives what calls a scheduler.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        stagger: Stagger,
        frames: int,
        ready: int,
        make: Callable[[Scheduler], SchedulerStep],
    ) -> None:
        self._levels, self._block = scheduler.timesteps, stagger.block
        self._rows = stagger.rows(len(self._levels), frames, ready)
        self._schedulers = [copy.deepcopy(scheduler) for _ in range(frames // stagger.block)]
        for one in self._schedulers:
            if hasattr(one, "set_begin_index"):
                one.set_begin_index(0)
        self._steps = [make(one) for one in self._schedulers]
        self._row = 0

    @property
    def timesteps(self) -> Tensor:
        """The largest timestep of each row."""
        return torch.stack([self.frames(row).amax() for row in range(len(self._rows))])

    def frames(self, row: int) -> Tensor:
        """The timestep of each latent frame, ``[T]``: of those that wait that of noise, of those that are clean 0."""
        levels = torch.cat([self._levels, self._levels.new_zeros(1)])
        return torch.stack([levels[max(0, step)] for step in self._rows[row]]).repeat_interleave(self._block)

    def __call__(self, prediction: Tensor, t: Tensor, latents: Tensor) -> Tensor:
        """Latents after the next row, ``[B, C, T, H, W]`` like the prediction."""
        parts = [part.clone() for part in latents.split(self._block, dim=2)]
        for i, (step, own) in enumerate(zip(self._rows[self._row], prediction.split(self._block, dim=2), strict=True)):
            if 0 <= step < len(self._levels):
                parts[i] = self._steps[i](own, self._levels[step], parts[i])
        self._row += 1
        return torch.cat(parts, dim=2)

    def clean(self, objective: Objective, noisy: Tensor, prediction: Tensor) -> Tensor:
        """The clean latents that the next row predicts; see :func:`predicted_clean`."""
        parts = list(noisy.split(self._block, dim=2))
        for i, (step, own) in enumerate(zip(self._rows[self._row], prediction.split(self._block, dim=2), strict=True)):
            if step < len(self._levels):
                parts[i] = predicted_clean(objective, self._schedulers[i], parts[i], own, max(0, step))
        return torch.cat(parts, dim=2)
