"""The condition: the embedding of the timestep, and what is added to it.

Letters: ``B`` batch, ``T`` latent frames, ``S`` video tokens, ``K`` width of the condition, ``G`` groups of tokens that
share a timestep: 1, ``T`` or ``S``; ``U`` distinct timesteps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from videodit._diffusers import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from videodit.blocks import Modulation
from videodit.blocks.base import cond_dim
from videodit.errors import InputError
from videodit.flow import NUM_TRAIN_TIMESTEPS
from videodit.schema import Part
from videodit.shapes import Size3D
from videodit.transformer_config import TransformerConfig

_BITS = 2**32 - 1
"""Those of an fp32 number."""


class Condition(Part):
    """What the model has to know of the layers below.

    Its settings: ``reversed_time``: the timestep's embedder counts from noise to clean. ``constant_dim``: channels of
    the sinusoids of a number that is the same for all clips and is embedded, too, ``constant``; 0 for none.
    """

    settings: ClassVar[Mapping[str, object]] = {"reversed_time": False, "constant_dim": 0, "constant": 2.0}
    fp32 = ("time_embedder", "guidance_embedder", "resolution_embedder", "aspect_ratio_embedder", "constant_embedder")


class ConditionModel:
    """Goes before diffusers' ``ModelMixin``: a model's embedders of timestep, pooled text, guidance and size."""

    config: TransformerConfig
    pooled_embedder: PixArtAlphaTextProjection | None
    guidance_embedder: TimestepEmbedding | None

    def _build_condition(self) -> None:
        """The layers, as the config says."""
        config, width = self.config, cond_dim(self.config)
        self.timesteps = Timesteps(config.freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(config.freq_dim, width)
        self.pooled_embedder, self.guidance_embedder = None, None
        if config.pooled_dim is not None:
            self.pooled_embedder = PixArtAlphaTextProjection(config.pooled_dim, width, act_fn="silu")
        if config.guidance_embeds:
            self.guidance_embedder = TimestepEmbedding(config.freq_dim, width)
        if config.size_condition_stride is not None:
            self.resolution_embedder = TimestepEmbedding(config.freq_dim, width // 3)
            self.aspect_ratio_embedder = TimestepEmbedding(config.freq_dim, width // 3)

        if channels := Condition.setting(config, "constant_dim"):
            self.constants = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0)
            self.constant_embedder = TimestepEmbedding(channels, width)

    def _sinusoids(self, numbers: Tensor) -> Tensor:
        """Numbers ``[...]`` as sinusoids ``[..., freq_dim]`` in the dtype of the embedders."""
        values = self.timesteps(numbers.flatten()).unflatten(0, numbers.shape)  # fp32
        return values.to(self.time_embedder.linear_1.weight.dtype)

    def _check_extras(self, pooled: Tensor | None, guidance: Tensor | None) -> None:
        """See that what is added to the condition is there.

        Raises:
            InputError: an input that is missing, or that the model does not have.
        """
        for name, value, embedder in (
            ("pooled_projections", pooled, self.pooled_embedder),
            ("guidance", guidance, self.guidance_embedder),
        ):
            if (value is None) != (embedder is None):
                raise InputError(f"{name} is missing" if value is None else f"this model takes no {name}")

    def _embed_extras(
        self, pooled: Tensor | None, guidance: Tensor | None, of_text: Tensor | None, latents: Tensor
    ) -> Tensor | None:
        """What is added to the timestep's embedding, ``[B, K]``, or ``None``.

        Args:
            pooled: pooled text ``[B, pooled_dim]``, where the model has it.
            guidance: guidance scales ``[B]``, where the model has them.
            of_text: what the text's embedder adds, ``[B, K]``, or ``None``.
            latents: ``[B, C, T, H, W]``, for their size.
        """
        parts = []
        if guidance is not None and self.guidance_embedder is not None:
            parts.append(self.guidance_embedder(self._sinusoids(1000 * guidance.float())))
        if pooled is not None and self.pooled_embedder is not None:
            parts.append(self.pooled_embedder(pooled))
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
        return sum(parts[1:], parts[0]).to(latents.dtype) if parts else None

    def _embed_timestep(self, timestep: Tensor, extra: Tensor | None, grid: Size3D, dtype: torch.dtype) -> Modulation:
        """The condition of the distinct timesteps and, for one timestep a token, the row of each token."""
        token_row = None
        if timestep.ndim == 1:
            timestep = timestep[:, None]  # [B, 1]
        elif timestep.shape[1] == grid.numel:
            # A timestep's bits and, where something is added to them, its sample as one whole number: Apple's GPUs have
            # no fp64, which would hold both.
            keys = timestep.float().view(torch.int32).long() & _BITS
            if extra is not None:
                keys = keys + (torch.arange(len(timestep), device=timestep.device)[:, None] << 32)
            keys, token_row = torch.unique(keys, return_inverse=True)  # [U], [B, S]
            timestep = (keys & _BITS).to(torch.int32).view(torch.float32)
            extra = None if extra is None else extra[keys >> 32]  # [U, K]
        if Condition.setting(self.config, "reversed_time"):
            timestep = NUM_TRAIN_TIMESTEPS - timestep
        values = self.time_embedder(self._sinusoids(timestep)).to(dtype)  # [B, G, K] or [U, K]
        if extra is not None:
            values = values + (extra if token_row is not None else extra[:, None])
        return Modulation(values, token_row)
