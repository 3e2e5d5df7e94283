"""What the scripts of this folder share: a model's clips and the world's own, in one form.

A clip is uint8 ``[T,H,W,3]``. Letters: ``B`` clips, ``T`` frames, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from videodit import VideoDiTPipeline
from videodit.datasets.toybox import Scene, render, sample_scene
from videodit.datasets.toybox.scene import Split
from videodit.pipelines.registry import GenerationPlan, plan

BATCH = 8
"""Clips made at a time."""


class ClipForm(NamedTuple):
    """Size and speed of clips."""

    height: int = 64
    width: int = 64
    num_frames: int = 17
    fps: float = 16

    @staticmethod
    def of(how: GenerationPlan) -> ClipForm:
        """What a plan makes."""
        return ClipForm(how.height, how.width, how.num_frames, how.fps)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.num_frames} frames at {self.fps:g} fps"


def load(
    model: str, *, device: str | None, steps: int | None, cfg: float | None
) -> tuple[VideoDiTPipeline, GenerationPlan]:
    """A model, and how it will be used: what is None is the model's own choice or the machine's.

    Raises:
        SystemExit: no such model or device, or an illegal number, with one line that says so.
    """
    try:
        how = plan(model, num_inference_steps=steps, guidance_scale=cfg, device=device)
        pipe = VideoDiTPipeline.from_pretrained(model, dtype=how.dtype)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(how.device), how


def generate(pipe: VideoDiTPipeline, how: GenerationPlan, prompts: Sequence[str], *, first_seed: int) -> np.ndarray:
    """Clips [B,T,H,W,3] of prompts; clip i starts from the noise of seed ``first_seed + i``, whatever the batch."""
    clips = pipe(
        list(prompts),
        num_inference_steps=how.num_inference_steps,
        guidance_scale=how.guidance_scale,
        generator=[torch.Generator().manual_seed(first_seed + i) for i in range(len(prompts))],
        output_type="np",
    ).frames
    return (clips * 255).round().astype(np.uint8)


def rendered(scenes: Sequence[Scene], form: ClipForm) -> np.ndarray:
    """The world's own clips [B,T,H,W,3] of scenes."""
    return render(scenes, **form._asdict()).video.permute(0, 2, 3, 4, 1).numpy()


def lone_scenes(split: Split, seeds: Iterable[int]) -> list[Scene]:
    """Scenes with a single object."""
    return [sample_scene(seed, split=split, num_objects=1) for seed in seeds]
