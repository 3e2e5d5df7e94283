"""Small animations of a clip that is being made, drawn by a worker and shown by the web process."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from videodit.pipelines.planning import Plan
    from videodit.pipelines.preview_maps import PreviewMap

PREVIEW = "preview.webp"
"""Name in a job's folder."""
_PAUSE = 0.25  # seconds between two of them
_SIZE = 128  # pixels of the longer side
_SHARE = 0.05  # of a worker's time that they may take

logger = logging.getLogger("videodit.serving.worker")


class Previews:
    """Draws a clip as its latents predict it, into one file that is replaced.

    They are drawn as often as takes a twentieth of the time, and at most four times a second. A preview that fails is
    no reason for a clip to fail: there are none then.

    Args:
        folder: of the job's files.
        planned: the clip.
    """

    def __init__(self, folder: Path, planned: Plan) -> None:
        self._path = folder / PREVIEW
        self._fps = max(1.0, planned.spec.defaults.fps / planned.spec.geometry.vae_stride.t)
        self._next = 0.0
        self._fails = False
        self._colours: PreviewMap | None = None
        self.number = 0

    def draw(self, pipe: Any, clean: Tensor) -> bool:
        """Draw a step, if it is time to.

        Args:
            pipe: the pipeline that samples.
            clean: latents ``[B, C, T, H, W]`` as the step predicts them without noise.

        Returns:
            Whether there is a new preview, which is called by :attr:`number`.
        """
        began = time.monotonic()
        if self._fails or began < self._next:
            return False
        try:
            self._write(pipe, clean)
        except Exception:
            logger.exception("there are no previews of this clip")
            self._fails = True
            return False
        now = time.monotonic()
        self._next = now + max(_PAUSE, (now - began) / _SHARE)
        self.number += 1
        return True

    def _write(self, pipe: Any, clean: Tensor) -> None:
        from videodit.files import replacing
        from videodit.pipelines.preview_maps import preview_map
        from videodit.pipelines.previews import preview_file, preview_frames

        if self._colours is None:
            self._colours = preview_map(pipe, logger.info)
        size = max(_SIZE, *clean.shape[3:])
        frames = preview_frames(clean, self._colours, size=size, first=pipe.begins_clip)
        with replacing(self._path, lasting=False) as partial:
            partial.write_bytes(preview_file(frames, self._fps))
