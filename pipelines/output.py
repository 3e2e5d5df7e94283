"""What the pipeline returns."""

from __future__ import annotations

import contextlib
import operator
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from videodit.arguments import check_path
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.pipelines.acceleration import Timings
from videodit.pipelines.autoencoders import decode_chunks, to_uint8
from videodit.pipelines.protocols import VAE
from videodit.threads import each_with_threads

OutputType = Literal["pil", "np", "pt", "latent", "stream"]


class LatentChunks:
    """Latents of a batch of clips, from the first frame to the last, each made once and when it is wanted.

    Args:
        parts: ``[B, C, t, H, W]``, in order.
        clips: how many there are, ``B``.
    """

    def __init__(self, parts: Iterable[Tensor], clips: int) -> None:
        self._parts, self.clips, self._made = iter(parts), clips, list[Tensor]()
        self.seconds = 0.0
        """How long it took to make them."""
        self.ends_on: tuple[type[Exception], ...] = ()
        """What may be raised while a part is made and ends the clips with the parts before, if there are any."""

    def __iter__(self) -> Iterator[Tensor]:
        index = 0
        while index < len(self._made) or self._make():
            yield self._made[index]
            index += 1

    def _make(self) -> bool:
        started = time.perf_counter()
        try:
            part = next(self._parts, None)
        except self.ends_on:
            if not self._made:
                raise
            part = None
        self.seconds += time.perf_counter() - started
        if part is not None:
            self._made.append(part)
        return part is not None

    def finish(self) -> None:
        """Make all that are left."""
        while self._make():
            pass

    def joined(self) -> Tensor:
        """All of them, ``[B, C, T, H, W]``."""
        self.finish()
        return self._made[0] if len(self._made) == 1 else torch.cat(self._made, dim=2)


class ClipStreams:
    """Clips that are decoded when somebody wants their frames, one clip after the other, chunk by chunk.

    ``streams[i]`` is a new generator of uint8 arrays ``[T, H, W, 3]``, which together are clip ``i``. It holds no more
    of the clip than the chunk at hand; see :func:`videodit.pipelines.autoencoders.decode_chunks` for its size. It uses
    the pipeline's autoencoder as that is by then. A clip that is made in windows is made on the way.

    Args:
        vae: the autoencoder.
        latents: as the transformer sees them.
        loop: the clips are loops.
        free: called after each clip, finished or not.
        timings: gives what the pipeline measured by now.
    """

    def __init__(
        self,
        vae: VAE,
        latents: LatentChunks,
        *,
        loop: bool = False,
        free: Callable[[], object],
        timings: Callable[[], Timings] = Timings,
    ) -> None:
        self._vae, self.latents, self._loop = vae, latents, loop
        self._threads = torch.get_num_threads()  # of the run, whose frames these are
        self._free, self.timings = free, timings

    def __len__(self) -> int:
        return self.latents.clips

    def __getitem__(self, index: int) -> Generator[np.ndarray, None, None]:
        return self._decode(range(len(self))[operator.index(index)])

    def _decode(self, index: int) -> Generator[np.ndarray, None, None]:
        try:
            parts = (part[index].unsqueeze(0) for part in self.latents)
            for chunk in each_with_threads(decode_chunks(self._vae, parts, loop=self._loop), self._threads):
                yield to_uint8(chunk)[0].cpu().numpy()
        finally:
            self._free()


