"""What steers a clip, added to the tokens of its latents before the first block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videodit.blocks.frame_patch import FramePatch


class PatchControl(FramePatch):
    """A patch layer of its own, and a residual block of two convolutions over each latent frame's tokens.

    Its setting: ``patch_control``: channels of what steers, on the grid of the latents; 0 for none.

    Args:
        channels: of what steers.
        dim: width ``D``.
        patch: latents a token, along height and width.
    """

    settings: ClassVar[Mapping[str, object]] = {"patch_control": 0}

    def __init__(self, channels: int, dim: int, patch: tuple[int, int]) -> None:
        super().__init__(channels, dim, patch)
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1)

    def init_weights(self) -> None:
        """Patches Xavier uniform, and a residual block that starts as the identity."""
        super().init_weights()
        nn.init.xavier_uniform_(self.conv1.weight.flatten(1))
        nn.init.zeros_(self.conv2.weight)
        for layer in (self.conv1, self.conv2):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, control: Tensor) -> Tensor:
        """``[B, C, T, H, W] → [B, S, D]``."""
        batch = len(control)
        x = self.proj(rearrange(control, "b c t h w -> (b t) c h w"))  # [B·T, D, h, w]
        x = x + self.conv2(F.relu(self.conv1(x)))
        return rearrange(x, "(b t) d h w -> b (t h w) d", b=batch)
