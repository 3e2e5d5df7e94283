"""Previews of clips while they are being sampled: small animations of the clean latents that each step predicts.

Frames are uint8 RGB ``[B, T, H, W, 3]``: ``B`` clips, one frame for each of ``T`` latent ones, ``H`` and ``W`` in
pixels. The autoencoder plays no part; see :mod:`videodit.pipelines.preview_maps`.
"""

from __future__ import annotations

import io
import logging
import math
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from diffusers.callbacks import PipelineCallback
from PIL import Image
from torch import Tensor

from videodit.clip_files import check_place
from videodit.errors import InputError
from videodit.files import write_whole
from videodit.frame_rates import frame_rate
from videodit.pipelines.preview_maps import PreviewMap, preview_map
from videodit.ranges import short

if TYPE_CHECKING:
    from torch import nn

Format = Literal["gif", "webp", "png"]
FORMATS: tuple[Format, ...] = get_args(Format)
SIZE = 64
"""Pixels of a preview's longer side, where nobody says another number and the latents have no more."""
_LARGEST = 1024
_QUALITY = 75  # of a WebP

Show = Callable[[np.ndarray, int, int], object]
"""Called with frames ``[B, T, H, W, 3]``, the number of the step, from 1, and the number of steps."""

logger = logging.getLogger(__name__)


def preview_frames(clean: Tensor, colours: PreviewMap, *, size: int | None = None, first: bool = True) -> np.ndarray:
    """Clean latents as frames.

    Args:
        clean: ``[B, C, T, H, W]`` as the transformer sees them, such as the tensor ``clean`` of a callback.
        colours: the map of the autoencoder; :func:`videodit.pipelines.preview_maps.preview_map` gives it.
        size: pixels of the longer side; ``None``: a pixel for each latent.
        first: the latents begin with a clip's first frame.

    Returns:
        uint8 ``[B, T, height, width, 3]``.

    Raises:
        InputError: latents of another number of channels.
    """
    rgb = colours(clean, first=first)
    pixels = ((rgb * 127.5 + 127.5).nan_to_num(0).clamp(0, 255)).round().to(torch.uint8)
    frames: np.ndarray = pixels.permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()
    if size is None:
        return frames
    height, width = frames.shape[2:4]
    scale = size / max(height, width)
    to = max(1, round(width * scale)), max(1, round(height * scale))
    pictures = map(Image.fromarray, frames.reshape(-1, height, width, 3))
    resized = [np.asarray(one.resize(to, Image.Resampling.BILINEAR)) for one in pictures]
    return np.stack(resized).reshape(*frames.shape[:2], to[1], to[0], 3)


def preview_file(frames: np.ndarray, fps: float, kind: Format = "webp") -> bytes:
    """Frames as the content of one animated file, which plays for ever.

    Args:
        frames: uint8 ``[B, T, H, W, 3]``; several clips stand side by side, in rows.
        fps: frames per second.
        kind: ``"webp"``, ``"gif"`` or ``"png"`` (an animated PNG).
    """
    sheet = _side_by_side(frames)
    pictures = _few_colours(sheet) if kind == "gif" else [Image.fromarray(frame) for frame in sheet]
    options: dict[str, Any] = {"save_all": True, "append_images": pictures[1:], "loop": 0}
    options["duration"] = max(20 if kind == "gif" else 1, round(1000 / fps))
    if kind == "webp":
        options |= {"quality": _QUALITY, "method": 0}
    if kind == "png":
        options["compress_level"] = 1
    whole = io.BytesIO()
    pictures[0].save(whole, kind.upper(), **options)
    return whole.getvalue()


def _few_colours(frames: np.ndarray) -> list[Image.Image]:
    """Frames with one table of colours for all of them, which is many times as fast to make as one for each."""
    count, height, width, _ = frames.shape
    strip = Image.fromarray(frames.reshape(count * height, width, 3))
    strip = strip.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    return [strip.crop((0, i * height, width, (i + 1) * height)) for i in range(count)]


