"""A picture of what a clip should show, embedded by a layer of its own, as one more frame in front of the clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from einops import rearrange
from torch import Tensor

from videodit.blocks.frame_patch import FramePatch


class ReferencePatch(FramePatch):
    """A patch layer of its own.

    Its setting: ``reference_patch``: latent channels of the picture; 0 for none.

    Args:
        channels: of the picture's latents.
        dim: width ``D``.
        patch: latents a token, along height and width.
    """

    settings: ClassVar[Mapping[str, object]] = {"reference_patch": 0}

    def forward(self, latents: Tensor) -> Tensor:
        """``[B, C, 1, H, W] → [B, R, D]``."""
        return rearrange(self.proj(latents[:, :, 0]), "b d h w -> b (h w) d")
