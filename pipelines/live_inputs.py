"""Checks of the tensors and generators of a call, against the model and each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.pipelines.request import Inputs
from videodit.pipelines.scheduling import check_generators
from videodit.weights import is_finite

if TYPE_CHECKING:
    from videodit.pipelines.spec import TextNeeds

_EMBEDS = ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")


def check_live(inputs: Inputs, *, videos: int, latent_shape: tuple[int, int, int, int]) -> None:
    """Check generators and latents, and that all tensors are finite.

    Args:
        inputs: of the call.
        videos: how many clips are made.
        latent_shape: ``(C, T, H, W)`` of each.

    Raises:
        InputError: naming the argument, its value and what is legal.
    """
    check_generators(inputs.generator)
    if isinstance(inputs.generator, Sequence) and len(inputs.generator) != videos:
        raise InputError(f"{len(inputs.generator)} generators for {videos} clips; give one, or one for each")
    latents = inputs.latents
    if latents is not None and not isinstance(latents, Tensor):
        raise InputError(f"latents must be a tensor, got {type(latents).__name__}")
    if latents is not None and tuple(latents.shape) != (videos, *latent_shape):
        raise InputError(f"latents must be {[videos, *latent_shape]}, got {list(latents.shape)}")
    if latents is not None and not latents.is_floating_point():
        raise InputError(f"latents must be of a floating-point dtype, got {latents.dtype}")
    for name, tensor in inputs.tensors.items():
        if not name.endswith("mask") and not is_finite(tensor):
            raise InputError(f"{name} hold values that are not finite (NaN or infinite)")


def check_embeds(inputs: Inputs, needs: TextNeeds) -> None:
    """Check encoded prompts.

    Raises:
        InputError: naming the argument, its shape and the legal one.
    """
    for sign in ("", "negative_"):
        _check_set(inputs, needs, sign)


def _check_set(inputs: Inputs, needs: TextNeeds, sign: str) -> None:
    """Check the embeddings of the prompts, or of the negative ones."""
    name, mask_name, pooled_name = (f"{sign}{one}" for one in _EMBEDS)
    embeds, mask, pooled = (getattr(inputs, one) for one in (name, mask_name, pooled_name))
    for one, tensor in ((name, embeds), (mask_name, mask), (pooled_name, pooled)):
        if tensor is not None and not isinstance(tensor, Tensor):
            raise InputError(f"{one} must be a tensor, got {type(tensor).__name__}")
    if mask is not None and (embeds is None or mask.shape != embeds.shape[:2]):
        shape = "none of those" if embeds is None else list(embeds.shape)
        raise InputError(f"{mask_name} {list(mask.shape)} must be [B, L] of {name}, got {shape}")
    if pooled is not None and (embeds is None or needs.pooled_dim is None):
        reason = f"it goes with {name}" if embeds is None else "this model takes none"
        raise InputError(f"{pooled_name} {list(pooled.shape)} has no use: {reason}")
    if embeds is None:
        return
    if embeds.ndim != 3 or embeds.shape[2] != needs.text_dim:
        raise InputError(f"{name} must be [B, L, {needs.text_dim}], got {list(embeds.shape)}")
    if not embeds.shape[0] or not embeds.shape[1] or not torch.isfinite(embeds).all():
        raise InputError(f"{name} must hold finite numbers of at least one token, got {list(embeds.shape)}")
    if needs.pooled_dim is None:
        return
    if pooled is None:
        raise InputError(f"this model reads a prompt in two ways; pass {pooled_name} with {name}")
    legal = [len(embeds), needs.pooled_dim]
    if list(pooled.shape) != legal:
        raise InputError(f"{pooled_name} must be {legal}, got {list(pooled.shape)}")
