"""Clips that are longer than what a model makes at once: windows over latent frames, each going on from the last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from videodit.checkpoints import read_json
from videodit.errors import InputError
from videodit.files import FolderLock, write_whole
from videodit.pipelines.registry import Settings
from videodit.shapes import Size3D, VideoGeometry

_ABOUT = "about.json"


@dataclass(frozen=True)
class Window:
    """Latent frames that are made at once.

    Attributes:
        span: which, of the whole clip.
        keep: which of them are there already, counted within the span.
        fresh: which of the clip's this window adds.
    """

    span: slice
    keep: slice
    fresh: slice

    def added_shape(self, noise: Tensor) -> tuple[int, ...]:
        """``[B, C, t, H, W]`` of what it adds to clips of ``noise``."""
        return (*noise.shape[:2], self.fresh.stop - self.fresh.start, *noise.shape[3:])


def plan_windows(length: int, window: int, overlap: int, *, front: int = 0, back: int = 0) -> list[Window]:
    """Windows that together make all latent frames of a clip, in the order in which they are made.

    They go forward from the beginning, or from the frames that are given there; backward where only those at the end
    are given. The last one is moved so that it ends with the clip, or among the given frames at its end. Latents in
    the middle of a clip differ from those at a clip's beginning, where the first frame stands alone; so what a backward
    window begins with counts only at the beginning of the clip.

    Args:
        length: latent frames of the clip.
        window: latent frames that are made at once.
        overlap: latent frames that a window shares with those before; at least 1, and it must add two.
        front: latent frames that are given as a whole at the beginning.
        back: latent frames that are given as a whole at the end.

    Raises:
        ValueError: an overlap that leaves too little to add.
    """
    if not 1 <= overlap <= window - 2:
        raise InputError(f"windows of {window} latent frames can share 1 to {window - 2} of them, not {overlap}")
    windows: list[Window] = []
    if back and not front:
        left = length - back  # everything from here on is there
        while left > 0:
            start = max(0, min(left + overlap, length) - window)
            stop = min(start + window, length)
            fresh = slice(start if start == 0 else start + 1, left)
            windows.append(Window(slice(start, stop), slice(left - start, stop - start), fresh))
            left = fresh.start
        return windows
    right, end = front, length - back
    behind = min(back, overlap, window - 1 - overlap)  # given latents that the last window sees at its end
    while right < end:
        stop = max(0, right - overlap) + window
        stop = end + behind if stop >= end + behind else min(stop, end - 1)
        start, made = max(0, stop - window), min(stop, end)
        windows.append(Window(slice(start, stop), slice(0, max(0, right - start)), slice(right, made)))
        right = made
    return windows


def windows_of(settings: Settings, level: Tensor | None) -> list[Window]:
    """Which latent frames of a call are made together.

    Args:
        settings: of the call.
        level: the noise levels of what is given, ``[..., T, H, W]``; ``None``: nothing is.
    """
    length = settings.latent_shape[1]
    if settings.windows is None:
        return [Window(slice(0, length), slice(0, 0), slice(0, length))]
    front = back = 0
    if level is not None:
        whole = (level.reshape(length, -1) == 0).all(dim=1).tolist()
        front, back = [*whole, False].index(False), [*reversed(whole), False].index(False)
    return plan_windows(length, *settings.windows, front=front, back=back)


def latent_window(geometry: VideoGeometry, window: int, overlap: int, height: int, width: int) -> tuple[int, int]:
    """A window and an overlap in frames as latent frames.

    Raises:
        ValueError: a window that is no legal number of frames or holds less than three latent ones, or an overlap that
            is no multiple of the stride or leaves less than two latent frames to add.
    """
    stride = geometry.vae_stride.t
    if (legal := geometry.snap_frames(window)) != window:
        raise InputError(f"window is {window}; it must be {geometry.frame_rule}, such as {legal}")
    if overlap < stride or overlap % stride:
        raise InputError(f"overlap must be a multiple of {stride} frames, got {overlap}")
    latents = geometry.latent_size(window, height, width).t
    if latents < 3:
        least = geometry.pixel_size(Size3D(3, 1, 1)).t
        raise InputError(f"window is {window}; it must be at least {least} frames, to share some and to add some")
    if (most := (latents - 2) * stride) < overlap:
        raise InputError(f"overlap is {overlap}; windows of {window} frames can share {stride} to {most} of them")
    return latents, overlap // stride


def window_tokens(settings: Settings) -> int:
    """Tokens that the transformer sees at once."""
    if settings.windows is None:
        return settings.num_tokens
    return settings.num_tokens * settings.windows[0] // settings.latent_shape[1]


def divided_tokens(settings: Settings, *, scenes: bool) -> int:
    """What must be divisible for the tokens of every forward to be.

    A loop has a latent frame more, which comes before its beginning. Scenes of a storyboard see some latent frames, any
    number of them; so each must be divisible.

    Args:
        settings: of the call, of a model whose patches are one latent frame long if it has scenes.
        scenes: the prompt is a storyboard.
    """
    a_frame = settings.num_tokens // settings.latent_shape[1]
    if scenes and not settings.loop:
        return a_frame
    return window_tokens(settings) + (a_frame if settings.loop else 0)


class WindowStore:
    """Latents of finished windows in a folder, so that a long clip which was stopped goes on where it was.

    Args:
        folder: made where it is missing.
        clips: the recipes of the clips that are made.

    Raises:
        ValueError: a recipe without a seed or a prompt, or a folder that holds windows of other clips.
    """

    def __init__(self, folder: Path, clips: list[dict[str, Any]]) -> None:
        if any(clip["seed"] is None for clip in clips):
            raise InputError("windows can be kept of clips whose seed is known: give fresh generators and no latents")
        if any(clip["prompt"] is None for clip in clips):
            raise InputError("windows can be kept of clips whose prompt is known: give prompt, not prompt_embeds")
        self.folder, self.lock = folder, FolderLock(folder)
        about = json.dumps(clips, sort_keys=True, default=str)
        self._clips = hashlib.sha256(about.encode()).hexdigest()
        content = {"seed": clips[0]["seed"], "clips": self._clips}
        path = folder / _ABOUT
        try:
            if path.is_file() and self._read(path) != content:
                raise InputError(
                    f"{str(folder)!r} holds the windows of another clip that was begun; remove it to begin anew, or "
                    "give the same settings to go on with that one"
                )
            write_whole(path, json.dumps(content).encode())
        except BaseException:
            self.lock.close()
            raise

    def during(self, parts: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield what is made; when that ends, other processes may use the folder."""
        try:
            yield from parts
        finally:
            self.lock.close()

    @staticmethod
    def seed(folder: Path) -> int | None:
        """The seed of the clips that were begun there, if any were.

        Raises:
            ValueError: a file of another kind.
        """
        path = folder / _ABOUT
        if not path.is_file():
            return None
        seed = WindowStore._read(path).get("seed")
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise InputError(f"{str(path)!r} names no seed; remove the folder {str(folder)!r} to begin anew")
        return seed

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            return read_json(path)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{error}; remove the folder {str(path.parent)!r} to begin anew") from None

    def load(self, number: int, generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor | None:
        """The latents that a window added, if it was finished; generators stand where they did.

        Args:
            number: of the window.
            generators: of the clips.
            shape: ``[B, C, t, H, W]`` that they must have.

        Raises:
            InputError: a file that is damaged or holds something else.
        """
        path = self.folder / f"{number:05d}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                made, content = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            latents = content["latents"]
            if made != {"clips": self._clips, "window": str(number), "digest": _digest(content)}:
                raise InputError("its content is not what was written for this window")
            if list(latents.shape) != list(shape) or not latents.isfinite().all():
                raise InputError(f"latents of shape {list(latents.shape)}, not finite ones of {list(shape)}")
            for i, generator in enumerate(generators):
                generator.set_state(content[f"generator_{i}"])
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
            raise InputError(
                f"{str(path)!r} is damaged or no window of this clip ({error}); remove the folder {str(self.folder)!r} "
                "to begin anew"
            ) from None
        return latents

    def save(self, number: int, latents: Tensor, generators: Sequence[torch.Generator]) -> None:
        """Keep what a window added, and where the generators of schedulers that draw noise in each step stand."""
        states = {f"generator_{i}": generator.get_state() for i, generator in enumerate(generators)}
        tensors = {"latents": latents.detach().cpu().contiguous(), **states}
        made = {"clips": self._clips, "window": str(number), "digest": _digest(tensors)}
        content = save(tensors, metadata=made)
        write_whole(self.folder / f"{number:05d}.safetensors", content)


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors, with their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
