"""The condition: the embedding of the timestep, and what is added to it.

Letters: ``B`` batch, ``T`` latent frames, ``S`` video tokens, ``K`` width of the condition, ``G`` groups of tokens that
share a timestep: 1, ``T`` or ``S``; ``U`` distinct timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from videodit._diffusers import FeedForward, PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from videodit.blocks import Block, Modulation
from videodit.blocks.base import cond_dim
from videodit.errors import InputError
from videodit.flow import NUM_TRAIN_TIMESTEPS
from videodit.schema import Part
from videodit.transformer_config import TransformerConfig

_FPS_APART = 16
"""Frames a second of the one of two classes; the other is all the rest (diffusers: SkyReelsV2)."""
_BITS = 2**32 - 1
"""Those of an fp32 number."""


class Condition(Part):
    """What the model has to know of the layers below.

    Its settings: ``reversed_time``: the timestep's embedder counts from noise to clean. ``constant_dim``: channels of
    the sinusoids of a number that is the same for all clips and is embedded, too, ``constant``; 0 for none.
    ``fps_classes``: blocks of cross-attention are told whether the clip has 16 frames a second. ``replaced_tokens``:
    tokens at timestep 0 are in the place of noisy ones: they are not told the guidance scale, and what is predicted of
    them has the clip's timestep. ``target_time``: the model is told to which timestep a step leads, too (Geng et al.,
    "Mean Flows for One-step Generative Modeling", 2025). ``time_hidden``: hidden width of the timestep's embedder; 0
    for ``K``.
    """

    settings: ClassVar[Mapping[str, object]] = {
        "reversed_time": False,
        "constant_dim": 0,
        "constant": 2.0,
        "replaced_tokens": False,
        "fps_classes": False,
        "target_time": False,
        "time_hidden": 0,
    }
    fp32 = (
        "time_embedder",
        "guidance_embedder",
        "resolution_embedder",
        "aspect_ratio_embedder",
        "constant_embedder",
        "target_time_embedder",
    )


class Added(NamedTuple):
    """What is added to the timestep's embedding.

    Attributes:
        values: ``[B, K]``.
        clean: in place of them at timestep 0, ``[B, K]``; ``None`` for the same.
    """

    values: Tensor
    clean: Tensor | None = None

    def at(self, timestep: Tensor, sample: Tensor | None = None) -> Tensor:
        """For timesteps ``[B, G]``, ``[B, G or 1, K]``; or for ``[U]``, each of the sample ``[U]``, ``[U, K]``."""
        values, clean = (None if one is None else one[:, None] if sample is None else one[sample] for one in self)
        assert values is not None
        return values if clean is None else torch.where((timestep == 0)[..., None], clean, values)


class ConditionModel:
    """Goes before diffusers' ``ModelMixin``: a model's embedders of timestep, pooled text, guidance and size."""

    config: TransformerConfig
    pooled_embedder: PixArtAlphaTextProjection | None
    guidance_embedder: TimestepEmbedding | None
    target_time_embedder: TimestepEmbedding | None
    time_proj: nn.Module | None
    block_class: type[Block]

    def _build_condition(self) -> None:
        """The layers, as the config says."""
        config, width = self.config, cond_dim(self.config)
        self.timesteps = Timesteps(config.freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        biases = self.block_class.biases
        hidden = Condition.setting(config, "time_hidden") or width
        self.time_embedder = TimestepEmbedding(config.freq_dim, hidden, out_dim=width, sample_proj_bias=biases)
        self.pooled_embedder, self.guidance_embedder, self.target_time_embedder = None, None, None
        if config.pooled_dim is not None:
            self.pooled_embedder = PixArtAlphaTextProjection(config.pooled_dim, width, act_fn="silu")
        if config.guidance_embeds:
            self.guidance_embedder = TimestepEmbedding(config.freq_dim, width, sample_proj_bias=biases)
        if Condition.setting(config, "target_time"):
            self.target_time_embedder = TimestepEmbedding(config.freq_dim, width)
        if config.size_condition_stride is not None:
            self.resolution_embedder = TimestepEmbedding(config.freq_dim, width // 3)
            self.aspect_ratio_embedder = TimestepEmbedding(config.freq_dim, width // 3)

        if channels := Condition.setting(config, "constant_dim"):
            self.constants = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0)
            self.constant_embedder = TimestepEmbedding(channels, width)

        if Condition.setting(config, "fps_classes"):
            self.fps_embedding = nn.Embedding(2, width)
            self.fps_projection = FeedForward(width, 6 * width, mult=1, activation_fn="linear-silu")

    def _projection(self, fps: float) -> Callable[[Tensor], Tensor] | None:
        """The layer that all blocks share; of models that are told the rate, with what they are told of it."""
        layer = self.time_proj
        if layer is None or not Condition.setting(self.config, "fps_classes"):
            return layer
        kind = torch.full([], int(fps != _FPS_APART), device=self.fps_embedding.weight.device)
        told = self.fps_projection(self.fps_embedding(kind))  # [6·D]
        return lambda values: layer(values) + told

    def _sinusoids(self, numbers: Tensor) -> Tensor:
        """Numbers ``[...]`` as sinusoids ``[..., freq_dim]`` in the dtype of the embedders."""
        values = self.timesteps(numbers.flatten()).unflatten(0, numbers.shape)  # fp32
        return values.to(self.time_embedder.linear_1.weight.dtype)

    def _check_extras(self, pooled: Tensor | None, guidance: Tensor | None, target: Tensor | None) -> None:
        """See that what is added to the condition is there.

        Raises:
            InputError: an input that is missing, or that the model does not have.
        """
        for name, value, embedder in (
            ("pooled_projections", pooled, self.pooled_embedder),
            ("guidance", guidance, self.guidance_embedder),
            ("timestep_r", target, self.target_time_embedder),
        ):
            if (value is None) != (embedder is None):
                raise InputError(f"{name} is missing" if value is None else f"this model takes no {name}")

    def _embed_extras(
        self,
        pooled: Tensor | None,
        guidance: Tensor | None,
        target: Tensor | None,
        of_text: Tensor | None,
        latents: Tensor,
    ) -> Added | None:
        """What is added to the timestep's embedding, or ``None``.

        Args:
            pooled: pooled text ``[B, pooled_dim]``, where the model has it.
            guidance: guidance scales ``[B]``, where the model has them.
            target: the timesteps that a step leads to, ``[B]``, where the model is told them.
            of_text: what the text's embedder adds, ``[B, K]``, or ``None``.
            latents: ``[B, C, T, H, W]``, for their size.
        """
        parts = []
        guided = guidance is not None and self.guidance_embedder is not None
        if guidance is not None and self.guidance_embedder is not None:
            parts.append(self.guidance_embedder(self._sinusoids(1000 * guidance.float())))
        if pooled is not None and self.pooled_embedder is not None:
            parts.append(self.pooled_embedder(pooled))
        if target is not None and self.target_time_embedder is not None:
            parts.append(self.target_time_embedder(self._sinusoids(target)))
        if stride := self.config.size_condition_stride:
            height, width = (float(stride * side) for side in latents.shape[3:])
            size = torch.tensor([[height, width]], device=latents.device)
            resolution = self.resolution_embedder(self._sinusoids(size)).flatten(1)  # [1, 2·K/3]
            ratio = self.aspect_ratio_embedder(self._sinusoids(size[:, 0] / size[:, 1]))  # [1, K/3]
            parts.append(torch.cat([resolution, ratio], dim=1).expand(latents.shape[0], -1))
        if Condition.setting(self.config, "constant_dim"):
            number = torch.full([latents.shape[0]], Condition.setting(self.config, "constant"), device=latents.device)
            wide = self.constants(number).to(self.constant_embedder.linear_1.weight.dtype)
            parts.append(self.constant_embedder(wide))
        if of_text is not None:
            parts.append(of_text)
        if not parts:
            return None
        values = sum(parts[1:], parts[0]).to(latents.dtype)
        if not guided or not Condition.setting(self.config, "replaced_tokens"):
            return Added(values)
        others = sum(parts[2:], parts[1]) if parts[1:] else torch.zeros_like(values)
        return Added(values, others.to(latents.dtype))

    def _embed_last(
        self, condition: Modulation, timestep: Tensor, extra: Added | None, dtype: torch.dtype
    ) -> Modulation:
        """The condition of the final layer: that of the blocks, or of the clip's timestep ``[B]`` for all tokens."""
        if not Condition.setting(self.config, "replaced_tokens"):
            return condition
        return self._embed_timestep(timestep, extra, 1, dtype)

    def _embed_timestep(self, timestep: Tensor, extra: Added | None, tokens: int, dtype: torch.dtype) -> Modulation:
        """The condition of the distinct timesteps and, for one timestep for each of the tokens, the row of each."""
        token_row = sample = None
        if timestep.ndim == 1:
            timestep = timestep[:, None]  # [B, 1]
        elif timestep.shape[1] == tokens:
            # A timestep's bits and, where something is added to them, its sample as one whole number: Apple's GPUs have
            # no fp64, which would hold both.
            keys = timestep.float().view(torch.int32).long() & _BITS
            if extra is not None:
                keys = keys + (torch.arange(len(timestep), device=timestep.device)[:, None] << 32)
            keys, token_row = torch.unique(keys, return_inverse=True)  # [U], [B, S]
            timestep = (keys & _BITS).to(torch.int32).view(torch.float32)
            sample = keys >> 32
        told = NUM_TRAIN_TIMESTEPS - timestep if Condition.setting(self.config, "reversed_time") else timestep
        values = self.time_embedder(self._sinusoids(told)).to(dtype)  # [B, G, K] or [U, K]
        if extra is not None:
            values = values + extra.at(timestep, sample)
        return Modulation(values, token_row)
