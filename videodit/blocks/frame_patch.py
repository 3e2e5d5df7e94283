"""A patch layer of its own for what a model sees beside the latents, latent frame by latent frame."""

from __future__ import annotations

from torch import nn
from typing_extensions import Self

from videodit.errors import InputError
from videodit.schema import Part
from videodit.transformer_config import TransformerConfig


class FramePatch(nn.Module, Part):
    """A patch layer over single latent frames.

    Classes of it have one setting: latent channels of what the layer sees; 0 for no such layer.

    Args:
        channels: of what it sees.
        dim: width ``D``.
        patch: latents a token, along height and width.
    """

    def __init__(self, channels: int, dim: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch, stride=patch)

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        """See :class:`~videodit.schema.Part`."""
        (name,) = cls.settings
        channels = cls.setting(config, name)
        if channels < 0:
            raise InputError(f"block_options: {name} must be at least 0, got {channels}")
        if channels and config.patch_size[0] != 1:
            raise InputError(f"{name} needs tokens of one latent frame, got patch_size={config.patch_size}")

    @classmethod
    def of(cls, config: TransformerConfig, dim: int) -> Self | None:
        """The layer of a model; ``None`` where it has none."""
        (name,) = cls.settings
        channels = cls.setting(config, name)
        return cls(channels, dim, (config.patch_size[1], config.patch_size[2])) if channels else None

    def init_weights(self) -> None:
        """Patches Xavier uniform."""
        nn.init.xavier_uniform_(self.proj.weight.flatten(1))
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)
