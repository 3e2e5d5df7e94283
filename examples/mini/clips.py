"""Clips and scenes of toybox, as the stages want them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mini.recipe import Form, Recipe
from videodit.datasets.toybox import Scene, ToyObject, caption, render, sample_scene
from videodit.datasets.toybox.scene import MAX_OBJECTS


def scenes(first: int, count: int, split: Literal["train", "validation", "test"] = "train") -> list[Scene]:
    """``count`` scenes of the world; each is a pure function of its own seed."""
    return [sample_scene(seed, split=split) for seed in range(first, first + count)]


def rendered(
    recipe: Recipe, batch: Sequence[Scene], form: Form, device: torch.device, *, masks: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Clips ``[B, 3, frames, height, width]`` in [-1, 1] and, on demand, where objects are ``[B, objects, frames, …]``.

    A clip of one frame is the first frame of the longer clips of its scene. A GPU draws on a stream of its own:
    drawing waits for many small copies, and there they do not wait for the network's step before.
    """
    side = _drawing_stream(device) if device.type == "cuda" else None
    with nullcontext() if side is None else torch.cuda.stream(side):
        rendering = render(
            batch,
            height=form.height,
            width=form.width,
            num_frames=form.frames,
            fps=recipe.fps,
            device=device,
            ground_truth=masks,
        )
    if side is not None:
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        for drawn in (rendering.video, rendering.mask):
            if drawn is not None:
                drawn.record_stream(current)
    mask = None
    if rendering.mask is not None:
        mask = torch.stack([rendering.mask == 1 + number for number in range(MAX_OBJECTS)], dim=1).float()
    return rendering.video.float() / 127.5 - 1, mask


@cache
def _drawing_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def pixels(recipe: Recipe, batch: Sequence[Scene], form: Form, device: torch.device) -> Tensor:
    """The clips of :func:`rendered` alone."""
    return rendered(recipe, batch, form, device)[0]


def coverage(mask: Tensor) -> Tensor:
    """The share of each latent's pixels that each object covers, ``[B, objects, T, H, W]`` in 255ths, of masks.

    The first frame has latents of its own, all others share theirs with three more.
    """
    first, others = mask[:, :, :1], mask[:, :, 1:]
    parts = [F.avg_pool3d(first, (1, 8, 8))]
    if others.shape[2]:
        parts.append(F.avg_pool3d(others, (4, 8, 8)))
    return (torch.cat(parts, dim=2) * 255).round().to(torch.uint8)


def describe(scene: Scene, form: Form, seed: int) -> str:
    """A sentence about the scene's clip in this form; of an image it says nothing that takes time to see."""
    return caption(scene, seed=seed, moving=form.frames > 1)


def scene_from(values: dict[str, Any]) -> Scene:
    """The scene that ``dataclasses.asdict`` made these values of, numbers and all."""
    return Scene(**values | {"objects": tuple(ToyObject(**o) for o in values["objects"])})


def scene_values(scene: Scene) -> dict[str, Any]:
    """What :func:`scene_from` reads, ready for JSON."""
    return asdict(scene)
