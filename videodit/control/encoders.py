"""From the pixels of a control to channels on the grid of latents, without an autoencoder.

Letters: ``B`` batch, ``P`` pixel channels, ``C`` control channels, ``T H W`` latent frames, height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videodit.errors import InputError
from videodit.initialization import initialize
from videodit.shapes import Size3D


class PixelEncoder(nn.Module):
    """What encodes pixels; a class for each kind.

    Args:
        channels: of the pixels, ``P``.
        stride: pixels a latent along time, height and width. The first frame may be a latent of its own.
        out_channels: ``C``.
    """

    def __init__(self, channels: int, stride: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.channels, self.stride, self.out_channels = channels, Size3D(*stride), out_channels

    def check(self, pixels: Tensor) -> None:
        """See that pixels can be encoded.

        Raises:
            InputError: another number of channels, or sides or frames that are no multiple of the stride.
        """
        t, h, w = self.stride
        if pixels.ndim != 5 or pixels.shape[1] != self.channels:
            raise InputError(f"a control must be [B, {self.channels}, frames, H, W], got {list(pixels.shape)}")
        frames, height, width = pixels.shape[2:]
        if height % h or width % w or -frames % t not in (0, t - 1):
            raise InputError(
                f"a control of {frames} frames of {height}×{width} pixels cannot be encoded: sides must be multiples "
                f"of {h} and {w}, and the frames one more than a multiple of {t}"
            )


class Unshuffle(PixelEncoder):
    """All pixels of a latent as channels, then one linear layer.

    A first frame that is a latent of its own is repeated.
    """

    def __init__(self, channels: int, stride: Sequence[int], out_channels: int) -> None:
        super().__init__(channels, stride, out_channels)
        self.proj = nn.Linear(channels * self.stride.numel, out_channels)

    def init_weights(self) -> None:
        """Xavier uniform."""
        initialize(self)

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, P, frames, height, width] → [B, C, T, H, W]``."""
        t, h, w = self.stride
        first = pixels[:, :, :1].expand(-1, -1, -pixels.shape[2] % t, -1, -1)
        pixels = torch.cat([first, pixels], dim=2)
        flat = rearrange(pixels, "b p (t i) (h j) (w k) -> b t h w (p i j k)", i=t, j=h, k=w)
        return self.proj(flat).movedim(-1, 1)


class UnshuffleConv(PixelEncoder):
    """Frame by frame: pixels of a place as channels, two 1×1 convolutions with norms, each before a mean of two frames.

    Of the ControlNets for CogVideoX (TheDenk, 2024). The first frame stays alone, as in a causal autoencoder.
    """

    def __init__(self, channels: int, stride: Sequence[int], out_channels: int) -> None:
        super().__init__(channels, stride, out_channels)
        wide = channels * self.stride.h * self.stride.w
        if self.stride.t != 4 or self.stride.h != self.stride.w or out_channels != wide // 4:
            raise InputError(
                f"encoder 'unshuffle_conv' makes {wide // 4} channels at a stride (4, n, n), "
                f"got {out_channels} at {tuple(self.stride)}"
            )
        self.first = _norm_relu(wide, wide // 2)
        self.second = _norm_relu(wide // 2, wide // 4)

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, P, frames, height, width] → [B, C, T, H, W]``."""
        x = F.pixel_unshuffle(pixels.transpose(1, 2), self.stride.h)  # [B, frames, P·h·w, H, W]
        for layer in (self.first, self.second):
            batch = x.shape[0]
            x = _halved(layer(x.flatten(0, 1)).unflatten(0, (batch, -1)))
        return x.transpose(1, 2)


def _norm_relu(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out_channels, 1), nn.GroupNorm(2, out_channels), nn.ReLU())


def _halved(x: Tensor) -> Tensor:
    """Means of two frames ``[B, frames, C, H, W]`` each; of an odd number the first stays as it is."""
    odd = x.shape[1] % 2
    return torch.cat([x[:, :odd], x[:, odd:].unflatten(1, (-1, 2)).mean(dim=2)], dim=1)


class StridedConv(PixelEncoder):
    """Three 3D convolutions with strides, each with GELU and a norm.

    Of the ControlNets for Wan (TheDenk, 2025).
    """

    def __init__(self, channels: int, stride: Sequence[int], out_channels: int) -> None:
        super().__init__(channels, stride, out_channels)
        t, h, w = self.stride
        wide = channels * h * w
        if t != 4 or h != w or out_channels != wide // 4:
            raise InputError(
                f"encoder 'strided_conv' makes {wide // 4} channels at a stride (4, n, n), "
                f"got {out_channels} at {tuple(self.stride)}"
            )
        self.layers = nn.ModuleList(
            [
                _conv_norm(channels, wide, (3, h + 1, w + 1), (1, h, w), (1, h // 2, w // 2)),
                _conv_norm(wide, wide // 2, (3, 3, 3), (2, 1, 1), (1, 1, 1)),
                _conv_norm(wide // 2, wide // 4, (3, 3, 3), (2, 1, 1), (1, 1, 1)),
            ]
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, P, frames, height, width] → [B, C, T, H, W]``."""
        for layer in self.layers:
            pixels = layer(pixels)
        return pixels


def _conv_norm(
    channels: int,
    out_channels: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
) -> nn.Sequential:
    conv = nn.Conv3d(channels, out_channels, kernel, stride, padding)
    return nn.Sequential(conv, nn.GELU(approximate="tanh"), nn.GroupNorm(2, out_channels))


ENCODERS: dict[str | None, type[PixelEncoder] | None] = {
    None: None,
    "unshuffle": Unshuffle,
    "unshuffle_conv": UnshuffleConv,
    "strided_conv": StridedConv,
}
"""What encodes the pixels of a control, by the value of a branch's ``encoder``; ``None``: the model's autoencoder."""
