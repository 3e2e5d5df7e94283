"""What a run starts from: noise, the seeds that give it again, and the conditions as the transformer takes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from videodit.pipelines.control_encoding import own_control, own_rays
from videodit.pipelines.latent_conditions import Condition, prepare_condition
from videodit.pipelines.placing import PlacedConditions
from videodit.pipelines.planning import Plan
from videodit.pipelines.probing import Draws
from videodit.pipelines.protocols import PreparingPipeline
from videodit.pipelines.scheduling import draw_noise, make_generators, seeds_of


@dataclass(frozen=True)
class Start:
    """Where the sampling loop begins.

    Attributes:
        noise: fp32 ``[B, C, T, H, W]``.
        condition: what is fixed of the clips.
        generators: one a clip, for schedulers that draw noise in each step.
        seeds: the seed that gives each clip again; ``None`` where none does.
    """

    noise: Tensor
    condition: Condition
    generators: list[torch.Generator]
    seeds: list[int | None]


def prepare(pipe: PreparingPipeline, plan: Plan, videos: int, draws: Draws) -> Start:
    """Draw noise, and encode what is fixed.

    Args:
        pipe: the pipeline, for its autoencoder and image encoder.
        plan: of the run.
        videos: clips of the batch.
        draws: where the scheduler's steps draw noise from.
    """
    device, request, latents = pipe._execution_device, plan.request, plan.inputs.latents
    generators = make_generators(plan.inputs.generator, videos, seed=request.seed)
    if pipe.processes is not None:
        told = (
            request.prompt,
            request.negatives,
            plan.settings,
            plan.condition_record,
            plan.control_record,
            plan.reference_record,
            request.guidance_scale_2,
        )
        latents = pipe.processes.share(generators, latents, told=told)
    seeds: list[int | None] = seeds_of(generators) if latents is None else [None] * videos
    condition = prepare_condition(
        pipe,
        plan.conditions or PlacedConditions(renoised=plan.renoised),
        latent_shape=plan.latent_shape,
        generators=generators,
        device=device,
        front=plan.front,
        control=own_control(pipe, plan.controls, device),
        references=plan.references,
    )
    condition = replace(condition, patch_control=own_rays(pipe, plan.controls, device))
    if latents is None:
        first = pipe.sampling.frames_first
        latents = torch.stack([draw_noise(plan.latent_shape, g, device, frames_first=first) for g in generators])
    if condition.tint is not None:
        picture, share = condition.tint
        latents = latents.to(device, torch.float32) * (1 - share) + picture * share
    if draws == "elsewhere" or plan.inputs.controls:  # which no recipe holds
        seeds = [None] * videos
    shared = len(set(map(id, generators))) < len(generators)
    if shared and (draws == "generator" or plan.history_noise or "drawn_image" in plan.spec.channels):
        seeds = [None] * videos  # a shared generator gives each clip what others left
    return Start(latents.to(device, torch.float32), condition, generators, seeds)
