"""From the pixels of references to tokens behind a clip's, or to pictures that a branch sees in front of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from videodit.pipelines.autoencoders import encode_posterior
from videodit.pipelines.protocols import EncodingPipeline
from videodit.pipelines.reference_placing import PlacedReference
from videodit.reference_tokens import ReferenceTokens, tokens_in_layout


def as_pixels(frames: np.ndarray, device: torch.device) -> Tensor:
    """uint8 frames ``[T, H, W, 3]`` as ``[3, T, H, W]`` in [-1, 1]."""
    return torch.from_numpy(np.array(frames)).to(device, torch.float32).permute(3, 0, 1, 2) / 127.5 - 1


@torch.no_grad()
def encode_references(
    pipe: EncodingPipeline, references: Sequence[PlacedReference], device: torch.device
) -> tuple[ReferenceTokens, ...]:
    """References as the transformer takes them; those that a branch sees are left out.

    Args:
        pipe: the pipeline, for its autoencoder.
        references: placed.
        device: where the result goes.
    """
    found: list[ReferenceTokens] = []
    for one in references:
        if one.branch is not None:
            continue
        latents = encode_posterior(pipe.vae, as_pixels(one.frames, device)[None])[0]  # [1, C, T, H, W]
        found.append(tokens_in_layout(one.layout, latents, number=len(found), at=_token_at(pipe, one.at)))
    return tuple(found)


def _token_at(pipe: EncodingPipeline, frame: int) -> float:
    """Where a frame stands along time, counted in tokens; where positions are fractions, between them."""
    stride, patch = pipe.spec.geometry.vae_stride.t, pipe.spec.geometry.patch.t
    if pipe.transformer.config.rope == "fractional":
        return frame / stride / patch
    return float(math.ceil(frame / stride) // patch)
