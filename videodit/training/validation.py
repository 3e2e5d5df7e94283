"""What is measured on the way: the loss on samples that are never trained on, and clips of fixed prompts and seeds."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from videodit.control.reference_rules import ReferenceRules
from videodit.datasets.clips.latents.latent_cache import CachedSample
from videodit.errors import InputError
from videodit.media import write_video
from videodit.pipelines import VideoDiTPipeline
from videodit.pipelines.output import VideoDiTPipelineOutput
from videodit.pipelines.pixels import open_picture
from videodit.training.config import TrainingConfig, Validation
from videodit.training.controlled import split_control
from videodit.training.data import Collator
from videodit.training.objective import Diffusion


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    diffusion: Diffusion,
    collator: Collator,
    samples: Sequence[CachedSample],
    quantiles: Sequence[float],
    *,
    accelerator: Accelerator,
    dtype: torch.dtype,
) -> dict[str, float]:
    """The mean loss of samples at fixed quantiles of the noise levels, always with the same noise.

    Args:
        model: the transformer as it is trained, wrapped or not.
        diffusion: noise levels and objective.
        collator: reads the samples; it drops no captions.
        samples: that are measured, one after the other, shared among the processes.
        quantiles: of the noise levels.
        accelerator: accelerate's.
        dtype: of what goes into the model.

    Returns:
        ``loss`` over all, and ``loss_q0.1`` … for each quantile; empty without samples.
    """
    if not samples:
        return {}
    rank, world = accelerator.process_index, accelerator.num_processes
    turns = -(-len(samples) // world)  # every process has as many forwards: sharded models need all in each
    sums = torch.zeros(len(quantiles), device=accelerator.device)
    for turn in range(turns):
        index = turn * world + rank
        batch = collator([samples[index % len(samples)]], "held out").to(accelerator.device)
        for n, quantile in enumerate(quantiles):
            level = replace(batch, quantile=torch.full_like(batch.quantile, quantile))
            with accelerator.autocast():
                loss = diffusion.losses(model, level, dtype=dtype)[0]
            sums[n] += loss * (index < len(samples))
    means = (accelerator.reduce(sums, reduction="sum") / len(samples)).tolist()
    return {"loss": sum(means) / len(means)} | {
        f"loss_q{quantile:g}": mean for quantile, mean in zip(quantiles, means, strict=True)
    }


def beside_prompts(config: TrainingConfig, own: ReferenceRules | None) -> list[dict[str, Any]]:
    """What steers the clip of each prompt, as arguments of the pipeline's call.

    Args:
        config: of the run.
        own: references that the model was trained with before.
    """
    asked = config.validation
    found: list[dict[str, Any]] = [{} for _ in asked.prompts]
    for arguments, text in zip(found, asked.controls, strict=False):
        kind, file = split_control(text)
        arguments["control"] = {kind: file}
    for arguments, path in zip(found, asked.references, strict=False):
        assert config.references is not None
        layout = config.references.layout
        arguments |= {
            "references": str(path),
            "reference_layout": None if own is not None and layout == own.layout else layout,
        }
    return found


def open_images(settings: Validation) -> list[PIL.Image.Image | None]:
    """The image that the clip of each prompt starts from.

    Raises:
        InputError: a file that is no image.
    """
    found: list[PIL.Image.Image | None] = []
    for path in settings.images:
        try:
            found.append(open_picture(Path(path)))
        except InputError as error:
            raise InputError(f"validation.images: {error}") from None
    return found or [None] * len(settings.prompts)


@torch.no_grad()
def make_clips(
    pipe: VideoDiTPipeline,
    settings: Validation,
    folder: Path,
    *,
    images: Sequence[PIL.Image.Image | None],
    beside: Sequence[dict[str, Any]],
    accelerator: Accelerator,
    report: Callable[[int, int], object] = lambda number, count: None,
) -> Tensor | None:
    """Make a clip of each prompt and write them as ``00.mp4`` …, each with its prompt, seed and settings inside.

    Prompts are shared among the processes, which all make the call.

    Args:
        pipe: with the transformer as it is trained.
        settings: prompts, seed and size.
        folder: of the clips; made if it is not there.
        images: that the clips start from, one for each prompt; see :func:`open_images`.
        beside: what steers them, likewise; see :func:`beside_prompts`.
        accelerator: accelerate's.
        report: called before each clip of this process with its number and how many prompts there are.

    Returns:
        Frames from the beginning, the middle and the end of every clip, in the order of the prompts, uint8
        ``[clips, height, 3·width, 3]``; ``None`` without prompts.
    """
    prompts, rank, world = settings.prompts, accelerator.process_index, accelerator.num_processes
    if not prompts:
        return None
    width, height = settings.size or (None, None)
    strips = []
    for turn in range(-(-len(prompts) // world)):  # every process makes as many: sharded models need all in each
        index = turn * world + rank
        place = index % len(prompts)
        report(place + 1, len(prompts))
        with accelerator.autocast(), torch.compiler.set_stance("force_eager"), _silent():
            made = pipe(
                prompts[place],
                image=images[place],
                **beside[place],
                num_frames=settings.frames,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                generator=torch.Generator().manual_seed(settings.seed + index),
                output_type="np",
                width=width,
                height=height,
            )
        out = cast(VideoDiTPipelineOutput, made)
        frames = (out.frames[0] * 255).round().astype(np.uint8)  # [T, H, W, 3]
        strips.append(np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]], axis=1))
        if index < len(prompts):
            folder.mkdir(parents=True, exist_ok=True)
            # No model that can be named makes this clip again.
            recipe = out.recipes[0] | {"model": None, "model_hash": None}
            write_video(folder / f"{index:02d}.mp4", frames, fps=out.fps, recipe=recipe)
    mine = torch.from_numpy(np.stack(strips)).to(accelerator.device)  # [turns, height, 3·width, 3]
    everything: Tensor = accelerator.gather(mine).unflatten(0, (world, -1)).transpose(0, 1).flatten(0, 1)
    return everything[: len(prompts)].cpu()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the pipeline's notices: they were told when the run began."""
    logger = logging.getLogger("videodit.pipelines")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
