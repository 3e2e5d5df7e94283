"""Objectives: what a model is trained to predict, and at which noise levels.

A noisy latent is ``x_σ = α·x₀ + σ·ε``. Timesteps are ``1000·σ`` for flow matching, so 0 is clean and 1000
is noise. Sampling itself is the work of diffusers' schedulers; this module is their counterpart in training.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from einops import rearrange, reduce
from torch import Tensor

from videodit.arguments import check_choice
from videodit.errors import InputError
from videodit.objectives import NUM_TRAIN_TIMESTEPS as NUM_TRAIN_TIMESTEPS
from videodit.objectives import Objective as Objective
from videodit.shapes import Size3D

TimestepDensity = Literal["uniform", "logit_normal"]


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards noise: ``s·σ / (1 + (s−1)·σ)`` (Esser et al., "Scaling Rectified Flow
    Transformers for High-Resolution Image Synthesis", 2024, section 5.3.2).

    Raises:
        InputError: a shift that is not above 0.
    """
    if not shift > 0:
        raise InputError(f"shift must be above 0, got {shift}")
    return shift * sigma / (1 + (shift - 1) * sigma)


def sample_sigma(
    batch: int,
    *,
    density: TimestepDensity = "logit_normal",
    mean: float = 0.0,
    std: float = 1.0,
    shift: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw a noise level for each sample of a batch.

    Args:
        batch: how many.
        density: uniform on (0, 1), or the sigmoid of a normal variable (Esser et al. 2024, section 3.1).
        mean: of that normal variable.
        std: of that normal variable.
        shift: see :func:`shift_sigma`; clips with more tokens want more.
        generator: on the CPU, so that the same seed draws the same levels on every device.
        device: where the result goes.

    Returns:
        ``[B]`` in (0, 1), fp32.

    Raises:
        InputError: an unknown density, or a shift that is not above 0.
    """
    check_choice(density, get_args(TimestepDensity), "density")
    if density == "uniform":
        sigma = torch.rand(batch, generator=generator)
    else:
        sigma = torch.sigmoid(mean + std * torch.randn(batch, generator=generator))
    return shift_sigma(sigma, shift).to(device)


def sigma_at(
    quantile: Tensor,
    *,
    density: TimestepDensity = "logit_normal",
    mean: float = 0.0,
    std: float = 1.0,
    shift: float = 1.0,
) -> Tensor:
    """The noise level below which a share of the levels of :func:`sample_sigma` lie.

    Args:
        quantile: the share, in (0, 1), of any shape.
        density: see :func:`sample_sigma`.
        mean: of the normal variable.
        std: of the normal variable.
        shift: see :func:`shift_sigma`.

    Raises:
        InputError: an unknown density, or a shift that is not above 0.
    """
    check_choice(density, get_args(TimestepDensity), "density")
    level = quantile.cpu().double()  # which Apple's GPUs have not
    if density == "logit_normal":
        level = torch.sigmoid(mean + std * torch.special.ndtri(level))
    return shift_sigma(level, shift).float().to(quantile.device)


def quantile_of(
    sigma: Tensor, *, density: TimestepDensity = "logit_normal", mean: float = 0.0, std: float = 1.0, shift: float = 1.0
) -> Tensor:
    """The inverse of :func:`sigma_at`: the share of noise levels that lie below one, in fp64, on the CPU."""
    level = shift_sigma(sigma.cpu().double(), 1 / shift)
    return torch.special.ndtr((torch.logit(level) - mean) / std) if density == "logit_normal" else level


def add_noise(
    clean: Tensor,
    noise: Tensor,
    sigma: Tensor,
    keep: Tensor | None = None,
    *,
    alpha: Tensor | None = None,
    kept_sigma: Tensor | None = None,
) -> Tensor:
    """Noisy latents ``α·x₀ + σ·ε``.

    Args:
        clean: ``x₀ [B, C, T, H, W]``.
        noise: ``ε``, the same shape.
        sigma: ``[B]``.
        keep: ``[B, 1, T, H, W]``, True where the latent stays clean.
        alpha: ``[B]``; ``None`` for ``1 − σ``, rectified flow (Liu et al., "Flow Straight and Fast", 2022).
        kept_sigma: ``[B]``, the noise level of rectified flow that kept latents get in place of 0.
    """
    sigma = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - sigma if alpha is None else alpha.view(-1, 1, 1, 1, 1)) * clean + sigma * noise
    if keep is None:
        return noisy
    kept = clean if kept_sigma is None else add_noise(clean, noise, kept_sigma)
    return torch.where(keep, kept, noisy)


def training_target(
    objective: Objective,
    clean: Tensor,
    noise: Tensor,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
) -> Tensor:
    """What the model should have said.

    Args:
        objective: ``"flow"``: the velocity ``ε − x₀``; ``"epsilon"``: ``ε`` (Ho et al., 2020);
            ``"v"``: ``α·ε − σ·x₀`` (Salimans and Ho, "Progressive Distillation", 2022, appendix D).
        clean: ``x₀ [B, C, T, H, W]``.
        noise: ``ε``, the same shape.
        alpha: signal level ``[B]``, needed for ``"v"``.
        sigma: noise level ``[B]``, needed for ``"v"``.

    Raises:
        InputError: an unknown objective, or ``"v"`` without levels.
    """
    if objective == "flow":
        return noise - clean
    if objective == "epsilon":
        return noise
    if objective == "v":
        if alpha is None or sigma is None:
            raise InputError("objective 'v' needs alpha and sigma")
        return alpha.view(-1, 1, 1, 1, 1) * noise - sigma.view(-1, 1, 1, 1, 1) * clean
    raise InputError(f"objective must be one of {', '.join(get_args(Objective))}, got {objective!r}")


def token_timesteps(timestep: Tensor, keep: Tensor, patch: Size3D, kept: Tensor | None = None) -> Tensor:
    """A timestep for each token: that of kept latents where all of its patch are kept, else the sample's own.

    Args:
        timestep: ``[B]``.
        keep: ``[B, 1, T, H, W]``, True where the latent is kept.
        patch: latents a token.
        kept: the timestep ``[B]`` of kept latents; ``None``: 0, since they are clean.

    Returns:
        ``[B, S]``.
    """
    free = reduce(
        (~keep).to(timestep.dtype), "b 1 (t i) (h j) (w k) -> b t h w", "max", i=patch.t, j=patch.h, k=patch.w
    )
    free = rearrange(free, "b t h w -> b (t h w)")
    return timestep[:, None] * free if kept is None else torch.where(free > 0, timestep[:, None], kept[:, None])


def denoising_loss(
    prediction: Tensor, target: Tensor, keep: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Mean squared error of each sample over the latents that are not kept clean.

    Args:
        prediction: the model's output ``[B, C, T, H, W]``.
        target: see :func:`training_target`.
        keep: ``[B, 1, T, H, W]``, True where no error counts.
        weight: ``[B, 1, T, H, W]``, what an error counts among those of its sample; ``None`` for all the same.

    Returns:
        ``[B]`` in fp32; a sample that is kept whole gives 0.
    """
    error = (prediction.float() - target.float()).square().mean(dim=1, keepdim=True)  # [B, 1, T, H, W]
    if keep is None and weight is None:
        return error.mean(dim=(1, 2, 3, 4))
    counts = torch.ones_like(error) if weight is None else weight.float()
    if keep is not None:
        counts = counts * ~keep
    total = counts.expand_as(error).sum(dim=(1, 2, 3, 4))
    return (error * counts).sum(dim=(1, 2, 3, 4)) / torch.where(total > 0, total, 1)
