"""What the steps of a run need of a pipeline and of its parts, so that each says it and can be called without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from videodit.acceleration.parallel import Processes
    from videodit.families.sampling import Sampling
    from videodit.pipelines.spec import ModelSpec
    from videodit.shapes import VideoGeometry
    from videodit.text import EncodedPrompts, TextEncoder
    from videodit.text_spec import TextSpec
    from videodit.transformer import VideoDiT


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


class RunningPipeline(Protocol):
    """What the sampling loop reads and sets of a pipeline; see :class:`videodit.pipelines.running.RunState`."""

    config: Any
    scheduler: Scheduler
    transformer: VideoDiT
    transformer_2: VideoDiT | None
    processes: Processes | None
    _guidance_scale: float
    _guidance_scale_2: float | None
    _attention_kwargs: dict[str, Any] | None
    _num_timesteps: int
    _current_timestep: Tensor | None

    @property
    def sampling(self) -> Sampling:
        """How clips are made with the model."""

    @property
    def interrupted(self) -> bool:
        """Whether the run is to end after the current step."""

    @property
    def _scale_2(self) -> float:
        """The second expert's guidance scale."""

    def _begin_run(self, guidance_scale: float) -> None:
        """Go back to a call's own guidance scale."""

    def _lora_entries(self) -> list[Any]:
        """Loaded LoRAs and their weights."""

    @property
    def progress_bar(self) -> Callable[..., Any]:
        """A bar that steps are shown on."""


class EncodingPipeline(Protocol):
    """What encodes pictures and clips of a pipeline."""

    vae: VAE
    transformer: VideoDiT
    image_encoder: Any
    image_processor: Any

    @property
    def spec(self) -> ModelSpec:
        """Strides, channels and defaults of the model."""


class PreparingPipeline(EncodingPipeline, Protocol):
    """What noise and conditions are made with."""

    processes: Processes | None

    @property
    def sampling(self) -> Sampling:
        """How clips are made with the model."""

    @property
    def _execution_device(self) -> torch.device:
        """Where it computes."""


class ReadingPipeline(Protocol):
    """What prompts are read with."""

    @property
    def text(self) -> TextEncoder | EncodedPrompts:
        """Tokenizer and text encoder behind one call, or prompts that were encoded ahead."""

    @property
    def text_spec(self) -> TextSpec:
        """How the model wants its prompts."""

    def check_text_components(self, purpose: str, instead: str) -> None:
        """See that prompts can be read."""
