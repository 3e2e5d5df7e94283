"""Latents of finished windows in a folder, so that a long clip which was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from videodit.configs import read_json
from videodit.errors import InputError
from videodit.files import FolderLock, write_whole
from videodit.json_types import JsonObject

_ABOUT = "about.json"


class WindowStore:
    """Latents of finished windows in a folder, so that a long clip which was stopped goes on where it was.

    Args:
        folder: made where it is missing.
        clips: the recipes of the clips that are made.

    Raises:
        InputError: a recipe without a seed or a prompt, or a folder that holds windows of other clips.
    """

    def __init__(self, folder: Path, clips: list[JsonObject]) -> None:
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
                seed, here = self.seed(folder), clips[0]["seed"]
                differs = "" if seed == here else f": its seed is {seed}, and this one's is {here}"
                raise InputError(
                    f"{str(folder)!r} holds the windows of another clip that was begun{differs}; remove it to begin "
                    "anew, or give the same settings to go on with that one"
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
            InputError: a file of another kind.
        """
        path = folder / _ABOUT
        if not path.is_file():
            return None
        seed = WindowStore._read(path).get("seed")
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise InputError(f"{str(path)!r} names no seed; remove the folder {str(folder)!r} to begin anew")
        return seed

    @staticmethod
    def _read(path: Path) -> JsonObject:
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
            latents: Tensor = content["latents"]
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
