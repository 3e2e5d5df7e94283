"""What VACE's branches see: what stays of a clip, what is made, where, and pictures in front (Jiang et al., 2025).

Letters: ``C`` latent channels, ``T H W`` latent frames, height and width; ``F h w`` frames and pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from videodit.pipelines.autoencoders import encode_posterior

if TYPE_CHECKING:
    from videodit.pipelines.protocols import EncodingPipeline


@torch.no_grad()
def vace_input(pipe: EncodingPipeline, pixels: Tensor, made: Tensor, references: Sequence[Tensor] = ()) -> Tensor:
    """A control of the layout ``"vace"``.

    Args:
        pipe: the pipeline, for its autoencoder.
        pixels: of the clip ``[1, 3, F, h, w]`` in [-1, 1].
        made: ``[F, h, w]``, above 0.5 where something is made; elsewhere the pixels stay.
        references: pictures ``[3, height, width]`` in [-1, 1] of any size, which go in front, the last one first. They
            are fitted into the clip's size on white.

    Returns:
        ``[1, 2·C + h·w of a latent, references + T, H, W]``: latents of what stays, latents of what is made, and the
        mask's pixels as channels.
    """
    made = (made > 0.5).to(pixels)
    stays, changes = _latents(pipe, pixels * (1 - made)), _latents(pipe, pixels * made)
    stride = pipe.spec.geometry.vae_stride
    mask = rearrange(made, "f (h i) (w j) -> 1 (i j) f h w", i=stride.h, j=stride.w)
    mask = F.interpolate(mask, size=stays.shape[2:], mode="nearest-exact")
    whole = torch.cat([stays, changes, mask], dim=1)
    for picture in references:
        seen = _latents(pipe, _on_white(picture.to(pixels), pixels.shape[3], pixels.shape[4])[None, :, None])
        rest = whole.new_zeros(1, whole.shape[1] - seen.shape[1], *seen.shape[2:])
        whole = torch.cat([torch.cat([seen, rest], dim=1), whole], dim=2)
    return whole


def _latents(pipe: EncodingPipeline, pixels: Tensor) -> Tensor:
    return encode_posterior(pipe.vae, pixels)[0]


def _on_white(picture: Tensor, height: int, width: int) -> Tensor:
    """A picture ``[3, h, w]`` as large as fits, in the middle of a white one."""
    scale = min(height / picture.shape[1], width / picture.shape[2])
    rows, columns = int(picture.shape[1] * scale), int(picture.shape[2] * scale)
    resized = F.interpolate(picture[None], size=(rows, columns), mode="bilinear", align_corners=False)[0]
    canvas = picture.new_ones(3, height, width)
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas[:, top : top + rows, left : left + columns] = resized
    return canvas
