"""What the steps of a run need of a pipeline and of its parts, so that each says it and can be called without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import ModelMixin
    from diffusers.configuration_utils import FrozenDict
    from transformers import BaseImageProcessor, PreTrainedModel

    from videodit.acceleration.parallel import Processes
    from videodit.control.branch import ControlBranch
    from videodit.families.sampling import Sampling
    from videodit.json_types import JsonObject
    from videodit.objectives import Objective
    from videodit.pipelines.request import Request
    from videodit.pipelines.spec import ModelSpec
    from videodit.shapes import VideoGeometry
    from videodit.text import EncodedPrompts, TextEncoder
    from videodit.text_spec import TextSpec
    from videodit.transformer import VideoDiT


class Posterior(Protocol):
    """What an autoencoder says of the latents of a clip."""

    mean: Tensor
    std: Tensor

    def mode(self) -> Tensor:
        """The most likely latents."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Latents that are drawn."""


class Encoded(Protocol):
    """What ``encode`` of an autoencoder returns."""

    latent_dist: Posterior


class Decoded(Protocol):
    """What ``decode`` of an autoencoder returns."""

    sample: Tensor


class VAE(Protocol):
    """An autoencoder of a class that :mod:`videodit.families.autoencoders` has a record of."""

    config: FrozenDict
    dtype: torch.dtype

    @property
    def encode(self) -> Callable[..., Encoded]:
        """Clips ``[B, 3, frames, height, width]`` to the posterior of their latents."""

    @property
    def decode(self) -> Callable[..., Decoded]:
        """Latents ``[B, C, T, H, W]`` to clips."""

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
    """One of diffusers'; those of flow matching have ``sigmas``, the others ``alphas_cumprod`` and ``add_noise``."""

    timesteps: Tensor
    sigmas: Tensor
    alphas_cumprod: Tensor
    config: FrozenDict

    @property
    def step(self) -> Callable[..., tuple[Tensor, ...]]:
        """Latents at the next noise level, first of what it returns with ``return_dict=False``."""

    @property
    def scale_model_input(self) -> Callable[..., Tensor]:
        """Latents as the transformer sees them, where they differ; some have no such method."""

    @property
    def add_noise(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Clean latents with noise, at timesteps ``[B]``."""

    @property
    def set_timesteps(self) -> Callable[..., None]:
        """Lay out noise levels."""


class ProgressBar(Protocol):
    """What steps are shown on."""

    @property
    def update(self) -> Callable[[], object]:
        """One step more."""


class RunningPipeline(Protocol):
    """What the sampling loop reads and sets of a pipeline; see :class:`videodit.pipelines.running.RunState`."""

    config: FrozenDict
    scheduler: Scheduler
    transformer: VideoDiT
    transformer_2: VideoDiT | None
    processes: Processes | None
    _guidance_scale: float
    _guidance_scale_2: float | None
    _attention_kwargs: dict[str, object] | None
    _num_timesteps: int
    _leads: bool
    _front: int
    _current_timestep: Tensor | None

    @property
    def sampling(self) -> Sampling:
        """How clips are made with the model."""

    @property
    def objective(self) -> Objective:
        """What the transformer predicts."""

    @property
    def interrupted(self) -> bool:
        """Whether the run is to end after the current step."""

    @property
    def _scale_2(self) -> float:
        """The second expert's guidance scale."""

    def _begin_run(self, call: object, guidance_scale: float, request: Request) -> None:
        """Go back to what a call asked for."""

    def _lora_entries(self) -> list[JsonObject]:
        """Loaded LoRAs and their weights."""

    @property
    def progress_bar(self) -> Callable[..., AbstractContextManager[ProgressBar]]:
        """A bar that steps are shown on."""


class RecordedPipeline(RunningPipeline, Protocol):
    """What recipes tell of a pipeline."""

    vae: ModelMixin
    components: dict[str, object]
    batch_guidance: bool
    quantized: str | None
    _model_id: str | None
    _files: Mapping[str, Path]

    @property
    def controls(self) -> Mapping[str, ControlBranch]:
        """Its control branches, by name."""

    @property
    def changed_controls(self) -> list[str]:
        """Control branches that are not as they were added."""

    @property
    def changed(self) -> list[str]:
        """What is not as it was loaded."""

    @property
    def model_hash(self) -> str | None:
        """A fingerprint of its weights."""

    @property
    def _files_hash(self) -> str | None:
        """A fingerprint of its configs and vocabularies."""

    @property
    def _execution_device(self) -> torch.device:
        """Where it computes."""


class EncodingPipeline(Protocol):
    """What encodes pictures and clips of a pipeline."""

    vae: VAE
    transformer: VideoDiT
    image_encoder: PreTrainedModel
    image_processor: BaseImageProcessor

    @property
    def spec(self) -> ModelSpec:
        """Strides, channels and defaults of the model."""

    @property
    def sampling(self) -> Sampling:
        """How clips are made with the model."""


class PreparingPipeline(EncodingPipeline, Protocol):
    """What noise and conditions are made with."""

    processes: Processes | None

    @property
    def _execution_device(self) -> torch.device:
        """Where it computes."""


class ControllingPipeline(EncodingPipeline, Protocol):
    """What controls are encoded with."""

    @property
    def controls(self) -> Mapping[str, ControlBranch]:
        """Its control branches, by name."""

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


class CheckedPipeline(RecordedPipeline, ReadingPipeline, Protocol):
    """What it is seen in whether a plan can be carried out."""

    _callback_tensor_inputs: list[str]

    @property
    def spec(self) -> ModelSpec:
        """Strides, channels and defaults of the model."""

    def actions_for(self, steps: int) -> str | None:
        """What the steps of a call compute."""

    def check_components(self, names: Sequence[str], purpose: str, instead: str = "") -> None:
        """See that components are there."""


class PreviewedPipeline(Protocol):
    """What previews are drawn with."""

    vae: ModelMixin

    @property
    def model_folder(self) -> Path | None:
        """Where it was loaded from."""

    @property
    def spec(self) -> ModelSpec:
        """Strides, channels and defaults of the model."""

    @property
    def _execution_device(self) -> torch.device:
        """Where it computes."""
