"""The loss on fixed clips, noise and noise levels: what two transformers can be told apart by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mini.batches import PATCH
from mini.clips import scenes
from mini.latents import encode
from mini.recipe import Recipe
from mini.trainer import autocast
from videodit import VideoDiTPipeline
from videodit.datasets.toybox import Scene, canonical_caption
from videodit.flow import add_noise, token_timesteps, training_target

LEVELS = (0.2, 0.4, 0.6, 0.8, 0.95)
BATCH = 16


class Fixed(NamedTuple):
    """Clips of the validation split, encoded.

    Attributes:
        scenes: what they show.
        latents: ``[N, C, T, H, W]``.
        coverage: ``[N, objects, T, H, W]``, see :func:`mini.clips.coverage`.
    """

    scenes: list[Scene]
    latents: Tensor
    coverage: Tensor


@torch.no_grad()
def fixed_clips(pipe: VideoDiTPipeline, recipe: Recipe, count: int) -> Fixed:
    """The first clips of the validation split, in the recipe's own form, encoded by a pipeline's autoencoder."""
    asked = scenes(0, count, "validation")
    return Fixed(asked, *encode(pipe.vae, recipe, asked, recipe.form))


@torch.no_grad()
def fixed_loss(pipe: VideoDiTPipeline, fixed: Fixed) -> dict[str, float]:
    """The mean squared error of the velocity, ``all`` latents alike and on ``objects`` by their share of each latent.

    Captions are the plain ones, nothing is given clean; noise is drawn from the seed of the clip's place.
    """
    errors, on_objects, covered = 0.0, 0.0, 0.0
    for first in range(0, len(fixed.scenes), BATCH):
        part = slice(first, first + BATCH)
        told = pipe.text([canonical_caption(scene) for scene in fixed.scenes[part]])
        clean = fixed.latents[part].float().to(pipe.device)
        keep = torch.zeros_like(clean[:, :1], dtype=torch.bool)
        cover = fixed.coverage[part].float().sum(dim=1).to(pipe.device)
        for number, level in enumerate(LEVELS):
            generator = torch.Generator().manual_seed(first * len(LEVELS) + number)
            noise = torch.randn(clean.shape, generator=generator).to(pipe.device)
            sigma = torch.full((len(clean),), level, device=pipe.device)
            timestep = token_timesteps(sigma * 1000, keep, PATCH)
            with autocast(clean.device):
                noisy = add_noise(clean, noise, sigma)
                prediction = pipe.transformer(noisy, timestep, told.embeds.float(), told.mask).sample
            error = (prediction.float() - training_target("flow", clean, noise)).square().mean(dim=1)  # [B, T, H, W]
            errors += float(error.mean(dim=(1, 2, 3)).sum())
            on_objects += float((error * cover).sum())
            covered += float(cover.sum())
    return {"all": errors / (len(fixed.scenes) * len(LEVELS)), "objects": on_objects / covered}
