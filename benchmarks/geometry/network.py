"""The network that reads geometry, frame by frame: how near each pixel is, whether an object is there, and its box.

A box is told by each pixel of its object, as the distances to the box's sides (Tian et al., "FCOS", 2019).

Letters: ``B`` clips, ``N`` frames of all clips, ``T`` frames, ``S`` pixels of a side, ``C`` channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from videodit.errors import ModelError

SIZE = 64
"""Pixels of a side of the frames that it reads; others are scaled to that."""
BUNDLED = Path(__file__).with_name("probe.safetensors")
NEARNESS = 4.0
"""What one over the distance is multiplied with, so that it is about 1 for things nearby."""
_WIDTHS = (24, 32, 48)
_BATCH = 256


class Geometry(NamedTuple):
    """What is where in some frames, in pixels of `SIZE` to a side.

    Attributes:
        nearness: one over the distance along the camera's axis, in the world's units: fp32 ``[..., S, S]``.
        objects: how likely an object is there, 0 to 1: fp32 ``[..., S, S]``.
        boxes: of that object: left, top, right and bottom as shares of the frame: fp32 ``[..., 4, S, S]``.
    """

    nearness: Tensor
    objects: Tensor
    boxes: Tensor


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(self.norm(x))))


class GeometryProbe(nn.Module):
    """Reads frames of `SIZE` pixels to a side: three scales, from a half to an eighth of that, down and up again."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = _WIDTHS
        self.conv_in = nn.Conv2d(14, fine, 3, padding=1)
        self.fine = _Block(fine)
        self.down1 = nn.Conv2d(4 * fine, middle, 1)
        self.middle = _Block(middle)
        self.down2 = nn.Conv2d(4 * middle, coarse, 1)
        self.coarse = _Block(coarse)
        self.wide = nn.Linear(coarse, coarse)
        self.up2 = nn.Conv2d(coarse, middle, 1)
        self.middle_up = _Block(middle)
        self.up1 = nn.Conv2d(middle, fine, 1)
        self.fine_up = _Block(fine)
        self.conv_out = nn.Conv2d(fine, 4 * 6, 3, padding=1)
        across = (torch.arange(SIZE // 2) + 0.5) * (4 / SIZE) - 1
        self.register_buffer("places", torch.stack(torch.meshgrid(across, across, indexing="xy")), persistent=False)
        along = (torch.arange(SIZE) + 0.5) / SIZE
        self.register_buffer("pixels", torch.stack(torch.meshgrid(along, along, indexing="xy")), persistent=False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read frames ``[N, 3, S, S]`` in [-1, 1].

        Returns:
            As in :class:`Geometry`: nearness, times `NEARNESS`; objects, as logits; boxes.
        """
        x = F.pixel_unshuffle(frames, 2)
        x = torch.cat([x, self.places.expand(len(x), -1, -1, -1)], 1)
        fine = self.fine(self.conv_in(x))
        middle = self.middle(self.down1(F.pixel_unshuffle(fine, 2)))
        x = self.coarse(self.down2(F.pixel_unshuffle(middle, 2)))
        x = x + self.wide(x.mean((2, 3)))[:, :, None, None]
        x = self.middle_up(middle + F.interpolate(self.up2(x), scale_factor=2.0))
        x = self.fine_up(fine + F.interpolate(self.up1(x), scale_factor=2.0))
        nearness, objects, sides = F.pixel_shuffle(self.conv_out(F.relu(x)), 2).split([1, 1, 4], 1)
        low, high = F.softplus(sides).split([2, 2], 1)
        return nearness[:, 0], objects[:, 0], torch.cat([self.pixels - low / 8, self.pixels + high / 8], 1)

    @torch.no_grad()
    def read(self, clips: np.ndarray | Tensor) -> Geometry:
        """What is where in clips, uint8 ``[B, T, H, W, 3]``, of the same height and width; ``[B, T, ...]``."""
        device = self.conv_in.weight.device
        pixels = torch.as_tensor(clips)
        frames = scaled(pixels.flatten(0, 1).permute(0, 3, 1, 2).to(device))
        found = [self(part) for part in frames.split(_BATCH)]
        nearness, objects, boxes = (
            torch.cat(parts).unflatten(0, pixels.shape[:2]) for parts in zip(*found, strict=True)
        )
        return Geometry(nearness / NEARNESS, objects.sigmoid(), boxes)

    def save(self, path: Path) -> None:
        """Write the weights, in half precision."""
        save_file({name: value.half().contiguous().cpu() for name, value in self.state_dict().items()}, path)

    @classmethod
    def load(cls, path: Path = BUNDLED) -> GeometryProbe:
        """The network with the weights of a file; the bundled ones by default.

        Raises:
            ModelError: no such file, or the weights of another network.
        """
        probe = cls()
        try:
            probe.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(f"cannot read the weights of the geometry probe from {path}: {error}") from error
        return probe.eval()


def scaled(frames: Tensor) -> Tensor:
    """Frames uint8 ``[N, 3, H, W]`` as the network takes them: fp32 ``[N, 3, S, S]`` in [-1, 1]."""
    x = frames.float() / 127.5 - 1
    if tuple(x.shape[2:]) == (SIZE, SIZE):
        return x
    return F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