def _side_by_side(frames: np.ndarray) -> np.ndarray:
    """``[B, T, H, W, 3]`` as ``[T, rows·H, columns·W, 3]``; places without a clip are black."""
    batch, count, height, width, _ = frames.shape
    columns = math.ceil(math.sqrt(batch))
    rows = -(-batch // columns)
    sheet = np.zeros((rows * columns, *frames.shape[1:]), np.uint8)
    sheet[:batch] = frames
    sheet = sheet.reshape(rows, columns, count, height, width, 3).transpose(2, 0, 3, 1, 4, 5)
    whole: np.ndarray = sheet.reshape(count, rows * height, columns * width, 3)
    return whole


def check_preview(path: str | os.PathLike[str]) -> Format:
    """See that previews can be written there.

    Returns:
        The format that the name asks for.

    Raises:
        InputError: another suffix, or a place that cannot be written to.
    """
    target = Path(path)
    kind = target.suffix.lower().removeprefix(".")
    for one in FORMATS:
        if kind == one:
            check_place(target)
            return one
    raise InputError(f"cannot write the preview {os.fspath(path)!r}: the name must end in .gif, .webp or .png")


class Preview(PipelineCallback):
    """Shows a clip while it is being sampled; to be passed to a call as ``callback_on_step_end``.

    A file is replaced as a whole after each step that is shown, so that a reader never sees half of one; where that
    fails, a warning says so and the sampling goes on. The first time that an autoencoder is met, its colours are
    fitted, which takes seconds; the bundled model brings them along.

    Args:
        target: a file, ``.webp``, ``.gif`` or ``.png`` (an animated PNG), or a function that is called with the frames,
            uint8 ``[B, T, H, W, 3]``, the number of the step, from 1, and the number of steps.
        every: steps from one picture to the next; the last step is always shown.
        size: pixels of the longer side; ``None``: one for each latent, and at least 64.
        fps: frames per second of a file; ``None``: those at which the model's own clips play at their speed.
        callback: another callback, which is called first, and may return what it changes.
        callback_tensor_inputs: the tensors that it gets; a ``PipelineCallback`` of diffusers' names its own.

    Raises:
        InputError: a value out of range, or a file that cannot be written.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | Show,
        *,
        every: int = 1,
        size: int | None = None,
        fps: float | None = None,
        callback: Callable[..., dict[str, Tensor] | None] | None = None,
        callback_tensor_inputs: Sequence[str] = ("latents",),
    ) -> None:
        super().__init__()
        self._kind: Format | None = None
        if isinstance(target, (str, os.PathLike)):
            self._kind = check_preview(target)
        elif not callable(target):
            raise InputError(f"a preview goes to a file or to a function, got {short(target)}")
        for name, value, low, high in (("every", every, 1, 10**6), ("size", size, 8, _LARGEST)):
            if name == "size" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InputError(f"{name} of a preview must be a whole number from {low} to {high}, got {value!r}")
        if fps is not None:
            frame_rate(fps)
        if callback is not None and not callable(callback):
            raise InputError(f"callback of a preview must be a function, got {short(callback)}")
        self._target, self._every, self._size, self._fps = target, every, size, fps
        self._callback = callback
        self._others = tuple(getattr(callback, "tensor_inputs", callback_tensor_inputs)) if callback else ()
        self._failed = False
        self._known: tuple[weakref.ref[nn.Module], PreviewMap] | None = None

    @property
    def tensor_inputs(self) -> list[str]:
        """The tensors that a call hands over."""
        return list(dict.fromkeys(["clean", *self._others]))

    def prepare(self, pipe: Any, announce: Callable[[str], object] = logger.warning) -> None:
        """Get the colours of a pipeline's autoencoder ready, which the first step does otherwise.

        Args:
            pipe: the pipeline.
            announce: is told that they are being fitted.

        Raises:
            InputError: the pipeline has no autoencoder.
        """
        if self._known is None or self._known[0]() is not pipe.vae:
            self._known = weakref.ref(pipe.vae), preview_map(pipe, announce)

    def callback_fn(self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]) -> Any:
        """Show the step; what the other callback returns is handed on."""
        returned: Any = None
        if self._callback is not None:
            own = {name: callback_kwargs[name] for name in self._others}
            returned = self._callback(pipeline, step_index, timesteps, own)
        if returned is None or isinstance(returned, Mapping):  # a callback behind this one gets all of them
            returned = {**callback_kwargs, **(returned or {})}
        step, steps = step_index + 1, pipeline.num_timesteps
        if step % self._every == 0 or step == steps or pipeline.interrupted:
            self.prepare(pipeline)
            assert self._known is not None
            first = pipeline.begins_clip
            clean = callback_kwargs["clean"]
            size = self._size or max(SIZE, *clean.shape[3:])
            frames = preview_frames(clean, self._known[1], size=size, first=first)
            self._show(pipeline, frames, step, steps)
        return returned

    def _show(self, pipe: Any, frames: np.ndarray, step: int, steps: int) -> None:
        if self._kind is None:
            self._target(frames, step, steps)  # type: ignore[operator]
            return
        if pipe.processes is not None and pipe.processes.rank != 0:
            return
        fps = self._fps or pipe.defaults.fps / pipe.spec.geometry.vae_stride.t
        try:
            write_whole(Path(self._target), preview_file(frames, float(fps), self._kind), lasting=False)  # type: ignore[arg-type]
        except OSError as error:
            if not self._failed:
                logger.warning("cannot write the preview %r: %s", os.fspath(self._target), error.strerror)  # type: ignore[arg-type]
            self._failed = True