@dataclass
class VideoDiTPipelineOutput(BaseOutput):
    """Clips, and what it takes to make them again.

    Attributes:
        frames: by ``output_type``: ``"pil"`` a list of lists of images; ``"np"`` float32 ``[B, T, H, W, 3]`` in
            [0, 1]; ``"pt"`` the same as a tensor ``[B, T, 3, H, W]``; ``"latent"`` latents
            ``[B, C, T, H, W]`` as the transformer sees them; ``"stream"`` :class:`ClipStreams`, which :meth:`save`
            writes while they are decoded, in memory that does not grow with a clip's length.
        fps: frames per second at which :meth:`save` writes.
        recipes: one a clip: prompt, seed, settings, model and versions.
        output_type: what ``frames`` are.
        timings: seconds: ``text``, ``prepare``, ``steps`` (a list), ``vae``, and ``mp4`` once it is saved. A stream
            knows ``vae`` by then, too, and ``overlap``: how long both worked at the same time, so that all parts
            less ``overlap`` are what the clips took. Of another format than MP4 the name is that one's.
    """

    frames: Any
    fps: float | Fraction = 16
    recipes: list[JsonObject] = field(default_factory=list)
    output_type: str = "pil"
    timings: Timings = field(default_factory=Timings)

    def save(self, path: str | Path) -> list[Path]:
        """Write the clips in the format that the name asks for, with their recipes.

        Args:
            path: ends in ``.mp4``, ``.gif``, ``.webp`` or, for one PNG a frame, in a number such as ``-%04d.png``;
                several clips get ``-1``, ``-2``, … before the suffix. See :mod:`videodit.animations`.

        Returns:
            The files written; of a sequence of PNGs the name with its number left open.

        Raises:
            InputError: latents instead of frames, or a path that cannot be written (checked before anything is).
        """
        from videodit.clip_files import check_output, format_of

        if self.output_type == "latent":
            raise InputError("latents cannot be saved as a clip; call the pipeline with another output_type")
        count = len(self.frames)
        path = check_path(path)
        paths = [path] if count == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(1, count + 1)]
        for target in paths:
            check_output(target)
        kind = format_of(path)
        recipes: Sequence[JsonObject | None] = [*self.recipes] or [None] * count
        started, before = time.perf_counter(), self.frames.latents.seconds if self.output_type == "stream" else 0.0
        spent = [self._write(i, target, recipe) for i, (target, recipe) in enumerate(zip(paths, recipes, strict=True))]
        total = time.perf_counter() - started
        if self.output_type != "stream":
            self.timings[kind] = total
            return paths
        vae, written = (sum(seconds) for seconds in zip(*spent, strict=True))
        sampling = self.frames.latents.seconds - before  # of windows that were made on the way
        self.timings |= self.frames.timings() | {"vae": vae - sampling, kind: written}
        self.timings["overlap"] = max(0.0, vae + written - total)
        return paths

    def _write(self, index: int, path: Path, recipe: JsonObject | None) -> tuple[float, float]:
        """Seconds that clip ``index`` took to be decoded and to be encoded."""
        from videodit.animations import write_clip

        if self.output_type != "stream":
            return 0.0, write_clip(path, self._pixels(index), fps=self.fps, recipe=recipe)
        spent = 0.0

        def timed(chunks: Generator[np.ndarray, None, None]) -> Generator[np.ndarray, None, None]:
            nonlocal spent
            while True:
                started = time.perf_counter()
                chunk = next(chunks, None)
                spent += time.perf_counter() - started
                if chunk is None:
                    return
                yield chunk

        # Closed here, so that a decoder which an error or Ctrl-C stopped lets go of its memory at once.
        with contextlib.closing(self.frames[index]) as chunks:
            written = write_clip(path, timed(chunks), fps=self.fps, recipe=recipe)
        return spent, written

    def _repr_html_(self) -> str | None:
        """The clips as videos with their prompts and seeds, for a notebook; None for latents.

        A stream is decoded for it. Clips that are too large for a page are named only.
        """
        if self.output_type == "latent":
            return None
        from videodit.pipelines.html import clip_as_html

        recipes: Sequence[dict[str, Any] | None] = [*self.recipes] or [None] * len(self.frames)
        with tempfile.TemporaryDirectory() as folder:
            parts = []
            for index, recipe in enumerate(recipes):
                self._write(index, Path(folder, "clip.mp4"), recipe)
                parts.append(clip_as_html(Path(folder, "clip.mp4").read_bytes(), recipe or {}))
        return "\n".join(parts)

    def _pixels(self, index: int) -> np.ndarray:
        """Clip ``index`` as uint8 ``[T, H, W, 3]``."""
        clip = self.frames[index]
        if isinstance(clip, list):
            return np.stack([np.asarray(image) for image in clip])
        if isinstance(clip, torch.Tensor):
            clip = clip.permute(0, 2, 3, 1).float().cpu().numpy()
        pixels: np.ndarray = (clip * 255).round().clip(0, 255).astype(np.uint8)
        return pixels
