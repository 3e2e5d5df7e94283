"""Where fixed calls run: a folder of their own, models, given pictures and clips, and what a call made.

Letters: ``B`` clips, ``T`` frames, ``H W`` pixels.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

PROMPT = "a red ball bounces on the grass"
OTHER = "a blue cube slides to the left"
HEIGHT, WIDTH, FRAMES = 64, 64, 9
SMALL: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "num_inference_steps": 4}

LEFT_OUT: Any = object()
"""In place of an option that a call does not name at all."""


@dataclass(frozen=True)
class Made:
    """What a call made.

    Attributes:
        frames: arrays, tensors or lists of images, as they came.
        recipes: one a clip.
    """

    frames: list[Any]
    recipes: list[dict[str, Any]]

    @staticmethod
    def of(out: Any) -> Made:
        """What is in a pipeline's output; streams are read to their end."""
        if out.output_type == "stream":
            return Made([np.concatenate(list(out.frames[i])) for i in range(len(out.frames))], out.recipes)
        return Made([out.frames] if isinstance(out.frames, (np.ndarray, torch.Tensor)) else [*out.frames], out.recipes)

    def without_file_hashes(self) -> Made:
        """For models and LoRAs that were written on the way: their files tell their folder, or have no order."""
        recipes = [{key: value for key, value in recipe.items() if key != "files_hash"} for recipe in self.recipes]
        for recipe in recipes:
            if "loras" in recipe:
                recipe["loras"] = [{k: v for k, v in lora.items() if k != "hash"} for lora in recipe["loras"]]
        return Made(self.frames, recipes)

    def __add__(self, other: Made) -> Made:
        return Made(self.frames + other.frames, self.recipes + other.recipes)


Call = Callable[["Room"], Made]


class Room:
    """What a call works with.

    Args:
        folder: empty; what a call writes goes there.
        models: the folder of the tiny models, which calls share.
    """

    def __init__(self, folder: Path, models: Path) -> None:
        self.folder, self.models = folder, models

    # ---- models ------------------------------------------------------------------------------------

    def mini(self, **options: Any) -> Any:
        """The bundled model, loaded afresh, so that no call sees what another did to it."""
        return self.load("mini", **options)

    def family(self, name: str) -> Path:
        """The folder of a tiny pipeline of ``tiny_families``."""
        from tiny_families import save_pipeline

        folder = self.models / name
        if not folder.exists():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                save_pipeline(name, folder)
        return folder

    def load(self, model: str | Path, **options: Any) -> Any:
        """A pipeline that shows no bar."""
        from videodit import VideoDiTPipeline

        pipe = VideoDiTPipeline.from_pretrained(str(model), **options)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def lora(self, transformer: Any, name: str, *, seed: int, rank: int = 3) -> Path:
        """A file with a LoRA of the linear layers in a transformer's blocks, the same for a seed."""
        from safetensors.torch import save_file

        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for key, module in transformer.named_modules():
            if not isinstance(module, torch.nn.Linear) or not key.startswith("blocks."):
                continue
            out, into = module.weight.shape
            down = torch.randn(rank, into, generator=generator) * into**-0.5
            tensors[f"transformer.{key}.lora_A.weight"] = down
            tensors[f"transformer.{key}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.2
        path = self.path(f"{name}.safetensors")
        save_file(tensors, path, metadata={"format": "pt"})
        return path

    # ---- what is given -----------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Where a file of this name goes."""
        return self.folder / name

    def picture_file(self, name: str = "picture.png", seed: int = 0) -> Path:
        """:func:`picture` as a file."""
        picture(seed).save(self.path(name))
        return self.path(name)

    def clip_file(self, name: str, frames: int, seed: int = 0, *, recipe: dict[str, Any] | None = None) -> Path:
        """:func:`clip` as an MP4 at 16 frames per second."""
        from videodit.media import write_video

        write_video(self.path(name), clip(frames, seed), fps=16, recipe=recipe)
        return self.path(name)

    # ---- calls -------------------------------------------------------------------------------------

    def make(self, prompt: Any = PROMPT, *, pipe: Any = None, seed: int = 1, **options: Any) -> Made:
        """What a pipeline makes; of `mini` if there is none, small if nothing else is said."""
        pipe = self.mini() if pipe is None else pipe
        call = {**SMALL, "generator": seeded(seed), "output_type": "np", **options}
        return Made.of(pipe(prompt, **said(call)))

    def command(self, *words: str | Path) -> int:
        """Run the command line in the folder, without the clip that an earlier call left under the same name; what it
        prints is kept back.

        Raises:
            RuntimeError: it fails; with what it said.
        """
        from videodit.cli.main import main

        said = io.StringIO()
        output = self.path(str(words[-1])) if "-o" in words[-2:-1] else None
        for clip in [] if output is None else [*output.glob("*.mp4")] if output.is_dir() else [output]:
            clip.unlink(missing_ok=True)
        with working_in(self.folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main([str(word) for word in words])
        if code:
            raise RuntimeError(f"`videodit {words[0]}` exits with {code}: {said.getvalue().strip()[-500:]}")
        return code

    def read(self, *names: str) -> Made:
        """Frames and recipes of MP4s in the folder."""
        from videodit.media import read_recipe, read_video

        paths = [self.path(name) for name in names]
        return Made([read_video(path).frames for path in paths], [read_recipe(path) or {} for path in paths])


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """With another current folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def said(options: dict[str, Any]) -> dict[str, Any]:
    """The options that are not left out."""
    return {name: value for name, value in options.items() if value is not LEFT_OUT}


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def clip(frames: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 ``[T,H,W,3]``: a bright block that wanders over a soft slope."""
    y, x = np.mgrid[0:height, 0:width]
    slope = (40 + 60 * np.stack([x / width, y / height, (x + y) / (height + width)], axis=-1)).astype(np.uint8)
    found = np.repeat(slope[None], frames, axis=0)
    for i in range(frames):
        left, top = (5 * seed + 3 * i) % (width - 16), (9 * seed + i) % (height - 16)
        found[i, top : top + 16, left : left + 16] = (220, 60 + 50 * (seed % 4), 40)
    return found


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """The first frame of :func:`clip`."""
    return Image.fromarray(clip(1, seed, height, width)[0])


def right_half(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A mask ``[H,W]`` that is white on its right."""
    white = np.zeros((height, width), np.uint8)
    white[:, width // 2 :] = 255
    return white
