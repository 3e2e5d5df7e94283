"""The clean latents that a step's prediction amounts to, whatever the transformer predicts and the scheduler is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from videodit.objectives import Objective
    from videodit.pipelines.protocols import Scheduler

_LEAST = 1e-6
"""Of a signal that is divided by: the first step of a schedule without any signal predicts no clean sample."""


def predicted_clean(objective: Objective, scheduler: Scheduler, noisy: Tensor, prediction: Tensor, step: int) -> Tensor:
    """Solve the definition of what the transformer predicts for the clean latents.

    With ``x = α·x₀ + σ·ε`` they are ``x − σ·v`` for the velocity of a flow, ``(x − σ·ε)/α`` for the noise, and
    ``α·x − σ·v`` for v. To be called before the scheduler's step, which takes it to the next noise level.

    Args:
        objective: what the transformer predicts.
        scheduler: with its timesteps set.
        noisy: what was predicted from, ``[B, C, T, H, W]``, before the scheduler's ``scale_model_input``.
        prediction: of the same shape.
        step: its number, from 0.
    """
    if objective == "flow":
        return noisy - float(scheduler.sigmas[step]) * prediction
    t = scheduler.timesteps[step]
    alpha, sigma = _levels(scheduler, t, step)
    if hasattr(scheduler, "scale_model_input"):
        noisy = scheduler.scale_model_input(noisy, t)
    if objective == "epsilon":
        return (noisy - sigma * prediction) / max(alpha, _LEAST)
    return alpha * noisy - sigma * prediction


def _levels(scheduler: Scheduler, t: Tensor, step: int) -> tuple[float, float]:
    """Signal and noise of what the transformer saw, whose squares add up to 1.

    Some schedulers work on ``x₀ + s·ε`` and scale that by ``α = 1/√(s² + 1)`` for the transformer; others keep the
    ratios ``s = σ/α`` alone, and the rest the training's own table.
    """
    if hasattr(scheduler, "scale_model_input"):
        one = torch.ones(1, device=t.device)
        scaled = float(scheduler.scale_model_input(one, t))
        if scaled != 1:
            return scaled, max(0.0, 1 - scaled**2) ** 0.5
    ratios = getattr(scheduler, "sigmas", None)
    if ratios is not None:
        ratio = float(ratios[step])
        alpha = 1 / (ratio**2 + 1) ** 0.5
        return alpha, ratio * alpha
    square = float(scheduler.alphas_cumprod[int(t)])
    return square**0.5, (1 - square) ** 0.5
