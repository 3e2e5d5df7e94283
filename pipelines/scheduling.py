"""What stands between a scheduler of diffusers' and the loop: noise levels, noise, and one call for its step."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from videodit.families.sampling import Sigmas

_STOCHASTIC = ("EulerAncestralDiscreteScheduler", "CogVideoXDPMScheduler")  # they draw noise in each step
logger = logging.getLogger(__name__)


def set_timesteps(scheduler: Any, steps: int, *, spacing: Sigmas, num_tokens: int, device: torch.device) -> Tensor:
    """Lay out the noise levels of a run.

    Args:
        scheduler: any of diffusers'.
        steps: of the sampler.
        spacing: see :class:`videodit.families.sampling.Sampling`.
        num_tokens: of the transformer, on which a dynamic shift depends.
        device: where the timesteps go.

    Returns:
        The timesteps, from noise to clean.
    """
    config = scheduler.config
    levels: dict[str, Any] = {"num_inference_steps": steps}
    if spacing != "own" and isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        # Its own default spacing applies the shift twice to the last step.
        levels = {"sigmas": noise_levels(steps, spacing)}
    if config.get("use_dynamic_shifting"):
        levels["mu"] = dynamic_mu(config, num_tokens)
    scheduler.set_timesteps(**levels, device=device)
    return scheduler.timesteps


def dynamic_mu(config: Any, num_tokens: int) -> float:
    """The logarithm of a dynamic shift: it grows with the number of tokens, in a straight line.

    Args:
        config: of a scheduler with ``use_dynamic_shifting``.
        num_tokens: of the transformer.
    """
    slope = (config["max_shift"] - config["base_shift"]) / (config["max_image_seq_len"] - config["base_image_seq_len"])
    return config["base_shift"] + slope * (num_tokens - config["base_image_seq_len"])


def noise_levels(steps: int, spacing: Sigmas) -> np.ndarray:
    """Noise levels from 1 downwards, before any shift.

    ``"linear_quadratic"`` is Movie Gen's (Polyak et al., "Movie Gen", 2024, section 3.4.2) with LTX-Video's numbers:
    half of the steps take the first 40th of the way evenly, the others the rest ever faster.
    """
    if spacing != "linear_quadratic":
        last = 1 / steps if spacing == "to_last_step" else 0.0
        return np.linspace(1, last, steps + (spacing == "to_zero"))[:steps]
    if steps < 2:
        return np.ones(1)
    threshold, even = 0.025, steps // 2
    rest = steps - even
    excess = even - threshold * steps
    i = np.arange(even, steps)
    square = excess / (even * rest**2)
    slope = threshold / even - 2 * excess / rest**2
    way = np.concatenate([np.arange(even) * threshold / even, square * i**2 + slope * i + square * even**2])
    return 1 - way


def at_level(scheduler: Any, clean: Tensor, noise: Tensor, step: int) -> Tensor:
    """Clean latents with as much noise as where a step begins; behind the last step, with none.

    Args:
        scheduler: any of diffusers', with its timesteps set.
        clean: ``[B, C, T, H, W]``.
        noise: of unit deviation, of the same shape.
        step: its number, from 0.
    """
    if step >= len(scheduler.timesteps):
        return clean
    if hasattr(scheduler, "scale_noise") or scheduler.config.get("use_flow_sigmas"):  # flow matching
        return clean + float(scheduler.sigmas[step]) * (noise - clean)
    return scheduler.add_noise(clean, noise, scheduler.timesteps[step].expand(len(clean)))


class SchedulerStep:
    """One call for the step of all of diffusers' schedulers."""

    def __init__(self, scheduler: Any, generators: list[torch.Generator], *, frames_first: bool) -> None:
        self.scheduler, self._frames_first = scheduler, frames_first
        parameters = inspect.signature(scheduler.step).parameters
        # A generator a clip: what a batch draws is what its clips draw alone.
        given = generators if len(generators) > 1 else generators[0]
        self._extra = {"generator": given} if "generator" in parameters else {}
        # CogVideoX's DPM solver is handed its own last state.
        self._multistep = "old_pred_original_sample" in parameters
        self._old: Tensor | None = None
        self._last: Tensor | None = None

    @staticmethod
    def draws_noise(scheduler: Any) -> bool:
        """Whether each step draws noise."""
        return type(scheduler).__name__ in _STOCHASTIC

    def __call__(self, prediction: Tensor, t: Tensor, latents: Tensor) -> Tensor:
        """Latents at the next noise level, ``[B, C, T, H, W]`` like the prediction."""
        if self._frames_first:
            prediction, latents = prediction.transpose(1, 2), latents.transpose(1, 2)
        if self._multistep:
            latents, self._old = self.scheduler.step(
                prediction, self._old, t, self._last, latents, return_dict=False, **self._extra
            )
            self._last = t
        else:
            latents = self.scheduler.step(prediction, t, latents, return_dict=False, **self._extra)[0]
        return latents.transpose(1, 2) if self._frames_first else latents


def make_generators(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[torch.Generator]:
    """A generator a clip: those given, the same one again and again, or fresh ones."""
    if generator is None:
        fresh = [torch.Generator() for _ in range(count)]
        for g in fresh:
            logger.info("seed %d", g.seed())
        return fresh
    return list(generator) if isinstance(generator, Sequence) else [generator] * count


def seeds_of(generators: list[torch.Generator]) -> list[int | None]:
    """The seed that gives each clip again alone, or ``None`` where its generator was used before."""
    seeds: list[int | None] = []
    used: set[int] = set()
    for g in generators:
        fresh = torch.Generator(g.device).manual_seed(g.initial_seed())
        unused = id(g) not in used and torch.equal(g.get_state(), fresh.get_state())
        seeds.append(g.initial_seed() if unused else None)
        used.add(id(g))
    return seeds


def draw_noise(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device, *, frames_first: bool = False
) -> Tensor:
    """Noise of one clip, drawn where the generator lives: a batch draws what single calls draw."""
    channels, frames, *size = shape
    if frames_first:
        drawn = torch.randn((frames, channels, *size), generator=generator, device=generator.device).transpose(0, 1)
    else:
        drawn = torch.randn(shape, generator=generator, device=generator.device)
    return drawn.to(device)
