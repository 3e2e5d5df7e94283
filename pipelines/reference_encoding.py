"""From the pixels of references to tokens behind a clip's, or to pictures that a branch sees in front of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from videodit.pipelines.autoencoders import encode_posterior
from videodit.pipelines.pixels import as_pixels
from videodit.pipelines.protocols import EncodingPipeline
from videodit.pipelines.reference_placing import PlacedReference
from videodit.reference_tokens import ReferenceTokens, tokens_in_layout


@torch.no_grad()
def encode_references(
    pipe: EncodingPipeline,
    references: Sequence[PlacedReference],
    latent_shape: tuple[int, int, int, int],
    device: torch.device,
) -> tuple[ReferenceTokens, ...]:
    """References as the transformer takes them; those that a branch sees are left out.

    Args:
        pipe: the pipeline, for its autoencoder.
        references: placed.
        latent_shape: of the clips, ``(C, T, H, W)``.
        device: where the result goes.
    """
    found: list[ReferenceTokens] = []
    rules = pipe.spec.references
    if rules is not None and rules.layout == "lead" and not references:  # as such models were trained without a picture
        channels, _, rows, columns = latent_shape
        found.append(tokens_in_layout("lead", torch.zeros(1, channels, 1, rows, columns, device=device)))
    for one in references:
        if one.branch is not None:
            continue
        latents = encode_posterior(pipe.vae, as_pixels(one.frames, device))[0]  # [1, C, T, H, W]
        at = _token_at(pipe, one.at)
        found.append(tokens_in_layout(one.layout, latents, number=len(found), at=at, timestep=one.timestep))
    return tuple(found)


def _token_at(pipe: EncodingPipeline, frame: int) -> float:
    """Where a frame stands along time, counted in tokens; where positions are fractions, between them."""
    stride, patch = pipe.spec.geometry.vae_stride.t, pipe.spec.geometry.patch.t
    if pipe.transformer.config.rope == "fractional":
        return frame / stride / patch
    return float(math.ceil(frame / stride) // patch)
