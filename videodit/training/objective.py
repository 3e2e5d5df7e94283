"""The loss of a micro-batch, for every family's objective.

Letters: ``B`` samples, ``C`` latent channels, ``T H W`` latent frames, height and width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videodit.errors import InputError
from videodit.flow import (
    NUM_TRAIN_TIMESTEPS,
    Objective,
    TimestepDensity,
    add_noise,
    denoising_loss,
    quantile_of,
    sigma_at,
    token_timesteps,
    training_target,
)
from videodit.pipelines.scheduling import dynamic_mu
from videodit.reference_tokens import tokens_in_layout
from videodit.shapes import Size3D
from videodit.training.config import Noise
from videodit.training.data import MicroBatch

if TYPE_CHECKING:
    from videodit.pipelines import VideoDiTPipeline
    from videodit.pipelines.spec import ModelSpec


class _Shared(TypedDict):
    """What :class:`Diffusion` is told whatever the objective."""

    objective: Objective
    patch: Size3D
    density: TimestepDensity
    mean: float
    std: float
    guidance: float | None
    fps: float
    zeros: int


@dataclass(frozen=True)
class Diffusion:
    """How noise levels are drawn for a model, and what it is asked at them.

    Args:
        objective: what the model predicts.
        patch: latents a token.
        density: of the noise levels.
        mean: of a logit-normal density.
        std: of a logit-normal density.
        shift: of flow models' levels, for a clip of ``shift_tokens`` tokens.
        shift_tokens: ``None`` where the shift is the same for every clip.
        signal: ``ᾱ [1000]`` of the scheduler, for models that predict noise or v.
        levels: the share of noise levels that this model is asked at: all, or an expert's.
        guidance: the guidance scale that a model with built-in guidance gets as input; ``None`` for others.
        fps: of the clips, which some models' positions follow.
        layout: of references, where the batches have some.
        zeros: channels beside the latents that hold nothing.
    """

    objective: Objective
    patch: Size3D
    density: TimestepDensity
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    shift_tokens: int | None = None
    signal: Tensor | None = None
    levels: tuple[float, float] = (0.0, 1.0)
    guidance: float | None = None
    fps: float = 24.0
    layout: str | None = None
    zeros: int = 0

    @classmethod
    def of(cls, pipe: VideoDiTPipeline, noise: Noise, *, expert: str | None, fps: float) -> Diffusion:
        """What a pipeline's model wants, as far as the config leaves that open.

        Raises:
            InputError: what the config says of a model that it is not: a shift, or a mean of the levels, for one that
                predicts noise or v; an expert for one with one transformer, or none for one with two; a first frame
                for one that does not take it as a clean latent; guidance for one that is not told any.
        """
        objective, spec, scheduler = pipe.objective, pipe.spec, pipe.scheduler
        check_kind(spec, noise, expert=expert)
        guided = pipe.transformer.config.guidance_embeds
        if noise.guidance != 1.0 and not guided:
            raise InputError(f"noise.guidance is {noise.guidance}, but this model has no guidance input; leave it out")
        density = noise.density or ("logit_normal" if objective == "flow" else "uniform")
        if density == "uniform" and (noise.mean, noise.std) != (0.0, 1.0):
            raise InputError(
                f"noise.mean is {noise.mean} and noise.std {noise.std}, which are of density=logit_normal: models that "
                f"predict {objective} are trained at uniform levels unless noise.density says otherwise"
            )
        shared: _Shared = {
            "objective": objective,
            "patch": spec.geometry.patch,
            "density": density,
            "mean": noise.mean,
            "std": noise.std,
            "guidance": noise.guidance if guided else None,
            "fps": fps,
            "zeros": pipe.transformer.config.in_channels - spec.latent_channels if spec.sees_zeros else 0,
        }
        if objective != "flow":
            if noise.shift != "auto":
                raise InputError(f"noise.shift is {noise.shift}; models that predict {objective} have none: use auto")
            return cls(**shared, signal=scheduler.alphas_cumprod.float())
        shift, tokens = (float(noise.shift), None) if noise.shift != "auto" else _own_shift(pipe)
        found_levels = (0.0, 1.0)
        if expert is not None:
            boundary = torch.tensor(float(pipe.config.boundary_ratio))
            split = float(quantile_of(boundary, density=shared["density"], mean=noise.mean, std=noise.std, shift=shift))
            found_levels = (split, 1.0) if expert == "high" else (0.0, split)
            tokens = None  # the boundary is one noise level, whatever the clip's length
        return cls(**shared, shift=shift, shift_tokens=tokens, levels=found_levels)

    def sigma(self, quantile: Tensor, tokens: int) -> Tensor:
        """Noise levels ``[B]`` of a clip of so many tokens, from quantiles ``[B]`` of all that are asked.

        The shift grows with the square root of the number of tokens (Esser et al., "Scaling Rectified Flow
        Transformers for High-Resolution Image Synthesis", 2024, section 5.3.2).
        """
        low, high = self.levels
        shift = self.shift * (1.0 if self.shift_tokens is None else math.sqrt(tokens / self.shift_tokens))
        return sigma_at(low + (high - low) * quantile, density=self.density, mean=self.mean, std=self.std, shift=shift)

    def losses(self, model: nn.Module, batch: MicroBatch, *, dtype: torch.dtype) -> Tensor:
        """The mean squared error of each sample, ``[B]`` in fp32, over the latents that are not given.

        Args:
            model: the transformer, wrapped or not.
            batch: on its device; see :meth:`~videodit.training.data.MicroBatch.to`.
            dtype: of what goes into it.
        """
        clean, noise = batch.clean, batch.noise
        tokens = Size3D(*clean.shape[2:]).numel // self.patch.numel
        keep = None
        if batch.given.any() and clean.shape[2] > self.patch.t:
            keep = torch.zeros_like(clean[:, :1], dtype=torch.bool)
            keep[:, :, : self.patch.t] = batch.given.view(-1, 1, 1, 1, 1)
        sigma = self.sigma(batch.quantile, tokens).to(clean.device)
        if self.signal is None:
            alpha, timestep = None, sigma * NUM_TRAIN_TIMESTEPS
        else:
            index = (sigma * NUM_TRAIN_TIMESTEPS).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)
            signal = self.signal.to(clean.device)[index]
            alpha, sigma, timestep = signal.sqrt(), (1 - signal).sqrt(), index.float()
        noisy = add_noise(clean, noise, sigma, keep, alpha=alpha)
        prediction = model(
            self._with_channels(noisy, batch).to(dtype),
            timestep if keep is None else token_timesteps(timestep, keep, self.patch),
            batch.embeds.to(dtype),
            encoder_attention_mask=None if batch.mask.all() else batch.mask,
            return_dict=False,
            **self._extras(batch, dtype),
        )[0][:, : clean.shape[1]]  # some models predict their own variance behind it
        return denoising_loss(prediction, training_target(self.objective, clean, noise, alpha, sigma), keep)

    def _with_channels(self, noisy: Tensor, batch: MicroBatch) -> Tensor:
        if self.zeros:
            return F.pad(noisy, (0, 0, 0, 0, 0, 0, 0, self.zeros))
        return noisy if batch.channels is None else torch.cat([noisy, batch.channels.to(noisy.dtype)], dim=1)

    def _extras(self, batch: MicroBatch, dtype: torch.dtype) -> dict[str, Any]:
        given: dict[str, Any] = {"fps": self.fps}
        if batch.pooled is not None:
            given["pooled_projections"] = batch.pooled.to(dtype)
        if batch.tokens is not None:
            given["encoder_hidden_states_image"] = batch.tokens.to(dtype)
        if batch.control is not None:
            given |= {"control": batch.control, "kind": batch.kind}
        if batch.reference is not None and self.layout is not None:
            given["references"] = [tokens_in_layout(self.layout, batch.reference)]
        if self.guidance is not None:
            given["guidance"] = torch.full([len(batch)], self.guidance, device=batch.clean.device)
        return given


def check_kind(spec: ModelSpec, noise: Noise, *, expert: str | None) -> None:
    """See that a model has the expert and takes the first frame that a config speaks of.

    Args:
        spec: the model's, which needs no weights; see :class:`~videodit.pipelines.spec.ModelSpec`.
        noise: of the config.
        expert: of the config.

    Raises:
        InputError: an expert for a model with one transformer, or none for a model with two; a first frame for a model
            that does not take it as a clean latent.
    """
    if (expert is None) != (spec.experts < 2):
        found = "two transformers; method.expert must be high or low" if expert is None else "one transformer"
        raise InputError(f"the model has {found}, got method.expert={expert!r}")
    if noise.first_frame > 0 and not spec.keeps_first:
        raise InputError(
            f"noise.first_frame is {noise.first_frame}: this model does not take its first frame as a clean latent"
        )


def _own_shift(pipe: VideoDiTPipeline) -> tuple[float, int]:
    """The shift that a model is sampled with, and the tokens of the clip for which it is that."""
    spec, config = pipe.spec, pipe.scheduler.config
    defaults = spec.defaults
    tokens = spec.geometry.num_tokens(defaults.num_frames, defaults.height, defaults.width)
    if config.get("use_dynamic_shifting"):
        return math.exp(dynamic_mu(config, tokens, pipe.sampling.shift, defaults.num_inference_steps)), tokens
    return float(config.get("shift") or config.get("flow_shift") or 1.0), tokens
