"""What the steps of a run need of a pipeline and of its parts, so that each says it and can be called without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from videodit.shapes import VideoGeometry


class VAE(Protocol):
    """An autoencoder of a class that :mod:`videodit.families.autoencoders` has a record of."""

    config: Any
    dtype: torch.dtype

    @property
    def encode(self) -> Callable[..., Any]:
        """Clips ``[B, 3, frames, height, width]`` to something that has a ``latent_dist``."""

    @property
    def decode(self) -> Callable[..., Any]:
        """Latents ``[B, C, T, H, W]`` to something that has a ``sample``."""

    @property
    def enable_tiling(self) -> Callable[..., None]:
        """Work in tiles from now on."""


class StreamingVAE(VAE, Protocol):
    """One whose record says that it streams: a :class:`~videodit.CausalVideoVAE`."""

    geometry: VideoGeometry
    stream_latent_frames: int | None
    tile_sample_min_height: int
    tile_sample_min_width: int
    tile_sample_stride_height: int
    tile_sample_stride_width: int

    def latent_frames_that_fit(self, shape: Sequence[int], free: int) -> int:
        """Latent frames that so many bytes are enough for."""

    @property
    def decode_stream(self) -> Callable[..., Iterator[Tensor]]:
        """The frames of latents, or of parts of them, chunk by chunk."""


class Scheduler(Protocol):
    """Any of diffusers'."""

    timesteps: Tensor
    config: Any

    @property
    def step(self) -> Callable[..., Any]:
        """Latents at the next noise level."""

    @property
    def set_timesteps(self) -> Callable[..., None]:
        """Lay out noise levels."""
