"""What steers a clip, added to the tokens of its latents before the first block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import Self

from videodit.errors import InputError
from videodit.schema import Part
from videodit.transformer_config import TransformerConfig


class PatchControl(nn.Module, Part):
    """A patch layer of its own, and a residual block of two convolutions over each latent frame's tokens.

    Its setting: ``patch_control``: channels of what steers, on the grid of the latents; 0 for none.

    Args:
        channels: of what steers.
        dim: width ``D``.
        patch: latents a token, along height and width.
    """

    settings: ClassVar[Mapping[str, object]] = {"patch_control": 0}

    def __init__(self, channels: int, dim: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch, stride=patch)
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1)

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        """See :class:`~videodit.schema.Part`."""
        channels = cls.setting(config, "patch_control")
        if channels < 0:
            raise InputError(f"block_options: patch_control must be at least 0, got {channels}")
        if channels and config.patch_size[0] != 1:
            raise InputError(f"patch_control needs tokens of one latent frame, got patch_size={config.patch_size}")

    @classmethod
    def of(cls, config: TransformerConfig, dim: int) -> Self | None:
        """The layer of a model; ``None`` where it has none."""
        channels = cls.setting(config, "patch_control")
        return cls(channels, dim, (config.patch_size[1], config.patch_size[2])) if channels else None

    def init_weights(self) -> None:
        """Patches Xavier uniform, and a residual block that starts as the identity."""
        for layer in (self.proj, self.conv1):
            nn.init.xavier_uniform_(layer.weight.flatten(1))
        nn.init.zeros_(self.conv2.weight)
        for layer in (self.proj, self.conv1, self.conv2):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, control: Tensor) -> Tensor:
        """``[B, C, T, H, W] → [B, S, D]``."""
        batch = len(control)
        x = self.proj(rearrange(control, "b c t h w -> (b t) c h w"))  # [B·T, D, h, w]
        x = x + self.conv2(F.relu(self.conv1(x)))
        return rearrange(x, "(b t) d h w -> b (t h w) d", b=batch)
