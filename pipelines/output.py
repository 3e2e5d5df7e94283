"""What the pipeline returns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput


@dataclass
class VideoDiTPipelineOutput(BaseOutput):
    """Clips, and what it takes to make them again.

    Attributes:
        frames: by ``output_type``: ``"pil"`` a list of lists of images; ``"np"`` float32 ``[B, T, H, W, 3]`` in
            [0, 1]; ``"pt"`` the same as a tensor ``[B, T, 3, H, W]``; ``"latent"`` latents
            ``[B, C, T, H, W]`` as the transformer sees them.
        fps: frames per second at which :meth:`save` writes.
        recipes: one a clip: prompt, seed, settings, model and versions.
        output_type: what ``frames`` are.
        timings: seconds: ``text``, ``prepare``, ``steps`` (a list), ``vae``, and ``mp4`` once it is saved.
    """

    frames: Any
    fps: float | Fraction = 16
    recipes: list[dict[str, Any]] = field(default_factory=list)
    output_type: str = "pil"
    timings: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> list[Path]:
        """Write the clips as MP4 files with their recipes.

        Args:
            path: ends in ``.mp4``; several clips get ``-1``, ``-2``, … before the suffix.

        Returns:
            The files written.

        Raises:
            ValueError: latents instead of frames, or a path that cannot be written (checked before anything is).
        """
        from videodit.media import check_writable, write_video

        if self.output_type == "latent":
            raise ValueError("latents cannot be saved as a clip; call the pipeline with another output_type")
        clips = [self._pixels(i) for i in range(len(self.frames))]
        path = Path(path)
        paths = [path] if len(clips) == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(1, len(clips) + 1)]
        for target in paths:
            check_writable(target)
        started = time.perf_counter()
        recipes: Sequence[dict[str, Any] | None] = [*self.recipes] or [None] * len(clips)
        for target, clip, recipe in zip(paths, clips, recipes, strict=True):
            write_video(target, clip, fps=self.fps, recipe=recipe)
        self.timings["mp4"] = time.perf_counter() - started
        return paths

    def _pixels(self, index: int) -> np.ndarray:
        """Clip ``index`` as uint8 ``[T, H, W, 3]``."""
        clip = self.frames[index]
        if isinstance(clip, list):
            return np.stack([np.asarray(image) for image in clip])
        if isinstance(clip, torch.Tensor):
            clip = clip.permute(0, 2, 3, 1).float().cpu().numpy()
        return (clip * 255).round().clip(0, 255).astype(np.uint8)
